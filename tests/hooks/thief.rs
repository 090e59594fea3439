//! A process of a vassal's user that takes the descriptors that it can get from the vassal's processes.
#![allow(unsafe_code, reason = "glibc's functions change all threads of the process, and it has no pidfd_getfd(2)")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::resume_unwind;
use std::thread;

use nix::errno::Errno;
use nix::libc;

/// This is more descriptors than uWSGI and the plugin have open.
const DESCRIPTORS: i32 = 128;

/// Runs `work` on a thread that has all ids of a user, and no others.
pub fn as_thief<T: Send>(id: u32, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thief = scope.spawn(|| {
            // SAFETY: an empty list of groups is not read.
            let groups = unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) };
            // SAFETY: takes three numbers, and changes this thread alone.
            let group = unsafe { libc::syscall(libc::SYS_setresgid, id, id, id) };
            // SAFETY: as above. The thread's capabilities go with it.
            let user = unsafe { libc::syscall(libc::SYS_setresuid, id, id, id) };
            assert!([groups, group, user].iter().all(|result| *result == 0), "root may be anybody");
            work()
        });
        thief.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Copies of all descriptors of a process that this thread can get.
pub fn take_descriptors(pid: i32) -> Vec<OwnedFd> {
    // SAFETY: takes two numbers and returns a new descriptor.
    let Some(process) = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }) else { return Vec::new() };
    let take = |number: i32| {
        // SAFETY: takes three numbers and returns a new descriptor.
        owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })
    };
    (0..DESCRIPTORS).filter_map(take).collect()
}

/// The error with which listing the descriptors of a process fails, or `None` if it succeeds.
pub fn refusal_to_list(pid: i32) -> Option<std::io::ErrorKind> {
    std::fs::read_dir(format!("/proc/{pid}/fd")).err().map(|error| error.kind())
}

fn owned(result: libc::c_long) -> Option<OwnedFd> {
    let number = i32::try_from(Errno::result(result).ok()?).ok()?;
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
