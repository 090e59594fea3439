//! Packets that are refused with an answer, so that their senders fail at once instead of waiting.

use std::net::SocketAddr;
use std::time::Instant;

use super::event_loop::EventLoop;
use super::parcel::Parcel;
use crate::policy::registry::PeerId;
use crate::wire::answer::{rejection, source};
use crate::wire::ip::Packet;

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
    pub(super) fn reject_outward(&mut self, id: PeerId, parcel: &Parcel<'_>) {
        let answer = self.rejection(&parcel.packet, id);
        if let Some(parcel) = answer.as_deref().and_then(|answer| Parcel::finished(answer).ok()) {
            self.deliver(id, &parcel);
        }
    }

    /// Tells whoever sent a packet to a peer that it was refused. A datagram's sender can be forged, so that other routers
    /// get an answer only if the operator has named them.
    pub(super) fn reject_inward(&mut self, sender: Sender, holder: Option<PeerId>, parcel: &Parcel<'_>) {
        if matches!(sender, Sender::Gateway(_)) && !self.forwarder.names_gateway_sources() {
            return;
        }
        let Some(answer) = self.rejection(&parcel.packet, holder) else { return };
        match sender {
            Sender::Tun => {
                // If the device doesn't take it, the sender has to wait after all.
                if let Ok(parcel) = Parcel::finished(&answer) {
                    let _ = self.send_to_tun(&parcel);
                }
            }
            Sender::Gateway(address) => {
                if let Some(gateway) = &self.setup.gateway
                    && gateway.socket.send_to(&answer, address).is_ok()
                {
                    self.totals.gateway_tx_packets += 1;
                    self.totals.gateway_tx_bytes += answer.len() as u64;
                }
            }
        }
    }

    fn rejection(&mut self, packet: &Packet<'_>, peer: impl Into<Option<PeerId>>) -> Option<Vec<u8>> {
        let answer = rejection(packet, source(self.setup.own_addresses(), packet))?;
        if !self.answers.admit(peer.into(), Instant::now()) {
            return None;
        }
        self.totals.rejections += 1;
        Some(answer)
    }
}
