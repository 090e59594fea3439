//! Busy polling: for a short time after the last events, the event loop looks for new ones without sleeping. It takes some
//! 20 µs to wake a sleeping thread, which is most of a small packet's round trip. A thread that never sleeps takes a
//! processor from the vassals.

use std::time::{Duration, Instant};

/// The number of short sleeps in a row after which polling begins. A poll without events costs as much as several wake-ups.
const SHORT_SLEEPS: u32 = 4;

/// Decides between polling and sleeping. Polling begins when events follow each other so closely that it would have saved
/// several sleeps, and ends with the first poll without events. KVM polls for its guests in much the same way
/// (Documentation/virt/kvm/halt-polling.rst in the kernel).
#[derive(Debug)]
pub struct BusyPoll {
    /// The maximum time to poll. Zero disables polling.
    limit: Duration,
    short_sleeps: u32,
    idle_since: Instant,
}

impl BusyPoll {
    /// Makes a decider that starts with sleeping.
    pub const fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, short_sleeps: 0, idle_since: now }
    }

    /// Notes that all events are handled.
    pub const fn begin(&mut self, now: Instant) {
        self.idle_since = now;
    }

    /// Returns true if the event loop should poll again rather than sleep.
    pub fn is_open(&self, now: Instant) -> bool {
        self.short_sleeps >= SHORT_SLEEPS && self.idle(now) < self.limit
    }

    /// Notes that events ended a sleep.
    pub fn woke(&mut self, now: Instant) {
        let polled = self.short_sleeps >= SHORT_SLEEPS;
        // Waking up takes time, too, so that the events came earlier than `now`.
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

    /// Simulates events after these pauses, in microseconds. Returns for each event if the loop was awake.
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
