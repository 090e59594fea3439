//! The uWSGI binaries that tests run, and the plugins that they load.

use std::path::{Path, PathBuf};

/// A uWSGI binary with its own build of both plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uwsgi {
    /// The package of the distribution, whatever its version.
    Distribution,
    /// Built from PyPI's sdist, with Python embedded: [`PYPI`], or the version that `TUNTAP_UWSGI` names.
    Pypi,
}

/// Which plugin a process loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    C,
    Ours,
    /// Ours, with panics on demand. Built for the distribution's uWSGI only.
    Faulty,
}

/// Both, the usual one of a run without `TUNTAP_UWSGI` first.
pub const UWSGIS: [Uwsgi; 2] = [Uwsgi::Distribution, Uwsgi::Pypi];

impl Uwsgi {
    /// The uWSGI of most tests: the distribution's, unless `TUNTAP_UWSGI` names a version from PyPI.
    pub fn usual() -> Self {
        if chosen().is_some() { Self::Pypi } else { Self::Distribution }
    }

    /// The other one of the two.
    pub fn other(self) -> Self {
        match self {
            Self::Distribution => Self::Pypi,
            Self::Pypi => Self::Distribution,
        }
    }

    /// What this uWSGI says about itself, such as `2.0.21-debian` or `2.0.31`.
    pub fn version(self) -> String {
        let path = present(self.dir().join("version"));
        std::fs::read_to_string(path).expect("a file of ours").trim().to_owned()
    }

    /// The binary.
    pub fn binary(self) -> PathBuf {
        present(self.dir().join(BINARY))
    }

    /// The plugin as a file.
    pub fn plugin(self, subject: Subject) -> PathBuf {
        present(self.dir().join(subject.folder()).join(PLUGIN))
    }

    /// uWSGI's unpacked sources, in which nothing has been built. From PyPI only.
    pub fn sources(self) -> PathBuf {
        present(self.dir().join("src"))
    }

    /// What those sources were unpacked from. From PyPI only.
    pub fn sdist(self) -> PathBuf {
        present(uwsgi_dir().join(format!("uwsgi-{}.tar.gz", self.folder())))
    }

    /// The binary as a started instance sees it.
    pub fn mounted_binary(self) -> PathBuf {
        self.binary();
        Path::new(MOUNT).join(self.folder()).join(BINARY)
    }

    /// The folder of a plugin as a started instance sees it.
    pub fn mounted_plugins(self, subject: Subject) -> String {
        format!("{MOUNT}/{}/{}", self.folder(), subject.folder())
    }

    /// The ini lines that load the plugin in a started instance. The file's presence is checked here, because uWSGI
    /// would fall back to its default folder, where Debian keeps the C plugin under the same name.
    pub fn plugin_lines(self, subject: Subject) -> String {
        self.plugin(subject);
        format!("plugins-dir = {}\nplugin = tuntap\n", self.mounted_plugins(subject))
    }

    /// The ini line that a WSGI app needs, if any.
    pub fn python_line(self) -> &'static str {
        match self {
            Self::Distribution => "plugin = python3\n",
            Self::Pypi => "",
        }
    }

    fn folder(self) -> String {
        match self {
            Self::Distribution => DISTRIBUTION.to_owned(),
            Self::Pypi => chosen().unwrap_or_else(|| PYPI.to_owned()),
        }
    }

    fn dir(self) -> PathBuf {
        uwsgi_dir().join(self.folder())
    }
}

/// The version from PyPI that `TUNTAP_UWSGI` names, if it names one.
fn chosen() -> Option<String> {
    let name = std::env::var("TUNTAP_UWSGI").ok().filter(|name| name != DISTRIBUTION)?;
    let is_version = name.split('.').count() == 3 && name.chars().all(|c| c.is_ascii_digit() || c == '.');
    assert!(is_version, "TUNTAP_UWSGI={name}: neither `{DISTRIBUTION}` nor a version of uWSGI on PyPI, such as {PYPI}");
    Some(name)
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

/// Where instances find binaries and plugins: a bind mount of [`uwsgi_dir`] in their own mount namespace, because a
/// vassal without privileges loads both again when it reloads, and may not enter the folder that the repository is in.
pub const MOUNT: &str = "{dir}/uwsgi";

/// The folder of the distribution's uWSGI.
const DISTRIBUTION: &str = "distribution";
/// The version from PyPI that `make test` prepares; scripts/prepare-uwsgi knows others, too.
const PYPI: &str = "2.0.31";
const BINARY: &str = "uwsgi";
const PLUGIN: &str = "tuntap_plugin.so";

/// Where scripts/prepare-uwsgi puts binaries and plugins.
pub fn uwsgi_dir() -> PathBuf {
    std::env::var_os("TUNTAP_UWSGI_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/uwsgi"), PathBuf::from)
}

fn present(path: PathBuf) -> PathBuf {
    assert!(
        path.exists(),
        "{} is missing: run `make test` as root (`make prepare-uwsgi` makes it, `scripts/prepare-uwsgi <version>` that of \
         another version; TUNTAP_UWSGI_DIR=<dir> points elsewhere)",
        path.display()
    );
    path
}
