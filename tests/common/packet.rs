//! IPv4 packets with right checksums, and a reader for the few fields that tests look at.

use std::net::Ipv4Addr;

pub const IPV4_HEADER_LEN: usize = 20;
pub const ICMP: u8 = 1;
pub const UDP: u8 = 17;

const ICMP_ECHO_REPLY: u8 = 0;
const ICMP_ECHO_REQUEST: u8 = 8;
const TTL: u8 = 64;

/// An IPv4 packet around a payload.
pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(IPV4_HEADER_LEN + payload.len()).expect("an IPv4 packet holds at most 65535 bytes");
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, TTL, protocol, 0, 0];
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let checksum = internet_checksum(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An ICMP echo request of `length` bytes in all.
pub fn echo_request(source: Ipv4Addr, destination: Ipv4Addr, sequence: u16, length: usize) -> Vec<u8> {
    let mut icmp = vec![ICMP_ECHO_REQUEST, 0, 0, 0, 0x7e, 0x57];
    icmp.extend(sequence.to_be_bytes());
    icmp.resize(length - IPV4_HEADER_LEN, 0xa5);
    let checksum = internet_checksum(&icmp);
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    ipv4(source, destination, ICMP, &icmp)
}

/// A UDP datagram without a UDP checksum, which IPv4 allows.
pub fn udp(source: Ipv4Addr, destination: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a datagram fits its packet");
    let mut datagram = Vec::new();
    for field in [port, port, length, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(payload);
    ipv4(source, destination, UDP, &datagram)
}

/// A router solicitation: the first thing that a kernel sends on a new link with IPv6.
pub fn ipv6_router_solicitation() -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 8, 58, 255];
    packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    packet.extend([133, 0, 0x7b, 0xae, 0, 0, 0, 0]);
    packet
}

pub fn is_ipv4(packet: &[u8]) -> bool {
    packet.len() >= IPV4_HEADER_LEN && packet[0] >> 4 == 4
}

pub fn source(packet: &[u8]) -> Ipv4Addr {
    address(&packet[12..16])
}

pub fn destination(packet: &[u8]) -> Ipv4Addr {
    address(&packet[16..20])
}

/// The sequence number of an echo reply to [`echo_request`].
pub fn echo_reply_sequence(packet: &[u8]) -> Option<u16> {
    let is_reply = is_ipv4(packet)
        && packet.len() >= 28
        && packet[9] == ICMP
        && packet[20] == ICMP_ECHO_REPLY
        && packet[24..26] == [0x7e, 0x57];
    is_reply.then(|| u16::from_be_bytes([packet[26], packet[27]]))
}

fn address(bytes: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}
