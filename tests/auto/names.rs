//! Vassals whose files have the same name in different folders keep their addresses, whoever starts first.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::common::emperor::{Emperor, EmperorIni};
use crate::common::netns::Net;
use crate::common::processes::{is_alive, send};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::NOBODY;
use crate::common::wait;
use crate::world::{netns_with_v6, v4, v6};

type Addresses = Vec<(Ipv4Addr, Ipv6Addr)>;

/// Folders with a file of the same name in each, `<folder>/a/<number>/uwsgi.ini` and `<folder>/b/...`, which outlive the
/// Emperors that start them.
struct Sites {
    uwsgi: Uwsgi,
    dir: TempDir,
    paths: Vec<PathBuf>,
}

impl Sites {
    fn new(uwsgi: Uwsgi, count: usize) -> Self {
        let dir = tempfile::Builder::new().prefix("tt").tempdir_in("/tmp").expect("/tmp is writable");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("own folder");
        let part = |index| if index % 2 == 0 { "a" } else { "b" };
        let paths: Vec<_> =
            (0..count).map(|index| dir.path().join(part(index)).join(format!("{index:02}/uwsgi.ini"))).collect();
        let sites = Self { uwsgi, dir, paths };
        sites.paths.iter().for_each(|path| sites.write(path));
        sites
    }

    fn write(&self, path: &Path) {
        let dir = self.dir.path().display();
        let folder = path.parent().expect("a folder");
        std::fs::create_dir_all(folder).expect("own folder");
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).expect("own folder");
        let text = format!(
            "[uwsgi]\nplugin = {}\nmaster = true\nprocesses = 1\njailed = true\nsocket = 127.0.0.1:3031\nuid = {NOBODY}\ngid = {NOBODY}\n\
             pidfile = {}/pid\ntuntap-device = uwsgi0 {dir}/t.sock auto\ntuntap-device-timeout = 120\n",
            self.uwsgi.plugin(Subject::Ours).display(),
            folder.display()
        );
        std::fs::write(path, text).expect("own folder");
    }

    /// An Emperor of these vassals, with a router. Its networks are so large that no two vassals want the same address
    /// by chance.
    fn emperor(&self, patterns: &[&str]) -> Emperor {
        let router = format!("emperor0 {}/t.sock {{dir}}/stats.sock", self.dir.path().display());
        let networks = ["tuntap-router-address = 10.0.0.1/8", "tuntap-router-address = fd00:77::1/64"];
        self.governing(EmperorIni::new(self.uwsgi, Subject::Ours).router(&router).lines(&networks), patterns)
            .start_in(netns_with_v6())
    }

    fn governing(&self, ini: EmperorIni, patterns: &[&str]) -> EmperorIni {
        let dir = self.dir.path().display();
        patterns.iter().fold(ini, |ini, pattern| ini.line(format!("emperor = {dir}/{pattern}")))
    }

    fn pid(path: &Path) -> Option<i32> {
        let text = std::fs::read_to_string(path.with_file_name("pid")).ok()?;
        text.trim().parse().ok().filter(|pid| is_alive(*pid))
    }

    /// The addresses of the vassals that run.
    #[track_caller]
    fn addresses(&self) -> Addresses {
        let of = |path: &PathBuf| {
            wait::until(&format!("{} has addresses", path.display()), wait::LONG * 6, || {
                let net = Net::of_process(Self::pid(path)?).ok()?;
                let output = net.output(&["ip", "-o", "addr", "show", "dev", "uwsgi0", "scope", "global"]);
                let lines = String::from_utf8_lossy(&output.stdout).lines().count();
                (lines == 2).then(|| (v4(&net), v6(&net)))
            })
        };
        self.paths.iter().map(of).collect()
    }

    fn forget_pids(&self) {
        self.paths.iter().for_each(|path| _ = std::fs::remove_file(path.with_file_name("pid")));
    }
}

#[track_caller]
fn assert_addresses_stay(sites: &Sites) {
    let emperor = sites.emperor(&["a/*/uwsgi.ini", "b/*/uwsgi.ini"]);
    let first = sites.addresses();
    let (different_v4, different_v6): (HashSet<_>, HashSet<_>) = first.iter().copied().unzip();
    assert_eq!((different_v4.len(), different_v6.len()), (first.len(), first.len()));

    // Vassals in another order: the last ones first.
    for path in sites.paths.iter().rev() {
        send(Sites::pid(path).expect("it runs"), Signal::SIGKILL);
        std::fs::remove_file(path.with_file_name("pid")).expect("own file");
    }
    assert_eq!(sites.addresses(), first, "vassals that are started anew");

    let router = emperor.router_pid();
    send(router, Signal::SIGKILL);
    wait::until_true("there is a new router", wait::LONG, || {
        emperor.try_stats().is_ok_and(|stats| stats.router_pid() != router)
    });
    assert_eq!(sites.addresses(), first, "another router");

    sites.forget_pids();
    emperor.signal(Signal::SIGHUP);
    assert_eq!(sites.addresses(), first, "an Emperor that reloads");
    drop(emperor);

    // Another Emperor starts the second half first.
    sites.forget_pids();
    let emperor = sites.emperor(&["b/*/uwsgi.ini", "a/*/uwsgi.ini"]);
    assert_eq!(sites.addresses(), first, "another Emperor");
    drop(emperor);

    // Two Emperors, of which the second has no router of its own. The order is that of the machine.
    sites.forget_pids();
    let emperor = sites.emperor(&["b/*/uwsgi.ini"]);
    let second = EmperorIni::bare(sites.uwsgi, Subject::Ours).lines(&[
        "master = true",
        "emperor-freq = 1",
        "emperor-use-clone = net",
    ]);
    let second = sites.governing(second, &["a/*/uwsgi.ini"]).launch();
    assert_eq!(sites.addresses(), first, "two Emperors");
    drop((second, emperor));
}

#[test]
fn twenty_sites_with_files_of_the_same_name() {
    assert_addresses_stay(&Sites::new(Uwsgi::usual(), 20));
}

#[test]
fn sites_with_files_of_the_same_name_on_the_other_uwsgi() {
    assert_addresses_stay(&Sites::new(Uwsgi::usual().other(), 6));
}

/// A folder, which makes the Emperor use names without one, and a pattern are two ways to the same vassal.
#[test]
fn folder_and_pattern_are_the_same() {
    let sites = Sites::new(Uwsgi::usual(), 2);
    let found: HashSet<_> = ["a/00", "dir://{}/a/00", "a/./*/uwsgi.ini", "glob://{}/a/*/*.ini"]
        .into_iter()
        .map(|pattern| {
            sites.forget_pids();
            let dir = sites.dir.path().display().to_string();
            let router = format!("emperor0 {dir}/t.sock {{dir}}/stats.sock");
            let value = if pattern.contains("://") { pattern.replace("{}", &dir) } else { format!("{dir}/{pattern}") };
            let emperor = EmperorIni::new(sites.uwsgi, Subject::Ours)
                .router(&router)
                .lines(&["tuntap-router-address = 10.0.0.1/8", "tuntap-router-address = fd00:77::1/64"])
                .line(format!("emperor = {value}"))
                .start_in(netns_with_v6());
            let path = &sites.paths[0];
            let address = wait::until("the vassal has addresses", wait::LONG * 2, || {
                let net = Net::of_process(Sites::pid(path)?).ok()?;
                let output = net.output(&["ip", "-o", "addr", "show", "dev", "uwsgi0", "scope", "global"]);
                (String::from_utf8_lossy(&output.stdout).lines().count() == 2).then(|| (v4(&net), v6(&net)))
            });
            drop(emperor);
            address
        })
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
}

/// One pattern matches all of them.
#[test]
fn emperor_that_is_started_again() {
    let sites = Sites::new(Uwsgi::usual(), 3);
    let run = || {
        sites.forget_pids();
        let emperor = sites.emperor(&["*/*/uwsgi.ini"]);
        let addresses = sites.addresses();
        drop(emperor);
        addresses
    };
    assert_eq!(run(), run());
}

/// Links to a template are vassals of their own, and one to a release of an application is the same one after the next.
#[test]
fn links_are_not_followed() {
    let sites = Sites::new(Uwsgi::usual(), 2);
    let root = &sites.dir.path().to_owned();
    for name in ["one", "two"] {
        let folder = root.join("links").join(name);
        std::fs::create_dir_all(&folder).expect("own folder");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).expect("own folder");
    }
    let template = std::fs::read_to_string(&sites.paths[0]).expect("own file");
    for release in ["r1", "r2"] {
        std::fs::create_dir(root.join(release)).expect("own folder");
        std::fs::set_permissions(root.join(release), std::fs::Permissions::from_mode(0o777)).expect("own folder");
        let text = template.replace(&format!("{}/pid", sites.paths[0].parent().expect("a folder").display()), "%d/pid");
        std::fs::write(root.join(release).join("app.ini"), text).expect("own folder");
    }
    let link = |name: &str, release: &str| {
        let path = root.join("links").join(name).join("uwsgi.ini");
        let _ = std::fs::remove_file(&path);
        symlink(root.join(release).join("app.ini"), path).expect("own folder");
    };
    let sites =
        Sites { paths: ["one", "two"].map(|name| root.join("links").join(name).join("uwsgi.ini")).into(), ..sites };
    let run = || {
        sites.forget_pids();
        let emperor = sites.emperor(&["links/*/uwsgi.ini"]);
        let addresses = sites.addresses();
        drop(emperor);
        addresses
    };
    link("one", "r1");
    link("two", "r1");
    let first = run();
    assert_ne!(first[0], first[1]);
    link("one", "r2");
    assert_eq!(run(), first);
}
