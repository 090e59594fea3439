//! What senders are told whose packets go no further, so that they fail at once instead of waiting, or send shorter ones.

use std::net::IpAddr;

use tuntap_wire::frame::MAX_PAYLOAD_LEN;
use tuntap_wire::gso::GsoPacket;
use tuntap_wire::ip::Packet;
use tuntap_wire::reply::{self, Reply, rejection, too_big};

use super::Router;
use super::inward::Ingress;
use super::shell::Shell;
use crate::policy::rate_limit::{Cause, Kind, Party};
use crate::policy::registry::PeerId;

/// The longest packet that fits a frame.
#[allow(clippy::cast_possible_truncation)] // checked beside it
const FRAME_MTU: u16 = MAX_PAYLOAD_LEN as u16;
const _: () = assert!(MAX_PAYLOAD_LEN == FRAME_MTU as usize);

impl Router {
    /// Tells a peer that its packet was refused.
    pub(super) fn reject_outward(&mut self, shell: &mut impl Shell, id: PeerId, packet: &Packet<'_>) {
        let from = reply::source(self.settings.addresses.iter().copied(), packet);
        let reply = rejection(packet, from);
        self.tell_peer(shell, id, Kind::Rejection, packet, reply.as_ref());
    }

    /// Tells a peer that its packet was too long for the way that it had to go.
    pub(super) fn too_big_outward(&mut self, shell: &mut impl Shell, id: PeerId, packet: &Packet<'_>, mtu: u16) {
        let from = reply::source(self.settings.addresses.iter().copied(), packet);
        let reply = too_big(packet, mtu, from);
        self.tell_peer(shell, id, Kind::TooBig, packet, reply.as_ref());
    }

    /// As [`Self::too_big_outward`], where it was too long for a frame.
    pub(super) fn too_big_for_frame_outward(&mut self, shell: &mut impl Shell, id: PeerId, packet: &Packet<'_>) {
        if packet.must_not_fragment() {
            self.too_big_outward(shell, id, packet, FRAME_MTU);
        }
    }

    fn tell_peer(
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

    /// Tells whoever sent a packet to a peer, or to nobody, that it was refused.
    pub(super) fn reject_inward(
        &mut self,
        shell: &mut impl Shell,
        ingress: Ingress,
        holder: Option<PeerId>,
        packet: &Packet<'_>,
    ) {
        let reply = rejection(packet, self.source_inward(ingress, packet));
        self.tell_sender(shell, ingress, holder, Kind::Rejection, packet, reply.as_ref());
    }

    /// Tells whoever sent a packet to a peer that it was too long for a frame.
    pub(super) fn too_big_for_frame_inward(
        &mut self,
        shell: &mut impl Shell,
        ingress: Ingress,
        holder: PeerId,
        packet: &Packet<'_>,
    ) {
        if packet.must_not_fragment() {
            let reply = too_big(packet, FRAME_MTU, self.source_inward(ingress, packet));
            self.tell_sender(shell, ingress, Some(holder), Kind::TooBig, packet, reply.as_ref());
        }
    }

    /// What comes by the device from one of the host's own addresses, as the router's is, its kernel takes for a forgery.
    /// So replies that go there come from where the packet was going.
    fn source_inward(&self, ingress: Ingress, packet: &Packet<'_>) -> IpAddr {
        match ingress {
            Ingress::Tun => packet.dst(),
            Ingress::Gateway(_) => reply::source(self.settings.addresses.iter().copied(), packet),
        }
    }

    fn tell_sender(
        &mut self,
        shell: &mut impl Shell,
        ingress: Ingress,
        holder: Option<PeerId>,
        kind: Kind,
        packet: &Packet<'_>,
        reply: Option<&Reply<'_>>,
    ) {
        match ingress {
            // What a peer sends to another one comes here, too, if the kernel forwards it.
            Ingress::Tun => match self.forwarder.sender(packet.src()) {
                Some(peer) => {
                    let Some(party) = self.party(peer) else { return };
                    let Some(bytes) = self.admitted(kind, Cause::Peer(party), packet, reply) else { return };
                    // By the kernel it would meet the rule that the packet has met.
                    self.deliver_reply(shell, peer, &bytes);
                }
                None => {
                    let cause = Cause::Outside(holder.and_then(|holder| self.party(holder)));
                    if let Some(bytes) = self.admitted(kind, cause, packet, reply) {
                        self.tun_reply(shell, &bytes);
                    }
                }
            },
            // A datagram's sender can be forged, so that other routers get a reply only if the operator has named them.
            Ingress::Gateway(address) if self.forwarder.names_gateway_sources() => {
                let cause = Cause::Outside(holder.and_then(|holder| self.party(holder)));
                let Some(bytes) = self.admitted(kind, cause, packet, reply) else { return };
                if shell.send_datagram(address, &bytes).is_ok() {
                    self.counters.totals.gateway_tx_packets += 1;
                    self.counters.totals.gateway_tx_bytes += bytes.len() as u64;
                }
            }
            Ingress::Gateway(_) => {}
        }
    }

    /// The reply about a packet, if it may be given now.
    fn admitted(
        &mut self,
        kind: Kind,
        cause: Cause,
        packet: &Packet<'_>,
        reply: Option<&Reply<'_>>,
    ) -> Option<Vec<u8>> {
        let reply = reply?;
        // RFC 1122, section 3.2.2: not about what goes to all of a network, nor to all of it.
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
            // If the peer has no room for it, it is counted, and the sender has to wait after all.
            let _ = self.deliver(shell, id, &packet);
        }
    }

    fn tun_reply(&mut self, shell: &mut impl Shell, bytes: &[u8]) {
        if let Ok(packet) = GsoPacket::finished(bytes) {
            // If the device doesn't take it, the sender has to wait after all.
            let _ = self.send_to_tun(shell, &packet);
        }
    }
}
