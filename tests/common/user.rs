//! Work as another user.
#![allow(unsafe_code, reason = "glibc's setresuid(2) changes all threads of the process")]

use std::panic::resume_unwind;
use std::thread;

use nix::errno::Errno;
use nix::libc;

/// Runs `work` on a thread whose effective user is another one. Connections made there bear its credentials.
pub fn as_user<T: Send>(uid: u32, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            // SAFETY: the call takes three numbers, and changes this thread alone.
            let result = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
            Errno::result(result).expect("root may be anybody");
            work()
        });
        other.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}
