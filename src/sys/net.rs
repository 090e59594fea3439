//! Network namespaces.

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// A number that is the network namespace's own for as long as the machine runs (`SO_NETNS_COOKIE`, Linux 5.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NamespaceCookie(u64);

/// The network namespace of the calling thread. `None` where the kernel can't tell.
pub fn current_namespace() -> Option<NamespaceCookie> {
    let probe = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()?;
    namespace_of(probe.as_fd())
}

/// The network namespace that a socket was made in; for an accepted one of the unix family, the one that its peer's was
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

#[cfg(test)]
mod tests {
    use super::*;

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
