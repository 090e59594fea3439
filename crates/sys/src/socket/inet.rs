//! UDP and TCP sockets, and what the kernel tells about their packets (ip(7), ipv6(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{size_of, size_of_val};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    self as kernel, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage,
    sockopt,
};

/// The socket option that returns what the kernel has told about an IPv6 connection's packets (linux/in6.h).
pub const IPV6_2292PKTOPTIONS: libc::c_int = 6;

/// Bytes of memory for datagrams that wait to be read. The kernel counts its own part of them, so a batch of 64 KiB takes 70; its
/// default has room for three batches, and drops what comes while a router is busy for a fraction of a millisecond.
const RECEIVE_BUFFER: usize = 2 << 20;

/// Binds a UDP socket, non-blocking and closed on exec, which takes several datagrams with one read (udp(7), UDP_GRO). A socket for all addresses of IPv6 receives IPv4, too (ipv6(7),
/// IPV6_V6ONLY), whatever the default of the machine is.
pub fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = kernel::socket(family, SockType::Datagram, flags, None)?;
    if address.is_ipv6() {
        kernel::setsockopt(&socket, sockopt::Ipv6V6Only, &!address.ip().is_unspecified())?;
    }
    tell_interfaces(socket.as_fd(), address.is_ipv4())?;
    // Kernels before Linux 5.0 don't know it, and give each datagram by itself.
    let _ = kernel::setsockopt(&socket, sockopt::UdpGroSegment, &true);
    // Without CAP_NET_ADMIN, net.core.rmem_max is the most that it can have (socket(7)).
    if kernel::setsockopt(&socket, sockopt::RcvBufForce, &(RECEIVE_BUFFER / 2)).is_err() {
        let _ = kernel::setsockopt(&socket, sockopt::RcvBuf, &(RECEIVE_BUFFER / 2));
    }
    // The host may get the address later (ip(7)).
    kernel::setsockopt(&socket, sockopt::IpFreebind, &true)?;
    kernel::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(UdpSocket::from(socket))
}

/// Makes the kernel tell by which interface datagrams, and connections of a listener, came in (ip(7), IP_PKTINFO; ipv6(7),
/// IPV6_RECVPKTINFO). Accepted sockets inherit that.
fn tell_interfaces(socket: BorrowedFd<'_>, is_ipv4: bool) -> nix::Result<()> {
    if is_ipv4 {
        kernel::setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)
    } else {
        kernel::setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)
    }
}

/// Datagrams that were received with one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Their length in the buffer, in bytes; a longer datagram is cut.
    pub len: usize,
    /// The length of each of them if they are several; the last one may be shorter.
    pub segment_len: Option<usize>,
    /// Their source, as their headers say.
    pub source: SocketAddr,
    /// Index of the interface by which they came in, where the kernel tells.
    pub interface: Option<u32>,
}

/// The buffer for what the kernel tells with a datagram. [`recv_datagrams`] uses one for many reads.
#[derive(Debug)]
pub struct ControlBuffer(Vec<u8>);

impl Default for ControlBuffer {
    fn default() -> Self {
        Self(nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo, libc::c_int))
    }
}

/// The address of IPv4 or IPv6; `None` for others.
fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}

/// Reads one datagram from a socket of [`bind_udp`], or several from one source that lie end to end.
pub fn recv_datagrams(fd: BorrowedFd<'_>, buffer: &mut [u8], control: &mut ControlBuffer) -> nix::Result<Received> {
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = kernel::recvmsg::<SockaddrStorage>(fd.as_raw_fd(), &mut slices, Some(&mut control.0), flags)?;
    let source = message.address.as_ref().and_then(socket_address);
    let (mut interface, mut segment_len) = (None, None);
    for item in message.cmsgs()? {
        match item {
            ControlMessageOwned::Ipv4PacketInfo(info) => interface = u32::try_from(info.ipi_ifindex).ok(),
            ControlMessageOwned::Ipv6PacketInfo(info) => interface = Some(info.ipi6_ifindex),
            ControlMessageOwned::UdpGroSegments(len) => segment_len = usize::try_from(len).ok(),
            _ => {}
        }
    }
    Ok(Received { len: message.bytes, segment_len, source: source.ok_or(Errno::EAFNOSUPPORT)?, interface })
}

/// Sends datagrams that lie end to end with one system call (udp(7), UDP_SEGMENT): each has `segment_len` bytes but for the last
/// one, which may have fewer. Errors besides the usual ones: EMSGSIZE if one wouldn't fit the path without fragments; EINVAL for
/// the same in older kernels, and for more datagrams than the kernel takes; EIO if the path needs each by itself, as with IPsec.
pub fn send_datagrams(fd: BorrowedFd<'_>, target: SocketAddr, bytes: &[u8], segment_len: u16) -> nix::Result<()> {
    let control = [ControlMessage::UdpGsoSegments(&segment_len)];
    let target = SockaddrStorage::from(target);
    kernel::sendmsg(fd.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::MSG_DONTWAIT, Some(&target)).map(drop)
}

/// Returns true if the kernel knows [`send_datagrams`]. One that doesn't would send a single long datagram.
pub fn sends_batches(socket: &UdpSocket) -> bool {
    kernel::getsockopt(socket, sockopt::UdpGsoSegment).is_ok()
}

/// The address of the other end of an accepted TCP connection, and the index of the interface by which the connection came
/// in. `None` for other sockets. The listener must have been prepared by [`tell_arrivals`].
pub fn arrival(fd: BorrowedFd<'_>) -> Option<(SocketAddr, Option<u32>)> {
    let peer = kernel::getpeername::<SockaddrStorage>(fd.as_raw_fd()).ok()?;
    let source = socket_address(&peer)?;
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

/// Makes the kernel remember by which interface the connections of a TCP listener come in.
pub fn tell_arrivals(listener: BorrowedFd<'_>) -> nix::Result<()> {
    let is_ipv4 = kernel::getsockname::<SockaddrStorage>(listener.as_raw_fd())?.as_sockaddr_in().is_some();
    tell_interfaces(listener, is_ipv4)
}

/// Returns true if a socket is bound to the address of all hosts (255.255.255.255), which inet_addr(3) gives for what it can't read. Nobody
/// connects to it.
pub fn is_for_nobody(listener: BorrowedFd<'_>) -> bool {
    let address = kernel::getsockname::<SockaddrStorage>(listener.as_raw_fd());
    address.is_ok_and(|address| address.as_sockaddr_in().is_some_and(|address| address.ip() == Ipv4Addr::BROADCAST))
}

/// Returns true if this host has an address, so that a socket that is bound to it can receive something.
pub fn has_address(address: IpAddr) -> bool {
    let result = UdpSocket::bind((address, 0));
    !result.is_err_and(|error| error.raw_os_error() == Some(libc::EADDRNOTAVAIL))
}

/// Tries whether a TCP listener could be bound to `host:port`, `*:port` or `:port`. An address that the host may get later
/// is no error.
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

/// The path MTU to the peer of a connected socket, in bytes: the longest datagram with its IP header that isn't fragmented
/// on the way (ip(7), IP_MTU; ipv6(7), IPV6_MTU).
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::socket::accept;

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
            let datagram = recv_datagrams(socket.as_fd(), &mut buffer, &mut control).expect("a datagram");
            assert_eq!(datagram.segment_len, None);
            assert_eq!((datagram.len, datagram.interface, &buffer[..5]), (5, Some(LOOPBACK), b"hello".as_slice()));
            assert_eq!((datagram.source.ip().to_canonical(), datagram.source.port()), (own.ip(), own.port()));
            assert_eq!(recv_datagrams(socket.as_fd(), &mut buffer, &mut control), Err(Errno::EAGAIN));

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
    fn listener_without_an_address_is_for_nobody() {
        for (address, is_for_nobody) in [([255; 4], true), ([127, 0, 0, 1], false), ([0; 4], false)] {
            let listener = TcpListener::bind(SocketAddr::from((address, 0))).expect("a free port");
            assert_eq!(super::is_for_nobody(listener.as_fd()), is_for_nobody, "{address:?}");
        }
        let listener = TcpListener::bind("[::1]:0").expect("a free port");
        assert!(!super::is_for_nobody(listener.as_fd()));
    }

    #[test]
    fn batch_arrives_whole_where_the_receiver_takes_that_and_else_in_parts() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let bound = || bind_udp(any.parse().expect("an address")).expect("a free port");
            let (sender, receiver) = (bound(), bound());
            assert!(sends_batches(&sender));
            let usual = UdpSocket::bind(any).expect("a free port");
            usual.set_nonblocking(true).expect("a socket can be made non-blocking");
            let bytes: Vec<u8> = (0..250).collect();
            let target = |socket: &UdpSocket| socket.local_addr().expect("bound");
            send_datagrams(sender.as_fd(), target(&receiver), &bytes, 100).expect("loopback");
            let (mut buffer, mut control) = ([0; 300], ControlBuffer::default());
            let received = recv_datagrams(receiver.as_fd(), &mut buffer, &mut control).expect("they have come");
            assert_eq!((&buffer[..received.len], received.segment_len), (bytes.as_slice(), Some(100)), "{any}");
            assert_eq!((received.source, received.interface), (target(&sender), Some(1)));

            send_datagrams(sender.as_fd(), target(&usual), &bytes, 100).expect("loopback");
            for part in bytes.chunks(100) {
                let (len, source) = usual.recv_from(&mut buffer).expect("one by one");
                assert_eq!((&buffer[..len], source), (part, target(&sender)));
            }
            assert_eq!(send_datagrams(sender.as_fd(), target(&usual), &[0; 2000], 1), Err(Errno::EINVAL), "too many");
        }
    }

    #[test]
    fn socket_for_both_versions_sends_and_takes_batches_of_ipv4() {
        let bound = |address: &str| bind_udp(address.parse().expect("an address")).expect("a free port");
        let (both, v4) = (bound("[::]:0"), bound("127.0.0.1:0"));
        let to = |socket: &UdpSocket, host: &str| {
            SocketAddr::new(host.parse().expect("an address"), socket.local_addr().expect("bound").port())
        };
        let bytes: Vec<u8> = (0..250).collect();
        for (from, target, receiver) in
            [(&v4, to(&both, "127.0.0.1"), &both), (&both, to(&v4, "::ffff:127.0.0.1"), &v4)]
        {
            send_datagrams(from.as_fd(), target, &bytes, 100).expect("loopback");
            let (mut buffer, mut control) = ([0; 300], ControlBuffer::default());
            let received = recv_datagrams(receiver.as_fd(), &mut buffer, &mut control).expect("they have come");
            assert_eq!((&buffer[..received.len], received.segment_len), (bytes.as_slice(), Some(100)));
            assert_eq!(received.source.port(), to(from, "::1").port());
        }
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
}
