//! Echo requests (RFC 792, RFC 4443). A device sends one to claim an address from a router that has no claim messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ip::{IPV4_MIN_HEADER_LEN, IPV6_HEADER_LEN, protocol};
use super::segment::{fold, sum};

const HEADER_LEN: u8 = 8;
const HOP_LIMIT: u8 = 64;
const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

/// An echo request without data. `None` if the addresses are of different families.
pub fn echo_request(from: IpAddr, to: IpAddr) -> Option<Vec<u8>> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Some(v4(from, to)),
        (IpAddr::V6(from), IpAddr::V6(to)) => Some(v6(from, to)),
        _ => None,
    }
}

fn v4(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0; IPV4_MIN_HEADER_LEN];
    packet[0] = 0x45;
    packet[3] = 20 + HEADER_LEN;
    packet[8] = HOP_LIMIT;
    packet[9] = protocol::ICMP;
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    let checksum = !fold(sum(0, &packet));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(message(ECHO_REQUEST_V4, 0));
    packet
}

fn v6(from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let mut packet = vec![0; IPV6_HEADER_LEN];
    packet[0] = 0x60;
    packet[5] = HEADER_LEN;
    packet[6] = protocol::ICMPV6;
    packet[7] = HOP_LIMIT;
    packet[8..24].copy_from_slice(&from.octets());
    packet[24..40].copy_from_slice(&to.octets());
    // The pseudo-header: addresses, length and protocol (RFC 8200, section 8.1).
    let pseudo_header = sum(sum(0, &packet[8..40]), &[0, HEADER_LEN, 0, protocol::ICMPV6]);
    packet.extend(message(ECHO_REQUEST_V6, pseudo_header));
    packet
}

fn message(kind: u8, pseudo_header: u64) -> [u8; HEADER_LEN as usize] {
    let mut message = [kind, 0, 0, 0, 0, 0, 0, 0];
    let checksum = !fold(sum(pseudo_header, &message));
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    #[test]
    fn requests_are_what_the_rfcs_say() {
        let (from, to) = (Ipv4Addr::new(10, 0, 0, 7), Ipv4Addr::new(10, 0, 0, 1));
        let packet = echo_request(from.into(), to.into()).expect("one version");
        let sliced = SlicedPacket::from_ip(&packet).expect("a packet");
        let Some(NetSlice::Ipv4(ip)) = sliced.net else { panic!("{sliced:?}") };
        assert_eq!((ip.header().source_addr(), ip.header().destination_addr()), (from, to));
        assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
        let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!("{:?}", sliced.transport) };
        assert!(matches!(icmp.icmp_type(), Icmpv4Type::EchoRequest(_)));
        assert_eq!(fold(sum(0, icmp.slice())), 0xffff);

        let (from, to): (Ipv6Addr, Ipv6Addr) = ("fd00::7".parse().expect("v6"), "fd00::1".parse().expect("v6"));
        let packet = echo_request(from.into(), to.into()).expect("one version");
        let sliced = SlicedPacket::from_ip(&packet).expect("a packet");
        let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("{:?}", sliced.transport) };
        assert!(matches!(icmp.icmp_type(), Icmpv6Type::EchoRequest(_)));
        assert!(icmp.is_checksum_valid(from.octets(), to.octets()));
        assert_eq!(echo_request(from.into(), Ipv4Addr::LOCALHOST.into()), None);
    }
}
