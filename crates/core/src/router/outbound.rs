//! Packets from the peers: where they go.

use std::net::IpAddr;

use tuntap_wire::gso::GsoPacket;
use tuntap_wire::ip::Packet;
use tuntap_wire::rule::Direction;
use tuntap_wire::segment::for_each_packet;
use tuntap_wire::trunk::MAX_HOPS;

use super::held::{Origin, Way};
use super::notice::{Notice, Unclaimable};
use super::shell::{Shell, WriteError};
use super::watch::ByShell;
use super::{CredentialsCheck, Router};
use crate::policy::account::ROOT;
use crate::policy::drops::DropReason;
use crate::policy::registry::PeerId;
use crate::policy::verdict::{Outbound, OutboundVerdict};

impl Router {
    /// Forwards a peer's packet, or counts why it is dropped.
    pub(super) fn forward_outbound(
        &mut self,
        shell: &mut impl Shell,
        id: PeerId,
        packet: Result<GsoPacket<'_>, DropReason>,
    ) {
        self.outbound_streak += 1;
        match packet.and_then(|packet| self.send_outbound(shell, id, &packet)) {
            Ok(()) => {
                if let Some(peer) = self.forwarder.peers.get_mut(id) {
                    peer.session.traffic.rx_packets += 1;
                }
            }
            Err(reason) => self.count_drop(Some(id), reason),
        }
    }

    fn decide_outbound(&mut self, shell: &mut impl Shell, id: PeerId, packet: &Packet<'_>) -> OutboundVerdict {
        self.forwarder.outbound(id, packet, &mut ByShell(shell))
    }

    fn send_outbound(&mut self, shell: &mut impl Shell, id: PeerId, packet: &GsoPacket<'_>) -> Result<(), DropReason> {
        let mut verdict = self.decide_outbound(shell, id, packet.packet());
        if let Outbound::Contested { holder, .. } = verdict.to
            && self.close_if_dead(shell, holder)
        {
            verdict = self.decide_outbound(shell, id, packet.packet());
        }
        if let Some(address) = verdict.claimed {
            self.complete_claim(shell, id, address);
        }
        if verdict.claimed.is_some() || verdict.is_first {
            self.store(shell, id);
        }
        self.note_logged_rules(shell, Direction::Out, Some(id), packet.packet());
        let result = self.send_where_decided(shell, id, &verdict, packet);
        // One that is rejected has been reported before the reply to it.
        if let (Err(reason), true) = (result, self.is_observed && !matches!(verdict.to, Outbound::Reject(_))) {
            self.report_drop(shell, (Direction::Out, Some(id)), packet, (reason, false), verdict.rule);
        }
        result
    }

    fn send_where_decided(
        &mut self,
        shell: &mut impl Shell,
        id: PeerId,
        verdict: &OutboundVerdict,
        packet: &GsoPacket<'_>,
    ) -> Result<(), DropReason> {
        match verdict.to {
            Outbound::Drop(reason) => {
                self.note_refused_packet(shell, id, reason, packet.packet());
                Err(reason)
            }
            Outbound::Reject(reason) => {
                if self.is_observed {
                    self.report_drop(shell, (Direction::Out, Some(id)), packet, (reason, true), verdict.rule);
                }
                self.reject_outbound(shell, id, packet.packet());
                Err(reason)
            }
            Outbound::Tun => {
                let result = self.send_or_hold(shell, id, Way::Tun, verdict.lane, packet);
                self.note_passed(shell, verdict.lane, Direction::Out, Some(id), None);
                result
            }
            Outbound::Gateway(target) => self.send_or_hold(shell, id, Way::Gateway(target), verdict.lane, packet),
            Outbound::Trunk(trunk) => {
                self.send_or_hold(shell, id, Way::Trunk(trunk, verdict.lane.flow), verdict.lane, packet)
            }
            Outbound::Peer(other) => {
                let way = Way::Peer(other, verdict.receiver_lane);
                let result = self.send_or_hold(shell, id, way, verdict.lane, packet);
                self.note_passed(shell, verdict.lane, Direction::Out, Some(id), Some(other));
                result
            }
            Outbound::Contested { address, .. } => {
                if let Some(peer) = self.forwarder.peers.get(id) {
                    let notice = Notice::AddressHeld { address, credentials: peer.session.credentials };
                    self.note_refused_claim(shell, id, address, &notice);
                }
                Err(DropReason::AddressHeld)
            }
        }
    }

    /// Sends a packet from a peer whose time has come.
    pub(super) fn send_out(
        &mut self,
        shell: &mut impl Shell,
        from: PeerId,
        way: Way,
        packet: &GsoPacket<'_>,
    ) -> Result<(), DropReason> {
        let result = match way {
            Way::Tun => self.send_to_tun(shell, packet),
            Way::Gateway(target) => self.send_to_gateway(shell, from, target, packet),
            Way::Trunk(to, flow) => self.send_to_trunk(shell, to, flow, MAX_HOPS, packet),
            Way::Peer(to, lane) => {
                self.capture_sent(shell, from, &way, packet);
                // If the delivery fails, the packet has already been counted as dropped.
                self.deliver_or_hold(shell, to, Origin::Peer(from), lane, packet);
                return Ok(());
            }
        };
        if result.is_ok() {
            self.capture_sent(shell, from, &way, packet);
        }
        result
    }

    /// Writes a packet to the router's device. If the kernel refuses the packet, only the packet is lost: EIO while the
    /// device is down, EINVAL for a packet that it can't parse, ENOBUFS without memory. If the device was deleted, the next
    /// read of it shows that.
    pub(super) fn send_to_tun(&mut self, shell: &mut impl Shell, packet: &GsoPacket<'_>) -> Result<(), DropReason> {
        let totals = &mut self.counters.totals;
        let mut result = Ok(());
        let mut count = |written: Result<(), WriteError>, len: usize| match written {
            Ok(()) => {
                totals.tun_tx_packets += 1;
                totals.tun_tx_bytes += len as u64;
            }
            Err(_) => result = Err(DropReason::TunRefused),
        };
        if shell.tun_takes_gso() {
            count(shell.write_tun(packet), packet.packet().bytes().len());
        } else {
            for_each_packet(packet.offload(), packet.packet(), &mut self.scratch, |bytes| {
                count(shell.write_tun_segment(bytes), bytes.len());
            });
        }
        result
    }

    /// A peer got an address: it is no longer among those without one.
    pub(super) fn complete_claim(&mut self, shell: &mut impl Shell, id: PeerId, address: IpAddr) {
        self.counters.totals.claims += 1;
        self.admission.claimed(id);
        self.note_joined(shell, id, address);
    }

    fn note_joined(&mut self, shell: &mut impl Shell, id: PeerId, address: IpAddr) {
        let Some(peer) = self.forwarder.peers.get(id) else { return };
        let (account, credentials) = (peer.account(), peer.session.credentials);
        self.note_peer(shell, account, &Notice::Joined { address, credentials });
    }

    /// Logs that a claim was refused. A claim of the same address as the last time is not logged again.
    pub(super) fn note_refused_claim(&mut self, shell: &mut impl Shell, id: PeerId, address: IpAddr, notice: &Notice) {
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return };
        let account = peer.account();
        if peer.session.refused_claim.replace(address) != Some(address) {
            self.note_fault(shell, account, notice);
        }
    }

    /// Logs why a peer must not send a packet, for those reasons that the operator can change by an option.
    fn note_refused_packet(&mut self, shell: &mut impl Shell, id: PeerId, reason: DropReason, packet: &Packet<'_>) {
        match reason {
            DropReason::HeldElsewhere => self.note_held_elsewhere(shell, id, packet.src()),
            DropReason::NotGranted => self.note_not_granted(shell, id, packet.src()),
            DropReason::ToGateway => self.note_to_gateway(shell, id, packet.dst()),
            DropReason::NotClaimable => self.note_not_claimable(shell, id, packet.src(), Unclaimable::Place),
            DropReason::AddressShare => {
                self.counters.limits_reached.max_addresses_per_uid += 1;
                self.note_not_claimable(shell, id, packet.src(), Unclaimable::Share);
            }
            _ => {}
        }
    }

    fn note_not_granted(&mut self, shell: &mut impl Shell, id: PeerId, address: IpAddr) {
        let Some(peer) = self.forwarder.peers.get(id) else { return };
        let credentials = peer.session.credentials;
        let is_hidden_root = self.settings.credentials == CredentialsCheck::Off && credentials.uid == ROOT;
        self.note_refused_claim(shell, id, address, &Notice::NotGranted { address, credentials, is_hidden_root });
    }

    fn note_not_claimable(&mut self, shell: &mut impl Shell, id: PeerId, address: IpAddr, why: Unclaimable) {
        if let Some((who, _)) = self.who(id) {
            self.note_refused_claim(shell, id, address, &Notice::NotClaimable { who, address, why });
        }
    }

    /// Logs that a peer sends to a gateway, once for each peer.
    fn note_to_gateway(&mut self, shell: &mut impl Shell, id: PeerId, destination: IpAddr) {
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return };
        if !std::mem::replace(&mut peer.session.to_gateway_logged, true) {
            self.note_peer_fault(shell, id, |who| Notice::ToGateway { who, destination });
        }
    }
}
