//! Attached peers: the router reads and writes their TUN devices itself. This saves the copy through a socket, and GSO
//! packets pass whole.

use std::time::Instant;

use tuntap_wire::attach::{Hello, HelloReply};
use tuntap_wire::frame::{FrameKind, HEADER_LEN};
use tuntap_wire::gso::GsoPacket;
use tuntap_wire::offloads::Offloads;
use tuntap_wire::rule::Direction;
use tuntap_wire::vnet::VNET_HEADER_LEN;

use super::Router;
use super::meter::WriteMeter;
use super::notice::Notice;
use super::quarantine::Offender;
use super::session::{CloseReason, StreamReason, Transport};
use super::shell::{Fault, Shell};
use super::turns::Work;
use crate::policy::drops::DropReason;
use crate::policy::registry::PeerId;

/// So many segments of a GSO packet count as one more packet, because each segment that goes to a gateway may be a system call
/// of its own. A GSO packet of 64 KiB has 45 TCP segments at an MTU of 1500.
const SEGMENTS_PER_PACKET: usize = 32;

/// The budget for reading one peer's device, the gateway or a queue of the router's device, in one turn.
#[derive(Debug)]
pub struct DeviceTurn {
    packets_left: usize,
    bytes_left: usize,
}

impl Default for DeviceTurn {
    fn default() -> Self {
        Self { packets_left: 64, bytes_left: 512 * 1024 }
    }
}

impl DeviceTurn {
    /// A turn in which so many packets may be read, however long they are.
    pub const fn of_packets(count: usize) -> Self {
        Self { packets_left: count, bytes_left: usize::MAX }
    }

    /// Returns true if another packet may be read.
    pub const fn is_open(&self) -> bool {
        self.packets_left > 0 && self.bytes_left > 0
    }

    /// Counts a packet of `len` bytes. [`Router::device_packet`] returns its number of segments.
    pub const fn count(&mut self, len: usize, segments: usize) {
        self.packets_left = self.packets_left.saturating_sub(1 + segments / SEGMENTS_PER_PACKET);
        self.bytes_left = self.bytes_left.saturating_sub(len);
    }

    /// Counts datagrams of `len` bytes in all, which became so many packets ([`Router::datagrams`]). A read without any counts
    /// as one packet.
    pub fn count_read(&mut self, len: usize, packets: usize) {
        self.packets_left = self.packets_left.saturating_sub(packets.max(1));
        self.bytes_left = self.bytes_left.saturating_sub(len);
    }
}

/// Why a device can't be read any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceError {
    /// The kernel doesn't support non-blocking reads of the device (RWF_NOWAIT).
    MayBlock,
    /// A read or a write has blocked, and was ended. Only a peer that has cleared O_NONBLOCK can cause that.
    Blocked,
    /// The device was deleted.
    Gone,
    /// Reading failed for another reason.
    Failed(Fault),
}

impl Router {
    /// Handles a peer's hello: takes its device if that can be trusted, and replies.
    pub(super) fn hello(&mut self, shell: &mut impl Shell, id: PeerId, hello: &[u8]) {
        match check_offer(shell, id, hello) {
            Ok(Hello { offloads, router_only }) => {
                shell.accept_device(id);
                let offloads = Offloads::from_bits(offloads);
                if let Some(peer) = self.forwarder.peers.get_mut(id) {
                    peer.session.denies_kernel_path = router_only;
                }
                self.take_device(shell, id, offloads);
            }
            Err(reason) => {
                shell.discard_offer(id);
                self.set_transport(id, Transport::Stream(reason));
                self.refuse_attachment(shell, id);
            }
        }
    }

    /// Attaches a peer's device, or keeps it until it may be attached. Replies to the peer's hello.
    pub(super) fn take_device(&mut self, shell: &mut impl Shell, id: PeerId, offloads: Offloads) {
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return };
        let session = &mut peer.session;
        let offender = Offender::of(session.credentials.uid, session.namespace);
        session.offloads = offloads;
        if let Some(end) = self.quarantine.end(offender, self.now) {
            session.has_waiting_device = true;
            // A peer that was itself detached for slow writes keeps that as its reason.
            if session.transport != Transport::Stream(StreamReason::SlowWrites) {
                session.transport = Transport::Stream(StreamReason::Quarantined);
            }
            self.attach_later(id, end);
            return self.refuse_attachment(shell, id);
        }
        if let Err(fault) = shell.attach(id) {
            shell.discard_device(id);
            session.transport = Transport::Stream(StreamReason::Watch(fault));
            return self.refuse_attachment(shell, id);
        }
        session.write_meter = WriteMeter::default();
        let before = std::mem::replace(&mut session.transport, Transport::Tun);
        if self.backlog.has(id) {
            self.bound_backlog(shell, id);
            self.turns.queue(Work::Backlog(id));
        }
        self.reply_to_hello(id, HelloReply::Attached);
        self.store(shell, id);
        if matches!(before, Transport::Stream(StreamReason::SlowWrites | StreamReason::Quarantined)) {
            self.counters.totals.attached_again += 1;
            self.note_peer_fault(shell, id, Notice::Reattached);
        }
    }

    /// Replies to a peer that its packets travel in frames.
    pub(super) fn refuse_attachment(&mut self, shell: &mut impl Shell, id: PeerId) {
        self.unstore(shell, id);
        self.bound_backlog(shell, id);
        self.reply_to_hello(id, HelloReply::Refused);
    }

    pub(super) fn reply_to_hello(&mut self, id: PeerId, reply: HelloReply) {
        // A peer whose queue is full when it says hello hasn't read anything yet. It goes on with frames.
        let _ = self.push_frame(id, FrameKind::HelloReply, &reply.encode());
    }

    /// Handles a failure to read a peer's device.
    pub fn device_failed(&mut self, shell: &mut impl Shell, id: PeerId, error: DeviceError, now: Instant) {
        self.advance(now);
        match error {
            DeviceError::MayBlock => self.detach(shell, id, StreamReason::MayBlock),
            DeviceError::Blocked => self.device_blocked(shell, id),
            DeviceError::Gone => self.close(shell, id, CloseReason::DeviceGone),
            DeviceError::Failed(fault) => self.close(shell, id, CloseReason::Device(fault)),
        }
    }

    /// Closes a peer's device and goes on with frames, as if the peer had said no hello.
    pub(super) fn detach(&mut self, shell: &mut impl Shell, id: PeerId, reason: StreamReason) {
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return };
        let (address, account, pid) = (peer.address(), peer.account(), peer.session.credentials.pid);
        if std::mem::replace(&mut peer.session.transport, Transport::Stream(reason.clone())) == Transport::Tun {
            self.leave_kernel_path(shell, id);
            shell.discard_device(id);
        }
        self.note_fault(shell, account, &Notice::DeviceLost { address, pid, reason });
        self.refuse_attachment(shell, id);
    }

    /// Handles a packet that was read from a peer's device; `bytes` begin with its virtio_net header. `timing` has the
    /// times before and after the read if they were measured. Returns the number of segments of the packet.
    pub fn device_packet(
        &mut self,
        shell: &mut impl Shell,
        id: PeerId,
        bytes: &[u8],
        timing: Option<(Instant, Instant)>,
    ) -> usize {
        if let Some((start, end)) = timing {
            self.advance(end);
            self.work.record_read(bytes.len(), start, end, || shell.thread_usage());
        }
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return 0 };
        peer.session.write_meter.record_sent(&self.work, bytes.len());
        peer.session.traffic.rx_bytes += (HEADER_LEN + bytes.len().saturating_sub(VNET_HEADER_LEN)) as u64;
        let packet = GsoPacket::parse(bytes).map_err(DropReason::from);
        if let Err(reason) = packet {
            let bytes = bytes.get(VNET_HEADER_LEN..).unwrap_or_default();
            self.capture_unreadable(shell, Direction::Out, Some(id), bytes, reason);
        }
        let segments = packet.as_ref().map_or(0, GsoPacket::segments);
        self.forward_outbound(shell, id, packet);
        self.follow_changes(shell);
        segments
    }

    /// Returns true if a peer's device is to be read.
    pub fn is_attached(&self, id: PeerId) -> bool {
        self.forwarder.peers.get(id).is_some_and(|peer| peer.session.is_attached())
    }

    pub(super) fn set_transport(&mut self, id: PeerId, transport: Transport) {
        if let Some(peer) = self.forwarder.peers.get_mut(id) {
            peer.session.transport = transport;
        }
    }
}

/// Checks the device that a peer has passed. Returns the hello, or why the device can't be attached.
fn check_offer(shell: &mut impl Shell, id: PeerId, hello: &[u8]) -> Result<Hello, StreamReason> {
    let hello = Hello::decode(hello).ok_or(StreamReason::Version)?;
    if !shell.has_offer(id) {
        return Err(StreamReason::NoDescriptor);
    }
    if shell.is_closing_many() {
        return Err(StreamReason::Busy);
    }
    let facts = shell.offered_device(id).map_err(StreamReason::Device)?;
    if !facts.has_header {
        return Err(StreamReason::NoHeader);
    }
    if facts.is_own {
        return Err(StreamReason::OwnDevice);
    }
    if facts.has_napi {
        return Err(StreamReason::Napi);
    }
    if facts.has_queues {
        return Err(StreamReason::Queues);
    }
    if facts.may_block {
        return Err(StreamReason::Blocking);
    }
    Ok(hello)
}
