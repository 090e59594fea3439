//! Delivery to one peer: to its device, or as frames in its queue.

use tuntap_wire::frame::{FrameKind, HEADER_LEN, MAX_PAYLOAD_LEN};
use tuntap_wire::gso::{GsoError, GsoPacket};
use tuntap_wire::ip::PacketError;
use tuntap_wire::rule::Direction;
use tuntap_wire::segment::for_each_packet;

use super::Router;
use super::capture::{CaptureFate, PassedTo};
use super::held::Origin;
use super::inbound::Ingress;
use super::meter::Meanwhile;
use super::queue::{FlushError, Flushed};
use super::session::{CloseReason, Transport};
use super::shell::{Shell, WriteError};
use super::turns::Work;
use crate::policy::drops::DropReason;
use crate::policy::registry::PeerId;
use std::time::Instant;

/// Packets for a peer in frames wait in queues by flow while so many bytes of frames wait to be sent to it, which is more than
/// a write needs to be cheap. What is in a frame can't be overtaken any more.
const FRAMES_BYTES: usize = 64 * 1024;

/// Returns true if each of the packets that a packet is cut into can travel in a frame.
fn fits_frames(packet: &GsoPacket<'_>) -> bool {
    let offload = packet.offload();
    let longest = match offload.segment_len() {
        Some(len) => (offload.headers_len() + len).min(packet.packet().total_len()),
        None => packet.packet().total_len(),
    };
    longest <= MAX_PAYLOAD_LEN
}

impl From<PacketError> for DropReason {
    fn from(error: PacketError) -> Self {
        match error {
            PacketError::TooShort => Self::TooShort,
            PacketError::NotIp => Self::NotIp,
            PacketError::Malformed => Self::Malformed,
            PacketError::SourceRoute => Self::SourceRoute,
        }
    }
}

impl From<GsoError> for DropReason {
    fn from(error: GsoError) -> Self {
        match error {
            GsoError::Packet(error) => error.into(),
            GsoError::Header(_) => Self::Malformed,
        }
    }
}

impl Router {
    /// Delivers a packet to a peer, or keeps it until the peer's connection has room. If that fails, the packet has already been
    /// counted as dropped.
    pub(super) fn deliver(
        &mut self,
        shell: &mut impl Shell,
        id: PeerId,
        flow: u32,
        packet: &GsoPacket<'_>,
    ) -> Result<(), DropReason> {
        // What waits already goes first, also to a device: it may be of the same flow.
        let waits = self.backlog.has(id) || !self.takes_packets(shell, id);
        // One that is too long for a frame doesn't wait: its sender has to learn that, and isn't known any more when the peer has
        // gone back to frames meanwhile. The peer may have been closed.
        if waits && fits_frames(packet) && self.forwarder.peers.get(id).is_some() {
            self.keep_back(shell, id, flow, packet);
            return Ok(());
        }
        self.pass_on(shell, id, packet)
    }

    /// Passes a packet on to a peer: to its device, or to its connection. If that fails, the packet has already been counted as
    /// dropped.
    pub(super) fn pass_on(
        &mut self,
        shell: &mut impl Shell,
        id: PeerId,
        packet: &GsoPacket<'_>,
    ) -> Result<(), DropReason> {
        let Some(peer) = self.forwarder.peers.get(id) else {
            self.count_drop(None, DropReason::NoPeer);
            if self.is_observed {
                self.report_drop(shell, (Direction::In, None), packet, (DropReason::NoPeer, false), None);
            }
            return Err(DropReason::NoPeer);
        };
        let result = match peer.session.transport {
            Transport::Tun => self.write_device(shell, id, packet),
            Transport::Stream(_) => self.queue_packet(id, packet),
        };
        match result {
            Err(reason) => self.count_lost_packet(shell, id, Direction::In, packet, reason),
            Ok(()) if self.captures.is_on() => {
                self.capture(shell, Direction::In, Some(id), packet, CaptureFate::Passed(PassedTo::Peer), None);
            }
            Ok(()) => {}
        }
        result
    }

    /// Returns true if a packet may be passed on to a peer now. Frames are sent when there are as many as one write should have.
    pub(super) fn takes_packets(&mut self, shell: &mut impl Shell, id: PeerId) -> bool {
        let most = FRAMES_BYTES.min(self.settings.limits.queued_bytes / 4);
        let session = |this: &Self| {
            this.forwarder.peers.get(id).map(|peer| {
                let session = &peer.session;
                (session.is_attached() || session.queue.len() < most, session.watches_writable)
            })
        };
        match session(self) {
            Some((false, false)) => {
                self.flush_peer(shell, id);
                session(self).is_some_and(|(takes, _)| takes)
            }
            Some((takes, _)) => takes,
            None => false,
        }
    }

    /// Delivers a packet to a peer. Its sender learns if it was too long for a frame.
    pub(super) fn deliver_from(
        &mut self,
        shell: &mut impl Shell,
        to: PeerId,
        origin: Origin,
        flow: u32,
        packet: &GsoPacket<'_>,
    ) -> Result<(), DropReason> {
        let result = match origin {
            Origin::Outside(Ingress::Tun) => self.deliver_in_turn(shell, to, flow, packet),
            Origin::Outside(Ingress::Gateway(_) | Ingress::Trunk(..)) | Origin::Peer(_) => {
                self.deliver(shell, to, flow, packet)
            }
        };
        if result == Err(DropReason::TooBig) {
            match origin {
                Origin::Outside(ingress) => self.too_big_for_frame_inbound(shell, ingress, to, packet.packet()),
                Origin::Peer(from) => self.too_big_for_frame_outbound(shell, from, packet.packet()),
            }
        }
        result
    }

    fn write_device(&mut self, shell: &mut impl Shell, id: PeerId, packet: &GsoPacket<'_>) -> Result<(), DropReason> {
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return Err(DropReason::NoPeer) };
        let session = &mut peer.session;
        if session.write_meter.is_limited(&mut self.work, self.now) {
            let cost = session.write_meter.record_dropped(&mut self.work, self.now);
            self.judge(shell, id, cost);
            return Err(DropReason::QueueFull);
        }
        let len = packet.packet().bytes().len();
        let write = shell.write_device(id, session.serial, packet);
        let sends = session.path.as_ref().is_some_and(|path| path.sends());
        let meanwhile = if sends { Meanwhile::PeerSends } else { Meanwhile::Nothing };
        let usage = || shell.thread_usage();
        let cost = session.write_meter.record(&mut self.work, len, (write.start, write.end), meanwhile, usage);
        let suspicion = session.write_meter.take_suspicion(&mut self.work, write.end);
        let result = match write.result {
            Ok(()) => {
                session.traffic.tx_packets += 1;
                session.traffic.tx_bytes += (HEADER_LEN + len) as u64;
                Ok(())
            }
            // If the device was deleted, the next read of it shows that.
            Err(WriteError::Full) => Err(DropReason::QueueFull),
            Err(WriteError::Refused) => Err(DropReason::TunRefused),
        };
        self.advance(write.end);
        self.watch_cost(shell, id, suspicion);
        self.judge(shell, id, cost);
        result
    }

    fn queue_packet(&mut self, id: PeerId, packet: &GsoPacket<'_>) -> Result<(), DropReason> {
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return Err(DropReason::NoPeer) };
        let session = &mut peer.session;
        let limit = self.settings.limits.queued_bytes;
        let mut result = Ok(());
        for_each_packet(packet.offload(), packet.packet(), &mut self.scratch, |packet| {
            match session.queue.push(FrameKind::Packet, packet, limit, &mut self.spares) {
                Ok(()) => session.traffic.tx_packets += 1,
                Err(reason) => result = Err(reason),
            }
        });
        self.flush_later(id);
        result
    }

    /// Queues a frame for a peer.
    pub(super) fn push_frame(&mut self, id: PeerId, kind: FrameKind, payload: &[u8]) -> Result<(), DropReason> {
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return Err(DropReason::NoPeer) };
        let limit = self.settings.limits.queued_bytes;
        let result = peer.session.queue.push(kind, payload, limit, &mut self.spares);
        self.flush_later(id);
        result
    }

    /// Notes that a peer's queue is to be sent at the end of this turn.
    pub(super) fn flush_later(&mut self, id: PeerId) {
        if let Some(peer) = self.forwarder.peers.get_mut(id)
            && !peer.session.queue.is_empty()
            && !peer.session.to_flush
            && !peer.session.watches_writable
        {
            peer.session.to_flush = true;
            self.to_flush.push(id);
        }
    }

    pub(super) fn flush_peers(&mut self, shell: &mut impl Shell) {
        let mut ids = std::mem::take(&mut self.to_flush);
        for id in ids.drain(..) {
            self.flush_peer(shell, id);
        }
        // Keep the memory of the list for the next turn.
        if self.to_flush.is_empty() {
            self.to_flush = ids;
        }
    }

    /// Sends what is queued for a peer, whose connection has room again.
    pub fn writable(&mut self, shell: &mut impl Shell, id: PeerId, now: Instant) {
        self.advance(now);
        self.flush_peer(shell, id);
    }

    fn flush_peer(&mut self, shell: &mut impl Shell, id: PeerId) {
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return };
        let session = &mut peer.session;
        session.to_flush = false;
        let (count, flushed) = match session.queue.flush(|bytes| shell.send(id, bytes), &mut self.spares) {
            Ok(done) => done,
            Err(FlushError::Closed) => return self.close(shell, id, CloseReason::Closed),
            Err(FlushError::Failed(fault)) => return self.close(shell, id, CloseReason::Socket(fault)),
        };
        session.traffic.tx_bytes += count as u64;
        let wanted = flushed == Flushed::Partly;
        let has_changed = wanted != session.watches_writable;
        session.watches_writable = wanted;
        if !wanted && self.backlog.has(id) {
            self.turns.queue(Work::Backlog(id));
        }
        if has_changed && let Err(fault) = shell.watch_writable(id, wanted) {
            self.close(shell, id, CloseReason::Socket(fault));
        }
    }
}
