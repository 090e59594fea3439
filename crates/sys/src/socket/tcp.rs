//! TCP connections that outlive a process, and those that are signed.

use std::io;
use std::mem::{MaybeUninit, size_of, size_of_val};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{self as kernel, MsgFlags, SockaddrStorage};

/// The number of bytes that were ever written to a connection that was accepted, whether they have arrived or not (tcp(7),
/// `TCP_INFO`; Linux 4.19). Fails with ENOTSUP on an older kernel.
pub fn written(connection: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).map_err(|_| Errno::EINVAL)?;
    let (level, name) = (libc::IPPROTO_TCP, libc::TCP_INFO);
    // SAFETY: the kernel writes at most `len` bytes to `info`, which has as many, and to `len` itself.
    let result =
        unsafe { libc::getsockopt(connection.as_raw_fd(), level, name, info.as_mut_ptr().cast(), &raw mut len) };
    Errno::result(result)?;
    // SAFETY: it has nothing but numbers, which were all set to 0 before the kernel wrote some.
    let info = unsafe { info.assume_init() };
    let needed = std::mem::offset_of!(libc::tcp_info, tcpi_bytes_retrans) + size_of_val(&info.tcpi_bytes_retrans);
    if usize::try_from(len).is_ok_and(|len| len < needed) {
        return Err(Errno::ENOTSUP.into());
    }
    Ok(info.tcpi_bytes_sent.saturating_sub(info.tcpi_bytes_retrans) + u64::from(info.tcpi_notsent_bytes))
}

/// Reads what is there without waiting and without taking it.
pub fn peek(connection: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<usize> {
    kernel::recv(connection.as_raw_fd(), buffer, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)
}

/// The address from which a connection comes.
pub fn peer(connection: BorrowedFd<'_>) -> Option<SocketAddr> {
    let storage: SockaddrStorage = kernel::getpeername(connection.as_raw_fd()).ok()?;
    let ipv4 = storage.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    ipv4.or_else(|| storage.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}

/// Has the kernel report only so many bytes or more as something to read, or the end (socket(7), `SO_RCVLOWAT`).
pub fn set_low_water(connection: BorrowedFd<'_>, bytes: usize) -> nix::Result<()> {
    let value = libc::c_int::try_from(bytes).map_err(|_| Errno::EINVAL)?;
    set_int(connection, libc::SOL_SOCKET, libc::SO_RCVLOWAT, value)
}

/// Has small messages sent at once (tcp(7), `TCP_NODELAY`). Connections that a listener accepts have it from that.
pub fn set_no_delay(socket: BorrowedFd<'_>) -> nix::Result<()> {
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

fn set_int(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> nix::Result<()> {
    let len = libc::socklen_t::try_from(size_of_val(&value)).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel reads `len` bytes of the number, which has as many.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    Errno::result(result).map(drop)
}

/// The longest key in bytes (`TCP_MD5SIG_MAXKEYLEN`, `linux/tcp.h`).
pub const MAX_MD5_KEY_LEN: usize = 80;

/// `struct tcp_md5sig` (`linux/tcp.h`).
#[repr(C)]
struct Md5Signature {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    ifindex: libc::c_int,
    key: [u8; MAX_MD5_KEY_LEN],
}

/// Makes connections from an address need signatures with a key (RFC 2385; tcp(7), `TCP_MD5SIG`). On a listener it counts for
/// those that it accepts from then on. Fails with EINVAL for a key that is empty or longer than [`MAX_MD5_KEY_LEN`].
pub fn set_md5_key(socket: BorrowedFd<'_>, peer: IpAddr, key: &[u8]) -> io::Result<()> {
    if key.is_empty() || key.len() > MAX_MD5_KEY_LEN {
        return Err(Errno::EINVAL.into());
    }
    let mut signature = MaybeUninit::<Md5Signature>::zeroed();
    // SAFETY: it has nothing but numbers, for which 0 is a value.
    let signature = unsafe { signature.assume_init_mut() };
    signature.address = storage(peer);
    signature.key_len = u16::try_from(key.len()).map_err(|_| Errno::EINVAL)?;
    signature.key[..key.len()].copy_from_slice(key);
    let len = libc::socklen_t::try_from(size_of::<Md5Signature>()).map_err(|_| Errno::EINVAL)?;
    let value = (&raw const *signature).cast();
    // SAFETY: the kernel reads `len` bytes of the structure, which has as many.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_MD5SIG, value, len) };
    Errno::result(result)?;
    Ok(())
}

/// An address as the kernel reads it, with port 0.
fn storage(address: IpAddr) -> libc::sockaddr_storage {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    match address {
        IpAddr::V4(address) => {
            let short = libc::sockaddr_in {
                sin_family: family(libc::AF_INET),
                sin_port: 0,
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: a storage has room for an address of each family, and its alignment.
            unsafe { storage.as_mut_ptr().cast::<libc::sockaddr_in>().write(short) };
        }
        IpAddr::V6(address) => {
            let long = libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: 0,
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: address.octets() },
                sin6_scope_id: 0,
            };
            // SAFETY: as above.
            unsafe { storage.as_mut_ptr().cast::<libc::sockaddr_in6>().write(long) };
        }
    }
    // SAFETY: it has nothing but numbers, which were all set to 0 before.
    unsafe { storage.assume_init() }
}

/// The number of an address family, all of which are small.
fn family(number: libc::c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;

    #[test]
    fn kernel_knows_how_much_was_written() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let mut other = TcpStream::connect(listener.local_addr().expect("an address")).expect("it listens");
        let (mut accepted, _) = listener.accept().expect("it has connected");
        accepted.set_nonblocking(true).expect("a socket");
        assert_eq!(written(accepted.as_fd()).expect("TCP"), 0);
        let mut total = 0;
        for len in [1, 100, 5_000, 10_000_000] {
            total += accepted.write(&vec![7; len]).expect("room");
            assert_eq!(written(accepted.as_fd()).expect("TCP"), total as u64);
        }
        assert!(total < 10_005_101, "a part waits for the reader");
        let mut buffer = vec![0; 100_000];
        other.read_exact(&mut buffer).expect("there is more");
        assert_eq!(written(accepted.as_fd()).expect("TCP"), total as u64);
        let (not_tcp, _) = std::os::unix::net::UnixStream::pair().expect("a pair");
        written(not_tcp.as_fd()).expect_err("not TCP");
    }

    #[test]
    fn what_was_peeked_is_still_there() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        set_no_delay(listener.as_fd()).expect("TCP");
        let mut other = TcpStream::connect(listener.local_addr().expect("an address")).expect("it listens");
        let (accepted, from) = listener.accept().expect("it has connected");
        let accepted = accepted.as_fd();
        assert_eq!(peer(accepted), Some(from));
        let mut buffer = [0; 16];
        assert_eq!(peek(accepted, &mut buffer), Err(Errno::EAGAIN));
        set_low_water(accepted, 4).expect("TCP");
        let is_readable = || crate::socket::wait_readable(accepted, Duration::from_millis(200));
        other.write_all(b"abc").expect("room");
        assert!(!is_readable(), "there are too few");
        other.write_all(b"d").expect("room");
        assert!(is_readable());
        for _ in 0..2 {
            assert_eq!(peek(accepted, &mut buffer), Ok(4));
        }
        assert_eq!(crate::socket::recv(accepted, &mut buffer[..3]), Ok(3));
        assert!(!is_readable());
        drop(other);
        assert!(is_readable(), "the end is reported anyway");
        assert_eq!(peek(accepted, &mut buffer), Ok(1));
    }

    #[test]
    fn connections_need_the_key() {
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            let Ok(listener) = TcpListener::bind((address, 0)) else {
                assert!(address.is_ipv6(), "127.0.0.1 can be bound");
                continue;
            };
            set_md5_key(listener.as_fd(), address, b"secret").expect("a key");
            let at = listener.local_addr().expect("an address");
            TcpStream::connect_timeout(&at, Duration::from_millis(200)).expect_err("it has no key");
            set_md5_key(listener.as_fd(), address, &[]).expect_err("an empty key");
            set_md5_key(listener.as_fd(), address, &[b'x'; 81]).expect_err("a long key");
            set_md5_key(listener.as_fd(), address, &[b'x'; 80]).expect("the longest key");
        }
    }
}
