use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use tuntap_wire::ip::protocol::{ICMP, ICMPV6, TCP, UDP};
use tuntap_wire::selector::{Ports, Protocol, Service as SelectedService};

pub(in crate::policy) fn pattern(text: &str) -> AddressPattern {
    match text {
        "any" => AddressPattern::Any,
        net => AddressPattern::Net(net.parse().expect("a prefix")),
    }
}

pub(in crate::policy) fn rule<T>(target: T, src: &str, dst: &str) -> PolicyRule<T> {
    PolicyRule { selector: Selector::new(pattern(src), pattern(dst), None).expect("one version"), target }
}

fn service_rule<T>(target: T, protocol: Protocol, ports: Option<(u16, u16)>) -> PolicyRule<T> {
    let ports = ports.map(|(first, last)| Ports::new(first, last).expect("in order"));
    let service = SelectedService { protocol, ports };
    let selector = Selector::new(AddressPattern::Any, AddressPattern::Any, Some(service)).expect("both versions");
    PolicyRule { selector, target }
}

fn decide<T: Copy>(rules: &PolicyRules<T>, src: IpAddr, dst: IpAddr, service: Service) -> Option<T> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            rules.v4.first_match(&MatchKey { src: src.to_bits(), dst: dst.to_bits(), service })
        }
        (src, dst) => rules.v6.first_match(&MatchKey { src: bits(src), dst: bits(dst), service }),
    }
}

fn allows(rules: &PolicyRules<Action>, src: &str, dst: &str) -> bool {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    !matches!(decide(rules, address(src), address(dst), Service::default()), Some(Action::Deny | Action::Reject))
}

#[test]
fn documented_chain() {
    let out = PolicyRules::chain([
        rule(Action::Allow, "192.168.0.0/24", "192.168.0.1/32"),
        rule(Action::Deny, "192.168.0.0/24", "192.168.0.0/24"),
        rule(Action::Allow, "192.168.0.0/24", "any"),
        rule(Action::Deny, "any", "any"),
    ]);
    assert!(allows(&out, "192.168.0.2", "192.168.0.1"));
    assert!(!allows(&out, "192.168.0.2", "192.168.0.3"));
    assert!(allows(&out, "192.168.0.2", "8.8.8.8"));
    assert!(!allows(&out, "10.0.0.1", "8.8.8.8"));
    assert!(!allows(&out, "fd00::2", "2001:db8::1"));
}

#[test]
fn empty_chain_allows() {
    assert!(allows(&PolicyRules::chain([]), "127.0.0.1", "255.255.255.255"));
    assert!(allows(&PolicyRules::chain([]), "fd00::1", "fd00::2"));
}

#[test]
fn chain_without_a_word_on_ipv6_denies_it() {
    let v4_only = PolicyRules::chain([rule(Action::Deny, "10.0.0.0/8", "any")]);
    assert!(allows(&v4_only, "192.168.0.2", "8.8.8.8"));
    assert!(!allows(&v4_only, "fd00::1", "fd00::2"));
    let both = PolicyRules::chain([rule(Action::Deny, "10.0.0.0/8", "any"), rule(Action::Deny, "any", "fd00:1::/32")]);
    assert!(allows(&both, "fd00::1", "fd00::2"));
    assert!(!allows(&both, "fd00::1", "fd00:1::2"));
    let v6_only = PolicyRules::chain([rule(Action::Deny, "fd00::/8", "any")]);
    assert!(allows(&v6_only, "192.168.0.2", "8.8.8.8"));
}

#[test]
fn source_from_which_nothing_passes() {
    let v4 = |text: &str| text.parse::<Ipv4Addr>().expect("an address").to_bits();
    let chain = PolicyRules::chain([
        rule(Action::Deny, "10.0.0.5/32", "10.0.0.1/32"),
        service_rule(Action::Deny, Protocol::Number(TCP), None),
        rule(Action::Allow, "10.0.0.0/24", "10.0.0.1/32"),
        rule(Action::Reject, "any", "any"),
    ]);
    assert!(!chain.v4.pass_nothing_from(v4("10.0.0.5")), "a rule further down allows it something, perhaps");
    assert!(chain.v4.pass_nothing_from(v4("10.0.1.5")));
    assert!(chain.v6.pass_nothing_from(1));
    assert!(!PolicyRules::chain([]).v4.pass_nothing_from(v4("10.0.0.5")));
}

#[test]
fn protocols_and_ports() {
    let rules = PolicyRules::new([
        service_rule(1, Protocol::Number(TCP), Some((80, 89))),
        service_rule(2, Protocol::Number(TCP), None),
        service_rule(3, Protocol::Icmp, None),
    ]);
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    for (address, protocol, port, expected) in [
        (v4, TCP, Some(80), Some(1)),
        (v4, TCP, Some(89), Some(1)),
        (v4, TCP, Some(90), Some(2)),
        (v4, TCP, None, Some(2)),
        (v4, UDP, Some(80), None),
        (v4, ICMP, None, Some(3)),
        (v4, ICMPV6, None, None),
        (v6, TCP, Some(80), Some(1)),
        (v6, ICMPV6, None, Some(3)),
        (v6, ICMP, None, None),
    ] {
        assert_eq!(decide(&rules, address, address, Service { protocol, port }), expected, "{protocol} {port:?}");
    }
}

pub(in crate::policy) fn any_net() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<[u8; 4]>(), 0u8..=32).prop_map(|(octets, len)| IpNet::new_assert(octets.into(), len));
    let v6 = (any::<[u8; 16]>(), 0u8..=128).prop_map(|(octets, len)| IpNet::new_assert(octets.into(), len));
    prop_oneof![v4, v6]
}

/// The address in a network that has these host bits.
pub(in crate::policy) fn inside(net: IpNet, choice: u128) -> IpAddr {
    match net {
        #[allow(clippy::cast_possible_truncation)] // any bits do
        IpNet::V4(net) => {
            Ipv4Addr::from_bits(net.network().to_bits() | (choice as u32 & net.hostmask().to_bits())).into()
        }
        IpNet::V6(net) => Ipv6Addr::from_bits(net.network().to_bits() | (choice & net.hostmask().to_bits())).into(),
    }
}

proptest! {
    /// Masks and prefixes match the same addresses for every length, with host bits or without.
    #[test]
    fn agrees_with_ipnet(
        pairs in prop::collection::vec((any_net(), any_net()), 1..20),
        (src, dst) in any::<(u128, u128)>(),
        near in any::<prop::sample::Index>(),
    ) {
        let rules: Vec<_> = pairs
            .iter()
            .filter_map(|&(src, dst)| {
                let selector = Selector::new(AddressPattern::Net(src), AddressPattern::Net(dst), None).ok()?;
                Some((src, dst, selector))
            })
            .collect();
        let list = PolicyRules::new(
            rules.iter().enumerate().map(|(target, (_, _, selector))| PolicyRule { selector: *selector, target }),
        );
        let Some((near_src, near_dst, _)) = rules.get(near.index(pairs.len())) else { return Ok(()) };
        let (src, dst) = (inside(*near_src, src), inside(*near_dst, dst));
        let oracle = rules.iter().position(|(from, to, _)| from.contains(&src) && to.contains(&dst));
        prop_assert_eq!(decide(&list, src, dst, Service::default()), oracle);
    }
}
