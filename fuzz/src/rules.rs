//! Rules that a peer sends.
//!
//! Input: an address (4 bytes), and the payload of a rules frame.

use std::net::Ipv4Addr;

use tuntap_plugin::wire::rule::{Direction, MaskedAddress, PeerRule, RULE_LEN, RuleAction, decode_all};

use super::input::Input;

/// Reads the rules, writes them, and matches addresses with them.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let address = u32::from_be_bytes(input.array());
    let payload = input.rest();

    let rules = decode_all(payload);
    let whole = payload.len().is_multiple_of(RULE_LEN);
    let known =
        payload.chunks(RULE_LEN).all(|record| record[0] <= 1 && record.get(17).is_some_and(|action| *action <= 2));
    assert_eq!(rules.is_some(), whole && known);
    let rules = rules.unwrap_or_default();
    for (rule, record) in rules.iter().zip(payload.chunks(RULE_LEN)) {
        check_record(rule, record);
        check_pattern(rule.src, address);
        check_pattern(rule.dst, address);
    }
    let encoded: Vec<u8> = rules.iter().flat_map(PeerRule::encode).collect();
    assert_eq!(decode_all(&encoded), Some(rules));
}

/// Each field stands where `struct uwsgi_tuntap_rule` of include/uwsgi_tuntap.h has it.
fn check_record(rule: &PeerRule, record: &[u8]) {
    let word = |at: usize| u32::from_ne_bytes(record[at..at + 4].try_into().expect("four bytes"));
    assert_eq!(rule.direction == Direction::Out, record[0] == 1);
    assert_eq!((rule.src.address, rule.src.mask), (word(1), word(5)));
    assert_eq!((rule.dst.address, rule.dst.mask), (word(9), word(13)));
    let encoded = rule.encode();
    match rule.action {
        RuleAction::Route(target) => {
            assert_eq!(record[17], 2);
            assert_eq!(target.ip().octets(), record[18..22]);
            assert_eq!(target.port().to_be_bytes(), record[22..24]);
            assert_eq!(encoded, record);
        }
        // Without a route, nobody looks at its target.
        action => {
            assert_eq!(record[17], u8::from(action == RuleAction::Deny));
            assert_eq!(encoded[..18], record[..18]);
            assert_eq!(encoded[18..], [0; 6]);
        }
    }
}

/// Bit by bit, for the address from the input and for those that are one bit away from the pattern's own.
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
