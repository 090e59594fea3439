//! Finding the control sockets of routers, and connecting to one.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::{fs, io};

use nix::unistd::geteuid;
use tuntap_sys::socket::{connect_once, peer_credentials};

/// How the names of control sockets end, unless an option gives one another name.
pub const SUFFIX: &str = ".control";

/// A connection to a control socket.
#[derive(Debug)]
pub struct Connection {
    /// The connection. Its calls wait.
    pub stream: UnixStream,
    /// The user of who has made the socket.
    pub uid: u32,
    /// The process of who has made the socket. It may have passed the socket on and ended.
    pub pid: i32,
}

impl Connection {
    /// Returns true if root or this process's own user has made the socket. Anybody else may have put a socket there to be
    /// taken for a router.
    pub fn is_trusted(&self) -> bool {
        self.uid == 0 || self.uid == geteuid().as_raw()
    }
}

/// Connects to a path or `@name`.
///
/// # Errors
/// There is no listener, it may not be connected to, or its queue of connections is full (`WouldBlock`).
pub fn connect(name: &str) -> io::Result<Connection> {
    let stream = UnixStream::from(connect_once(name)?);
    stream.set_nonblocking(false)?;
    let credentials = peer_credentials(stream.as_fd())?;
    Ok(Connection { stream, uid: credentials.uid, pid: credentials.pid })
}

/// The listening stream sockets of the current network namespace whose names end with [`SUFFIX`], as paths or `@name`,
/// sorted.
///
/// # Errors
/// The kernel's list can't be read.
pub fn names() -> io::Result<Vec<String>> {
    const LIST: &str = "/proc/thread-self/net/unix";
    // Names need not be UTF-8. Those that aren't are no router's, which come from an ini file.
    let list = fs::read(LIST).map_err(|error| io::Error::new(error.kind(), format!("{LIST}: {error}")))?;
    let lines = list.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    let mut names: Vec<String> = lines.filter_map(listening_name).filter(|name| name.ends_with(SUFFIX)).collect();
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Reads a line about a unix socket, which has address, references, protocol, flags, type, state, inode and name
/// (proc_pid_net(5)). Returns the name of a listening stream socket.
fn listening_name(line: &str) -> Option<String> {
    /// `__SO_ACCEPTCON` of linux/net.h.
    const LISTENING: &str = "00010000";
    /// `SOCK_STREAM` of linux/net.h.
    const STREAM: &str = "0001";
    let mut rest = line;
    let mut words = [""; 7];
    for word in &mut words {
        (*word, rest) = rest.trim_start().split_once(' ')?;
    }
    if (words[3], words[4]) != (LISTENING, STREAM) {
        return None;
    }
    match rest.strip_prefix('@') {
        // uWSGI's abstract names end with a NUL byte, which the list shows as another @.
        Some(name) => Some(format!("@{}", name.strip_suffix('@')?)),
        None => rest.starts_with('/').then(|| rest.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn names_of_listening_sockets_are_read() {
        let line = |flags: &str, name: &str| {
            listening_name(&format!("00000000985c60d2: 00000002 00000000 {flags} 0001 01   226 {name}"))
        };
        assert_eq!(line("00010000", "/run/a b.control").as_deref(), Some("/run/a b.control"));
        assert_eq!(line("00010000", "@name.control@").as_deref(), Some("@name.control"));
        assert_eq!(line("00000000", "/run/connected.control"), None);
        assert_eq!(line("00010000", "relative.control"), None);
        assert_eq!(line("00010000", "@another.control"), None, "not bound as uWSGI binds it");
        assert_eq!(listening_name("Num       RefCount Protocol Flags    Type St Inode Path"), None);
        assert_eq!(listening_name(""), None);
    }

    #[test]
    fn listener_is_found_connected_to_and_trusted() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = |file: &str| folder.path().join(file).to_str().expect("UTF-8").to_owned();
        let _other = UnixListener::bind(name("other")).expect("a socket");
        let listener = UnixListener::bind(name("router.control")).expect("a socket");
        let found = |name: &String| names().expect("a list").contains(name);
        assert!(found(&name("router.control")) && !found(&name("other")));
        let connection = connect(&name("router.control")).expect("it listens");
        assert!(connection.is_trusted());
        assert_eq!(u32::try_from(connection.pid), Ok(std::process::id()));
        drop(listener);
        assert!(!found(&name("router.control")));
        assert!(connect(&name("router.control")).is_err());
    }
}
