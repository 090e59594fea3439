//! Packets that wait for a trunk's connection: a queue of flows (fq_codel, RFC 8290), so that one flow that fills it is the one
//! that loses packets, and others hardly wait.

use std::time::Instant;

use tuntap_wire::gso::GsoPacket;
use tuntap_wire::trunk::{HEADER_LEN, MAX_FRAME_LEN, MAX_MESSAGE_LEN, packet_header};

use super::MAX_QUEUED_LEN;
use super::trunks::Sent;
use crate::nanos::nanos;
use crate::router::waiting_item;
use crate::shaper::{Delays, Flows, Item, Loss};

/// Bytes at which a message of packets is sent. Small packets share one.
const MESSAGE_LEN: usize = 16 * 1024;

/// Bytes of a packet with its header from which on it isn't copied into a message, but ends it.
const LARGE_LEN: usize = 4096;

/// Bytes of a packet with its header from which on its memory is used again for another one: the allocator would give such
/// memory back to the kernel, and ask for it again with the next packet. So no packet that waits has much more than twice the
/// memory that it counts.
const REUSED_LEN: usize = 32 * 1024;

/// Most buffers that are kept to be used again. They are at most as much as may wait.
const SPARES: usize = MAX_QUEUED_LEN / (64 * 1024);

const _: () = assert!(MESSAGE_LEN + LARGE_LEN + HEADER_LEN + MAX_FRAME_LEN <= MAX_MESSAGE_LEN);

/// How long packets may wait at least before that is too long, in nanoseconds (RFC 8290, section 5.2.1).
const TARGET: u64 = 5_000_000;

/// Packets may wait for so many times the pause between two moments at which the connection had room: no sender can change that.
const PAUSES: u64 = 2;

/// Packets that wait. What becomes of one needs to know how many trunks it may cross beyond this one.
#[derive(Debug)]
pub(super) struct Queue {
    flows: Box<Flows<u8>>,
    /// Frames that are the next to be sent.
    message: Vec<u8>,
    /// A large packet, which is sent with them as the last one.
    large: Option<([u8; HEADER_LEN], Vec<u8>)>,
    /// Memory for large packets.
    spares: Vec<Vec<u8>>,
    start: Instant,
    /// When the connection had room last, and the pause before that.
    served: u64,
    pause: u64,
    /// Packets that were dropped, until they are counted.
    pub lost: Vec<(Item<u8>, Loss)>,
}

impl Queue {
    /// Nothing waits.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            flows: Box::default(),
            message: Vec::new(),
            large: None,
            spares: Vec::new(),
            start: now,
            served: 0,
            pause: 0,
            lost: Vec::new(),
        }
    }

    /// Returns true if nothing waits.
    pub(super) const fn is_empty(&self) -> bool {
        self.is_next_empty() && self.flows.packets() == 0
    }

    const fn is_next_empty(&self) -> bool {
        self.message.is_empty() && self.large.is_none()
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        let next = self.message.len() + self.large.as_ref().map_or(0, |(header, bytes)| header.len() + bytes.len());
        usize::try_from(self.flows.room()).unwrap_or(usize::MAX).saturating_add(next)
    }

    fn time(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.start))
    }

    /// Adds a packet. If too much waits then, the flow with the most bytes loses its first packets.
    pub(super) fn push(&mut self, packet: &GsoPacket<'_>, flow: u32, hops: u8, now: Instant) {
        let now = self.time(now);
        let is_reused = packet.packet().total_len() >= REUSED_LEN;
        let buffer = if is_reused { self.spares.pop() } else { None };
        self.flows.push(waiting_item(buffer.unwrap_or_default(), packet, flow, hops), now);
        while self.len() > MAX_QUEUED_LEN
            && let Some(item) = self.flows.drop_from_fattest()
        {
            self.lost.push((item, Loss::Full));
        }
    }

    /// The connection has room again.
    pub(super) fn served(&mut self, now: Instant) {
        let now = self.time(now);
        self.pause = now.saturating_sub(self.served);
        self.served = now;
    }

    /// Sends what is next as one message of whole frames. Returns `None` if nothing waits. Packets that have waited too long are
    /// dropped on the way, or marked (ECN).
    pub(super) fn send(&mut self, now: Instant, send: impl FnOnce(&[&[u8]]) -> Sent) -> Option<Sent> {
        if self.is_next_empty() {
            self.choose(now);
        }
        let sent = match &self.large {
            Some((header, bytes)) => send(&[&self.message, header, bytes]),
            None if self.message.is_empty() => return None,
            None => send(&[&self.message]),
        };
        if sent == Sent::All {
            self.message.clear();
            if let Some((_, bytes)) = self.large.take() {
                self.keep(bytes);
            }
        }
        Some(sent)
    }

    /// Chooses what is next: small packets up to a message, or up to a large one.
    fn choose(&mut self, now: Instant) {
        let now = self.time(now);
        let delays = Delays::new(self.pause.saturating_mul(PAUSES).max(TARGET));
        while self.message.len() < MESSAGE_LEN && self.large.is_none() {
            let lost = &mut self.lost;
            let Some(left) = self.flows.pop(now, delays, &mut |item, loss| lost.push((item, loss))) else { break };
            let Item { bytes, target: hops, .. } = left.item;
            // What was read as a packet has a length that fits a frame.
            let Some(header) = packet_header(bytes.len(), hops) else { continue };
            if bytes.len() >= LARGE_LEN {
                self.large = Some((header, bytes));
            } else {
                self.message.extend_from_slice(&header);
                self.message.extend_from_slice(&bytes);
            }
        }
    }

    /// Keeps memory for the next large packet.
    fn keep(&mut self, buffer: Vec<u8>) {
        if buffer.len() >= REUSED_LEN && self.spares.len() < SPARES {
            self.spares.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use tuntap_wire::trunk::Frames;

    use super::*;

    /// Whatever the lengths and however often the connection is full, a flow's packets arrive whole and in order, in messages that
    /// the other end can read, and no more memory is kept than packets may take.
    #[test]
    fn packets_of_all_lengths_leave_in_order_in_short_messages() {
        let now = Instant::now();
        let mut queue = Queue::new(now);
        let lengths = [40, 65_000, 4_054, 4_055, 1_400, 32_000, 65_495, 40, 33_000, 12_000];
        let (mut pushed, mut received) = (Vec::new(), Vec::new());
        for round in 0..60_usize {
            for (at, len) in lengths.into_iter().enumerate().take(1 + round % lengths.len()) {
                let mut bytes = Vec::new();
                let payload = vec![u8::try_from((round * 10 + at) % 251).expect("small"); len - 28];
                let builder = etherparse::PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2);
                builder.write(&mut bytes, &payload).expect("valid");
                queue.push(&GsoPacket::finished(&bytes).expect("a packet"), 7, 3, now);
                pushed.push(bytes);
            }
            assert_eq!(queue.send(now, |_| Sent::Full), Some(Sent::Full));
            let mut take = |parts: &[&[u8]]| {
                let message = parts.concat();
                assert!(message.len() <= MAX_MESSAGE_LEN);
                let mut frames = Frames::new(&message);
                for frame in frames.by_ref() {
                    let frame = frame.expect("a frame");
                    assert_eq!(frame.hops, 3);
                    received.push(frame.payload[tuntap_wire::vnet::VNET_HEADER_LEN..].to_vec());
                }
                assert!(frames.rest().is_empty(), "only whole frames");
                Sent::All
            };
            while queue.send(now, &mut take).is_some() {}
            assert!(queue.is_empty() && queue.lost.is_empty());
            assert!(queue.spares.len() <= SPARES && queue.spares.iter().all(|spare| spare.capacity() >= REUSED_LEN));
        }
        assert!(!queue.spares.is_empty());
        assert!(received == pushed);
    }
}
