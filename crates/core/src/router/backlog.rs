//! Packets towards peers that wait until it is their turn. They come by one device for all peers, whose queue is bounded in
//! packets: it must be read faster than it fills, also while somebody floods a peer. To read a packet costs less than to
//! write it to a peer's device. So while the device's queue is not empty, packets for those peers that have had more than
//! their share are held here, and what doesn't fit is dropped as theirs.

use std::collections::{HashMap, VecDeque};

use tuntap_wire::gso::GsoPacket;

use crate::policy::drops::DropReason;
use crate::policy::registry::PeerId;

/// The most bytes that wait for one peer: some dozens of the longest packets.
const PEER_BYTES: usize = 2 * 1024 * 1024;

/// The most packets that wait for one peer, as many as in the queue of a TUN device.
const PEER_PACKETS: usize = 500;

/// The most bytes that wait for all peers.
const ALL_BYTES: usize = 32 * 1024 * 1024;

/// Buffers of empty queues that are kept, and the largest one that is.
const SPARES: usize = 8;
const SPARE_BYTES: usize = 256 * 1024;

/// The packets that wait for one peer, oldest first.
#[derive(Debug, Default)]
pub struct BacklogQueue {
    /// Packets with their virtio_net headers, one after the other. What lies before `start` is gone.
    bytes: Vec<u8>,
    start: usize,
    lengths: VecDeque<usize>,
}

impl BacklogQueue {
    /// Returns the oldest packet, with its virtio_net header.
    pub fn first(&self) -> Option<&[u8]> {
        let len = *self.lengths.front()?;
        self.bytes.get(self.start..self.start + len)
    }

    /// Removes the oldest packet.
    pub fn remove_first(&mut self) {
        if let Some(len) = self.lengths.pop_front() {
            self.start += len;
        }
    }

    /// Returns the number of packets.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Returns true if no packet waits.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    const fn waiting(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn push(&mut self, packet: &GsoPacket<'_>) {
        // What is gone takes no more than half of the buffer.
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        let before = self.bytes.len();
        match packet.whole() {
            Some(whole) => self.bytes.extend_from_slice(whole),
            None => {
                self.bytes.extend_from_slice(&packet.offload().encode());
                self.bytes.extend_from_slice(packet.packet().bytes());
            }
        }
        self.lengths.push_back(self.bytes.len() - before);
    }
}

/// All packets that wait.
#[derive(Debug, Default)]
pub struct Backlog {
    /// The queues of the peers for which packets wait.
    queues: HashMap<PeerId, BacklogQueue>,
    spares: Vec<BacklogQueue>,
    bytes: usize,
}

impl Backlog {
    /// Returns true if packets wait for the peer.
    pub fn has(&self, peer: PeerId) -> bool {
        !self.queues.is_empty() && self.queues.contains_key(&peer)
    }

    /// Appends a packet to those that wait for a peer.
    ///
    /// # Errors
    /// [`DropReason::QueueFull`] if too much waits already. Then nothing is changed.
    pub fn push(&mut self, peer: PeerId, packet: &GsoPacket<'_>) -> Result<(), DropReason> {
        let is_full = |queue: &BacklogQueue| queue.waiting() >= PEER_BYTES || queue.len() >= PEER_PACKETS;
        if self.bytes >= ALL_BYTES || self.queues.get(&peer).is_some_and(is_full) {
            return Err(DropReason::QueueFull);
        }
        let spares = &mut self.spares;
        let queue = self.queues.entry(peer).or_insert_with(|| spares.pop().unwrap_or_default());
        let before = queue.waiting();
        queue.push(packet);
        self.bytes += queue.waiting() - before;
        Ok(())
    }

    /// Takes what waits for a peer.
    pub fn take(&mut self, peer: PeerId) -> Option<BacklogQueue> {
        let queue = self.queues.remove(&peer)?;
        self.bytes -= queue.waiting();
        Some(queue)
    }

    /// Puts back what is left of a queue that was taken. Nothing was pushed for the peer in between.
    pub fn put_back(&mut self, peer: PeerId, mut queue: BacklogQueue) {
        if !queue.is_empty() {
            self.bytes += queue.waiting();
            self.queues.insert(peer, queue);
        } else if self.spares.len() < SPARES && queue.bytes.capacity() <= SPARE_BYTES {
            queue.bytes.clear();
            queue.start = 0;
            self.spares.push(queue);
        }
    }
}
