//! Messages byte by byte as the RFCs have them, there and back, and garbage.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use proptest::prelude::*;

use super::capability::{AddPath, Capabilities};
use super::claim::{self, Ambiguous, LargeCommunities, LargeCommunity};
use super::error::{ErrorCode, Violation};
use super::message::{self, Front, HEADER_LEN, Kind, MAX_LEN};
use super::notification::{self, Notification};
use super::open::Open;
use super::prefix::Nlri;
use super::refresh::Refresh;
use super::update::{Announced, Fault, Update};
use super::write::{self, Attributes};
use super::{Family, PerFamily};
use crate::holding::{ClaimTime, Holding, RouterId};

const NO_PATHS: PerFamily<bool> = PerFamily { ipv4: false, ipv6: false };
const PATHS: PerFamily<bool> = PerFamily { ipv4: true, ipv6: true };

fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(HEADER_LEN + body.len()).expect("short");
    [&[0xff; 16][..], &len.to_be_bytes(), &[kind], body].concat()
}

/// The body of the only message in a stream.
fn body(stream: &[u8]) -> &[u8] {
    match message::front(stream) {
        Ok(Front::Message { body, len, .. }) if len == stream.len() => body,
        other => panic!("{other:?}"),
    }
}

/// The body of an UPDATE.
fn update(withdrawn: &[u8], attributes: &[u8], announced: &[u8]) -> Vec<u8> {
    let len = |bytes: &[u8]| u16::try_from(bytes.len()).expect("short").to_be_bytes();
    [&len(withdrawn), withdrawn, &len(attributes), attributes, announced].concat()
}

/// ORIGIN, AS_PATH and NEXT_HOP.
const MANDATORY: [u8; 20] = [0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfc, 0x01, 0x40, 3, 4, 10, 0, 0, 1];

fn announced(update: &Update<'_>) -> Vec<(u32, String, String)> {
    update
        .announced()
        .map(|Announced { nlri, next_hop }| (nlri.path, nlri.net.to_string(), next_hop.to_string()))
        .collect()
}

fn withdrawn(update: &Update<'_>) -> Vec<(u32, String)> {
    update.withdrawn().map(|Nlri { path, net }| (path, net.to_string())).collect()
}

#[test]
fn keepalive_is_a_header() {
    let mut output = Vec::new();
    message::append_keepalive(&mut output);
    assert_eq!(output, [&[0xff; 16][..], &[0, 19, 4]].concat());
    assert_eq!(message::front(&output), Ok(Front::Message { kind: Kind::Keepalive, body: &[], len: 19 }));
    for len in 0..19 {
        assert_eq!(message::front(&output[..len]), Ok(Front::Part { needed: 19 }));
    }
}

#[test]
fn headers_that_cannot_be() {
    fn code(stream: &[u8]) -> Result<Front<'_>, (ErrorCode, Vec<u8>)> {
        message::front(stream).map_err(|violation| (violation.code, violation.data))
    }
    assert_eq!(code(b"GET / HTTP/1.1"), Err((ErrorCode::NOT_SYNCHRONIZED, vec![])));
    assert_eq!(code(&[0xff, 0xff, 0xfe]), Err((ErrorCode::NOT_SYNCHRONIZED, vec![])), "before the header is whole");
    let header = |len: u16, kind: u8| [&[0xff; 16][..], &len.to_be_bytes(), &[kind]].concat();
    for (len, kind) in [(0, 4), (18, 4), (20, 4), (4097, 2), (65535, 2), (28, 1), (22, 2), (20, 3), (22, 5)] {
        let data = u16::to_be_bytes(len).to_vec();
        assert_eq!(code(&header(len, kind)), Err((ErrorCode::BAD_MESSAGE_LENGTH, data)), "{len} {kind}");
    }
    for kind in [0, 6, 255] {
        assert_eq!(code(&header(19, kind)), Err((ErrorCode::BAD_MESSAGE_TYPE, vec![kind])));
    }
    assert_eq!(code(&header(4096, 2)), Ok(Front::Part { needed: 4096 }));
}

fn ours() -> Open {
    let both = PerFamily::new(|_| AddPath { receive: true, send: false });
    let capabilities = Capabilities {
        families: PerFamily::new(|_| true),
        route_refresh: true,
        enhanced_route_refresh: true,
        four_octet_as: Some(4_200_000_000),
        add_path: both,
    };
    Open { asn: 4_200_000_000, hold_time: 9, identifier: Ipv4Addr::new(10, 0, 0, 1), capabilities }
}

#[test]
fn open_byte_by_byte() {
    let mut output = Vec::new();
    ours().append(&mut output);
    #[rustfmt::skip]
    let expected = [
        4, 0x5b, 0xa0, 0, 9, 10, 0, 0, 1, 34, 2, 32,
        1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0, 65, 4, 0xfa, 0x56, 0xea, 0x00,
        69, 8, 0, 1, 1, 1, 0, 2, 1, 1, 70, 0,
    ];
    assert_eq!(output, message(1, &expected));
    assert_eq!(Open::decode(&expected), Ok(ours()));
}

/// What BIRD and FRR send has capabilities that aren't spoken here, one for each parameter, or lengths of RFC 9072.
#[test]
fn opens_of_others() {
    let start = [4, 0xfc, 0x00, 0, 240, 10, 0, 0, 2];
    let decode = |parameters: &[u8]| Open::decode(&[&start[..], parameters].concat());
    let open = decode(&[0]).expect("valid");
    assert_eq!((open.asn, open.hold_time, open.capabilities.four_octet_as), (64512, 240, None));
    assert_eq!(open.capabilities.families, PerFamily { ipv4: true, ipv6: false }, "who names none speaks IPv4");
    // Multiprotocol IPv6; then graceful restart, FQDN, extended messages, labelled IPv4, and route refresh.
    let others = [2, 6, 1, 4, 0, 2, 0, 1, 2, 19, 64, 2, 0x40, 120, 73, 3, 1, b'x', 0, 6, 0, 1, 4, 0, 1, 0, 4, 2, 0];
    let open = decode(&[&[29][..], &others].concat()).expect("valid");
    assert_eq!(open.capabilities.families, PerFamily { ipv4: false, ipv6: true });
    assert!(open.capabilities.route_refresh && !open.capabilities.enhanced_route_refresh);
    let extended = [255, 255, 0, 11, 2, 0, 8, 2, 0, 65, 4, 0, 1, 0, 0];
    assert_eq!(decode(&extended).map(|open| open.asn), Ok(65536));
    let way = |way| decode(&[8, 2, 6, 69, 4, 0, 2, 1, way]).map(|open| open.capabilities.add_path.ipv6);
    assert_eq!(way(2), Ok(AddPath { receive: false, send: true }));
    assert_eq!(way(3), Ok(AddPath { receive: true, send: true }));
    assert_eq!(way(4), Ok(AddPath::default()), "RFC 7911: other values are ignored");
}

#[test]
fn opens_that_cannot_be() {
    let code = |body: &[u8]| Open::decode(body).map_err(|violation| (violation.code, violation.data));
    assert_eq!(code(&[3, 1, 0, 0, 90, 1, 1, 1, 1, 0]), Err((ErrorCode::UNSUPPORTED_VERSION, vec![0, 4])));
    let bad = |code| Err((code, vec![]));
    assert_eq!(code(&[4, 0, 0, 0, 90, 1, 1, 1, 1, 0]), bad(ErrorCode::BAD_PEER_AS));
    assert_eq!(code(&[4, 1, 0, 0, 2, 1, 1, 1, 1, 0]), bad(ErrorCode::UNACCEPTABLE_HOLD_TIME));
    assert_eq!(code(&[4, 1, 0, 0, 90, 0, 0, 0, 0, 0]), bad(ErrorCode::BAD_IDENTIFIER));
    assert_eq!(code(&[4, 1, 0, 0, 90, 1, 1, 1, 1, 2, 1, 0]), bad(ErrorCode::UNSUPPORTED_PARAMETER));
    for parameters in
        [&[1][..], &[0, 0], &[3, 2, 2, 65], &[2, 2, 1], &[4, 2, 2, 65, 4], &[255, 255, 0], &[9, 255, 0, 1]]
    {
        let body = [&[4, 1, 0, 0, 90, 1, 1, 1, 1][..], parameters].concat();
        assert_eq!(code(&body), bad(ErrorCode::BAD_OPEN), "{parameters:?}");
    }
}

#[test]
fn notification_says_why_in_one_line() {
    let say = |body: &[u8]| Notification::decode(body).expect("long enough").to_string();
    assert_eq!(say(&[6, 2]), "cease (6/2, administrative shutdown)");
    assert_eq!(say(&[6, 2, 5, b'l', b'a', b't', b'e', b'r', b'!']), "cease (6/2, administrative shutdown): \"later\"");
    assert_eq!(
        say(&[6, 4, 4, b'\n', 0x1b, 0xff, b'"']),
        "cease (6/4, administrative reset): \"\\n\\u{1b}\u{fffd}\\\"\""
    );
    assert_eq!(say(&[6, 2, 9, b'x']), "cease (6/2, administrative shutdown)", "a text that is cut off");
    assert_eq!(say(&[6, 7, 1, b'x']), "cease (6/7, connection collision)", "no text belongs there");
    assert_eq!(say(&[200, 9]), "error (200/9)");
    assert_eq!(Notification::decode(&[6]), None);

    let mut output = Vec::new();
    notification::append(&mut output, &notification::farewell(ErrorCode::SHUTDOWN, &"ä".repeat(200)));
    let notification = Notification::decode(body(&output)).expect("valid");
    assert_eq!(notification.text().map(<[u8]>::len), Some(254), "a character isn't cut");
}

#[test]
fn refresh_there_and_back() {
    for family in Family::ALL {
        for refresh in [Refresh::Request, Refresh::Begin, Refresh::End] {
            let mut output = Vec::new();
            refresh.append(&mut output, family);
            assert_eq!(Refresh::decode(body(&output)), Ok(Some((family, refresh))));
        }
    }
    assert_eq!(Refresh::decode(&[0, 2, 1, 1]), Ok(Some((Family::Ipv6, Refresh::Begin))));
    assert_eq!(Refresh::decode(&[0, 1, 0, 1, 9, 9]), Ok(Some((Family::Ipv4, Refresh::Request))), "a filter is ignored");
    assert_eq!(Refresh::decode(&[0, 1, 7, 1]), Ok(None));
    assert_eq!(Refresh::decode(&[0, 1, 0, 128]), Ok(None));
    assert_eq!(Refresh::decode(&[0, 1, 2, 1, 0]).map_err(|violation| violation.code), Err(ErrorCode::REFRESH_LENGTH));
}

fn holding(router: u64, since: u64) -> Holding {
    Holding { router: RouterId::new(router).expect("not 0"), since: ClaimTime(since) }
}

#[test]
fn announcement_byte_by_byte() {
    let communities = claim::encode(64513, holding(0x0102_0304_0506_0708, 0x0000_0190_0000_0001));
    let attributes =
        Attributes { asn: 64513, next_hop: address("127.0.0.1"), med: 7, large_communities: &communities[..1] };
    let mut output = Vec::new();
    assert_eq!(write::append_announcement(&mut output, &attributes, &[net("10.77.0.9/32"), net("10.0.0.0/9")]), 2);
    #[rustfmt::skip]
    let expected = [
        0, 0, 0, 42,
        0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfc, 0x01, 0x40, 3, 4, 127, 0, 0, 1, 0x80, 4, 4, 0, 0, 0, 7,
        0xc0, 32, 12, 0, 0, 0xfc, 0x01, 0, 0, 0, 1, 1, 2, 3, 4,
        32, 10, 77, 0, 9, 9, 10, 0,
    ];
    assert_eq!(output, message(2, &expected));

    output.clear();
    let attributes = Attributes { next_hop: address("fe80::1"), large_communities: &[], ..attributes };
    assert_eq!(write::append_announcement(&mut output, &attributes, &[net("fd00:77::9/128"), net("10.0.0.0/9")]), 2);
    #[rustfmt::skip]
    let expected = [
        0, 0, 0, 62,
        0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfc, 0x01, 0x80, 4, 4, 0, 0, 0, 7,
        0x90, 14, 0, 38, 0, 2, 1, 16, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0,
        128, 0xfd, 0, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9,
    ];
    assert_eq!(output, message(2, &expected));

    output.clear();
    assert_eq!(write::append_withdrawal(&mut output, Family::Ipv4, &[net("10.77.0.9/32")]), 1);
    assert_eq!(output, message(2, &[0, 5, 32, 10, 77, 0, 9, 0, 0]));
    output.clear();
    assert_eq!(write::append_withdrawal(&mut output, Family::Ipv6, &[net("fd00::/16")]), 1);
    assert_eq!(output, message(2, &[0, 0, 0, 10, 0x90, 15, 0, 6, 0, 2, 1, 16, 0xfd, 0]));
}

#[test]
fn end_of_rib_of_both_families() {
    for (family, expected) in
        [(Family::Ipv4, &[0, 0, 0, 0][..]), (Family::Ipv6, &[0, 0, 0, 7, 0x90, 15, 0, 3, 0, 2, 1])]
    {
        let mut output = Vec::new();
        write::append_end_of_rib(&mut output, family);
        assert_eq!(output, message(2, expected));
        let update = Update::decode(expected, &NO_PATHS).expect("valid");
        assert_eq!((update.end_of_rib(), update.withdrawn().count()), (Some(family), 0));
    }
    // As RFC 4760 has it for IPv4, too; and one for a family that isn't spoken.
    let mark = |afi, safi| update(&[], &[0x80, 15, 3, 0, afi, safi], &[]);
    assert_eq!(Update::decode(&mark(1, 1), &NO_PATHS).expect("valid").end_of_rib(), Some(Family::Ipv4));
    assert_eq!(Update::decode(&mark(25, 70), &NO_PATHS).expect("valid").end_of_rib(), None);
}

#[test]
fn paths_have_numbers() {
    let ipv4 =
        update(&[0, 0, 0, 7, 32, 10, 0, 0, 9], &MANDATORY, &[0, 0, 0, 1, 32, 10, 0, 0, 8, 0, 0, 0, 2, 32, 10, 0, 0, 8]);
    let decoded = Update::decode(&ipv4, &PATHS).expect("valid");
    assert_eq!(withdrawn(&decoded), [(7, "10.0.0.9/32".to_owned())]);
    let expected = [1, 2].map(|path| (path, "10.0.0.8/32".to_owned(), "10.0.0.1".to_owned()));
    assert_eq!(announced(&decoded), expected);
    // IPv4 in an attribute, with a next hop of its own.
    let reach = [0x80, 14, 18, 0, 1, 1, 4, 192, 0, 2, 1, 0, 0, 0, 0, 3, 32, 10, 0, 0, 7];
    let multi = update(&[], &[&MANDATORY[..13], &reach].concat(), &[]);
    let decoded = Update::decode(&multi, &PATHS).expect("valid");
    assert_eq!(announced(&decoded), [(3, "10.0.0.7/32".to_owned(), "192.0.2.1".to_owned())]);
}

/// RFC 7606: the announced routes count as withdrawn, and the session lives.
#[test]
fn malformed_attributes_withdraw() {
    let route = [32, 10, 0, 0, 8];
    let fault = |attributes: &[u8]| {
        let body = update(&[], attributes, &route);
        let decoded = Update::decode(&body, &NO_PATHS).expect("no reason to end the session");
        assert_eq!(decoded.fault().is_some(), decoded.announced().next().is_none());
        assert_eq!(decoded.fault().is_some(), withdrawn(&decoded) == [(0, "10.0.0.8/32".to_owned())]);
        decoded.fault()
    };
    let with = |more: &[u8]| fault(&[&MANDATORY[..], more].concat());
    assert_eq!(with(&[]), None);
    assert_eq!(with(&[0x80, 4, 4, 0, 0, 0, 1]), None);
    assert_eq!(with(&[0x80, 4, 3, 0, 0, 1]), Some(Fault::Med));
    assert_eq!(with(&[0x40, 4, 4, 0, 0, 0, 1]), Some(Fault::Flags));
    assert_eq!(with(&[0xc0, 32, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Some(Fault::LargeCommunity));
    assert_eq!(with(&[0xc0, 32, 0]), Some(Fault::LargeCommunity));
    assert_eq!(with(&[0x80, 4, 9, 0]), Some(Fault::CutOff));
    assert_eq!(with(&[0x80]), Some(Fault::CutOff));
    assert_eq!(with(&[0x90, 4, 0]), Some(Fault::CutOff));
    assert_eq!(with(&[0xc0, 99, 2, 1, 2]), None, "an optional attribute that isn't known");
    assert_eq!(with(&[0x40, 5, 4, 0, 0, 0, 100]), None);
    assert_eq!(with(&[0x40, 5, 1, 0]), None, "LOCAL_PREF from another AS is discarded");
    assert_eq!(with(&[0x40, 6, 0, 0xc0, 8, 4, 0, 0, 0, 0, 0x80, 9, 1, 0]), None);
    assert_eq!(with(&[0x40, 1, 1, 9]), None, "the first of several counts");
    assert_eq!(fault(&MANDATORY[..13]), Some(Fault::Missing));
    assert_eq!(fault(&MANDATORY[4..]), Some(Fault::Missing));
    assert_eq!(fault(&[]), Some(Fault::Missing));
    for (at, value, expected) in
        [(3, 3, Fault::Origin), (7, 5, Fault::AsPath), (8, 0, Fault::AsPath), (8, 2, Fault::AsPath)]
    {
        let mut attributes = MANDATORY;
        attributes[at] = value;
        assert_eq!(fault(&attributes), Some(expected));
    }
    let short = [&MANDATORY[..13], &[0x40, 3, 3, 10, 0, 0]].concat();
    assert_eq!(fault(&short), Some(Fault::NextHop));
}

/// What hides which routes are meant ends the session.
#[test]
fn hidden_routes_end_the_session() {
    let code = |body: &[u8]| Update::decode(body, &NO_PATHS).map(|_| ()).map_err(|violation| violation.code);
    assert_eq!(code(&[0, 9, 0, 0]), Err(ErrorCode::MALFORMED_ATTRIBUTES));
    assert_eq!(code(&[0, 0, 0, 9]), Err(ErrorCode::MALFORMED_ATTRIBUTES));
    assert_eq!(code(&update(&[33, 0, 0, 0, 0, 0], &[], &[])), Err(ErrorCode::INVALID_NETWORK));
    assert_eq!(code(&update(&[], &MANDATORY, &[32, 10, 0, 0])), Err(ErrorCode::INVALID_NETWORK));
    assert_eq!(code(&update(&[], &[0x80, 4, 1, 0], &[])), Err(ErrorCode::MALFORMED_ATTRIBUTES), "no routes at all");
    let multi = |value: &[u8]| {
        let len = u8::try_from(value.len()).expect("short");
        code(&update(&[], &[&MANDATORY[..], &[0x80, 14, len], value].concat(), &[]))
    };
    for value in [&[0, 1, 1, 5, 1, 2, 3, 4, 5, 0][..], &[0, 2, 1, 4, 1, 2, 3, 4, 0], &[0, 1, 1, 4, 1, 2, 3, 4], &[0, 1]]
    {
        assert_eq!(multi(value), Err(ErrorCode::OPTIONAL_ATTRIBUTE), "{value:?}");
    }
    assert_eq!(multi(&[0, 1, 1, 4, 1, 2, 3, 4, 0, 33, 1, 2, 3, 4, 5]), Err(ErrorCode::OPTIONAL_ATTRIBUTE));
    assert_eq!(multi(&[0, 1, 128, 0, 0]), Ok(()), "a family that isn't spoken");
    let twice = [&MANDATORY[..], &[0x80, 15, 3, 0, 2, 1, 0x80, 15, 3, 0, 2, 1]].concat();
    assert_eq!(code(&update(&[], &twice, &[])), Err(ErrorCode::MALFORMED_ATTRIBUTES));
    let unknown = [0x40, 77, 1, 5];
    let result = Update::decode(&update(&[], &[&MANDATORY[..], &unknown].concat(), &[8, 10]), &NO_PATHS).map(|_| ());
    assert_eq!(result, Err(Violation { code: ErrorCode::UNRECOGNIZED_WELL_KNOWN, data: unknown.to_vec() }));
}

#[test]
fn claims_are_certain_or_none() {
    let decode = |communities: &[LargeCommunity]| {
        let words = communities.iter().flat_map(|it| [it.asn, it.function, it.parameter]);
        let bytes: Vec<u8> = words.flat_map(u32::to_be_bytes).collect();
        claim::decode(64513, LargeCommunities::new(&bytes).unwrap_or_default())
    };
    let mut communities = claim::encode(64513, holding(u64::MAX, 1 << 40)).to_vec();
    assert_eq!(decode(&communities), Ok(Some(holding(u64::MAX, 1 << 40))));
    communities.reverse();
    communities.insert(2, LargeCommunity { asn: 1, function: 1, parameter: 99 });
    communities.push(LargeCommunity { asn: 64513, function: 77, parameter: 99 });
    communities.push(communities[0]);
    assert_eq!(decode(&communities), Ok(Some(holding(u64::MAX, 1 << 40))), "neither order nor others matter");
    communities.push(LargeCommunity { parameter: 5, ..communities[0] });
    assert_eq!(decode(&communities), Err(Ambiguous));
    assert_eq!(decode(&claim::encode(64513, holding(5, 5))[1..]), Err(Ambiguous));
    assert_eq!(decode(&claim::encode(64512, holding(5, 5))), Ok(None), "another AS's");
    assert_eq!(decode(&[]), Ok(None));
    let nobody = claim::encode(64513, holding(5, 5)).map(|it| LargeCommunity { parameter: 0, ..it });
    assert_eq!(decode(&nobody), Err(Ambiguous), "no router has the id 0");
}

fn any_net() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<u32>(), 0u8..=32).prop_map(|(bits, len)| (IpAddr::from(bits.to_be_bytes()), len));
    let v6 = (any::<u128>(), 0u8..=128).prop_map(|(bits, len)| (IpAddr::from(bits.to_be_bytes()), len));
    prop_oneof![v4, v6].prop_map(|(address, len)| IpNet::new(address, len).expect("a length of the family").trunc())
}

proptest! {
    /// All prefixes of a family arrive once, in whole messages, with their attributes.
    #[test]
    fn announcements_there_and_back(
        nets in prop::collection::vec(any_net(), 0..3000),
        is_ipv4: bool, asn in 1u32.., med: u32, router in 1u64.., since: u64,
    ) {
        let next_hop = address(if is_ipv4 { "192.0.2.1" } else { "2001:db8::1" });
        let communities = claim::encode(asn, holding(router, since));
        let attributes = Attributes { asn, next_hop, med, large_communities: &communities };
        let family = Family::of(next_hop);
        let (mut gained, mut lost) = (Vec::new(), Vec::new());
        let (mut stream, mut rest) = (Vec::new(), &nets[..]);
        while !rest.is_empty() {
            let done = write::append_announcement(&mut stream, &attributes, rest);
            prop_assert!(done > 0);
            rest = &rest[done..];
        }
        rest = &nets[..];
        while !rest.is_empty() {
            let done = write::append_withdrawal(&mut stream, family, rest);
            prop_assert!(done > 0);
            rest = &rest[done..];
        }
        let mut unread = &stream[..];
        while !unread.is_empty() {
            let Ok(Front::Message { kind: Kind::Update, body, len }) = message::front(unread) else { panic!("no UPDATE") };
            prop_assert!(len <= MAX_LEN);
            let update = Update::decode(body, &NO_PATHS).expect("valid");
            prop_assert_eq!(update.fault(), None);
            lost.extend(update.withdrawn().map(|nlri| nlri.net));
            for route in update.announced() {
                prop_assert_eq!(route.next_hop, next_hop);
                prop_assert_eq!(update.attributes().med, Some(med));
                let claim = claim::decode(asn, update.attributes().large_communities);
                prop_assert_eq!(claim, Ok(Some(holding(router, since))));
                gained.push(route.nlri.net);
            }
            unread = &unread[len..];
        }
        let expected: Vec<_> = nets.into_iter().filter(|net| Family::of(net.addr()) == family).collect();
        prop_assert_eq!(&gained, &expected);
        prop_assert_eq!(&lost, &expected);
    }

    #[test]
    fn opens_there_and_back(
        asn in 1u32.., hold_time in prop_oneof![Just(0), 3u16..], identifier in 1u32..,
        flags in prop::collection::vec(any::<bool>(), 9),
    ) {
        let way = |at: usize| AddPath { receive: flags[at], send: flags[at + 1] };
        let capabilities = Capabilities {
            families: PerFamily { ipv4: flags[0] || !flags[1], ipv6: flags[1] },
            route_refresh: flags[2],
            enhanced_route_refresh: flags[3],
            four_octet_as: (flags[4] || asn > 0xffff).then_some(asn),
            add_path: PerFamily { ipv4: way(5), ipv6: way(7) },
        };
        let open = Open { asn, hold_time, identifier: identifier.into(), capabilities };
        let mut output = Vec::new();
        open.append(&mut output);
        prop_assert_eq!(Open::decode(body(&output)), Ok(open));
    }

    /// Whatever comes, it is read within its bounds, and each prefix has at least one byte of the message.
    #[test]
    fn garbage_is_read_within_its_bounds(
        kind in 0u8..8, mut bytes in prop::collection::vec(any::<u8>(), 0..4096),
        small in prop::collection::vec((any::<prop::sample::Index>(), 0u8..34), 0..20), has_paths: bool,
    ) {
        // Small numbers stand for lengths and types.
        for (at, value) in small {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
        }
        let has_paths = PerFamily::new(|_| has_paths);
        let _ = Open::decode(&bytes);
        let _ = Refresh::decode(&bytes);
        if let Some(notification) = Notification::decode(&bytes) {
            let line = notification.to_string();
            prop_assert!(line.len() < 3000 && !line.contains(char::is_control));
        }
        if let Ok(update) = Update::decode(&bytes, &has_paths) {
            prop_assert!(update.announced().count() + update.withdrawn().count() <= bytes.len());
            let _ = claim::decode(64513, update.attributes().large_communities);
        }
        bytes.truncate(MAX_LEN - HEADER_LEN);
        let stream = message(kind, &bytes);
        if let Ok(Front::Message { len, body, .. }) = message::front(&stream) {
            prop_assert_eq!((len, body), (stream.len(), &bytes[..]));
        }
        let _ = message::front(&bytes);
    }

    /// One byte of an UPDATE is another one: it is read, or it is refused.
    #[test]
    fn changed_bytes_are_no_trap(at in any::<prop::sample::Index>(), value: u8) {
        let communities = claim::encode(64513, holding(3, 4));
        let attributes = Attributes { asn: 64513, next_hop: address("fe80::1"), med: 7, large_communities: &communities };
        let mut output = Vec::new();
        write::append_announcement(&mut output, &attributes, &[net("fd00:77::9/128"), net("fd00::/8")]);
        let at = at.index(output.len());
        output[at] = value;
        if let Ok(Front::Message { body, .. }) = message::front(&output)
            && let Ok(update) = Update::decode(body, &NO_PATHS)
        {
            prop_assert!(update.announced().count() + update.withdrawn().count() <= body.len());
        }
    }
}
