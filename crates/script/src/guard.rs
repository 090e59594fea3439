//! What a virtual machine asks at every call and round of a loop: may it go on?

use std::cell::Cell;
use std::time::Duration;

use tuntap_sys::process::thread_time_nanos;

use super::calibration::time_limit;
use super::limits::MAX_STEPS;
use super::watchdog::Watchdog;

/// Steps between two looks at the clock, where there is no watchdog.
const STEPS_PER_LOOK: u32 = 64;

/// Who knows how long a call has taken.
#[derive(Debug)]
pub enum Timer {
    /// The watchdog.
    Watchdog(Watchdog),
    /// The clock of the processor time of the calling thread. Reading it is slow.
    Clock {
        /// The time when the call began, in nanoseconds.
        started: Cell<u64>,
    },
}

/// The limits of the call that runs.
#[derive(Debug)]
pub struct Guard {
    timer: Timer,
    steps: Cell<u32>,
    is_over: Cell<bool>,
}

impl Guard {
    /// Asks the watchdog for the time, if there is one.
    pub fn new(watchdog: Option<Watchdog>) -> Self {
        let timer = watchdog.map_or_else(|| Timer::Clock { started: Cell::new(0) }, Timer::Watchdog);
        Self { timer, steps: Cell::new(0), is_over: Cell::new(false) }
    }

    /// A call begins.
    pub fn begin(&self) {
        self.steps.set(0);
        self.is_over.set(false);
        match &self.timer {
            Timer::Watchdog(watchdog) => watchdog.begin(),
            Timer::Clock { started } => started.set(thread_time_nanos()),
        }
    }

    /// The call has ended. Returns true if it had used up its time or its steps, whatever it has made of that.
    pub fn end(&self) -> bool {
        if let Timer::Watchdog(watchdog) = &self.timer {
            watchdog.end();
        }
        self.is_over.get()
    }

    /// Counts a step. Returns true if the call must end. Once it must, it stays so until the call has ended, so that nothing
    /// is gained by catching the error.
    pub fn is_over(&self) -> bool {
        if self.is_over.get() {
            return true;
        }
        let steps = self.steps.get() + 1;
        self.steps.set(steps);
        let is_over = steps > MAX_STEPS
            || match &self.timer {
                Timer::Watchdog(watchdog) => watchdog.is_expired(),
                Timer::Clock { started } => {
                    steps.is_multiple_of(STEPS_PER_LOOK)
                        && Duration::from_nanos(thread_time_nanos().saturating_sub(started.get())) >= time_limit()
                }
            };
        self.is_over.set(is_over);
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_end_a_call_that_no_clock_ends() {
        let watchdog = Watchdog::start().expect("a thread");
        let guard = Guard::new(Some(watchdog));
        guard.begin();
        let steps = (0..=MAX_STEPS).take_while(|_| !guard.is_over()).count();
        assert!(steps <= MAX_STEPS as usize);
        assert!(guard.is_over() && guard.end());
        guard.begin();
        assert!(!guard.is_over() && !guard.end());
    }

    #[test]
    fn clock_ends_a_call() {
        let guard = Guard::new(None);
        guard.begin();
        while !guard.is_over() {}
        assert!(guard.end());
    }
}
