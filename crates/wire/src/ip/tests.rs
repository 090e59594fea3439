//! Tests of checked views of IP packets.

use super::v6::MAX_EXTENSION_HEADERS;
use super::*;
use etherparse::PacketBuilder;
use proptest::prelude::*;

fn udp(src: [u8; 4], dst: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4(src, dst, 64).udp(1000, 2000).write(&mut packet, payload).expect("a valid packet");
    packet
}

const SRC6: [u8; 16] = [0xfd, 0, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const DST6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// An IPv6 packet with this behind its header.
fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).expect("short").to_be_bytes();
    [&[0x60, 0, 0, 0, len[0], len[1], next, 64], SRC6.as_slice(), DST6.as_slice(), payload].concat()
}

const UDP_HEADER: [u8; 8] = [0x03, 0xe8, 0x07, 0xd0, 0, 8, 0, 0];

/// An extension header of 8 bytes or more, without anything in it.
fn extension(next: u8, more_words: u8) -> Vec<u8> {
    let mut bytes = vec![next, more_words];
    bytes.resize((usize::from(more_words) + 1) * 8, 0);
    bytes
}

fn error(bytes: &[u8]) -> PacketError {
    Packet::parse(bytes).expect_err("must be refused")
}

#[test]
fn reads_ipv4() {
    let bytes = udp([192, 168, 0, 2], [10, 1, 2, 3], b"hello");
    let packet = Packet::parse(&bytes).expect("valid");
    assert_eq!(packet.src(), IpAddr::from([192, 168, 0, 2]));
    assert_eq!(packet.dst(), IpAddr::from([10, 1, 2, 3]));
    assert_eq!((packet.protocol(), packet.destination_port()), (protocol::UDP, Some(2000)));
    assert_eq!((packet.header_len(), packet.total_len(), packet.is_v4()), (20, 33, true));
}

#[test]
fn refuses_what_is_no_ipv4_packet() {
    let good = udp([1, 2, 3, 4], [5, 6, 7, 8], b"");
    let with = |index: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[index] = value;
        bytes
    };
    assert_eq!(error(&good[..19]), PacketError::TooShort);
    assert_eq!(error(&[]), PacketError::TooShort);
    assert_eq!(error(&with(0, 0x55)), PacketError::NotIp);
    assert_eq!(error(&with(0, 0x44)), PacketError::Malformed); // header of 16 bytes
    assert_eq!(error(&with(0, 0x4f)), PacketError::Malformed); // header longer than the packet
    assert_eq!(error(&with(3, 29)), PacketError::Malformed); // total length beyond the packet
    assert_eq!(error(&with(3, 19)), PacketError::Malformed); // total length below the header
    assert_eq!(error(&with(3, 23)), PacketError::Malformed); // ports beyond the end
}

#[test]
fn errors_are_about_what_they_quote() {
    let (own, other) = ([192, 168, 0, 2], [10, 1, 2, 3]);
    let to = |receiver: [u8; 4]| udp(other, receiver, b"");
    let v4 = |kind: u8, quoted: &[u8], fragment: u8| {
        let len = u8::try_from(28 + quoted.len()).expect("short");
        let header = [0x45, 0, 0, len, 0, 1, fragment, 0, 64, protocol::ICMP, 0, 0];
        [&header[..], &own, &other, &[kind, 0, 0, 0, 0, 0, 0, 0], quoted].concat()
    };
    let is_foreign = |bytes: &[u8]| {
        let packet = Packet::parse(bytes).expect("valid");
        packet.is_error_about_others(|it| it == IpAddr::from(own) || it == IpAddr::from(SRC6))
    };
    for kind in [3, 4, 5, 11, 12] {
        assert!(is_foreign(&v4(kind, &to([10, 1, 2, 4]), 0)) && !is_foreign(&v4(kind, &to(own), 0)), "{kind}");
        assert!(is_foreign(&v4(kind, &to(own)[..19], 0)), "too short to tell");
        assert!(is_foreign(&v4(kind, &[], 0x20)), "the first fragment has nothing of it");
    }
    for kind in [0, 8, 13] {
        assert!(!is_foreign(&v4(kind, &to([10, 1, 2, 4]), 0)), "{kind}: no error");
    }
    let mut later = v4(3, &to([10, 1, 2, 4]), 0);
    later[7] = 1;
    assert!(!is_foreign(&later));
    let quoted = |receiver: [u8; 16]| [&[0x60, 0, 0, 0, 0, 0, 17, 64], DST6.as_slice(), &receiver].concat();
    let v6 = |kind: u8, quoted: &[u8]| ipv6(protocol::ICMPV6, &[&[kind, 0, 0, 0, 0, 0, 0, 0], quoted].concat());
    for kind in [1, 2, 3, 4, 127] {
        assert!(is_foreign(&v6(kind, &quoted(DST6))) && !is_foreign(&v6(kind, &quoted(SRC6))), "{kind}");
        assert!(is_foreign(&v6(kind, &quoted(SRC6)[..39])), "too short to tell");
    }
    assert!(!is_foreign(&v6(128, &quoted(DST6))) && !is_foreign(&udp(own, other, b"")));
}

#[test]
fn reads_ipv6() {
    let bytes = [ipv6(protocol::UDP, &UDP_HEADER), vec![7; 3]].concat();
    let packet = Packet::parse(&bytes).expect("valid");
    assert_eq!((packet.src(), packet.dst()), (IpAddr::from(SRC6), IpAddr::from(DST6)));
    assert_eq!((packet.protocol(), packet.destination_port()), (protocol::UDP, Some(2000)));
    assert_eq!((packet.header_len(), packet.total_len(), packet.is_v4()), (40, 48, false));
    assert!(packet.must_not_fragment() && packet.fragment() == Fragment::Whole);
}

#[test]
fn refuses_what_is_no_ipv6_packet() {
    assert_eq!(error(&ipv6(59, &[])[..39]), PacketError::TooShort);
    assert_eq!(error(&[0x60; 19]), PacketError::TooShort);
    assert_eq!(error(&ipv6(59, &[1])[..40]), PacketError::Malformed);
    assert!(Packet::parse(&ipv6(59, &[])).is_ok());
    assert_eq!(error(&ipv6(protocol::UDP, &[0; 3])), PacketError::Malformed); // ports beyond the end
}

#[test]
fn extension_headers_hide_nothing() {
    let options = |next| extension(next, 1);
    let chain = [
        extension(protocol::DESTINATION_OPTIONS, 0),
        options(protocol::ROUTING),
        extension(protocol::AUTHENTICATION, 0),
        extension(protocol::UDP, 2)[..16].to_vec(),
        UDP_HEADER.to_vec(),
    ]
    .concat();
    let bytes = ipv6(protocol::HOP_BY_HOP, &chain);
    let packet = Packet::parse(&bytes).expect("valid");
    assert_eq!((packet.protocol(), packet.destination_port()), (protocol::UDP, Some(2000)));
    assert_eq!(packet.header_len(), 40 + 8 + 16 + 8 + 16);
}

#[test]
fn chains_that_do_not_end_are_refused() {
    let many = |count: usize| {
        let mut chain = extension(protocol::DESTINATION_OPTIONS, 0).repeat(count - 1);
        chain.extend(extension(59, 0));
        ipv6(protocol::DESTINATION_OPTIONS, &chain)
    };
    assert!(Packet::parse(&many(MAX_EXTENSION_HEADERS)).is_ok());
    assert_eq!(error(&many(MAX_EXTENSION_HEADERS + 1)), PacketError::Malformed);
    assert_eq!(error(&ipv6(protocol::DESTINATION_OPTIONS, &[])), PacketError::Malformed);
    assert_eq!(error(&ipv6(protocol::DESTINATION_OPTIONS, &extension(59, 1)[..15])), PacketError::Malformed);
    let late_hop_by_hop = [extension(protocol::HOP_BY_HOP, 0), extension(59, 0)].concat();
    assert_eq!(error(&ipv6(protocol::DESTINATION_OPTIONS, &late_hop_by_hop)), PacketError::Malformed);
}

#[test]
fn routing_headers_with_something_left_are_refused() {
    let mut routing = extension(protocol::UDP, 0);
    routing.extend(UDP_HEADER);
    assert!(Packet::parse(&ipv6(protocol::ROUTING, &routing)).is_ok());
    routing[3] = 1;
    assert_eq!(error(&ipv6(protocol::ROUTING, &routing)), PacketError::SourceRoute);
}

fn with_options(options: &[u8]) -> Vec<u8> {
    let mut bytes = udp([1, 2, 3, 4], [5, 6, 7, 8], b"");
    let mut options = options.to_vec();
    options.resize(options.len().next_multiple_of(4), 0);
    bytes[0] += u8::try_from(options.len() / 4).expect("short");
    bytes[3] += u8::try_from(options.len()).expect("short");
    bytes.splice(20..20, options);
    bytes
}

#[test]
fn source_routes_of_ipv4_with_something_left_are_refused() {
    let route = |kind, pointer| [1, kind, 11, pointer, 9, 9, 9, 9, 8, 8, 8, 8];
    for kind in [131, 137] {
        for pointer in [0, 4, 8, 11] {
            assert_eq!(error(&with_options(&route(kind, pointer))), PacketError::SourceRoute, "{kind} {pointer}");
        }
        assert!(Packet::parse(&with_options(&route(kind, 12))).is_ok(), "it is used up");
        assert_eq!(error(&with_options(&[kind, 2])), PacketError::Malformed);
        let behind_another = [&[148, 4, 0, 0][..], &route(kind, 4)].concat();
        assert_eq!(error(&with_options(&behind_another)), PacketError::SourceRoute);
        let behind_the_end = [&[0][..], &route(kind, 4)].concat();
        assert!(Packet::parse(&with_options(&behind_the_end)).is_ok());
    }
    // Recorded, and nothing more.
    assert!(Packet::parse(&with_options(&route(7, 4))).is_ok());
}

#[test]
fn options_whose_lengths_make_no_sense_are_refused() {
    for options in [&[7, 0, 4, 0][..], &[7, 1, 4, 0], &[7, 5, 4, 0], &[1, 1, 1, 7]] {
        assert_eq!(error(&with_options(options)), PacketError::Malformed, "{options:?}");
    }
    assert_eq!(Packet::parse(&with_options(&[7, 4, 4, 0])).map(|packet| packet.destination_port()), Ok(Some(2000)));
}

#[test]
fn first_fragments_show_their_ports_and_later_ones_need_not() {
    let v6 = |field: u16, payload: &[u8]| {
        let [high, low] = field.to_be_bytes();
        ipv6(protocol::FRAGMENT, &[&[protocol::UDP, 0, high, low, 0, 0, 0, 1], payload].concat())
    };
    let v4 = |field: u16, payload: &[u8]| {
        let mut bytes = udp([1, 2, 3, 4], [5, 6, 7, 8], b"")[..20].to_vec();
        bytes[2..4].copy_from_slice(&u16::try_from(20 + payload.len()).expect("short").to_be_bytes());
        bytes[6..8].copy_from_slice(&field.to_be_bytes());
        [&bytes, payload].concat()
    };
    let seen = |bytes: &[u8]| Packet::parse(bytes).map(|it| (it.fragment(), it.destination_port()));
    let (first, later) = (Ok((Fragment::First, Some(2000))), Ok((Fragment::Later, None)));
    assert_eq!(seen(&v6(1, &UDP_HEADER)), first);
    assert_eq!(seen(&v6(0, &UDP_HEADER)), first, "an atomic fragment");
    assert_eq!(seen(&v6(1, &UDP_HEADER[..3])), Err(PacketError::Malformed));
    assert_eq!(seen(&v6(8, &[1])), later);
    assert_eq!(seen(&v4(0x2000, &UDP_HEADER)), first);
    assert_eq!(seen(&v4(0x2000, &UDP_HEADER[..3])), Err(PacketError::Malformed));
    assert_eq!(seen(&v4(1, &[1])), later);
}

#[test]
fn unicast_addresses() {
    for (address, expected) in [
        ("0.0.0.0", false),
        ("0.1.2.3", false),
        ("10.0.0.1", true),
        ("127.0.0.1", false),
        ("223.255.255.255", true),
        ("224.0.0.1", false),
        ("255.255.255.255", false),
        ("::", false),
        ("::1", false),
        ("::10.0.0.1", false),
        ("::ffff:10.0.0.1", false),
        ("64:ff9b::10.0.0.1", true),
        ("2001:db8::1", true),
        ("fd00:77::1", true),
        ("fe7f::1", true),
        ("fe80::1", false),
        ("febf::1", false),
        ("fec0::1", true),
        ("ff02::1", false),
    ] {
        assert_eq!(is_unicast(address.parse().expect("an address")), expected, "{address}");
    }
}

proptest! {
    /// Everything that the oracle calls an IP packet is one here, with the same addresses.
    #[test]
    fn agrees_with_etherparse(
        (src, dst) in any::<([u8; 4], [u8; 4])>(),
        (src6, dst6) in any::<([u8; 16], [u8; 16])>(),
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let bytes = udp(src, dst, &payload);
        let packet = Packet::parse(&bytes).expect("the builder makes valid packets");
        let oracle = etherparse::Ipv4Slice::from_slice(&bytes).expect("the builder makes valid packets");
        prop_assert_eq!(packet.src(), IpAddr::V4(oracle.header().source_addr()));
        prop_assert_eq!(packet.dst(), IpAddr::V4(oracle.header().destination_addr()));

        let mut bytes = Vec::new();
        PacketBuilder::ipv6(src6, dst6, 64).tcp(1, 2, 3, 4).write(&mut bytes, &payload).expect("a valid packet");
        let packet = Packet::parse(&bytes).expect("the builder makes valid packets");
        prop_assert_eq!((packet.src(), packet.dst()), (IpAddr::from(src6), IpAddr::from(dst6)));
        prop_assert_eq!((packet.protocol(), packet.destination_port()), (protocol::TCP, Some(2)));
    }

    /// What passes here has headers that the oracle accepts, too.
    #[test]
    fn accepts_nothing_that_etherparse_refuses(mut bytes in prop::collection::vec(any::<u8>(), 0..120), first: u8) {
        if let Some(byte) = bytes.first_mut() {
            *byte = if first & 0x10 == 0 { 0x40 } else { 0x60 } | (first & 0x0f);
        }
        if let Some(next) = bytes.get_mut(6) {
            *next &= 0x3f; // half of the extension headers are below
        }
        if let Ok(packet) = Packet::parse(&bytes) {
            prop_assert!(packet.header_len() <= packet.total_len() && packet.total_len() <= bytes.len());
            if packet.is_v4() {
                prop_assert!(etherparse::Ipv4HeaderSlice::from_slice(&bytes).is_ok());
            } else {
                prop_assert!(etherparse::Ipv6Slice::from_slice(&bytes).is_ok());
            }
        }
    }
}

/// The flow that a packet belongs to: both ports, or what stands for them.
fn ports(bytes: &[u8]) -> Option<(u16, u16)> {
    match Packet::parse(bytes).expect("valid").flow_part() {
        FlowPart::Flow(ports) => Some((ports.first, ports.second)),
        FlowPart::Error(_) | FlowPart::Fragment => None,
    }
}

fn icmp4(message: &[u8]) -> Vec<u8> {
    let len = u8::try_from(20 + message.len()).expect("short");
    let header = [0x45, 0, 0, len, 0, 1, 0, 0, 64, protocol::ICMP, 0, 0];
    [&header[..], &[192, 168, 0, 2], &[10, 1, 2, 3], message].concat()
}

#[test]
fn flows_have_ports_or_identifiers() {
    let mut first = udp([192, 168, 0, 2], [10, 1, 2, 3], b"");
    assert_eq!(ports(&first), Some((1000, 2000)));
    first[6] = 0x20;
    assert_eq!(ports(&first), Some((1000, 2000)), "the first fragment has them");
    first[7] = 1;
    assert_eq!(Packet::parse(&first).expect("valid").flow_part(), FlowPart::Fragment);
    let query = |kind: u8| [kind, 0, 0, 0, 0x12, 0x34, 0, 1];
    for (request, reply) in [(8, 0), (13, 14), (15, 16), (17, 18), (42, 43)] {
        let expected = Some((0x1234, request.into()));
        assert_eq!([ports(&icmp4(&query(request))), ports(&icmp4(&query(reply)))], [expected; 2], "{request}");
    }
    for (request, reply) in [(128, 129), (160, 161)] {
        let expected = Some((0x1234, request.into()));
        let both = [request, reply].map(|kind| ports(&ipv6(protocol::ICMPV6, &query(kind))));
        assert_eq!(both, [expected; 2], "{request}");
    }
    let roles = |kind| match Packet::parse(&icmp4(&query(kind))).expect("valid").flow_part() {
        FlowPart::Flow(ports) => Some(ports.roles),
        FlowPart::Error(_) | FlowPart::Fragment => None,
    };
    assert_eq!([8, 0, 9].map(roles), [Roles::Asks, Roles::Answers, Roles::Alike].map(Some));
    assert_eq!(ports(&icmp4(&query(9))), Some((0, 9)), "a router advertisement");
    assert_eq!(ports(&icmp4(&[8])), Some((0, 8)), "cut off");
    assert_eq!(ports(&icmp4(&[])), Some((0, 8)), "as if it were zeros");
    assert_eq!(ports(&ipv6(47, &[1, 2, 3, 4])), Some((0, 0)), "no ports");
}

#[test]
fn errors_belong_to_what_they_quote() {
    let quoted = |message: &[u8]| match Packet::parse(&icmp4(message)).expect("valid").flow_part() {
        FlowPart::Error(quoted) => quoted.map(|it| (it.src, it.dst, it.protocol, it.ports.first, it.ports.second)),
        part => panic!("{part:?}"),
    };
    let about = |bytes: &[u8]| [&[3, 1, 0, 0, 0, 0, 0, 0], bytes].concat();
    let datagram = udp([10, 1, 2, 3], [192, 168, 0, 2], b"hello");
    let ends = (IpAddr::from([10, 1, 2, 3]), IpAddr::from([192, 168, 0, 2]), protocol::UDP, 1000, 2000);
    assert_eq!(quoted(&about(&datagram)), Some(ends));
    assert_eq!(quoted(&about(&datagram[..28])), Some(ends), "eight bytes are enough");
    for wrong in [&datagram[..27], &datagram[..19], &[][..], &ipv6(17, &UDP_HEADER)] {
        assert_eq!(quoted(&about(wrong)), None, "{wrong:?}");
    }
    let later = [&datagram[..7], &[9], &datagram[8..]].concat();
    assert_eq!(quoted(&about(&later)), None, "a later fragment");
    assert_eq!(quoted(&about(&icmp4(&about(&datagram)))), None, "an error about an error");
    let echo = quoted(&about(&icmp4(&[0, 0, 0, 0, 0, 7, 0, 1]))).map(|it| (it.2, it.3, it.4));
    assert_eq!(echo, Some((protocol::ICMP, 7, 8)));
}

#[test]
fn errors_of_icmpv6_quote_behind_extension_headers() {
    let quoted = |bytes: &[u8]| {
        let error = ipv6(protocol::ICMPV6, &[&[1, 0, 0, 0, 0, 0, 0, 0], bytes].concat());
        match Packet::parse(&error).expect("valid").flow_part() {
            FlowPart::Error(quoted) => quoted.map(|it| (it.src, it.dst, it.protocol, it.ports.first, it.ports.second)),
            part => panic!("{part:?}"),
        }
    };
    let ends = Some((IpAddr::from(SRC6), IpAddr::from(DST6), protocol::UDP, 1000, 2000));
    assert_eq!(quoted(&ipv6(protocol::UDP, &UDP_HEADER)), ends);
    let extended = ipv6(protocol::HOP_BY_HOP, &[extension(protocol::UDP, 0), UDP_HEADER.to_vec()].concat());
    assert_eq!(quoted(&extended), ends);
    assert_eq!(quoted(&extended[..extended.len() - 1]), None, "cut off in the ports' header");
    let fragment = [vec![protocol::UDP, 0, 0, 8, 0, 0, 0, 1], UDP_HEADER.to_vec()].concat();
    assert_eq!(quoted(&ipv6(protocol::FRAGMENT, &fragment)), None, "a later fragment");
}

#[test]
fn flags_of_tcp() {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(1, 2, 3, 4);
    builder.syn().write(&mut bytes, b"").expect("valid");
    let flags = |bytes: &[u8]| Packet::parse(bytes).expect("valid").tcp_flags();
    assert!(flags(&bytes).is_some_and(|flags| flags.opens() && !flags.is_fin() && !flags.is_reset()));
    bytes[33] = 0x12;
    assert!(flags(&bytes).is_some_and(|flags| !flags.opens()), "the answer to the first packet");
    bytes[33] = 0x05;
    assert!(flags(&bytes).is_some_and(|flags| flags.is_fin() && flags.is_reset()));
    bytes[3] = 30;
    assert_eq!(flags(&bytes), None, "cut off");
    assert_eq!(flags(&udp([10, 0, 0, 1], [10, 0, 0, 2], &[0; 20])), None);
}
