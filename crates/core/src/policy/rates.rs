//! Rates of rules: how many packets from each source a rule matches per second.

use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::num::NonZeroU32;

use super::pattern::RuleId;

/// Sets of buckets, a power of two, and buckets in each.
const SETS: usize = 4096;
const WAYS: usize = 4;

/// Nanoseconds in a second: the time in which a full bucket's packets pass at the rule's rate.
const SECOND: u64 = 1_000_000_000;

/// A token bucket, as the time at which it will be full again.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    rule: RuleId,
    source: IpAddr,
    full_at: u64,
}

/// The buckets of all rules and sources. If there are too many, the one goes that was used least recently, of the few among
/// which a source's bucket can be.
#[derive(Debug)]
pub struct Rates {
    /// Empty until a rule has a rate. In each set the bucket that was used last is first.
    buckets: Vec<[Option<Bucket>; WAYS]>,
    seed: u64,
}

impl Rates {
    /// `seed` should be hard to guess: it keeps sources from displacing each other's buckets.
    pub const fn new(seed: u64) -> Self {
        Self { buckets: Vec::new(), seed }
    }

    /// Takes one packet out of a rule's bucket for a source. Returns false and takes none if it is empty. `now` is in
    /// nanoseconds.
    pub fn take(&mut self, rule: RuleId, rate: NonZeroU32, source: IpAddr, now: u64) -> bool {
        if self.buckets.is_empty() {
            self.buckets = vec![[None; WAYS]; SETS];
        }
        let set = self.set(rule, source);
        let set = &mut self.buckets[set];
        let position = position(set, rule, source);
        let full_at = position.and_then(|at| set[at]).map_or(now, |bucket| bucket.full_at);
        let taken = take(full_at, rate, now);
        // The bucket moves to the front; a new one takes the place of the last one.
        set[..=position.unwrap_or(WAYS - 1)].rotate_right(1);
        set[0] = Some(Bucket { rule, source, full_at: taken.unwrap_or(full_at) });
        taken.is_some()
    }

    /// Returns true if there is a packet left in a rule's bucket for a source.
    pub fn has(&self, rule: RuleId, rate: NonZeroU32, source: IpAddr, now: u64) -> bool {
        let set = self.buckets.get(self.set(rule, source));
        let bucket = set.and_then(|set| position(set, rule, source).and_then(|at| set[at]));
        bucket.is_none_or(|bucket| take(bucket.full_at, rate, now).is_some())
    }

    fn set(&self, rule: RuleId, source: IpAddr) -> usize {
        let mixed = Seeded(self.seed).hash_one((rule, source));
        usize::try_from(mixed % SETS as u64).unwrap_or_default()
    }
}

fn position(set: &[Option<Bucket>; WAYS], rule: RuleId, source: IpAddr) -> Option<usize> {
    set.iter().position(|it| it.is_some_and(|bucket| bucket.rule == rule && bucket.source == source))
}

/// Returns when a bucket is full again if a packet is taken out of it. `None` if there is none.
fn take(full_at: u64, rate: NonZeroU32, now: u64) -> Option<u64> {
    let interval = SECOND / u64::from(rate.get());
    let full_at = full_at.max(now) + interval;
    (full_at - now <= interval * u64::from(rate.get())).then_some(full_at)
}

/// SipHash with a seed.
struct Seeded(u64);

impl BuildHasher for Seeded {
    type Hasher = std::hash::DefaultHasher;

    fn build_hasher(&self) -> Self::Hasher {
        let mut hasher = std::hash::DefaultHasher::new();
        self.0.hash(&mut hasher);
        hasher
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    fn rate(packets: u32) -> NonZeroU32 {
        NonZeroU32::new(packets).expect("not 0")
    }

    #[test]
    fn each_source_and_each_rule_has_its_own_packets() {
        let mut rates = Rates::new(7);
        let mut passed =
            |rule, from, now| (0..100).filter(|_| rates.take(RuleId(rule), rate(10), source(from), now)).count();
        assert_eq!((passed(1, 1, 0), passed(1, 2, 0), passed(2, 1, 0)), (10, 10, 10));
        assert_eq!(passed(1, 1, 0), 0);
        assert_eq!(passed(1, 1, SECOND / 2), 5, "half a second later");
        assert_eq!(passed(1, 1, 100 * SECOND), 10, "no more than a second's packets at once");
    }

    #[test]
    fn a_look_takes_nothing() {
        let mut rates = Rates::new(7);
        let look = |rates: &Rates| rates.has(RuleId(1), rate(1), source(1), 5);
        assert!(look(&rates) && look(&rates));
        assert!(rates.take(RuleId(1), rate(1), source(1), 5));
        assert!(!look(&rates) && !rates.take(RuleId(1), rate(1), source(1), 5));
    }

    /// A source that goes on keeps its bucket, however many others come and go.
    #[test]
    fn many_sources_take_no_more_memory_and_displace_no_active_one() {
        let mut rates = Rates::new(7);
        let mut passed = 0;
        for other in 2..200_000 {
            if other % 100 == 0 {
                passed += usize::from(rates.take(RuleId(1), rate(3), source(1), 0));
            }
            rates.take(RuleId(1), rate(3), source(other), 0);
        }
        assert_eq!(passed, 3);
        assert_eq!(rates.buckets.len(), SETS);
    }

    #[test]
    fn a_rate_above_the_clock_s_resolution_lets_all_pass() {
        let mut rates = Rates::new(7);
        assert!(rates.take(RuleId(1), rate(u32::MAX), source(1), 0));
    }
}
