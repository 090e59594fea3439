//! BGP's messages, as a routing daemon sends them.
//!
//! Input: flags (1 byte: paths of IPv4, of IPv6), the type (1 byte), the body of a message.

use std::net::Ipv4Addr;

use ipnet::IpNet;
use tuntap_wire::bgp::message::{self, Front, HEADER_LEN, MAX_LEN};
use tuntap_wire::bgp::notification::Notification;
use tuntap_wire::bgp::open::Open;
use tuntap_wire::bgp::prefix::Nlri;
use tuntap_wire::bgp::refresh::Refresh;
use tuntap_wire::bgp::update::Update;
use tuntap_wire::bgp::{Family, PerFamily, claim, write};

use super::input::Input;

/// Reads the body as each type of message, and the whole as a stream.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let (flags, kind) = (input.byte(), input.byte());
    let body = input.rest();
    check_front(kind, body);
    check_open(body);
    check_notification(body);
    if let Ok(Some((family, refresh))) = Refresh::decode(body) {
        let mut again = Vec::new();
        refresh.append(&mut again, family);
        assert_eq!(Refresh::decode(&again[HEADER_LEN..]), Ok(Some((family, refresh))));
    }
    check_update(body, PerFamily { ipv4: flags & 1 != 0, ipv6: flags & 2 != 0 });
}

/// A stream is read to the end of its first message, however much of it is there.
fn check_front(kind: u8, body: &[u8]) {
    let Ok(len) = u16::try_from(HEADER_LEN + body.len()) else { return };
    let stream = [&[0xff; 16][..], &len.to_be_bytes(), &[kind], body].concat();
    let whole = message::front(&stream);
    assert!(!matches!(whole, Ok(Front::Part { .. })), "nothing is missing");
    if usize::from(len) > MAX_LEN {
        assert!(whole.is_err());
    }
    for cut in [1, 16, 18, 19, stream.len() / 2, stream.len() - 1] {
        let cut = cut.min(stream.len() - 1);
        match message::front(&stream[..cut]) {
            Ok(Front::Part { needed }) => assert!(needed > cut && needed <= MAX_LEN),
            Ok(Front::Message { .. }) => panic!("a message without its end"),
            Err(violation) => assert_eq!(Some(violation), whole.clone().err()),
        }
    }
    // The body itself is no stream, or one that ends within it.
    if let Ok(Front::Message { len, .. }) = message::front(body) {
        assert!(len <= body.len());
    }
}

fn check_open(body: &[u8]) {
    let Ok(open) = Open::decode(body) else { return };
    assert!(open.asn != 0 && !open.identifier.is_unspecified() && ![1, 2].contains(&open.hold_time));
    let mut again = Vec::new();
    open.append(&mut again);
    if open.asn <= 0xffff || open.capabilities.four_octet_as.is_some() {
        let mut expected = open;
        // Who names no family means IPv4, which is named then.
        let families = open.capabilities.families;
        expected.capabilities.families.ipv4 |= !(families.ipv4 || families.ipv6);
        assert_eq!(Open::decode(&again[HEADER_LEN..]), Ok(expected));
    }
}

fn check_notification(body: &[u8]) {
    let Some(notification) = Notification::decode(body) else { return assert!(body.len() < 2) };
    let line = notification.to_string();
    assert!(line.len() < 3_000 && !line.contains(char::is_control), "{line:?}");
}

fn check_update(body: &[u8], has_paths: PerFamily<bool>) {
    let Ok(update) = Update::decode(body, &has_paths) else { return };
    let announced: Vec<_> = update.announced().collect();
    let withdrawn: Vec<_> = update.withdrawn().collect();
    assert!(announced.len() + withdrawn.len() <= body.len(), "each takes a byte at least");
    assert!(update.fault().is_none() || announced.is_empty());
    assert!(update.end_of_rib().is_none() || announced.is_empty() && withdrawn.is_empty());
    let _ = claim::decode(64513, update.attributes().large_communities);

    // The fields of IPv4 stand where RFC 4271 has them.
    let field = |at: usize| usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
    let withdrawn_end = 2 + field(0);
    let announced_at = withdrawn_end + 2 + field(withdrawn_end);
    let gone = by_hand(&body[2..withdrawn_end], has_paths.ipv4);
    assert_eq!(withdrawn[..gone.len()], gone);
    let there = by_hand(&body[announced_at..], has_paths.ipv4);
    if update.fault().is_none() {
        let first: Vec<_> = announced.iter().take(there.len()).map(|route| route.nlri).collect();
        assert_eq!(first, there);
    }

    // What was read can be written, in as many messages as it takes.
    for family in Family::ALL {
        let nets: Vec<IpNet> = withdrawn.iter().map(|nlri| nlri.net).collect();
        let expected: Vec<IpNet> = nets.iter().copied().filter(|net| Family::of(net.addr()) == family).collect();
        let (mut stream, mut rest, mut again) = (Vec::new(), &nets[..], Vec::new());
        while !rest.is_empty() {
            rest = &rest[write::append_withdrawal(&mut stream, family, rest)..];
        }
        let mut unread = &stream[..];
        while let Ok(Front::Message { body, len, .. }) = message::front(unread) {
            let update = Update::decode(body, &PerFamily::default()).expect("we wrote it");
            again.extend(update.withdrawn().map(|nlri| nlri.net));
            unread = &unread[len..];
        }
        assert_eq!((again, unread.len()), (expected, 0));
    }
}

/// Reads prefixes of IPv4 that were found to be good.
fn by_hand(mut field: &[u8], has_paths: bool) -> Vec<Nlri> {
    let mut list = Vec::new();
    while !field.is_empty() {
        let mut path = 0;
        if has_paths {
            path = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
            field = &field[4..];
        }
        let len = field[0];
        let octets = usize::from(len).div_ceil(8);
        let mut bits = 0u32;
        for at in 0..4 {
            bits = bits << 8 | if at < octets { u32::from(field[1 + at]) } else { 0 };
        }
        let mask = if len == 0 { 0 } else { u32::MAX << (32 - len) };
        let net = IpNet::new(Ipv4Addr::from(bits & mask).into(), len).expect("at most 32");
        list.push(Nlri { path, net });
        field = &field[1 + octets..];
    }
    list
}
