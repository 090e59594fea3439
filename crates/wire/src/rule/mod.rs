//! Peer rules on the wire, in two forms. The C plugin's is packed 24-byte records: IPv4 only, addresses and masks in host
//! byte order (both ends are on the same machine), target and port in network byte order. What doesn't fit these, travels in
//! 64-byte records of our own.

mod c_form;
mod extended;
mod selector;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub use self::selector::{MaskedAddress, PeerSelector};
use super::frame::{FrameKind, MAX_PAYLOAD_LEN};

/// `modifier2` of a frame with rules of the other form. A router of the C plugin would take it for a packet, so that it is
/// for those only that are known to speak the extension.
pub const EXTENDED: u8 = 0x79;

/// Bytes of one rule of the C plugin's form.
pub const RULE_LEN: usize = 24;

/// Bytes of one rule of the other form.
pub const EXTENDED_RULE_LEN: usize = 64;

/// Most rules that one frame can carry.
pub const MAX_RULES: usize = MAX_PAYLOAD_LEN / RULE_LEN;

/// As [`MAX_RULES`], if one of them needs the other form.
pub const MAX_EXTENDED_RULES: usize = MAX_PAYLOAD_LEN / EXTENDED_RULE_LEN;

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
    /// Drop, and tell the sender.
    Reject,
    /// Send as a UDP datagram to another router's gateway.
    Route(SocketAddr),
}

/// One rule of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerRule {
    /// Which packets it looks at.
    pub direction: Direction,
    /// Which of them it is about.
    pub selector: PeerSelector,
    /// What it asks for.
    pub action: RuleAction,
}

const ACTION_ALLOW: u8 = 0;
const ACTION_DENY: u8 = 1;
const ACTION_ROUTE: u8 = 2;
const ACTION_REJECT: u8 = 3;

impl Direction {
    const fn code(self) -> u8 {
        match self {
            Self::In => 0,
            Self::Out => 1,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::In),
            1 => Some(Self::Out),
            _ => None,
        }
    }
}

/// The rules of a peer as the payload of a frame of this kind: in the C plugin's form if all of them fit that. `None` if
/// they have no form in common, which never happens to rules of one origin.
pub fn encode_all<'a>(rules: impl Iterator<Item = &'a PeerRule> + Clone) -> Option<(FrameKind, Vec<u8>)> {
    let in_c_form: Option<Vec<_>> = rules.clone().map(PeerRule::encode).collect();
    match in_c_form {
        Some(records) => Some((FrameKind::Rules, records.concat())),
        None => {
            let records: Option<Vec<_>> = rules.map(PeerRule::encode_extended).collect();
            Some((FrameKind::ExtendedRules, records?.concat()))
        }
    }
}

/// Reads the payload of a frame of rules in the C plugin's form. `None` if it isn't a whole number of rules, or one of them
/// is unknown.
pub fn decode_all(payload: &[u8]) -> Option<Vec<PeerRule>> {
    let (records, rest) = payload.as_chunks::<RULE_LEN>();
    if !rest.is_empty() {
        return None;
    }
    records.iter().map(PeerRule::decode).collect()
}

/// As [`decode_all`], for the other form.
pub fn decode_all_extended(payload: &[u8]) -> Option<Vec<PeerRule>> {
    let (records, rest) = payload.as_chunks::<EXTENDED_RULE_LEN>();
    if !rest.is_empty() {
        return None;
    }
    records.iter().map(PeerRule::decode_extended).collect()
}
