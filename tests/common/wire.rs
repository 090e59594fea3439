//! The C wire format, written down once more: tests must not lean on the code that they test.

use std::net::{Ipv4Addr, SocketAddrV4};

pub const HEADER_LEN: usize = 4;
/// The longest payload that fits into the C plugin's buffer of 8192 bytes beside the header.
pub const MAX_PAYLOAD: usize = 8188;
/// The message that carries the credentials.
pub const CREDENTIALS: &[u8; 12] = b"uwsgi-tuntap";

/// `modifier2` of the frames that C knows.
pub const PACKET: u8 = 0;
pub const RULES: u8 = 1;
/// `modifier2` of rules in the form that C doesn't know.
pub const EXTENDED_RULES: u8 = 0x79;
/// `modifier2` of a device's question, and of the router's answer.
pub const ASK: u8 = 0x76;
pub const CONFIGURATION: u8 = 0x77;

/// A packed rule.
pub const RULE_LEN: usize = 24;

/// A rule of the other form.
pub const EXTENDED_RULE_LEN: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub modifier2: u8,
    pub payload: Vec<u8>,
}

/// A header that announces `size` bytes.
pub fn header(modifier2: u8, size: u16) -> [u8; HEADER_LEN] {
    let [low, high] = size.to_le_bytes();
    [0, low, high, modifier2]
}

pub fn frame(modifier2: u8, payload: &[u8]) -> Vec<u8> {
    let size = u16::try_from(payload.len()).expect("a frame's size is a u16");
    [&header(modifier2, size)[..], payload].concat()
}

/// Takes the first whole frame off `bytes`.
pub fn take_frame(bytes: &mut Vec<u8>) -> Option<Frame> {
    let header = bytes.get(..HEADER_LEN)?;
    let (size, modifier2) = (usize::from(u16::from_le_bytes([header[1], header[2]])), header[3]);
    assert_eq!(header[0], 0, "modifier1 of a frame");
    if bytes.len() < HEADER_LEN + size {
        return None;
    }
    let payload = bytes[HEADER_LEN..HEADER_LEN + size].to_vec();
    bytes.drain(..HEADER_LEN + size);
    Some(Frame { modifier2, payload })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    In = 0,
    Out = 1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
    Gateway(SocketAddrV4),
}

/// One rule of a peer: networks are an address and a prefix length, `0.0.0.0` is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub direction: Direction,
    pub source: (Ipv4Addr, u32),
    pub destination: (Ipv4Addr, u32),
    pub action: Action,
}

pub const ANY: (Ipv4Addr, u32) = (Ipv4Addr::UNSPECIFIED, 32);

/// Rules as the payload of a rule frame: packed, addresses and masks as native integers, the target in
/// network order.
pub fn rules(rules: &[Rule]) -> Vec<u8> {
    let mut block = Vec::new();
    for rule in rules {
        block.push(rule.direction as u8);
        for (address, prefix) in [rule.source, rule.destination] {
            block.extend(u32::from(address).to_ne_bytes());
            block.extend(mask(prefix).to_ne_bytes());
        }
        let (action, target) = match rule.action {
            Action::Allow => (0, None),
            Action::Deny => (1, None),
            Action::Gateway(target) => (2, Some(target)),
        };
        block.push(action);
        block.extend(target.map_or([0; 4], |target| target.ip().octets()));
        block.extend(target.map_or([0; 2], |target| target.port().to_be_bytes()));
    }
    assert_eq!(block.len(), rules.len() * RULE_LEN);
    block
}

fn mask(prefix: u32) -> u32 {
    u32::MAX.checked_shl(32 - prefix).unwrap_or(0)
}
