//! Network namespaces, and properties of one that any of its sockets can be asked for.

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use serde::{Deserialize, Serialize};

/// A number that identifies a network namespace until the machine is rebooted (`SO_NETNS_COOKIE`, Linux 5.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NamespaceCookie(u64);

impl NamespaceCookie {
    /// The number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// The network namespace of the calling thread. `None` where the kernel can't tell.
pub fn current_namespace() -> Option<NamespaceCookie> {
    let probe = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()?;
    namespace_of(probe.as_fd())
}

/// The network namespace that a socket was made in. For an accepted unix socket it is the one that the peer's socket was
/// made in. `None` where the kernel can't tell.
pub fn namespace_of(socket: BorrowedFd<'_>) -> Option<NamespaceCookie> {
    let mut cookie = 0u64;
    let mut len = libc::socklen_t::try_from(size_of::<u64>()).ok()?;
    // SAFETY: SO_NETNS_COOKIE writes at most `len` bytes to `cookie` (socket(7)), both of which live on this stack.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    (result == 0).then_some(NamespaceCookie(cookie))
}

/// The namespace that a socket was made in, as a descriptor (SIOCGSKNS of linux/sockios.h). Needs CAP_NET_ADMIN there.
pub fn namespace_with(socket: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    const SIOCGSKNS: libc::Ioctl = 0x894c;
    // SAFETY: SIOCGSKNS takes no argument.
    let descriptor = Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) })?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Returns true if this process is in its parent's network namespace (proc_pid_ns(5)). `None` if that is unknown: the first
/// process of a PID namespace doesn't see its parent if it has a /proc of its own.
pub fn shares_namespace_with_parent() -> Option<bool> {
    // getppid(2) is 0 in the first process of a PID namespace, but a /proc from outside knows the parent.
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.to_owned();
    let own = std::fs::read_link("/proc/self/ns/net").ok()?;
    let parents = std::fs::read_link(format!("/proc/{parent}/ns/net")).ok()?;
    Some(own == parents)
}

/// Returns true if there is an interface of this name in the current network namespace.
pub fn exists(interface: &str) -> bool {
    nix::net::if_::if_nametoindex(interface).is_ok()
}

/// The MTU of an interface, in bytes (netdevice(7), SIOCGIFMTU). Any socket of its namespace will do.
pub fn interface_mtu(socket: BorrowedFd<'_>, name: &str) -> nix::Result<u16> {
    // SAFETY: `struct ifreq` is integers and a union of plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(Errno::ENODEV);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: SIOCGIFMTU reads the name in a `struct ifreq` and writes its union (netdevice(7)).
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) })?;
    // SAFETY: the kernel has just written this member.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

/// The name of the interface with an index (netdevice(7), SIOCGIFNAME). Any socket of its namespace will do. ENODEV if there
/// is none.
pub fn interface_name(socket: BorrowedFd<'_>, index: u32) -> nix::Result<String> {
    // SAFETY: `struct ifreq` is integers and a union of plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_ifindex = libc::c_int::try_from(index).map_err(|_| Errno::ENODEV)?;
    // SAFETY: SIOCGIFNAME reads the number in a `struct ifreq` and writes its name (netdevice(7)).
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFNAME, &raw mut request) })?;
    let name = request.ifr_name.iter().take_while(|&&byte| byte != 0);
    Ok(name.map(|&byte| char::from(byte.to_ne_bytes()[0])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_is_that_of_the_parent() {
        assert_eq!(shares_namespace_with_parent(), Some(true));
    }

    #[test]
    fn interface_has_a_name() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        assert_eq!(interface_name(socket.as_fd(), 1).as_deref(), Ok("lo"));
        assert_eq!(interface_name(socket.as_fd(), u32::MAX), Err(Errno::ENODEV));
        assert_eq!(interface_name(socket.as_fd(), 0x7fff_ffff), Err(Errno::ENODEV));
    }

    #[test]
    fn namespace_is_the_same_until_it_is_left() {
        assert_eq!(current_namespace(), current_namespace());
        let inside = std::thread::spawn(|| {
            let before = current_namespace();
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs root");
            (before, current_namespace())
        });
        let (before, after) = inside.join().expect("no panic");
        assert_eq!(before, current_namespace());
        assert!(before.is_none() || before != after);
    }
}
