//! Stream sockets, and the credentials that travel on those of the unix family (unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{size_of, size_of_val};
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixSocketAddr, UnixListener};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    self as kernel, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage,
    UnixAddr, UnixCredentials, sockopt,
};
use serde::{Deserialize, Serialize};

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// Connects to a path or to `@name`. Waits until `deadline` for a listener, and for a place in its queue; everything
/// else that is wrong fails at once. `waiting` hears what it waits for. The descriptor is non-blocking and closed on
/// exec.
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

/// No file, no listener, no place in its queue (EAGAIN of connect(2) on a unix socket).
fn may_pass(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock)
}

/// Connects to a path or to `@name`, or fails at once. The descriptor is non-blocking and closed on exec.
pub fn connect_once(name: &str) -> io::Result<OwnedFd> {
    let address = address(name)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = kernel::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    kernel::connect(fd.as_raw_fd(), &address)?;
    Ok(fd)
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

/// The supplementary groups of who connected, at the time of the connect (SO_PEERGROUPS, since Linux 4.13).
pub fn peer_groups(fd: BorrowedFd<'_>) -> nix::Result<Vec<libc::gid_t>> {
    /// More than most processes have, so that one call is enough.
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
            // The kernel has told how many there are, and they don't change.
            Errno::ERANGE if (groups.len() + 1..=MOST).contains(&count) => groups.resize(count, 0),
            errno => return Err(errno),
        }
    }
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

/// asm-generic/socket.h; newer than libc.
const SO_PASSRIGHTS: libc::c_int = 83;

/// linux/in6.h; the form of what the kernel tells about an IPv6 connection's packets.
pub const IPV6_2292PKTOPTIONS: libc::c_int = 6;

/// Most that a send buffer can be set to, in bytes: the kernel doubles the value.
pub const LARGEST_BUFFER: usize = (libc::c_int::MAX / 2) as usize;

/// Two connected sockets that keep messages apart, non-blocking and closed on exec.
pub fn message_pair() -> nix::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    kernel::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
}

/// Makes room for unread bytes, as much as the process may: the administrator's limit counts without CAP_NET_ADMIN.
pub fn set_send_buffer(fd: BorrowedFd<'_>, bytes: usize) {
    if kernel::setsockopt(&fd, sockopt::SndBufForce, &bytes).is_err() {
        // The buffer stays as long as it may be.
        let _ = kernel::setsockopt(&fd, sockopt::SndBuf, &bytes);
    }
}

/// Says whether descriptors may come with what arrives (SO_PASSRIGHTS, Linux 6.16). Elsewhere they may, and are closed
/// when they are not asked for.
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
    // The other end may have gone already, and then there is nothing to do.
    let _ = kernel::shutdown(fd.as_raw_fd(), kernel::Shutdown::Both);
}

/// Sends bytes together with a descriptor.
pub fn send_with_descriptor(fd: BorrowedFd<'_>, bytes: &[u8], descriptor: BorrowedFd<'_>) -> nix::Result<usize> {
    let descriptors = [descriptor.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&descriptors)];
    kernel::sendmsg::<()>(fd.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::MSG_NOSIGNAL, None)
}

/// Reads bytes together with a descriptor. If several came, all are closed: nobody who means well sends them.
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

/// Takes the descriptors out of a message, truncated or not: whatever the kernel has put there is open, and ours.
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

/// Binds a UDP socket, non-blocking and closed on exec. One for all addresses of IPv6 takes those of IPv4, too (ipv6(7),
/// IPV6_V6ONLY), whatever the machine's default is.
pub fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = kernel::socket(family, SockType::Datagram, flags, None)?;
    if address.is_ipv6() {
        kernel::setsockopt(&socket, sockopt::Ipv6V6Only, &!address.ip().is_unspecified())?;
    }
    tell_interfaces(socket.as_fd(), address.is_ipv4())?;
    // The address may be one that the host is yet to get (ip(7)).
    kernel::setsockopt(&socket, sockopt::IpFreebind, &true)?;
    kernel::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(UdpSocket::from(socket))
}

/// Has the kernel tell by which interface datagrams, and connections of a listener, came (ip(7), IP_PKTINFO; ipv6(7),
/// IPV6_RECVPKTINFO). Sockets that are accepted inherit it.
fn tell_interfaces(socket: BorrowedFd<'_>, is_ipv4: bool) -> nix::Result<()> {
    if is_ipv4 {
        kernel::setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)
    } else {
        kernel::setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)
    }
}

/// A datagram, as far as it fits its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Bytes in the buffer.
    pub len: usize,
    /// Who sent it, as its header says.
    pub source: SocketAddr,
    /// Number of the interface by which it came, where the kernel tells.
    pub interface: Option<u32>,
}

/// Where [`recv_datagram`] has the kernel put what it tells beside a datagram. Made once for many of them.
#[derive(Debug)]
pub struct ControlBuffer(Vec<u8>);

impl Default for ControlBuffer {
    fn default() -> Self {
        Self(nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo))
    }
}

/// Reads one datagram from a socket of [`bind_udp`].
pub fn recv_datagram(fd: BorrowedFd<'_>, buffer: &mut [u8], control: &mut ControlBuffer) -> nix::Result<Datagram> {
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = kernel::recvmsg::<SockaddrStorage>(fd.as_raw_fd(), &mut slices, Some(&mut control.0), flags)?;
    let source = message.address.and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
    });
    let interface = message.cmsgs()?.find_map(|item| match item {
        ControlMessageOwned::Ipv4PacketInfo(info) => u32::try_from(info.ipi_ifindex).ok(),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(info.ipi6_ifindex),
        _ => None,
    });
    Ok(Datagram { len: message.bytes, source: source.ok_or(Errno::EAFNOSUPPORT)?, interface })
}

/// Who is at the other end of an accepted TCP connection, and by which interface it came. `None` for other sockets. The
/// listener must have been prepared by [`tell_arrivals`].
pub fn arrival(fd: BorrowedFd<'_>) -> Option<(SocketAddr, Option<u32>)> {
    let peer = kernel::getpeername::<SockaddrStorage>(fd.as_raw_fd()).ok()?;
    let v4 = peer.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    let source = v4.or_else(|| peer.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))?;
    // One control message (cmsg(3)): its length, its level and its type, then the data.
    let (level, name, expected, index_at) = match source {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTOPTIONS, libc::IP_PKTINFO, 0),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, IPV6_2292PKTOPTIONS, libc::IPV6_PKTINFO, size_of::<libc::in6_addr>()),
    };
    let mut told = [0_u8; 128];
    let mut len = libc::socklen_t::try_from(told.len()).ok()?;
    // SAFETY: the kernel writes at most `len` bytes to the buffer, which has as many, and to `len` itself.
    let result = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, told.as_mut_ptr().cast(), &raw mut len) };
    let told = if result == 0 { told.get(..usize::try_from(len).ok()?)? } else { &[] };
    let number = |at: usize| Some(libc::c_int::from_ne_bytes(*told.get(at..)?.first_chunk()?));
    let header = (number(size_of::<usize>()), number(size_of::<usize>() + 4));
    let is_expected = header == (Some(level), Some(expected));
    let index = number(size_of::<libc::cmsghdr>() + index_at).filter(|_| is_expected);
    Some((source, index.and_then(|index| u32::try_from(index).ok())))
}

/// Has the kernel remember by which interface a TCP listener's connections come.
pub fn tell_arrivals(listener: BorrowedFd<'_>) -> nix::Result<()> {
    let is_ipv4 = kernel::getsockname::<SockaddrStorage>(listener.as_raw_fd())?.as_sockaddr_in().is_some();
    tell_interfaces(listener, is_ipv4)
}

/// Returns true if this host has an address, so that what is bound to it hears something.
pub fn has_address(address: IpAddr) -> bool {
    let result = UdpSocket::bind((address, 0));
    !result.is_err_and(|error| error.raw_os_error() == Some(libc::EADDRNOTAVAIL))
}

/// Returns true if a unix socket could be bound under this name, with its file in place of one that is there. Tries that
/// with a socket that is closed at once. `@` begins a name in the abstract namespace.
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

/// Returns true if TCP could be listened for on `host:port`, `*:port` or `:port`; an address that the host is yet to get can
/// be.
pub fn probe_tcp(name: &str) -> io::Result<()> {
    let wrong = || io::Error::from(Errno::EINVAL);
    let (host, port) = name.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let host = if host.is_empty() || host == "*" { "0.0.0.0" } else { host.trim_matches(['[', ']']) };
    let address = (host, port).to_socket_addrs()?.next().ok_or_else(wrong)?;
    match TcpListener::bind(address) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        result => result.map(drop),
    }
}

/// Longest datagram with its IP header that the way to a connected socket's peer takes whole, in bytes (ip(7), IP_MTU;
/// ipv6(7), IPV6_MTU).
pub fn path_mtu(socket: &UdpSocket, peer: SocketAddr) -> io::Result<u16> {
    let mtu = if peer.is_ipv4() { kernel::getsockopt(socket, sockopt::IpMtu)? } else { mtu6(socket)? };
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

fn mtu6(socket: &UdpSocket) -> nix::Result<libc::c_int> {
    let mut mtu: libc::c_int = 0;
    let mut len = libc::socklen_t::try_from(size_of_val(&mtu)).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the option is an int (linux/in6.h), which `mtu` is, and `len` is its length; both live through the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_MTU, (&raw mut mtu).cast(), &raw mut len)
    };
    Errno::result(result).map(|_| mtu)
}

/// Returns true if the other end will never send again, even if bytes of it are still to be read.
pub fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut item = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: poll(2) reads and writes the one element that it is given, and with no timeout it returns at once.
    let ready = unsafe { libc::poll(&raw mut item, 1, 0) };
    ready == 1 && item.revents & (libc::POLLHUP | libc::POLLRDHUP | libc::POLLERR) != 0
}

/// Waits for something to read, or for the end of it. Returns whether that came within the time.
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

/// Waits for something to read on one of two descriptors. Returns which have something; neither if nothing came in time.
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

/// Reads what is there.
pub fn recv(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<usize> {
    kernel::recv(fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)
}

/// Writes what fits. A peer that is gone is an error, not a signal.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    kernel::send(fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
}

/// Returns true if the other end of a connection has read all that was sent to it (SIOCOUTQ: memory of what it has not). A
/// kernel that can't tell says yes.
pub fn is_all_read(fd: BorrowedFd<'_>) -> bool {
    nix::ioctl_read_bad!(siocoutq, libc::TIOCOUTQ, libc::c_int);
    let mut unread = 0;
    // SAFETY: SIOCOUTQ, the same number as TIOCOUTQ, writes an int.
    unsafe { siocoutq(fd.as_raw_fd(), &raw mut unread) }.is_err() || unread == 0
}

#[cfg(test)]
mod tests {
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
    fn socket_for_all_addresses_of_ipv6_takes_those_of_ipv4_and_others_do_not() {
        let bound = |address: &str| bind_udp(address.parse().expect("an address")).expect("a free port");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let receives = |socket: &UdpSocket| {
            let port = socket.local_addr().expect("bound").port();
            sender.send_to(b"x", ("127.0.0.1", port)).expect("loopback");
            socket.recv_from(&mut [0; 1]).is_ok_and(|(_, from)| {
                (from.ip().to_canonical(), from.port())
                    == ("127.0.0.1".parse().expect("an address"), sender.local_addr().expect("bound").port())
            })
        };
        assert!(receives(&bound("[::]:0")));
        assert!(receives(&bound("0.0.0.0:0")));
        assert!(!receives(&bound("[::1]:0")));
    }

    #[test]
    fn interface_of_datagrams_and_connections_is_told() {
        const LOOPBACK: u32 = 1;
        for (bound, from) in [("0.0.0.0:0", "127.0.0.1:0"), ("[::]:0", "127.0.0.1:0"), ("[::]:0", "[::1]:0")] {
            let socket = bind_udp(bound.parse().expect("an address")).expect("a free port");
            let sender = UdpSocket::bind(from).expect("a free port");
            let own = sender.local_addr().expect("bound");
            let to = SocketAddr::new(own.ip(), socket.local_addr().expect("bound").port());
            sender.send_to(b"hello", to).expect("loopback");
            let mut buffer = [0; 9];
            let mut control = ControlBuffer::default();
            let datagram = recv_datagram(socket.as_fd(), &mut buffer, &mut control).expect("a datagram");
            assert_eq!((datagram.len, datagram.interface, &buffer[..5]), (5, Some(LOOPBACK), b"hello".as_slice()));
            assert_eq!((datagram.source.ip().to_canonical(), datagram.source.port()), (own.ip(), own.port()));
            assert_eq!(recv_datagram(socket.as_fd(), &mut buffer, &mut control), Err(Errno::EAGAIN));

            let listener = std::net::TcpListener::bind(bound).expect("a free port");
            tell_arrivals(listener.as_fd()).expect("an option");
            let to = SocketAddr::new(own.ip(), listener.local_addr().expect("bound").port());
            let client = std::net::TcpStream::connect(to).expect("loopback");
            let accepted = accept(listener.as_fd()).expect("a connection");
            let (source, interface) = arrival(accepted.as_fd()).expect("it is TCP");
            assert_eq!((source.ip().to_canonical(), interface), (own.ip(), Some(LOOPBACK)), "{bound} {from}");
            assert_eq!(source.port(), client.local_addr().expect("connected").port());
        }
        let (one, _other) = UnixStream::pair().expect("a pair");
        assert_eq!(arrival(one.as_fd()), None);
    }

    #[test]
    fn way_to_the_own_machine_is_as_wide_as_loopback() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let target = bind_udp(address.parse().expect("an address")).expect("a free port");
            let probe = bind_udp(address.parse().expect("an address")).expect("a free port");
            let target = target.local_addr().expect("bound");
            probe.connect(target).expect("loopback");
            assert!(path_mtu(&probe, target).expect("connected") >= 1280, "{address}");
        }
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
