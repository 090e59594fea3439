//! Tests of peer rules on the wire.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use proptest::prelude::*;

use super::extended::{HAS_PORTS, HAS_PROTOCOL, IS_ESTABLISHED, IS_ICMP, IS_NEW};
use super::*;
use crate::selector::{AddressPattern, Ports, Protocol, Selector, Service};

fn any_direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::In), Just(Direction::Out)]
}

fn any_masked_rule() -> impl Strategy<Value = PeerRule> {
    let pattern = || (any::<u32>(), any::<u32>()).prop_map(|(address, mask)| MaskedAddress { address, mask });
    let action = prop_oneof![
        Just(RuleAction::Allow),
        Just(RuleAction::Deny),
        (any::<[u8; 4]>(), any::<u16>()).prop_map(|target| RuleAction::Route(SocketAddr::from(target))),
    ];
    (any_direction(), pattern(), pattern(), action).prop_map(|(direction, src, dst, action)| PeerRule {
        direction,
        selector: PeerSelector::Masked { src, dst },
        action,
    })
}

fn any_full_rule() -> impl Strategy<Value = PeerRule> {
    let pattern = |v4: bool| {
        let address = if v4 {
            any::<[u8; 4]>().prop_map(IpAddr::from).boxed()
        } else {
            any::<[u8; 16]>().prop_map(IpAddr::from).boxed()
        };
        let net = (address, 0..=if v4 { 32u8 } else { 128 })
            .prop_map(|(address, len)| AddressPattern::Net(IpNet::new_assert(address, len).trunc()));
        prop_oneof![Just(AddressPattern::Any), net]
    };
    let service = prop_oneof![
        Just(None),
        Just(Some(Service { protocol: Protocol::Icmp, ports: None })),
        any::<u8>().prop_map(|number| Some(Service { protocol: Protocol::Number(number), ports: None })),
        (any::<u16>(), any::<u16>()).prop_map(|(one, other)| Some(Service {
            protocol: Protocol::Number(6),
            ports: Ports::new(one.min(other), one.max(other)),
        })),
    ];
    let action = prop_oneof![
        Just(RuleAction::Allow),
        Just(RuleAction::Deny),
        Just(RuleAction::Reject),
        (any::<[u8; 4]>(), any::<u16>()).prop_map(|target| RuleAction::Route(SocketAddr::from(target))),
        (any::<[u8; 16]>(), any::<u16>()).prop_map(|target| RuleAction::Route(SocketAddr::from(target))),
    ];
    let ends = any::<bool>().prop_flat_map(move |v4| (pattern(v4), pattern(v4)));
    (any_direction(), ends, service, action).prop_filter_map(
        "an extension header, or a mapped target",
        |(direction, (src, dst), service, action)| {
            let selector = Selector::new(src, dst, service).ok()?;
            let is_plain = !matches!(action, RuleAction::Route(target) if target.ip() != target.ip().to_canonical());
            is_plain.then_some(PeerRule { direction, selector: PeerSelector::Full(selector), action })
        },
    )
}

fn full(src: &str, dst: &str, action: RuleAction) -> PeerRule {
    let pattern = |text: &str| match text {
        "any" => AddressPattern::Any,
        net => AddressPattern::Net(net.parse().expect("a prefix")),
    };
    let selector = Selector::new(pattern(src), pattern(dst), None).expect("one version");
    PeerRule { direction: Direction::Out, selector: PeerSelector::Full(selector), action }
}

#[test]
fn layout_is_that_of_the_public_header() {
    let rule = PeerRule {
        direction: Direction::Out,
        selector: PeerSelector::Masked {
            src: MaskedAddress { address: 0x0a00_0001, mask: 0xffff_ff00 },
            dst: MaskedAddress { address: 0x0b00_0002, mask: 0xffff_0000 },
        },
        action: RuleAction::Route(SocketAddr::from(([1, 2, 3, 4], 0x1234))),
    };
    let mut expected = vec![1];
    for word in [0x0a00_0001u32, 0xffff_ff00, 0x0b00_0002, 0xffff_0000] {
        expected.extend(word.to_ne_bytes());
    }
    expected.extend([2, 1, 2, 3, 4, 0x12, 0x34]);
    assert_eq!(rule.encode().expect("it fits").as_slice(), expected);
}

#[test]
fn layout_of_the_extended_form_is_that_of_the_documentation() {
    let service = Service { protocol: Protocol::Number(17), ports: Ports::new(0x0102, 0x0304) };
    let dst = AddressPattern::Net("fd00:77::/32".parse().expect("a prefix"));
    let selector = Selector::new(AddressPattern::Any, dst, Some(service)).expect("one version");
    let rule = PeerRule {
        direction: Direction::Out,
        selector: PeerSelector::Full(selector),
        action: RuleAction::Route(SocketAddr::from(([1, 2, 3, 4], 0x1234))),
    };
    let mut expected = vec![1, 2, 0, 6, 0, 32, 3, 17, 1, 2, 3, 4, 4, 0, 0x12, 0x34];
    expected.resize(32, 0);
    expected.extend([0xfd, 0, 0, 0x77]);
    expected.resize(48, 0);
    expected.extend([1, 2, 3, 4]);
    expected.resize(64, 0);
    assert_eq!(rule.encode_extended().expect("it fits").as_slice(), expected);
}

#[test]
fn rules_take_the_c_form_where_they_fit_it() {
    let form = |rules: &[PeerRule]| encode_all(rules.iter()).map(|(kind, bytes)| (kind, bytes.len()));
    let plain = full("10.0.0.0/8", "any", RuleAction::Deny);
    assert_eq!(form(&[plain, plain]), Some((FrameKind::Rules, 2 * RULE_LEN)));
    for other in [
        full("fd00::/8", "any", RuleAction::Deny),
        full("10.0.0.0/8", "any", RuleAction::Reject),
        full("0.0.0.0/0", "any", RuleAction::Deny),
        full("0.0.0.0/32", "any", RuleAction::Deny),
    ] {
        assert_eq!(form(&[plain, other]), Some((FrameKind::ExtendedRules, 2 * EXTENDED_RULE_LEN)), "{other:?}");
    }
    assert_eq!(form(&[]), Some((FrameKind::Rules, 0)));
}

#[test]
fn any_address_of_the_c_form_is_any_of_both_versions() {
    let rule = full("any", "any", RuleAction::Deny);
    let as_sent = PeerRule::decode(&rule.encode().expect("it fits")).expect("valid");
    assert!(as_sent.selector.is_for_v6());
    let of_one = full("10.0.0.0/8", "any", RuleAction::Deny);
    let as_sent = PeerRule::decode(&of_one.encode().expect("it fits")).expect("valid");
    assert!(!as_sent.selector.is_for_v6());
}

#[test]
fn blocks_of_a_wrong_size_or_with_unknown_values_are_refused() {
    let mut record = [0; RULE_LEN];
    assert_eq!(decode_all(&record).map(|rules| rules.len()), Some(1));
    assert_eq!(decode_all(&record[..23]), None);
    assert_eq!(decode_all(&[0; RULE_LEN + 1]), None);
    record[0] = 2;
    assert_eq!(decode_all(&record), None);
    record[0] = 0;
    record[17] = 3;
    assert_eq!(decode_all(&record), None);
}

#[test]
fn extended_records_that_make_no_sense_are_refused() {
    let good = [0; EXTENDED_RULE_LEN];
    assert_eq!(decode_all_extended(&good).map(|rules| rules.len()), Some(1));
    assert_eq!(decode_all_extended(&good[..63]), None);
    for (what, changes) in [
        ("direction", &[(0, 2)][..]),
        ("action", &[(1, 4)]),
        ("version", &[(2, 5)]),
        ("prefix length", &[(2, 4), (4, 33)]),
        ("bits behind the prefix", &[(2, 4), (19, 1)]),
        ("two versions", &[(2, 4), (3, 6)]),
        ("flags", &[(6, 32)]),
        ("two states of a connection", &[(6, IS_NEW | IS_ESTABLISHED)]),
        ("two protocols", &[(6, HAS_PROTOCOL | IS_ICMP)]),
        ("ports without a protocol", &[(6, HAS_PORTS)]),
        ("ports of a protocol without any", &[(6, HAS_PORTS | HAS_PROTOCOL), (7, 1)]),
        ("ports in the wrong order", &[(6, HAS_PORTS | HAS_PROTOCOL), (7, 6), (9, 1)]),
        ("target without an address", &[(1, ACTION_ROUTE)]),
        ("IPv4 target as one of IPv6", &[(1, ACTION_ROUTE), (12, 6), (58, 0xff), (59, 0xff), (60, 10), (63, 1)]),
        ("extension header of IPv6", &[(6, HAS_PROTOCOL), (7, 51)]),
    ] {
        let mut record = good;
        changes.iter().for_each(|&(at, value)| record[at] = value);
        assert_eq!(decode_all_extended(&record), None, "{what}");
    }
}

#[test]
fn patterns() {
    let host = Ipv4Addr::new(192, 168, 0, 7);
    assert!(MaskedAddress::ANY.matches(host));
    assert!(MaskedAddress { address: 0, mask: u32::MAX }.matches(host));
    assert!(MaskedAddress { address: 0xc0a8_0000, mask: 0xffff_ff00 }.matches(host));
    assert!(!MaskedAddress { address: 0xc0a8_0100, mask: 0xffff_ff00 }.matches(host));
    assert!(!MaskedAddress { address: 0, mask: 0xff00_0000 }.matches(host));
    // What a C vassal sends for 192.168.0.0/24: it never matches, as in the C router.
    assert!(!MaskedAddress { address: 0xc0a8_0000, mask: 0xff00_0000 }.matches(host));
}

proptest! {
    #[test]
    fn survives_the_wire(rules in prop::collection::vec(any_masked_rule(), 0..20)) {
        let (kind, bytes) = encode_all(rules.iter()).expect("one form");
        prop_assert_eq!(kind, FrameKind::Rules);
        prop_assert_eq!(decode_all(&bytes), Some(rules));
    }

    #[test]
    fn survives_the_wire_in_the_extended_form(rules in prop::collection::vec(any_full_rule(), 1..20)) {
        let bytes = rules.iter().map(|rule| rule.encode_extended().expect("it fits")).collect::<Vec<_>>().concat();
        prop_assert_eq!(decode_all_extended(&bytes), Some(rules));
    }

    #[test]
    fn any_bytes_are_rules_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(rules) = decode_all(&bytes) {
            prop_assert_eq!(rules.len() * RULE_LEN, bytes.len());
        }
        if let Some(rules) = decode_all_extended(&bytes) {
            prop_assert_eq!(rules.len() * EXTENDED_RULE_LEN, bytes.len());
        }
    }
}
