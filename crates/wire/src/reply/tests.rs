use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice};
use etherparse::{IpNumber, icmpv6};
use proptest::prelude::*;

use super::*;

const V4: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(192, 168, 0, 2), Ipv4Addr::new(192, 168, 1, 2));
const V6: (Ipv6Addr, Ipv6Addr) =
    (Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 2), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
const ROUTER4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
const ROUTER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1));

fn too_big(packet: &Packet<'_>, mtu: u16, from: IpAddr) -> Option<Vec<u8>> {
    super::too_big(packet, mtu, from).map(|answer| answer.packet().expect("it fits"))
}

fn rejection(packet: &Packet<'_>, from: IpAddr) -> Option<Vec<u8>> {
    super::rejection(packet, from).map(|answer| answer.packet().expect("it fits"))
}

fn router(is_v6: bool) -> IpAddr {
    if is_v6 { ROUTER6 } else { ROUTER4 }
}

fn builder(is_v6: bool) -> PacketBuilderStep<etherparse::IpHeaders> {
    if is_v6 {
        PacketBuilder::ipv6(V6.0.octets(), V6.1.octets(), 64)
    } else {
        PacketBuilder::ipv4(V4.0.octets(), V4.1.octets(), 64)
    }
}

fn udp(is_v6: bool, payload_len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    builder(is_v6).udp(1, 2).write(&mut bytes, &vec![7; payload_len]).expect("a valid packet");
    bytes
}

fn parse(bytes: &[u8]) -> Packet<'_> {
    Packet::parse(bytes).expect("a valid packet")
}

/// Slices a reply, and checks its checksums with the oracle and its addresses.
fn checked(reply: &[u8], from: IpAddr, to: IpAddr) -> SlicedPacket<'_> {
    let sliced = SlicedPacket::from_ip(reply).expect("an IP packet");
    match (&sliced.net, sliced.transport.as_ref().expect("a payload")) {
        (Some(NetSlice::Ipv4(ip)), transport) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!((IpAddr::from(header.source), IpAddr::from(header.destination)), (from, to));
            assert_eq!(usize::from(header.total_len), reply.len());
            match transport {
                TransportSlice::Icmpv4(icmp) => {
                    assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
                }
                TransportSlice::Tcp(tcp) => {
                    assert_eq!(
                        tcp.checksum(),
                        tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).expect("fits")
                    );
                }
                other => panic!("{other:?}"),
            }
        }
        (Some(NetSlice::Ipv6(ip)), transport) => {
            let header = ip.header().to_header();
            assert_eq!((IpAddr::from(header.source), IpAddr::from(header.destination)), (from, to));
            assert_eq!(usize::from(header.payload_length) + 40, reply.len());
            match transport {
                TransportSlice::Icmpv6(icmp) => {
                    assert!(icmp.is_checksum_valid(header.source, header.destination));
                }
                TransportSlice::Tcp(tcp) => {
                    assert_eq!(
                        tcp.checksum(),
                        tcp.to_header().calc_checksum_ipv6(&header, tcp.payload()).expect("fits")
                    );
                }
                other => panic!("{other:?}"),
            }
        }
        other => panic!("{other:?}"),
    }
    sliced
}

fn icmp4<'a>(sliced: &SlicedPacket<'a>) -> (Icmpv4Type, &'a [u8]) {
    let Some(TransportSlice::Icmpv4(icmp)) = &sliced.transport else { panic!("no ICMP") };
    (icmp.icmp_type(), icmp.payload())
}

fn icmp6<'a>(sliced: &SlicedPacket<'a>) -> (Icmpv6Type, &'a [u8]) {
    let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else { panic!("no ICMPv6") };
    (icmp.icmp_type(), icmp.payload())
}

#[test]
fn errors_of_ipv4_are_what_the_rfcs_say() {
    let original = udp(false, 1472);
    let needed = too_big(&parse(&original), 1472, ROUTER4).expect("an error may be reported");
    let expected =
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1472 });
    assert_eq!(icmp4(&checked(&needed, ROUTER4, V4.0.into())), (expected, &original[..28]));
    let denied = rejection(&parse(&original), ROUTER4).expect("an error may be reported");
    let expected = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FilterProhibited);
    assert_eq!(icmp4(&checked(&denied, ROUTER4, V4.0.into())), (expected, &original[..28]));
}

#[test]
fn errors_of_ipv6_are_what_the_rfcs_say() {
    for (payload_len, quoted_len) in [(10, 58), (1184, 1232), (1185, 1232), (1500, 1232)] {
        let original = udp(true, payload_len);
        let big = too_big(&parse(&original), 1400, ROUTER6).expect("an error may be reported");
        assert!(big.len() <= 1280);
        let expected = Icmpv6Type::PacketTooBig { mtu: 1400 };
        assert_eq!(icmp6(&checked(&big, ROUTER6, V6.0.into())), (expected, &original[..quoted_len]));
        let denied = rejection(&parse(&original), ROUTER6).expect("an error may be reported");
        let expected = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Prohibited);
        assert_eq!(icmp6(&checked(&denied, ROUTER6, V6.0.into())), (expected, &original[..quoted_len]));
    }
}

/// Asserts that no reply is sent about this packet.
#[track_caller]
fn is_not_reported(bytes: &[u8], from: IpAddr) {
    assert_eq!(too_big(&parse(bytes), 1300, from), None);
    assert_eq!(rejection(&parse(bytes), from), None);
}

#[test]
fn no_error_about_errors() {
    for is_v6 in [false, true] {
        let about = rejection(&parse(&udp(is_v6, 100)), router(is_v6)).expect("fine");
        is_not_reported(&about, router(is_v6));
        let header_len = if is_v6 { 40 } else { 20 };
        let mut without_type = about[..header_len].to_vec();
        without_type[if is_v6 { 5 } else { 3 }] = if is_v6 { 0 } else { 20 };
        without_type.push(if is_v6 { 128 } else { 8 }); // behind the packet's end
        is_not_reported(&without_type, router(is_v6));
        let mut redirect = about;
        redirect[header_len] = if is_v6 { 137 } else { 5 };
        is_not_reported(&redirect, router(is_v6));
        let mut question = redirect;
        question[header_len] = if is_v6 { 128 } else { 8 };
        assert!(rejection(&parse(&question), router(is_v6)).is_some());
    }
}

#[test]
fn no_error_about_later_fragments() {
    let mut bytes = udp(false, 100);
    bytes[6..8].copy_from_slice(&[0x20, 0]);
    assert!(rejection(&parse(&bytes), ROUTER4).is_some(), "the first one");
    bytes[6..8].copy_from_slice(&[0, 1]);
    is_not_reported(&bytes, ROUTER4);
    let fragment = |offset| {
        let mut bytes = udp(true, 100);
        bytes.splice(40..40, [bytes[6], 0, 0, offset, 0, 0, 0, 1]);
        (bytes[5], bytes[6]) = (bytes[5] + 8, protocol::FRAGMENT);
        bytes
    };
    assert!(rejection(&parse(&fragment(1)), ROUTER6).is_some(), "the first one");
    is_not_reported(&fragment(8), ROUTER6);
}

#[test]
fn no_error_to_or_about_other_than_unicast() {
    for src in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
        let mut bytes = udp(false, 10);
        bytes[12..16].copy_from_slice(&src.parse::<Ipv4Addr>().expect("an address").octets());
        is_not_reported(&bytes, ROUTER4);
    }
    for src in ["::", "::1", "ff02::1", "fe80::1"] {
        let mut bytes = udp(true, 10);
        bytes[8..24].copy_from_slice(&src.parse::<Ipv6Addr>().expect("an address").octets());
        is_not_reported(&bytes, ROUTER6);
    }
    is_not_reported(&udp(false, 10), ROUTER6);
    is_not_reported(&udp(true, 10), ROUTER4);
    is_not_reported(&udp(true, 10), "fe80::1".parse().expect("an address"));
}

#[test]
fn errors_about_multicasts_are_about_the_length_of_ipv6_packets_only() {
    for dst in ["224.0.0.1", "239.1.2.3", "255.255.255.255"] {
        let mut bytes = udp(false, 10);
        bytes[16..20].copy_from_slice(&dst.parse::<Ipv4Addr>().expect("an address").octets());
        is_not_reported(&bytes, ROUTER4);
    }
    let mut bytes = udp(true, 10);
    bytes[24..40].copy_from_slice(&"ff0e::1".parse::<Ipv6Addr>().expect("an address").octets());
    let packet = parse(&bytes);
    assert_eq!(rejection(&packet, ROUTER6), None);
    assert!(too_big(&packet, 1300, ROUTER6).is_some());
    assert_eq!(too_big(&packet, 1300, packet.dst()), None, "a message doesn't come from a group");
}

#[test]
fn replies_come_from_the_router_or_from_the_destination() {
    let (v4, v6) = (udp(false, 0), udp(true, 0));
    assert_eq!(source(Some(ROUTER4), &parse(&v4)), ROUTER4);
    assert_eq!(source(Some(ROUTER6), &parse(&v4)), IpAddr::from(V4.1));
    assert_eq!(source(Some(ROUTER4), &parse(&v6)), IpAddr::from(V6.1));
    assert_eq!(source(Some(ROUTER6), &parse(&v6)), ROUTER6);
    assert_eq!(source(Some(Ipv4Addr::UNSPECIFIED.into()), &parse(&v4)), IpAddr::from(V4.1));
    assert_eq!(source(None, &parse(&v6)), IpAddr::from(V6.1));
    assert_eq!(source([ROUTER4, ROUTER6, "fd00::9".parse().expect("an address")], &parse(&v6)), ROUTER6);
}

#[test]
fn rejection_of_a_segment_is_a_reset() {
    for is_v6 in [false, true] {
        let mut bytes = Vec::new();
        builder(is_v6).tcp(1, 2, 3, 4).syn().write(&mut bytes, &[]).expect("a valid packet");
        let reset = rejection(&parse(&bytes), router(is_v6)).expect("a reset");
        let sliced = checked(
            &reset,
            if is_v6 { V6.1.into() } else { V4.1.into() },
            if is_v6 { V6.0.into() } else { V4.0.into() },
        );
        assert!(matches!(sliced.transport, Some(TransportSlice::Tcp(tcp)) if tcp.rst()));
        bytes[if is_v6 { 53 } else { 33 }] |= 0x04;
        assert_eq!(rejection(&parse(&bytes), router(is_v6)), None, "nothing about a reset, not an error either");
    }
}

#[test]
fn half_a_tcp_header_has_no_reply() {
    for (len, offset) in [(19, 0x50), (20, 0x40), (20, 0x60)] {
        let mut bytes = Vec::new();
        let mut segment = [0; 20];
        segment[12] = offset;
        builder(true).write(&mut bytes, IpNumber::TCP, &segment[..len]).expect("a valid packet");
        assert_eq!(rejection(&parse(&bytes), ROUTER6), None, "{len} bytes, offset {offset:#x}");
    }
}

proptest! {
    /// RFC 9293, section 3.10.7.1, with the oracle's view of both segments.
    #[test]
    fn resets_are_what_the_rfc_says(
        (is_v6, sequence, acknowledged, flags) in any::<(bool, u32, u32, u8)>(),
        options in 0usize..10,
        payload_len in prop_oneof![0usize..100, Just(60_000)],
        behind in 0usize..20,
    ) {
        let mut bytes = Vec::new();
        builder(is_v6)
            .tcp(4000, 80, sequence, 1000)
            .ack(acknowledged)
            .options_raw(&vec![1; options * 4])
            .expect("options of up to 40 bytes")
            .write(&mut bytes, &vec![7; payload_len])
            .expect("a valid packet");
        bytes[if is_v6 { 53 } else { 33 }] = flags;
        bytes.resize(bytes.len() + behind, 9);
        let packet = parse(&bytes);
        let answer = rejection(&packet, router(is_v6));
        prop_assert_eq!(answer.is_none(), flags & 0x04 != 0);
        if let Some(answer) = answer {
            let sliced = checked(&answer, packet.dst(), packet.src());
            let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP") };
            prop_assert_eq!((tcp.source_port(), tcp.destination_port(), tcp.payload().len()), (80, 4000, 0));
            prop_assert!(tcp.rst() && !tcp.syn() && !tcp.fin() && !tcp.psh() && !tcp.urg());
            prop_assert_eq!((tcp.data_offset(), tcp.window_size(), tcp.urgent_pointer()), (5, 0, 0));
            if flags & 0x10 != 0 {
                prop_assert_eq!((tcp.ack(), tcp.sequence_number()), (false, acknowledged));
            } else {
                let ends = u32::from(flags & 0x02 != 0) + u32::from(flags & 0x01 != 0);
                let expected = sequence.wrapping_add(u32::try_from(payload_len).expect("short") + ends);
                prop_assert_eq!((tcp.ack(), tcp.sequence_number(), tcp.acknowledgment_number()), (true, 0, expected));
            }
        }
    }
}
