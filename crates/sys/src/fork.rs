//! Descriptors that are closed in forked children: workers, mules, spoolers, applications' own processes. Close-on-exec
//! can't do that, because these children never execute another program.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use super::dumpable;

/// Most descriptors that can be registered.
pub const MAX_DESCRIPTORS: usize = 192;

const EMPTY: RawFd = -1;

static DESCRIPTORS: [AtomicI32; MAX_DESCRIPTORS] = [const { AtomicI32::new(EMPTY) }; MAX_DESCRIPTORS];
static OWNER: AtomicI32 = AtomicI32::new(0);
static FORKS_TO_FOLLOW: AtomicU32 = AtomicU32::new(0);

/// Registers a descriptor of this process. Returns false if there are too many.
#[must_use]
pub fn close_in_children(fd: BorrowedFd<'_>) -> bool {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: the handler only touches atomics and makes system calls, which is async-signal-safe, as
        // pthread_atfork(3) demands of handlers in the child of a process with threads. The plugin is never unloaded.
        let result = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        debug_assert_eq!(result, 0, "pthread_atfork fails only without memory");
    });
    OWNER.store(own_pid(), Ordering::Release);
    DESCRIPTORS
        .iter()
        .any(|slot| slot.compare_exchange(EMPTY, fd.as_raw_fd(), Ordering::AcqRel, Ordering::Relaxed).is_ok())
}

/// Unregisters a descriptor. To be called before it is closed.
pub fn forget(fd: BorrowedFd<'_>) {
    for slot in &DESCRIPTORS {
        let _ = slot.compare_exchange(fd.as_raw_fd(), EMPTY, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Returns true if the registered descriptors are open in this process: it has registered them, or [`follow_forks`] has
/// moved them here.
pub fn owns_descriptors() -> bool {
    OWNER.load(Ordering::Acquire) == own_pid()
}

/// Announces the forks of a process that puts itself into the background: in each of the next `count` forks, the descriptors
/// stay open in the child, and its parent is about to end.
pub fn follow_forks(count: u32) {
    FORKS_TO_FOLLOW.store(count, Ordering::Release);
}

extern "C" fn in_child() {
    let left = FORKS_TO_FOLLOW.load(Ordering::Acquire);
    if left > 0 {
        FORKS_TO_FOLLOW.store(left - 1, Ordering::Release);
        OWNER.store(own_pid(), Ordering::Release);
        return;
    }
    for slot in &DESCRIPTORS {
        let fd = slot.swap(EMPTY, Ordering::AcqRel);
        if fd != EMPTY {
            // SAFETY: close(2) on this child's copy. Its owner in Rust is never dropped here: whoever finds that
            // `owns_descriptors` is false leaks it.
            unsafe { libc::close(fd) };
        }
    }
    dumpable::open_child();
}

fn own_pid() -> libc::pid_t {
    // SAFETY: getpid(2) has no preconditions and can't fail.
    unsafe { libc::getpid() }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::fcntl::{FcntlArg, fcntl};
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    use super::*;

    /// Exit code of a child that ran `probe`, which must not allocate.
    fn in_forked_child(probe: impl Fn() -> i32) -> i32 {
        // SAFETY: the child calls nothing but async-signal-safe functions before it ends.
        match unsafe { fork() }.expect("fork") {
            // SAFETY: _exit(2) ends the child without running anything of the test's.
            ForkResult::Child => unsafe { libc::_exit(probe()) },
            ForkResult::Parent { child } => match waitpid(child, None).expect("waitpid") {
                WaitStatus::Exited(_, code) => code,
                other => panic!("{other:?}"),
            },
        }
    }

    fn is_open(fd: BorrowedFd<'_>) -> i32 {
        i32::from(fcntl(fd, FcntlArg::F_GETFD).is_ok())
    }

    #[test]
    fn child_has_no_copy_unless_it_is_followed() {
        let file = tempfile::tempfile().expect("a file");
        let other = tempfile::tempfile().expect("a file");
        assert!(close_in_children(file.as_fd()));
        assert!(owns_descriptors());
        assert_eq!(in_forked_child(|| is_open(file.as_fd()) | is_open(other.as_fd()) << 1), 0b10);
        assert_eq!(in_forked_child(|| i32::from(owns_descriptors())), 0);

        follow_forks(1);
        assert_eq!(in_forked_child(|| is_open(file.as_fd()) | i32::from(owns_descriptors()) << 1), 0b11);
        follow_forks(0);

        forget(file.as_fd());
        assert_eq!(in_forked_child(|| is_open(file.as_fd())), 1);
    }
}
