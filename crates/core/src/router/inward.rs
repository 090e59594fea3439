//! Towards the peers: packets from the TUN device and from other routers.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use tuntap_wire::gso::GsoPacket;
use tuntap_wire::vnet::VNET_HEADER_LEN;

use super::Router;
use super::shell::Shell;
use crate::policy::drops::DropReason;
use crate::policy::verdict::{Inward, Origin};

/// Packets read from the TUN device, or datagrams from the gateway, before the peers get their turn. The TUN device may
/// be read for as many as the peers have sent since its last turn.
pub const PACKET_BUDGET: usize = 64;

/// By which way a packet came that is on its way to the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingress {
    /// The TUN device.
    Tun,
    /// The gateway of another router.
    Gateway(SocketAddr),
}

impl Router {
    /// Packets that the shell may read from the TUN device in the turn that begins now.
    pub fn begin_tun_turn(&mut self) -> usize {
        std::mem::take(&mut self.outward_streak).max(PACKET_BUDGET)
    }

    /// Returns true if the TUN device is to be read before the next event is handled. All packets towards the peers come by
    /// the one device, those of a flood among vassals, too. With one turn beside many peers' turns its queue would overflow,
    /// and the honest would receive nothing any more.
    pub const fn is_tun_turn_due(&self) -> bool {
        self.outward_streak >= PACKET_BUDGET
    }

    /// A packet was read from the TUN device, its header first, between these moments.
    pub fn tun_packet(&mut self, shell: &mut impl Shell, bytes: &[u8], start: Instant, end: Instant) {
        self.advance(end);
        self.work.record_read(bytes.len(), start, end, || shell.thread_usage());
        self.counters.totals.tun_rx_packets += 1;
        self.counters.totals.tun_rx_bytes += bytes.len().saturating_sub(VNET_HEADER_LEN) as u64;
        self.forward_inward(shell, Ingress::Tun, GsoPacket::parse(bytes).map_err(DropReason::from));
    }

    /// A datagram came to the gateway, by this interface.
    pub fn datagram(
        &mut self,
        shell: &mut impl Shell,
        bytes: &[u8],
        source: SocketAddr,
        interface: Option<u32>,
        now: Instant,
    ) {
        self.advance(now);
        // A socket for both versions shows IPv4 addresses inside of IPv6 ones (ipv6(7)).
        if let Some(reason) = self.datagram_refusal(shell, source.ip().to_canonical(), interface) {
            return self.count_drop(None, reason);
        }
        self.counters.totals.gateway_rx_packets += 1;
        self.counters.totals.gateway_rx_bytes += bytes.len() as u64;
        self.forward_inward(shell, Ingress::Gateway(source), GsoPacket::finished(bytes).map_err(DropReason::from));
    }

    /// Why a datagram is not another router's. What came by a router's device is a peer's, whatever its source says: the
    /// kernel may have let it in by a way that the check of peers' packets doesn't know.
    fn datagram_refusal(
        &mut self,
        shell: &mut impl Shell,
        source: IpAddr,
        interface: Option<u32>,
    ) -> Option<DropReason> {
        if interface.is_some_and(|index| self.is_router_device(shell, index))
            && !self.forwarder.is_local(source)
            && !self.forwarder.may_send_to_gateways(source)
        {
            return Some(DropReason::GatewayDevice);
        }
        (!self.forwarder.accepts_datagrams_of(source)).then_some(DropReason::GatewaySource)
    }

    fn forward_inward(&mut self, shell: &mut impl Shell, ingress: Ingress, packet: Result<GsoPacket<'_>, DropReason>) {
        let packet = match packet {
            Ok(packet) => packet,
            Err(reason) => return self.count_drop(None, reason),
        };
        let origin = match ingress {
            Ingress::Tun => Origin::Tun,
            Ingress::Gateway(_) => Origin::Gateway,
        };
        match self.forwarder.inward(origin, packet.packet()).to {
            Inward::Peer(id) => {
                if self.deliver(shell, id, &packet) == Err(DropReason::TooBig) {
                    self.too_big_for_frame_inward(shell, ingress, id, packet.packet());
                }
            }
            Inward::Drop(reason, holder) => self.count_drop(holder, reason),
            Inward::Reject(reason, holder) => {
                self.reject_inward(shell, ingress, holder, packet.packet());
                self.count_drop(holder, reason);
            }
        }
    }
}
