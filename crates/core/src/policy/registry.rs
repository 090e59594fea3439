//! Which peer holds which address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

/// A peer's place in the tables. The generation tells it from an earlier peer in the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerId {
    /// Slot, below [`PeerId::MAX_INDEX`].
    pub index: u32,
    /// How often the slot was used before.
    pub generation: u32,
}

impl PeerId {
    /// Slots are numbered below this, so that an index fits beside a kind in an event's token.
    pub const MAX_INDEX: u32 = 1 << 24;
}

/// How a claim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimResult {
    /// The peer holds the address now.
    Granted,
    /// Another peer holds it, and keeps it until it dies.
    HeldBy(PeerId),
}

/// Exact addresses and their holders. A lookup costs the same for any number of peers.
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

    /// The address's holder.
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
