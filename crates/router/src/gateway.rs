//! To other routers: packets as UDP datagrams.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::event_loop::EventLoop;
use super::parcel::Parcel;
use tuntap_core::policy::drops::DropReason;
use tuntap_core::policy::registry::PeerId;
use tuntap_sys::socket::path_mtu;
use tuntap_wire::ip::{IPV6_MIN_MTU, Packet};
use tuntap_wire::segment::for_each_packet;

/// Bytes of IP and UDP header around a packet.
const fn tunnel_headers_len(target: SocketAddr) -> u16 {
    match target {
        SocketAddr::V4(_) => 20 + 8,
        SocketAddr::V6(_) => 40 + 8,
    }
}

/// What is known of the ways to other routers.
#[derive(Debug, Default)]
pub struct PathMtus(HashMap<SocketAddr, (Option<u16>, Instant)>);

impl PathMtus {
    /// How long an answer of the kernel counts. It knows more once an ICMP message has come.
    const LIFETIME: Duration = Duration::from_secs(5);

    /// Most targets that are remembered. Peers can name targets in their rules.
    const MAX: usize = 256;

    /// Longest packet that travels to a target as one datagram, in bytes. `None` if the kernel doesn't know.
    fn longest_packet(&mut self, target: SocketAddr, now: Instant) -> Option<u16> {
        match self.0.get(&target) {
            Some((mtu, asked)) if now.saturating_duration_since(*asked) < Self::LIFETIME => *mtu,
            _ => {
                if self.0.len() >= Self::MAX {
                    self.0.clear();
                }
                let mtu = ask_kernel(target).ok().map(|mtu| mtu.saturating_sub(tunnel_headers_len(target)));
                self.0.insert(target, (mtu, now));
                mtu
            }
        }
    }
}

/// A socket has a path only once it is connected.
fn ask_kernel(target: SocketAddr) -> io::Result<u16> {
    let any = if target.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let probe = UdpSocket::bind((any, 0))?;
    probe.connect(target)?;
    path_mtu(&probe, target)
}

/// The length from which on a packet's sender is told that it was too long. An IPv6 packet that every link must take goes
/// out in any case; the datagram around it may be cut.
fn longest(packet: &Packet<'_>, way: u16) -> u16 {
    if packet.is_v4() { way } else { way.max(IPV6_MIN_MTU) }
}

/// The target as a gateway's socket takes it: one for both versions has IPv4 addresses inside of IPv6 ones (ipv6(7)).
fn as_seen_by(gateway: SocketAddr, target: SocketAddr) -> SocketAddr {
    match (gateway, target) {
        (SocketAddr::V6(_), SocketAddr::V4(target)) => {
            SocketAddr::new(target.ip().to_ipv6_mapped().into(), target.port())
        }
        _ => target,
    }
}

impl EventLoop<'_> {
    /// Sends a peer's packet to another router. If it is too long to travel in one datagram and must not be cut, its
    /// sender is told how long it may be; else the kernel cuts the datagram.
    pub(super) fn send_to_gateway(
        &mut self,
        id: PeerId,
        target: SocketAddr,
        parcel: &Parcel<'_>,
    ) -> Result<(), DropReason> {
        let gateway = self.setup.gateway.as_ref().ok_or(DropReason::NoGateway)?;
        let way = self.path_mtus.longest_packet(target, Instant::now());
        let longest = way.filter(|_| parcel.packet.must_not_fragment()).map(|way| longest(&parcel.packet, way));
        let target = as_seen_by(gateway.address, target);
        let mut result = Ok(());
        for_each_packet(&parcel.offload, &parcel.packet, &mut self.scratch, |bytes| {
            if longest.is_some_and(|longest| bytes.len() > usize::from(longest)) {
                result = Err(DropReason::TooBig);
                return;
            }
            match gateway.socket.send_to(bytes, target) {
                Ok(_) => {
                    self.totals.gateway_tx_packets += 1;
                    self.totals.gateway_tx_bytes += bytes.len() as u64;
                }
                Err(_) => result = Err(DropReason::GatewayRefused),
            }
        });
        // One message for all that a super-packet is cut into.
        if let (Err(DropReason::TooBig), Some(mtu)) = (result, longest) {
            self.too_big_outward(id, &parcel.packet, mtu);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_around_a_packet_count() {
        let mut mtus = PathMtus::default();
        let now = Instant::now();
        for (address, headers_len) in [("127.0.0.1:9", 28), ("[::1]:9", 48)] {
            let target: SocketAddr = address.parse().expect("an address");
            let way = ask_kernel(target).expect("loopback has a path");
            assert_eq!(mtus.longest_packet(target, now), Some(way - headers_len), "{address}");
        }
    }

    #[test]
    fn answers_of_the_kernel_are_bounded_and_age() {
        let mut mtus = PathMtus::default();
        let now = Instant::now();
        let target = |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let known = (Some(100), now);
        mtus.0.insert(target(1), known);
        assert_eq!(mtus.longest_packet(target(1), now + Duration::from_secs(4)), Some(100));
        assert_ne!(mtus.longest_packet(target(1), now + Duration::from_secs(5)), Some(100));
        (1..1000).for_each(|port| _ = mtus.longest_packet(target(port), now));
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

    #[test]
    fn socket_for_both_versions_gets_targets_it_takes() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for (gateway, target, expected) in [
            ("[::]:1", "192.0.2.1:4000", "[::ffff:192.0.2.1]:4000"),
            ("[::]:1", "[2001:db8::1]:4000", "[2001:db8::1]:4000"),
            ("0.0.0.0:1", "192.0.2.1:4000", "192.0.2.1:4000"),
        ] {
            assert_eq!(as_seen_by(address(gateway), address(target)), address(expected));
        }
    }
}
