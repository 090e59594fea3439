//! The table of all peers.

use std::net::IpAddr;

use tuntap_wire::rule::PeerRule;

use crate::policy::claims::Claims;
use crate::policy::grant::Identity;
use crate::policy::limits::Limits;
use crate::policy::registry::PeerId;
use crate::router::session::Session;

const _: () = assert!(Limits::MAX_PEERS <= PeerId::MAX_INDEX as usize);

/// A peer: its identity, its addresses, its rules, and the state of its connection.
#[derive(Debug)]
pub struct Peer {
    pub(crate) id: PeerId,
    pub(crate) identity: Identity,
    /// The network namespace from which it connected, if that is not the router's own. It distinguishes vassals that
    /// connect as root.
    pub(crate) namespace: Option<u64>,
    pub(crate) claims: Claims,
    pub(crate) rules: Vec<CheckedRule>,
    /// True if one of the rules looks at the state of connections.
    pub(crate) looks_at_state: bool,
    /// True once a packet of the peer was accepted. From then on its rules can't be changed.
    pub(crate) has_sent: bool,
    pub(crate) session: Session,
}

/// A rule that a peer sent, and the policy's check of its target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CheckedRule {
    pub(crate) rule: PeerRule,
    pub(crate) target_refused: bool,
}

impl Peer {
    /// Makes a peer without addresses and rules.
    pub(crate) fn new(id: PeerId, identity: Identity, session: Session) -> Self {
        let (claims, rules) = (Claims::default(), Vec::new());
        Self { id, identity, namespace: None, claims, rules, looks_at_state: false, has_sent: false, session }
    }

    /// Returns the address by which the log names the peer: its IPv4 address, if it has one.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.claims.held().next()
    }
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    peer: Option<Peer>,
}

/// Peers by slot. Each slot has a generation. The cost of a look-up doesn't depend on the number of peers.
#[derive(Debug, Default)]
pub(crate) struct PeerTable {
    slots: Vec<Slot>,
    /// Slots without a peer.
    free: Vec<u32>,
    len: usize,
}

impl PeerTable {
    /// Returns the number of peers.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Returns the id for the next peer; `None` if the table is full.
    pub(crate) fn vacant(&self) -> Option<PeerId> {
        if self.len >= Limits::MAX_PEERS {
            return None;
        }
        let index = self.free.last().copied().or_else(|| u32::try_from(self.slots.len()).ok())?;
        let generation = self.slots.get(index as usize).map_or(0, |slot| slot.generation);
        Some(PeerId { index, generation })
    }

    /// Puts a peer into the slot that its id names. It replaces a peer that is already there.
    pub(crate) fn put(&mut self, peer: Peer) {
        let (index, generation) = (peer.id.index, peer.id.generation);
        while self.slots.len() <= index as usize {
            // Slots that are skipped are free.
            self.free.extend(u32::try_from(self.slots.len()));
            self.slots.push(Slot::default());
        }
        if self.free.last() == Some(&index) {
            self.free.pop();
        } else {
            self.free.retain(|free| *free != index);
        }
        let slot = &mut self.slots[index as usize];
        self.len += usize::from(slot.peer.is_none());
        *slot = Slot { generation, peer: Some(peer) };
    }

    /// Removes a peer. Its id is not used again before the slot has had 2³² other peers.
    pub(crate) fn remove(&mut self, id: PeerId) -> Option<Peer> {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        let peer = slot.peer.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.index);
        self.len -= 1;
        Some(peer)
    }

    /// Returns true if a peer, which was there once, was not removed.
    #[inline]
    pub(crate) fn has(&self, id: PeerId) -> bool {
        self.slots.get(id.index as usize).is_some_and(|slot| slot.generation == id.generation)
    }

    /// Returns a peer, unless it was removed.
    pub(crate) fn get(&self, id: PeerId) -> Option<&Peer> {
        self.slots.get(id.index as usize).filter(|slot| slot.generation == id.generation)?.peer.as_ref()
    }

    /// Returns a peer, unless it was removed.
    pub(crate) fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)?.peer.as_mut()
    }

    /// Returns all peers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.slots.iter().filter_map(|slot| slot.peer.as_ref())
    }

    /// Returns all peers.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.slots.iter_mut().filter_map(|slot| slot.peer.as_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: PeerId) -> Peer {
        Peer::new(id, Identity { uid: 2, gid: 3, groups: Vec::new() }, Session::default())
    }

    #[test]
    fn stale_id_does_not_find_the_slots_next_tenant() {
        let mut table = PeerTable::default();
        let first = table.vacant().expect("room");
        table.put(peer(first));
        assert!(table.remove(first).is_some());
        let second = table.vacant().expect("room");
        table.put(peer(second));
        assert_eq!(first.index, second.index);
        assert!(table.get(first).is_none());
        assert!(table.get_mut(first).is_none());
        assert!(table.remove(first).is_none());
        assert!(table.get(second).is_some());
        assert_eq!(table.iter().map(|peer| peer.id).collect::<Vec<_>>(), [second]);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn skipped_slots_are_used_later() {
        let mut table = PeerTable::default();
        table.put(peer(PeerId { index: 2, generation: 7 }));
        let mut indexes = Vec::new();
        for _ in 0..3 {
            let id = table.vacant().expect("room");
            table.put(peer(id));
            indexes.push(id.index);
        }
        indexes.sort_unstable();
        assert_eq!(indexes, [0, 1, 3]);
        assert_eq!(table.len(), 4);
    }
}
