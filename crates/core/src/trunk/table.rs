//! Who holds which address, as far as this router's peers and the neighbours have told.

use std::cmp::Reverse;
use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Bound;

use tuntap_wire::holding::{Holding, RouterId};
use tuntap_wire::trunk::Announcement;

use super::{MAX_ANNOUNCED, SWEEP, TrunkId};

/// What one source has told of an address.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// The neighbour. `None` for this router's own peers.
    source: Option<TrunkId>,
    announcement: Announcement,
    /// The neighbour's round in which it was told.
    round: u64,
}

impl Known {
    /// The greatest is the one that counts: the newest claim, on the shortest path. Own ones come first among equals, and
    /// otherwise the order is that of the configuration.
    fn rank(&self) -> (Holding, Reverse<usize>, Reverse<Option<TrunkId>>) {
        (self.announcement.holding, Reverse(self.announcement.path.len()), Reverse(self.source))
    }
}

/// The addresses that a source has told of. Nothing is done with each of them when the source ends or tells all again: what
/// was told before a round doesn't count any longer, and is taken out piece by piece.
#[derive(Debug, Default)]
struct Source {
    /// Those that don't count any longer are among them.
    addresses: BTreeSet<IpAddr>,
    /// Grows whenever the source is about to tell everything.
    round: u64,
    /// The first round that counts.
    valid_from: u64,
    /// How many addresses count, and how many of them were told in this round.
    live: usize,
    fresh: usize,
    /// True if some may be left that don't count, behind this address if there is one.
    is_swept: bool,
    swept: Option<IpAddr>,
}

impl Source {
    const fn is_live(&self, known: &Known) -> bool {
        known.round >= self.valid_from
    }

    fn after(&self, address: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
        let after = address.map_or(Bound::Unbounded, Bound::Excluded);
        self.addresses.range((after, Bound::Unbounded)).copied()
    }
}

/// A place in the list of all that sources have told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    source: usize,
    after: Option<IpAddr>,
}

/// All that is known.
#[derive(Debug)]
pub(super) struct Table {
    own: RouterId,
    /// No list is empty, and each source is in it once.
    known: HashMap<IpAddr, Vec<Known>>,
    /// This router's own peers, and then each neighbour.
    sources: Vec<Source>,
    /// Addresses of which something else is known since [`Self::take_changed`].
    changed: BTreeSet<IpAddr>,
}

/// The place of a source in the list of all.
fn place_of(source: Option<TrunkId>) -> usize {
    source.map_or(0, |source| source.index() + 1)
}

impl Table {
    /// Makes an empty table for a number of neighbours.
    pub(super) fn new(own: RouterId, neighbours: usize) -> Self {
        let sources = (0..=neighbours).map(|_| Source::default()).collect();
        Self { own, known: HashMap::new(), sources, changed: BTreeSet::new() }
    }

    fn is_live(&self, known: &Known) -> bool {
        self.sources[place_of(known.source)].is_live(known)
    }

    /// Takes in what this router's own peers hold.
    pub(super) fn claim(&mut self, address: IpAddr, holding: Holding) {
        self.put(address, None, Announcement::own(holding));
    }

    /// Takes in what a neighbour has told. Returns false if it has told of too many addresses.
    pub(super) fn insert(&mut self, source: TrunkId, address: IpAddr, announcement: Announcement) -> bool {
        let Source { addresses, live, .. } = &self.sources[place_of(Some(source))];
        // Those that don't count any longer leave room for as many again.
        let is_full = addresses.len() >= 2 * MAX_ANNOUNCED && !addresses.contains(&address);
        if is_full || *live >= MAX_ANNOUNCED && self.told_by(source, address).is_none() {
            return false;
        }
        self.put(address, Some(source), announcement);
        true
    }

    fn put(&mut self, address: IpAddr, source: Option<TrunkId>, announcement: Announcement) {
        let of_source = &mut self.sources[place_of(source)];
        let known = Known { source, announcement, round: of_source.round };
        let list = self.known.entry(address).or_default();
        let before = list.iter_mut().find(|known| known.source == source);
        let live = before.as_ref().filter(|before| of_source.is_live(before));
        if live.is_none_or(|before| before.announcement != announcement) {
            self.changed.insert(address);
        }
        of_source.fresh += usize::from(live.is_none_or(|before| before.round < of_source.round));
        of_source.live += usize::from(live.is_none());
        match before {
            Some(before) => *before = known,
            None => {
                list.push(known);
                of_source.addresses.insert(address);
            }
        }
    }

    /// Forgets what a source has told of an address. Returns true if there was something that counts.
    pub(super) fn remove(&mut self, source: Option<TrunkId>, address: IpAddr) -> bool {
        let of_source = &mut self.sources[place_of(source)];
        let of_address = self.known.get(&address).and_then(|list| list.iter().find(|known| known.source == source));
        let Some(known) = of_address.filter(|known| of_source.is_live(known)) else { return false };
        of_source.live -= 1;
        of_source.fresh -= usize::from(known.round == of_source.round);
        self.take_out(source, address);
        true
    }

    fn take_out(&mut self, source: Option<TrunkId>, address: IpAddr) {
        if let MapEntry::Occupied(mut entry) = self.known.entry(address) {
            entry.get_mut().retain(|known| known.source != source);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
        self.sources[place_of(source)].addresses.remove(&address);
        self.changed.insert(address);
    }

    /// A neighbour is about to tell everything again.
    pub(super) fn mark_stale(&mut self, source: TrunkId) {
        let of_source = &mut self.sources[place_of(Some(source))];
        of_source.round += 1;
        of_source.fresh = 0;
    }

    /// Forgets what a neighbour has told, or only what it hasn't told again. None of that counts any longer, and
    /// [`Self::sweep`] takes it out.
    pub(super) fn forget(&mut self, source: TrunkId, only_stale: bool) {
        if !only_stale {
            self.mark_stale(source);
        }
        let of_source = &mut self.sources[place_of(Some(source))];
        of_source.valid_from = of_source.round;
        of_source.live = of_source.fresh;
        of_source.is_swept = of_source.addresses.len() > of_source.live;
        of_source.swept = None;
    }

    /// Returns true if [`Self::sweep`] has something to do.
    pub(super) fn is_sweeping(&self) -> bool {
        self.sources.iter().any(|source| source.is_swept)
    }

    /// Takes out some of what doesn't count any longer, after having looked at [`SWEEP`] addresses at most. Returns whose they
    /// were.
    pub(super) fn sweep(&mut self) -> Option<(TrunkId, Vec<IpAddr>)> {
        let place = self.sources.iter().position(|source| source.is_swept)?;
        let source = TrunkId(u32::try_from(place.checked_sub(1)?).ok()?);
        let of_source = &mut self.sources[place];
        let mut gone: Vec<IpAddr> = of_source.after(of_source.swept).take(SWEEP).collect();
        of_source.swept = gone.last().copied();
        of_source.is_swept = gone.len() == SWEEP;
        gone.retain(|address| self.told_by(source, *address).is_none());
        gone.iter().for_each(|address| self.take_out(Some(source), *address));
        Some((source, gone))
    }

    /// The next address of all that sources have told of, some of them several times. Moves the place on, or returns `None` at the
    /// end.
    pub(super) fn next(&self, place: &mut Place) -> Option<IpAddr> {
        loop {
            let found = self.sources.get(place.source)?.after(place.after).next();
            if found.is_some() {
                place.after = found;
                return found;
            }
            *place = Place { source: place.source + 1, after: None };
        }
    }

    fn best(&self, address: IpAddr) -> Option<&Known> {
        self.known.get(&address)?.iter().filter(|known| self.is_live(known)).max_by_key(|known| known.rank())
    }

    /// What a neighbour has told of an address.
    pub(super) fn told_by(&self, source: TrunkId, address: IpAddr) -> Option<&Announcement> {
        let list = self.known.get(&address)?;
        let told = list.iter().find(|known| known.source == Some(source));
        told.filter(|known| self.is_live(known)).map(|known| &known.announcement)
    }

    /// What a neighbour may be told of an address. What it told itself isn't told back, and what others have told only if it
    /// is relayed.
    pub(super) fn tell(&self, to: TrunkId, is_relayed: bool, address: IpAddr) -> Option<Announcement> {
        let best = self.best(address)?;
        match best.source {
            None => Some(best.announcement),
            Some(source) if source == to || !is_relayed => None,
            Some(_) => Some(Announcement { path: best.announcement.path.with(self.own)?, ..best.announcement }),
        }
    }

    /// Who holds an address, and the neighbour by whom it is reached; `None` for an own peer.
    pub(super) fn holder(&self, address: IpAddr) -> Option<(Holding, Option<TrunkId>)> {
        self.best(address).map(|best| (best.announcement.holding, best.source))
    }

    /// What this router's own peers hold.
    pub(super) fn own_claims(&self) -> impl Iterator<Item = (IpAddr, Holding)> {
        let own = |address: &IpAddr| {
            let known = self.known.get(address)?.iter().find(|known| known.source.is_none())?;
            Some((*address, known.announcement.holding))
        };
        self.sources[0].addresses.iter().filter_map(own)
    }

    /// Number of addresses that a neighbour has told of.
    pub(super) fn count(&self, source: TrunkId) -> usize {
        self.sources[place_of(Some(source))].live
    }

    /// Returns true if [`Self::take_changed`] would return something.
    pub(super) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The addresses that have changed since the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.changed)
    }
}
