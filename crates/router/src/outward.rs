//! From the peers: frames, and where their packets go.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;

use super::event_loop::{EventLoop, READ_LEN};
use super::inward::PACKET_BUDGET;
use super::parcel::Parcel;
use super::peer::{Departure, Stage};
use tuntap_core::policy::drops::DropReason;
use tuntap_core::policy::forward::{Outward, RulesVerdict};
use tuntap_core::policy::registry::PeerId;
use tuntap_sys::socket;
use tuntap_wire::frame::{Frame, FrameKind, Frames};
use tuntap_wire::greeting::frames_start;
use tuntap_wire::ip::Packet;
use tuntap_wire::rule::{self, PeerRule};
use tuntap_wire::segment::for_each_packet;
use tuntap_wire::vnet::Offload;

/// Least bytes of a turn.
const MIN_TURN_LEN: usize = 1024;

/// Bytes of a peer's next turn, after one with so many bytes and frames: as many frames as packets are read from an attached
/// peer's device. Who sends small ones would have some thousands in what is one turn of others.
fn turn_len(bytes: usize, frames: usize) -> usize {
    bytes.checked_div(frames).map_or(READ_LEN, |average| (average * PACKET_BUDGET).clamp(MIN_TURN_LEN, READ_LEN))
}

impl EventLoop<'_> {
    pub(super) fn read_peer(&mut self, id: PeerId) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = match self.peers.get(id).map(|peer| peer.stage) {
            Some(Stage::Credentials) => self.read_credentials(id),
            Some(Stage::Start | Stage::FirstFrame | Stage::Frames) => self.read_frames(id, &mut buffer),
            None => Ok(()),
        };
        self.buffer = buffer;
        if let Err(departure) = result {
            self.disconnect(id, departure);
        }
    }

    fn read_frames(&mut self, id: PeerId, buffer: &mut [u8]) -> Result<(), Departure> {
        let Some(peer) = self.peers.get_mut(id) else { return Ok(()) };
        let partial_len = peer.partial.len();
        buffer[..partial_len].copy_from_slice(&peer.partial);
        let free = &mut buffer[partial_len..partial_len + peer.turn_len];
        let received = match peer.stage {
            Stage::Start | Stage::FirstFrame => socket::recv_with_descriptor(peer.as_fd(), free),
            Stage::Credentials | Stage::Frames => socket::recv(peer.as_fd(), free).map(|count| (count, None)),
        };
        let count = match received {
            Ok((0, _)) => return Err(Departure::Closed),
            Ok((count, descriptor)) => {
                peer.offered = descriptor.or(peer.offered.take());
                count
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(Departure::Socket(errno)),
        };
        peer.traffic.rx_bytes += count as u64;
        let bytes = &buffer[..partial_len + count];
        let start = match peer.stage {
            Stage::Start => frames_start(bytes)?,
            Stage::Credentials | Stage::FirstFrame | Stage::Frames => Some(0),
        };
        let mut frames = Frames::new(match start {
            Some(start) => {
                if peer.stage == Stage::Start {
                    peer.stage = Stage::FirstFrame;
                }
                &bytes[start..]
            }
            None => &[],
        });
        let mut handled = 0;
        for frame in frames.by_ref() {
            handled += 1;
            self.handle_frame(id, frame?)?;
        }
        if let Some(peer) = self.peers.get_mut(id) {
            peer.turn_len = turn_len(count, handled);
            peer.partial = if start.is_some() { frames.rest() } else { bytes }.to_vec();
        }
        Ok(())
    }

    fn handle_frame(&mut self, id: PeerId, frame: Frame<'_>) -> Result<(), Departure> {
        let Some(peer) = self.peers.get_mut(id) else { return Ok(()) };
        let is_first = peer.stage != Stage::Frames;
        let may_come_before_hello = matches!(
            frame.kind,
            FrameKind::Rules | FrameKind::ExtendedRules | FrameKind::ConfigurationRequest | FrameKind::ClaimRequest
        );
        if is_first && !may_come_before_hello {
            peer.stage = Stage::Frames;
            socket::receive_descriptors(peer.as_fd(), false);
        }
        // Only a hello has use for what came with the first bytes, and it may stand behind these frames.
        let offered = if may_come_before_hello { None } else { peer.offered.take() };
        match frame.kind {
            FrameKind::Packet => self.forward_outward(id, Parcel::finished(frame.payload)),
            FrameKind::Rules | FrameKind::ExtendedRules => {
                let decode = if frame.kind == FrameKind::Rules { rule::decode_all } else { rule::decode_all_extended };
                let rules = decode(frame.payload).ok_or(Departure::Rules(frame.payload.len()))?;
                let limit = self.setup.limits.device_rules;
                if rules.len() > limit {
                    self.limits_reached.max_device_rules += 1;
                    return Err(Departure::TooManyRules { count: rules.len(), limit });
                }
                self.take_rules(id, rules);
            }
            FrameKind::ConfigurationRequest if is_first => self.answer_ask(id, frame.payload),
            FrameKind::ClaimRequest if is_first => self.answer_claim(id, frame.payload),
            FrameKind::Hello if is_first => self.attach(id, frame.payload, offered),
            FrameKind::Hello
            | FrameKind::HelloReply
            | FrameKind::ConfigurationRequest
            | FrameKind::ClaimRequest
            | FrameKind::Configuration
            | FrameKind::Other(_) => {
                self.count_drop(Some(id), DropReason::UnknownFrame);
            }
        }
        Ok(())
    }

    fn take_rules(&mut self, id: PeerId, rules: Vec<PeerRule>) {
        let are_first = self.forwarder.rules(id).len() == 0;
        let verdict = self.forwarder.set_rules(id, rules);
        if are_first && matches!(verdict, Some(RulesVerdict::Applied { .. })) {
            // Later ones are noted with the packet that ends their changes, so that nobody can have notes taken at will.
            self.keep(id);
        }
        match verdict {
            Some(RulesVerdict::Applied { refused_target: Some(target) }) => self.log_refused_target(id, target),
            Some(RulesVerdict::Frozen) => {
                self.log_late_rules(id);
                self.count_drop(Some(id), DropReason::RulesFrozen);
            }
            // A vassal that reloads sends its rules again.
            Some(RulesVerdict::Unchanged | RulesVerdict::Applied { refused_target: None }) | None => {}
        }
    }

    pub(super) fn forward_outward(&mut self, id: PeerId, parcel: Result<Parcel<'_>, DropReason>) {
        self.outward_streak += 1;
        match parcel.and_then(|parcel| self.send_outward(id, &parcel)) {
            Ok(()) => {
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.traffic.rx_packets += 1;
                }
            }
            Err(reason) => self.count_drop(Some(id), reason),
        }
    }

    fn send_outward(&mut self, id: PeerId, parcel: &Parcel<'_>) -> Result<(), DropReason> {
        #[cfg(feature = "faults")]
        tuntap_sys::faults::point("router");
        let mut verdict = self.forwarder.outward(id, &parcel.packet);
        if let Outward::Contested { holder, .. } = verdict.to
            && self.remove_if_dead(holder)
        {
            verdict = self.forwarder.outward(id, &parcel.packet);
        }
        if let Some(address) = verdict.claimed {
            self.log_claim(id, address);
        }
        if verdict.claimed.is_some() || verdict.is_first {
            self.keep(id);
        }
        match verdict.to {
            Outward::Drop(reason) => {
                self.log_refused_packet(id, reason, &parcel.packet);
                Err(reason)
            }
            Outward::Reject(reason) => {
                self.reject_outward(id, &parcel.packet);
                Err(reason)
            }
            Outward::Tun => self.send_to_tun(parcel),
            Outward::Gateway(target) => self.send_to_gateway(id, target, parcel),
            Outward::Peer(other) => {
                if self.deliver(other, parcel) == Err(DropReason::TooBig) {
                    self.too_big_for_frame_outward(id, &parcel.packet);
                }
                Ok(())
            }
            Outward::Contested { address, .. } => {
                self.log_refused_claim(id, address, Instant::now());
                Err(DropReason::AddressHeld)
            }
        }
    }

    /// What its operator has to know of a packet that a peer must not send: there is an option that would allow it.
    fn log_refused_packet(&mut self, id: PeerId, reason: DropReason, packet: &Packet<'_>) {
        match reason {
            DropReason::NotLeased => self.log_not_leased(id, packet.src(), Instant::now()),
            DropReason::ToGateway => self.log_to_gateway(id, packet.dst(), Instant::now()),
            DropReason::NotClaimable => self.log_unclaimable(id, packet.src(), reason, Instant::now()),
            DropReason::AddressShare => {
                self.limits_reached.max_addresses_per_uid += 1;
                self.log_unclaimable(id, packet.src(), reason, Instant::now());
            }
            _ => {}
        }
    }

    /// The kernel's refusals are the packet's end, not the router's: EIO while the device is down, EINVAL for what
    /// it can't parse, ENOBUFS without memory. That the device is gone shows when it is read.
    pub(super) fn send_to_tun(&mut self, parcel: &Parcel<'_>) -> Result<(), DropReason> {
        let tun = self.remade_tun.as_ref().unwrap_or(&self.setup.tun);
        let mut result = Ok(());
        let mut count = |sent: io::Result<()>, len: usize| match sent {
            Ok(()) => {
                self.totals.tun_tx_packets += 1;
                self.totals.tun_tx_bytes += len as u64;
            }
            Err(_) => result = Err(DropReason::TunRefused),
        };
        if tun.has_header() {
            count(parcel.send(tun), parcel.packet.bytes().len());
        } else {
            for_each_packet(&parcel.offload, &parcel.packet, &mut self.scratch, |packet| {
                count(tun.send(&Offload::NONE, packet), packet.len());
            });
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_of_as_many_frames_as_others_have_packets() {
        assert_eq!(turn_len(READ_LEN, 2000), 32 * PACKET_BUDGET, "small ones");
        assert_eq!(turn_len(32 * PACKET_BUDGET, PACKET_BUDGET), 32 * PACKET_BUDGET, "it stays so");
        assert_eq!(turn_len(READ_LEN, 43), READ_LEN, "long ones");
        assert_eq!((turn_len(100, 0), turn_len(0, 0)), (READ_LEN, READ_LEN), "the beginning of one");
        assert_eq!(turn_len(5000, 1000), MIN_TURN_LEN, "next to none");
    }
}
