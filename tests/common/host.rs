//! The uWSGI binaries that tests run, and the plugins that they load.

use std::path::{Path, PathBuf};

/// A uWSGI binary with its own build of both plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Debian's package.
    V2_0_21,
    /// Built from PyPI's sdist, with Python embedded.
    V2_0_31,
}

/// Which plugin a process loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    C,
    Ours,
    /// Ours, with panics on demand. For 2.0.21 only.
    Faulty,
}

impl Host {
    /// The host that most tests run on: Debian's, unless `TUNTAP_HOST` names the other one.
    pub fn usual() -> Self {
        match std::env::var("TUNTAP_HOST") {
            Err(_) => Self::V2_0_21,
            Ok(version) => *[Self::V2_0_21, Self::V2_0_31]
                .iter()
                .find(|host| host.version() == version)
                .unwrap_or_else(|| panic!("TUNTAP_HOST={version}: neither 2.0.21 nor 2.0.31")),
        }
    }

    /// The other one of the two.
    pub fn other(self) -> Self {
        match self {
            Self::V2_0_21 => Self::V2_0_31,
            Self::V2_0_31 => Self::V2_0_21,
        }
    }

    pub fn version(self) -> &'static str {
        match self {
            Self::V2_0_21 => "2.0.21",
            Self::V2_0_31 => "2.0.31",
        }
    }

    /// The uWSGI binary.
    pub fn uwsgi(self) -> PathBuf {
        present(hosts_dir().join(self.version()).join(UWSGI))
    }

    /// The plugin as a file.
    pub fn plugin(self, subject: Subject) -> PathBuf {
        present(hosts_dir().join(self.version()).join(subject.folder()).join(PLUGIN))
    }

    /// The uWSGI binary as a started instance sees it.
    pub fn mounted_uwsgi(self) -> PathBuf {
        self.uwsgi();
        Path::new(MOUNT).join(self.version()).join(UWSGI)
    }

    /// The ini lines that load the plugin in a started instance. The file's presence is checked here, because uWSGI
    /// would fall back to its default folder, where Debian keeps the C plugin under the same name.
    pub fn plugin_lines(self, subject: Subject) -> String {
        self.plugin(subject);
        format!("plugins-dir = {MOUNT}/{}/{}\nplugin = tuntap\n", self.version(), subject.folder())
    }

    /// The ini line that a WSGI app needs, if any.
    pub fn python_line(self) -> &'static str {
        match self {
            Self::V2_0_21 => "plugin = python3\n",
            Self::V2_0_31 => "",
        }
    }
}

impl Subject {
    fn folder(self) -> &'static str {
        match self {
            Self::C => "c",
            Self::Ours => "ours",
            Self::Faulty => "faulty",
        }
    }
}

/// Where instances find the hosts: a bind mount in their own mount namespace, because a vassal without privileges
/// loads binary and plugin again when it reloads, and may not enter the folder that the repository stands in.
pub const MOUNT: &str = "{dir}/hosts";

const UWSGI: &str = "uwsgi";
const PLUGIN: &str = "tuntap_plugin.so";

/// Where `make hosts` puts the hosts.
pub fn hosts_dir() -> PathBuf {
    std::env::var_os("TUNTAP_HOSTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/hosts"), PathBuf::from)
}

fn present(path: PathBuf) -> PathBuf {
    assert!(
        path.exists(),
        "{} is missing: run `make test` as root (`make hosts` prepares both hosts; TUNTAP_HOSTS=<dir> points elsewhere)",
        path.display()
    );
    path
}
