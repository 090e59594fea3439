use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::PacketBuilder;
use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::policy::claims::MAX_V6_ADDRESSES;
use crate::policy::drops::DropReason;
use crate::policy::grant::{Grant, Holder, Uncovered};
use crate::policy::guard::ClaimScope;
use crate::policy::guard::GuardPolicy;
use crate::policy::pattern::Action;
use crate::policy::pattern::PolicyRules;
use crate::policy::pattern::tests::{any_net, inside, rule};
use crate::policy::script::NoScript;
use crate::policy::targets::AllowedTargets;
use crate::policy::targets::TargetRange;
use crate::policy::verdict::{Inbound, Outbound, OutboundVerdict, PacketSource, RuleRef};
use tuntap_wire::ip::Packet;
use tuntap_wire::rule::{MaskedAddress, PeerSelector};
use tuntap_wire::selector::{AddressPattern, Selector};

const SEED: u64 = 0x1234_5678_9abc_def1;
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1));
const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 0, 2));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 0, 3));
const GATEWAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), 4000);

fn peer(index: u32) -> PeerId {
    PeerId { index, generation: 7 }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

const HOST6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1));
const A6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 2));
const B6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 3));

fn packet(src: IpAddr, dst: IpAddr) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => PacketBuilder::ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => PacketBuilder::ipv6(src.octets(), dst.octets(), 64),
        _ => panic!("a packet of two versions"),
    };
    builder.udp(1, 2).write(&mut bytes, b"payload").expect("a valid packet");
    bytes
}

fn ip(bytes: &[u8]) -> Packet<'_> {
    Packet::parse(bytes).expect("a valid packet")
}

/// Each peer has its own user, whose number is that of the peer's slot.
fn identity(index: u32) -> Identity {
    Identity { uid: index, gid: index, groups: Vec::new() }
}

fn restore(forwarder: &mut Forwarder, id: u32, uid: u32, addresses: &[IpAddr], is_bound: bool) {
    let (identity, rules) = (identity(uid), Vec::new());
    forwarder.restore(
        peer(id),
        RestoredPeer { identity, namespace: None, rules, addresses, since: &[], lost: &[], is_bound },
    );
}

fn forwarder(policy: Policy) -> Forwarder {
    let mut forwarder = Forwarder::new(policy, SEED);
    forwarder.add_peer(peer(1), identity(1));
    forwarder.add_peer(peer(2), identity(2));
    forwarder
}

fn to(forwarder: &mut Forwarder, id: PeerId, src: IpAddr, dst: IpAddr) -> Outbound {
    forwarder.outbound(id, &ip(&packet(src, dst)), &mut NoScript).to
}

/// A verdict without the flow, whose number says nothing.
fn parts(verdict: &OutboundVerdict) -> (Outbound, Option<IpAddr>, bool, Option<RuleRef>) {
    (verdict.to, verdict.claimed, verdict.is_first, verdict.rule)
}

#[test]
fn first_packet_claims_its_source_and_later_ones_keep_to_it() {
    let mut forwarder = forwarder(Policy::default());
    let verdict = forwarder.outbound(peer(1), &ip(&packet(A, HOST)), &mut NoScript);
    assert_eq!(parts(&verdict), (Outbound::Tun, Some(A), true, None));
    let later = forwarder.outbound(peer(1), &ip(&packet(A, B)), &mut NoScript);
    assert_eq!(parts(&later), (Outbound::Tun, None, false, None));
    assert_eq!(to(&mut forwarder, peer(1), B, HOST), Outbound::Drop(DropReason::SpoofedSource));
    assert_eq!(forwarder.address(peer(1)), Some(A));
    assert_eq!(forwarder.inbound(PacketSource::Tun, &ip(&packet(HOST, A)), &mut NoScript).to, Inbound::Peer(peer(1)));
}

#[test]
fn later_claimant_waits_for_the_holder_to_go() {
    let mut forwarder = forwarder(Policy::default());
    to(&mut forwarder, peer(1), A, HOST);
    let contested = Outbound::Contested { address: A, holder: peer(1) };
    assert_eq!(to(&mut forwarder, peer(2), A, HOST), contested);
    assert_eq!(forwarder.inbound(PacketSource::Tun, &ip(&packet(HOST, A)), &mut NoScript).to, Inbound::Peer(peer(1)));
    forwarder.remove_peer(peer(1));
    assert_eq!(forwarder.outbound(peer(2), &ip(&packet(A, HOST)), &mut NoScript).claimed, Some(A));
}

#[test]
fn contested_claimant_may_still_take_another_address() {
    let mut forwarder = forwarder(Policy::default());
    to(&mut forwarder, peer(1), A, HOST);
    to(&mut forwarder, peer(2), A, HOST);
    assert_eq!(to(&mut forwarder, peer(2), B, HOST), Outbound::Tun);
    assert_eq!(forwarder.address(peer(2)), Some(B));
}

#[test]
fn only_hosts_claim() {
    let mut forwarder = forwarder(Policy::default());
    for src in ["0.0.0.0", "127.0.0.1", "255.255.255.255", "224.0.0.1", "169.254.0.1"] {
        let src: IpAddr = src.parse().expect("an address");
        let dropped = (Outbound::Drop(DropReason::InvalidSource), None, false, None);
        assert_eq!(parts(&forwarder.outbound(peer(1), &ip(&packet(src, HOST)), &mut NoScript)), dropped, "{src}");
    }
    assert_eq!(forwarder.address(peer(1)), None);
}

#[test]
fn packet_that_the_firewall_denies_claims_nothing() {
    let deny = rule(Action::Deny, "any", "10.0.0.0/8");
    let mut forwarder = forwarder(Policy { firewall_out: PolicyRules::chain([deny]), ..Policy::default() });
    assert_eq!(to(&mut forwarder, peer(1), A, IpAddr::from([10, 1, 1, 1])), Outbound::Drop(DropReason::Firewall));
    assert_eq!(forwarder.address(peer(1)), None);
    assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outbound::Tun);
}

#[test]
fn in_chain_decides_on_what_comes_from_the_tun_and_the_gateway() {
    let deny = rule(Action::Deny, "10.0.0.0/8", "any");
    let mut forwarder = forwarder(Policy { firewall_in: PolicyRules::chain([deny]), ..Policy::default() });
    to(&mut forwarder, peer(1), A, HOST);
    let stranger = packet(IpAddr::from([10, 9, 9, 9]), A);
    for from in [PacketSource::Tun, PacketSource::Gateway] {
        assert_eq!(
            forwarder.inbound(from, &ip(&stranger), &mut NoScript).to,
            Inbound::Drop(DropReason::Firewall, Some(peer(1)))
        );
        assert_eq!(forwarder.inbound(from, &ip(&packet(HOST, A)), &mut NoScript).to, Inbound::Peer(peer(1)));
        assert_eq!(
            forwarder.inbound(from, &ip(&packet(HOST, B)), &mut NoScript).to,
            Inbound::Drop(DropReason::NoPeer, None)
        );
    }
}

#[test]
fn routes_need_a_gateway() {
    let route = rule(GATEWAY, "192.168.0.0/24", "192.168.1.0/24");
    let remote = IpAddr::from([192, 168, 1, 5]);
    for (has_gateway, expected) in [(true, Outbound::Gateway(GATEWAY)), (false, Outbound::Tun)] {
        let mut forwarder = forwarder(Policy { routes: PolicyRules::new([route]), has_gateway, ..Policy::default() });
        assert_eq!(to(&mut forwarder, peer(1), A, remote), expected);
        assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outbound::Tun);
    }
}

#[test]
fn peer_rules_apply_to_their_direction_and_peer() {
    let with_rule = |direction, action| {
        let mut forwarder = forwarder(Policy::default());
        forwarder.set_rules(peer(1), vec![any_packet(direction, action)]);
        to(&mut forwarder, peer(2), B, HOST);
        forwarder
    };
    let mut denies_in = with_rule(Direction::In, RuleAction::Deny);
    assert_eq!(to(&mut denies_in, peer(1), A, HOST), Outbound::Tun);
    assert_eq!(
        denies_in.inbound(PacketSource::Tun, &ip(&packet(HOST, A)), &mut NoScript).to,
        Inbound::Drop(DropReason::PeerRule, Some(peer(1)))
    );
    assert_eq!(
        denies_in.inbound(PacketSource::Gateway, &ip(&packet(HOST, A)), &mut NoScript).to,
        Inbound::Peer(peer(1))
    );
    assert_eq!(denies_in.inbound(PacketSource::Tun, &ip(&packet(HOST, B)), &mut NoScript).to, Inbound::Peer(peer(2)));

    let mut denies_out = with_rule(Direction::Out, RuleAction::Deny);
    assert_eq!(to(&mut denies_out, peer(1), A, HOST), Outbound::Drop(DropReason::PeerRule));
    assert_eq!(denies_out.inbound(PacketSource::Tun, &ip(&packet(HOST, A)), &mut NoScript).to, Inbound::Peer(peer(1)));

    let mut routes_out = with_rule(Direction::Out, RuleAction::Route(GATEWAY));
    assert_eq!(to(&mut routes_out, peer(1), A, HOST), Outbound::Drop(DropReason::NoGateway));
}

fn any_packet(direction: Direction, action: RuleAction) -> PeerRule {
    PeerRule { direction, selector: PeerSelector::Full(Selector::ALL), action }
}

#[test]
fn rules_are_frozen_by_the_first_packet_that_is_accepted() {
    let deny = any_packet(Direction::Out, RuleAction::Deny);
    let allow = any_packet(Direction::Out, RuleAction::Allow);
    let applied = Some(RulesVerdict::Applied { refused_target: None });
    let deny_b = rule(Action::Deny, "192.168.0.3/32", "any");
    let mut forwarder = forwarder(Policy { firewall_out: PolicyRules::chain([deny_b]), ..Policy::default() });
    // Neither a packet that the firewall denies fixes the rules, nor one whose source can't be claimed.
    assert_eq!(forwarder.set_rules(peer(1), vec![allow]), applied);
    assert_eq!(to(&mut forwarder, peer(1), B, HOST), Outbound::Drop(DropReason::Firewall));
    assert_eq!(
        to(&mut forwarder, peer(1), Ipv4Addr::UNSPECIFIED.into(), HOST),
        Outbound::Drop(DropReason::InvalidSource)
    );
    assert_eq!(forwarder.set_rules(peer(1), vec![deny]), applied);
    // A packet claims its source even if a rule of the peer drops it.
    assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outbound::Drop(DropReason::PeerRule));
    assert_eq!(forwarder.set_rules(peer(1), vec![allow]), Some(RulesVerdict::Frozen));
    assert_eq!(forwarder.set_rules(peer(1), vec![]), Some(RulesVerdict::Frozen));
    assert_eq!(forwarder.set_rules(peer(1), vec![deny, deny]), Some(RulesVerdict::Frozen));
    assert_eq!(forwarder.set_rules(peer(1), vec![deny]), Some(RulesVerdict::Unchanged));
    assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outbound::Drop(DropReason::PeerRule));
    assert_eq!(forwarder.set_rules(PeerId { index: 1, generation: 8 }, vec![]), None);
}

#[test]
fn address_that_was_assigned_does_not_freeze_the_rules_yet() {
    let mut forwarder = forwarder(Policy::default());
    assert_eq!(forwarder.assign(peer(1), A), Some(AssignResult::Granted));
    forwarder.set_rules(peer(1), vec![any_packet(Direction::Out, RuleAction::Deny)]);
    assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outbound::Drop(DropReason::PeerRule));
    assert_eq!(forwarder.set_rules(peer(1), vec![]), Some(RulesVerdict::Frozen));
}

#[test]
fn peers_allow_does_not_override_the_chains() {
    let deny = rule(Action::Deny, "any", "10.0.0.0/8");
    let deny_in = rule(Action::Deny, "10.0.0.0/8", "any");
    let policy = Policy {
        firewall_out: PolicyRules::chain([deny]),
        firewall_in: PolicyRules::chain([deny_in]),
        ..Policy::default()
    };
    let mut forwarder = forwarder(policy);
    let allow = |direction| any_packet(direction, RuleAction::Allow);
    forwarder.set_rules(peer(1), vec![allow(Direction::Out), allow(Direction::In)]);
    let denied = IpAddr::from([10, 0, 0, 1]);
    assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outbound::Tun);
    assert_eq!(to(&mut forwarder, peer(1), A, denied), Outbound::Drop(DropReason::Firewall));
    let inbound = forwarder.inbound(PacketSource::Tun, &ip(&packet(denied, A)), &mut NoScript).to;
    assert_eq!(inbound, Inbound::Drop(DropReason::Firewall, Some(peer(1))));
}

#[test]
fn peers_route_to_gateways_that_the_operator_names() {
    let named = SocketAddr::from(([10, 77, 0, 2], 4000));
    let route = rule(named, "192.168.0.0/24", "192.168.1.0/24");
    let in_range = SocketAddr::from(([10, 78, 0, 9], 5));
    let range = TargetRange { prefix: net("10.78.0.0/16"), port: None };
    for (target, expected) in [
        (named, Outbound::Gateway(named)),
        (in_range, Outbound::Gateway(in_range)),
        (GATEWAY, Outbound::Drop(DropReason::RouteTarget)),
    ] {
        let mut forwarder = forwarder(Policy {
            routes: PolicyRules::new([route]),
            has_gateway: true,
            device_routes: AllowedTargets::new([named], [range]),
            ..Policy::default()
        });
        let refused_target = (target == GATEWAY).then_some(GATEWAY);
        let verdict = forwarder.set_rules(peer(1), vec![any_packet(Direction::Out, RuleAction::Route(target))]);
        assert_eq!(verdict, Some(RulesVerdict::Applied { refused_target }));
        assert_eq!(to(&mut forwarder, peer(1), A, HOST), expected, "{target}");
        let remote = IpAddr::from([192, 168, 1, 5]);
        assert_eq!(to(&mut forwarder, peer(2), B, remote), Outbound::Gateway(named), "the router's own route");
    }
}

#[test]
fn datagrams_of_other_routers() {
    assert!(forwarder(Policy::default()).accepts_datagrams_of(HOST));
    let sources = [net("10.77.0.0/24"), net("192.0.2.1/32")].into_iter().collect();
    let forwarder = forwarder(Policy { gateway_sources: sources, ..Policy::default() });
    for (source, expected) in
        [([10, 77, 0, 9], true), ([10, 78, 0, 9], false), ([192, 0, 2, 1], true), ([192, 0, 2, 2], false)]
    {
        assert_eq!(forwarder.accepts_datagrams_of(source.into()), expected, "{source:?}");
    }
}

fn leased(grants: &[(&str, u32)], uncovered: Uncovered) -> Policy {
    let lease = |&(prefix, uid): &(&str, u32)| Grant { prefix: net(prefix), holder: Holder::User(uid) };
    Policy { grants: Grants::new(grants.iter().map(lease), uncovered), ..Policy::default() }
}

#[test]
fn only_a_leaseholder_claims() {
    let mut forwarder = forwarder(leased(&[("192.168.0.2/32", 1), ("192.168.0.3/32", 2)], Uncovered::Deny));
    let not_leased = Outbound::Drop(DropReason::NotGranted);
    assert_eq!(to(&mut forwarder, peer(2), A, HOST), not_leased);
    assert_eq!(to(&mut forwarder, peer(2), IpAddr::from([192, 168, 0, 9]), HOST), not_leased);
    assert_eq!(forwarder.address(peer(2)), None);
    assert_eq!(forwarder.outbound(peer(1), &ip(&packet(A, HOST)), &mut NoScript).claimed, Some(A));
    assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outbound::Tun);
    assert_eq!(forwarder.outbound(peer(2), &ip(&packet(B, HOST)), &mut NoScript).claimed, Some(B));
    // A grant to a peer doesn't take the address from another peer that has a grant, too.
    forwarder.add_peer(peer(3), identity(1));
    assert_eq!(to(&mut forwarder, peer(3), A, HOST), Outbound::Contested { address: A, holder: peer(1) });
}

/// A router with this network and no other policy.
fn strict(networks: &[&str]) -> Policy {
    let own: Vec<_> = networks.iter().map(|text| net(text)).collect();
    let guard = GuardPolicy { claims: ClaimScope::Own, is_strict: true, own: own.clone(), ..GuardPolicy::default() };
    Policy { networks: own, guard, ..Policy::default() }
}

/// The address is claimed by a packet, by a claim request, and by a restored peer.
#[test]
fn claims_outside_of_the_networks_are_refused() {
    let (outside, outside6) = (IpAddr::from([10, 9, 9, 9]), A6);
    let mut forwarder = forwarder(strict(&["192.168.0.1/24"]));
    for address in [outside, outside6, HOST] {
        let dst = if address.is_ipv4() { IpAddr::from([198, 51, 100, 1]) } else { HOST6 };
        let refused = (Outbound::Drop(DropReason::NotClaimable), None, false, None);
        assert_eq!(
            parts(&forwarder.outbound(peer(1), &ip(&packet(address, dst)), &mut NoScript)),
            refused,
            "{address}"
        );
    }
    restore(&mut forwarder, 3, 3, &[outside, outside6, HOST, B], false);
    assert_eq!(forwarder.addresses(peer(3)).collect::<Vec<_>>(), [B]);
    // An address that the credentials hook has chosen counts as granted, but the host's own addresses stay the host's.
    restore(&mut forwarder, 4, 4, &[outside, HOST], true);
    assert_eq!(forwarder.addresses(peer(4)).collect::<Vec<_>>(), [outside]);
    assert_eq!(forwarder.assign(peer(2), HOST), Some(AssignResult::Taken));
    assert_eq!(forwarder.assign(peer(2), IpAddr::from([127, 0, 0, 1])), Some(AssignResult::Taken));
    assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outbound::Tun);
}

#[test]
fn addresses_that_the_host_gets_are_not_claimed() {
    let guard = GuardPolicy { is_strict: true, ..GuardPolicy::default() };
    let mut forwarder = forwarder(Policy { guard, ..Policy::default() });
    forwarder.set_host_addresses([net("192.168.0.2/24"), net("fd00:77::2/64")]);
    for (address, dst) in [(A, HOST), (A6, HOST6)] {
        assert_eq!(to(&mut forwarder, peer(1), address, dst), Outbound::Drop(DropReason::NotClaimable));
    }
    forwarder.set_host_addresses([]);
    assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outbound::Tun);
    // If the router has no networks, a device may be in the router's own namespace.
    let mut open = self::forwarder(Policy::default());
    open.set_host_addresses([net("192.168.0.2/24"), net("fd00:77::2/64")]);
    assert_eq!(to(&mut open, peer(1), A, HOST), Outbound::Tun);
    assert_eq!(to(&mut open, peer(1), A6, HOST6), Outbound::Drop(DropReason::NotClaimable));
}

#[test]
fn one_user_leaves_the_others_addresses() {
    let mut forwarder = Forwarder::new(Policy { max_addresses: Some(2), ..strict(&["192.168.0.1/24"]) }, SEED);
    let address = |host: u32| IpAddr::from([192, 168, 0, u8::try_from(host).expect("small")]);
    let claim = |forwarder: &mut Forwarder, id: u32, uid: u32, namespace| {
        forwarder.add_peer(peer(id), identity(uid));
        forwarder.set_namespace(peer(id), namespace);
        to(forwarder, peer(id), address(10 + id), HOST)
    };
    let full = Outbound::Drop(DropReason::AddressShare);
    for (id, uid, namespace, expected) in [
        (0, 7, None, Outbound::Tun),
        (1, 7, Some(1), Outbound::Tun),
        (2, 7, Some(2), full),
        (3, 8, None, Outbound::Tun),
        // Vassals that connect as root count by namespace. Root in the router's own namespace has no limit.
        (4, 0, Some(1), Outbound::Tun),
        (5, 0, Some(1), Outbound::Tun),
        (6, 0, Some(1), Outbound::Tun),
        (7, 0, Some(2), Outbound::Tun),
        (8, 0, None, Outbound::Tun),
        (9, 0, None, Outbound::Tun),
        (10, 0, None, Outbound::Tun),
    ] {
        assert_eq!(claim(&mut forwarder, id, uid, namespace), expected, "{id}");
    }
    forwarder.remove_peer(peer(0));
    assert_eq!(to(&mut forwarder, peer(2), address(12), HOST), Outbound::Tun);
    // Addresses of restored peers are counted, but never refused.
    for id in 20..23 {
        restore(&mut forwarder, id, 9, &[address(10 + id)], true);
        assert_eq!(forwarder.address(peer(id)), Some(address(10 + id)));
    }
    assert_eq!(claim(&mut forwarder, 24, 9, None), full);
}

/// Addresses that are granted to a peer don't count.
#[test]
fn leased_addresses_count_for_nobody() {
    let policy = leased(&[("192.168.0.0/30", 1)], Uncovered::Allow);
    let mut forwarder = Forwarder::new(Policy { max_addresses: Some(1), ..policy }, SEED);
    for (index, address) in
        [A, B, IpAddr::from([192, 168, 0, 9]), IpAddr::from([192, 168, 0, 10])].into_iter().enumerate()
    {
        let id = peer(u32::try_from(index).expect("few"));
        forwarder.add_peer(id, identity(1));
        let expected = if index < 3 { Outbound::Tun } else { Outbound::Drop(DropReason::AddressShare) };
        assert_eq!(to(&mut forwarder, id, address, HOST), expected, "{address}");
    }
}

#[test]
fn gateways_are_out_of_reach_by_every_way() {
    let gateway = || crate::policy::guard::Gateways::new([], [GATEWAY], &[], &[], []);
    let datagram = |port: u16| {
        let mut bytes = packet(A, GATEWAY.ip());
        bytes[22..24].copy_from_slice(&port.to_be_bytes());
        bytes
    };
    let route = rule(GATEWAY, "any", "203.0.113.0/24");
    for (routes, switch, peer_rule) in [
        (vec![], false, None),
        (vec![route], false, None),
        (vec![], true, None),
        (vec![], false, Some(RuleAction::Route(GATEWAY))),
    ] {
        let guard = GuardPolicy { gateways: gateway(), ..GuardPolicy::default() };
        let device_routes = AllowedTargets::new([GATEWAY], []);
        let routes = PolicyRules::new(routes);
        let mut forwarder =
            forwarder(Policy { routes, switch, has_gateway: true, device_routes, guard, ..Policy::default() });
        if let Some(action) = peer_rule {
            forwarder.set_rules(peer(1), vec![any_packet(Direction::Out, action)]);
        }
        let verdict = forwarder.outbound(peer(1), &ip(&datagram(4000)), &mut NoScript);
        assert_eq!(verdict.to, Outbound::Drop(DropReason::ToGateway));
        assert_ne!(
            forwarder.outbound(peer(1), &ip(&datagram(4001)), &mut NoScript).to,
            Outbound::Drop(DropReason::ToGateway)
        );
        // A peer that held this address would receive packets for it, where packets are switched.
        assert_eq!(to(&mut forwarder, peer(2), GATEWAY.ip(), HOST), Outbound::Drop(DropReason::NotClaimable));
    }
}

#[test]
fn firewall_comes_before_the_lease() {
    let deny = rule(Action::Deny, "192.168.0.2/32", "any");
    let mut forwarder = forwarder(Policy { firewall_out: PolicyRules::chain([deny]), ..leased(&[], Uncovered::Deny) });
    assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outbound::Drop(DropReason::Firewall));
    assert_eq!(to(&mut forwarder, peer(1), B, HOST), Outbound::Drop(DropReason::NotGranted));
}

#[test]
fn peer_is_who_it_has_shown_to_be() {
    let mut forwarder = forwarder(leased(&[("192.168.0.2/32", 1000)], Uncovered::Deny));
    assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outbound::Drop(DropReason::NotGranted));
    forwarder.identify(peer(1), identity(1000));
    assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outbound::Tun);
}

#[test]
fn assigned_address_must_be_leased_too() {
    let mut forwarder = forwarder(leased(&[("192.168.0.2/32", 1), ("192.168.0.3/32", 1)], Uncovered::Deny));
    assert_eq!(forwarder.assign(peer(2), A), Some(AssignResult::NotGranted));
    assert_eq!(
        forwarder.inbound(PacketSource::Tun, &ip(&packet(HOST, A)), &mut NoScript).to,
        Inbound::Drop(DropReason::NoPeer, None)
    );
    assert_eq!(forwarder.assign(peer(1), A), Some(AssignResult::Granted));
    assert_eq!(to(&mut forwarder, peer(1), B, HOST), Outbound::Drop(DropReason::SpoofedSource), "leased, not assigned");
}

#[test]
fn first_peer_rule_wins() {
    let to_host = MaskedAddress { address: u32::from_be_bytes([192, 168, 0, 1]), mask: u32::MAX };
    let rule = |dst, action| PeerRule {
        direction: Direction::Out,
        selector: PeerSelector::Masked { src: MaskedAddress::ANY, dst },
        action,
    };
    let mut forwarder = forwarder(Policy::default());
    forwarder.set_rules(peer(1), vec![rule(to_host, RuleAction::Allow), rule(MaskedAddress::ANY, RuleAction::Deny)]);
    assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outbound::Tun);
    assert_eq!(to(&mut forwarder, peer(1), A, B), Outbound::Drop(DropReason::PeerRule));
}

#[test]
fn assigned_peer_gets_its_address_and_no_other() {
    let mut forwarder = forwarder(Policy::default());
    assert_eq!(forwarder.assign(peer(1), A), Some(AssignResult::Granted));
    assert_eq!(forwarder.inbound(PacketSource::Tun, &ip(&packet(HOST, A)), &mut NoScript).to, Inbound::Peer(peer(1)));
    assert_eq!(to(&mut forwarder, peer(1), B, HOST), Outbound::Drop(DropReason::SpoofedSource));

    assert_eq!(forwarder.assign(peer(2), A), Some(AssignResult::HeldBy(peer(1))));
    assert_eq!(to(&mut forwarder, peer(2), B, HOST), Outbound::Drop(DropReason::SpoofedSource));
    assert_eq!(to(&mut forwarder, peer(2), A, HOST), Outbound::Contested { address: A, holder: peer(1) });
    forwarder.remove_peer(peer(1));
    assert_eq!(to(&mut forwarder, peer(2), A, HOST), Outbound::Tun);
    assert_eq!(forwarder.assign(peer(2), B), Some(AssignResult::TooMany));
}

#[test]
fn switched_packets_pass_both_chains_and_both_peers_rules() {
    let deny = rule(Action::Deny, "192.168.0.9/32", "any");
    let switched = || forwarder(Policy { switch: true, ..Policy::default() });
    let mut plain = switched();
    to(&mut plain, peer(1), A, HOST);
    to(&mut plain, peer(2), B, HOST);
    assert_eq!(to(&mut plain, peer(1), A, B), Outbound::Peer(peer(2)));
    assert_eq!(to(&mut plain, peer(1), A, HOST), Outbound::Tun);
    let mut ruled = switched();
    ruled.set_rules(peer(2), vec![any_packet(Direction::In, RuleAction::Deny)]);
    to(&mut ruled, peer(2), B, HOST);
    assert_eq!(to(&mut ruled, peer(1), A, B), Outbound::Drop(DropReason::PeerRule));

    let other = IpAddr::from([192, 168, 0, 9]);
    let mut chained = forwarder(Policy { switch: true, firewall_in: PolicyRules::chain([deny]), ..Policy::default() });
    to(&mut chained, peer(1), other, HOST);
    to(&mut chained, peer(2), B, HOST);
    assert_eq!(to(&mut chained, peer(1), other, B), Outbound::Drop(DropReason::Firewall));
}

/// A peer leaves, and comes again in the same slot.
fn reconnect(forwarder: &mut Forwarder, id: &mut PeerId, identity: Identity) {
    forwarder.remove_peer(*id);
    id.generation += 1;
    forwarder.add_peer(*id, identity);
}

proptest! {
    /// Whatever peers send, in whatever order, no address ever has two holders, none moves while its holder lives, and no
    /// packet goes to the TUN device with a source that its peer doesn't hold.
    #[test]
    fn claims_hold(events in prop::collection::vec((0u32..4, 0u8..6, 0u8..8), 1..200)) {
        let mut forwarder = Forwarder::new(Policy::default(), SEED);
        for index in 0..4 {
            forwarder.add_peer(peer(index), identity(index));
        }
        let mut held: [Option<IpAddr>; 4] = [None; 4];
        let mut ids = [0, 1, 2, 3].map(peer);
        for (index, host, what) in events {
            let address = IpAddr::from([10, 0, 0, host]);
            if what == 0 {
                reconnect(&mut forwarder, &mut ids[index as usize], identity(index));
                held[index as usize] = None;
                continue;
            }
            let holder = held.iter().position(|&other| other == Some(address));
            let verdict = to(&mut forwarder, ids[index as usize], address, HOST);
            let expected = match (held[index as usize], holder) {
                (Some(own), _) if own == address => Outbound::Tun,
                (Some(_), _) => Outbound::Drop(DropReason::SpoofedSource),
                (None, None) => Outbound::Tun,
                (None, Some(other)) => {
                    Outbound::Contested { address, holder: ids[other] }
                }
            };
            prop_assert_eq!(verdict, expected);
            if verdict == Outbound::Tun {
                held[index as usize] = Some(address);
            }
        }
        for (id, address) in ids.into_iter().zip(held) {
            prop_assert_eq!(forwarder.address(id), address);
        }
    }

    /// The same holds with grants and chains. The verdicts are compared with those of a list that is read from top to
    /// bottom for each packet.
    #[test]
    fn leases_hold(
        grants in prop::collection::vec((0u8..8, 29u8..=32, any::<bool>(), 0u32..4), 0..6),
        allow_uncovered: bool,
        denied in prop::option::of(0u8..8),
        events in prop::collection::vec((0u32..4, 0u8..8, 0u8..8), 1..100),
    ) {
        let address = |host| IpAddr::from([10, 0, 0, host]);
        let grants: Vec<Grant> = grants
            .into_iter()
            .map(|(host, length, is_group, number)| Grant {
                prefix: IpNet::new_assert(address(host), length),
                holder: if is_group { Holder::Group(number) } else { Holder::User(number) },
            })
            .collect();
        let uncovered = if allow_uncovered { Uncovered::Allow } else { Uncovered::Deny };
        let denied = denied.map(address);
        let chain =
            denied.map(|source| rule(Action::Deny, &IpNet::from(source).to_string(), "any"));
        let mut forwarder = Forwarder::new(
            Policy {
                grants: Grants::new(grants.iter().copied(), uncovered),
                firewall_out: PolicyRules::chain(chain),
                ..Policy::default()
            },
            SEED,
        );
        // Users 0 to 3, with the groups 3 to 0.
        let identity = |index: u32| Identity { uid: index, gid: 9, groups: vec![3 - index] };
        for index in 0..4 {
            forwarder.add_peer(peer(index), identity(index));
        }
        let may_hold = |index: u32, address: IpAddr| {
            let mut covering = grants.iter().filter(|lease| lease.prefix.contains(&address)).peekable();
            match covering.peek() {
                None => allow_uncovered,
                Some(_) => {
                    covering.any(|lease| [Holder::User(index), Holder::Group(3 - index)].contains(&lease.holder))
                }
            }
        };
        let mut held: [Option<IpAddr>; 4] = [None; 4];
        let mut ids = [0, 1, 2, 3].map(peer);
        for (index, host, what) in events {
            let address = address(host);
            if what == 0 {
                reconnect(&mut forwarder, &mut ids[index as usize], identity(index));
                held[index as usize] = None;
                continue;
            }
            let holder = held.iter().position(|&other| other == Some(address));
            let expected = match (held[index as usize], holder) {
                _ if denied == Some(address) => Outbound::Drop(DropReason::Firewall),
                (Some(own), _) if own == address => Outbound::Tun,
                (Some(_), _) => Outbound::Drop(DropReason::SpoofedSource),
                (None, _) if !may_hold(index, address) => Outbound::Drop(DropReason::NotGranted),
                (None, None) => Outbound::Tun,
                (None, Some(other)) => {
                    Outbound::Contested { address, holder: ids[other] }
                }
            };
            prop_assert_eq!(to(&mut forwarder, ids[index as usize], address, HOST), expected);
            if expected == Outbound::Tun {
                held[index as usize] = Some(address);
            }
        }
    }

    /// No packet makes the forwarder panic, in either direction.
    #[test]
    fn any_packet_gets_a_verdict(mut bytes in prop::collection::vec(any::<u8>(), 40..100), v4: bool) {
        if v4 {
            bytes[..4].copy_from_slice(&[0x45, 0, 0, 40]);
        } else {
            bytes[..6].copy_from_slice(&[0x60, 0, 0, 0, 0, 0]);
        }
        if let Ok(packet) = Packet::parse(&bytes) {
            let mut forwarder = forwarder(Policy::default());
            forwarder.outbound(peer(1), &packet, &mut NoScript);
            forwarder.inbound(PacketSource::Tun, &packet, &mut NoScript);
        }
    }
}

mod ipv6 {
    use super::*;

    fn address(host: u16) -> IpAddr {
        IpAddr::from([0xfd00, 0x77, 0, 0, 0, 0, 0, host])
    }

    #[test]
    fn peer_holds_addresses_of_both_versions() {
        let mut forwarder = forwarder(Policy::default());
        assert_eq!(forwarder.outbound(peer(1), &ip(&packet(A6, HOST6)), &mut NoScript).claimed, Some(A6));
        assert_eq!(forwarder.outbound(peer(1), &ip(&packet(A, HOST)), &mut NoScript).claimed, Some(A));
        assert_eq!(forwarder.outbound(peer(1), &ip(&packet(B6, HOST6)), &mut NoScript).claimed, Some(B6));
        assert_eq!(forwarder.addresses(peer(1)).collect::<Vec<_>>(), [A, A6, B6]);
        for (from, own) in [(HOST, A), (HOST6, A6), (HOST6, B6)] {
            assert_eq!(
                forwarder.inbound(PacketSource::Tun, &ip(&packet(from, own)), &mut NoScript).to,
                Inbound::Peer(peer(1))
            );
        }
        let contested = Outbound::Contested { address: A6, holder: peer(1) };
        assert_eq!(to(&mut forwarder, peer(2), A6, HOST6), contested);
        forwarder.remove_peer(peer(1));
        assert_eq!(to(&mut forwarder, peer(2), A6, HOST6), Outbound::Tun);
        assert_eq!(to(&mut forwarder, peer(2), A, HOST), Outbound::Tun);
    }

    #[test]
    fn number_of_addresses_is_bounded() {
        let mut forwarder = forwarder(Policy::default());
        let most = u16::try_from(MAX_V6_ADDRESSES).expect("few");
        for host in 0..most {
            assert_eq!(to(&mut forwarder, peer(1), address(host + 2), HOST6), Outbound::Tun);
        }
        let one_more = Outbound::Drop(DropReason::TooManyAddresses);
        assert_eq!(to(&mut forwarder, peer(1), address(most + 2), HOST6), one_more);
        assert_eq!(forwarder.assign(peer(1), address(most + 2)), Some(AssignResult::TooMany));
        assert_eq!(to(&mut forwarder, peer(1), address(2), HOST6), Outbound::Tun);
    }

    #[test]
    fn addresses_of_the_link_never_claim() {
        let mut forwarder = forwarder(Policy::default());
        to(&mut forwarder, peer(1), A6, HOST6);
        for source in ["::", "::1", "fe80::1", "ff02::1", "::ffff:10.0.0.1"] {
            let source: IpAddr = source.parse().expect("an address");
            assert_eq!(
                to(&mut forwarder, peer(1), source, HOST6),
                Outbound::Drop(DropReason::InvalidSource),
                "{source}"
            );
        }
        assert_eq!(forwarder.addresses(peer(1)).collect::<Vec<_>>(), [A6]);
    }

    #[test]
    fn assigned_peer_chooses_no_address() {
        let mut forwarder = forwarder(Policy::default());
        assert_eq!(forwarder.assign(peer(1), A), Some(AssignResult::Granted));
        assert_eq!(to(&mut forwarder, peer(1), A6, HOST6), Outbound::Drop(DropReason::SpoofedSource));
        assert_eq!(forwarder.assign(peer(1), A6), Some(AssignResult::Granted));
        assert_eq!(to(&mut forwarder, peer(1), A6, HOST6), Outbound::Tun);
        assert_eq!(forwarder.assign(peer(2), A6), Some(AssignResult::HeldBy(peer(1))));
        assert_eq!(to(&mut forwarder, peer(2), A6, HOST6), Outbound::Drop(DropReason::SpoofedSource));
        // unless it is leased to it
        let mut leased = super::forwarder(leased(&[("192.168.0.2/32", 1), ("fd00:77::3/128", 1)], Uncovered::Allow));
        leased.assign(peer(1), A);
        assert_eq!(to(&mut leased, peer(1), A6, HOST6), Outbound::Drop(DropReason::SpoofedSource));
        assert_eq!(to(&mut leased, peer(1), B6, HOST6), Outbound::Tun);
    }

    #[test]
    fn assigned_peer_waits_for_a_holder() {
        let mut forwarder = forwarder(Policy::default());
        to(&mut forwarder, peer(1), A, HOST);
        assert_eq!(forwarder.assign(peer(2), A6), Some(AssignResult::Granted));
        assert!(!forwarder.is_waiting(peer(2)));
        assert_eq!(forwarder.assign(peer(2), A), Some(AssignResult::HeldBy(peer(1))));
        assert!(forwarder.is_waiting(peer(2)) && forwarder.address(peer(2)) == Some(A6));
        forwarder.remove_peer(peer(1));
        assert_eq!(forwarder.outbound(peer(2), &ip(&packet(A, HOST)), &mut NoScript).claimed, Some(A));
        assert!(!forwarder.is_waiting(peer(2)));
    }

    #[test]
    fn routers_own_lease_needs_no_other_but_respects_those_of_others() {
        let mut forwarder = forwarder(leased(&[("fd00:77::3/128", 2)], Uncovered::Deny));
        assert_eq!(forwarder.assign(peer(1), A6), Some(AssignResult::NotGranted));
        assert_eq!(forwarder.assign_chosen(peer(1), A6), Some(AssignResult::Granted));
        assert_eq!(forwarder.assign_chosen(peer(1), B6), Some(AssignResult::NotGranted));
        assert_eq!(forwarder.assign_chosen(peer(2), B6), Some(AssignResult::Granted));
        assert_eq!(to(&mut forwarder, peer(1), A6, HOST6), Outbound::Tun);
    }

    #[test]
    fn restored_peer_is_what_it_was() {
        for is_bound in [false, true] {
            let mut forwarder = forwarder(Policy::default());
            restore(&mut forwarder, 3, 3, &[A, A6], is_bound);
            assert_eq!(forwarder.addresses(peer(3)).collect::<Vec<_>>(), [A, A6]);
            assert_eq!(forwarder.is_bound(peer(3)), is_bound);
            let expected = if is_bound { Outbound::Drop(DropReason::SpoofedSource) } else { Outbound::Tun };
            assert_eq!(to(&mut forwarder, peer(3), B6, HOST6), expected);
        }
    }

    /// A restored peer is bound as before, whatever addresses it gets back, and whatever is granted by now.
    #[test]
    fn restored_peers_are_as_bound_as_before() {
        let mut forwarder = forwarder(leased(&[("192.168.0.2/32", 4)], Uncovered::Allow));
        restore(&mut forwarder, 3, 3, &[], true);
        assert!(forwarder.is_bound(peer(3)));
        assert_eq!(to(&mut forwarder, peer(3), A6, HOST6), Outbound::Drop(DropReason::SpoofedSource));
        restore(&mut forwarder, 4, 5, &[A, A6], true);
        assert_eq!(forwarder.addresses(peer(4)).collect::<Vec<_>>(), [A6], "the other one is somebody else's");
        let mut forwarder = self::forwarder(leased(&[], Uncovered::Deny));
        restore(&mut forwarder, 3, 3, &[A6], true);
        restore(&mut forwarder, 4, 4, &[B6], false);
        assert_eq!(forwarder.address(peer(3)), Some(A6), "the router had chosen it");
        assert_eq!(forwarder.address(peer(4)), None, "nobody has given it leave");
    }

    #[test]
    fn rules_of_a_peer_that_knows_ipv4_only_deny_ipv6() {
        let v4 = Selector::new(AddressPattern::Net(net("10.0.0.0/8")), AddressPattern::Any, None).expect("one version");
        let rule = |selector| PeerRule { direction: Direction::Out, selector, action: RuleAction::Deny };
        let any_v4 = PeerSelector::Masked {
            src: MaskedAddress { address: 0x0a00_0000, mask: 0xff00_0000 },
            dst: MaskedAddress::ANY,
        };
        for selector in [PeerSelector::Full(v4), any_v4] {
            let mut forwarder = forwarder(Policy::default());
            forwarder.set_rules(peer(1), vec![rule(selector)]);
            assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outbound::Tun);
            assert_eq!(to(&mut forwarder, peer(1), A6, HOST6), Outbound::Drop(DropReason::PeerRule));
            assert_eq!(
                forwarder.inbound(PacketSource::Tun, &ip(&packet(HOST6, A6)), &mut NoScript).to,
                Inbound::Peer(peer(1)),
                "the other way"
            );
        }
    }

    #[test]
    fn rejections_say_who_is_to_be_told() {
        let reject = rule(Action::Reject, "any", "fd00:77::9/128");
        let policy = Policy {
            firewall_out: PolicyRules::chain([reject]),
            firewall_in: PolicyRules::chain([rule(Action::Reject, "any", "fd00:77::3/128")]),
            switch: true,
            ..Policy::default()
        };
        let mut forwarder = forwarder(policy);
        assert_eq!(to(&mut forwarder, peer(1), A6, address(9)), Outbound::Reject(DropReason::Firewall));
        assert_eq!(forwarder.addresses(peer(1)).count(), 0, "it claims nothing");
        to(&mut forwarder, peer(2), B6, HOST6);
        let inbound = forwarder.inbound(PacketSource::Tun, &ip(&packet(HOST6, B6)), &mut NoScript).to;
        assert_eq!(inbound, Inbound::Reject(DropReason::Firewall, Some(peer(2))));
        assert_eq!(to(&mut forwarder, peer(1), A6, B6), Outbound::Reject(DropReason::Firewall), "between peers");
        forwarder.add_peer(peer(3), identity(3));
        forwarder.set_rules(peer(3), vec![any_packet(Direction::In, RuleAction::Reject)]);
        assert_eq!(to(&mut forwarder, peer(3), A, HOST), Outbound::Tun);
        let inbound = forwarder.inbound(PacketSource::Tun, &ip(&packet(HOST, A)), &mut NoScript).to;
        assert_eq!(inbound, Inbound::Reject(DropReason::PeerRule, Some(peer(3))));
    }

    #[test]
    fn sender_is_who_has_been_granted_the_address() {
        let policy = Policy {
            networks: vec![net("192.168.0.1/24"), net("fd00:77::1/64")],
            ..leased(&[("10.0.0.0/8", 2)], Uncovered::Allow)
        };
        let mut forwarder = forwarder(policy);
        let own = address(1);
        let granted = IpAddr::from([10, 1, 2, 3]);
        for source in [A6, own, HOST6] {
            assert_eq!(to(&mut forwarder, peer(1), source, B6), Outbound::Tun);
        }
        to(&mut forwarder, peer(2), granted, HOST);
        assert_eq!([A6, B6, granted].map(|it| forwarder.sender(it)), [Some(peer(1)), None, Some(peer(2))]);
        // The host has these addresses, too.
        assert_eq!([own, HOST6].map(|it| (forwarder.holder(it), forwarder.sender(it))), [(Some(peer(1)), None); 2]);
    }

    proptest! {
        /// Grants and claims work the same for both versions of IP.
        #[test]
        fn leases_cover_what_their_prefixes_cover(nets in prop::collection::vec(any_net(), 1..8), pick: u128) {
            let grants = nets.iter().map(|&prefix| Grant { prefix, holder: Holder::User(1) });
            let policy = Policy { grants: Grants::new(grants, Uncovered::Deny), ..Policy::default() };
            for net in nets {
                let mut forwarder = forwarder(policy.clone());
                let source = inside(net, pick);
                let host = if source.is_ipv4() { HOST } else { HOST6 };
                let is_link_local = matches!(source, IpAddr::V4(source) if source.is_link_local());
                let expected = if tuntap_wire::ip::is_unicast(source) && !is_link_local {
                    (Outbound::Tun, Outbound::Drop(DropReason::NotGranted))
                } else {
                    (Outbound::Drop(DropReason::InvalidSource), Outbound::Drop(DropReason::InvalidSource))
                };
                prop_assert_eq!(to(&mut forwarder, peer(1), source, host), expected.0);
                prop_assert_eq!(to(&mut forwarder, peer(2), source, host), expected.1);
            }
        }
    }
}

#[test]
fn groups_that_limits_name_are_asked_for_and_kept() {
    use crate::policy::shape::{Limit, Shape, ShapeSelector, Shapes};

    let limit = |selector| Shape { out: true, inn: true, selector, limit: Limit::new(1_000_000) };
    let shapes = |selector| Arc::new(Shapes::new(vec![limit(ShapeSelector::Any), limit(selector)]));
    let identity = || Identity { uid: 1, gid: 1, groups: vec![5, 7, 9] };
    for (shapes, kept) in [(shapes(ShapeSelector::Group(7)), &[7][..]), (shapes(ShapeSelector::User(7)), &[])] {
        let mut forwarder = Forwarder::new(Policy { shapes, ..Policy::default() }, 42);
        assert_eq!(forwarder.wants_groups(), !kept.is_empty());
        let id = forwarder.vacant().expect("room");
        forwarder.add_peer(id, identity());
        assert_eq!(forwarder.peers.get(id).expect("there").identity.groups, kept);
        forwarder.identify(id, identity());
        let peer = forwarder.peers.get(id).expect("there");
        assert_eq!(peer.identity.groups, kept);
        let user = forwarder.policy.shapes.of_peer(Direction::Out, std::iter::empty(), &peer.identity).user;
        assert_eq!(user.is_some(), !kept.is_empty());
    }
}
