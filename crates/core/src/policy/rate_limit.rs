//! Rate limits of replies (ICMP errors and TCP resets). They cost time, and must not be sent at will to the victims of
//! forged sources (RFC 1812, section 4.3.2.8; RFC 4443, section 2.4, f).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::account;

/// The rate of a token bucket.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// Time between two tokens.
    interval: Duration,
    /// Most tokens in the bucket.
    burst: u32,
}

/// All replies of one budget: 250 per second. The four budgets together allow as many as Linux by default
/// (icmp_msgs_per_sec).
const ALL: Rate = Rate { interval: Duration::from_millis(4), burst: 50 };

/// Replies that the peers of one account cause, and replies about addresses that no peer holds: a fifth of a budget.
const SHARE: Rate = Rate { interval: Duration::from_millis(20), burst: 25 };

/// Replies that one peer causes.
const ONE_PEER: Rate = Rate { interval: Duration::from_millis(50), burst: 10 };

/// Number of buckets from which full ones are removed. Fewer than this can lack tokens at a time: each reply of a
/// budget takes from two, a peer's and its account's, and these refill in 0.5 s.
const MAX_ACCOUNTS: usize = 1024;

/// What a reply reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A packet was too long. Without this reply, connections hang.
    TooBig,
    /// A packet was dropped by a rule.
    Rejection,
}

/// A peer, as far as rate limits are concerned. A peer that connects again has the slot or the account of before, so it
/// gets no new tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party {
    /// Its slot, [`super::registry::PeerId::index`].
    pub index: u32,
    /// Its account.
    pub account: Option<account::Account>,
}

/// What causes a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A packet from a peer.
    Peer(Party),
    /// A packet from outside to this peer, or to an address that no peer holds.
    Outside(Option<Party>),
}

/// A token bucket, stored as the time at which it will be full again.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    full_at: Instant,
}

impl Bucket {
    const fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// The bucket without one of its tokens. `None` if it has none.
    fn take(self, rate: Rate, now: Instant) -> Option<Self> {
        let full_at = self.full_at.max(now) + rate.interval;
        (full_at.saturating_duration_since(now) <= rate.interval * rate.burst).then_some(Self { full_at })
    }
}

/// What has a bucket of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Account {
    Peer(u32),
    User(account::Account),
    Nobody,
}

impl Account {
    const fn rate(self) -> Rate {
        match self {
            Self::Peer(_) => ONE_PEER,
            Self::User(_) | Self::Nobody => SHARE,
        }
    }
}

/// The replies of one kind that one side causes.
#[derive(Debug)]
struct Budget {
    all: Bucket,
    /// Buckets that are not full.
    accounts: HashMap<Account, Bucket>,
}

impl Budget {
    fn full(now: Instant) -> Self {
        Self { all: Bucket::full(now), accounts: HashMap::new() }
    }

    /// Takes a token from each bucket that applies. Returns false and takes none if one of them is empty.
    fn take(&mut self, party: Option<Party>, now: Instant) -> bool {
        let take = |account: Account| {
            let bucket = self.accounts.get(&account).copied().unwrap_or(Bucket::full(now));
            Some((account, bucket.take(account.rate(), now)?))
        };
        let Some(all) = self.all.take(ALL, now) else { return false };
        let first = party.map_or(Account::Nobody, |party| Account::Peer(party.index));
        let Some(first) = take(first) else { return false };
        let user = match party.and_then(|party| party.account).map(|account| take(Account::User(account))) {
            Some(None) => return false,
            Some(taken) => taken,
            None => None,
        };
        if self.accounts.len() >= MAX_ACCOUNTS {
            self.accounts.retain(|_, bucket| bucket.full_at > now);
        }
        self.all = all;
        self.accounts.extend([Some(first), user].into_iter().flatten());
        true
    }
}

/// The rate limits of a router's replies. There is a budget for each kind of reply, and for peers and outside, so that
/// none of them uses up the tokens of another.
#[derive(Debug)]
pub struct RateLimit {
    too_big_to_peers: Budget,
    too_big_to_outside: Budget,
    rejections_to_peers: Budget,
    rejections_to_outside: Budget,
}

impl RateLimit {
    /// All buckets are full.
    pub fn new(now: Instant) -> Self {
        Self {
            too_big_to_peers: Budget::full(now),
            too_big_to_outside: Budget::full(now),
            rejections_to_peers: Budget::full(now),
            rejections_to_outside: Budget::full(now),
        }
    }

    /// Returns true if a reply may be sent, and takes its tokens then.
    pub fn admit(&mut self, kind: Kind, cause: Cause, now: Instant) -> bool {
        let (budget, party) = match (kind, cause) {
            (Kind::TooBig, Cause::Peer(party)) => (&mut self.too_big_to_peers, Some(party)),
            (Kind::TooBig, Cause::Outside(party)) => (&mut self.too_big_to_outside, party),
            (Kind::Rejection, Cause::Peer(party)) => (&mut self.rejections_to_peers, Some(party)),
            (Kind::Rejection, Cause::Outside(party)) => (&mut self.rejections_to_outside, party),
        };
        budget.take(party, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn party(index: u32, uid: u32) -> Party {
        Party { index, account: account::Account::of(uid, None) }
    }

    /// A peer of root.
    const fn peer(index: u32) -> Cause {
        Cause::Peer(party(index, account::ROOT))
    }

    const NOBODY: Cause = Cause::Outside(None);

    /// Number of rejections that are admitted if 4 are attempted in each of `millis` milliseconds.
    fn given(limit: &mut RateLimit, start: Instant, millis: u64, who: impl Fn(u32) -> Cause) -> usize {
        let attempts = (0..millis).flat_map(|at| [at; 4]).zip(0..);
        attempts
            .filter(|(at, serial)| limit.admit(Kind::Rejection, who(*serial), start + Duration::from_millis(*at)))
            .count()
    }

    fn at_once(limit: &mut RateLimit, kind: Kind, cause: Cause, now: Instant) -> usize {
        (0..1000).filter(|_| limit.admit(kind, cause, now)).count()
    }

    #[test]
    fn all_together_get_a_burst_and_250_a_second() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        assert_eq!(given(&mut limit, start, 10, peer), 40, "less than the burst");
        let mut limit = RateLimit::new(start);
        assert_eq!(given(&mut limit, start, 10_000, peer), 50 + 2499);
        assert_eq!(given(&mut limit, start + Duration::from_secs(60), 1, peer), 4, "and a burst again after a pause");
    }

    #[test]
    fn one_peer_leaves_the_others_their_share() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        assert_eq!(given(&mut limit, start, 10_000, |_| peer(3)), 10 + 199);
        let after = start + Duration::from_secs(10);
        let others = (100..140).filter(|&index| limit.admit(Kind::Rejection, peer(index), after)).count();
        assert_eq!(others, 40);
        assert!(!limit.admit(Kind::Rejection, peer(3), after - Duration::from_millis(40)));
    }

    /// New connections get no new tokens: slot and account keep their buckets.
    #[test]
    fn one_user_leaves_the_others_their_share_whatever_its_connections() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        assert_eq!(given(&mut limit, start, 10_000, |serial| Cause::Peer(party(serial, 7))), 25 + 499);
        let after = start + Duration::from_secs(10);
        assert_eq!(at_once(&mut limit, Kind::Rejection, Cause::Peer(party(8, 8)), after), 10);
        assert_eq!(at_once(&mut limit, Kind::Rejection, peer(9), after), 10);
    }

    /// Vassals mostly connect as root: each has a namespace of its own.
    #[test]
    fn one_vassal_of_root_leaves_the_others_their_share() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        let of = |index, namespace| Cause::Peer(Party { index, account: account::Account::of(0, Some(namespace)) });
        assert_eq!(given(&mut limit, start, 10_000, |serial| of(serial, 1)), 25 + 499);
        let after = start + Duration::from_secs(10);
        assert_eq!(at_once(&mut limit, Kind::Rejection, of(8, 2), after), 10);
    }

    #[test]
    fn what_nobody_holds_leaves_the_peers_their_share() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        assert_eq!(given(&mut limit, start, 10_000, |_| NOBODY), 25 + 499);
        let after = start + Duration::from_secs(10);
        assert_eq!(at_once(&mut limit, Kind::Rejection, Cause::Outside(Some(party(1, 0))), after), 10);
    }

    #[test]
    fn kinds_and_sides_take_nothing_from_each_other() {
        let now = Instant::now();
        let one = party(1, 7);
        let mut limit = RateLimit::new(now);
        for kind in [Kind::Rejection, Kind::TooBig] {
            for cause in [Cause::Outside(Some(one)), Cause::Peer(one)] {
                assert_eq!(at_once(&mut limit, kind, cause, now), 10, "{kind:?} {cause:?}");
            }
        }
    }

    #[test]
    fn what_one_may_not_have_is_not_taken_from_the_others() {
        let now = Instant::now();
        let mut limit = RateLimit::new(now);
        // A peer takes no more from its account's bucket than from its own.
        assert_eq!(at_once(&mut limit, Kind::Rejection, Cause::Peer(party(0, 7)), now), 10);
        assert_eq!(at_once(&mut limit, Kind::Rejection, Cause::Peer(party(1, 7)), now), 10);
        assert_eq!(at_once(&mut limit, Kind::Rejection, Cause::Peer(party(2, 7)), now), 5);
        let others = (100..200).filter(|&index| limit.admit(Kind::Rejection, peer(index), now)).count();
        assert_eq!(others, 25);
    }

    #[test]
    fn accounts_are_few_whoever_comes() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        given(&mut limit, start, 20_000, |serial| Cause::Peer(party(serial, serial + 1)));
        let accounts = limit.rejections_to_peers.accounts.len();
        assert!((1..=MAX_ACCOUNTS + 1).contains(&accounts), "{accounts}");
    }

    #[test]
    fn clock_that_stands_still_or_goes_back_gives_nothing() {
        let now = Instant::now() + Duration::from_secs(10);
        let mut limit = RateLimit::new(now);
        assert_eq!(at_once(&mut limit, Kind::Rejection, peer(0), now), 10);
        assert!(!limit.admit(Kind::Rejection, peer(0), now));
        assert!(!limit.admit(Kind::Rejection, peer(0), now - Duration::from_secs(5)));
        assert!(limit.admit(Kind::Rejection, peer(0), now + Duration::from_millis(50)));
    }
}
