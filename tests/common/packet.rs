//! IP packets with right checksums, and a reader for the few fields that tests look at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const IPV4_HEADER_LEN: usize = 20;
pub const IPV6_HEADER_LEN: usize = 40;
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
/// Extension headers of IPv6.
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const DESTINATION_OPTIONS: u8 = 60;

const ICMP_ECHO_REPLY: u8 = 0;
const ICMP_ECHO_REQUEST: u8 = 8;
const ICMPV6_ECHO_REQUEST: u8 = 128;
const ICMPV6_ECHO_REPLY: u8 = 129;
/// Tells the echo requests of tests from others.
const ECHO_ID: [u8; 2] = [0x7e, 0x57];
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

/// The first fragment of a UDP datagram, after which others would come.
pub fn first_fragment(source: Ipv4Addr, destination: Ipv4Addr, id: u16, length: usize) -> Vec<u8> {
    const MORE_FRAGMENTS: u8 = 0x20;
    let mut packet = udp(source, destination, 9, &vec![0xa5; length - IPV4_HEADER_LEN - 8]);
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6] = MORE_FRAGMENTS;
    packet[10..12].fill(0);
    let checksum = internet_checksum(&packet[..IPV4_HEADER_LEN]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// An ICMP echo request of `length` bytes in all.
pub fn echo_request(source: Ipv4Addr, destination: Ipv4Addr, sequence: u16, length: usize) -> Vec<u8> {
    let mut icmp = vec![ICMP_ECHO_REQUEST, 0, 0, 0, ECHO_ID[0], ECHO_ID[1]];
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

/// An IPv6 packet around a payload.
pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("an IPv6 packet holds at most 65535 bytes");
    let [high, low] = length.to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, high, low, next_header, TTL];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// An ICMPv6 echo request of `length` bytes in all.
pub fn echo_request6(source: Ipv6Addr, destination: Ipv6Addr, sequence: u16, length: usize) -> Vec<u8> {
    let mut icmp = vec![ICMPV6_ECHO_REQUEST, 0, 0, 0, ECHO_ID[0], ECHO_ID[1]];
    icmp.extend(sequence.to_be_bytes());
    icmp.resize(length - IPV6_HEADER_LEN, 0xa5);
    complete(&mut icmp, 2, source, destination, ICMPV6);
    ipv6(source, destination, ICMPV6, &icmp)
}

/// A UDP datagram in an IPv6 packet.
pub fn udp6(source: Ipv6Addr, destination: Ipv6Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    ipv6(source, destination, UDP, &datagram6(source, destination, port, payload))
}

/// A UDP datagram without its packet.
pub fn datagram6(source: Ipv6Addr, destination: Ipv6Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a datagram fits its packet");
    let mut datagram: Vec<u8> = [port, port, length, 0].iter().flat_map(|field| field.to_be_bytes()).collect();
    datagram.extend(payload);
    complete(&mut datagram, 6, source, destination, UDP);
    datagram
}

/// The first segment of a TCP connection, without its packet.
pub fn syn6(source: Ipv6Addr, destination: Ipv6Addr, port: u16) -> Vec<u8> {
    let mut segment = vec![0x9c, 0x40];
    segment.extend(port.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    complete(&mut segment, 16, source, destination, TCP);
    segment
}

/// An extension header of destination options that say nothing.
pub fn destination_options(next_header: u8) -> [u8; 8] {
    [next_header, 0, 1, 4, 0, 0, 0, 0]
}

/// A routing header of an unknown type, with a way still to go (RFC 8200, section 4.4).
pub fn routing(next_header: u8, segments_left: u8) -> [u8; 8] {
    [next_header, 0, 253, segments_left, 0, 0, 0, 0]
}

/// A fragment header; the offset counts bytes.
pub fn fragment(next_header: u8, offset: u16, more: bool) -> [u8; 8] {
    let [high, low] = (offset | u16::from(more)).to_be_bytes();
    [next_header, 0, high, low, 0, 0, 0, 7]
}

/// Writes the checksum, which covers a pseudo header but in ICMP of IPv4 (RFC 9293, section 3.1; RFC 8200, section 8.1).
pub fn complete(
    payload: &mut [u8],
    at: usize,
    source: impl Into<IpAddr>,
    destination: impl Into<IpAddr>,
    protocol: u8,
) {
    let mut summed = Vec::new();
    if protocol != ICMP {
        for address in [source.into(), destination.into()] {
            match address {
                IpAddr::V4(address) => summed.extend(address.octets()),
                IpAddr::V6(address) => summed.extend(address.octets()),
            }
        }
        summed.extend(u32::try_from(payload.len()).expect("it fits a packet").to_be_bytes());
        summed.extend([0, 0, 0, protocol]);
    }
    summed.extend(&*payload);
    payload[at..at + 2].copy_from_slice(&internet_checksum(&summed).to_be_bytes());
}

pub fn is_ipv6(packet: &[u8]) -> bool {
    packet.len() >= IPV6_HEADER_LEN && packet[0] >> 4 == 6
}

/// Source and destination of a packet of either version.
pub fn ends(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    if is_ipv4(packet) {
        return Some((source(packet).into(), destination(packet).into()));
    }
    let address = |at: usize| packet[at..].first_chunk::<16>().map(|octets| IpAddr::from(*octets));
    if is_ipv6(packet) { address(8).zip(address(24)) } else { None }
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

/// The sequence number of an echo reply to [`echo_request`] or [`echo_request6`].
pub fn echo_reply_sequence(packet: &[u8]) -> Option<u16> {
    if is_ipv6(packet) {
        let icmp = &packet[IPV6_HEADER_LEN..];
        let is_reply = packet[6] == ICMPV6 && icmp.len() >= 8 && icmp[0] == ICMPV6_ECHO_REPLY && icmp[4..6] == ECHO_ID;
        return is_reply.then(|| u16::from_be_bytes([icmp[6], icmp[7]]));
    }
    let is_reply = is_ipv4(packet)
        && packet.len() >= 28
        && packet[9] == ICMP
        && packet[20] == ICMP_ECHO_REPLY
        && packet[24..26] == ECHO_ID;
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
