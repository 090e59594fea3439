//! Controlled delay (`CoDel`, RFC 8289): which packets of a queue are dropped or marked because the queue stands.

use super::bucket::SECOND;

/// Least interval, in nanoseconds: as long as round trips on the Internet usually take at most (RFC 8289, section 4.3).
pub const MIN_INTERVAL: u64 = SECOND / 10;

/// The interval in targets. A target of 5 to 10 % of the interval loses hardly any throughput (RFC 8289, section 4.4). At low
/// rates, where a packet or two are the target, the interval has to grow along: else a sender would be asked to slow down before
/// it can have seen what it was asked before. The upper end of that range reacts soonest.
pub const INTERVAL_TARGETS: u64 = 10;

/// For how many intervals the queue that ended is remembered (as RFC 8289, appendix A, does).
const MEMORY_INTERVALS: u64 = 16;

/// What is too long, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delays {
    /// How long packets may wait.
    pub target: u64,
    /// For how long they may wait longer than that.
    pub interval: u64,
}

impl Delays {
    /// Returns those for a target.
    pub fn new(target: u64) -> Self {
        Self { target, interval: target.saturating_mul(INTERVAL_TARGETS).max(MIN_INTERVAL) }
    }
}

/// The state of one queue. The names are those of RFC 8289, section 5.
#[derive(Debug, Clone, Copy, Default)]
pub struct Codel {
    count: u64,
    last_count: u64,
    first_above: Option<u64>,
    drop_next: u64,
    dropping: bool,
}

impl Codel {
    /// Returns true if the packet at the head of the queue is to be dropped or marked. It must be asked for each packet that
    /// leaves. The last packet of a queue never is: there is nothing that waits behind it.
    pub fn hits(&mut self, waited: u64, is_last: bool, now: u64, delays: Delays) -> bool {
        if !self.is_late(waited, is_last, now, delays) {
            self.dropping = false;
            return false;
        }
        if self.dropping {
            if now < self.drop_next {
                return false;
            }
            self.count = self.count.saturating_add(1);
            self.drop_next = next_drop(self.drop_next, self.count, delays.interval);
            return true;
        }
        self.dropping = true;
        // The rate that ended the last queue is a good guess for this one.
        let is_recent = now.saturating_sub(self.drop_next) < MEMORY_INTERVALS.saturating_mul(delays.interval);
        let since = self.count.saturating_sub(self.last_count);
        self.count = if since > 1 && is_recent { since } else { 1 };
        self.last_count = self.count;
        self.drop_next = next_drop(now, self.count, delays.interval);
        true
    }

    /// Returns true if packets have waited too long for a whole interval.
    fn is_late(&mut self, waited: u64, is_last: bool, now: u64, delays: Delays) -> bool {
        if waited < delays.target || is_last {
            self.first_above = None;
            return false;
        }
        let since = *self.first_above.get_or_insert_with(|| now.saturating_add(delays.interval));
        now >= since
    }
}

/// The times of drops come closer by the square root of their number, so that a sender of TCP slows down linearly.
fn next_drop(from: u64, count: u64, interval: u64) -> u64 {
    // 16 binary digits of the root behind the point.
    let root = (count.min(u64::from(u32::MAX)) << 32).isqrt().max(1);
    let delay = (u128::from(interval) << 16) / u128::from(root);
    from.saturating_add(u64::try_from(delay).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const DELAYS: Delays = Delays { target: 5 * MS, interval: 100 * MS };

    /// The milliseconds at which one of the packets is hit that leave each millisecond.
    fn hits(codel: &mut Codel, waited: u64, milliseconds: std::ops::Range<u64>) -> Vec<u64> {
        milliseconds.filter(|ms| codel.hits(waited, false, ms * MS, DELAYS)).collect()
    }

    #[test]
    fn a_short_queue_is_left_alone() {
        assert!(hits(&mut Codel::default(), 5 * MS - 1, 0..10_000).is_empty());
    }

    #[test]
    fn a_standing_queue_is_hit_after_an_interval_and_then_ever_more_often() {
        // 100 + 100, + 100 / sqrt 2, + 100 / sqrt 3, rounded up to the next packet.
        assert_eq!(hits(&mut Codel::default(), 5 * MS, 0..330), [100, 200, 271, 329]);
    }

    #[test]
    fn a_gap_ends_it_and_the_rate_is_remembered() {
        let mut codel = Codel::default();
        assert_eq!(hits(&mut codel, 20 * MS, 0..330).len(), 4);
        assert!(hits(&mut codel, 0, 330..340).is_empty());
        // Three drops since the first: the next queue goes on with 100 / sqrt 3.
        assert_eq!(hits(&mut codel, 20 * MS, 340..500), [440, 498]);
        assert!(hits(&mut codel, 0, 500..10_000).is_empty());
        assert_eq!(hits(&mut codel, 20 * MS, 10_000..10_250), [10_100, 10_200]);
    }

    #[test]
    fn the_last_packet_is_spared() {
        let mut codel = Codel::default();
        assert!((0..10_000).all(|ms| !codel.hits(SECOND, true, ms * MS, DELAYS)));
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut codel = Codel { count: u64::MAX, dropping: true, ..Codel::default() };
        let delays = Delays::new(u64::MAX);
        codel.hits(u64::MAX, false, u64::MAX, delays);
        codel.hits(u64::MAX, false, u64::MAX, delays);
        assert_eq!(delays.interval, u64::MAX);
        assert_eq!(Delays::new(5 * MS), DELAYS);
    }
}
