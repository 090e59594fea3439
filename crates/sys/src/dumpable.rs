//! Who may look into this process. A process of the same user may take its descriptors (pidfd_getfd(2)), trace it and read
//! its memory, unless it isn't "dumpable" (prctl(2), PR_SET_DUMPABLE; ptrace(2)). Then its files in /proc are root's, and it
//! leaves no core dump.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use libc::{c_int, c_ulong};

/// `PR_GET_DUMPABLE` of a process that its user may look into (prctl(2), `SUID_DUMP_USER`).
const DUMPABLE: c_int = 1;

/// No process has these ids: -1 is none (setresuid(2)).
const NOBODY: u64 = u64::MAX;

/// Effective user and group of this process when it was closed here. The kernel closes a process that takes other ids
/// itself, and a child that does is not ours to open.
static CLOSED_AS: AtomicU64 = AtomicU64::new(NOBODY);

/// Whether children have descriptors of the tunnel, too.
static WITH_CHILDREN: AtomicBool = AtomicBool::new(false);

/// Closes this process for its user, for as long as it holds what nobody else is to have. May be called any number of times:
/// the kernel opens a process again that executes a program, and one that changes its ids where fs.suid_dumpable is 1.
pub fn close() {
    if dumpable() == DUMPABLE && set(false) {
        CLOSED_AS.store(ids(), Ordering::Release);
    }
}

/// Closes it, and its children, which inherit the descriptors.
pub fn close_with_children() {
    WITH_CHILDREN.store(true, Ordering::Release);
    close();
}

/// Opens it again, if it was closed here.
pub fn open() {
    let closed_as = CLOSED_AS.swap(NOBODY, Ordering::AcqRel);
    if closed_as == ids() {
        set(true);
    }
}

/// In a forked child that holds nothing of the tunnel: opens it as far as its parent was open. Async-signal-safe.
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
    // SAFETY: neither has getegid(2).
    let group = unsafe { libc::getegid() };
    u64::from(user) << 32 | u64::from(group)
}
