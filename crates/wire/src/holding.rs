//! Who holds an address, in the words that routers of several hosts use among each other, by BGP and by trunks.

use std::cmp::Ordering;
use std::fmt;

/// The id of a router among all routers that know of each other: the first eight bytes of the SHA-256 digest of its public key,
/// big-endian, so that nobody can take another one's. It is never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouterId(std::num::NonZeroU64);

impl RouterId {
    /// Returns the id with this number, unless that is 0.
    pub fn new(number: u64) -> Option<Self> {
        std::num::NonZeroU64::new(number).map(Self)
    }

    /// Returns the number.
    pub const fn number(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for RouterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// Since when an address is held: milliseconds since 1970, UTC, by the clock of the router that granted the claim, but later than
/// all claims to that address that it knew of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimTime(pub u64);

impl ClaimTime {
    /// The time as BGP's `MULTI_EXIT_DISC` has it: seconds since 1970, or the most that fits (RFC 4271, section 4.3).
    pub fn seconds(self) -> u32 {
        u32::try_from(self.0 / 1000).unwrap_or(u32::MAX)
    }
}

/// A claim to an address, without the address. Claims are ordered: the greater one is the newer one, and it holds once both are
/// known. Two of the same time are told apart by their routers, so that all hosts choose the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Holding {
    /// The router whose peer has it.
    pub router: RouterId,
    /// Since when.
    pub since: ClaimTime,
}

impl Ord for Holding {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.since, self.router).cmp(&(other.since, other.router))
    }
}

impl PartialOrd for Holding {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_holds_and_among_equals_one_of_them() {
        let holding =
            |since, router| Holding { router: RouterId::new(router).expect("not 0"), since: ClaimTime(since) };
        assert!(holding(2, 1) > holding(1, 9));
        assert!(holding(1, 9) > holding(1, 1));
        assert_eq!(ClaimTime(1_999).seconds(), 1);
        assert_eq!(ClaimTime(u64::MAX).seconds(), u32::MAX);
        assert_eq!(RouterId::new(0), None);
        assert_eq!(RouterId::new(0xabc).map(|id| id.to_string()).as_deref(), Some("0000000000000abc"));
    }
}
