//! An alarm that ends a system call that blocks although it must not.

use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, Signal, sigaction};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::gettid;

/// The signal. uWSGI uses it for requests that take too long, in processes that answer requests.
const SIGNAL: Signal = Signal::SIGALRM;

/// An alarm of the thread that has made it. While it is set, it interrupts the thread again and again: a system call that sleeps then
/// fails with EINTR. One signal would not do, since it may come right before the call.
#[derive(Debug)]
pub struct Alarm {
    timer: Timer,
    is_set: bool,
}

/// The signal has done its work when it comes.
const extern "C" fn nothing(_: libc::c_int) {}

impl Alarm {
    /// The time between two interruptions, and so the longest that a call may sleep.
    pub const PERIOD: Duration = Duration::from_millis(10);

    /// Makes an alarm for the calling thread, which isn't set. SIGALRM of this process is for alarms from then on.
    pub fn of_this_thread() -> nix::Result<Self> {
        // Without SA_RESTART, so that the call isn't begun anew (signal(7)).
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, which is safe at any time.
        unsafe { sigaction(SIGNAL, &action) }?;
        SigSet::from(SIGNAL).thread_unblock()?;
        let notify = SigevNotify::SigevThreadId { signal: SIGNAL, thread_id: gettid().as_raw(), si_value: 0 };
        Ok(Self { timer: Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(notify))?, is_set: false })
    }

    /// Sets the alarm, unless it is set.
    #[inline]
    pub fn set(&mut self) {
        if !self.is_set {
            self.is_set = self.arm(Self::PERIOD);
        }
    }

    /// Ends the alarm.
    #[inline]
    pub fn end(&mut self) {
        if self.is_set {
            self.is_set = !self.arm(Duration::ZERO);
        }
    }

    /// Returns false if the kernel refuses that, which it does for a time out of its range only.
    fn arm(&mut self, period: Duration) -> bool {
        self.timer.set(Expiration::Interval(period.into()), TimerSetTimeFlags::empty()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::errno::Errno;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::unistd::{pipe, read};

    use super::*;

    #[test]
    fn call_that_blocks_is_ended_while_the_alarm_is_set() {
        let mut alarm = Alarm::of_this_thread().expect("a timer");
        let (reader, writer) = pipe().expect("a pipe");
        alarm.set();
        alarm.set();
        for _ in 0..3 {
            assert_eq!(read(&reader, &mut [0]), Err(Errno::EINTR));
        }
        // A signal that came before the call is no excuse.
        std::thread::sleep(Alarm::PERIOD * 2);
        assert_eq!(read(&reader, &mut [0]), Err(Errno::EINTR));
        alarm.end();
        let wait = || {
            let timeout = PollTimeout::try_from(Alarm::PERIOD * 10).expect("less than a minute");
            poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], timeout)
        };
        assert_eq!(wait(), Ok(0), "nothing interrupts");
        alarm.set();
        assert_eq!(wait(), Err(Errno::EINTR));
        alarm.end();
        drop(writer);
    }

    #[test]
    fn other_threads_are_not_interrupted() {
        let mut alarm = Alarm::of_this_thread().expect("a timer");
        let (reader, writer) = pipe().expect("a pipe");
        let other = std::thread::spawn(move || read(&reader, &mut [0]));
        alarm.set();
        for _ in 0..3 {
            assert_eq!(poll(&mut [], PollTimeout::NONE), Err(Errno::EINTR));
        }
        drop(writer);
        assert_eq!(other.join().expect("it ends"), Ok(0));
    }
}
