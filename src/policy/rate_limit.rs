//! How many answers a router gives: errors and resets cost time, and whoever forges sources must not have them sent to
//! others at will (RFC 1812, section 4.3.2.8; RFC 4443, section 2.4, f).

use std::time::{Duration, Instant};

use super::registry::PeerId;

/// Tokens that come back one by one.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// Time until another token is there.
    interval: Duration,
    /// Most tokens that wait.
    burst: u32,
}

/// Of a router in all: 100 a second.
const ALL: Rate = Rate { interval: Duration::from_millis(10), burst: 50 };

/// Because of one peer: a fifth of that.
const ONE_PEER: Rate = Rate { interval: Duration::from_millis(50), burst: 10 };

/// A bucket of tokens, as the time at which it will be full again.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    full_at: Instant,
}

impl Bucket {
    const fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// The bucket with a token less; `None` if there is none.
    fn take(self, rate: Rate, now: Instant) -> Option<Self> {
        let full_at = self.full_at.max(now) + rate.interval;
        (full_at.saturating_duration_since(now) <= rate.interval * rate.burst).then_some(Self { full_at })
    }
}

/// What is left of the answers that a router may give.
#[derive(Debug)]
pub struct RateLimit {
    all: Bucket,
    /// By [`PeerId::index`], so that there are as many as there were peers at one time. A slot is a new peer's if the
    /// generation is another one.
    peers: Vec<Option<(u32, Bucket)>>,
}

impl RateLimit {
    /// Nothing given yet.
    pub const fn new(now: Instant) -> Self {
        Self { all: Bucket::full(now), peers: Vec::new() }
    }

    /// Takes note of an answer, and returns whether it may be given. `peer` is the one that sent or would have got what is
    /// answered, if it is known: one peer doesn't use up what is there for all.
    pub fn admit(&mut self, peer: Option<PeerId>, now: Instant) -> bool {
        let Some(all) = self.all.take(ALL, now) else { return false };
        if let Some(peer) = peer {
            let index = peer.index as usize;
            if index >= self.peers.len() {
                self.peers.resize(index + 1, None);
            }
            let own = self.peers[index].filter(|(generation, _)| *generation == peer.generation);
            let bucket = own.map_or(Bucket::full(now), |(_, bucket)| bucket);
            let Some(bucket) = bucket.take(ONE_PEER, now) else { return false };
            self.peers[index] = Some((peer.generation, bucket));
        }
        self.all = all;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(index: u32) -> Option<PeerId> {
        Some(PeerId { index, generation: 0 })
    }

    /// Answers given among attempts in each of so many milliseconds.
    fn given(limit: &mut RateLimit, start: Instant, millis: u64, who: impl Fn(u64) -> Option<PeerId>) -> usize {
        (0..millis)
            .flat_map(|at| (0..4).map(move |attempt| (at, attempt)))
            .filter(|(at, attempt)| limit.admit(who(at * 4 + attempt), start + Duration::from_millis(*at)))
            .count()
    }

    #[test]
    fn all_together_get_a_burst_and_a_hundred_a_second() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        assert_eq!(given(&mut limit, start, 10, |_| None), 40, "less than the burst");
        let mut limit = RateLimit::new(start);
        assert_eq!(given(&mut limit, start, 10_000, |serial| peer(u32::try_from(serial).expect("few"))), 50 + 999);
        assert_eq!(
            given(&mut limit, start + Duration::from_secs(60), 1, |_| None),
            4,
            "and a burst again after a pause"
        );
    }

    #[test]
    fn one_peer_leaves_the_others_their_share() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        assert_eq!(given(&mut limit, start, 10_000, |_| peer(3)), 10 + 199);
        let after = start + Duration::from_secs(10);
        let others = (100..140).filter(|&index| limit.admit(peer(index), after)).count();
        assert_eq!(others, 40);
        assert!(!limit.admit(peer(3), after - Duration::from_millis(40)));
    }

    #[test]
    fn new_peer_starts_anew_in_the_slot_of_another() {
        let now = Instant::now();
        let mut limit = RateLimit::new(now);
        assert_eq!((0..20).filter(|_| limit.admit(peer(0), now)).count(), 10);
        assert!(limit.admit(Some(PeerId { index: 0, generation: 1 }), now));
    }

    #[test]
    fn what_a_peer_may_not_have_is_not_taken_from_the_others() {
        let now = Instant::now();
        let mut limit = RateLimit::new(now);
        (0..1000).for_each(|_| _ = limit.admit(peer(0), now));
        assert_eq!((0..100).filter(|_| limit.admit(None, now)).count(), 40);
    }

    #[test]
    fn clock_that_stands_still_or_goes_back_gives_nothing() {
        let now = Instant::now() + Duration::from_secs(10);
        let mut limit = RateLimit::new(now);
        (0..50).for_each(|_| _ = limit.admit(None, now));
        assert!(!limit.admit(None, now));
        assert!(!limit.admit(None, now - Duration::from_secs(5)));
        assert!(limit.admit(None, now + Duration::from_millis(10)));
    }
}
