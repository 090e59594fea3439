//! Packets towards the peers: from the TUN device and from other routers.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use tuntap_wire::coalesce::{Datagrams, Run};
use tuntap_wire::gso::GsoPacket;
use tuntap_wire::rule::Direction;
use tuntap_wire::vnet::VNET_HEADER_LEN;

use super::Router;
use super::held::Origin;
use super::shell::Shell;
use super::watch::ByShell;
use crate::policy::drops::DropReason;
use crate::policy::verdict::{Inbound, PacketSource};
use crate::trunk::TrunkId;

/// Packets that are read from the TUN device in one turn. If the peers have sent more packets since its last turn, so many are
/// read from it.
pub const PACKET_BUDGET: usize = 64;

/// The way by which a packet towards the peers came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingress {
    /// The TUN device.
    Tun,
    /// The gateway of another router.
    Gateway(SocketAddr),
    /// A trunk, and how many more of them the packet may cross.
    Trunk(TrunkId, u8),
}

impl Router {
    /// Handles a packet that was read from the TUN device between `start` and `end`; `bytes` begin with its virtio_net
    /// header.
    pub fn tun_packet(&mut self, shell: &mut impl Shell, bytes: &[u8], start: Instant, end: Instant) {
        self.advance(end);
        self.work.record_read(bytes.len(), start, end, || shell.thread_usage());
        self.counters.totals.tun_rx_packets += 1;
        self.counters.totals.tun_rx_bytes += bytes.len().saturating_sub(VNET_HEADER_LEN) as u64;
        let packet = GsoPacket::parse(bytes).map_err(DropReason::from);
        if let Err(reason) = packet {
            self.capture_unreadable(
                shell,
                Direction::In,
                None,
                bytes.get(VNET_HEADER_LEN..).unwrap_or_default(),
                reason,
            );
        }
        self.forward_inbound(shell, Ingress::Tun, packet);
        self.follow_changes(shell);
    }

    /// Handles datagrams that came to the gateway with one read, from `source` and by `interface`. `len` is the length of each if
    /// they are several; the last one may be shorter. Consecutive segments of one TCP connection go on as one GSO packet.
    /// Returns the number of packets that they became.
    pub fn datagrams(
        &mut self,
        shell: &mut impl Shell,
        bytes: &[u8],
        len: Option<usize>,
        source: SocketAddr,
        interface: Option<u32>,
        now: Instant,
    ) -> usize {
        self.advance(now);
        let mut datagrams = Datagrams::new(bytes, len);
        let count = datagrams.count();
        // A socket for both versions shows IPv4 addresses as IPv4-mapped IPv6 addresses (ipv6(7)).
        if let Some(reason) = self.datagram_refusal(shell, source.ip().to_canonical(), interface) {
            (0..count).for_each(|_| self.count_drop(None, reason));
            if self.captures.is_on() {
                let datagrams = bytes.chunks(len.unwrap_or(bytes.len()).max(1));
                datagrams.for_each(|it| self.capture_unreadable(shell, Direction::In, None, it, reason));
            }
            return count;
        }
        let totals = &mut self.counters.totals;
        totals.gateway_rx_packets += count as u64;
        totals.gateway_rx_bytes += bytes.len() as u64;
        totals.gateway_rx_batches += u64::from(count > 1);
        let (mut built, mut packets) = (std::mem::take(&mut self.coalesced), 0);
        while let Some(run) = datagrams.next_run(&mut built) {
            let packet = match run {
                Run::Single(bytes) => GsoPacket::finished(bytes).map_err(DropReason::from).inspect_err(|reason| {
                    self.capture_unreadable(shell, Direction::In, None, bytes, *reason);
                }),
                Run::Coalesced(count) => {
                    self.counters.totals.gateway_rx_coalesced += count as u64;
                    GsoPacket::parse(&built).map_err(DropReason::from)
                }
            };
            self.forward_inbound(shell, Ingress::Gateway(source), packet);
            packets += 1;
        }
        self.coalesced = built;
        self.follow_changes(shell);
        packets
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

    pub(super) fn forward_inbound(
        &mut self,
        shell: &mut impl Shell,
        ingress: Ingress,
        packet: Result<GsoPacket<'_>, DropReason>,
    ) {
        let packet = match packet {
            Ok(packet) => packet,
            Err(reason) => return self.count_drop(None, reason),
        };
        let from = match ingress {
            Ingress::Tun => PacketSource::Tun,
            Ingress::Gateway(_) => PacketSource::Gateway,
            Ingress::Trunk(..) => PacketSource::Trunk,
        };
        let verdict = self.forwarder.inbound(from, packet.packet(), &mut ByShell(shell));
        let cause = match verdict.to {
            Inbound::Peer(id) => Some(id),
            Inbound::Trunk(_) | Inbound::Tun => None,
            Inbound::Drop(_, holder) | Inbound::Reject(_, holder) => holder,
        };
        if ingress == Ingress::Tun {
            self.tun_queues.note(cause);
        }
        self.note_logged_rules(shell, Direction::In, cause, packet.packet());
        if let (true, Inbound::Drop(reason, _) | Inbound::Reject(reason, _)) = (self.is_observed, verdict.to) {
            let is_rejected = matches!(verdict.to, Inbound::Reject(..));
            self.report_drop(shell, (Direction::In, cause), &packet, (reason, is_rejected), verdict.rule);
        }
        match verdict.to {
            Inbound::Peer(id) => {
                self.deliver_or_hold(shell, id, Origin::Outside(ingress), verdict.lane, &packet);
                if ingress == Ingress::Tun {
                    self.note_passed(shell, verdict.lane, Direction::In, None, Some(id));
                }
            }
            Inbound::Trunk(to) => {
                let result = self.pass_to_trunk(shell, ingress, to, &packet);
                self.count_not_passed(shell, &packet, result, Some(to));
            }
            Inbound::Tun => {
                let result = self.send_to_tun(shell, &packet);
                self.count_not_passed(shell, &packet, result, None);
            }
            Inbound::Drop(reason, holder) => self.count_drop(holder, reason),
            Inbound::Reject(reason, holder) => {
                self.reject_inbound(shell, ingress, holder, packet.packet());
                self.count_drop(holder, reason);
            }
        }
    }

    /// Counts a packet for no peer of this router that could not be passed on, by a trunk or to the host, and tells who watches or
    /// captures.
    fn count_not_passed(
        &mut self,
        shell: &mut impl Shell,
        packet: &GsoPacket<'_>,
        result: Result<(), DropReason>,
        trunk: Option<TrunkId>,
    ) {
        match result {
            Err(reason) => {
                self.count_drop(None, reason);
                if self.is_observed {
                    self.report_drop(shell, (Direction::In, None), packet, (reason, false), None);
                }
            }
            Ok(()) if self.captures.is_on() => self.capture_passed_by(shell, trunk, packet),
            Ok(()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, PacketBuilder};
    use tuntap_wire::credentials::PeerCredentials;

    use super::super::Settings;
    use super::super::testing::{self, TestShell};
    use super::*;
    use crate::policy::Policy;
    use crate::policy::forward::Forwarder;

    const PEER: [u8; 4] = [10, 0, 0, 2];
    const AFAR: [u8; 4] = [10, 1, 0, 2];
    const LEN: usize = 140;

    /// A router that takes datagrams of one source, and whose attached peer holds an address.
    fn world() -> (TestShell, Router) {
        let now = Instant::now();
        let (mut shell, gateway) = (TestShell::default(), Some("192.0.2.2:4000".parse().expect("valid")));
        let sources = ["192.0.2.1/32".parse().expect("valid")].into_iter().collect();
        let policy = Policy { gateway_sources: sources, ..Policy::default() };
        let settings = Settings { gateway, ..Settings::default() };
        let mut router = Router::new(Forwarder::new(policy, 1), settings, now);
        let credentials = PeerCredentials { pid: 1, uid: 1000, gid: 1000 };
        let id = testing::connect(&mut router, &mut shell, credentials, now);
        let mut first = vec![0; VNET_HEADER_LEN];
        PacketBuilder::ipv4(PEER, AFAR, 64).udp(1, 2).write(&mut first, b"first").expect("valid");
        router.device_packet(&mut shell, id, &first, None);
        (shell, router)
    }

    /// Segments of a stream, end to end.
    fn stream(count: u16) -> Vec<u8> {
        (0..count)
            .flat_map(|index| {
                let mut bytes = Vec::new();
                let mut ip = Ipv4Header::new(0, 64, IpNumber::TCP, AFAR, PEER).expect("short");
                ip.identification = index;
                PacketBuilder::ip(IpHeaders::Ipv4(ip, Ipv4Extensions::default()))
                    .tcp(1, 2, 3 + u32::from(index) * 100, 4)
                    .ack(5)
                    .write(&mut bytes, &[7; 100])
                    .expect("valid");
                bytes
            })
            .collect()
    }

    fn arrive((shell, router): &mut (TestShell, Router), bytes: &[u8], source: &str) -> usize {
        let source = source.parse().expect("valid");
        router.datagrams(shell, bytes, Some(LEN), source, None, Instant::now())
    }

    #[test]
    fn stream_of_another_router_arrives_whole() {
        let mut world = world();
        let bytes = stream(20);
        assert_eq!(arrive(&mut world, &bytes, "192.0.2.1:4000"), 1);
        let lens: Vec<_> = world.0.to_devices.iter().map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(lens, [40 + 20 * 100]);
        let totals = &world.1.counters().totals;
        assert_eq!((totals.gateway_rx_packets, totals.gateway_rx_bytes), (20, 20 * LEN as u64));
        assert_eq!((totals.gateway_rx_batches, totals.gateway_rx_coalesced), (1, 20));
    }

    #[test]
    fn other_datagrams_of_one_read_arrive_each() {
        let mut world = world();
        let mut bytes = stream(3);
        // The second one is no packet, and the third one is for nobody.
        bytes[LEN] = 0x15;
        bytes[2 * LEN + 19] = 99;
        bytes.extend(&stream(1)[..30]);
        assert_eq!(arrive(&mut world, &bytes, "192.0.2.1:4000"), 4);
        assert_eq!(world.0.to_devices.len(), 1);
        let drops = &world.1.counters().drops;
        let counted = [DropReason::NotIp, DropReason::NoPeer, DropReason::Malformed, DropReason::TooShort];
        assert_eq!(counted.map(|reason| drops.get(reason)).iter().sum::<u64>(), 3, "{drops:?}");
        assert_eq!(world.1.counters().totals.gateway_rx_coalesced, 0);
    }

    #[test]
    fn each_datagram_of_a_stranger_is_counted() {
        let mut world = world();
        assert_eq!(arrive(&mut world, &stream(20), "192.0.2.3:4000"), 20);
        assert!(world.0.to_devices.is_empty());
        assert_eq!(world.1.counters().drops.get(DropReason::GatewaySource), 20);
        assert_eq!(world.1.counters().totals.gateway_rx_packets, 0);
    }
}
