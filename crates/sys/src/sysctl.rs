//! Settings of network interfaces in /proc/sys/net (Documentation/networking/ip-sysctl.rst of the kernel), in the
//! network namespace of the calling thread.

use std::path::PathBuf;
use std::{fs, io};

use serde::{Deserialize, Serialize};

/// A setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    /// 1 if IPv4 packets that come in by the interface are forwarded.
    Ipv4Forwarding,
    /// 1 if IPv6 packets that come in by the interface are forwarded even where others aren't (Linux 6.17).
    Ipv6ForceForwarding,
    /// Of `all`: 1 if IPv6 packets are forwarded. Of one interface: 1 if it is a router's, which ignores router
    /// advertisements.
    Ipv6Forwarding,
    /// When IPv6 addresses and routes are taken from router advertisements: 0 never, 1 unless packets are forwarded, 2
    /// always.
    Ipv6AcceptAdvertisements,
}

impl Setting {
    /// Its family and name in /proc/sys/net.
    const fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Ipv4Forwarding => ("ipv4", "forwarding"),
            Self::Ipv6ForceForwarding => ("ipv6", "force_forwarding"),
            Self::Ipv6Forwarding => ("ipv6", "forwarding"),
            Self::Ipv6AcceptAdvertisements => ("ipv6", "accept_ra"),
        }
    }

    fn folder(self) -> PathBuf {
        ["/proc/sys/net", self.place().0, "conf"].iter().collect()
    }

    /// The interfaces that have it, including [`DEFAULT`] but not [`ALL`].
    pub fn interfaces(self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.folder()) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name != ALL).collect()
    }
}

/// The name that stands for all interfaces.
pub const ALL: &str = "all";

/// The name that stands for interfaces that don't exist yet.
pub const DEFAULT: &str = "default";

/// A setting of one interface, or of [`ALL`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctl {
    /// The interface.
    pub interface: String,
    /// The setting.
    pub setting: Setting,
}

impl Sysctl {
    /// A setting of an interface.
    pub fn new(interface: &str, setting: Setting) -> Self {
        Self { interface: interface.to_owned(), setting }
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        self.setting.folder().join(&self.interface).join(self.setting.place().1)
    }

    /// Its name for sysctl(8), in which dots of an interface's name are slashes.
    pub fn name(&self) -> String {
        let (family, name) = self.setting.place();
        format!("net.{family}.conf.{}.{name}", self.interface.replace('.', "/"))
    }

    /// Returns true if the kernel has it for this interface.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Its value. The error names the file.
    pub fn read(&self) -> io::Result<i32> {
        let text = fs::read_to_string(self.path()).map_err(|error| self.error(error))?;
        text.trim().parse().map_err(|_| self.error(io::ErrorKind::InvalidData.into()))
    }

    /// Sets it. The error names the file.
    pub fn write(&self, value: i32) -> io::Result<()> {
        // The kernel wants the whole value in one write(2). The file is not to be created.
        fs::OpenOptions::new()
            .write(true)
            .open(self.path())
            .and_then(|mut file| io::Write::write_all(&mut file, value.to_string().as_bytes()))
            .map_err(|error| self.error(error))
    }

    fn error(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.path().display()))
    }
}
