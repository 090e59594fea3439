//! Sockets: those of the unix family, with the credentials and descriptors that travel on them (unix(7)), and those of UDP
//! and TCP.

mod inet;
pub mod tcp;
mod trunk;

pub use inet::{
    ControlBuffer, IPV6_2292PKTOPTIONS, Received, arrival, bind_udp, has_address, is_for_nobody, path_mtu, probe_tcp,
    recv_datagrams, send_datagrams, sends_batches, tell_arrivals,
};
pub use trunk::{BBR, has_congestion_control, prepare_trunk, send_parts, set_congestion_control};

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{size_of, size_of_val};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixSocketAddr, UnixListener};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    self as kernel, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    UnixCredentials, sockopt,
};
use tuntap_wire::credentials::PeerCredentials;

/// The plain form of what nix returns.
fn plain(credentials: UnixCredentials) -> PeerCredentials {
    PeerCredentials { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() }
}

/// Connects to a path or to `@name`. Waits until `deadline` for a listener, and for a place in its queue; all other errors
/// are returned at once. `waiting` is called with the first error that is waited for. The descriptor is non-blocking and
/// closed on exec.
pub fn connect(name: &str, deadline: Instant, waiting: impl FnOnce(&io::Error)) -> io::Result<OwnedFd> {
    const RETRY_INTERVAL: Duration = Duration::from_millis(20);
    let mut waiting = Some(waiting);
    loop {
        match connect_once(name) {
            Err(error) if may_pass(&error) && Instant::now() < deadline => {
                if let Some(waiting) = waiting.take() {
                    waiting(&error);
                }
                std::thread::sleep(RETRY_INTERVAL);
            }
            result => return result,
        }
    }
}

/// Returns true for errors that may pass: no file, no listener, no place in its queue (EAGAIN of connect(2) on a unix
/// socket).
fn may_pass(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock)
}

/// Connects to a path or to `@name` without waiting. The descriptor is non-blocking and closed on exec.
pub fn connect_once(name: &str) -> io::Result<OwnedFd> {
    let address = address(name)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = kernel::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    kernel::connect(fd.as_raw_fd(), &address)?;
    Ok(fd)
}

/// The address of a path or of `@name`. uWSGI's abstract names end with a NUL byte that is part of the name.
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
    kernel::getsockopt(&fd, sockopt::PeerCredentials).map(plain)
}

/// The supplementary groups of who connected, at the time of the connect (SO_PEERGROUPS, since Linux 4.13).
pub fn peer_groups(fd: BorrowedFd<'_>) -> nix::Result<Vec<libc::gid_t>> {
    /// More groups than most processes have, so that one call is enough.
    const USUAL: usize = 64;
    /// `NGROUPS_MAX` of linux/limits.h.
    const MOST: usize = 65_536;
    let mut groups: Vec<libc::gid_t> = vec![0; USUAL];
    loop {
        let mut len = libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(|_| Errno::EOVERFLOW)?;
        // SAFETY: the kernel writes at most `len` bytes to the buffer, which has as many, and to `len` itself.
        let result = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let count = len as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        match Errno::last() {
            // The kernel has written the number of groups to `len`. It doesn't change.
            Errno::ERANGE if (groups.len() + 1..=MOST).contains(&count) => groups.resize(count, 0),
            errno => return Err(errno),
        }
    }
}

/// Makes the kernel attach the sender's credentials to what is received (SO_PASSCRED).
pub fn receive_credentials(fd: BorrowedFd<'_>) -> nix::Result<()> {
    kernel::setsockopt(&fd, sockopt::PassCred, &true)
}

/// Sends bytes together with credentials. Credentials other than the process's own need CAP_SETUID, CAP_SETGID or
/// CAP_SYS_ADMIN.
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
        ControlMessageOwned::ScmCredentials(credentials) => Some(plain(credentials)),
        _ => None,
    });
    Ok((message.bytes, credentials))
}

/// SO_PASSRIGHTS of asm-generic/socket.h, which the libc crate doesn't have.
const SO_PASSRIGHTS: libc::c_int = 83;

/// The largest size that a send buffer can be set to, in bytes: the kernel doubles the value.
pub const LARGEST_BUFFER: usize = (libc::c_int::MAX / 2) as usize;

/// Two connected sockets that preserve message boundaries (SOCK_SEQPACKET), non-blocking and closed on exec.
pub fn message_pair() -> nix::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    kernel::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
}

/// Sets the size of the send buffer, in bytes. Without CAP_NET_ADMIN it is limited by net.core.wmem_max.
pub fn set_send_buffer(fd: BorrowedFd<'_>, bytes: usize) {
    if kernel::setsockopt(&fd, sockopt::SndBufForce, &bytes).is_err() {
        // If this fails, too, the buffer keeps its size.
        let _ = kernel::setsockopt(&fd, sockopt::SndBuf, &bytes);
    }
}

/// Sets the size of the receive buffer, in bytes. Without CAP_NET_ADMIN it is limited by net.core.rmem_max.
pub fn set_receive_buffer(fd: BorrowedFd<'_>, bytes: usize) {
    if kernel::setsockopt(&fd, sockopt::RcvBufForce, &bytes).is_err() {
        // If this fails, too, the buffer keeps its size.
        let _ = kernel::setsockopt(&fd, sockopt::RcvBuf, &bytes);
    }
}

/// Allows or forbids that descriptors come with what is received (SO_PASSRIGHTS, Linux 6.16). Older kernels always allow
/// them, and close those that the receiver doesn't ask for.
pub fn receive_descriptors(fd: BorrowedFd<'_>, may_come: bool) {
    let value = libc::c_int::from(may_come);
    // SAFETY: the option is an int, which lives through the call.
    let _ = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const value).cast(),
            libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0),
        )
    };
}

/// Ends a connection for everybody who has a copy of its descriptor.
pub fn shut_down(fd: BorrowedFd<'_>) {
    // An error means that the other end has closed it already.
    let _ = kernel::shutdown(fd.as_raw_fd(), kernel::Shutdown::Both);
}

/// Sends bytes together with a descriptor.
pub fn send_with_descriptor(fd: BorrowedFd<'_>, bytes: &[u8], descriptor: BorrowedFd<'_>) -> nix::Result<usize> {
    let descriptors = [descriptor.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&descriptors)];
    kernel::sendmsg::<()>(fd.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::MSG_NOSIGNAL, None)
}

/// Reads bytes together with a descriptor. If several came, all are closed: only an attacker sends more than one.
pub fn recv_with_descriptor(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<(usize, Option<OwnedFd>)> {
    // Room for credentials, which come where SO_PASSCRED is set, and for two descriptors. The kernel closes the rest.
    let mut control = [0u64; 8];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `struct msghdr` is pointers and lengths, for which zeros are valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: all that the message points to lives on this stack, or is the caller's buffer.
    let count = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) };
    let count = usize::try_from(count).map_err(|_| Errno::last())?;
    let mut received = received_descriptors(&message);
    let only = if received.len() == 1 { received.pop() } else { None };
    Ok((count, only))
}

/// Takes ownership of the descriptors of a message. Even in a truncated message, each descriptor that is there is open.
fn received_descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut received = Vec::new();
    // SAFETY: recvmsg(2) has filled in the control buffer and its length; cmsg(3) says how to walk it.
    let mut item = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !item.is_null() {
        // SAFETY: not NULL, so that it points to a header inside of the control buffer, which is aligned for it.
        let header = unsafe { *item };
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: computes a length only.
            let header_len = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = header.cmsg_len.saturating_sub(header_len) / size_of::<RawFd>();
            // SAFETY: behind the header there is its data.
            let data = unsafe { libc::CMSG_DATA(item) };
            for index in 0..count {
                // SAFETY: the kernel has written `count` descriptors there, not necessarily aligned.
                let raw = unsafe { data.cast::<RawFd>().wrapping_add(index).read_unaligned() };
                // SAFETY: the kernel has just made it for us, and nobody else knows it.
                received.push(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
        // SAFETY: `item` is a header of this message.
        item = unsafe { libc::CMSG_NXTHDR(message, item) };
    }
    received
}

/// Tries whether a unix socket could be bound to this name, in place of a file that is there. The socket of the trial has
/// another name in the same folder, and is closed at once. `@` begins a name in the abstract namespace, which is tried
/// itself.
pub fn probe_unix(name: &str) -> io::Result<()> {
    if let Some(name) = name.strip_prefix('@') {
        let address = <UnixSocketAddr as SocketAddrExt>::from_abstract_name(name)?;
        return UnixListener::bind_addr(&address).map(drop);
    }
    if Path::new(name).is_dir() {
        return Err(Errno::EISDIR.into());
    }
    let probe = format!("{name}.{}", std::process::id());
    let _ = std::fs::remove_file(&probe);
    let result = UnixListener::bind(&probe).map(drop);
    let _ = std::fs::remove_file(&probe);
    result
}

/// Returns true if the other end will never send again, even if bytes of it are still to be read.
pub fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut item = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: poll(2) reads and writes the one element that it is given, and with no timeout it returns at once.
    let ready = unsafe { libc::poll(&raw mut item, 1, 0) };
    ready == 1 && item.revents & (libc::POLLHUP | libc::POLLRDHUP | libc::POLLERR) != 0
}

/// Waits until there is something to read, or the end of the stream. Returns false if neither came in time.
pub fn wait_readable(fd: BorrowedFd<'_>, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
            Ok(count) if count > 0 => return true,
            Err(Errno::EINTR) => {}
            Ok(_) | Err(_) => return false,
        }
    }
}

/// Waits until there is something to read on one of two descriptors. Returns which of them have something; neither if the
/// time is over.
pub fn wait_readable_either(first: BorrowedFd<'_>, second: BorrowedFd<'_>, within: Duration) -> (bool, bool) {
    let deadline = Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut items = [PollFd::new(first, PollFlags::POLLIN), PollFd::new(second, PollFlags::POLLIN)];
        match poll(&mut items, timeout) {
            Err(Errno::EINTR) => {}
            Ok(_) => return (items[0].any() == Some(true), items[1].any() == Some(true)),
            Err(_) => return (false, false),
        }
    }
}

/// Returns true if a descriptor is a connected unix stream socket.
pub fn is_stream(fd: BorrowedFd<'_>) -> bool {
    kernel::getsockopt(&fd, sockopt::SockType) == Ok(SockType::Stream)
        && kernel::getpeername::<UnixAddr>(fd.as_raw_fd()).is_ok()
}

/// Returns true if a descriptor is a netlink socket of a protocol (netlink(7)).
pub fn is_netlink(fd: BorrowedFd<'_>, protocol: isize) -> bool {
    let option = |name| {
        let mut value: libc::c_int = 0;
        let mut len = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
        let place = (&raw mut value).cast();
        // SAFETY: both options are ints, and the kernel writes at most `len` bytes, which live through the call.
        let result = unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, place, &raw mut len) };
        (result == 0).then_some(value)
    };
    option(libc::SO_DOMAIN) == Some(libc::AF_NETLINK)
        && option(libc::SO_PROTOCOL).is_some_and(|found| usize::try_from(found).ok() == usize::try_from(protocol).ok())
}

/// Reads what is there, without waiting.
pub fn recv(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<usize> {
    kernel::recv(fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)
}

/// Writes as much as fits, without waiting. A closed connection is an error, not a signal.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    kernel::send(fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
}

/// Returns true if the other end of a connection has read all that was sent to it (SIOCOUTQ, the memory of what is unread),
/// or if the kernel can't tell.
pub fn is_all_read(fd: BorrowedFd<'_>) -> bool {
    nix::ioctl_read_bad!(siocoutq, libc::TIOCOUTQ, libc::c_int);
    let mut unread = 0;
    // SAFETY: SIOCOUTQ, the same number as TIOCOUTQ, writes an int.
    unsafe { siocoutq(fd.as_raw_fd(), &raw mut unread) }.is_err() || unread == 0
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
    fn groups_are_those_of_who_connected() {
        let (_other, socket) = UnixStream::pair().expect("a pair");
        let own: Vec<_> = nix::unistd::getgroups().expect("own groups").iter().map(|group| group.as_raw()).collect();
        assert_eq!(peer_groups(socket.as_fd()), Ok(own));
        let many: Vec<_> = (1..=300).map(nix::unistd::Gid::from_raw).collect();
        // A thread has groups of its own, as long as nobody asks the C library to change them for all threads.
        let changed = std::thread::spawn(move || {
            // SAFETY: setgroups(2) reads as many numbers as it is told; `Gid` is one of them and nothing else.
            let result = unsafe { libc::syscall(libc::SYS_setgroups, many.len(), many.as_ptr()) };
            (result == 0).then(|| UnixStream::pair().expect("a pair"))
        });
        let (_other, socket) = changed.join().expect("no panic").expect("the test is root");
        assert_eq!(peer_groups(socket.as_fd()), Ok((1..=300).collect()));
    }

    #[test]
    fn one_descriptor_is_taken_and_several_are_closed() {
        let (sender, receiver) = UnixStream::pair().expect("a pair");
        receive_credentials(receiver.as_fd()).expect("SO_PASSCRED");
        for count in [0, 1, 2, 3, 200] {
            let (read_end, write_end) = nix::unistd::pipe().expect("a pipe");
            let descriptors = vec![write_end.as_raw_fd(); count];
            let control = [ControlMessage::ScmRights(&descriptors)];
            let control = if count == 0 { &[][..] } else { &control };
            kernel::sendmsg::<()>(sender.as_raw_fd(), &[IoSlice::new(b"x")], control, MsgFlags::empty(), None)
                .expect("there is room");
            drop(write_end);
            let (_, taken) = recv_with_descriptor(receiver.as_fd(), &mut [0; 8]).expect("a message");
            assert_eq!(taken.is_some(), count == 1, "{count} descriptors");
            drop(taken);
            // The pipe ends where nobody has its other end any more.
            let mut rest = [0; 1];
            assert_eq!(nix::unistd::read(&read_end, &mut rest), Ok(0), "{count} descriptors");
        }
    }

    #[test]
    fn descriptors_can_be_kept_out() {
        let (sender, receiver) = UnixStream::pair().expect("a pair");
        receive_descriptors(receiver.as_fd(), false);
        let sent = send_with_descriptor(sender.as_fd(), b"x", sender.as_fd());
        // An older kernel sends it.
        assert!(matches!(sent, Err(Errno::EPERM) | Ok(1)), "{sent:?}");
        receive_descriptors(receiver.as_fd(), true);
        assert_eq!(send_with_descriptor(sender.as_fd(), b"y", sender.as_fd()), Ok(1));
        let mut buffer = [0; 1];
        let (count, descriptor) = recv_with_descriptor(receiver.as_fd(), &mut buffer).expect("a message");
        assert_eq!((count, descriptor.is_some()), (1, true));
    }

    #[test]
    fn wait_ends_with_the_first_byte_or_the_time() {
        let (sender, receiver) = UnixStream::pair().expect("a pair");
        assert!(!wait_readable(receiver.as_fd(), Duration::from_millis(1)));
        assert_eq!(send(sender.as_fd(), b"x"), Ok(1));
        let before = Instant::now();
        assert!(wait_readable(receiver.as_fd(), Duration::from_secs(60)));
        assert!(before.elapsed() < Duration::from_secs(30));
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
    fn listener_and_a_place_in_its_queue_are_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let name = path.to_str().expect("UTF-8").to_owned();
        let soon = || Instant::now() + Duration::from_secs(30);
        let missing = connect(&name, Instant::now(), |_| ()).expect_err("nobody listens");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);

        let listener = UnixListener::bind(&path).expect("bind");
        kernel::listen(&listener, kernel::Backlog::new(0).expect("valid")).expect("a shorter queue");
        let _first = connect_once(&name).expect("the only place");
        let full = connect(&name, Instant::now(), |_| ()).expect_err("no place, no time");
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let acceptor = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            let accepted = listener.accept().expect("the first");
            (listener, accepted)
        });
        let mut waited_for = None;
        connect(&name, soon(), |error| waited_for = Some(error.kind())).expect("a place after the accept");
        assert_eq!(waited_for, Some(io::ErrorKind::WouldBlock));
        acceptor.join().expect("no panic");

        std::fs::remove_file(&path).expect("it is there");
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            UnixListener::bind(path).expect("bind")
        });
        connect(&name, soon(), |error| waited_for = Some(error.kind())).expect("a listener at last");
        assert_eq!(waited_for, Some(io::ErrorKind::NotFound));
        late.join().expect("no panic");
    }
}
