//! The oracle: which rules match, and the kinds of addresses.

use std::net::IpAddr;

use ipnet::IpNet;
use tuntap_core::policy::pattern::{Action, PolicyRule};
use tuntap_wire::rule::{Direction, MaskedAddress, PeerRule, PeerSelector, RuleAction};
use tuntap_wire::selector::{AddressPattern, Ports, Protocol, Selector, Service};

use super::super::probe::Probe;

/// Returns true for unicast addresses of more than link-local scope.
pub(super) fn can_be_claimed(address: IpAddr) -> bool {
    is_unicast(address) && !within(address, "169.254.0.0/16".parse().expect("a network"))
}

/// Returns true unless the address is multicast, broadcast, unspecified, loopback, or link-local of IPv6.
pub(super) fn is_unicast(address: IpAddr) -> bool {
    let nets: &[&str] = match address {
        IpAddr::V4(_) => &["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"],
        IpAddr::V6(_) => &["::/96", "::ffff:0:0/96", "fe80::/10", "ff00::/8"],
    };
    !nets.iter().any(|net| within(address, net.parse().expect("a network")))
}

/// Returns true for the first address of a network and the last one of IPv4, unless it has one or two addresses only.
pub(super) fn is_for_all(address: IpAddr, net: IpNet) -> bool {
    let host_bits = net.max_prefix_len() - net.prefix_len();
    let (bits, is_v4) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), true),
        IpAddr::V6(address) => (address.to_bits(), false),
    };
    let all_ones = 1u128.checked_shl(host_bits.into()).unwrap_or(0).wrapping_sub(1);
    host_bits > 1 && (bits & all_ones == 0 || is_v4 && bits & all_ones == all_ones)
}

/// Returns true if the address is in the network. Host bits of the network are ignored.
pub(super) fn within(address: IpAddr, net: IpNet) -> bool {
    let same_bits = match (address, net.addr()) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => return false,
    };
    same_bits >= u32::from(net.prefix_len())
}

/// A chain without a matching rule lets a packet pass. A chain with rules for IPv4 only denies IPv6.
pub(super) fn chain(rules: &[PolicyRule<Action>], probe: &Probe) -> Action {
    let speaks_of_v4_only = !rules.is_empty() && !rules.iter().any(|rule| may_be_v6(&rule.selector));
    if probe.src.is_ipv6() && speaks_of_v4_only { Action::Deny } else { first(rules, probe).unwrap_or(Action::Allow) }
}

pub(super) fn first<T: Copy>(rules: &[PolicyRule<T>], probe: &Probe) -> Option<T> {
    rules.iter().find(|rule| selects(&rule.selector, probe)).map(|rule| rule.target)
}

/// What the peer rules of this direction do with a packet. Rules for IPv4 only deny IPv6.
pub(super) fn of_peer(rules: &[PeerRule], direction: Direction, probe: &Probe) -> RuleAction {
    let rules: Vec<_> = rules.iter().filter(|rule| rule.direction == direction).collect();
    let is_any = |it: MaskedAddress| it.address == 0 && matches!(it.mask, 0 | 0xffff_ffff);
    let in_c_form = |pattern: MaskedAddress, address: IpAddr| match address {
        IpAddr::V4(address) => is_any(pattern) || address.to_bits() & pattern.mask == pattern.address,
        IpAddr::V6(_) => is_any(pattern),
    };
    let speaks_of_v6 = rules.iter().any(|rule| match &rule.selector {
        PeerSelector::Masked { src, dst } => is_any(*src) && is_any(*dst),
        PeerSelector::Full(selector) => may_be_v6(selector),
    });
    if probe.src.is_ipv6() && !rules.is_empty() && !speaks_of_v6 {
        return RuleAction::Deny;
    }
    let found = rules.iter().find(|rule| match &rule.selector {
        PeerSelector::Masked { src, dst } => in_c_form(*src, probe.src) && in_c_form(*dst, probe.dst),
        PeerSelector::Full(selector) => selects(selector, probe),
    });
    found.map_or(RuleAction::Allow, |rule| rule.action)
}

pub(super) fn may_be_v6(selector: &Selector) -> bool {
    [selector.src(), selector.dst()].iter().all(|it| !matches!(it, AddressPattern::Net(IpNet::V4(_))))
}

pub(super) fn selects(selector: &Selector, probe: &Probe) -> bool {
    let has = |pattern, address| match pattern {
        AddressPattern::Any => true,
        AddressPattern::Net(net) => within(address, net),
    };
    let is_service = |service: Service| {
        let protocol = match service.protocol {
            Protocol::Icmp => {
                if probe.src.is_ipv4() {
                    1
                } else {
                    58
                }
            }
            Protocol::Number(number) => number,
        };
        let has_port = |ports: Ports| {
            let (first, last) = ports.bounds();
            probe.port.is_some_and(|port| first <= port && port <= last)
        };
        protocol == probe.protocol && service.ports.is_none_or(has_port)
    };
    has(selector.src(), probe.src) && has(selector.dst(), probe.dst) && selector.service().is_none_or(is_service)
}
