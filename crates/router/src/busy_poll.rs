//! Looking for events without sleeping, for a short time after the last ones. A sleeping thread takes some 20 µs to be
//! woken, which is most of a small packet's round trip; a thread that never sleeps takes a processor from the vassals.

use std::time::{Duration, Instant};

/// Short sleeps in a row after which polling begins. A poll in vain costs as much as some wake-ups.
const SHORT_SLEEPS: u32 = 4;

/// Decides between polling and sleeping. Polling begins when events follow each other so closely that it would have
/// saved some sleeps, and ends with the first poll in vain. KVM polls for its guests in much the same way
/// (Documentation/virt/kvm/halt-polling.rst in the kernel).
#[derive(Debug)]
pub struct BusyPoll {
    /// Longest time to poll; zero is never.
    limit: Duration,
    short_sleeps: u32,
    idle_since: Instant,
}

impl BusyPoll {
    /// Sleeps, until events come closely.
    pub const fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, short_sleeps: 0, idle_since: now }
    }

    /// There is nothing left to do.
    pub const fn begin(&mut self, now: Instant) {
        self.idle_since = now;
    }

    /// Whether to look again rather than to sleep.
    pub fn is_open(&self, now: Instant) -> bool {
        self.short_sleeps >= SHORT_SLEEPS && self.idle(now) < self.limit
    }

    /// Events ended a sleep.
    pub fn woke(&mut self, now: Instant) {
        let polled = self.short_sleeps >= SHORT_SLEEPS;
        // To wake up takes time, too: the events came earlier than it seems.
        let was_short = self.idle(now) <= self.limit * 2;
        self.short_sleeps = if polled || !was_short { 0 } else { self.short_sleeps + 1 };
    }

    fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.idle_since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(50);

    /// Lets events come at these pauses, in microseconds. Returns for each whether it was met awake.
    fn awake(poll: &mut BusyPoll, now: &mut Instant, pauses: &[u64]) -> Vec<bool> {
        let meet = |micros: &u64| {
            poll.begin(*now);
            *now += Duration::from_micros(*micros);
            let awake = poll.is_open(*now);
            if !awake {
                poll.woke(*now);
            }
            awake
        };
        pauses.iter().map(meet).collect()
    }

    #[test]
    fn close_events_are_met_awake_and_distant_ones_asleep() {
        let mut now = Instant::now();
        let mut poll = BusyPoll::new(LIMIT, now);
        let close = awake(&mut poll, &mut now, &[30; 100]);
        assert_eq!(close.iter().filter(|awake| **awake).count(), 96);
        let distant = awake(&mut poll, &mut now, &[3000; 100]);
        assert_eq!(distant.iter().filter(|awake| **awake).count(), 0);
        poll.begin(now);
        assert!(!poll.is_open(now), "after a long pause it doesn't poll at all");
    }

    #[test]
    fn poll_in_vain_ends_it_until_events_are_close_again() {
        let mut now = Instant::now();
        let mut poll = BusyPoll::new(LIMIT, now);
        awake(&mut poll, &mut now, &[5; 10]);
        assert_eq!(awake(&mut poll, &mut now, &[51]), [false]);
        assert_eq!(awake(&mut poll, &mut now, &[5; 6]), [false, false, false, false, true, true]);
    }

    #[test]
    fn events_just_beyond_the_limit_are_not_polled_for_all_the_time() {
        let mut now = Instant::now();
        let mut poll = BusyPoll::new(LIMIT, now);
        let mut polls = 0;
        for _ in 0..100 {
            poll.begin(now);
            polls += u32::from(poll.is_open(now));
            awake(&mut poll, &mut now, &[60]);
        }
        assert_eq!(polls, 20);
    }

    #[test]
    fn it_never_polls_for_longer_than_the_limit() {
        for micros in [0, 1, 10, 50] {
            let mut now = Instant::now();
            let limit = Duration::from_micros(micros);
            let mut poll = BusyPoll::new(limit, now);
            awake(&mut poll, &mut now, &[0; 10]);
            assert_eq!(poll.is_open(now), micros > 0);
            assert!(!poll.is_open(now + limit));
        }
    }
}
