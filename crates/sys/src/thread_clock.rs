//! The processor time of a thread, for others to read.

use nix::errno::Errno;
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};

/// The clock of the processor time that one thread has used (pthread_getcpuclockid(3)).
#[derive(Debug, Clone, Copy)]
pub struct ThreadClock(ClockId);

impl ThreadClock {
    /// Returns the clock of the calling thread. It can be read from any thread of this process.
    pub fn of_this_thread() -> nix::Result<Self> {
        let mut clock: libc::clockid_t = 0;
        // SAFETY: pthread_self(3) has no preconditions.
        let thread = unsafe { libc::pthread_self() };
        // SAFETY: the thread lives, as it is the calling one, and the variable lives through the call.
        let error = unsafe { libc::pthread_getcpuclockid(thread, &raw mut clock) };
        if error == 0 { Ok(Self(ClockId::from_raw(clock))) } else { Err(Errno::from_raw(error)) }
    }

    /// Returns the processor time in nanoseconds; `None` if the thread has ended.
    pub fn nanos(self) -> Option<u64> {
        let time = clock_gettime(self.0).ok()?;
        u64::try_from(time.num_nanoseconds()).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn tells_the_time_of_its_own_thread_only() {
        let (clocks, received) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let sleeper = thread::spawn(move || {
            clocks.send(ThreadClock::of_this_thread()).expect("the test waits");
            let _ = ended.recv();
        });
        let other = received.recv().expect("a clock").expect("a clock");
        let own = ThreadClock::of_this_thread().expect("a clock");
        let (own_before, other_before) = (own.nanos().expect("alive"), other.nanos().expect("alive"));
        while own.nanos().expect("alive") < own_before + 20_000_000 {}
        assert!(other.nanos().expect("alive") < other_before + 10_000_000);
        drop(end);
        sleeper.join().expect("it ends");
    }
}
