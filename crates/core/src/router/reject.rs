//! Replies to the senders of packets that are rejected or too long, so that these fail at once instead of waiting for a
//! timeout, or send shorter packets.

use std::net::IpAddr;

use tuntap_wire::frame::MAX_PAYLOAD_LEN;
use tuntap_wire::gso::GsoPacket;
use tuntap_wire::ip::Packet;
use tuntap_wire::reply::{self, Reply, rejection, too_big};

use super::Router;
use super::inbound::Ingress;
use super::shell::Shell;
use crate::policy::rate_limit::{Cause, Kind, Party};
use crate::policy::registry::PeerId;
use crate::policy::verdict::Lane;

/// The length of the longest packet that fits a frame.
#[allow(clippy::cast_possible_truncation)] // checked beside it
const FRAME_MTU: u16 = MAX_PAYLOAD_LEN as u16;
const _: () = assert!(MAX_PAYLOAD_LEN == FRAME_MTU as usize);

impl Router {
    /// Sends a peer a reply that its packet was rejected.
    pub(super) fn reject_outbound(&mut self, shell: &mut impl Shell, id: PeerId, packet: &Packet<'_>) {
        let from = reply::source(self.settings.addresses.iter().copied(), packet);
        let reply = rejection(packet, from);
        self.reply_to_peer(shell, id, Kind::Rejection, packet, reply.as_ref());
    }

    /// Sends a peer a reply that its packet was longer than the path MTU.
    pub(super) fn too_big_outbound(&mut self, shell: &mut impl Shell, id: PeerId, packet: &Packet<'_>, mtu: u16) {
        let from = reply::source(self.settings.addresses.iter().copied(), packet);
        let reply = too_big(packet, mtu, from);
        self.reply_to_peer(shell, id, Kind::TooBig, packet, reply.as_ref());
    }

    /// Sends a peer a reply that its packet was too long for a frame, unless the packet may be fragmented.
    pub(super) fn too_big_for_frame_outbound(&mut self, shell: &mut impl Shell, id: PeerId, packet: &Packet<'_>) {
        if packet.must_not_fragment() {
            self.too_big_outbound(shell, id, packet, FRAME_MTU);
        }
    }

    fn reply_to_peer(
        &mut self,
        shell: &mut impl Shell,
        id: PeerId,
        kind: Kind,
        packet: &Packet<'_>,
        reply: Option<&Reply<'_>>,
    ) {
        let Some(party) = self.party(id) else { return };
        if let Some(bytes) = self.admitted(kind, Cause::Peer(party), packet, reply) {
            self.deliver_reply(shell, id, &bytes);
        }
    }

    /// Sends a reply to the sender of a packet towards a peer, or to an address without a holder, that it was rejected.
    pub(super) fn reject_inbound(
        &mut self,
        shell: &mut impl Shell,
        ingress: Ingress,
        holder: Option<PeerId>,
        packet: &Packet<'_>,
    ) {
        let reply = rejection(packet, self.source_inbound(ingress, packet));
        self.reply_to_sender(shell, ingress, holder, Kind::Rejection, packet, reply.as_ref());
    }

    /// Sends a reply to the sender of a packet towards a peer that it was too long for a frame.
    pub(super) fn too_big_for_frame_inbound(
        &mut self,
        shell: &mut impl Shell,
        ingress: Ingress,
        holder: PeerId,
        packet: &Packet<'_>,
    ) {
        if packet.must_not_fragment() {
            let reply = too_big(packet, FRAME_MTU, self.source_inbound(ingress, packet));
            self.reply_to_sender(shell, ingress, Some(holder), Kind::TooBig, packet, reply.as_ref());
        }
    }

    /// Returns the source address of a reply about a packet towards the peers. The kernel drops a packet that comes by the
    /// device from one of the host's own addresses, such as the router's. So a reply that goes to the device has the
    /// destination of the rejected packet as its source.
    fn source_inbound(&self, ingress: Ingress, packet: &Packet<'_>) -> IpAddr {
        match ingress {
            // A neighbour knows that address as this router's, and perhaps no other one.
            Ingress::Tun | Ingress::Trunk(..) => packet.dst(),
            Ingress::Gateway(_) => reply::source(self.settings.addresses.iter().copied(), packet),
        }
    }

    fn reply_to_sender(
        &mut self,
        shell: &mut impl Shell,
        ingress: Ingress,
        holder: Option<PeerId>,
        kind: Kind,
        packet: &Packet<'_>,
        reply: Option<&Reply<'_>>,
    ) {
        match ingress {
            // The sender may be a peer whose packet was forwarded here by the kernel.
            Ingress::Tun => match self.forwarder.sender(packet.src()) {
                Some(peer) => {
                    let Some(party) = self.party(peer) else { return };
                    let Some(bytes) = self.admitted(kind, Cause::Peer(party), packet, reply) else { return };
                    // The reply is delivered directly: on the way through the kernel it could match the rule that has
                    // rejected the packet.
                    self.deliver_reply(shell, peer, &bytes);
                }
                None => {
                    let cause = Cause::Outside(holder.and_then(|holder| self.party(holder)));
                    if let Some(bytes) = self.admitted(kind, cause, packet, reply) {
                        self.tun_reply(shell, &bytes);
                    }
                }
            },
            // The source of a datagram can be forged. So other routers get a reply only if the operator has named them.
            Ingress::Gateway(address) if self.forwarder.names_gateway_sources() => {
                let cause = Cause::Outside(holder.and_then(|holder| self.party(holder)));
                let Some(bytes) = self.admitted(kind, cause, packet, reply) else { return };
                if shell.send_datagram(address, &bytes).is_ok() {
                    self.counters.totals.gateway_tx_packets += 1;
                    self.counters.totals.gateway_tx_bytes += bytes.len() as u64;
                }
            }
            Ingress::Gateway(_) => {}
            Ingress::Trunk(trunk, _) => {
                let cause = Cause::Outside(holder.and_then(|holder| self.party(holder)));
                let Some(bytes) = self.admitted(kind, cause, packet, reply) else { return };
                self.trunk_reply(shell, trunk, &bytes);
            }
        }
    }

    /// Returns the bytes of a reply, if it may be sent now.
    fn admitted(
        &mut self,
        kind: Kind,
        cause: Cause,
        packet: &Packet<'_>,
        reply: Option<&Reply<'_>>,
    ) -> Option<Vec<u8>> {
        let reply = reply?;
        // RFC 1122, section 3.2.2: no error about a broadcast or multicast packet, and none to such an address.
        let pool = self.forwarder.pool();
        if pool.is_for_many(packet.src()) || pool.is_for_many(packet.dst()) {
            return None;
        }
        if !self.replies.admit(kind, cause, self.now) {
            return None;
        }
        if kind == Kind::Rejection {
            self.counters.totals.rejections += 1;
        }
        reply.packet()
    }

    fn party(&self, id: PeerId) -> Option<Party> {
        self.forwarder.peers.get(id).map(|peer| Party { index: id.index, account: peer.account() })
    }

    fn deliver_reply(&mut self, shell: &mut impl Shell, id: PeerId, bytes: &[u8]) {
        if let Ok(packet) = GsoPacket::finished(bytes) {
            // If the peer has no room for the reply, the drop is counted, and the sender waits for its timeout.
            let _ = self.deliver(shell, id, Lane::NO_FLOW, &packet);
        }
    }

    fn tun_reply(&mut self, shell: &mut impl Shell, bytes: &[u8]) {
        if let Ok(packet) = GsoPacket::finished(bytes) {
            // If the device doesn't take the reply, the sender waits for its timeout.
            let _ = self.send_to_tun(shell, &packet);
        }
    }
}
