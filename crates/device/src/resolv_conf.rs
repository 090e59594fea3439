//! Writes the router's DNS servers into a file of the vassal's jail, when the jail is complete and right before the privileges
//! are dropped.

use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use thiserror::Error;

use tuntap_sys::replace::Place;
use tuntap_wire::autoconf::DirectoryId;

/// A file that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvConf {
    /// The device whose router named the servers.
    pub device: String,
    /// The file's path, below the root that the instance has by then.
    pub path: String,
    /// The servers.
    pub servers: Vec<IpAddr>,
    /// The host's folders, in which the file must not be.
    pub host_etc: Vec<DirectoryId>,
}

/// Why the file is not written.
#[derive(Debug, Error)]
#[error("{device}: tuntap-device-dns: {path}: {problem}")]
pub struct ResolvConfError {
    device: String,
    path: String,
    problem: Problem,
}

#[derive(Debug, Error)]
enum Problem {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(
        "that is the host's own file, which a vassal must not replace: give the vassal a root of its own (chroot, \
         pivot_root), mount something of its own at the file's folder, or name another file"
    )]
    Hosts,
    #[error("the router doesn't tell which folders are the host's, so that nothing is safe to replace")]
    Unknown,
}

impl ResolvConf {
    /// Writes the file.
    pub fn write(&self) -> Result<(), ResolvConfError> {
        self.try_write().map_err(|problem| ResolvConfError {
            device: self.device.clone(),
            path: self.path.clone(),
            problem,
        })
    }

    fn try_write(&self) -> Result<(), Problem> {
        if self.host_etc.is_empty() {
            return Err(Problem::Unknown);
        }
        let place = Place::open(Path::new(&self.path))?;
        if self.host_etc.contains(&place.directory()?) {
            return Err(Problem::Hosts);
        }
        Ok(place.replace(self.text().as_bytes())?)
    }

    fn text(&self) -> String {
        let mut text = "# written by uwsgi-tuntap: the DNS servers that the router names\n".to_owned();
        for server in &self.servers {
            // Writing to a string can't fail.
            let _ = writeln!(text, "nameserver {server}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tuntap_sys::replace::directory;

    fn file(path: &Path, host_etc: Vec<DirectoryId>) -> ResolvConf {
        let servers = vec!["10.0.0.53".parse().expect("v4"), "fd00::53".parse().expect("v6")];
        ResolvConf { device: "uwsgi0".to_owned(), path: path.to_string_lossy().into_owned(), servers, host_etc }
    }

    #[test]
    fn servers_are_written_but_never_into_the_hosts_folders() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().canonicalize().expect("a folder").join("resolv.conf");
        let hosts = directory(dir.path()).expect("a folder");
        let refused = file(&path, vec![hosts]).write().expect_err("the host's").to_string();
        assert!(refused.starts_with("uwsgi0: tuntap-device-dns: /") && refused.contains("host's own"), "{refused}");
        assert!(file(&path, Vec::new()).write().is_err(), "the host's folders are unknown");
        assert!(!path.exists());
        file(&path, vec![DirectoryId { device: hosts.device, inode: hosts.inode + 1 }]).write().expect("another one");
        let text = std::fs::read_to_string(&path).expect("there");
        assert!(text.ends_with("nameserver 10.0.0.53\nnameserver fd00::53\n"), "{text}");
    }
}
