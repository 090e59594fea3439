//! Debts of time: a peer's writes add to its debt, and the passing of time pays it back.

use std::time::{Duration, Instant};

use crate::nanos::nanos;

/// A debt in nanoseconds.
#[derive(Debug)]
pub struct Debt {
    nanos: u64,
    settled_at: Instant,
}

impl Debt {
    /// The largest debt. It keeps a machine that was stopped for a while from cutting off a peer for long.
    const MAX: u64 = 500_000_000;

    /// Makes an empty debt.
    pub const fn new(now: Instant) -> Self {
        Self { nanos: 0, settled_at: now }
    }

    /// Adds to the debt.
    pub const fn add(&mut self, nanos: u64) {
        let sum = self.nanos.saturating_add(nanos);
        self.nanos = if sum > Self::MAX { Self::MAX } else { sum };
    }

    /// Pays back the time since the last call, divided by `divisor`. Returns the rest of the debt.
    pub fn settle(&mut self, now: Instant, divisor: u64) -> u64 {
        let passed = now.saturating_duration_since(self.settled_at);
        let paid = nanos(passed) / divisor.max(1);
        // A time that is too short to pay back a nanosecond counts with the next call.
        if paid > 0 {
            self.settled_at = now;
            self.nanos = self.nanos.saturating_sub(paid);
        }
        self.nanos
    }
}

/// Counts those who share a part of the time: the peers that were charged in this window or the one before.
#[derive(Debug)]
pub struct Sharers {
    window_start: Instant,
    window: u64,
    in_last: u64,
    in_this: u64,
}

impl Sharers {
    const WINDOW: Duration = Duration::from_millis(100);

    /// Makes a count of no peers.
    pub const fn new(now: Instant) -> Self {
        Self { window_start: now, window: 0, in_last: 0, in_this: 0 }
    }

    /// Returns the number of the present window. A peer that is charged calls [`Self::join`] once in each.
    pub fn window(&mut self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.window_start);
        if passed >= Self::WINDOW {
            self.in_last = if passed < 2 * Self::WINDOW { self.in_this } else { 0 };
            self.in_this = 0;
            self.window += 1;
            self.window_start = now;
        }
        self.window
    }

    /// Counts one more peer in this window.
    pub const fn join(&mut self) {
        self.in_this += 1;
    }

    /// Returns the number of peers that share the time, at least 1.
    pub fn count(&mut self, now: Instant) -> u64 {
        self.window(now);
        self.in_last.max(self.in_this).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debt_is_paid_with_a_part_of_the_time() {
        let start = Instant::now();
        let mut debt = Debt::new(start);
        debt.add(1_000_000);
        assert_eq!(debt.settle(start + Duration::from_millis(1), 4), 750_000);
        assert_eq!(debt.settle(start + Duration::from_millis(1), 4), 750_000);
        assert_eq!(debt.settle(start + Duration::from_millis(5), 4), 0);
        debt.add(u64::MAX);
        debt.add(u64::MAX);
        assert_eq!(debt.settle(start + Duration::from_millis(5), 4), Debt::MAX);
    }

    #[test]
    fn sharers_are_those_of_two_windows() {
        let start = Instant::now();
        let mut sharers = Sharers::new(start);
        assert_eq!(sharers.count(start), 1);
        (0..3).for_each(|_| sharers.join());
        assert_eq!(sharers.count(start), 3);
        assert_eq!(sharers.count(start + Sharers::WINDOW), 3);
        sharers.join();
        assert_eq!(sharers.count(start + Sharers::WINDOW), 3);
        assert_eq!(sharers.count(start + Sharers::WINDOW * 2), 1);
        assert_eq!(sharers.count(start + Sharers::WINDOW * 9), 1);
    }
}
