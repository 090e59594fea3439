//! Finding the process that listens on a unix socket.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};

use super::interface::Process;
use tuntap_sys::socket::{connect_once, peer_credentials, recv, wait_readable};

/// What is found under a socket's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listener {
    /// There is nothing of that name.
    Missing,
    /// Its folder doesn't exist.
    NoFolder,
    /// A file that is no socket.
    NoSocket,
    /// A socket that no process listens on.
    Silent,
    /// This process listens.
    Listening(Process),
    /// It is unknown, for this reason.
    Unknown(String),
}

/// Finds out by connecting. The connection is closed without a word, because a router would take the first bytes for a
/// greeting.
pub fn listener(name: &str) -> Listener {
    let path = (!name.starts_with('@')).then(|| Path::new(name));
    if let Some(Ok(found)) = path.map(Path::metadata)
        && !found.file_type().is_socket()
    {
        return Listener::NoSocket;
    }
    match connect_once(name) {
        Ok(connection) => match peer_credentials(connection.as_fd()) {
            Ok(credentials) => {
                Listener::Listening(Process::of(holder(name, credentials.pid).unwrap_or(credentials.pid)))
            }
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

/// Returns true if the listener accepts connections within this time. It is tried with a connection that sends nothing and
/// is shut down: a listener that works closes it, too.
pub fn answers(name: &str, within: Duration) -> bool {
    let Ok(connection) = connect_once(name) else { return false };
    if shutdown(connection.as_raw_fd(), Shutdown::Write).is_err() {
        return false;
    }
    let deadline = Instant::now() + within;
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !wait_readable(connection.as_fd(), left) {
            return false;
        }
        match recv(connection.as_fd(), &mut buffer) {
            // It has sent a greeting, or has to be waited for.
            Ok(1..) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Ok(0) | Err(_) => return true,
        }
    }
}

/// The process that listens on a socket whose file was removed, so that it can't be connected to.
pub fn hidden_listener(name: &str) -> Option<Process> {
    const NOBODY: i32 = -1;
    holder(name, NOBODY).map(Process::of)
}

/// A process that has the listening socket open. It is the one that made it, unless that has passed it on and ended, as an
/// instance does that goes into the background; then it is the first process that has it open.
fn holder(name: &str, maker: i32) -> Option<i32> {
    let sockets = fs::read_to_string("/proc/thread-self/net/unix").ok()?;
    let inodes: Vec<String> = sockets.lines().filter_map(|line| listening_inode(line, name)).collect();
    let holds = |pid: &i32| {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        let targets = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.into_iter().any(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str()))
    };
    if holds(&maker) {
        return Some(maker);
    }
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(holds).min()
}

/// Reads a line about a unix socket, which has address, references, protocol, flags, type, state, inode and name. Returns
/// the target of the links in `/proc/<pid>/fd` that lead to the socket, if it listens and has this name.
fn listening_inode(line: &str, name: &str) -> Option<String> {
    /// `__SO_ACCEPTCON` of linux/net.h.
    const LISTENING: &str = "00010000";
    let words: Vec<&str> = line.split_whitespace().take(7).collect();
    let is_meant =
        words.get(3) == Some(&LISTENING) && line.strip_suffix(name).is_some_and(|start| start.ends_with(' '));
    words.get(6).filter(|_| is_meant).map(|inode| format!("socket:[{inode}]"))
}

/// The folder of a file.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn listening_socket_is_found_by_its_whole_name() {
        let line = "00000000985c60d2: 00000002 00000000 00010000 0001 01   226 /tmp/a b.sock";
        assert_eq!(listening_inode(line, "/tmp/a b.sock").as_deref(), Some("socket:[226]"));
        assert_eq!(listening_inode(line, ".sock"), None);
        assert_eq!(listening_inode(&line.replace("00010000", "00000000"), "/tmp/a b.sock"), None);
    }

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
        assert_eq!(hidden_listener(&name("socket")).map(|process| process.pid), Some(own), "it needs no file for that");
        assert!(!answers(&name("socket"), Duration::from_millis(50)), "nobody takes the connection");
        let taking = open.try_clone().expect("a socket");
        // Those of before are still in the queue.
        let closing = std::thread::spawn(move || taking.incoming().take(3).for_each(drop));
        assert!(answers(&name("socket"), Duration::from_secs(60)));
        closing.join().expect("it takes three");
        drop(open);
        assert_eq!(listener(&name("socket")), Listener::Silent);
        assert_eq!(listener("@nobody-listens-here"), Listener::Missing);
    }
}
