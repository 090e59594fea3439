//! Who holds an address since when, as large communities beside the route (RFC 8092). Each says one half of one number, and
//! which one that is (RFC 8195: AS, function, parameter). So their order doesn't matter, and people can read them.

use super::super::holding::{ClaimTime, Holding, RouterId};

/// Functions of large communities.
const ROUTER_HIGH: u32 = 1;
const ROUTER_LOW: u32 = 2;
const SINCE_HIGH: u32 = 3;
const SINCE_LOW: u32 = 4;

/// Bytes of a large community.
pub(super) const COMMUNITY_LEN: usize = 12;

/// A large community.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LargeCommunity {
    /// The AS that says what the other parts mean.
    pub asn: u32,
    /// Local data part 1.
    pub function: u32,
    /// Local data part 2.
    pub parameter: u32,
}

/// The large communities of a route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LargeCommunities<'a>(&'a [u8]);

impl<'a> LargeCommunities<'a> {
    /// Reads the value of the attribute; `None` if its length is wrong (RFC 8092, section 5).
    pub(super) fn new(value: &'a [u8]) -> Option<Self> {
        (!value.is_empty() && value.len().is_multiple_of(COMMUNITY_LEN)).then_some(Self(value))
    }
}

impl Iterator for LargeCommunities<'_> {
    type Item = LargeCommunity;

    fn next(&mut self) -> Option<LargeCommunity> {
        let (octets, rest) = self.0.split_first_chunk::<COMMUNITY_LEN>()?;
        self.0 = rest;
        let word = |at: usize| u32::from_be_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
        Some(LargeCommunity { asn: word(0), function: word(4), parameter: word(8) })
    }
}

/// Makes the communities that say who holds an address. `asn` is the AS of all routers.
pub fn encode(asn: u32, holding: Holding) -> [LargeCommunity; 4] {
    let (router, since) = (halves(holding.router.number()), halves(holding.since.0));
    [(ROUTER_HIGH, router.0), (ROUTER_LOW, router.1), (SINCE_HIGH, since.0), (SINCE_LOW, since.1)]
        .map(|(function, parameter)| LargeCommunity { asn, function, parameter })
}

/// Splits a number into its upper and its lower 32 bits.
fn halves(number: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

/// Communities that speak of a claim, but of no certain one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("large communities that name no certain claim")]
pub struct Ambiguous;

/// Reads who holds an address; `None` if no community speaks of it. All four parts have to be there, each with one value.
pub fn decode(asn: u32, communities: LargeCommunities<'_>) -> Result<Option<Holding>, Ambiguous> {
    let mut parts = [None; 4];
    for community in communities.filter(|community| community.asn == asn) {
        let part = match community.function {
            ROUTER_HIGH => &mut parts[0],
            ROUTER_LOW => &mut parts[1],
            SINCE_HIGH => &mut parts[2],
            SINCE_LOW => &mut parts[3],
            _ => continue,
        };
        if part.is_some_and(|known| known != community.parameter) {
            return Err(Ambiguous);
        }
        *part = Some(community.parameter);
    }
    let number = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    match parts {
        [None, None, None, None] => Ok(None),
        [Some(router_high), Some(router_low), Some(since_high), Some(since_low)] => {
            let router = RouterId::new(number(router_high, router_low)).ok_or(Ambiguous)?;
            Ok(Some(Holding { router, since: ClaimTime(number(since_high, since_low)) }))
        }
        _ => Err(Ambiguous),
    }
}
