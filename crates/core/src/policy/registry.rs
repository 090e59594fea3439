//! The registry of addresses and their holders.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use tuntap_wire::holding::ClaimTime;

/// The id of a peer: a slot of the table of peers, and a generation, which distinguishes it from earlier peers in the same
/// slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId {
    /// The slot, below [`PeerId::MAX_INDEX`].
    pub index: u32,
    /// How often the slot was used before.
    pub generation: u32,
}

impl PeerId {
    /// The number of slots. It is small enough for an index to fit beside a kind in the token of an epoll event.
    pub const MAX_INDEX: u32 = 1 << 24;
}

/// The result of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimResult {
    /// The peer holds the address now.
    Granted,
    /// Another peer holds it, and keeps it until it dies.
    HeldBy(PeerId),
}

/// Most addresses whose claims have changed that are kept for [`Registry::take_changes`]. A host tells others of its changes in
/// each turn, so that there are more only if it can't.
pub const MAX_CHANGES: usize = 1 << 14;

/// Who holds an address, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalClaim {
    /// The peer.
    pub peer: PeerId,
    /// Since when. A peer that claims an address again that it holds keeps its time.
    pub since: ClaimTime,
}

/// The addresses whose claims have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// These have.
    Of(HashSet<IpAddr>),
    /// More than [`MAX_CHANGES`] have: any may.
    Any,
}

impl Default for Changes {
    fn default() -> Self {
        Self::Of(HashSet::new())
    }
}

impl Changes {
    fn note(&mut self, address: IpAddr) {
        if let Self::Of(addresses) = self {
            addresses.insert(address);
            if addresses.len() > MAX_CHANGES {
                *self = Self::Any;
            }
        }
    }
}

/// Addresses and their holders. The cost of a look-up doesn't depend on the number of peers.
#[derive(Debug, Default)]
pub struct Registry {
    holders: HashMap<IpAddr, LocalClaim>,
    /// `None` if nobody wants to know them.
    changes: Option<Changes>,
}

impl Registry {
    /// Makes an empty registry. With `is_watched`, it keeps the addresses whose claims change, for [`Self::take_changes`].
    pub fn new(is_watched: bool) -> Self {
        Self { holders: HashMap::new(), changes: is_watched.then(Changes::default) }
    }

    /// Gives the address to the peer, as held since this time, unless another one holds it.
    pub fn claim(&mut self, address: IpAddr, peer: PeerId, since: ClaimTime) -> ClaimResult {
        match self.holders.entry(address) {
            Entry::Vacant(entry) => {
                entry.insert(LocalClaim { peer, since });
                self.note_change(address);
                ClaimResult::Granted
            }
            Entry::Occupied(entry) if entry.get().peer == peer => ClaimResult::Granted,
            Entry::Occupied(entry) => ClaimResult::HeldBy(entry.get().peer),
        }
    }

    /// Frees the address if this peer holds it. Returns since when it did.
    pub fn release(&mut self, address: IpAddr, peer: PeerId) -> Option<ClaimTime> {
        let claim = self.claim_of(address).filter(|claim| claim.peer == peer)?;
        self.holders.remove(&address);
        self.note_change(address);
        Some(claim.since)
    }

    /// Returns the holder of an address.
    pub fn holder(&self, address: IpAddr) -> Option<PeerId> {
        self.holders.get(&address).map(|claim| claim.peer)
    }

    /// Returns who holds an address, and since when.
    pub fn claim_of(&self, address: IpAddr) -> Option<LocalClaim> {
        self.holders.get(&address).copied()
    }

    /// Returns all addresses that are held.
    pub fn claims(&self) -> impl Iterator<Item = (IpAddr, LocalClaim)> {
        self.holders.iter().map(|(address, claim)| (*address, *claim))
    }

    /// Returns the addresses whose claims have changed since this was called before.
    pub fn take_changes(&mut self) -> Changes {
        self.changes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn note_change(&mut self, address: IpAddr) {
        if let Some(changes) = &mut self.changes {
            changes.note(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 0, 2));

    const SINCE: ClaimTime = ClaimTime(7);

    fn peer(index: u32) -> PeerId {
        PeerId { index, generation: 0 }
    }

    #[test]
    fn first_holder_keeps_it_until_released() {
        let mut registry = Registry::default();
        assert_eq!(registry.claim(ADDRESS, peer(1), SINCE), ClaimResult::Granted);
        assert_eq!(registry.claim(ADDRESS, peer(1), SINCE), ClaimResult::Granted);
        assert_eq!(registry.claim(ADDRESS, peer(2), SINCE), ClaimResult::HeldBy(peer(1)));
        registry.release(ADDRESS, peer(2));
        assert_eq!(registry.holder(ADDRESS), Some(peer(1)));
        registry.release(ADDRESS, peer(1));
        assert_eq!(registry.claim(ADDRESS, peer(2), SINCE), ClaimResult::Granted);
    }

    #[test]
    fn successor_in_the_same_slot_is_another_peer() {
        let mut registry = Registry::default();
        registry.claim(ADDRESS, peer(1), SINCE);
        let successor = PeerId { index: 1, generation: 1 };
        assert_eq!(registry.claim(ADDRESS, successor, SINCE), ClaimResult::HeldBy(peer(1)));
        registry.release(ADDRESS, successor);
        assert_eq!(registry.holder(ADDRESS), Some(peer(1)));
    }

    #[test]
    fn holder_that_claims_again_keeps_its_time() {
        let mut registry = Registry::default();
        registry.claim(ADDRESS, peer(1), SINCE);
        registry.claim(ADDRESS, peer(1), ClaimTime(9));
        assert_eq!(registry.claim_of(ADDRESS), Some(LocalClaim { peer: peer(1), since: SINCE }));
        assert_eq!(registry.release(ADDRESS, peer(2)), None);
        assert_eq!(registry.release(ADDRESS, peer(1)), Some(SINCE));
        assert_eq!(registry.claims().count(), 0);
    }

    #[test]
    fn changes_are_told_once_and_are_bounded() {
        let mut registry = Registry::new(true);
        registry.claim(ADDRESS, peer(1), SINCE);
        registry.claim(ADDRESS, peer(2), SINCE);
        assert_eq!(registry.take_changes(), Changes::Of(HashSet::from([ADDRESS])));
        registry.claim(ADDRESS, peer(1), SINCE);
        registry.release(ADDRESS, peer(2));
        assert_eq!(registry.take_changes(), Changes::default());
        registry.release(ADDRESS, peer(1));
        assert_eq!(registry.take_changes(), Changes::Of(HashSet::from([ADDRESS])));
        for number in 0..=MAX_CHANGES {
            let address = u32::try_from(number).expect("small").to_be_bytes();
            registry.claim(IpAddr::from(address), peer(1), SINCE);
        }
        assert_eq!((registry.take_changes(), registry.take_changes()), (Changes::Any, Changes::default()));
        let mut unwatched = Registry::default();
        unwatched.claim(ADDRESS, peer(1), SINCE);
        assert_eq!(unwatched.take_changes(), Changes::default());
    }
}
