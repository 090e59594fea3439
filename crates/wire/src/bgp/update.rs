//! UPDATE (RFC 4271, section 4.3): routes that are announced, and routes that are gone.
//!
//! Errors are those of RFC 7606. An attribute that can't be read makes the announced routes withdrawn ones
//! ([`Update::fault`]). What hides which routes are meant ends the session.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::attribute::{Attribute, Attributes, kind};
use super::claim::LargeCommunities;
use super::error::{ErrorCode, Violation};
use super::prefix::{Nlri, Prefixes};
use super::{Family, PerFamily, take_u16};

/// Why announced routes count as withdrawn (RFC 7606, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// An attribute is longer than what is there.
    #[error("attributes that are cut off")]
    CutOff,
    /// An attribute says of itself that it is of another sort.
    #[error("an attribute with wrong flags")]
    Flags,
    /// ORIGIN has a wrong length or value.
    #[error("a malformed ORIGIN")]
    Origin,
    /// AS_PATH can't be read.
    #[error("a malformed AS_PATH")]
    AsPath,
    /// NEXT_HOP has a wrong length.
    #[error("a malformed NEXT_HOP")]
    NextHop,
    /// MULTI_EXIT_DISC has a wrong length.
    #[error("a malformed MULTI_EXIT_DISC")]
    Med,
    /// LARGE_COMMUNITY has a wrong length.
    #[error("a malformed LARGE_COMMUNITY")]
    LargeCommunity,
    /// An attribute is missing that a route has to have.
    #[error("an attribute is missing")]
    Missing,
}

/// The attributes of the announced routes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathAttributes<'a> {
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// The router that has brought the route into its AS, if the neighbour names it (RFC 4456).
    pub originator: Option<Ipv4Addr>,
    /// Large communities.
    pub large_communities: LargeCommunities<'a>,
}

/// An announced route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// The prefix.
    pub nlri: Nlri,
    /// Where its packets are to go.
    pub next_hop: IpAddr,
}

/// Announced prefixes with the same next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reach<'a> {
    prefixes: Prefixes<'a>,
    next_hop: IpAddr,
}

/// An UPDATE. Each prefix in it was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Update<'a> {
    attributes: PathAttributes<'a>,
    fault: Option<Fault>,
    /// In the fields that IPv4 has of old.
    withdrawn: Prefixes<'a>,
    announced: Reach<'a>,
    /// In attributes (RFC 4760).
    multi_withdrawn: Prefixes<'a>,
    multi_announced: Reach<'a>,
    end_of_rib: Option<Family>,
}

/// What the walk over the attributes has found.
#[derive(Debug, Default)]
struct Found<'a> {
    attributes: PathAttributes<'a>,
    fault: Option<Fault>,
    has_origin: bool,
    has_as_path: bool,
    next_hop: Option<Ipv4Addr>,
    reach: Option<Option<Reach<'a>>>,
    unreach: Option<Option<Prefixes<'a>>>,
    /// Kinds that were there: a bit for each.
    seen: [u128; 2],
}

impl<'a> Update<'a> {
    /// Reads the body of a message. `has_paths` says in which families prefixes have numbers of paths (RFC 7911).
    pub fn decode(body: &'a [u8], has_paths: &PerFamily<bool>) -> Result<Self, Violation> {
        let malformed = || Violation::from(ErrorCode::MALFORMED_ATTRIBUTES);
        let (len, rest) = take_u16(body).ok_or_else(malformed)?;
        let (withdrawn, rest) = rest.split_at_checked(usize::from(len)).ok_or_else(malformed)?;
        let (len, rest) = take_u16(rest).ok_or_else(malformed)?;
        let (attributes, announced) = rest.split_at_checked(usize::from(len)).ok_or_else(malformed)?;
        let classic = |bytes| {
            Prefixes::new(Family::Ipv4, has_paths.ipv4, bytes).map_err(|_| Violation::from(ErrorCode::INVALID_NETWORK))
        };
        let (withdrawn, announced) = (classic(withdrawn)?, classic(announced)?);

        let mut found = Found::default();
        let mut iterator = Attributes::new(attributes);
        for attribute in iterator.by_ref() {
            found.read(&attribute, has_paths)?;
        }
        if iterator.is_cut_off() {
            found.set_fault(Fault::CutOff);
        }
        let reach = found.reach.flatten();
        if !announced.is_empty() && found.next_hop.is_none() {
            found.set_fault(Fault::Missing);
        }
        let announces = !announced.is_empty() || reach.is_some();
        if announces && !(found.has_origin && found.has_as_path) {
            found.set_fault(Fault::Missing);
        }
        // RFC 7606, section 5.2: the fault may hide which routes are meant.
        if found.fault.is_some() && announced.is_empty() && found.reach.is_none() {
            return Err(malformed());
        }
        let end_of_rib = match found.unreach {
            _ if !withdrawn.is_empty() || announces => None,
            None if attributes.is_empty() => Some(Family::Ipv4),
            Some(Some(prefixes)) if prefixes.is_empty() => Some(prefixes.family()),
            _ => None,
        };
        let nowhere = Reach { prefixes: Prefixes::none(Family::Ipv6), next_hop: Ipv6Addr::UNSPECIFIED.into() };
        Ok(Self {
            attributes: found.attributes,
            fault: found.fault,
            withdrawn,
            announced: Reach { prefixes: announced, next_hop: found.next_hop.unwrap_or(Ipv4Addr::UNSPECIFIED).into() },
            multi_withdrawn: found.unreach.flatten().unwrap_or(nowhere.prefixes),
            multi_announced: reach.unwrap_or(nowhere),
            end_of_rib,
        })
    }

    /// Returns the attributes of the announced routes.
    pub const fn attributes(&self) -> &PathAttributes<'a> {
        &self.attributes
    }

    /// Returns why announced routes count as withdrawn, if they do.
    pub const fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Returns the family of which all routes have been announced now (RFC 4724, section 2).
    pub const fn end_of_rib(&self) -> Option<Family> {
        self.end_of_rib
    }

    /// The routes that are gone, with those that count as gone. They come before those that are announced.
    pub fn withdrawn(&self) -> impl Iterator<Item = Nlri> + use<'a> {
        let counts = self.fault.is_some();
        let announced = [self.announced.prefixes, self.multi_announced.prefixes];
        let announced = announced.into_iter().filter(move |_| counts).flatten();
        self.withdrawn.chain(self.multi_withdrawn).chain(announced)
    }

    /// The routes that are announced.
    pub fn announced(&self) -> impl Iterator<Item = Announced> + use<'a> {
        let counts = self.fault.is_none();
        let reaches = [self.announced, self.multi_announced].into_iter().filter(move |_| counts);
        reaches.flat_map(|Reach { prefixes, next_hop }| prefixes.map(move |nlri| Announced { nlri, next_hop }))
    }
}

impl<'a> Found<'a> {
    /// Keeps the first fault.
    fn set_fault(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    /// Marks a kind as seen. Returns false if it was there before.
    const fn is_first(&mut self, kind: u8) -> bool {
        let (word, bit) = (&mut self.seen[(kind >> 7) as usize], 1 << (kind & 127));
        let is_first = *word & bit == 0;
        *word |= bit;
        is_first
    }

    fn read(&mut self, attribute: &Attribute<'a>, has_paths: &PerFamily<bool>) -> Result<(), Violation> {
        let is_first = self.is_first(attribute.kind);
        if !is_first {
            // RFC 7606, section 3 (g).
            return match attribute.kind {
                kind::MP_REACH_NLRI | kind::MP_UNREACH_NLRI => Err(ErrorCode::MALFORMED_ATTRIBUTES.into()),
                _ => Ok(()),
            };
        }
        if attribute.is_unknown_well_known() {
            return Err(Violation::new(ErrorCode::UNRECOGNIZED_WELL_KNOWN, attribute.whole));
        }
        if !attribute.has_right_flags() {
            self.set_fault(Fault::Flags);
        }
        let unreadable = || Violation::new(ErrorCode::OPTIONAL_ATTRIBUTE, attribute.whole);
        match attribute.kind {
            kind::MP_REACH_NLRI => self.reach = Some(reach(attribute.value, has_paths).ok_or_else(unreadable)?),
            kind::MP_UNREACH_NLRI => self.unreach = Some(unreach(attribute.value, has_paths).ok_or_else(unreadable)?),
            _ => self.read_simple(attribute),
        }
        Ok(())
    }

    /// Reads an attribute that says nothing of which routes are meant.
    fn read_simple(&mut self, attribute: &Attribute<'a>) {
        match (attribute.kind, attribute.value) {
            (kind::ORIGIN, value) => {
                self.has_origin = true;
                if !matches!(value, [0..=2]) {
                    self.set_fault(Fault::Origin);
                }
            }
            (kind::AS_PATH, value) => {
                self.has_as_path = true;
                if !is_as_path(value) {
                    self.set_fault(Fault::AsPath);
                }
            }
            (kind::NEXT_HOP, &[a, b, c, d]) => self.next_hop = Some(Ipv4Addr::new(a, b, c, d)),
            (kind::NEXT_HOP, _) => self.set_fault(Fault::NextHop),
            (kind::MULTI_EXIT_DISC, &[a, b, c, d]) => self.attributes.med = Some(u32::from_be_bytes([a, b, c, d])),
            (kind::MULTI_EXIT_DISC, _) => self.set_fault(Fault::Med),
            (kind::LARGE_COMMUNITY, value) => match LargeCommunities::new(value) {
                Some(communities) => self.attributes.large_communities = communities,
                None => self.set_fault(Fault::LargeCommunity),
            },
            // From another AS it means nothing, and a wrong one neither (RFC 7606, section 7.9).
            (kind::ORIGINATOR_ID, &[a, b, c, d]) => self.attributes.originator = Some(Ipv4Addr::new(a, b, c, d)),
            _ => {}
        }
    }
}

/// Returns true if this is a list of segments of AS numbers of four octets (RFC 4271, section 4.3; RFC 7606, section 7.2).
fn is_as_path(mut value: &[u8]) -> bool {
    while let Some((&[kind, count], rest)) = value.split_first_chunk() {
        match rest.split_at_checked(4 * usize::from(count)) {
            Some((_, rest)) if (1..=4).contains(&kind) && count != 0 => value = rest,
            _ => return false,
        }
    }
    value.is_empty()
}

/// Splits the family off the front of an attribute; `None` in the result stands for one that isn't spoken.
fn split_family(value: &[u8]) -> Option<(Option<Family>, &[u8])> {
    let (&[high, low, safi], rest) = value.split_first_chunk()?;
    Some((Family::from_identifiers(u16::from_be_bytes([high, low]), safi), rest))
}

/// Reads MP_REACH_NLRI (RFC 4760, section 3); `None` if that isn't possible, `Some(None)` for a family that isn't spoken.
fn reach<'a>(value: &'a [u8], has_paths: &PerFamily<bool>) -> Option<Option<Reach<'a>>> {
    let (family, rest) = split_family(value)?;
    let (&len, rest) = rest.split_first()?;
    let (next_hop, rest) = rest.split_at_checked(usize::from(len))?;
    let (_reserved, prefixes) = rest.split_first()?;
    let Some(family) = family else { return Some(None) };
    let next_hop: IpAddr = match (family, next_hop) {
        (Family::Ipv4, &[a, b, c, d]) => Ipv4Addr::new(a, b, c, d).into(),
        // A second one is the address on the link (RFC 2545, section 3).
        (Family::Ipv6, _) if [16, 32].contains(&len) => Ipv6Addr::from(*next_hop.first_chunk::<16>()?).into(),
        _ => return None,
    };
    let prefixes = Prefixes::new(family, *has_paths.get(family), prefixes).ok()?;
    Some(Some(Reach { prefixes, next_hop }))
}

/// Reads MP_UNREACH_NLRI (RFC 4760, section 4), with the same results.
fn unreach<'a>(value: &'a [u8], has_paths: &PerFamily<bool>) -> Option<Option<Prefixes<'a>>> {
    let (family, prefixes) = split_family(value)?;
    let Some(family) = family else { return Some(None) };
    Prefixes::new(family, *has_paths.get(family), prefixes).ok().map(Some)
}
