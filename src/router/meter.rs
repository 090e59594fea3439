//! What writes into a peer's device cost. The kernel handles a written packet at once, in the router's thread: with the
//! receive path of the peer's namespace, its packet filter included, which a vassal with privileges there can make as
//! long as it likes.

use std::time::{Duration, Instant};

/// Writes that are measured from the start, before the first judgement.
const FIRST_WRITES: u32 = 8;

/// After these, one write of so many is measured.
const INTERVAL: u32 = 8;

/// Most processor time that a write may take on average, in nanoseconds. A super-packet of 64 KiB takes 10,000 to 30,000
/// with all that TCP does on its arrival; this leaves room for slower machines.
const MAX_AVERAGE_NANOS: u64 = 250_000;

/// From here on, in nanoseconds for each packet and for each byte of it, writes are expensive: about ten times what they
/// take without a packet filter. Together with other expensive ones they have to do with a part of the router's time.
const EXPENSIVE_PACKET_NANOS: u64 = 50_000;
const EXPENSIVE_BYTE_NANOS: u64 = 3;

/// Running averages of the measured writes.
#[derive(Debug, Default)]
pub struct WriteMeter {
    writes: u32,
    samples: u32,
    average_nanos: u64,
    average_len: u64,
}

impl WriteMeter {
    /// Counts a write. Returns whether it is to be measured.
    pub const fn is_due(&mut self) -> bool {
        self.writes = self.writes.wrapping_add(1);
        self.writes <= FIRST_WRITES || self.writes.is_multiple_of(INTERVAL)
    }

    /// Takes note of what a write took, and of its length.
    pub const fn record(&mut self, nanos: u64, len: usize) {
        let len = len as u64;
        if self.samples == 0 {
            self.average_nanos = nanos;
            self.average_len = len;
        } else {
            self.average_nanos = self.average_nanos - self.average_nanos / 8 + nanos / 8;
            self.average_len = self.average_len - self.average_len / 8 + len / 8;
        }
        self.samples = self.samples.saturating_add(1);
    }

    /// What a write takes on average, in nanoseconds, if that is much more than it should.
    pub const fn expensive_nanos(&self) -> Option<u64> {
        let bound = EXPENSIVE_PACKET_NANOS + EXPENSIVE_BYTE_NANOS * self.average_len;
        if self.samples >= FIRST_WRITES && self.average_nanos > bound { Some(self.average_nanos) } else { None }
    }

    /// Whether writes cost more than can be asked of the others.
    pub const fn is_too_expensive(&self) -> bool {
        self.samples >= FIRST_WRITES && self.average_nanos > MAX_AVERAGE_NANOS
    }
}

/// The router's time for expensive writes, of all peers together: many of them must not take more than one.
#[derive(Debug)]
pub struct ExpensiveTime {
    period_start: Instant,
    spent_nanos: u64,
}

impl ExpensiveTime {
    const PERIOD: Duration = Duration::from_millis(100);

    /// A quarter of each period.
    const MAX_NANOS: u64 = 25_000_000;

    /// Nothing spent yet.
    pub const fn new(now: Instant) -> Self {
        Self { period_start: now, spent_nanos: 0 }
    }

    /// Spends what a write takes. Returns whether there was any time left for it.
    pub fn spend(&mut self, nanos: u64, now: Instant) -> bool {
        if now.saturating_duration_since(self.period_start) >= Self::PERIOD {
            *self = Self::new(now);
        }
        let is_left = self.spent_nanos < Self::MAX_NANOS;
        if is_left {
            self.spent_nanos = self.spent_nanos.saturating_add(nanos);
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(writes: u32, nanos: impl Fn(u32) -> u64) -> WriteMeter {
        let mut meter = WriteMeter::default();
        for index in 0..writes {
            if meter.is_due() {
                meter.record(nanos(index), 1500);
            }
        }
        meter
    }

    #[test]
    fn expensive_writes_show_after_the_first_eight() {
        assert!(!after(7, |_| 2_000_000).is_too_expensive());
        assert!(after(8, |_| 2_000_000).is_too_expensive());
    }

    #[test]
    fn single_slow_writes_do_not_count() {
        assert!(!after(10_000, |_| 30_000).is_too_expensive());
        assert!(!after(9, |index| if index == 3 { 500_000 } else { 20_000 }).is_too_expensive());
    }

    #[test]
    fn expensive_is_more_for_a_super_packet() {
        let after = |nanos, len| {
            let mut meter = WriteMeter::default();
            (0..100).for_each(|_| meter.record(nanos, len));
            meter.expensive_nanos()
        };
        assert_eq!(after(10_000, 100), None);
        assert_eq!(after(60_000, 100), Some(60_000));
        assert_eq!(after(200_000, 65_000), None);
        assert_eq!(after(249_000, 60_000), Some(249_000));
        let mut meter = WriteMeter::default();
        (0..7).for_each(|_| meter.record(60_000, 100));
        assert_eq!(meter.expensive_nanos(), None, "a few say nothing");
    }

    #[test]
    fn expensive_writes_get_a_quarter_of_the_time() {
        let start = Instant::now();
        let mut time = ExpensiveTime::new(start);
        let written =
            (0..100_000).filter(|index| time.spend(100_000, start + Duration::from_micros(*index * 10))).count();
        assert_eq!(written, 10 * 250, "in a second of many attempts");
    }

    #[test]
    fn writes_that_become_expensive_show_too() {
        assert!(after(2000, |index| if index < 1000 { 20_000 } else { 400_000 }).is_too_expensive());
    }
}
