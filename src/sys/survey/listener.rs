//! Who listens on a unix socket.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::interface::Process;
use crate::sys::socket::{connect_once, peer_credentials};

/// What is behind a socket's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listener {
    /// Nothing of that name.
    Missing,
    /// The folder that it would be in doesn't exist.
    NoFolder,
    /// Something that is no socket.
    NoSocket,
    /// A socket that nobody listens on.
    Silent,
    /// This process listens.
    Listening(Process),
    /// It can't be told, for this reason.
    Unknown(String),
}

/// Finds out by connecting, and leaves at once: what is said first would count.
pub fn listener(name: &str) -> Listener {
    let path = (!name.starts_with('@')).then(|| Path::new(name));
    if let Some(Ok(found)) = path.map(Path::metadata)
        && !found.file_type().is_socket()
    {
        return Listener::NoSocket;
    }
    match connect_once(name) {
        Ok(connection) => match peer_credentials(connection.as_fd()) {
            Ok(credentials) => Listener::Listening(Process::of(credentials.pid)),
            Err(errno) => Listener::Unknown(errno.to_string()),
        },
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound if path.is_some_and(|path| !folder_of(path).is_dir()) => Listener::NoFolder,
            io::ErrorKind::NotFound => Listener::Missing,
            io::ErrorKind::ConnectionRefused if path.is_none() => Listener::Missing,
            io::ErrorKind::ConnectionRefused => Listener::Silent,
            io::ErrorKind::WouldBlock => Listener::Unknown("its queue of connections is full".to_owned()),
            _ => Listener::Unknown(error.to_string()),
        },
    }
}

/// The folder that a file is in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn each_kind_of_absence_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = |file: &str| folder.path().join(file).to_str().expect("UTF-8").to_owned();
        assert_eq!(listener(&name("socket")), Listener::Missing);
        assert_eq!(listener(&name("no/socket")), Listener::NoFolder);
        std::fs::write(name("file"), "").expect("own folder");
        assert_eq!(listener(&name("file")), Listener::NoSocket);
        let open = UnixListener::bind(name("socket")).expect("bind");
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert!(matches!(listener(&name("socket")), Listener::Listening(process) if process.pid == own));
        drop(open);
        assert_eq!(listener(&name("socket")), Listener::Silent);
        assert_eq!(listener("@nobody-listens-here"), Listener::Missing);
    }
}
