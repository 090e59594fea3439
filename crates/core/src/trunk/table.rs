//! Who holds which address, as far as this router's peers and the neighbours have told.

use std::cmp::Reverse;
use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use tuntap_wire::holding::{Holding, RouterId};
use tuntap_wire::trunk::Announcement;

use super::{MAX_ANNOUNCED, TrunkId};

/// What one source has told of an address.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// The neighbour. `None` for this router's own peers.
    source: Option<TrunkId>,
    announcement: Announcement,
    /// It was told before the neighbour's last hello.
    is_stale: bool,
}

impl Known {
    /// The greatest is the one that counts: the newest claim, on the shortest path. Own ones come first among equals, and
    /// otherwise the order is that of the configuration.
    fn rank(&self) -> (Holding, Reverse<usize>, Reverse<Option<TrunkId>>) {
        (self.announcement.holding, Reverse(self.announcement.path.len()), Reverse(self.source))
    }
}

/// All that is known.
#[derive(Debug)]
pub(super) struct Table {
    own: RouterId,
    /// No list is empty, and each source is in it once.
    known: HashMap<IpAddr, Vec<Known>>,
    /// How many addresses each neighbour has told of.
    counts: Vec<usize>,
    /// Addresses of which something else is known since [`Self::take_changed`].
    changed: BTreeSet<IpAddr>,
}

impl Table {
    /// Makes an empty table for a number of neighbours.
    pub(super) fn new(own: RouterId, neighbours: usize) -> Self {
        Self { own, known: HashMap::new(), counts: vec![0; neighbours], changed: BTreeSet::new() }
    }

    /// Takes in what this router's own peers hold.
    pub(super) fn claim(&mut self, address: IpAddr, holding: Holding) {
        self.put(address, None, Announcement::own(holding));
    }

    /// Takes in what a neighbour has told. Returns false if it has told of too many addresses.
    pub(super) fn insert(&mut self, source: TrunkId, address: IpAddr, announcement: Announcement) -> bool {
        if self.counts[source.index()] >= MAX_ANNOUNCED && self.told_by(source, address).is_none() {
            return false;
        }
        if self.put(address, Some(source), announcement) {
            self.counts[source.index()] += 1;
        }
        true
    }

    /// Returns true if the source had told nothing of the address before.
    fn put(&mut self, address: IpAddr, source: Option<TrunkId>, announcement: Announcement) -> bool {
        let known = Known { source, announcement, is_stale: false };
        let list = self.known.entry(address).or_default();
        let before = list.iter_mut().find(|known| known.source == source);
        if before.as_ref().is_none_or(|before| before.announcement != announcement) {
            self.changed.insert(address);
        }
        match before {
            Some(before) => {
                *before = known;
                false
            }
            None => {
                list.push(known);
                true
            }
        }
    }

    /// Forgets what a source has told of an address. Returns true if there was something.
    pub(super) fn remove(&mut self, source: Option<TrunkId>, address: IpAddr) -> bool {
        let MapEntry::Occupied(mut entry) = self.known.entry(address) else { return false };
        let Some(at) = entry.get().iter().position(|known| known.source == source) else { return false };
        entry.get_mut().swap_remove(at);
        if entry.get().is_empty() {
            entry.remove();
        }
        if let Some(source) = source {
            self.counts[source.index()] -= 1;
        }
        self.changed.insert(address);
        true
    }

    /// Marks all that a neighbour has told: it is about to tell everything again.
    pub(super) fn mark_stale(&mut self, source: TrunkId) {
        for known in self.known.values_mut().flatten().filter(|known| known.source == Some(source)) {
            known.is_stale = true;
        }
    }

    /// Forgets what a neighbour has told, or only what it hasn't told again. Returns the addresses.
    pub(super) fn forget(&mut self, source: TrunkId, only_stale: bool) -> Vec<IpAddr> {
        let is_gone = |known: &Known| known.source == Some(source) && (known.is_stale || !only_stale);
        let gone: Vec<_> =
            self.known.iter().filter(|(_, list)| list.iter().any(is_gone)).map(|(address, _)| *address).collect();
        for address in &gone {
            self.remove(Some(source), *address);
        }
        gone
    }

    fn best(&self, address: IpAddr) -> Option<&Known> {
        self.known.get(&address)?.iter().max_by_key(|known| known.rank())
    }

    /// What a neighbour has told of an address.
    pub(super) fn told_by(&self, source: TrunkId, address: IpAddr) -> Option<&Announcement> {
        let list = self.known.get(&address)?;
        list.iter().find(|known| known.source == Some(source)).map(|known| &known.announcement)
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

    /// All addresses that somebody holds.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.known.keys().copied()
    }

    /// What this router's own peers hold.
    pub(super) fn own_claims(&self) -> impl Iterator<Item = (IpAddr, Holding)> {
        let own = |list: &Vec<Known>| {
            list.iter().find(|known| known.source.is_none()).map(|known| known.announcement.holding)
        };
        self.known.iter().filter_map(move |(address, list)| Some((*address, own(list)?)))
    }

    /// Number of addresses that a neighbour has told of.
    pub(super) fn count(&self, source: TrunkId) -> usize {
        self.counts[source.index()]
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
