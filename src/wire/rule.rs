//! Peer rules on the wire: packed 24-byte records. Addresses and masks travel in host byte order (both ends are on
//! the same machine), target and port in network byte order.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::frame::MAX_PAYLOAD_LEN;

/// Bytes of one rule.
pub const RULE_LEN: usize = 24;

/// Most rules that one frame can carry.
pub const MAX_RULES: usize = MAX_PAYLOAD_LEN / RULE_LEN;

/// Which packets of its peer a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Towards the peer.
    In,
    /// From the peer.
    Out,
}

/// What a peer asks for packets that match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleAction {
    /// Forward.
    Allow,
    /// Drop.
    Deny,
    /// Send as a UDP datagram to another router's gateway.
    Route(SocketAddrV4),
}

/// An address pattern as a peer sends it. The mask need not be a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskedAddress {
    /// Compared with the packet's masked address.
    pub address: u32,
    /// Bits of the packet's address that count.
    pub mask: u32,
}

impl MaskedAddress {
    /// Matches everything.
    pub const ANY: Self = Self { address: 0, mask: 0 };

    /// Whether an address matches. Address 0 under a full mask means any: that is how the C plugin's vassals write
    /// a pattern without a prefix length.
    pub const fn matches(self, address: Ipv4Addr) -> bool {
        (self.address == 0 && self.mask == u32::MAX) || address.to_bits() & self.mask == self.address
    }
}

/// One rule of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerRule {
    /// Which packets it looks at.
    pub direction: Direction,
    /// Pattern for the source.
    pub src: MaskedAddress,
    /// Pattern for the destination.
    pub dst: MaskedAddress,
    /// What it asks for.
    pub action: RuleAction,
}

const ACTION_ALLOW: u8 = 0;
const ACTION_DENY: u8 = 1;
const ACTION_ROUTE: u8 = 2;

impl PeerRule {
    /// The record as it travels.
    pub fn encode(&self) -> [u8; RULE_LEN] {
        let mut record = [0; RULE_LEN];
        record[0] = match self.direction {
            Direction::In => 0,
            Direction::Out => 1,
        };
        record[1..5].copy_from_slice(&self.src.address.to_ne_bytes());
        record[5..9].copy_from_slice(&self.src.mask.to_ne_bytes());
        record[9..13].copy_from_slice(&self.dst.address.to_ne_bytes());
        record[13..17].copy_from_slice(&self.dst.mask.to_ne_bytes());
        record[17] = match self.action {
            RuleAction::Allow => ACTION_ALLOW,
            RuleAction::Deny => ACTION_DENY,
            RuleAction::Route(_) => ACTION_ROUTE,
        };
        if let RuleAction::Route(target) = self.action {
            record[18..22].copy_from_slice(&target.ip().octets());
            record[22..24].copy_from_slice(&target.port().to_be_bytes());
        }
        record
    }

    /// Reads one record. `None` if direction or action is unknown: it can't be told what the peer wants.
    pub fn decode(record: &[u8; RULE_LEN]) -> Option<Self> {
        let word = |at: usize| u32::from_ne_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
        let direction = match record[0] {
            0 => Direction::In,
            1 => Direction::Out,
            _ => return None,
        };
        let action = match record[17] {
            ACTION_ALLOW => RuleAction::Allow,
            ACTION_DENY => RuleAction::Deny,
            ACTION_ROUTE => RuleAction::Route(SocketAddrV4::new(
                Ipv4Addr::new(record[18], record[19], record[20], record[21]),
                u16::from_be_bytes([record[22], record[23]]),
            )),
            _ => return None,
        };
        Some(Self {
            direction,
            src: MaskedAddress { address: word(1), mask: word(5) },
            dst: MaskedAddress { address: word(9), mask: word(13) },
            action,
        })
    }
}

/// Reads the payload of a rules frame. `None` if it isn't a whole number of rules, or one of them is unknown.
pub fn decode_all(payload: &[u8]) -> Option<Vec<PeerRule>> {
    let (records, rest) = payload.as_chunks::<RULE_LEN>();
    if !rest.is_empty() {
        return None;
    }
    records.iter().map(PeerRule::decode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_rule() -> impl Strategy<Value = PeerRule> {
        let pattern = || (any::<u32>(), any::<u32>()).prop_map(|(address, mask)| MaskedAddress { address, mask });
        let action = prop_oneof![
            Just(RuleAction::Allow),
            Just(RuleAction::Deny),
            (any::<u32>(), any::<u16>())
                .prop_map(|(ip, port)| RuleAction::Route(SocketAddrV4::new(Ipv4Addr::from_bits(ip), port))),
        ];
        (any::<bool>(), pattern(), pattern(), action).prop_map(|(out, src, dst, action)| PeerRule {
            direction: if out { Direction::Out } else { Direction::In },
            src,
            dst,
            action,
        })
    }

    #[test]
    fn layout_is_that_of_the_public_header() {
        let rule = PeerRule {
            direction: Direction::Out,
            src: MaskedAddress { address: 0x0a00_0001, mask: 0xffff_ff00 },
            dst: MaskedAddress { address: 0x0b00_0002, mask: 0xffff_0000 },
            action: RuleAction::Route(SocketAddrV4::new(Ipv4Addr::new(1, 2, 3, 4), 0x1234)),
        };
        let mut expected = vec![1];
        for word in [0x0a00_0001u32, 0xffff_ff00, 0x0b00_0002, 0xffff_0000] {
            expected.extend(word.to_ne_bytes());
        }
        expected.extend([2, 1, 2, 3, 4, 0x12, 0x34]);
        assert_eq!(rule.encode().as_slice(), expected);
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
    fn patterns() {
        let host = Ipv4Addr::new(192, 168, 0, 7);
        assert!(MaskedAddress::ANY.matches(host));
        assert!(MaskedAddress { address: 0, mask: u32::MAX }.matches(host));
        assert!(MaskedAddress { address: 0xc0a8_0000, mask: 0xffff_ff00 }.matches(host));
        assert!(!MaskedAddress { address: 0xc0a8_0100, mask: 0xffff_ff00 }.matches(host));
        assert!(!MaskedAddress { address: 0, mask: 0xff00_0000 }.matches(host));
        // what a C vassal makes of 192.168.0.0/24: never true, as in the C router
        assert!(!MaskedAddress { address: 0xc0a8_0000, mask: 0xff00_0000 }.matches(host));
    }

    proptest! {
        #[test]
        fn survives_the_wire(rules in prop::collection::vec(any_rule(), 0..20)) {
            let bytes: Vec<u8> = rules.iter().flat_map(PeerRule::encode).collect();
            prop_assert_eq!(decode_all(&bytes), Some(rules));
        }

        #[test]
        fn any_bytes_are_rules_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(rules) = decode_all(&bytes) {
                prop_assert_eq!(rules.len() * RULE_LEN, bytes.len());
            }
        }
    }
}
