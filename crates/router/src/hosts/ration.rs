//! How much of the loop's time others than packets get.

use std::time::{Duration, Instant};

/// Lets a piece of work begin only after a pause that is as many times as long as the piece before it has taken.
#[derive(Debug)]
pub struct Ration {
    not_before: Instant,
}

impl Ration {
    /// Packets get three quarters of the time, if there are any.
    const PAUSE: u32 = 3;

    /// Longest pause. A piece that was interrupted for long, as when the machine was frozen, must not make for a long one.
    const LONGEST_PAUSE: Duration = Duration::from_millis(50);

    /// Work may begin now.
    pub const fn new(now: Instant) -> Self {
        Self { not_before: now }
    }

    /// Returns true if a piece of work may begin.
    pub fn is_open(&self, now: Instant) -> bool {
        self.not_before <= now
    }

    /// A piece of work is done.
    pub fn spend(&mut self, begin: Instant, end: Instant) {
        let took = end.saturating_duration_since(begin);
        self.not_before = end + (Self::PAUSE * took).min(Self::LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_a_quarter_of_the_time() {
        let start = Instant::now();
        let mut ration = Ration::new(start);
        let (piece, mut now, mut worked) = (Duration::from_micros(400), start, Duration::ZERO);
        for _ in 0..100 {
            assert!(ration.is_open(now));
            ration.spend(now, now + piece);
            worked += piece;
            now = ration.not_before;
            assert!(!ration.is_open(now - Duration::from_nanos(1)));
        }
        assert_eq!(now - start, 4 * worked);
        ration.spend(now, now + Duration::from_secs(100));
        assert_eq!(ration.not_before, now + Duration::from_secs(100) + Ration::LONGEST_PAUSE);
    }
}
