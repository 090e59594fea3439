//! Peer rules on the wire, in two forms. The C plugin's is packed 24-byte records: IPv4 only, addresses and masks in host
//! byte order (both ends are on the same machine), target and port in network byte order. What doesn't fit these, travels in
//! 64-byte records of our own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::frame::{FrameKind, MAX_PAYLOAD_LEN};
use super::ip::Packet;
use super::selector::{AddressPattern, Ports, Protocol, Selector, Service};

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

/// An address pattern of the C plugin's form. The mask need not be a prefix.
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
        self.is_any() || address.to_bits() & self.mask == self.address
    }

    const fn is_any(self) -> bool {
        self.address == 0 && (self.mask == 0 || self.mask == u32::MAX)
    }

    /// `None` for IPv6, and for what can't be told from any address.
    fn of(pattern: AddressPattern) -> Option<Self> {
        match pattern {
            AddressPattern::Any => Some(Self::ANY),
            // As a record it would be any address.
            AddressPattern::Net(IpNet::V4(net)) if net.network().is_unspecified() && net.prefix_len() == 32 => None,
            AddressPattern::Net(IpNet::V4(net)) => {
                Some(Self { address: net.network().to_bits(), mask: net.netmask().to_bits() })
            }
            AddressPattern::Net(IpNet::V6(_)) => None,
        }
    }
}

/// Packets that a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerSelector {
    /// In the C plugin's form. Of IPv6 packets it is about all or none.
    Masked {
        /// Sources.
        src: MaskedAddress,
        /// Destinations.
        dst: MaskedAddress,
    },
    /// In the other form.
    Full(Selector),
}

impl PeerSelector {
    /// Whether a packet matches.
    pub fn matches(&self, packet: &Packet<'_>) -> bool {
        match self {
            Self::Masked { src, dst } => match (packet.src(), packet.dst()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => src.matches(from) && dst.matches(to),
                _ => src.is_any() && dst.is_any(),
            },
            Self::Full(selector) => selector.matches(packet),
        }
    }

    /// Whether IPv6 packets can match.
    pub const fn is_for_v6(&self) -> bool {
        match self {
            Self::Masked { src, dst } => src.is_any() && dst.is_any(),
            Self::Full(selector) => selector.is_for(false),
        }
    }
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

const VERSION_ANY: u8 = 0;
const VERSION_4: u8 = 4;
const VERSION_6: u8 = 6;

const HAS_PROTOCOL: u8 = 1;
const HAS_PORTS: u8 = 2;
const IS_ICMP: u8 = 4;

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

impl PeerRule {
    /// The record of the C plugin's form; `None` if the rule doesn't fit it.
    pub fn encode(&self) -> Option<[u8; RULE_LEN]> {
        let (src, dst) = match self.selector {
            PeerSelector::Masked { src, dst } => (src, dst),
            PeerSelector::Full(selector) if selector.service().is_none() => {
                let masked = (MaskedAddress::of(selector.src())?, MaskedAddress::of(selector.dst())?);
                // What is any IPv4 address on both sides would become any address there.
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

    /// Reads one record of the C plugin's form. `None` if direction or action is unknown: it can't be told what the peer
    /// wants.
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

    /// The record of the other form; `None` if the rule came in the C plugin's.
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
        if let RuleAction::Route(target) = self.action {
            record[12] = put_address(&mut record[48..64], target.ip());
            record[14..16].copy_from_slice(&target.port().to_be_bytes());
        }
        Some(record)
    }

    /// Reads one record of the other form. `None` if anything in it is unknown or makes no sense.
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
        let protocol = match record[6] & !HAS_PORTS {
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

/// Gateways of IPv4 are written as such, or one that nobody may name could be written in another way.
fn get_target(version: u8, bytes: &[u8]) -> Option<IpAddr> {
    get_address(version, bytes).filter(|address| *address == address.to_canonical())
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
                let is_plain =
                    !matches!(action, RuleAction::Route(target) if target.ip() != target.ip().to_canonical());
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
    fn layout_of_the_other_form_is_that_of_the_documentation() {
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
    fn records_of_the_other_form_that_make_no_sense_are_refused() {
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
            ("flags", &[(6, 8)]),
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
        // what a C vassal makes of 192.168.0.0/24: never true, as in the C router
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
        fn survives_the_wire_in_the_other_form(rules in prop::collection::vec(any_full_rule(), 1..20)) {
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
}
