//! Packets to other routers, as UDP datagrams.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tuntap_wire::gso::GsoPacket;
use tuntap_wire::ip::{IPV6_MIN_MTU, Packet};
use tuntap_wire::segment::for_each_packet;

use super::Router;
use super::shell::Shell;
use crate::policy::drops::DropReason;
use crate::policy::registry::PeerId;

/// Returns the length of the IP and UDP headers around a packet in bytes.
const fn tunnel_headers_len(target: SocketAddr) -> u16 {
    match target {
        SocketAddr::V4(_) => 20 + 8,
        SocketAddr::V6(_) => 40 + 8,
    }
}

/// A cache of the path MTUs to other routers.
#[derive(Debug, Default)]
pub struct PathMtus(HashMap<SocketAddr, (Option<u16>, Instant)>);

impl PathMtus {
    /// How long an answer of the kernel is used. The kernel's answer changes when an ICMP message comes.
    const LIFETIME: Duration = Duration::from_secs(5);

    /// The maximum number of targets in the cache. Peers can name targets in their rules.
    const MAX: usize = 256;

    /// Returns the length in bytes of the longest packet that travels to a target in one unfragmented datagram, or `None`
    /// if the kernel doesn't know it.
    fn longest_packet(
        &mut self,
        target: SocketAddr,
        now: Instant,
        path_mtu: impl FnOnce(SocketAddr) -> Option<u16>,
    ) -> Option<u16> {
        match self.0.get(&target) {
            Some((mtu, asked)) if now.saturating_duration_since(*asked) < Self::LIFETIME => *mtu,
            _ => {
                if self.0.len() >= Self::MAX {
                    self.0.clear();
                }
                let mtu = path_mtu(target).map(|mtu| mtu.saturating_sub(tunnel_headers_len(target)));
                self.0.insert(target, (mtu, now));
                mtu
            }
        }
    }
}

/// Returns the length above which a packet is refused as too long. An IPv6 packet that every link has to accept is sent in
/// any case; the kernel may fragment the datagram around it.
fn longest(packet: &Packet<'_>, path: u16) -> u16 {
    if packet.is_v4() { path } else { path.max(IPV6_MIN_MTU) }
}

impl Router {
    /// Sends a peer's packet to another router. If it is too long for one datagram and must not be fragmented, its sender
    /// gets an ICMP error with the MTU; else the kernel fragments the datagram.
    pub(super) fn send_to_gateway(
        &mut self,
        shell: &mut impl Shell,
        id: PeerId,
        target: SocketAddr,
        packet: &GsoPacket<'_>,
    ) -> Result<(), DropReason> {
        if self.settings.gateway.is_none() {
            return Err(DropReason::NoGateway);
        }
        let path = self.path_mtus.longest_packet(target, self.now, |target| shell.path_mtu(target));
        let longest = path.filter(|_| packet.packet().must_not_fragment()).map(|path| longest(packet.packet(), path));
        let mut result = Ok(());
        for_each_packet(packet.offload(), packet.packet(), &mut self.scratch, |bytes| {
            if longest.is_some_and(|longest| bytes.len() > usize::from(longest)) {
                result = Err(DropReason::TooBig);
                return;
            }
            match shell.send_datagram(target, bytes) {
                Ok(()) => {
                    self.counters.totals.gateway_tx_packets += 1;
                    self.counters.totals.gateway_tx_bytes += bytes.len() as u64;
                }
                Err(_) => result = Err(DropReason::GatewayRefused),
            }
        });
        // All segments of a GSO packet cause one ICMP error.
        if let (Err(DropReason::TooBig), Some(mtu)) = (result, longest) {
            self.too_big_outbound(shell, id, packet.packet(), mtu);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn headers_around_a_packet_count() {
        let mut mtus = PathMtus::default();
        let now = Instant::now();
        for (address, headers_len) in [("127.0.0.1:9", 28), ("[::1]:9", 48)] {
            let target: SocketAddr = address.parse().expect("an address");
            assert_eq!(mtus.longest_packet(target, now, |_| Some(1500)), Some(1500 - headers_len), "{address}");
        }
    }

    #[test]
    fn answers_of_the_kernel_are_bounded_and_age() {
        let mut mtus = PathMtus::default();
        let now = Instant::now();
        let target = |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let mut ask = |port, later, mtu| mtus.longest_packet(target(port), now + Duration::from_secs(later), |_| mtu);
        assert_eq!(ask(1, 0, Some(128)), Some(100));
        assert_eq!(ask(1, 4, Some(1028)), Some(100));
        assert_eq!(ask(1, 5, Some(1028)), Some(1000));
        assert_eq!(ask(2, 0, None), None);
        (3..1000).for_each(|port| _ = ask(port, 0, Some(1500)));
        assert!(mtus.0.len() <= PathMtus::MAX);
    }

    #[test]
    fn ipv6_packets_that_every_link_takes_are_never_too_long() {
        let v6 = [&[0x60, 0, 0, 0, 0, 0, 59, 64], [0xfd; 32].as_slice()].concat();
        let v4 = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        assert_eq!(longest(&Packet::parse(&v6).expect("valid"), 1000), 1280);
        assert_eq!(longest(&Packet::parse(&v6).expect("valid"), 1400), 1400);
        assert_eq!(longest(&Packet::parse(&v4).expect("valid"), 1000), 1000);
    }
}
