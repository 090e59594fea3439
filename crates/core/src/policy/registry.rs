//! The registry of addresses and their holders.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

/// The id of a peer: a slot of the table of peers, and a generation, which distinguishes it from earlier peers in the same
/// slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// Addresses and their holders. The cost of a look-up doesn't depend on the number of peers.
#[derive(Debug, Default)]
pub struct Registry {
    holders: HashMap<IpAddr, PeerId>,
}

impl Registry {
    /// Gives the address to the peer unless another one holds it.
    pub fn claim(&mut self, address: IpAddr, peer: PeerId) -> ClaimResult {
        match self.holders.entry(address) {
            Entry::Vacant(entry) => {
                entry.insert(peer);
                ClaimResult::Granted
            }
            Entry::Occupied(entry) if *entry.get() == peer => ClaimResult::Granted,
            Entry::Occupied(entry) => ClaimResult::HeldBy(*entry.get()),
        }
    }

    /// Frees the address if this peer holds it.
    pub fn release(&mut self, address: IpAddr, peer: PeerId) {
        if self.holders.get(&address) == Some(&peer) {
            self.holders.remove(&address);
        }
    }

    /// Returns the holder of an address.
    pub fn holder(&self, address: IpAddr) -> Option<PeerId> {
        self.holders.get(&address).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 0, 2));

    fn peer(index: u32) -> PeerId {
        PeerId { index, generation: 0 }
    }

    #[test]
    fn first_holder_keeps_it_until_released() {
        let mut registry = Registry::default();
        assert_eq!(registry.claim(ADDRESS, peer(1)), ClaimResult::Granted);
        assert_eq!(registry.claim(ADDRESS, peer(1)), ClaimResult::Granted);
        assert_eq!(registry.claim(ADDRESS, peer(2)), ClaimResult::HeldBy(peer(1)));
        registry.release(ADDRESS, peer(2));
        assert_eq!(registry.holder(ADDRESS), Some(peer(1)));
        registry.release(ADDRESS, peer(1));
        assert_eq!(registry.claim(ADDRESS, peer(2)), ClaimResult::Granted);
    }

    #[test]
    fn successor_in_the_same_slot_is_another_peer() {
        let mut registry = Registry::default();
        registry.claim(ADDRESS, peer(1));
        let successor = PeerId { index: 1, generation: 1 };
        assert_eq!(registry.claim(ADDRESS, successor), ClaimResult::HeldBy(peer(1)));
        registry.release(ADDRESS, successor);
        assert_eq!(registry.holder(ADDRESS), Some(peer(1)));
    }
}
