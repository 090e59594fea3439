//! IP packets of both versions, and the replies to them.
//!
//! Input: an MTU (2 bytes), and a packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};
use tuntap_wire::ip::{Fragment, Packet, PacketError, is_unicast};
use tuntap_wire::reply::{self, source};

use super::input::Input;
use super::ones_complement::verifies;

const ROUTER4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const ROUTER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));

const ICMP: u8 = 1;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;

/// Reads the packet and compares the result with the RFCs.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let mtu = input.word();
    let bytes = input.rest();
    match (Packet::parse(bytes), expected(bytes)) {
        (Ok(packet), Ok(expected)) => {
            check_fields(&packet, &expected, bytes);
            check_replies(&packet, &expected, mtu);
        }
        (Err(error), Err(expected)) => assert_eq!(error, expected),
        (ours, expected) => panic!("{ours:?}, but expected {expected:?}"),
    }
}

/// A packet as the oracle sees it.
#[derive(Debug)]
struct Expected {
    src: IpAddr,
    dst: IpAddr,
    header_len: usize,
    total_len: usize,
    protocol: u8,
    fragment: Fragment,
    dont_fragment: bool,
    port: Option<u16>,
}

fn expected(bytes: &[u8]) -> Result<Expected, PacketError> {
    let mut found = match bytes {
        _ if bytes.len() < 20 => return Err(PacketError::TooShort),
        [0x40..=0x4f, ..] => expected_v4(bytes)?,
        [0x60..=0x6f, ..] => expected_v6(bytes)?,
        _ => return Err(PacketError::NotIp),
    };
    // TCP, UDP, DCCP, SCTP, UDP-Lite: the ports must be in the first fragment.
    if found.fragment != Fragment::Later && [TCP, 17, 33, 132, 136].contains(&found.protocol) {
        let payload = &bytes[found.header_len..found.total_len];
        let port = payload.get(..4).ok_or(PacketError::Malformed)?;
        found.port = Some(u16::from_be_bytes([port[2], port[3]]));
    }
    Ok(found)
}

/// RFC 791: a complete header, and a total length between that of the header and that of the bytes.
fn expected_v4(bytes: &[u8]) -> Result<Expected, PacketError> {
    let header = Ipv4HeaderSlice::from_slice(bytes).map_err(|_| PacketError::Malformed)?;
    let (header_len, total_len) = (header.slice().len(), usize::from(header.total_len()));
    if total_len < header_len || total_len > bytes.len() {
        return Err(PacketError::Malformed);
    }
    options(header.options())?;
    let fragment = match (header.fragments_offset().value(), header.more_fragments()) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    };
    Ok(Expected {
        src: header.source_addr().into(),
        dst: header.destination_addr().into(),
        header_len,
        total_len,
        protocol: header.protocol().0,
        fragment,
        dont_fragment: header.dont_fragment(),
        port: None,
    })
}

/// RFC 791, section 3.1: options of a single byte and options with a length, up to the end of the list.
fn options(bytes: &[u8]) -> Result<(), PacketError> {
    let mut at = 0;
    while at < bytes.len() && bytes[at] != 0 {
        if bytes[at] == 1 {
            at += 1;
            continue;
        }
        let len = usize::from(*bytes.get(at + 1).ok_or(PacketError::Malformed)?);
        let is_route = [131, 137].contains(&bytes[at]);
        if len < 2 + usize::from(is_route) || at + len > bytes.len() {
            return Err(PacketError::Malformed);
        }
        if is_route && usize::from(bytes[at + 2]) <= len {
            return Err(PacketError::SourceRoute);
        }
        at += len;
    }
    Ok(())
}

/// RFC 8200: the header, and a payload of the announced length that begins with a chain of extension headers.
fn expected_v6(bytes: &[u8]) -> Result<Expected, PacketError> {
    let header = Ipv6HeaderSlice::from_slice(bytes).map_err(|_| PacketError::TooShort)?;
    let payload = bytes[40..].get(..usize::from(header.payload_length())).ok_or(PacketError::Malformed)?;
    let chain = chain(header.next_header().0, payload, 0)?;
    Ok(Expected {
        src: header.source_addr().into(),
        dst: header.destination_addr().into(),
        header_len: 40 + chain.len,
        total_len: 40 + payload.len(),
        protocol: chain.protocol,
        fragment: chain.fragment,
        dont_fragment: true,
        port: None,
    })
}

/// The rest of a chain of extension headers.
struct Chain {
    len: usize,
    protocol: u8,
    fragment: Fragment,
}

/// RFC 8200, sections 4.1 to 4.6, RFC 4302 and RFC 5095, one header after the other.
fn chain(kind: u8, bytes: &[u8], before: usize) -> Result<Chain, PacketError> {
    let words = |unit: usize, more: usize| bytes.get(1).map(|&count| (usize::from(count) + more) * unit);
    let announced = match kind {
        0 | 43 | 60 | 135 | 139 | 140 => words(8, 1),
        44 => Some(8),
        51 => words(4, 2),
        _ => return Ok(Chain { len: 0, protocol: kind, fragment: Fragment::Whole }),
    };
    let len = announced.filter(|len| *len <= bytes.len()).ok_or(PacketError::Malformed)?;
    if before == 8 {
        return Err(PacketError::Malformed);
    }
    let (header, rest) = bytes.split_at(len);
    let offset = usize::from(u16::from_be_bytes([header[2], header[3]]) >> 3);
    match kind {
        0 if before > 0 => return Err(PacketError::Malformed),
        43 if header[3] > 0 => return Err(PacketError::SourceRoute),
        44 if offset > 0 => return Ok(Chain { len, protocol: header[0], fragment: Fragment::Later }),
        _ => {}
    }
    let behind = chain(header[0], rest, before + 1)?;
    let fragment = if kind == 44 && behind.fragment == Fragment::Whole { Fragment::First } else { behind.fragment };
    Ok(Chain { len: len + behind.len, fragment, ..behind })
}

fn check_fields(packet: &Packet<'_>, expected: &Expected, bytes: &[u8]) {
    assert_eq!(packet.bytes(), bytes);
    assert_eq!((packet.src(), packet.dst()), (expected.src, expected.dst));
    assert_eq!((packet.header_len(), packet.total_len()), (expected.header_len, expected.total_len));
    assert_eq!(packet.protocol(), expected.protocol);
    assert_eq!(packet.fragment(), expected.fragment);
    assert_eq!(packet.is_fragment(), expected.fragment != Fragment::Whole);
    assert_eq!(packet.must_not_fragment(), expected.dont_fragment);
    assert_eq!(packet.destination_port(), expected.port);
    assert_eq!(packet.is_v4(), expected.src.is_ipv4());
    for address in [packet.src(), packet.dst()] {
        assert_eq!(is_unicast(address), is_expected_unicast(address));
    }
}

fn is_expected_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            !(first == 0 || address.is_loopback() || address.is_multicast() || first >= 240)
        }
        IpAddr::V6(address) => {
            let low = address.to_bits() >> 32;
            !(low == 0 || low == 0xffff || address.is_multicast() || address.is_unicast_link_local())
        }
    }
}

fn check_replies(packet: &Packet<'_>, expected: &Expected, mtu: u16) {
    let (own, other) = if packet.is_v4() { (ROUTER4, ROUTER6) } else { (ROUTER6, ROUTER4) };
    assert_eq!((source(Some(own), packet), source(Some(other), packet)), (own, expected.dst));
    assert_eq!(source(None, packet), expected.dst);
    let built = |reply: Option<reply::Reply<'_>>| reply.map(|reply| reply.packet().expect("it fits"));
    let too_big = |from| built(reply::too_big(packet, mtu, from));
    let rejection = |from| built(reply::rejection(packet, from));
    assert_eq!(too_big(other), None);

    let mtu_field = [[0, 0], mtu.to_be_bytes()].concat();
    let (too_big_type, prohibited_type) = if packet.is_v4() { ([3, 4], [3, 13]) } else { ([2, 0], [1, 1]) };
    for from in [own, expected.dst] {
        let is_about_length = !packet.is_v4();
        check_error(packet, expected, from, too_big(from), too_big_type, &mtu_field, is_about_length);
        if expected.protocol == TCP {
            check_reset(packet, expected, rejection(from));
        } else {
            assert_eq!(rejection(other), None);
            check_error(packet, expected, from, rejection(from), prohibited_type, &[0; 4], false);
        }
    }
}

/// Checks a reply's checksums, addresses and length, and returns its payload.
fn carried(reply: &[u8], from: IpAddr, to: IpAddr, protocol: u8) -> &[u8] {
    let sent = Packet::parse(reply).expect("a packet");
    assert_eq!((sent.src(), sent.dst(), sent.protocol()), (from, to, protocol));
    let header_len = if from.is_ipv4() { 20 } else { 40 };
    assert_eq!((sent.header_len(), sent.total_len()), (header_len, reply.len()));
    let (header, payload) = reply.split_at(header_len);
    if from.is_ipv4() {
        assert!(verifies(&[header]), "the header's checksum");
    }
    let len = u16::try_from(payload.len()).expect("short").to_be_bytes();
    let addresses = if from.is_ipv4() { &header[12..20] } else { &header[8..40] };
    let right = match protocol {
        ICMP => verifies(&[payload]),
        _ => verifies(&[addresses, &[0, protocol], &len, payload]),
    };
    assert!(right, "the payload's checksum");
    payload
}

/// RFC 792, RFC 1122 section 3.2.2, RFC 1191 section 4; RFC 4443 sections 2.4, 3.1 and 3.2.
fn check_error(
    packet: &Packet<'_>,
    expected: &Expected,
    from: IpAddr,
    message: Option<Vec<u8>>,
    kind: [u8; 2],
    field: &[u8],
    may_be_about_multicast: bool,
) {
    let whole = &packet.bytes()[..expected.total_len];
    let payload = &whole[expected.header_len..];
    let is_error = match expected.protocol {
        ICMP => !matches!(payload.first(), Some(0 | 8 | 13 | 14 | 17 | 18)),
        ICMPV6 => !matches!(payload.first(), Some(128..=136 | 138..)),
        _ => false,
    };
    let is_for_many = match expected.dst {
        IpAddr::V4(dst) => dst.octets()[0] >= 224,
        IpAddr::V6(dst) => dst.is_multicast() && !may_be_about_multicast,
    };
    let is_sent = is_expected_unicast(expected.src)
        && is_expected_unicast(from)
        && expected.fragment != Fragment::Later
        && !is_error
        && !is_for_many;
    assert_eq!(message.is_some(), is_sent);
    let Some(message) = message else { return };
    let icmp = carried(&message, from, expected.src, if packet.is_v4() { ICMP } else { ICMPV6 });
    assert_eq!((&icmp[..2], &icmp[4..8]), (kind.as_slice(), field));
    let quoted = if packet.is_v4() { expected.header_len + 8 } else { 1280 - 48 };
    assert_eq!(icmp[8..], whole[..quoted.min(whole.len())]);
}

/// RFC 9293, section 3.10.7.1.
fn check_reset(packet: &Packet<'_>, expected: &Expected, reply: Option<Vec<u8>>) {
    let segment = &packet.bytes()[expected.header_len..expected.total_len];
    let offset = segment.get(12).map_or(0, |byte| usize::from(byte >> 4) * 4);
    let flags = segment.get(13).copied().unwrap_or(0);
    let is_sent = expected.protocol == TCP
        && expected.fragment != Fragment::Later
        && (20..=segment.len()).contains(&offset)
        && flags & 0x04 == 0
        && is_expected_unicast(expected.src)
        && is_expected_unicast(expected.dst);
    assert_eq!(reply.is_some(), is_sent);
    let Some(reply) = reply else { return };
    let tcp = carried(&reply, expected.dst, expected.src, TCP);
    let word = |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    assert_eq!((tcp.len(), &tcp[..2], &tcp[2..4]), (20, &segment[2..4], &segment[..2]));
    assert_eq!((tcp[12], &tcp[14..16], &tcp[18..]), (0x50, [0; 2].as_slice(), [0; 2].as_slice()));
    if flags & 0x10 != 0 {
        assert_eq!((tcp[13], word(tcp, 4), word(tcp, 8)), (0x04, word(segment, 8), 0));
    } else {
        let len = segment.len() - offset + usize::from(flags & 0x01) + usize::from(flags >> 1 & 0x01);
        let behind = word(segment, 4).wrapping_add(u32::try_from(len).expect("short"));
        assert_eq!((tcp[13], word(tcp, 4), word(tcp, 8)), (0x14, 0, behind));
    }
}
