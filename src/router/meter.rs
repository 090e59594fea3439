//! What writes into a peer's device cost. The kernel handles a written packet at once, in the router's thread: with the
//! receive path of the peer's namespace, its packet filter included, which a vassal with privileges there can make as
//! long as it likes.

/// Writes that are measured from the start, before the first judgement.
const FIRST_WRITES: u32 = 8;

/// After these, one write of so many is measured.
const INTERVAL: u32 = 8;

/// Most processor time that a write may take on average, in nanoseconds. A super-packet of 64 KiB takes 10,000 to 30,000
/// with all that TCP does on its arrival; this leaves room for slower machines.
const MAX_AVERAGE_NANOS: u64 = 250_000;

/// A running average of the measured writes.
#[derive(Debug, Default)]
pub struct WriteMeter {
    writes: u32,
    samples: u32,
    average_nanos: u64,
}

impl WriteMeter {
    /// Counts a write. Returns whether it is to be measured.
    pub const fn is_due(&mut self) -> bool {
        self.writes = self.writes.wrapping_add(1);
        self.writes <= FIRST_WRITES || self.writes.is_multiple_of(INTERVAL)
    }

    /// Takes note of what a write took.
    pub const fn record(&mut self, nanos: u64) {
        self.average_nanos =
            if self.samples == 0 { nanos } else { self.average_nanos - self.average_nanos / 8 + nanos / 8 };
        self.samples = self.samples.saturating_add(1);
    }

    /// Whether writes cost more than can be asked of the others.
    pub const fn is_too_expensive(&self) -> bool {
        self.samples >= FIRST_WRITES && self.average_nanos > MAX_AVERAGE_NANOS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(writes: u32, nanos: impl Fn(u32) -> u64) -> WriteMeter {
        let mut meter = WriteMeter::default();
        for index in 0..writes {
            if meter.is_due() {
                meter.record(nanos(index));
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
    fn writes_that_become_expensive_show_too() {
        assert!(after(2000, |index| if index < 1000 { 20_000 } else { 400_000 }).is_too_expensive());
    }
}
