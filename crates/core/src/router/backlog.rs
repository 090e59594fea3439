//! Packets towards peers that wait until it is their turn, or until their connection has room again: for each peer a queue of
//! flows (fq_codel, RFC 8290). So a peer that is flooded still gets what its other flows bring, soonest.
//!
//! Packets for all attached peers come by one device, whose queue is bounded in packets: it must be read faster than it fills,
//! also while somebody floods a peer. To read a packet costs less than to write it to a peer's device. So while the device's
//! queue is not empty, packets for those peers that have had more than their share are held here.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::policy::registry::PeerId;
use crate::shaper::{Delays, Flows, Heap, Item, Loss};

/// The most bytes that wait for one attached peer: some dozens of the longest packets.
pub const PEER_ROOM: u64 = 2 * 1024 * 1024;

/// The most bytes that wait for all attached peers.
const ALL_ROOM: u64 = 32 * 1024 * 1024;

/// Queues without packets that are kept for the next peers.
const SPARES: usize = 8;

/// How long packets may wait at least before that is too long, in nanoseconds (RFC 8290, section 5.2.1).
const TARGET: u64 = 5_000_000;

/// Packets may wait for so many times the pause between two turns of their peer. It is as long as the peer's other end lets the
/// router wait, or as others need for their turns, and no sender can change that.
const PAUSES: u64 = 2;

/// The packets that wait for one peer.
#[derive(Debug)]
struct Queue {
    peer: PeerId,
    flows: Box<Flows<()>>,
    /// True if what waits here counts for all attached peers together.
    is_shared: bool,
    /// The place in [`Backlog::fattest`], and what is counted there.
    place: usize,
    counted: u64,
    /// When its latest turn began, and the pause before that.
    served: u64,
    pause: u64,
}

/// A packet that was dropped while it waited.
pub type Lost = (PeerId, Item<()>, Loss);

/// All packets that wait.
#[derive(Debug, Default)]
pub struct Backlog {
    by_peer: HashMap<PeerId, usize>,
    queues: Vec<Option<Queue>>,
    unused: Vec<usize>,
    #[expect(clippy::vec_box)] // the boxes go to queues and come back
    spares: Vec<Box<Flows<()>>>,
    /// The queues of attached peers, the longest first.
    fattest: Heap<Reverse<u64>>,
    /// What they have in bytes.
    room: u64,
    /// Packets that were dropped, until they are counted.
    pub lost: Vec<Lost>,
}

impl Backlog {
    /// Returns true if packets wait for the peer.
    pub fn has(&self, peer: PeerId) -> bool {
        self.by_peer.contains_key(&peer)
    }

    /// Returns how many bytes wait for a peer.
    pub fn bytes(&self, peer: PeerId) -> u64 {
        self.queue(peer).map_or(0, |queue| queue.flows.room())
    }

    /// Returns how many packets wait for a peer.
    pub fn packets(&self, peer: PeerId) -> u64 {
        self.queue(peer).map_or(0, |queue| queue.flows.packets())
    }

    fn queue(&self, peer: PeerId) -> Option<&Queue> {
        self.queues.get(*self.by_peer.get(&peer)?)?.as_ref()
    }

    /// Adds a packet to those that wait for a peer, which are bounded as by [`Self::bound`].
    pub fn push(&mut self, peer: PeerId, item: Item<()>, limit: u64, is_shared: bool, now: u64) {
        let at = match self.by_peer.get(&peer) {
            Some(&at) => at,
            None => self.open(peer, now),
        };
        let Some(queue) = self.queues.get_mut(at).and_then(Option::as_mut) else { return };
        queue.flows.push(item, now);
        self.bound_at(at, limit, is_shared);
    }

    /// Sets bounds to what waits for a peer. If there are more than `limit` bytes, the flow with the most bytes loses its first
    /// packets. `is_shared` is true for a peer that is attached; those share the memory.
    pub fn bound(&mut self, peer: PeerId, limit: u64, is_shared: bool) {
        if let Some(&at) = self.by_peer.get(&peer) {
            self.bound_at(at, limit, is_shared);
        }
    }

    fn bound_at(&mut self, at: usize, limit: u64, is_shared: bool) {
        self.share(at, is_shared);
        self.trim(at, limit);
        while self.room > ALL_ROOM
            && let Some((Reverse(longest), at)) = self.fattest.first()
            && self.trim(at, longest - 1)
        {}
    }

    /// Notes that a turn of a peer begins.
    pub fn begin_turn(&mut self, peer: PeerId, now: u64) {
        if let Some(at) = self.by_peer.get(&peer)
            && let Some(queue) = self.queues.get_mut(*at).and_then(Option::as_mut)
        {
            queue.pause = now.saturating_sub(queue.served);
            queue.served = now;
        }
    }

    /// Takes the next packet for a peer. Those that have waited too long are dropped on the way, or marked (ECN).
    pub fn pop(&mut self, peer: PeerId, now: u64) -> Option<Item<()>> {
        let at = *self.by_peer.get(&peer)?;
        let queue = self.queues.get_mut(at)?.as_mut()?;
        let delays = Delays::new(queue.pause.saturating_mul(PAUSES).max(TARGET));
        let lost = &mut self.lost;
        let left = queue.flows.pop(now, delays, &mut |item, loss| lost.push((peer, item, loss)));
        self.settle(at);
        Some(left?.item)
    }

    /// Drops what waits for a peer. Returns the number of packets.
    pub fn forget(&mut self, peer: PeerId) -> u64 {
        let Some(at) = self.by_peer.get(&peer).copied() else { return 0 };
        let Some(queue) = self.queues.get_mut(at).and_then(Option::as_mut) else { return 0 };
        let packets = queue.flows.packets();
        queue.flows.reset();
        self.settle(at);
        packets
    }

    fn open(&mut self, peer: PeerId, now: u64) -> usize {
        let at = self.unused.pop().unwrap_or_else(|| {
            self.queues.push(None);
            self.queues.len() - 1
        });
        let flows = self.spares.pop().unwrap_or_default();
        if let Some(slot) = self.queues.get_mut(at) {
            *slot = Some(Queue { peer, flows, is_shared: false, place: usize::MAX, counted: 0, served: now, pause: 0 });
        }
        self.by_peer.insert(peer, at);
        at
    }

    /// Says if what waits in a queue counts for all attached peers together, which changes with the peer's transport.
    fn share(&mut self, at: usize, is_shared: bool) {
        let Some(queue) = self.queues.get_mut(at).and_then(Option::as_mut) else { return };
        if std::mem::replace(&mut queue.is_shared, is_shared) == is_shared {
            return;
        }
        self.room -= std::mem::take(&mut queue.counted);
        let place = queue.place;
        let queues = &mut self.queues;
        let mut moved = |at: usize, place| set_place(queues, at, place);
        if is_shared {
            self.fattest.insert(Reverse(0), at, &mut moved);
        } else {
            self.fattest.remove(place, &mut moved);
        }
    }

    /// Drops packets of a queue until it has `limit` bytes at most. Returns true if it dropped some.
    fn trim(&mut self, at: usize, limit: u64) -> bool {
        let Some(queue) = self.queues.get_mut(at).and_then(Option::as_mut) else { return false };
        let before = self.lost.len();
        while queue.flows.room() > limit
            && let Some(item) = queue.flows.drop_from_fattest()
        {
            self.lost.push((queue.peer, item, Loss::Full));
        }
        self.settle(at);
        self.lost.len() > before
    }

    /// Counts what a queue has now, and removes it if that is nothing.
    fn settle(&mut self, at: usize) {
        let Some(queue) = self.queues.get_mut(at).and_then(Option::as_mut) else { return };
        let is_empty = queue.flows.packets() == 0;
        if queue.is_shared {
            let (place, room) = (queue.place, queue.flows.room());
            self.room = self.room - queue.counted + room;
            queue.counted = room;
            let queues = &mut self.queues;
            let mut moved = |at: usize, place| set_place(queues, at, place);
            if is_empty {
                self.fattest.remove(place, &mut moved);
            } else {
                self.fattest.change(place, Reverse(room), &mut moved);
            }
        }
        if is_empty && let Some(mut queue) = self.queues.get_mut(at).and_then(Option::take) {
            self.by_peer.remove(&queue.peer);
            self.unused.push(at);
            if self.spares.len() < SPARES {
                queue.flows.reset();
                self.spares.push(queue.flows);
            }
        }
    }
}

fn set_place(queues: &mut [Option<Queue>], at: usize, place: usize) {
    if let Some(queue) = queues.get_mut(at).and_then(Option::as_mut) {
        queue.place = place;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const fn peer(index: u32) -> PeerId {
        PeerId { index, generation: 0 }
    }

    fn item(flow: u32, len: usize) -> Item<()> {
        Item { bytes: vec![0; len], cost: u32::try_from(len).expect("small"), segments: 1, flow, target: () }
    }

    proptest! {
        /// Whatever is pushed, taken and forgotten: bytes and packets are conserved, the limits hold, and nothing is left behind.
        #[test]
        fn nothing_is_lost_uncounted(
            steps in prop::collection::vec((0_u32..6, 0_u32..8, 256_usize..60_000, 0_u8..8), 1..400),
        ) {
            let mut backlog = Backlog::default();
            let mut waiting: HashMap<PeerId, u64> = HashMap::new();
            let mut now = 0;
            let mut are_shared = [false; 6];
            for (index, flow, len, what) in steps {
                let (id, is_shared) = (peer(index), (index + u32::from(what)) % 2 == 0);
                now += 1_000_000;
                match what {
                    0 => {
                        let packets = backlog.forget(id);
                        prop_assert_eq!(packets, waiting.remove(&id).unwrap_or_default());
                    }
                    1..4 => {
                        backlog.begin_turn(id, now);
                        let had = backlog.has(id);
                        let left = backlog.pop(id, now);
                        prop_assert_eq!(left.is_some(), had);
                        if had {
                            *waiting.entry(id).or_default() -= 1;
                        }
                    }
                    _ => {
                        backlog.push(id, item(flow, len), 200_000, is_shared, now);
                        are_shared[index as usize] = is_shared;
                        *waiting.entry(id).or_default() += 1;
                        prop_assert!(backlog.bytes(id) <= 200_000);
                    }
                }
                for (id, ..) in backlog.lost.drain(..) {
                    *waiting.entry(id).or_default() -= 1;
                }
                for (id, packets) in &waiting {
                    prop_assert_eq!(backlog.has(*id), *packets > 0);
                }
                let shared: u64 = (0..).zip(are_shared).filter(|(_, it)| *it).map(|(index, _)| backlog.bytes(peer(index))).sum();
                prop_assert_eq!(backlog.room, shared);
            }
        }
    }

    #[test]
    fn long_queues_make_room_for_short_ones() {
        let mut backlog = Backlog::default();
        let per_peer = usize::try_from(PEER_ROOM / 60_000).expect("small");
        for index in 0..40 {
            for _ in 0..per_peer {
                backlog.push(peer(index), item(0, 60_000), PEER_ROOM, true, 0);
            }
            assert!(backlog.room <= ALL_ROOM);
        }
        assert!(!backlog.lost.is_empty());
        backlog.lost.clear();
        for index in 100..200 {
            backlog.push(peer(index), item(0, 60_000), PEER_ROOM, true, 0);
            assert!(backlog.has(peer(index)) && backlog.room <= ALL_ROOM);
        }
        assert!(backlog.lost.iter().all(|(id, ..)| id.index < 40));
    }

    #[test]
    fn no_room_is_none_for_a_single_packet_either() {
        let mut backlog = Backlog::default();
        backlog.push(peer(1), item(0, 60_000), 50_000, false, 0);
        assert_eq!((backlog.bytes(peer(1)), backlog.lost.len()), (0, 1));
    }

    /// Packets that waited in frames count for all attached peers once theirs is, and no longer when it isn't.
    #[test]
    fn memory_of_attached_peers_follows_their_transport() {
        let mut backlog = Backlog::default();
        for index in 0..40 {
            backlog.push(peer(index), item(0, 60_000), PEER_ROOM, false, 0);
        }
        assert_eq!(backlog.room, 0);
        for index in 0..40 {
            (0..30).for_each(|_| backlog.push(peer(index), item(0, 60_000), PEER_ROOM, true, 0));
            assert!(backlog.room <= ALL_ROOM);
        }
        let all: u64 = (0..40).map(|index| backlog.bytes(peer(index))).sum();
        assert_eq!(all, backlog.room);
        (0..40).for_each(|index| backlog.bound(peer(index), 256 * 1024, false));
        assert_eq!(backlog.room, 0);
        assert!((0..40).all(|index| backlog.bytes(peer(index)) <= 256 * 1024));
    }

    #[test]
    fn sparse_flow_of_a_flooded_peer_goes_first() {
        let mut backlog = Backlog::default();
        for time in 0..3000 {
            backlog.push(peer(1), item(1, 1000), PEER_ROOM, true, time);
        }
        backlog.begin_turn(peer(1), 3000);
        (0..50).for_each(|_| drop(backlog.pop(peer(1), 3000)));
        backlog.push(peer(1), item(2, 300), PEER_ROOM, true, 3001);
        let flows: Vec<_> = (0..3).filter_map(|_| backlog.pop(peer(1), 3001)).map(|item| item.flow).collect();
        assert!(flows.contains(&2), "{flows:?}");
    }

    /// A peer that doesn't read for a while, or whose turn comes late, loses nothing by that alone.
    #[test]
    fn pause_of_a_peer_drops_nothing() {
        let mut backlog = Backlog::default();
        let mut now = 0;
        for round in 1..20_u64 {
            (0..10).for_each(|_| backlog.push(peer(1), item(1, 1000), PEER_ROOM, false, now));
            now += round * 500_000_000;
            backlog.begin_turn(peer(1), now);
            while backlog.pop(peer(1), now).is_some() {}
        }
        assert!(backlog.lost.is_empty());
    }

    /// But one that reads too slowly all the time makes its senders slow down.
    #[test]
    fn standing_queue_is_late() {
        let mut backlog = Backlog::default();
        let mut now = 0;
        for _ in 0..5000 {
            now += 1_000_000;
            (0..2).for_each(|_| backlog.push(peer(1), item(1, 1000), PEER_ROOM, false, now));
            backlog.begin_turn(peer(1), now);
            backlog.pop(peer(1), now);
        }
        assert!(backlog.lost.iter().any(|(.., loss)| *loss == Loss::Late));
    }
}
