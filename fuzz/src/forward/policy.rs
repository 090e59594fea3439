//! Reads policies and peer rules from the input.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use tuntap_core::policy::grant::{Grant, Holder, Identity, Uncovered};
use tuntap_core::policy::pattern::{Action, PolicyRule};
use tuntap_core::policy::targets::TargetRange;
use tuntap_wire::rule::{Direction, MaskedAddress, PeerRule, PeerSelector, RuleAction};
use tuntap_wire::selector::{AddressPattern, Ports, Protocol, Selector, Service};

use super::super::input::Input;
use super::IDS;

/// A policy in the form in which the oracle reads it.
pub(super) struct PolicyRules {
    pub(super) firewall_in: Vec<PolicyRule<Action>>,
    pub(super) firewall_out: Vec<PolicyRule<Action>>,
    pub(super) routes: Vec<PolicyRule<SocketAddr>>,
    pub(super) has_gateway: bool,
    pub(super) switch: bool,
    pub(super) grants: Vec<Grant>,
    pub(super) uncovered: Uncovered,
    pub(super) device_routes: Vec<TargetRange>,
    pub(super) gateway_sources: Vec<IpNet>,
    /// The router's own addresses.
    pub(super) networks: Vec<IpNet>,
    /// The address of this router's gateway.
    pub(super) own_gateway: Option<SocketAddr>,
    /// The peers that may send to gateways nevertheless.
    pub(super) gateway_vassals: Option<IpNet>,
    /// True if peers may only claim addresses of the networks.
    pub(super) claims_own: bool,
    /// See `GuardPolicy::is_strict`.
    pub(super) is_strict: bool,
    /// Addresses of the host's interfaces.
    pub(super) host: Vec<IpNet>,
    /// True if rules may name protocols, and packets have different ones.
    pub(super) has_services: bool,
}

pub(super) fn read_policy(input: &mut Input<'_>) -> PolicyRules {
    let flags = input.byte();
    let has_services = flags & 32 != 0;
    let action = |input: &mut Input<'_>| match input.byte() & 3 {
        1 => Action::Deny,
        3 => Action::Reject,
        _ => Action::Allow,
    };
    let mut rules = PolicyRules {
        firewall_in: read_rules(input, has_services, action),
        firewall_out: read_rules(input, has_services, action),
        routes: read_rules(input, has_services, target),
        has_gateway: flags & 1 != 0,
        switch: flags & 2 != 0,
        grants: Vec::new(),
        uncovered: Uncovered::Allow,
        device_routes: Vec::new(),
        gateway_sources: Vec::new(),
        networks: Vec::new(),
        own_gateway: None,
        gateway_vassals: None,
        claims_own: false,
        is_strict: false,
        host: Vec::new(),
        has_services,
    };
    if flags & 4 != 0 {
        rules.uncovered = if input.flag() { Uncovered::Allow } else { Uncovered::Deny };
        rules.grants = (0..input.below(8)).map(|_| read_grant(input)).collect();
    }
    if flags & 8 != 0 {
        rules.device_routes = (0..input.below(4)).map(|_| read_range(input)).collect();
    }
    if flags & 16 != 0 {
        rules.gateway_sources = (0..input.below(4)).map(|_| net(input)).collect();
    }
    if flags & 64 != 0 {
        rules.networks = (0..input.below(4)).map(|_| net(input)).collect();
    }
    if flags & 128 != 0 {
        read_guard(input, &mut rules);
    }
    rules
}

/// Reads which addresses peers may claim, the router's gateway, and the host's addresses.
fn read_guard(input: &mut Input<'_>, rules: &mut PolicyRules) {
    let kind = input.byte();
    rules.claims_own = kind & 1 != 0;
    rules.is_strict = kind & 0x40 != 0;
    rules.own_gateway = match kind >> 1 & 3 {
        0 => None,
        1 => Some(target(input)),
        2 => Some(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), input.byte().into())),
        _ => Some(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), input.byte().into())),
    };
    rules.gateway_vassals = (kind & 8 != 0).then(|| net(input));
    rules.host = (0..kind >> 4 & 3).map(|_| net(input)).collect();
}

pub(super) fn read_rules<T>(
    input: &mut Input<'_>,
    has_services: bool,
    target: impl Fn(&mut Input<'_>) -> T,
) -> Vec<PolicyRule<T>> {
    (0..input.below(8))
        .map(|_| PolicyRule { selector: read_selector(input, has_services), target: target(input) })
        .collect()
}

pub(super) fn read_selector(input: &mut Input<'_>, has_services: bool) -> Selector {
    let (src, dst) = (read_pattern(input), read_pattern(input));
    let service = if has_services { read_service(input) } else { None };
    let is_mixed = matches!(
        (src, dst),
        (AddressPattern::Net(IpNet::V4(_)), AddressPattern::Net(IpNet::V6(_)))
            | (AddressPattern::Net(IpNet::V6(_)), AddressPattern::Net(IpNet::V4(_)))
    );
    let may_be_v6 = [src, dst].iter().all(|it| !matches!(it, AddressPattern::Net(IpNet::V4(_))));
    let is_extension = may_be_v6
        && matches!(service, Some(Service { protocol: Protocol::Number(0 | 43 | 44 | 51 | 60 | 135 | 139 | 140), .. }));
    let selector = Selector::new(src, dst, service);
    assert_eq!(selector.is_err(), is_mixed || is_extension, "{src:?} {dst:?} {service:?}");
    selector.unwrap_or_else(|_| Selector::new(src, AddressPattern::Any, None).expect("one version"))
}

pub(super) fn read_pattern(input: &mut Input<'_>) -> AddressPattern {
    match input.byte() {
        0xf0.. => AddressPattern::Any,
        len => AddressPattern::Net(net_of(len, address(input))),
    }
}

/// Reads one of a few protocols, with or without ports, of which there are few.
pub(super) fn read_service(input: &mut Input<'_>) -> Option<Service> {
    let kind = input.byte();
    let protocol = match kind & 7 {
        0 => return None,
        1 => Protocol::Icmp,
        2 => Protocol::Number(58),
        3 => Protocol::Number(60),
        4 => Protocol::Number(6),
        5 => Protocol::Number(17),
        6 => Protocol::Number(132),
        _ => Protocol::Number(input.byte()),
    };
    let names_ports = kind & 8 != 0;
    let ports = if names_ports && [6, 17, 33, 132, 136].map(Protocol::Number).contains(&protocol) {
        let (one, other) = (input.byte(), input.byte());
        let (first, last) = (u16::from(one.min(other)), u16::from(one.max(other)));
        assert!(first == last || Ports::new(last, first).is_none());
        Ports::new(first, last)
    } else {
        None
    };
    Some(Service { protocol, ports })
}

pub(super) fn read_grant(input: &mut Input<'_>) -> Grant {
    let prefix = net(input);
    let holder = input.byte();
    let number = u32::from(holder >> 1) % IDS;
    Grant { prefix, holder: if holder & 1 == 0 { Holder::User(number) } else { Holder::Group(number) } }
}

pub(super) fn read_range(input: &mut Input<'_>) -> TargetRange {
    let len = input.byte();
    let port = input.flag();
    let target = target(input);
    TargetRange { prefix: net_of(len, target.ip()), port: port.then_some(target.port()) }
}

/// Users and groups have the same few numbers, so that a confusion of both is found.
pub(super) fn read_identity(input: &mut Input<'_>) -> Identity {
    let mut id = || u32::from(input.byte()) % IDS;
    let (uid, gid) = (id(), id());
    let count = input.below(4);
    Identity { uid, gid, groups: (0..count).map(|_| u32::from(input.byte()) % IDS).collect() }
}

pub(super) fn read_peer_rules(input: &mut Input<'_>, has_services: bool) -> Vec<PeerRule> {
    let masked = |input: &mut Input<'_>| match input.byte() {
        len @ 0..=32 => MaskedAddress {
            address: match address(input) {
                IpAddr::V4(address) => address.to_bits(),
                IpAddr::V6(_) => 0,
            },
            mask: u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0),
        },
        _ => MaskedAddress { address: u32::from_be_bytes(input.array()), mask: u32::from_be_bytes(input.array()) },
    };
    (0..input.below(6))
        .map(|_| {
            let kind = input.byte();
            let is_full = kind & 8 != 0;
            PeerRule {
                direction: if kind & 1 == 0 { Direction::In } else { Direction::Out },
                selector: if is_full {
                    PeerSelector::Full(read_selector(input, has_services))
                } else {
                    PeerSelector::Masked { src: masked(input), dst: masked(input) }
                },
                action: match kind >> 1 & 3 {
                    0 => RuleAction::Allow,
                    1 => RuleAction::Route(target(input)),
                    3 if is_full => RuleAction::Reject,
                    _ => RuleAction::Deny,
                },
            }
        })
        .collect()
}

/// There are few addresses and ports, so that those of peers and of the router are often the same.
pub(super) fn target(input: &mut Input<'_>) -> SocketAddr {
    let [last, port] = input.array();
    let ip = match last {
        0..0xc0 => IpAddr::from([203, 0, 113, last]),
        _ => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()]),
    };
    SocketAddr::new(ip, port.into())
}

pub(super) fn net(input: &mut Input<'_>) -> IpNet {
    let len = input.byte();
    net_of(len, address(input))
}

pub(super) fn net_of(len: u8, address: IpAddr) -> IpNet {
    let lengths = if address.is_ipv4() { 33 } else { 129 };
    IpNet::new_assert(address, len % lengths)
}

pub(super) fn address(input: &mut Input<'_>) -> IpAddr {
    match input.byte() {
        last @ 0..=7 => IpAddr::from([10, 0, 0, last]),
        last @ 8..=15 => IpAddr::from([10, 0, 1, last]),
        16 => Ipv4Addr::UNSPECIFIED.into(),
        17 => IpAddr::from([0, 1, 2, 3]),
        18 => Ipv4Addr::LOCALHOST.into(),
        19 => IpAddr::from([224, 0, 0, 1]),
        20 => Ipv4Addr::BROADCAST.into(),
        21 => IpAddr::from([223, 255, 255, 255]),
        22 => IpAddr::from([169, 254, 0, 1]),
        last @ 0x80..=0x8f => IpAddr::from([0xfd00, 0x77, 0, 0, 0, 0, 0, u16::from(last) - 0x80]),
        last @ 0x90..=0x97 => IpAddr::from([0xfd00, 0x77, 0, 1, 0, 0, 0, u16::from(last) - 0x90]),
        0x98 => Ipv6Addr::UNSPECIFIED.into(),
        0x99 => Ipv6Addr::LOCALHOST.into(),
        0x9a => IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1]),
        0x9b => IpAddr::from([0xff02, 0, 0, 0, 0, 0, 0, 2]),
        0x9c => IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1]),
        0x9d => IpAddr::from([0xfebf, 0xffff, 0, 0, 0, 0, 0, 1]),
        0x9e => IpAddr::from([0xfec0, 0, 0, 0, 0, 0, 0, 1]),
        0x9f => IpAddr::from([0xfeff, 0, 0, 0, 0, 0, 0, 1]),
        0xa0..=0xaf => IpAddr::from(input.array::<16>()),
        _ => IpAddr::from(input.array::<4>()),
    }
}
