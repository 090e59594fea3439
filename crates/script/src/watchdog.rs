//! The thread that ends calls which take too long. What counts is the processor time of the thread that runs the script, so
//! that a script isn't blamed for what others on the machine do. While calls follow each other the script's thread makes no
//! system call for this; when there are none for a while, the watchdog sleeps until the next one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, Thread};
use std::time::Duration;

use tuntap_sys::process::with_signals_blocked;
use tuntap_sys::thread_clock::ThreadClock;

use super::calibration::time_limit;

/// How often the watchdog looks in the time that a call may take.
const LOOKS_PER_LIMIT: u32 = 4;

/// Least time between two looks.
const MIN_PERIOD: Duration = Duration::from_micros(250);

/// Looks without a new call after which the watchdog sleeps until there is one.
const IDLE_LOOKS: u32 = 8;

/// A thread that watches the calls of one other thread.
#[derive(Debug, Clone)]
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Debug)]
struct Shared {
    /// The number of the latest call, times two; one less while it runs.
    call: AtomicU64,
    /// The value that `call` had when a call had used up its time.
    expired: AtomicU64,
    /// The most processor time that was seen of a call, in nanoseconds.
    longest: AtomicU64,
    /// True if the watchdog waits to be woken by the next call.
    is_asleep: AtomicBool,
}

impl Watchdog {
    /// Starts the thread, which watches the calling one, and waits until restrictions that apply to all threads can be made.
    /// The thread ends with the process: the sandbox doesn't allow the system calls of a thread that ends.
    pub fn start() -> io::Result<Self> {
        let clock = ThreadClock::of_this_thread()?;
        let limit = time_limit();
        let shared = Arc::new(Shared {
            call: AtomicU64::new(0),
            expired: AtomicU64::new(u64::MAX),
            longest: AtomicU64::new(0),
            is_asleep: AtomicBool::new(false),
        });
        let (ready, is_ready) = mpsc::channel();
        let watched = Arc::clone(&shared);
        let builder = thread::Builder::new().name("script-watch".to_owned());
        let handle = with_signals_blocked(|| builder.spawn(move || watch(&watched, clock, limit, &ready)))
            .map_err(io::Error::from)??;
        // This fails only if the thread has already ended. Then the number of steps bounds the calls.
        let _ = is_ready.recv();
        Ok(Self { shared, thread: handle.thread().clone() })
    }

    /// Notes that a call begins.
    pub(crate) fn begin(&self) {
        let last = self.shared.call.load(Ordering::Relaxed);
        // It is odd if a panic has ended the last call.
        let call = last + 1 + last % 2;
        // The order of this store and this load, and that of their counterparts in `watch`, keeps a call from going
        // unnoticed.
        self.shared.call.store(call, Ordering::SeqCst);
        if self.shared.is_asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
    }

    /// Notes that the call has ended.
    pub(crate) fn end(&self) {
        self.shared.call.store(self.shared.call.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// Returns true if the call has used up its time.
    pub(crate) fn is_expired(&self) -> bool {
        self.shared.expired.load(Ordering::Relaxed) == self.shared.call.load(Ordering::Relaxed)
    }

    /// Returns the most processor time that was seen of a call, in nanoseconds. Calls that end between two looks aren't seen.
    pub(crate) fn longest(&self) -> u64 {
        self.shared.longest.load(Ordering::Relaxed)
    }

    /// Returns true if the thread waits to be woken.
    #[cfg(test)]
    fn is_asleep(&self) -> bool {
        self.shared.is_asleep.load(Ordering::SeqCst)
    }
}

fn watch(shared: &Shared, clock: ThreadClock, limit: Duration, ready: &Sender<()>) {
    let period = (limit / LOOKS_PER_LIMIT).max(MIN_PERIOD);
    let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
    let (mut seen, mut started, mut idle) = (0, 0, 0);
    let _ = ready.send(());
    loop {
        let call = shared.call.load(Ordering::SeqCst);
        let runs = call % 2 == 1;
        if call != seen {
            (seen, idle) = (call, 0);
            started = if runs { clock.nanos().unwrap_or_default() } else { 0 };
        } else if runs {
            let used = clock.nanos().unwrap_or_default().saturating_sub(started);
            shared.longest.fetch_max(used, Ordering::Relaxed);
            if used >= limit {
                shared.expired.store(call, Ordering::Relaxed);
            }
        } else {
            idle += 1;
            if idle >= IDLE_LOOKS {
                sleep_until_call(shared, seen);
                idle = 0;
                continue;
            }
        }
        thread::sleep(period);
    }
}

/// Waits for a call after the one whose number is given.
fn sleep_until_call(shared: &Shared, seen: u64) {
    shared.is_asleep.store(true, Ordering::SeqCst);
    while shared.call.load(Ordering::SeqCst) == seen {
        thread::park();
    }
    shared.is_asleep.store(false, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Far more than anything here takes, on any machine.
    const TIMEOUT: Duration = Duration::from_secs(60);

    fn wait_until(condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < TIMEOUT, "it takes too long");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn ends_a_call_that_computes_and_sleeps_afterwards() {
        let watchdog = Watchdog::start().expect("a thread");
        for _ in 0..3 {
            wait_until(|| watchdog.is_asleep());
            watchdog.begin();
            let start = Instant::now();
            while !watchdog.is_expired() {
                assert!(start.elapsed() < TIMEOUT, "it takes too long");
            }
            watchdog.end();
            assert!(!watchdog.is_expired(), "the next call begins anew");
            watchdog.begin();
            assert!(!watchdog.is_expired(), "the next call begins anew");
            watchdog.end();
        }
        assert!(watchdog.longest() >= u64::try_from(time_limit().as_nanos()).expect("short"));
    }

    #[test]
    fn call_after_one_without_an_end_runs() {
        let watchdog = Watchdog::start().expect("a thread");
        watchdog.begin();
        watchdog.begin();
        let start = Instant::now();
        while !watchdog.is_expired() {
            assert!(start.elapsed() < TIMEOUT, "it takes too long");
        }
        watchdog.end();
    }

    #[test]
    fn call_of_a_thread_that_waits_goes_on() {
        let watchdog = Watchdog::start().expect("a thread");
        watchdog.begin();
        thread::sleep(time_limit() * 20);
        assert!(!watchdog.is_expired());
        watchdog.end();
    }
}
