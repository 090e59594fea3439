//! Packets towards the peers: from the TUN device and from other routers.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use tuntap_wire::gso::GsoPacket;
use tuntap_wire::rule::Direction;
use tuntap_wire::vnet::VNET_HEADER_LEN;

use super::Router;
use super::held::Origin;
use super::shell::Shell;
use super::watch::ByShell;
use crate::policy::drops::DropReason;
use crate::policy::verdict::{Inbound, PacketSource};

/// Packets that are read from the TUN device, or datagrams that are read from the gateway, in one turn. If the peers have
/// sent more packets since the last turn of the TUN device, so many are read from it.
pub const PACKET_BUDGET: usize = 64;

/// The way by which a packet towards the peers came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingress {
    /// The TUN device.
    Tun,
    /// The gateway of another router.
    Gateway(SocketAddr),
}

impl Router {
    /// Handles a packet that was read from the TUN device between `start` and `end`; `bytes` begin with its virtio_net
    /// header.
    pub fn tun_packet(&mut self, shell: &mut impl Shell, bytes: &[u8], start: Instant, end: Instant) {
        self.advance(end);
        self.work.record_read(bytes.len(), start, end, || shell.thread_usage());
        self.counters.totals.tun_rx_packets += 1;
        self.counters.totals.tun_rx_bytes += bytes.len().saturating_sub(VNET_HEADER_LEN) as u64;
        self.forward_inbound(shell, Ingress::Tun, GsoPacket::parse(bytes).map_err(DropReason::from));
    }

    /// Handles a datagram that came to the gateway by `interface`.
    pub fn datagram(
        &mut self,
        shell: &mut impl Shell,
        bytes: &[u8],
        source: SocketAddr,
        interface: Option<u32>,
        now: Instant,
    ) {
        self.advance(now);
        // A socket for both versions shows IPv4 addresses as IPv4-mapped IPv6 addresses (ipv6(7)).
        if let Some(reason) = self.datagram_refusal(shell, source.ip().to_canonical(), interface) {
            return self.count_drop(None, reason);
        }
        self.counters.totals.gateway_rx_packets += 1;
        self.counters.totals.gateway_rx_bytes += bytes.len() as u64;
        self.forward_inbound(shell, Ingress::Gateway(source), GsoPacket::finished(bytes).map_err(DropReason::from));
    }

    /// Returns why a datagram is not accepted as another router's. A datagram that came by a router's device was sent by a
    /// peer, whatever its source address says: the kernel may have let it in by a way that the check of peers' packets
    /// doesn't cover.
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

    fn forward_inbound(&mut self, shell: &mut impl Shell, ingress: Ingress, packet: Result<GsoPacket<'_>, DropReason>) {
        let packet = match packet {
            Ok(packet) => packet,
            Err(reason) => return self.count_drop(None, reason),
        };
        let from = match ingress {
            Ingress::Tun => PacketSource::Tun,
            Ingress::Gateway(_) => PacketSource::Gateway,
        };
        let verdict = self.forwarder.inbound(from, packet.packet(), &mut ByShell(shell));
        let cause = match verdict.to {
            Inbound::Peer(id) => Some(id),
            Inbound::Drop(_, holder) | Inbound::Reject(_, holder) => holder,
        };
        if ingress == Ingress::Tun {
            self.tun_queues.note(cause);
        }
        self.note_logged_rules(shell, Direction::In, cause, packet.packet());
        if let (true, Inbound::Drop(reason, _) | Inbound::Reject(reason, _)) = (self.is_watched, verdict.to) {
            self.report_drop(shell, Direction::In, cause, packet.packet(), reason, verdict.rule);
        }
        match verdict.to {
            Inbound::Peer(id) => self.deliver_or_hold(shell, id, Origin::Outside(ingress), verdict.lane, &packet),
            Inbound::Drop(reason, holder) => self.count_drop(holder, reason),
            Inbound::Reject(reason, holder) => {
                self.reject_inbound(shell, ingress, holder, packet.packet());
                self.count_drop(holder, reason);
            }
        }
    }
}
