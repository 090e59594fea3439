//! Which packets a rule matches: source, destination, protocol and port.

use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;

use super::ip::Packet;
use super::ip::protocol::{self, is_extension};

/// Addresses at one end of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressPattern {
    /// All addresses of both versions of IP.
    Any,
    /// The addresses of a network. Bits behind the prefix length are ignored.
    Net(IpNet),
}

impl AddressPattern {
    fn matches(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Net(net) => net.contains(&address),
        }
    }

    /// Returns true if addresses of IPv4 (or IPv6 if `v4` is false) can match.
    const fn is_for(self, v4: bool) -> bool {
        match self {
            Self::Any => true,
            Self::Net(IpNet::V4(_)) => v4,
            Self::Net(IpNet::V6(_)) => !v4,
        }
    }
}

/// A protocol above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// ICMP in IPv4 packets, ICMPv6 in IPv6 packets.
    Icmp,
    /// The one of this number (IANA, "Protocol Numbers").
    Number(u8),
}

impl Protocol {
    /// Its number in packets of IPv4 (or IPv6 if `v4` is false).
    pub const fn number(self, v4: bool) -> u8 {
        match self {
            Self::Icmp if v4 => protocol::ICMP,
            Self::Icmp => protocol::ICMPV6,
            Self::Number(number) => number,
        }
    }

    /// Returns true if its packets have ports.
    pub const fn has_ports(self) -> bool {
        match self {
            Self::Icmp => false,
            Self::Number(number) => protocol::has_ports(number),
        }
    }
}

/// A range of destination ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// `None` if `last` is before `first`.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first <= last { Some(Self { first, last }) } else { None }
    }

    /// The first and the last port.
    pub const fn bounds(self) -> (u16, u16) {
        (self.first, self.last)
    }

    /// Returns true if the range has a packet's port. Packets without a port, such as later fragments, never match.
    pub fn contains(self, port: Option<u16>) -> bool {
        port.is_some_and(|port| (self.first..=self.last).contains(&port))
    }
}

/// A protocol, and some or all of its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// The protocol.
    pub protocol: Protocol,
    /// The ports. `None` matches every port, and packets without one.
    pub ports: Option<Ports>,
}

/// What the router knows of the connection that a packet belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    /// No packet in the opposite direction was let through before.
    New,
    /// A packet in the opposite direction was let through before, or this is an ICMP error about a packet of such a
    /// connection.
    Established,
}

/// Why a selector is refused: it would never match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SelectorError {
    /// No packet has both.
    #[error("source and destination are of different IP versions")]
    MixedVersions,
    /// No IPv6 packet has it as its protocol.
    #[error("the protocol is an extension header of IPv6")]
    ExtensionHeader,
}

/// The packets that a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selector {
    src: AddressPattern,
    dst: AddressPattern,
    service: Option<Service>,
    state: Option<ConnectionState>,
}

impl Selector {
    /// Every packet.
    pub const ALL: Self = Self { src: AddressPattern::Any, dst: AddressPattern::Any, service: None, state: None };

    /// Packets from `src` to `dst`, if they are of this service. An error if no packet can match.
    pub fn new(src: AddressPattern, dst: AddressPattern, service: Option<Service>) -> Result<Self, SelectorError> {
        let selector = Self { src, dst, service, state: None };
        let names_extension = service.is_some_and(|service| is_extension(service.protocol.number(false)));
        if !selector.is_for(true) && !selector.is_for(false) {
            Err(SelectorError::MixedVersions)
        } else if names_extension && selector.is_for(false) {
            Err(SelectorError::ExtensionHeader)
        } else {
            Ok(selector)
        }
    }

    /// Returns the same selector for packets of connections in this state only; `None` is every state.
    #[must_use]
    pub const fn with_state(self, state: Option<ConnectionState>) -> Self {
        Self { state, ..self }
    }

    /// The state that a packet's connection must have. `None` matches packets of connections in every state, and packets
    /// that belong to no connection, such as later fragments.
    pub const fn state(&self) -> Option<ConnectionState> {
        self.state
    }

    /// Sources.
    pub const fn src(&self) -> AddressPattern {
        self.src
    }

    /// Destinations.
    pub const fn dst(&self) -> AddressPattern {
        self.dst
    }

    /// Protocol and ports. `None` matches all packets.
    pub const fn service(&self) -> Option<Service> {
        self.service
    }

    /// Returns true if packets of IPv4 (or IPv6 if `v4` is false) can match.
    pub const fn is_for(&self, v4: bool) -> bool {
        self.src.is_for(v4) && self.dst.is_for(v4)
    }

    /// Returns true if a packet matches. `state` is that of its connection, `None` if it belongs to none.
    pub fn matches(&self, packet: &Packet<'_>, state: Option<ConnectionState>) -> bool {
        let port = packet.destination_port();
        self.matches_headers(packet.src(), packet.dst(), packet.protocol(), port)
            && self.state.is_none_or(|wanted| state == Some(wanted))
    }

    /// Returns true if a packet with these addresses, this protocol and this destination port matches, whatever the state of
    /// its connection is.
    pub fn matches_headers(&self, src: IpAddr, dst: IpAddr, protocol: u8, port: Option<u16>) -> bool {
        let fits = |service: Service| {
            service.protocol.number(src.is_ipv4()) == protocol && service.ports.is_none_or(|ports| ports.contains(port))
        };
        self.src.matches(src) && self.dst.matches(dst) && self.service.is_none_or(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn net(text: &str) -> AddressPattern {
        AddressPattern::Net(text.parse().expect("a prefix"))
    }

    fn tcp4(port: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1, port, 0, 0)
            .write(&mut bytes, b"x")
            .expect("a valid packet");
        bytes
    }

    fn icmp6() -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv6([0xfd; 16], [0xfc; 16], 64)
            .icmpv6_echo_request(1, 1)
            .write(&mut bytes, b"x")
            .expect("a valid packet");
        bytes
    }

    fn matches(selector: Selector, bytes: &[u8]) -> bool {
        selector.matches(&Packet::parse(bytes).expect("valid"), None)
    }

    #[test]
    fn addresses_protocol_and_port_all_count() {
        let service = |number, ports: Option<(u16, u16)>| {
            Some(Service {
                protocol: Protocol::Number(number),
                ports: ports.and_then(|(first, last)| Ports::new(first, last)),
            })
        };
        let select = |dst, service| Selector::new(AddressPattern::Any, dst, service).expect("one version");
        for (selector, expected) in [
            (select(AddressPattern::Any, None), true),
            (select(net("10.0.0.0/24"), service(protocol::TCP, None)), true),
            (select(net("10.0.1.0/24"), service(protocol::TCP, None)), false),
            (select(net("::/0"), None), false),
            (select(AddressPattern::Any, service(protocol::UDP, None)), false),
            (select(AddressPattern::Any, service(protocol::TCP, Some((80, 80)))), true),
            (select(AddressPattern::Any, service(protocol::TCP, Some((79, 81)))), true),
            (select(AddressPattern::Any, service(protocol::TCP, Some((81, 90)))), false),
        ] {
            assert_eq!(matches(selector, &tcp4(80)), expected, "{selector:?}");
        }
    }

    #[test]
    fn icmp_is_that_of_the_packets_version() {
        let icmp = Some(Service { protocol: Protocol::Icmp, ports: None });
        let selector = Selector::new(AddressPattern::Any, AddressPattern::Any, icmp).expect("both versions");
        assert!(matches(selector, &icmp6()));
        assert!(!matches(selector, &tcp4(80)));
    }

    #[test]
    fn mixed_versions_are_refused() {
        assert_eq!(Selector::new(net("10.0.0.0/8"), net("fd00::/8"), None), Err(SelectorError::MixedVersions));
    }

    /// Rules for IPv6 with such a protocol would never match.
    #[test]
    fn extension_headers_are_protocols_in_ipv4_only() {
        let any = AddressPattern::Any;
        for number in [0, 43, 44, 51, 60, 135, 139, 140] {
            let service = Some(Service { protocol: Protocol::Number(number), ports: None });
            for (src, dst) in [(any, any), (net("fd00::/8"), any), (any, net("::/0"))] {
                assert_eq!(Selector::new(src, dst, service), Err(SelectorError::ExtensionHeader), "{number}");
            }
            assert!(Selector::new(net("0.0.0.0/0"), any, service).is_ok(), "{number}");
        }
        for number in [1, 6, 47, 50, 58, 59] {
            assert!(Selector::new(any, any, Some(Service { protocol: Protocol::Number(number), ports: None })).is_ok());
        }
    }

    #[test]
    fn later_fragments_match_no_port() {
        let mut bytes = tcp4(80);
        bytes[7] = 1;
        let service = |ports| Some(Service { protocol: Protocol::Number(protocol::TCP), ports });
        let select = |ports| Selector::new(AddressPattern::Any, AddressPattern::Any, service(ports)).expect("fits");
        assert!(matches(select(None), &bytes));
        assert!(!matches(select(Ports::new(0, u16::MAX)), &bytes));
    }
}
