//! IPv4 packets, and the ICMP message about one that is too long.
//!
//! Input: an MTU (2 bytes), and a packet.

use std::net::{IpAddr, Ipv4Addr};

use etherparse::Ipv4HeaderSlice;
use tuntap_plugin::wire::icmp::fragmentation_needed;
use tuntap_plugin::wire::ip::{Fragment, Packet, PacketError, is_unicast};

use super::input::Input;
use super::ones_complement::verifies;

const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ICMP: u8 = 1;

/// Reads the packet, and compares with etherparse.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let mtu = input.word();
    let bytes = input.rest();
    if bytes.len() >= 20 && bytes[0] >> 4 == 6 {
        return;
    }
    // RFC 791: a header that is whole, and a length that covers it and is there.
    let oracle = Ipv4HeaderSlice::from_slice(bytes)
        .ok()
        .filter(|header| usize::from(header.total_len()) >= header.slice().len())
        .filter(|header| usize::from(header.total_len()) <= bytes.len())
        // Whoever has ports shows them.
        .filter(|header| {
            let has_ports = [6, 17, 33, 132, 136].contains(&header.protocol().0);
            !has_ports || header.fragments_offset().value() > 0 || header.payload_len().is_ok_and(|len| len >= 4)
        });
    match (Packet::parse(bytes), oracle) {
        (Ok(packet), Some(oracle)) => {
            check_fields(&packet, &oracle, bytes);
            check_message(&packet, mtu);
        }
        (Err(error), None) => check_error(error, bytes),
        (ours, oracle) => panic!("{ours:?}, but the oracle says {oracle:?}"),
    }
}

fn check_fields(packet: &Packet<'_>, oracle: &Ipv4HeaderSlice<'_>, bytes: &[u8]) {
    assert_eq!(packet.bytes(), bytes);
    assert_eq!((packet.src(), packet.dst()), (oracle.source_addr().into(), oracle.destination_addr().into()));
    assert_eq!(packet.header_len(), oracle.slice().len());
    assert_eq!(packet.total_len(), usize::from(oracle.total_len()));
    assert_eq!(packet.protocol(), oracle.protocol().0);
    assert_eq!(packet.is_fragment(), oracle.is_fragmenting_payload());
    assert_eq!(packet.must_not_fragment(), oracle.dont_fragment());
    for address in [oracle.source_addr(), oracle.destination_addr()] {
        let first = address.octets()[0];
        let class_e = first >= 240;
        assert_eq!(
            is_unicast(address.into()),
            !(first == 0 || address.is_loopback() || address.is_multicast() || class_e)
        );
    }
}

fn check_error(error: PacketError, bytes: &[u8]) {
    let expected = match bytes {
        _ if bytes.len() < 20 => PacketError::TooShort,
        [0x40..=0x4f, ..] => PacketError::Malformed,
        _ => PacketError::NotIp,
    };
    assert_eq!(error, expected);
}

/// RFC 792, RFC 1122 section 3.2.2, RFC 1191 section 4.
fn check_message(packet: &Packet<'_>, mtu: u16) {
    let (header, payload) = packet.bytes()[..packet.total_len()].split_at(packet.header_len());
    let message = fragmentation_needed(packet, mtu, ROUTER);
    let later_fragment = packet.fragment() == Fragment::Later;
    let error = packet.protocol() == ICMP && !matches!(payload.first(), Some(0 | 8 | 13 | 14 | 17 | 18));
    assert_eq!(message.is_none(), later_fragment || error);
    let Some(message) = message else { return };

    let sent = Packet::parse(&message).expect("a packet");
    assert_eq!((sent.src(), sent.dst(), sent.protocol()), (IpAddr::V4(ROUTER), packet.src(), ICMP));
    assert_eq!((sent.header_len(), sent.total_len()), (20, message.len()));
    let (sent_header, icmp) = message.split_at(20);
    assert!(verifies(&[sent_header]) && verifies(&[icmp]), "a wrong checksum");
    assert_eq!(icmp[..2], [3, 4]);
    assert_eq!(icmp[4..8], [&[0, 0], mtu.to_be_bytes().as_slice()].concat());
    assert_eq!(icmp[8..], [header, &payload[..payload.len().min(8)]].concat());
}
