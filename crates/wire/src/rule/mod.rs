//! Peer rules on the wire, in two forms. The form of the C plugin is packed records of 24 bytes: IPv4 only, addresses
//! and masks in host byte order (both ends are on the same machine), target and port in network byte order. Rules that
//! don't fit it are sent in the extended form, records of 64 bytes.

mod c_form;
mod extended;
mod selector;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub use self::selector::{MaskedAddress, PeerSelector};
use super::frame::{FrameKind, MAX_PAYLOAD_LEN};

/// `modifier2` of a frame with rules in the extended form. A C router would take it for a packet, so it is only sent to
/// routers that are known to support it.
pub const EXTENDED: u8 = 0x79;

/// Bytes of one rule in the C plugin's form.
pub const RULE_LEN: usize = 24;

/// Bytes of one rule in the extended form.
pub const EXTENDED_RULE_LEN: usize = 64;

/// Most rules in one frame, in the C plugin's form.
pub const MAX_RULES: usize = MAX_PAYLOAD_LEN / RULE_LEN;

/// Most rules in one frame, in the extended form.
pub const MAX_EXTENDED_RULES: usize = MAX_PAYLOAD_LEN / EXTENDED_RULE_LEN;

/// Which packets of its peer a peer rule is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Towards the peer.
    In,
    /// From the peer.
    Out,
}

impl Direction {
    /// Both, in the order of [`Direction::index`].
    pub const BOTH: [Self; 2] = [Self::Out, Self::In];

    /// Its place where something is kept for both: out, then in.
    pub const fn index(self) -> usize {
        match self {
            Self::Out => 0,
            Self::In => 1,
        }
    }
}

/// What a peer rule does with the packets that match it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleAction {
    /// Forward.
    Allow,
    /// Drop.
    Deny,
    /// Drop, and send an error to the sender.
    Reject,
    /// Send as a UDP datagram to another router's gateway.
    Route(SocketAddr),
}

/// One rule of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerRule {
    /// Which packets it is applied to.
    pub direction: Direction,
    /// Which of them it matches.
    pub selector: PeerSelector,
    /// What is done with them.
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

/// The kind and the payload of a frame with a peer's rules: in the C plugin's form if all of them fit it. `None` if
/// neither form fits all of them, which does not happen to rules from one source.
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

/// Reads the payload of a frame with rules in the C plugin's form. `None` if it isn't a whole number of records, or one
/// of them is unknown.
pub fn decode_all(payload: &[u8]) -> Option<Vec<PeerRule>> {
    let (records, rest) = payload.as_chunks::<RULE_LEN>();
    if !rest.is_empty() {
        return None;
    }
    records.iter().map(PeerRule::decode).collect()
}

/// Reads the payload of a frame with rules in the extended form. `None` as for [`decode_all`].
pub fn decode_all_extended(payload: &[u8]) -> Option<Vec<PeerRule>> {
    let (records, rest) = payload.as_chunks::<EXTENDED_RULE_LEN>();
    if !rest.is_empty() {
        return None;
    }
    records.iter().map(PeerRule::decode_extended).collect()
}
