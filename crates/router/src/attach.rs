//! Peers whose TUN device is read and written here: no copy through a socket, and super-packets pass whole.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::event_loop::EventLoop;
use super::meter::WriteMeter;
use super::parcel::Parcel;
use super::peer::{Departure, Path, StreamReason};
use super::quarantine::Origin;
use super::token::Token;
use tuntap_core::policy::registry::PeerId;
use tuntap_sys::tun::Tun;
use tuntap_wire::attach::{Hello, HelloReply};
use tuntap_wire::frame::{FrameKind, HEADER_LEN};
use tuntap_wire::offloads::Offloads;
use tuntap_wire::vnet::VNET_HEADER_LEN;

/// Packets and bytes read from one peer's device in one wake-up.
const PACKET_BUDGET: usize = 64;
const BYTE_BUDGET: usize = 512 * 1024;

/// Segments of a super-packet that count as one more packet: towards a gateway, each is a system call of its own. TCP at
/// an MTU of 1500 has 45 in 64 KiB.
const SEGMENTS_PER_PACKET: usize = 32;

impl EventLoop<'_> {
    /// A peer said hello: takes its device, if that is one that can be trusted, and tells it.
    pub(super) fn attach(&mut self, id: PeerId, hello: &[u8], descriptor: Option<OwnedFd>) {
        // What is refused may be the last copy, which is not to be closed here.
        let copy = descriptor.as_ref().and_then(|descriptor| descriptor.try_clone().ok());
        let device = self.check_device(hello, descriptor);
        let Some(peer) = self.peers.get_mut(id) else { return };
        match device {
            Ok((offloads, tun)) => self.take_device(id, offloads, tun),
            Err(reason) => {
                if let Some(copy) = copy {
                    self.closer.close(copy);
                }
                peer.path = Path::Stream(reason);
                self.refuse(id);
            }
        }
    }

    /// Reads and writes a device that can be trusted from now on, or waits with it until it may be attached. Tells the peer.
    pub(super) fn take_device(&mut self, id: PeerId, offloads: Offloads, tun: Tun) {
        let Some(peer) = self.peers.get_mut(id) else { return self.closer.close(tun.into()) };
        let now = Instant::now();
        if let Some(end) = self.quarantine.end(Origin::of(peer.credentials, peer.as_fd()), now) {
            peer.waiting = Some(Box::new((offloads, tun)));
            // One that was sent back itself has this for its reason.
            if !matches!(peer.path, Path::Stream(StreamReason::SlowWrites)) {
                peer.path = Path::Stream(StreamReason::Quarantined);
            }
            self.probations.add(id, end);
            return self.refuse(id);
        }
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Device(id).encode());
        if let Err(errno) = self.epoll.add(&tun, event) {
            self.closer.close(tun.into());
            peer.path = Path::Stream(StreamReason::Watch(errno));
            return self.refuse(id);
        }
        peer.offloads = offloads;
        peer.write_meter = WriteMeter::default();
        let before = std::mem::replace(&mut peer.path, Path::Attached(tun));
        self.answer(id, HelloReply::Attached);
        self.keep(id);
        if matches!(before, Path::Stream(StreamReason::SlowWrites | StreamReason::Quarantined)) {
            self.totals.attached_again += 1;
            self.log_attached_again(id);
        }
    }

    /// Tells a peer that its packets travel in frames.
    pub(super) fn refuse(&mut self, id: PeerId) {
        self.keep_no_more(id);
        self.answer(id, HelloReply::Refused);
    }

    fn check_device(&self, hello: &[u8], descriptor: Option<OwnedFd>) -> Result<(Offloads, Tun), StreamReason> {
        let hello = Hello::decode(hello).ok_or(StreamReason::Version)?;
        let descriptor = descriptor.ok_or(StreamReason::NoDescriptor)?;
        if self.closer.is_full() {
            return Err(StreamReason::Busy);
        }
        let tun = Tun::adopt_shared(descriptor).map_err(|error| StreamReason::Device(error.to_string()))?;
        if !tun.has_header() {
            return Err(StreamReason::NoHeader);
        }
        // A kernel that can't compare descriptors leaves the name, which a vassal's device may have, too.
        if tun.is_copy_of(self.tun()).unwrap_or_else(|| tun.name() == self.name()) {
            return Err(StreamReason::OwnDevice);
        }
        if tun.has_napi() {
            return Err(StreamReason::Napi);
        }
        if tun.has_queues() {
            return Err(StreamReason::Queues);
        }
        Ok((Offloads::from_bits(hello.offloads), tun))
    }

    /// Goes back to frames, as if the peer had said no hello.
    pub(super) fn detach(&mut self, id: PeerId, reason: StreamReason) {
        let (name, address, now) = (self.name(), self.forwarder.address(id), Instant::now());
        let account = self.forwarder.account(id);
        let Some(peer) = self.peers.get_mut(id) else { return };
        let (pid, address) =
            (peer.credentials.pid, address.map_or_else(|| "without address".to_owned(), |it| it.to_string()));
        self.fault_log.line(
            now,
            account,
            format_args!("[tuntap-router] {name}: peer {address} (pid {pid}) goes back to frames: {reason}"),
        );
        if let Path::Attached(tun) = std::mem::replace(&mut peer.path, Path::Stream(reason)) {
            // The peer has a copy of the descriptor, so that closing ours would not be the end of the events.
            let _ = self.epoll.delete(&tun);
            self.closer.close(tun.into());
        }
        self.refuse(id);
    }

    pub(super) fn answer(&mut self, id: PeerId, answer: HelloReply) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        // A peer whose queue is full when it says hello has not read anything yet, and gets its packets in frames.
        let limit = self.setup.limits.queued_bytes;
        let _ = peer.queue.push(FrameKind::HelloReply, &answer.encode(), limit, &mut self.spares);
        self.flush_later(id);
    }

    /// Reads a peer's device.
    pub(super) fn read_device(&mut self, id: PeerId) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.forward_from_device(id, &mut buffer);
        self.buffer = buffer;
        if let Err(departure) = result {
            self.disconnect(id, departure);
        }
    }

    fn forward_from_device(&mut self, id: PeerId, buffer: &mut [u8]) -> Result<(), Departure> {
        let (mut packets_left, mut bytes_left) = (PACKET_BUDGET, BYTE_BUDGET);
        let mut is_first = true;
        while packets_left > 0 && bytes_left > 0 {
            // One of a turn says enough about what reading costs.
            let start = is_first.then(Instant::now);
            let Some(peer) = self.peers.get_mut(id) else { return Ok(()) };
            let Path::Attached(tun) = &peer.path else { return Ok(()) };
            let len = match tun.recv(buffer) {
                Ok(len) => len,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(()),
                    ErrorKind::Interrupted => continue,
                    ErrorKind::Unsupported => {
                        self.detach(id, StreamReason::MayBlock);
                        return Ok(());
                    }
                    _ if Tun::is_gone(&error) => return Err(Departure::DeviceGone),
                    kind => return Err(Departure::Device(kind)),
                },
            };
            if let Some(start) = start {
                self.work.record_read(len, start, Instant::now());
                is_first = false;
            }
            peer.write_meter.record_sent(&self.work, len);
            peer.traffic.rx_bytes += (HEADER_LEN + len.saturating_sub(VNET_HEADER_LEN)) as u64;
            let parcel = Parcel::parse(&buffer[..len]);
            let segments = parcel.as_ref().map_or(0, Parcel::segments);
            self.forward_outward(id, parcel);
            packets_left = packets_left.saturating_sub(1 + segments / SEGMENTS_PER_PACKET);
            bytes_left = bytes_left.saturating_sub(len);
        }
        Ok(())
    }
}
