//! Detects a router that hangs. Its event loop beats with each turn, and wakes up for that if it has nothing else to do.
//! The master checks the beats. It counts only time in which it has checked itself. So a router isn't taken for one that
//! hangs because the clock was set, or because the machine or all of its processes were frozen.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tuntap_sys::shared::SharedNumber;

/// Numbers in memory that the router and the master share.
#[derive(Debug)]
pub struct Heartbeat {
    /// The number of turns of the router's event loop. The upper half is the number of the process, so that a router that
    /// hasn't begun yet can't be taken for the one before it.
    beats: SharedNumber,
    /// The number in the store of the peer to whose device the router is writing; 0 if it isn't writing.
    writing: SharedNumber,
    /// The value of `writing` when the last router hung, until the next router has read it.
    hung_write: SharedNumber,
}

impl Heartbeat {
    /// Makes the shared memory. To be called before the fork.
    pub fn new() -> nix::Result<Self> {
        Ok(Self { beats: SharedNumber::new()?, writing: SharedNumber::new()?, hung_write: SharedNumber::new()? })
    }

    /// Stores to whose device a router was writing when it hung. Called in the master.
    pub fn record_hang(&self) {
        self.hung_write.set(self.writing.get());
    }

    /// Returns once to whose device the router before this one was writing when it hung. Called in the next router.
    pub fn take_hung_write(&self) -> Option<u64> {
        let serial = self.hung_write.get();
        self.hung_write.set(NOBODY);
        (serial != NOBODY).then_some(serial)
    }
}

/// Not the number of any peer in the store.
const NOBODY: u64 = 0;

/// The router's side.
#[derive(Debug)]
pub struct Pulse<'a> {
    heartbeat: &'a Heartbeat,
    own: u64,
    beats: Cell<u32>,
    /// The longest time between two beats; `None` if the master doesn't check them.
    pub interval: Option<Duration>,
}

impl<'a> Pulse<'a> {
    /// Makes the router's side. The master takes a router without a beat for `timeout` for one that hangs; zero disables
    /// that.
    pub fn new(heartbeat: &'a Heartbeat, timeout: Duration) -> Self {
        heartbeat.writing.set(NOBODY);
        let interval = (!timeout.is_zero()).then(|| timeout / BEATS_PER_TIMEOUT);
        Self { heartbeat, own: u64::from(std::process::id()) << 32, beats: Cell::new(0), interval }
    }

    /// Beats: the router does its work. A router is watched from its first beat on.
    pub fn beat(&self) {
        self.beats.set(self.beats.get().wrapping_add(1));
        self.heartbeat.beats.set(self.own | u64::from(self.beats.get()));
    }

    /// Runs a write to the device of the peer with this number in the store. A write runs the receive path of the vassal's
    /// namespace in the kernel, which the vassal may have made endless.
    pub fn while_writing<T>(&self, serial: Option<u64>, write: impl FnOnce() -> T) -> T {
        self.heartbeat.writing.set(serial.unwrap_or(NOBODY));
        let result = write();
        self.heartbeat.writing.set(NOBODY);
        result
    }
}

/// The number of beats of an idle router within the timeout.
const BEATS_PER_TIMEOUT: u32 = 2;

/// Of the time between two checks at most this fraction (1/n) of the timeout counts. Together with the longest time between
/// two beats that is less than the timeout, so that a router that was frozen together with the master has time to beat.
const CHECKS_PER_TIMEOUT: u32 = 4;

/// The master's side.
#[derive(Debug)]
pub struct Watchdog {
    timeout: Duration,
    seen: u64,
    checked_at: Option<Instant>,
    silence: Duration,
}

impl Watchdog {
    /// Makes the master's side. A router without a beat for `timeout` hangs; zero disables the watchdog.
    pub const fn new(timeout: Duration) -> Self {
        Self { timeout, seen: 0, checked_at: None, silence: Duration::ZERO }
    }

    /// Returns the time between two checks; `None` if the watchdog is disabled.
    pub fn interval(&self) -> Option<Duration> {
        (!self.timeout.is_zero()).then(|| self.timeout / CHECKS_PER_TIMEOUT)
    }

    /// Checks a router's process. Returns true if it hangs, and then only after another timeout again.
    pub fn check(&mut self, heartbeat: &Heartbeat, pid: libc::pid_t, now: Instant) -> bool {
        self.judge(heartbeat.beats.get(), pid, now)
    }

    fn judge(&mut self, beats: u64, pid: libc::pid_t, now: Instant) -> bool {
        let Some(longest) = self.interval() else { return false };
        let since =
            self.checked_at.replace(now).map_or(Duration::ZERO, |checked_at| now.saturating_duration_since(checked_at));
        let is_other = beats >> 32 != u64::from(pid.unsigned_abs());
        if is_other || beats != self.seen {
            self.seen = beats;
            self.silence = Duration::ZERO;
            return false;
        }
        self.silence += since.min(longest);
        let hangs = self.silence >= self.timeout;
        if hangs {
            self.silence = Duration::ZERO;
        }
        hangs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(6);
    const PID: libc::pid_t = 4711;

    fn beat(count: u64) -> u64 {
        4711 << 32 | count
    }

    /// Returns the second in which a watchdog that checks once a second finds that a router hangs.
    fn found_after(watchdog: &mut Watchdog, start: Instant, beats: impl Fn(u64) -> u64, within: u64) -> Option<u64> {
        (1..=within).find(|&second| watchdog.judge(beats(second), PID, start + Duration::from_secs(second)))
    }

    #[test]
    fn silence_is_a_hang_and_beats_are_none() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(TIMEOUT);
        // These are the beats of an idle router.
        assert_eq!(found_after(&mut watchdog, start, |second| beat(second / 3), 100), None);
        let start = start + Duration::from_secs(100);
        assert_eq!(found_after(&mut watchdog, start, |_| beat(34), 100), Some(7), "its last beat was after a second");
        let start = start + Duration::from_secs(7);
        assert_eq!(found_after(&mut watchdog, start, |_| beat(34), 100), Some(6), "it may be slow to end");
    }

    #[test]
    fn zero_timeout_disables_the_watchdog() {
        let mut watchdog = Watchdog::new(Duration::ZERO);
        assert_eq!(found_after(&mut watchdog, Instant::now(), |_| beat(1), 10_000), None);
        let heartbeat = Heartbeat::new().expect("a page");
        assert_eq!((watchdog.interval(), Pulse::new(&heartbeat, Duration::ZERO).interval), (None, None));
    }

    /// The machine sleeps for a day, again and again, each time right before its idle router would have beaten.
    #[test]
    fn frozen_machine_hangs_no_router() {
        let mut watchdog = Watchdog::new(TIMEOUT);
        let mut now = Instant::now();
        for count in 1..10 {
            for _ in 0..3 {
                assert!(!watchdog.judge(beat(count), PID, now));
                now += Duration::from_secs(1);
            }
            now += Duration::from_secs(24 * 60 * 60);
            assert!(!watchdog.judge(beat(count), PID, now), "the master is the first to wake up");
            now += Duration::from_millis(10);
        }
    }

    /// A router that starts slowly is not taken for the router before it.
    #[test]
    fn router_that_has_not_begun_is_not_judged_by_the_last_one() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(TIMEOUT);
        assert!(!watchdog.judge(beat(9), PID, start));
        let begun = |second: u64| watchdog.judge(beat(9), PID + 1, start + Duration::from_secs(second));
        assert_eq!((1..100).map(begun).filter(|hangs| *hangs).count(), 0);
    }

    #[test]
    fn hung_write_is_reported_once() {
        let heartbeat = Heartbeat::new().expect("a page");
        let pulse = Pulse::new(&heartbeat, TIMEOUT);
        pulse.while_writing(Some(7), || heartbeat.record_hang());
        assert_eq!((heartbeat.take_hung_write(), heartbeat.take_hung_write()), (Some(7), None));
        heartbeat.record_hang();
        assert_eq!(heartbeat.take_hung_write(), None, "the write is over");
    }

    #[test]
    fn master_sees_the_beats() {
        let heartbeat = Heartbeat::new().expect("a page");
        let pulse = Pulse::new(&heartbeat, TIMEOUT);
        let own = libc::pid_t::try_from(std::process::id()).expect("a pid");
        let (mut watchdog, start) = (Watchdog::new(TIMEOUT), Instant::now());
        let mut check = |second: u64, alive: bool| {
            if alive {
                pulse.beat();
            }
            watchdog.check(&heartbeat, own, start + Duration::from_secs(second))
        };
        assert!((0..20).all(|second| !check(second, true)));
        assert_eq!((20..40).find(|&second| check(second, false)), Some(25));
    }
}
