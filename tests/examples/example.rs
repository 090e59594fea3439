//! A copy of an example with this machine's folders in it.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::common::http;
use crate::common::instance::Instance;
use crate::common::netns::{Net, Netns};
use crate::common::starter::{self, Starter};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;

const HTTP_PORT: u16 = 8080;

/// Where the examples are.
pub fn examples() -> PathBuf {
    std::env::var_os("TUNTAP_EXAMPLES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"), PathBuf::from)
}

#[derive(Debug)]
pub struct Example {
    uwsgi: Uwsgi,
    dir: TempDir,
}

impl Example {
    /// Copies a folder of `examples/`, the application beside it, and the plugin into a folder of its own.
    pub fn copy(folder: &str) -> Self {
        let dir = starter::folder();
        let example = Self { uwsgi: Uwsgi::usual(), dir };
        std::fs::create_dir(example.plugins()).expect("own folder");
        std::fs::copy(example.uwsgi.plugin(Subject::Ours), example.plugin()).expect("own folder");
        std::fs::copy(examples().join("app.py"), example.path("app.py")).expect("the examples have an application");
        example.copy_folder(&examples().join(folder), &example.root());
        example
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The copied folder.
    pub fn root(&self) -> PathBuf {
        self.path("example")
    }

    pub fn plugins(&self) -> PathBuf {
        self.path("plugins")
    }

    pub fn plugin(&self) -> PathBuf {
        self.plugins().join("tuntap_plugin.so")
    }

    pub fn uwsgi(&self) -> PathBuf {
        self.uwsgi.binary()
    }

    /// This uWSGI in a network namespace.
    pub fn starter(&self, netns: &Netns) -> Starter {
        Starter::program(self.uwsgi(), self.dir.path()).netns(netns)
    }

    /// Starts one of its files as its first comment says.
    pub fn start(&self, netns: &Netns, ini: &str) -> Instance {
        self.starter(netns).ini(&self.root().join(ini)).start()
    }

    /// Changes a file of the copy.
    #[track_caller]
    pub fn replace(&self, file: &str, old: &str, new: &str) {
        let path = self.root().join(file);
        let text = std::fs::read_to_string(&path).expect("the example has this file");
        assert!(text.contains(old), "`{old}` stands in {file}");
        std::fs::write(path, text.replace(old, new)).expect("own folder");
    }

    /// Without the plugins that this uWSGI has built in.
    pub fn without_needless_plugins(&self, text: &str) -> String {
        if self.uwsgi == Uwsgi::Pypi { text.replace("plugin = python3\n", "") } else { text.to_owned() }
    }

    fn copy_folder(&self, from: &Path, to: &Path) {
        std::fs::create_dir(to).expect("own folder");
        for entry in std::fs::read_dir(from).expect("the example's folder") {
            let entry = entry.expect("the example's folder");
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                self.copy_folder(&entry.path(), &target);
            } else if target.extension() == Some(OsStr::new("ini")) {
                let text = std::fs::read_to_string(entry.path()).expect("an ini file");
                std::fs::write(&target, self.adapted(&text, to)).expect("own folder");
            } else {
                std::fs::copy(entry.path(), &target).expect("own folder");
            }
        }
    }

    /// An ini file of this folder with the lines that depend on the machine changed.
    fn adapted(&self, text: &str, folder: &Path) -> String {
        let home = if folder.ends_with("vassals") { folder.parent().expect("a vassal's Emperor") } else { folder };
        let run = home.join("run");
        std::fs::create_dir_all(&run).expect("own folder");
        let values = [
            ("set-placeholder = run-dir=", run),
            ("set-placeholder = vassals-dir=", home.join("vassals")),
            ("set-placeholder = rules-dir=", home.to_owned()),
            ("set-placeholder = app=", self.path("app.py")),
            ("plugins-dir = ", self.plugins()),
        ];
        let adapt = |line: &str| match values.iter().find(|(start, _)| line.starts_with(start)) {
            Some((start, value)) => format!("{start}{}\n", value.display()),
            None => format!("{line}\n"),
        };
        self.without_needless_plugins(text).lines().map(adapt).collect()
    }
}

/// The last line of what an application answers; empty if it does not.
pub fn answer(client: &Net, address: impl Into<IpAddr>) -> String {
    answer_of(client, address, HTTP_PORT)
}

/// The last line of what an application at another port answers.
pub fn answer_of(client: &Net, address: impl Into<IpAddr>, port: u16) -> String {
    let response = http::get(client, (address.into(), port)).unwrap_or_default();
    response.lines().last().unwrap_or_default().to_owned()
}

/// Waits until an application answers as this user.
#[track_caller]
pub fn wait_for_answer(client: &Net, address: impl Into<IpAddr>, uid: u32) {
    let address = address.into();
    let wanted = format!("uid {uid} on ");
    wait::until_true(&format!("{address} answers as uid {uid}"), wait::LONG, || {
        answer(client, address).starts_with(&wanted)
    });
}

/// The namespace of the process that runs an ini file of an instance.
#[track_caller]
pub fn net_of(instance: &Instance, ini: &str) -> Net {
    let pid = instance.family().master_of(ini).expect("the vassal runs");
    Net::of_process(pid).expect("the vassal runs")
}

/// The addresses that the router gave to a vassal, link-local ones left out: that of IPv4 first, if it has one.
#[track_caller]
pub fn addresses_of(instance: &Instance, ini: &str) -> Vec<IpAddr> {
    let addresses = || {
        let net = Net::of_process(instance.family().master_of(ini)?).ok()?;
        // Until it is born into its own namespace, it is in its Emperor's.
        if !net.has_device("uwsgi0") {
            return None;
        }
        let text = net.sh("ip -o addr show dev uwsgi0 scope global");
        let words = text.lines().filter_map(|line| line.split_whitespace().nth(3)?.split('/').next());
        Some(words.map(|word| word.parse().expect("an address")).collect::<Vec<IpAddr>>())
    };
    wait::until_true(&format!("{ini} has addresses"), wait::LONG, || {
        addresses().is_some_and(|found| !found.is_empty())
    });
    addresses().expect("it had some")
}
