//! Packets that wait for a trunk's connection: a queue of flows (fq_codel, RFC 8290), so that one flow that fills it is the one
//! that loses packets, and others hardly wait.

use std::time::Instant;

use tuntap_wire::gso::GsoPacket;
use tuntap_wire::trunk::packet_header;

use super::MAX_QUEUED_LEN;
use crate::nanos::nanos;
use crate::router::waiting_item;
use crate::shaper::{Delays, Flows, Item, Loss};

/// Bytes at which a message of packets is sent. Small packets share one.
const MESSAGE_LEN: usize = 16 * 1024;

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
        Self { flows: Box::default(), message: Vec::new(), start: now, served: 0, pause: 0, lost: Vec::new() }
    }

    /// Returns true if nothing waits.
    pub(super) const fn is_empty(&self) -> bool {
        self.message.is_empty() && self.flows.packets() == 0
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        usize::try_from(self.flows.room()).unwrap_or(usize::MAX).saturating_add(self.message.len())
    }

    fn time(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.start))
    }

    /// Adds a packet. If too much waits then, the flow with the most bytes loses its first packets.
    pub(super) fn push(&mut self, packet: &GsoPacket<'_>, flow: u32, hops: u8, now: Instant) {
        let now = self.time(now);
        self.flows.push(waiting_item(packet, flow, hops), now);
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

    /// Whole frames to send next, as one message. Empty if nothing waits. Packets that have waited too long are dropped on the way,
    /// or marked (ECN).
    pub(super) fn next(&mut self, now: Instant) -> &[u8] {
        let now = self.time(now);
        let delays = Delays::new(self.pause.saturating_mul(PAUSES).max(TARGET));
        let lost = &mut self.lost;
        if self.message.is_empty() {
            while self.message.len() < MESSAGE_LEN
                && let Some(left) = self.flows.pop(now, delays, &mut |item, loss| lost.push((item, loss)))
            {
                let Item { bytes, target: hops, .. } = left.item;
                // What was read as a packet has a length that fits a frame.
                if let Some(header) = packet_header(bytes.len(), hops) {
                    self.message.extend_from_slice(&header);
                    self.message.extend_from_slice(&bytes);
                }
            }
        }
        &self.message
    }

    /// What [`Self::next`] returned was sent.
    pub(super) fn sent(&mut self) {
        self.message.clear();
    }
}
