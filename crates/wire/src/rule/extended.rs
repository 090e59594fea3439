//! Peer rules in the extended form: records of 64 bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::{
    ACTION_ALLOW, ACTION_DENY, ACTION_REJECT, ACTION_ROUTE, Direction, EXTENDED_RULE_LEN, PeerRule, PeerSelector,
    RuleAction,
};
use crate::selector::{AddressPattern, ConnectionState, Ports, Protocol, Selector, Service};

const VERSION_ANY: u8 = 0;
const VERSION_4: u8 = 4;
const VERSION_6: u8 = 6;

pub(super) const HAS_PROTOCOL: u8 = 1;
pub(super) const HAS_PORTS: u8 = 2;
pub(super) const IS_ICMP: u8 = 4;
/// The rule is for new connections only, or for established ones only. A router that doesn't know these bits refuses the
/// frame, rather than applying the rule to all packets.
pub(super) const IS_NEW: u8 = 8;
pub(super) const IS_ESTABLISHED: u8 = 16;

impl PeerRule {
    /// The record in the extended form. `None` for a rule that was received in the C plugin's form.
    pub fn encode_extended(&self) -> Option<[u8; EXTENDED_RULE_LEN]> {
        let PeerSelector::Full(selector) = self.selector else { return None };
        let mut record = [0; EXTENDED_RULE_LEN];
        record[0] = self.direction.code();
        record[1] = match self.action {
            RuleAction::Allow => ACTION_ALLOW,
            RuleAction::Deny => ACTION_DENY,
            RuleAction::Reject => ACTION_REJECT,
            RuleAction::Route(_) => ACTION_ROUTE,
        };
        for (pattern, version_at, len_at, address_at) in [(selector.src(), 2, 4, 16), (selector.dst(), 3, 5, 32)] {
            if let AddressPattern::Net(net) = pattern {
                record[version_at] = put_address(&mut record[address_at..address_at + 16], net.network());
                record[len_at] = net.prefix_len();
            }
        }
        if let Some(service) = selector.service() {
            match service.protocol {
                Protocol::Icmp => record[6] |= IS_ICMP,
                Protocol::Number(number) => {
                    record[6] |= HAS_PROTOCOL;
                    record[7] = number;
                }
            }
            if let Some((first, last)) = service.ports.map(Ports::bounds) {
                record[6] |= HAS_PORTS;
                record[8..10].copy_from_slice(&first.to_be_bytes());
                record[10..12].copy_from_slice(&last.to_be_bytes());
            }
        }
        record[6] |= match selector.state() {
            None => 0,
            Some(ConnectionState::New) => IS_NEW,
            Some(ConnectionState::Established) => IS_ESTABLISHED,
        };
        if let RuleAction::Route(target) = self.action {
            record[12] = put_address(&mut record[48..64], target.ip());
            record[14..16].copy_from_slice(&target.port().to_be_bytes());
        }
        Some(record)
    }

    /// Reads one record in the extended form. `None` if a value in it is unknown or contradicts another.
    pub fn decode_extended(record: &[u8; EXTENDED_RULE_LEN]) -> Option<Self> {
        let word = |at: usize| u16::from_be_bytes([record[at], record[at + 1]]);
        let pattern = |version: u8, len: u8, at: usize| match version {
            VERSION_ANY => Some(AddressPattern::Any),
            _ => {
                let net = IpNet::new(get_address(version, &record[at..at + 16])?, len).ok()?;
                (net.addr() == net.network()).then_some(AddressPattern::Net(net))
            }
        };
        let ports = match record[6] & HAS_PORTS {
            0 => None,
            _ => Some(Ports::new(word(8), word(10))?),
        };
        let state = match record[6] & (IS_NEW | IS_ESTABLISHED) {
            0 => None,
            IS_NEW => Some(ConnectionState::New),
            IS_ESTABLISHED => Some(ConnectionState::Established),
            _ => return None,
        };
        let protocol = match record[6] & !(HAS_PORTS | IS_NEW | IS_ESTABLISHED) {
            0 => None,
            HAS_PROTOCOL => Some(Protocol::Number(record[7])),
            IS_ICMP => Some(Protocol::Icmp),
            _ => return None,
        };
        let service = match (protocol, ports) {
            (None, None) => None,
            (Some(protocol), ports) if ports.is_none() || protocol.has_ports() => Some(Service { protocol, ports }),
            _ => return None,
        };
        let selector =
            Selector::new(pattern(record[2], record[4], 16)?, pattern(record[3], record[5], 32)?, service).ok()?;
        let selector = selector.with_state(state);
        let action = match record[1] {
            ACTION_ALLOW => RuleAction::Allow,
            ACTION_DENY => RuleAction::Deny,
            ACTION_REJECT => RuleAction::Reject,
            ACTION_ROUTE => RuleAction::Route(SocketAddr::new(get_target(record[12], &record[48..64])?, word(14))),
            _ => return None,
        };
        Some(Self { direction: Direction::from_code(record[0])?, selector: PeerSelector::Full(selector), action })
    }
}

/// Writes an address into 16 bytes, and returns its version.
fn put_address(bytes: &mut [u8], address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => {
            bytes[..4].copy_from_slice(&address.octets());
            VERSION_4
        }
        IpAddr::V6(address) => {
            bytes.copy_from_slice(&address.octets());
            VERSION_6
        }
    }
}

fn get_address(version: u8, bytes: &[u8]) -> Option<IpAddr> {
    match version {
        VERSION_4 => bytes.first_chunk::<4>().map(|octets| IpAddr::V4(Ipv4Addr::from(*octets))),
        VERSION_6 => bytes.first_chunk::<16>().map(|octets| IpAddr::V6(Ipv6Addr::from(*octets))),
        _ => None,
    }
}

/// Reads the address of a gateway. IPv4-mapped addresses are refused, so that a gateway has only one spelling that the
/// router compares with the gateways that peers may name.
fn get_target(version: u8, bytes: &[u8]) -> Option<IpAddr> {
    get_address(version, bytes).filter(|address| *address == address.to_canonical())
}
