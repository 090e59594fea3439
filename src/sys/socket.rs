//! Stream sockets, and the credentials that travel on those of the unix family (unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    self as kernel, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    UnixCredentials, sockopt,
};

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process, as seen from here.
    pub pid: libc::pid_t,
    /// User.
    pub uid: libc::uid_t,
    /// Group.
    pub gid: libc::gid_t,
}

impl From<UnixCredentials> for PeerCredentials {
    fn from(credentials: UnixCredentials) -> Self {
        Self { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() }
    }
}

/// Connects to a path or to `@name`. Waits until `deadline` for a place in the listener's queue; everything else that
/// is wrong fails at once. The descriptor is non-blocking and closed on exec.
pub fn connect(name: &str, deadline: Instant) -> io::Result<OwnedFd> {
    const RETRY_INTERVAL: Duration = Duration::from_millis(20);
    let address = address(name)?;
    loop {
        let fd = kernel::socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        match kernel::connect(fd.as_raw_fd(), &address) {
            Ok(()) => return Ok(fd),
            // the listener's queue is full
            Err(Errno::EAGAIN) if Instant::now() < deadline => std::thread::sleep(RETRY_INTERVAL),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// uWSGI ends an abstract name with a NUL byte that counts, and so must whoever wants to reach it.
fn address(name: &str) -> nix::Result<UnixAddr> {
    match name.strip_prefix('@') {
        Some(name) => UnixAddr::new_abstract(format!("{name}\0").as_bytes()),
        None => UnixAddr::new(name),
    }
}

/// Accepts one connection, non-blocking and closed on exec.
pub fn accept(listener: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let fd = kernel::accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: accept4 has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Who connected, at the time of the connect.
pub fn peer_credentials(fd: BorrowedFd<'_>) -> nix::Result<PeerCredentials> {
    kernel::getsockopt(&fd, sockopt::PeerCredentials).map(PeerCredentials::from)
}

/// Makes the kernel attach the sender's credentials to what arrives.
pub fn receive_credentials(fd: BorrowedFd<'_>) -> nix::Result<()> {
    kernel::setsockopt(&fd, sockopt::PassCred, &true)
}

/// Sends bytes together with credentials. Others than one's own need CAP_SETUID, CAP_SETGID or CAP_SYS_ADMIN.
pub fn send_with_credentials(fd: BorrowedFd<'_>, bytes: &[u8], credentials: PeerCredentials) -> nix::Result<usize> {
    let credentials = libc::ucred { pid: credentials.pid, uid: credentials.uid, gid: credentials.gid };
    let credentials = UnixCredentials::from(credentials);
    let control = [ControlMessage::ScmCredentials(&credentials)];
    kernel::sendmsg::<()>(fd.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::MSG_NOSIGNAL, None)
}

/// Reads bytes together with the sender's credentials, where the kernel attached some.
pub fn recv_with_credentials(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<(usize, Option<PeerCredentials>)> {
    let mut control = nix::cmsg_space!(UnixCredentials);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = kernel::recvmsg::<()>(fd.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let credentials = message.cmsgs()?.find_map(|item| match item {
        ControlMessageOwned::ScmCredentials(credentials) => Some(PeerCredentials::from(credentials)),
        _ => None,
    });
    Ok((message.bytes, credentials))
}

/// Whether the other end will never send again, even if bytes of it are still to be read.
pub fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut item = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: poll(2) reads and writes the one element that it is given, and with no timeout it returns at once.
    let ready = unsafe { libc::poll(&raw mut item, 1, 0) };
    ready == 1 && item.revents & (libc::POLLHUP | libc::POLLRDHUP | libc::POLLERR) != 0
}

/// Whether a descriptor is a connected unix stream socket.
pub fn is_stream(fd: BorrowedFd<'_>) -> bool {
    kernel::getsockopt(&fd, sockopt::SockType) == Ok(SockType::Stream)
        && kernel::getpeername::<UnixAddr>(fd.as_raw_fd()).is_ok()
}

/// Reads what is there.
pub fn recv(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<usize> {
    kernel::recv(fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)
}

/// Writes what fits. A peer that is gone is an error, not a signal.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    kernel::send(fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn credentials_travel_with_bytes() {
        let (sender, receiver) = UnixStream::pair().expect("a pair");
        receive_credentials(receiver.as_fd()).expect("SO_PASSCRED");
        let own = PeerCredentials {
            pid: nix::unistd::getpid().as_raw(),
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
        };
        assert_eq!(send_with_credentials(sender.as_fd(), b"hello", own), Ok(5));
        let mut buffer = [0; 8];
        assert_eq!(recv_with_credentials(receiver.as_fd(), &mut buffer), Ok((5, Some(own))));
        assert_eq!(&buffer[..5], b"hello");
    }

    #[test]
    fn hang_up_shows_before_the_last_bytes_are_read() {
        let (sender, receiver) = UnixStream::pair().expect("a pair");
        assert_eq!(send(sender.as_fd(), b"last words"), Ok(10));
        assert!(!is_hung_up(receiver.as_fd()));
        drop(sender);
        assert!(is_hung_up(receiver.as_fd()));
    }

    #[test]
    fn full_queue_is_waited_for_and_a_missing_socket_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let name = path.to_str().expect("UTF-8");
        let missing = connect(name, Instant::now() + Duration::from_secs(30)).expect_err("nobody listens");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);

        let listener = UnixListener::bind(&path).expect("bind");
        kernel::listen(&listener, kernel::Backlog::new(0).expect("valid")).expect("a shorter queue");
        let _first = connect(name, Instant::now()).expect("the only place");
        let full = connect(name, Instant::now()).expect_err("no place, no time");
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let acceptor = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            let accepted = listener.accept().expect("the first");
            (listener, accepted)
        });
        connect(name, Instant::now() + Duration::from_secs(30)).expect("a place after the accept");
        acceptor.join().expect("no panic");
    }
}
