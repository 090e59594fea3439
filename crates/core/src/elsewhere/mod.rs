//! What is known of the addresses that peers of other routers hold, on other hosts.
//!
//! Others tell of these holdings by several ways, the sources: the routes of the host's routing daemon are one, each trunk is
//! another one. As long as a source tells of a holding, its holder lives. Of several that hold an address, the newest one counts,
//! in the order of [`Holding`].
//!
//! The times are those of other hosts' clocks. One that is absurdly far ahead of this host's clock can't be right, so it is
//! refused: such a holding counts as older than all others. It still keeps local peers from the address as long as its source
//! tells of it, because a clock that is wrong, here or there, must not give one address to two. But it never takes an address
//! from anybody. What counts is the clock of now: once it has come close to such a time, that counts like any other.

mod gone;
mod sweep;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

use thiserror::Error;
use tuntap_wire::holding::{ClaimTime, Holding, RouterId};

use gone::Gone;
use sweep::Reviews;

/// Most sources.
pub const MAX_SOURCES: usize = 256;

/// Most holdings, each counted for each source that tells of it.
pub const MAX_HOLDINGS: usize = 1 << 18;

/// Most holdings of one source: a half, so that none leaves no room for the others.
pub const MAX_HOLDINGS_OF_SOURCE: usize = MAX_HOLDINGS / 2;

/// How far a time may be ahead of this host's clock, in milliseconds. Clocks of hosts that are looked after are much closer.
pub const MAX_AHEAD_MILLIS: u64 = 5 * 60 * 1000;

/// How much older than they are claims are taken for that are made before all sources have told what they know, in milliseconds:
/// twenty years. So they give way to whoever held the address before, and still keep their order among each other.
pub const UNSURE_AGE_MILLIS: u64 = 20 * 365 * 24 * 60 * 60 * 1000;

/// Most holdings that one call takes out of the table, or looks at again, because of something else than a message about each.
pub const SWEEP: usize = 1024;

/// Who tells of holdings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// The host's routing daemon, by BGP.
    Routes,
    /// The trunk with this number.
    Trunk(u16),
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Routes => formatter.write_str("routes"),
            Self::Trunk(number) => write!(formatter, "trunk {number}"),
        }
    }
}

/// A holding, and who tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Who tells of it. If several tell the same, it is the first one of these.
    pub source: Source,
    /// The holding.
    pub holding: Holding,
}

/// What one source tells of an address.
#[derive(Debug, Clone, Copy)]
struct Teller {
    told: Told,
    /// How many other routers have passed it on.
    distance: u8,
    /// How often the source had been forgotten before it told this.
    round: u64,
}

/// Why a holding is not taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// This router knows its own holdings better.
    #[error("it is this router's own")]
    Own,
    /// [`MAX_SOURCES`]
    #[error("there are {MAX_SOURCES} other sources already")]
    TooManySources,
    /// [`MAX_HOLDINGS_OF_SOURCE`]
    #[error("this source has told of {MAX_HOLDINGS_OF_SOURCE} addresses already")]
    SourceFull,
    /// [`MAX_HOLDINGS`]
    #[error("all sources have told of {MAX_HOLDINGS} addresses already")]
    Full,
}

/// What a holding that is taken over changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insertion {
    /// True if another holding of the address counts now.
    pub is_news: bool,
    /// True if its time is too far ahead of this host's clock to count.
    pub is_ahead: bool,
}

/// What was refused, each time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refused {
    /// Times that were too far ahead of this host's clock.
    pub ahead: u64,
    /// Holdings for which there was no room.
    pub no_room: u64,
    /// Holdings that were told with this router's own id.
    pub own: u64,
}

/// A holding by its time.
type Moment = (ClaimTime, Source, IpAddr);

/// One address: all that tell of it, the one that counts first; never empty.
#[derive(Debug)]
struct Address {
    told: Vec<Teller>,
    /// The router of which the log has said that it holds the address.
    noted: Option<RouterId>,
}

/// What is known of one source.
#[derive(Debug, Default)]
struct Known {
    addresses: BTreeSet<IpAddr>,
    /// How often it has been forgotten. What it told before that is taken out piece by piece.
    round: u64,
    /// True if some of that may be left, behind this address if there is one.
    is_swept: bool,
    swept: Option<IpAddr>,
    /// True once the log has said that times of this source are too far ahead.
    is_ahead_noted: bool,
}

/// The holdings of other routers. The cost of a look-up depends neither on their number nor on that of the sources.
#[derive(Debug)]
pub struct Elsewhere {
    /// This router. Without an id, others don't know it, and nothing is remembered for them.
    own: Option<RouterId>,
    /// The host's wall clock.
    clock: ClaimTime,
    /// True while a source hasn't told yet what it knows.
    is_unsure: bool,
    addresses: HashMap<IpAddr, Address>,
    sources: BTreeMap<Source, Known>,
    /// The number of holdings.
    len: usize,
    /// All of them by their times.
    times: BTreeSet<Moment>,
    /// Those that have to be looked at again because the clock was set.
    reviews: Reviews,
    /// True if forgotten holdings were taken out since [`Self::sweep`].
    has_freed: bool,
    gone: Gone,
    refused: Refused,
    /// True once the log has said that there is no room.
    is_full_noted: bool,
}

impl Elsewhere {
    /// Nothing is known yet. `own` is this router's id among all that know of each other, if it has one.
    pub fn new(own: Option<RouterId>) -> Self {
        Self {
            own,
            clock: ClaimTime(0),
            is_unsure: false,
            addresses: HashMap::new(),
            sources: BTreeMap::new(),
            len: 0,
            times: BTreeSet::new(),
            reviews: Reviews::default(),
            has_freed: false,
            gone: Gone::default(),
            refused: Refused::default(),
            is_full_noted: false,
        }
    }

    /// Returns this router's id.
    pub const fn own(&self) -> Option<RouterId> {
        self.own
    }

    /// Returns the time of the host's wall clock, as it was set last.
    pub const fn clock(&self) -> ClaimTime {
        self.clock
    }

    /// Returns what was refused so far.
    pub const fn refused(&self) -> Refused {
        self.refused
    }

    /// Returns the number of holdings. Those of several sources count several times.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns true if there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns all sources that have told of holdings and were not forgotten, with the number of their holdings.
    pub fn sources(&self) -> impl Iterator<Item = (Source, usize)> {
        self.sources.iter().map(|(source, known)| (*source, known.addresses.len()))
    }

    /// Returns who holds an address elsewhere: the newest holding, and the source that tells of it.
    #[inline]
    pub fn holder(&self, address: IpAddr) -> Option<Told> {
        self.addresses.get(&address).map(|known| known.told[0].told)
    }

    /// Takes over a holding. It replaces an earlier one that this source has told of for the address.
    pub fn insert(&mut self, source: Source, address: IpAddr, holding: Holding) -> Result<Insertion, Refusal> {
        self.insert_from_afar(source, address, holding, 0)
    }

    /// Takes over a holding that `distance` other routers have passed on to the source. Of several sources that tell of one
    /// holding, the nearest one counts.
    pub fn insert_from_afar(
        &mut self,
        source: Source,
        address: IpAddr,
        holding: Holding,
        distance: u8,
    ) -> Result<Insertion, Refusal> {
        if self.own == Some(holding.router) {
            self.refused.own += 1;
            // If the source knew another holder before, that has given way.
            self.remove(source, address);
            return Err(Refusal::Own);
        }
        let before = self.holder(address);
        if let Err(refusal) = self.take_room(source, address).or_else(|refusal| {
            // What was forgotten may still be in the way.
            if self.sweep_some() { self.take_room(source, address) } else { Err(refusal) }
        }) {
            self.refused.no_room += 1;
            return Err(refusal);
        }
        let is_ahead = self.is_ahead(holding.since);
        let known = self.addresses.entry(address).or_insert_with(|| Address { told: Vec::new(), noted: None });
        let told = Told { source, holding };
        let is_same = known.told.iter().any(|teller| teller.told == told);
        let round = self.sources.get(&source).map_or(0, |known| known.round);
        let teller = Teller { told, distance, round };
        if let Some(earlier) = known.told.iter_mut().find(|teller| teller.told.source == source) {
            self.times.remove(&(earlier.told.holding.since, source, address));
            *earlier = teller;
        } else {
            known.told.push(teller);
        }
        self.times.insert((holding.since, source, address));
        self.refused.ahead += u64::from(is_ahead && !is_same);
        self.order(address);
        Ok(Insertion { is_news: self.holder(address) != before, is_ahead })
    }

    /// A source tells that an address is free. Returns true if it had told of a holding.
    pub fn remove(&mut self, source: Source, address: IpAddr) -> bool {
        let was_there = self.sources.get_mut(&source).is_some_and(|known| known.addresses.remove(&address));
        if was_there {
            self.take_out(source, address);
        }
        was_there
    }

    /// Says whether a source hasn't told yet what it knows. A claim that is made meanwhile may be to an address that a peer of
    /// another router has held all along. So it counts as one that is [`UNSURE_AGE_MILLIS`] old: it holds if nobody else has the
    /// address, and gives way as soon as another holder is heard of.
    pub const fn set_unsure(&mut self, is_unsure: bool) {
        self.is_unsure = is_unsure;
    }

    /// Returns true while a source hasn't told yet what it knows.
    pub const fn is_unsure(&self) -> bool {
        self.is_unsure
    }

    /// Returns since when an address is held that a local peer gets now.
    pub fn time_of_claim(&self, address: IpAddr) -> ClaimTime {
        let clock = if self.is_unsure { ClaimTime(self.clock.0.saturating_sub(UNSURE_AGE_MILLIS)) } else { self.clock };
        let visible = self.holder(address).map(|told| told.holding.since).filter(|since| !self.is_ahead(*since));
        let later = visible.max(self.gone.time(address)).map(|since| ClaimTime(since.0.saturating_add(1)));
        later.map_or(clock, |later| later.max(clock))
    }

    /// Notes that a local peer has lost or released an address, so that the next claim to it is later.
    pub fn note_release(&mut self, address: IpAddr, since: ClaimTime) {
        if self.own.is_some() && !self.is_ahead(since) {
            self.gone.note(address, since);
        }
    }

    /// Returns the holding elsewhere that is newer than a local one, so that the local peer has to give way.
    pub fn winner(&self, address: IpAddr, since: ClaimTime) -> Option<Told> {
        let told = self.holder(address)?;
        let local = Holding { router: self.own?, since };
        let rank = |holding: Holding| (!self.is_ahead(holding.since), holding);
        (rank(told.holding) > rank(local)).then_some(told)
    }

    /// Returns the holder of an address unless this was asked before about the same address and the same router.
    pub fn note_holder(&mut self, address: IpAddr) -> Option<Told> {
        let known = self.addresses.get_mut(&address)?;
        let told = known.told[0].told;
        (known.noted.replace(told.holding.router) != Some(told.holding.router)).then_some(told)
    }

    /// Returns true when it is asked for the first time since a source was forgotten: there is no room.
    pub const fn note_no_room(&mut self) -> bool {
        !std::mem::replace(&mut self.is_full_noted, true)
    }

    /// Returns true when it is asked for the first time about a source whose times are too far ahead.
    pub fn note_ahead(&mut self, source: Source) -> bool {
        self.sources.get_mut(&source).is_some_and(|known| !std::mem::replace(&mut known.is_ahead_noted, true))
    }

    fn is_ahead(&self, since: ClaimTime) -> bool {
        is_ahead(since, self.clock)
    }

    /// Makes sure that there is room for what a source tells about an address.
    fn take_room(&mut self, source: Source, address: IpAddr) -> Result<(), Refusal> {
        let has_room = self.sources.len() < MAX_SOURCES;
        let of_source = self.sources.get(&source).map(|known| &known.addresses);
        match of_source {
            None if !has_room => return Err(Refusal::TooManySources),
            Some(addresses) if addresses.contains(&address) => return Ok(()),
            Some(addresses) if addresses.len() >= MAX_HOLDINGS_OF_SOURCE => return Err(Refusal::SourceFull),
            _ if self.len >= MAX_HOLDINGS => return Err(Refusal::Full),
            _ => {}
        }
        self.sources.entry(source).or_default().addresses.insert(address);
        self.len += 1;
        Ok(())
    }

    /// Removes what a source has told about an address.
    fn take_out(&mut self, source: Source, address: IpAddr) {
        let Some(known) = self.addresses.get_mut(&address) else { return };
        let Some(at) = known.told.iter().position(|teller| teller.told.source == source) else { return };
        let since = known.told.remove(at).told.holding.since;
        if known.told.is_empty() {
            self.addresses.remove(&address);
        }
        self.len -= 1;
        self.times.remove(&(since, source, address));
        if !self.is_ahead(since) {
            self.gone.note(address, since);
        }
    }

    /// Puts what counts of an address first.
    fn order(&mut self, address: IpAddr) {
        let clock = self.clock;
        if let Some(known) = self.addresses.get_mut(&address) {
            known.told.sort_unstable_by_key(|Teller { told: Told { source, holding }, distance, .. }| {
                Reverse((!is_ahead(holding.since, clock), *holding, Reverse((*distance, *source))))
            });
        }
    }
}

/// Returns true if a time is too far ahead of a clock to be right.
const fn is_ahead(since: ClaimTime, clock: ClaimTime) -> bool {
    since.0 > latest(clock).0
}

/// The latest time that can be right, by a clock.
const fn latest(clock: ClaimTime) -> ClaimTime {
    ClaimTime(clock.0.saturating_add(MAX_AHEAD_MILLIS))
}

#[cfg(test)]
mod tests;
