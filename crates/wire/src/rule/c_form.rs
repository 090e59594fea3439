//! Peer rules in the C plugin's form: packed records of 24 bytes.

use std::net::SocketAddr;

use super::{
    ACTION_ALLOW, ACTION_DENY, ACTION_ROUTE, Direction, MaskedAddress, PeerRule, PeerSelector, RULE_LEN, RuleAction,
};

impl PeerRule {
    /// The record in the C plugin's form. `None` if the rule doesn't fit it.
    pub fn encode(&self) -> Option<[u8; RULE_LEN]> {
        let (src, dst) = match self.selector {
            PeerSelector::Masked { src, dst } => (src, dst),
            PeerSelector::Full(selector) if selector.service().is_none() && selector.state().is_none() => {
                let masked = (MaskedAddress::of(selector.src())?, MaskedAddress::of(selector.dst())?);
                // With 0.0.0.0/0 a selector matches IPv4 only, but this record would match both versions.
                if masked.0.is_any() && masked.1.is_any() && !selector.is_for(false) {
                    return None;
                }
                masked
            }
            PeerSelector::Full(_) => return None,
        };
        let mut record = [0; RULE_LEN];
        record[0] = self.direction.code();
        record[1..5].copy_from_slice(&src.address.to_ne_bytes());
        record[5..9].copy_from_slice(&src.mask.to_ne_bytes());
        record[9..13].copy_from_slice(&dst.address.to_ne_bytes());
        record[13..17].copy_from_slice(&dst.mask.to_ne_bytes());
        record[17] = match self.action {
            RuleAction::Allow => ACTION_ALLOW,
            RuleAction::Deny => ACTION_DENY,
            RuleAction::Route(SocketAddr::V4(target)) => {
                record[18..22].copy_from_slice(&target.ip().octets());
                record[22..24].copy_from_slice(&target.port().to_be_bytes());
                ACTION_ROUTE
            }
            RuleAction::Route(SocketAddr::V6(_)) | RuleAction::Reject => return None,
        };
        Some(record)
    }

    /// Reads one record in the C plugin's form. `None` if direction or action is unknown.
    pub fn decode(record: &[u8; RULE_LEN]) -> Option<Self> {
        let word = |at: usize| u32::from_ne_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
        let action = match record[17] {
            ACTION_ALLOW => RuleAction::Allow,
            ACTION_DENY => RuleAction::Deny,
            ACTION_ROUTE => RuleAction::Route(SocketAddr::from((
                [record[18], record[19], record[20], record[21]],
                u16::from_be_bytes([record[22], record[23]]),
            ))),
            _ => return None,
        };
        Some(Self {
            direction: Direction::from_code(record[0])?,
            selector: PeerSelector::Masked {
                src: MaskedAddress { address: word(1), mask: word(5) },
                dst: MaskedAddress { address: word(9), mask: word(13) },
            },
            action,
        })
    }
}
