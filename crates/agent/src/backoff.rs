//! How long to wait before dialling again.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

/// The first pause.
pub const FIRST: Duration = Duration::from_millis(100);

/// The longest pause while the neighbour can't be reached. It is short, because it is how long a link that has come back stays
/// unused.
pub const LONGEST: Duration = Duration::from_secs(1);

/// The longest pause while the neighbour is reached and refuses.
pub const LONGEST_REFUSED: Duration = Duration::from_secs(15);

/// Pauses that get longer, each shortened at random, so that not all routers dial at once.
#[derive(Debug)]
pub struct BackOff {
    next: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl BackOff {
    /// The next pause, at most `longest` and at least half of what it could be.
    pub fn pause(&mut self, longest: Duration) -> Duration {
        let whole = self.next.min(longest);
        self.next = (whole * 2).min(longest);
        let mut random = [0; 4];
        // Without random bytes the pause is the longest.
        let part = SystemRandom::new().fill(&mut random).map_or(u32::MAX, |()| u32::from_ne_bytes(random));
        whole / 2 + (whole / 2).mul_f64(f64::from(part) / f64::from(u32::MAX))
    }

    /// It went well.
    pub const fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_differ() {
        let mut back_off = BackOff::default();
        let pauses: Vec<_> = (0..20).map(|_| back_off.pause(LONGEST)).collect();
        assert!(pauses[0] >= FIRST / 2 && pauses[0] <= FIRST);
        assert!(pauses.iter().all(|pause| *pause <= LONGEST));
        assert!(pauses[10..].iter().all(|pause| *pause >= LONGEST / 2));
        assert!(pauses[10..].windows(2).any(|two| two[0] != two[1]));
        assert!((0..20).map(|_| back_off.pause(LONGEST_REFUSED)).any(|pause| pause > LONGEST));
        back_off.reset();
        assert!(back_off.pause(LONGEST) <= FIRST);
    }
}
