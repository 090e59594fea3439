//! Work in a child process, for what must not stay in the memory of this one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, pipe2};

use super::process::exit_at_once;

/// Longest result, in bytes.
const MAX_RESULT_LEN: u64 = 64 * 1024;

/// Runs `work` in a child, and returns its result. All else that it has had in its memory is gone with the child. An error means
/// that there is no child, or no result: it has panicked, or was killed.
///
/// `work` has this thread alone, so that it must not wait for others.
pub fn run(work: impl FnOnce() -> Vec<u8>) -> io::Result<Vec<u8>> {
    let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC)?;
    let mut before = SigSet::empty();
    // No handler of the parent's is to run in the child.
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    // SAFETY: the child runs `work` on one thread and ends by _exit(2). The C library makes its allocator usable after fork(2).
    let forked = unsafe { fork() };
    if matches!(forked, Ok(ForkResult::Child)) {
        drop(read_end);
        let result = catch_unwind(AssertUnwindSafe(work));
        let is_written = result.is_ok_and(|result| File::from(write_end).write_all(&result).is_ok());
        exit_at_once(i32::from(!is_written))
    }
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    drop(write_end);
    let ForkResult::Parent { child } = forked? else { return Err(Errno::ECHILD.into()) };
    let mut result = Vec::new();
    let read = File::from(read_end).take(MAX_RESULT_LEN).read_to_end(&mut result);
    // Somebody else may have waited for all children. The result says enough.
    let _ = waitpid(child, None);
    read?;
    if result.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_comes_and_nothing_else_stays() {
        let mut counter = 0;
        let result = run(|| {
            counter += 1;
            vec![0x5a; 40_000]
        });
        assert!(result.expect("a child").iter().all(|byte| *byte == 0x5a));
        assert_eq!(counter, 0, "it was counted in the child");
        let error = run(|| exit_at_once(3)).expect_err("no result");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let before = run(|| std::process::id().to_string().into_bytes()).expect("a child");
        assert_ne!(before, std::process::id().to_string().into_bytes());
    }
}
