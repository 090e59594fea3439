//! Peers by slot, each slot with a generation.

use slab::Slab;

use super::peer::Peer;
use tuntap_core::policy::limits::Limits;
use tuntap_core::policy::registry::PeerId;

const _: () = assert!(Limits::MAX_PEERS <= PeerId::MAX_INDEX as usize);

/// The peers of a router. A lookup costs the same for any number of them.
#[derive(Debug, Default)]
pub struct PeerTable {
    slots: Slab<Peer>,
    generations: Vec<u32>,
}

impl PeerTable {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Adds a peer. `None`, and the peer dropped, if the table is full.
    pub fn insert(&mut self, peer: Peer) -> Option<PeerId> {
        if self.slots.len() >= Limits::MAX_PEERS {
            return None;
        }
        let slot = self.slots.insert(peer);
        if slot >= self.generations.len() {
            self.generations.resize(slot + 1, 0);
        }
        Some(PeerId { index: u32::try_from(slot).ok()?, generation: self.generations[slot] })
    }

    /// Removes a peer. Its id will not be used again before 2³² others have had the slot.
    pub fn remove(&mut self, id: PeerId) -> Option<Peer> {
        self.get(id)?;
        let slot = id.index as usize;
        self.generations[slot] = self.generations[slot].wrapping_add(1);
        self.slots.try_remove(slot)
    }

    /// A peer that still lives.
    pub fn get(&self, id: PeerId) -> Option<&Peer> {
        let slot = id.index as usize;
        self.slots.get(slot).filter(|_| self.generations[slot] == id.generation)
    }

    /// A peer that still lives.
    pub fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        let slot = id.index as usize;
        self.slots.get_mut(slot).filter(|_| self.generations[slot] == id.generation)
    }

    /// All peers.
    pub fn iter(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        self.slots.iter().filter_map(|(slot, peer)| {
            Some((PeerId { index: u32::try_from(slot).ok()?, generation: self.generations[slot] }, peer))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::peer::Stage;
    use tuntap_wire::credentials::PeerCredentials;

    fn peer() -> Peer {
        let (fd, _) = UnixStream::pair().expect("a pair");
        Peer::new(fd.into(), PeerCredentials { pid: 1, uid: 2, gid: 3 }, Stage::Start)
    }

    #[test]
    fn stale_id_does_not_find_the_slots_next_tenant() {
        let mut table = PeerTable::default();
        let first = table.insert(peer()).expect("room");
        assert!(table.remove(first).is_some());
        let second = table.insert(peer()).expect("room");
        assert_eq!(first.index, second.index);
        assert!(table.get(first).is_none());
        assert!(table.get_mut(first).is_none());
        assert!(table.remove(first).is_none());
        assert!(table.get(second).is_some());
        assert_eq!(table.iter().map(|(id, _)| id).collect::<Vec<_>>(), [second]);
    }
}
