//! Keeping other processes of the same user out of this one. They may take its descriptors (pidfd_getfd(2)), trace it and
//! read its memory, unless it isn't "dumpable" (prctl(2), PR_SET_DUMPABLE; ptrace(2)). A process that isn't dumpable has
//! files in /proc that belong to root, and leaves no core dump.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use libc::{c_int, c_ulong};

/// The result of `PR_GET_DUMPABLE` for a dumpable process (prctl(2), `SUID_DUMP_USER`).
const DUMPABLE: c_int = 1;

/// The ids of no process: -1 is not a valid id (setresuid(2)).
const NOBODY: u64 = u64::MAX;

/// Effective user and group of this process when it was closed by [`close`]. The kernel closes a process that changes its
/// ids by itself; such a process is not opened again here.
static CLOSED_AS: AtomicU64 = AtomicU64::new(NOBODY);

/// Set if children keep descriptors of the tunnel, too.
static WITH_CHILDREN: AtomicBool = AtomicBool::new(false);

/// Makes this process not dumpable, as long as it holds descriptors that nobody else is to have. Can be called any number of
/// times: the kernel makes a process dumpable again when it executes a program, and when it changes its ids while
/// fs.suid_dumpable is 1.
pub fn close() {
    if dumpable() == DUMPABLE && set(false) {
        CLOSED_AS.store(ids(), Ordering::Release);
    }
}

/// Does the same for this process and its future children, which inherit the descriptors.
pub fn close_with_children() {
    WITH_CHILDREN.store(true, Ordering::Release);
    close();
}

/// Makes the process dumpable again, if it was closed by [`close`].
pub fn open() {
    let closed_as = CLOSED_AS.swap(NOBODY, Ordering::AcqRel);
    if closed_as == ids() {
        set(true);
    }
}

/// To be called in a forked child that has no descriptors of the tunnel: makes it dumpable if its parent was so before.
/// Async-signal-safe.
pub(super) fn open_child() {
    if !WITH_CHILDREN.load(Ordering::Acquire) {
        open();
    }
}

fn dumpable() -> c_int {
    // SAFETY: PR_GET_DUMPABLE takes no arguments, and returns a number.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }
}

fn set(dumpable: bool) -> bool {
    // SAFETY: PR_SET_DUMPABLE takes a number.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, c_ulong::from(dumpable)) == 0 }
}

fn ids() -> u64 {
    // SAFETY: geteuid(2) has no preconditions and can't fail.
    let user = unsafe { libc::geteuid() };
    // SAFETY: getegid(2) has no preconditions and can't fail.
    let group = unsafe { libc::getegid() };
    u64::from(user) << 32 | u64::from(group)
}
