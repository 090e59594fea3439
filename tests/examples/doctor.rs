//! The doctor finds nothing wrong with the examples and the demo's files.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::netns::Netns;
use crate::common::probe::{is_cut_off, is_reachable};
use crate::credentials::with_hook;
use crate::example::{Example, answer_of, examples, net_of, wait_for_answer};
use crate::world::{HOST, HOST_V6, INTERNET, INTERNET_V6, World};

/// Examines files. Returns true if nothing is wrong, and the output.
fn examine(example: &Example, netns: &Netns, files: &[PathBuf]) -> (bool, String) {
    let starter = example.starter(netns).argument("--plugins-dir").argument(example.plugins());
    let starter = starter.arguments(["--plugin", "tuntap"]);
    let finished =
        files.iter().fold(starter, |starter, file| starter.argument("--tuntap-doctor").argument(file)).output();
    (finished.output.status.success(), finished.text())
}

/// Examines files, fails if anything is wrong, and returns the warnings.
#[track_caller]
pub fn warnings(example: &Example, netns: &Netns, files: &[PathBuf]) -> Vec<String> {
    let (is_well, text) = examine(example, netns, files);
    assert!(is_well && text.contains("\nnothing is wrong"), "{text}");
    text.lines().filter_map(|line| line.strip_prefix("  warning  ")).map(str::to_owned).collect()
}

/// The ini files of a folder, the Emperor's or the router's first.
fn ini_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = ["", "vassals"].iter().flat_map(|below| list(&folder.join(below))).collect();
    files.sort_by_key(|file| (!file.ends_with("emperor.ini") && !file.ends_with("router.ini"), file.clone()));
    files
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let files = entries.map(|entry| entry.expect("own folder").path());
    files.filter(|path| path.extension() == Some(OsStr::new("ini"))).collect()
}

/// The host of the examples with the way to the internet that most of them assume.
fn world() -> World {
    let world = World::new();
    world.host.sh("ip route add default via 203.0.113.10");
    world.host.sh("ip -6 route add default via 2001:db8:1::10");
    world
}

#[test]
fn nothing_is_wrong_with_the_examples() {
    const HOST_ONLY: &str = "net.ipv4.ip_forward is off: vassals reach this host, nothing else, and not each other";
    const HOST_ONLY_6: &str =
        "net.ipv6.conf.all.forwarding is off: vassals reach this host, nothing else, and not each other";
    let world = world();
    let mut count = 0;
    for folder in list_folders(&examples()) {
        let name = folder.file_name().expect("a name").to_str().expect("a plain name");
        let example = if name == "credentials" { with_hook() } else { Example::copy(name) };
        let roots = if matches!(name, "two-hosts" | "hosts" | "trunk") { vec!["a", "b"] } else { vec![""] };
        for root in roots {
            if matches!(name, "hosts" | "trunk") {
                with_secrets(&example, &format!("{root}/emperor.ini"), name == "hosts");
            }
            if name == "hosts" {
                // BIRD has made these.
                world.host.sh("ip route replace blackhole 10.77.0.0/16 metric 4096");
                world.host.sh("ip -6 route replace blackhole fd00:77::/64 metric 4096");
            }
            let files = ini_files(&example.root().join(root));
            assert!(files.len() > 1, "{name} has a router and a vassal");
            let expected: &[&str] = match name {
                // These examples are not about the network beyond the host.
                "credentials" | "leases" | "stats" | "two-hosts" => &[HOST_ONLY],
                "trunk" => &[HOST_ONLY, HOST_ONLY_6],
                _ => &[],
            };
            assert_eq!(warnings(&example, &world.host, &files), expected, "{name}");
            count += 1;
        }
    }
    assert!(count > 10, "{count}");
}

/// Names files of the example instead of those in /etc.
fn with_secrets(example: &Example, ini: &str, has_password: bool) {
    example.replace(ini, "/etc/uwsgi/router.key", &example.path("router.key").to_string_lossy());
    if has_password {
        let password = example.path("password");
        fs::write(&password, "a secret\n").expect("own folder");
        fs::set_permissions(&password, Permissions::from_mode(0o600)).expect("own file");
        example.replace(ini, "/etc/uwsgi/bgp-password", &password.to_string_lossy());
    }
}

fn list_folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the repository has examples");
    let folders = entries.map(|entry| entry.expect("a readable folder").path()).filter(|path| path.is_dir());
    // That one has scripts, and no ini files.
    folders.filter(|path| !path.ends_with("scripts")).collect()
}

#[test]
fn nothing_is_wrong_with_the_demo() {
    let world = world();
    world.host.sh("ip link add eth1 type veth peer name eth2");
    world.host.sh("ip link set eth1 up");
    let example = Example::copy("minimal");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/ini");
    let run = example.path("demo");
    fs::create_dir(&run).expect("own folder");
    fs::create_dir(run.join("vassals")).expect("own folder");
    for folder in [run.clone(), run.join("vassals")] {
        fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("own folder");
    }
    let head = |more: &str| {
        format!(
            "[uwsgi]\nset-placeholder = run-dir={}\n{more}plugins-dir = {}\n",
            run.display(),
            example.plugins().display()
        )
    };
    // demo/run gives these values.
    let emperor = run.join("emperor.ini");
    let ini = fs::read_to_string(source.join("emperor.ini")).expect("the demo has it");
    fs::write(&emperor, ini.replace("[uwsgi]\n", &head(""))).expect("own folder");
    let mut files = vec![emperor];
    for (name, uid) in [("vassal1", 20001), ("vassal2", 20002)] {
        let file = run.join("vassals").join(format!("{name}.ini"));
        let own = format!("set-placeholder = name={name}\nuid = {uid}\ngid = {uid}\n");
        let text = format!("{}ini = {}\n", head(&own), source.join("vassal.ini").display());
        fs::write(&file, text).expect("own folder");
        files.push(file);
    }
    assert_eq!(warnings(&example, &world.host, &files), Vec::<String>::new());
}

/// Packets pass once the doctor's remedies have been carried out.
#[test]
fn host_that_drops_what_is_forwarded_is_mended_by_the_remedies() {
    let world = world();
    let programs = ["iptables", "ip6tables"];
    for program in programs {
        world.host.sh(&format!("{program} -P FORWARD DROP"));
    }
    let example = Example::copy("ports");
    let emperor = example.start(&world.host, "emperor.ini");
    let app = [IpAddr::from([10, 137, 0, 2]), IpAddr::from([0xfd6e, 0x9c4a, 0x71d3, 0, 0, 0, 0, 2])];
    app.into_iter().for_each(|address| wait_for_answer(&world.host, address, 20001));
    let net = net_of(&emperor, "app.ini");
    let ways: [(IpAddr, IpAddr); 2] = [(INTERNET.into(), HOST.into()), (INTERNET_V6.into(), HOST_V6.into())];
    for (internet, host) in ways {
        assert!(is_cut_off(&net, internet));
        assert_eq!(answer_of(&world.internet, host, 8081), "");
    }
    let files = ini_files(&example.root());
    let (is_well, text) = examine(&example, &world.host, &files);
    assert!(!is_well, "{text}");
    let remedies: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("-> "))
        .filter(|line| programs.iter().any(|program| line.starts_with(&format!("{program} -I FORWARD "))))
        .collect();
    assert_eq!(remedies.len(), 6, "three for each version: {text}");
    for remedy in remedies {
        world.host.sh(remedy);
    }
    assert_eq!(warnings(&example, &world.host, &files), Vec::<String>::new());
    for (internet, host) in ways {
        assert!(is_reachable(&net, internet));
        assert!(answer_of(&world.internet, host, 8081).starts_with("uid 20001 on "));
    }
}
