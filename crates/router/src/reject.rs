//! What senders are told whose packets go no further, so that they fail at once instead of waiting, or send shorter ones.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::event_loop::EventLoop;
use super::parcel::Parcel;
use tuntap_core::policy::rate_limit::{Cause, Kind, Party};
use tuntap_core::policy::registry::PeerId;
use tuntap_wire::frame::MAX_PAYLOAD_LEN;
use tuntap_wire::ip::Packet;
use tuntap_wire::reply::{self, Reply, rejection, too_big};

/// The longest packet that fits a frame.
#[allow(clippy::cast_possible_truncation)] // checked beside it
const FRAME_MTU: u16 = MAX_PAYLOAD_LEN as u16;
const _: () = assert!(MAX_PAYLOAD_LEN == FRAME_MTU as usize);

/// Where a packet came from that was on its way to the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The TUN device.
    Tun,
    /// The gateway of another router.
    Gateway(SocketAddr),
}

impl EventLoop<'_> {
    /// Tells a peer that its packet was refused.
    pub(super) fn reject_outward(&mut self, id: PeerId, packet: &Packet<'_>) {
        let from = reply::source(self.setup.own_addresses(), packet);
        let answer = rejection(packet, from);
        self.tell_peer(id, Kind::Rejection, packet, answer.as_ref());
    }

    /// Tells a peer that its packet was too long for the way that it had to go.
    pub(super) fn too_big_outward(&mut self, id: PeerId, packet: &Packet<'_>, mtu: u16) {
        let from = reply::source(self.setup.own_addresses(), packet);
        let answer = too_big(packet, mtu, from);
        self.tell_peer(id, Kind::TooBig, packet, answer.as_ref());
    }

    /// As [`Self::too_big_outward`], where it was too long for a frame.
    pub(super) fn too_big_for_frame_outward(&mut self, id: PeerId, packet: &Packet<'_>) {
        if packet.must_not_fragment() {
            self.too_big_outward(id, packet, FRAME_MTU);
        }
    }

    fn tell_peer(&mut self, id: PeerId, kind: Kind, packet: &Packet<'_>, answer: Option<&Reply<'_>>) {
        let Some(party) = self.party(id) else { return };
        if let Some(bytes) = self.admitted(kind, Cause::Peer(party), packet, answer) {
            self.deliver_answer(id, &bytes);
        }
    }

    /// Tells whoever sent a packet to a peer, or to nobody, that it was refused.
    pub(super) fn reject_inward(&mut self, sender: Sender, holder: Option<PeerId>, packet: &Packet<'_>) {
        let answer = rejection(packet, self.source_inward(sender, packet));
        self.tell_sender(sender, holder, Kind::Rejection, packet, answer.as_ref());
    }

    /// Tells whoever sent a packet to a peer that it was too long for a frame.
    pub(super) fn too_big_for_frame_inward(&mut self, sender: Sender, holder: PeerId, packet: &Packet<'_>) {
        if packet.must_not_fragment() {
            let answer = too_big(packet, FRAME_MTU, self.source_inward(sender, packet));
            self.tell_sender(sender, Some(holder), Kind::TooBig, packet, answer.as_ref());
        }
    }

    /// What comes by the device from one of the host's own addresses, as the router's is, its kernel takes for a forgery.
    /// So answers that go there come from where the packet was going.
    fn source_inward(&self, sender: Sender, packet: &Packet<'_>) -> IpAddr {
        match sender {
            Sender::Tun => packet.dst(),
            Sender::Gateway(_) => reply::source(self.setup.own_addresses(), packet),
        }
    }

    fn tell_sender(
        &mut self,
        sender: Sender,
        holder: Option<PeerId>,
        kind: Kind,
        packet: &Packet<'_>,
        answer: Option<&Reply<'_>>,
    ) {
        match sender {
            // What a peer sends to another one comes here, too, if the kernel forwards it.
            Sender::Tun => match self.forwarder.sender(packet.src()) {
                Some(peer) => {
                    let Some(party) = self.party(peer) else { return };
                    let Some(bytes) = self.admitted(kind, Cause::Peer(party), packet, answer) else { return };
                    // By the kernel it would meet the rule that the packet has met.
                    self.deliver_answer(peer, &bytes);
                }
                None => {
                    let cause = Cause::Outside(holder.and_then(|holder| self.party(holder)));
                    if let Some(bytes) = self.admitted(kind, cause, packet, answer) {
                        self.tun_answer(&bytes);
                    }
                }
            },
            // A datagram's sender can be forged, so that other routers get an answer only if the operator has named them.
            Sender::Gateway(address) if self.forwarder.names_gateway_sources() => {
                let cause = Cause::Outside(holder.and_then(|holder| self.party(holder)));
                let Some(bytes) = self.admitted(kind, cause, packet, answer) else { return };
                if let Some(gateway) = &self.setup.gateway
                    && gateway.socket.send_to(&bytes, address).is_ok()
                {
                    self.totals.gateway_tx_packets += 1;
                    self.totals.gateway_tx_bytes += bytes.len() as u64;
                }
            }
            Sender::Gateway(_) => {}
        }
    }

    /// The answer about a packet, if it may be given now.
    fn admitted(
        &mut self,
        kind: Kind,
        cause: Cause,
        packet: &Packet<'_>,
        answer: Option<&Reply<'_>>,
    ) -> Option<Vec<u8>> {
        let answer = answer?;
        // RFC 1122, section 3.2.2: not about what goes to all of a network, nor to all of it.
        let pool = self.forwarder.pool();
        if pool.is_for_many(packet.src()) || pool.is_for_many(packet.dst()) {
            return None;
        }
        if !self.answers.admit(kind, cause, Instant::now()) {
            return None;
        }
        if kind == Kind::Rejection {
            self.totals.rejections += 1;
        }
        answer.packet()
    }

    fn party(&self, id: PeerId) -> Option<Party> {
        self.peers.get(id).map(|_| Party { index: id.index, account: self.forwarder.account(id) })
    }

    fn deliver_answer(&mut self, id: PeerId, bytes: &[u8]) {
        if let Ok(parcel) = Parcel::finished(bytes) {
            // If the peer has no room for it, it is counted, and the sender has to wait after all.
            let _ = self.deliver(id, &parcel);
        }
    }

    fn tun_answer(&mut self, bytes: &[u8]) {
        if let Ok(parcel) = Parcel::finished(bytes) {
            // If the device doesn't take it, the sender has to wait after all.
            let _ = self.send_to_tun(&parcel);
        }
    }
}
