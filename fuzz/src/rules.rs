//! Peer rules in both forms.
//!
//! Input: an address (4 bytes), and the payload of a rules frame.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use tuntap_wire::frame::FrameKind;
use tuntap_wire::rule::{
    Direction, EXTENDED_RULE_LEN, MaskedAddress, PeerRule, PeerSelector, RULE_LEN, RuleAction, decode_all,
    decode_all_extended, encode_all,
};
use tuntap_wire::selector::{AddressPattern, Protocol};

use super::input::Input;

/// Protocols with ports.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// Reads the rules, writes them, and matches addresses with them.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let address = u32::from_be_bytes(input.array());
    let payload = input.rest();
    check_c_form(payload, address);
    check_extended_form(payload);
}

fn check_c_form(payload: &[u8], address: u32) {
    let rules = decode_all(payload);
    let whole = payload.len().is_multiple_of(RULE_LEN);
    let known =
        payload.chunks(RULE_LEN).all(|record| record[0] <= 1 && record.get(17).is_some_and(|action| *action <= 2));
    assert_eq!(rules.is_some(), whole && known);
    let rules = rules.unwrap_or_default();
    for (rule, record) in rules.iter().zip(payload.chunks(RULE_LEN)) {
        let PeerSelector::Masked { src, dst } = rule.selector else { panic!("{rule:?}") };
        check_record(rule, (src, dst), record);
        check_pattern(src, address);
        check_pattern(dst, address);
    }
    let (kind, encoded) = encode_all(rules.iter()).expect("all of one form");
    assert_eq!(kind, FrameKind::Rules);
    assert_eq!(decode_all(&encoded), Some(rules));
}

/// Each field is where `struct uwsgi_tuntap_rule` of include/uwsgi_tuntap.h has it.
fn check_record(rule: &PeerRule, (src, dst): (MaskedAddress, MaskedAddress), record: &[u8]) {
    let word = |at: usize| u32::from_ne_bytes(record[at..at + 4].try_into().expect("four bytes"));
    assert_eq!(rule.direction == Direction::Out, record[0] == 1);
    assert_eq!((src.address, src.mask), (word(1), word(5)));
    assert_eq!((dst.address, dst.mask), (word(9), word(13)));
    let encoded = rule.encode().expect("it came in this form");
    match rule.action {
        RuleAction::Route(target) => {
            assert_eq!(record[17], 2);
            assert_eq!(target.ip(), IpAddr::from([record[18], record[19], record[20], record[21]]));
            assert_eq!(target.port().to_be_bytes(), record[22..24]);
            assert_eq!(encoded, record);
        }
        // The target of another action is ignored.
        action => {
            assert_eq!(record[17], u8::from(action == RuleAction::Deny));
            assert_eq!(encoded[..18], record[..18]);
            assert_eq!(encoded[18..], [0; 6]);
        }
    }
}

/// Compares bit by bit, with the address from the input and with addresses that differ from the pattern's in one bit.
fn check_pattern(pattern: MaskedAddress, address: u32) {
    let near = (0..32).map(|bit| pattern.address ^ 1 << bit);
    for address in near.chain([address, pattern.address, pattern.address | !pattern.mask]) {
        let is_any = pattern.address == 0 && pattern.mask == 0xffff_ffff;
        let expected = is_any
            || (0..32).all(|bit| {
                let of = |word: u32| word >> bit & 1;
                of(pattern.address) == if of(pattern.mask) == 1 { of(address) } else { 0 }
            });
        assert_eq!(pattern.matches(Ipv4Addr::from_bits(address)), expected, "{pattern:?} {address:#x}");
    }
}

fn check_extended_form(payload: &[u8]) {
    let rules = decode_all_extended(payload);
    let whole = payload.len().is_multiple_of(EXTENDED_RULE_LEN);
    let make_sense = whole && payload.chunks(EXTENDED_RULE_LEN).all(makes_sense);
    assert_eq!(rules.is_some(), make_sense);
    let rules = rules.unwrap_or_default();
    for (rule, record) in rules.iter().zip(payload.chunks(EXTENDED_RULE_LEN)) {
        check_extended_record(rule, record);
    }
    let encoded: Vec<u8> =
        rules.iter().flat_map(|rule| rule.encode_extended().expect("it came in this form")).collect();
    assert_eq!(decode_all_extended(&encoded), Some(rules.clone()));
    // All rules are sent in the C plugin's form if each of them fits it.
    let (kind, bytes) = encode_all(rules.iter()).expect("all of one form");
    let fit_c_form = rules.iter().all(fits_c_form);
    assert_eq!(kind, if fit_c_form { FrameKind::Rules } else { FrameKind::ExtendedRules });
    assert_eq!(bytes.len(), rules.len() * if fit_c_form { RULE_LEN } else { EXTENDED_RULE_LEN });
    if fit_c_form {
        let as_sent = decode_all(&bytes).expect("they were just written");
        assert!(rules.iter().zip(&as_sent).all(|(rule, sent)| says_the_same(rule, sent)), "{rules:?} {as_sent:?}");
    }
}

/// Checks a record against the table of docs/PROTOCOL.md, from top to bottom.
fn makes_sense(record: &[u8]) -> bool {
    let word = |at: usize| u16::from_be_bytes([record[at], record[at + 1]]);
    let [direction, action, src_version, dst_version, src_len, dst_len, flags, protocol, ..] = *record else {
        return false;
    };
    let is_pattern = |version: u8, len: u8, at: usize| {
        let bits = match version {
            0 => return true,
            4 => 32,
            6 => 128,
            _ => return false,
        };
        let is_set = |bit: usize| record[at + bit / 8] & 0x80 >> (bit % 8) != 0;
        usize::from(len) <= bits && !(usize::from(len)..bits).any(is_set)
    };
    let are_patterns = is_pattern(src_version, src_len, 16) && is_pattern(dst_version, dst_len, 32);
    let is_service = match flags {
        // No service, a protocol, a protocol with ports, ICMP.
        0 | 1 | 4 => true,
        3 => WITH_PORTS.contains(&protocol) && word(8) <= word(10),
        _ => false,
    };
    // A rule that can match IPv6 packets can't have the number of an extension header as its protocol.
    let may_be_v6 = src_version != 4 && dst_version != 4;
    let is_extension = flags == 1 && may_be_v6 && [0, 43, 44, 51, 60, 135, 139, 140].contains(&protocol);
    // An IPv4-mapped address can't be a target.
    let is_mapped = record[12] == 6 && record[48..58] == [0; 10] && record[58..60] == [0xff; 2];
    let has_target = action != 2 || [4, 6].contains(&record[12]) && !is_mapped;
    direction <= 1
        && action <= 3
        && are_patterns
        && (src_version == dst_version || src_version == 0 || dst_version == 0)
        && is_service
        && !is_extension
        && has_target
}

/// Each field is where docs/PROTOCOL.md says.
fn check_extended_record(rule: &PeerRule, record: &[u8]) {
    let PeerSelector::Full(selector) = rule.selector else { panic!("{rule:?}") };
    assert_eq!(rule.direction == Direction::Out, record[0] == 1);
    for (pattern, version, len, at) in
        [(selector.src(), record[2], record[4], 16), (selector.dst(), record[3], record[5], 32)]
    {
        let expected = match version {
            0 => AddressPattern::Any,
            _ => AddressPattern::Net(IpNet::new_assert(address(version, &record[at..]), len)),
        };
        assert_eq!(pattern, expected);
    }
    let protocol = selector.service().map(|service| service.protocol);
    assert_eq!(
        protocol,
        [None, Some(Protocol::Number(record[7])), Some(Protocol::Icmp)][usize::from(record[6] & 5).min(2)]
    );
    let ports = selector.service().and_then(|service| service.ports).map(|ports| ports.bounds());
    let word = |at: usize| u16::from_be_bytes([record[at], record[at + 1]]);
    assert_eq!(ports, (record[6] & 2 != 0).then(|| (word(8), word(10))));
    let action = match record[1] {
        0 => RuleAction::Allow,
        1 => RuleAction::Deny,
        2 => RuleAction::Route(SocketAddr::new(address(record[12], &record[48..]), word(14))),
        _ => RuleAction::Reject,
    };
    assert_eq!(rule.action, action);
}

fn address(version: u8, bytes: &[u8]) -> IpAddr {
    match version {
        4 => IpAddr::from(*bytes.first_chunk::<4>().expect("four bytes")),
        _ => IpAddr::from(*bytes.first_chunk::<16>().expect("sixteen bytes")),
    }
}

/// The C plugin's form has IPv4 only, two actions and a route to an IPv4 address. 0.0.0.0/32 means any address in it.
fn fits_c_form(rule: &PeerRule) -> bool {
    let PeerSelector::Full(selector) = rule.selector else { return true };
    let (src, dst) = (selector.src(), selector.dst());
    let is_v4_host_0 = |pattern| pattern == AddressPattern::Net(IpNet::from(IpAddr::from([0; 4])));
    let has_form = |pattern| match pattern {
        AddressPattern::Any => true,
        AddressPattern::Net(net) => net.addr().is_ipv4() && !is_v4_host_0(pattern),
    };
    let has_action = match rule.action {
        RuleAction::Allow | RuleAction::Deny => true,
        RuleAction::Reject => false,
        RuleAction::Route(target) => target.is_ipv4(),
    };
    // 0.0.0.0/0 means any address in it; at both ends it would match every IPv6 packet, too.
    let is_all = |pattern| match pattern {
        AddressPattern::Any => true,
        AddressPattern::Net(net) => net.prefix_len() == 0,
    };
    let is_every_packet = src == AddressPattern::Any && dst == AddressPattern::Any;
    has_form(src)
        && has_form(dst)
        && has_action
        && selector.service().is_none()
        && (is_every_packet || !(is_all(src) && is_all(dst)))
}

/// Returns true if a rule that was sent in the C plugin's form means the same as before.
fn says_the_same(rule: &PeerRule, sent: &PeerRule) -> bool {
    let (PeerSelector::Full(selector), PeerSelector::Masked { src, dst }) = (rule.selector, sent.selector) else {
        return false;
    };
    let is_same = |pattern, masked: MaskedAddress| match pattern {
        AddressPattern::Any => masked.address == 0 && masked.mask == 0,
        AddressPattern::Net(net) => {
            net.addr() == IpAddr::V4(Ipv4Addr::from_bits(masked.address))
                && u32::from(net.prefix_len()) == masked.mask.leading_ones()
                && masked.mask.leading_ones() + masked.mask.trailing_zeros() == 32
        }
    };
    let are_same = is_same(selector.src(), src) && is_same(selector.dst(), dst);
    are_same
        && (rule.direction, rule.action) == (sent.direction, sent.action)
        && rule.selector.is_for_v6() == sent.selector.is_for_v6()
}
