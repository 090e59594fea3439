use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::PacketBuilder;
use ipnet::Ipv4Net;
use proptest::prelude::*;

use super::*;
use crate::policy::pattern::Rule;
use crate::wire::rule::MaskedAddress;

const SEED: u64 = 0x1234_5678_9abc_def1;
const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
const A: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
const B: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 3);
const GATEWAY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), 4000);

fn peer(index: u32) -> PeerId {
    PeerId { index, generation: 7 }
}

fn net(text: &str) -> Ipv4Net {
    text.parse().expect("a prefix")
}

fn packet(src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(src.octets(), dst.octets(), 64)
        .udp(1, 2)
        .write(&mut bytes, b"payload")
        .expect("a valid packet");
    bytes
}

fn ip(bytes: &[u8]) -> Ipv4Packet<'_> {
    Ipv4Packet::parse(bytes).expect("a valid packet")
}

fn open_policy() -> Policy {
    Policy {
        firewall_in: RuleList::new([]),
        firewall_out: RuleList::new([]),
        routes: RuleList::new([]),
        has_gateway: false,
        switch: false,
    }
}

fn forwarder(policy: Policy) -> Forwarder {
    let mut forwarder = Forwarder::new(policy, SEED);
    forwarder.add_peer(peer(1));
    forwarder.add_peer(peer(2));
    forwarder
}

fn to(forwarder: &mut Forwarder, id: PeerId, src: Ipv4Addr, dst: Ipv4Addr) -> Outward {
    forwarder.outward(id, &ip(&packet(src, dst))).to
}

#[test]
fn first_packet_claims_its_source_and_later_ones_keep_to_it() {
    let mut forwarder = forwarder(open_policy());
    let verdict = forwarder.outward(peer(1), &ip(&packet(A, HOST)));
    assert_eq!(verdict, OutwardVerdict { to: Outward::Tun, claimed: Some(A) });
    assert_eq!(forwarder.outward(peer(1), &ip(&packet(A, B))), OutwardVerdict { to: Outward::Tun, claimed: None });
    assert_eq!(to(&mut forwarder, peer(1), B, HOST), Outward::Drop(DropReason::SpoofedSource));
    assert_eq!(forwarder.address(peer(1)), Some(A));
    assert_eq!(forwarder.inward(Origin::Tun, &ip(&packet(HOST, A))), Inward::Peer(peer(1)));
}

#[test]
fn later_claimant_waits_for_the_holder_to_go() {
    let mut forwarder = forwarder(open_policy());
    to(&mut forwarder, peer(1), A, HOST);
    let contested = Outward::Contested { address: A, holder: peer(1) };
    assert_eq!(to(&mut forwarder, peer(2), A, HOST), contested);
    assert_eq!(forwarder.inward(Origin::Tun, &ip(&packet(HOST, A))), Inward::Peer(peer(1)));
    forwarder.remove_peer(peer(1));
    assert_eq!(forwarder.outward(peer(2), &ip(&packet(A, HOST))).claimed, Some(A));
}

#[test]
fn contested_claimant_may_still_take_another_address() {
    let mut forwarder = forwarder(open_policy());
    to(&mut forwarder, peer(1), A, HOST);
    to(&mut forwarder, peer(2), A, HOST);
    assert_eq!(to(&mut forwarder, peer(2), B, HOST), Outward::Tun);
    assert_eq!(forwarder.address(peer(2)), Some(B));
}

#[test]
fn only_hosts_claim() {
    let mut forwarder = forwarder(open_policy());
    for src in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1)] {
        let dropped = OutwardVerdict { to: Outward::Drop(DropReason::InvalidSource), claimed: None };
        assert_eq!(forwarder.outward(peer(1), &ip(&packet(src, HOST))), dropped, "{src}");
    }
    assert_eq!(forwarder.address(peer(1)), None);
}

#[test]
fn packet_that_the_firewall_denies_claims_nothing() {
    let deny = Rule { src: net("0.0.0.0/0"), dst: net("10.0.0.0/8"), target: Action::Deny };
    let mut forwarder = forwarder(Policy { firewall_out: RuleList::new([deny]), ..open_policy() });
    assert_eq!(to(&mut forwarder, peer(1), A, Ipv4Addr::new(10, 1, 1, 1)), Outward::Drop(DropReason::Firewall));
    assert_eq!(forwarder.address(peer(1)), None);
    assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outward::Tun);
}

#[test]
fn in_chain_decides_on_what_comes_from_the_tun_and_the_gateway() {
    let deny = Rule { src: net("10.0.0.0/8"), dst: net("0.0.0.0/0"), target: Action::Deny };
    let mut forwarder = forwarder(Policy { firewall_in: RuleList::new([deny]), ..open_policy() });
    to(&mut forwarder, peer(1), A, HOST);
    let stranger = packet(Ipv4Addr::new(10, 9, 9, 9), A);
    for origin in [Origin::Tun, Origin::Gateway] {
        assert_eq!(forwarder.inward(origin, &ip(&stranger)), Inward::Drop(DropReason::Firewall, Some(peer(1))));
        assert_eq!(forwarder.inward(origin, &ip(&packet(HOST, A))), Inward::Peer(peer(1)));
        assert_eq!(forwarder.inward(origin, &ip(&packet(HOST, B))), Inward::Drop(DropReason::NoPeer, None));
    }
}

#[test]
fn routes_need_a_gateway() {
    let route = Rule { src: net("192.168.0.0/24"), dst: net("192.168.1.0/24"), target: GATEWAY };
    let remote = Ipv4Addr::new(192, 168, 1, 5);
    for (has_gateway, expected) in [(true, Outward::Gateway(GATEWAY)), (false, Outward::Tun)] {
        let mut forwarder = forwarder(Policy { routes: RuleList::new([route]), has_gateway, ..open_policy() });
        assert_eq!(to(&mut forwarder, peer(1), A, remote), expected);
        assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outward::Tun);
    }
}

#[test]
fn peer_rules_apply_to_their_direction_and_peer() {
    let rule = |direction, action| PeerRule { direction, src: MaskedAddress::ANY, dst: MaskedAddress::ANY, action };
    let mut forwarder = forwarder(open_policy());
    to(&mut forwarder, peer(1), A, HOST);
    to(&mut forwarder, peer(2), B, HOST);

    forwarder.set_rules(peer(1), vec![rule(Direction::In, RuleAction::Deny)]);
    assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outward::Tun);
    assert_eq!(forwarder.inward(Origin::Tun, &ip(&packet(HOST, A))), Inward::Drop(DropReason::PeerRule, Some(peer(1))));
    assert_eq!(forwarder.inward(Origin::Gateway, &ip(&packet(HOST, A))), Inward::Peer(peer(1)));
    assert_eq!(forwarder.inward(Origin::Tun, &ip(&packet(HOST, B))), Inward::Peer(peer(2)));

    forwarder.set_rules(peer(1), vec![rule(Direction::Out, RuleAction::Deny)]);
    assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outward::Drop(DropReason::PeerRule));
    assert_eq!(forwarder.inward(Origin::Tun, &ip(&packet(HOST, A))), Inward::Peer(peer(1)));

    forwarder.set_rules(peer(1), vec![rule(Direction::Out, RuleAction::Route(GATEWAY))]);
    assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outward::Drop(DropReason::NoGateway));
}

#[test]
fn first_peer_rule_wins() {
    let to_host = MaskedAddress { address: HOST.to_bits(), mask: u32::MAX };
    let rule = |dst, action| PeerRule { direction: Direction::Out, src: MaskedAddress::ANY, dst, action };
    let mut forwarder = forwarder(open_policy());
    forwarder.set_rules(peer(1), vec![rule(to_host, RuleAction::Allow), rule(MaskedAddress::ANY, RuleAction::Deny)]);
    assert_eq!(to(&mut forwarder, peer(1), A, HOST), Outward::Tun);
    assert_eq!(to(&mut forwarder, peer(1), A, B), Outward::Drop(DropReason::PeerRule));
}

#[test]
fn assigned_peer_gets_its_address_and_no_other() {
    let mut forwarder = forwarder(open_policy());
    assert_eq!(forwarder.assign(peer(1), A), Some(Claim::Granted));
    assert_eq!(forwarder.inward(Origin::Tun, &ip(&packet(HOST, A))), Inward::Peer(peer(1)));
    assert_eq!(to(&mut forwarder, peer(1), B, HOST), Outward::Drop(DropReason::SpoofedSource));

    assert_eq!(forwarder.assign(peer(2), A), Some(Claim::HeldBy(peer(1))));
    assert_eq!(to(&mut forwarder, peer(2), B, HOST), Outward::Drop(DropReason::SpoofedSource));
    assert_eq!(to(&mut forwarder, peer(2), A, HOST), Outward::Contested { address: A, holder: peer(1) });
    forwarder.remove_peer(peer(1));
    assert_eq!(to(&mut forwarder, peer(2), A, HOST), Outward::Tun);
    assert_eq!(forwarder.assign(peer(2), B), None);
}

#[test]
fn switched_packets_pass_both_chains_and_both_peers_rules() {
    let deny = Rule { src: net("192.168.0.9/32"), dst: net("0.0.0.0/0"), target: Action::Deny };
    let switched = || forwarder(Policy { switch: true, ..open_policy() });
    let mut plain = switched();
    to(&mut plain, peer(1), A, HOST);
    to(&mut plain, peer(2), B, HOST);
    assert_eq!(to(&mut plain, peer(1), A, B), Outward::Peer(peer(2)));
    assert_eq!(to(&mut plain, peer(1), A, HOST), Outward::Tun);
    let deny_in = PeerRule {
        direction: Direction::In,
        src: MaskedAddress::ANY,
        dst: MaskedAddress::ANY,
        action: RuleAction::Deny,
    };
    plain.set_rules(peer(2), vec![deny_in]);
    assert_eq!(to(&mut plain, peer(1), A, B), Outward::Drop(DropReason::PeerRule));

    let other = Ipv4Addr::new(192, 168, 0, 9);
    let mut chained = forwarder(Policy { switch: true, firewall_in: RuleList::new([deny]), ..open_policy() });
    to(&mut chained, peer(1), other, HOST);
    to(&mut chained, peer(2), B, HOST);
    assert_eq!(to(&mut chained, peer(1), other, B), Outward::Drop(DropReason::Firewall));
}

proptest! {
    /// Whatever a peer sends, in whatever order: no address ever has two holders, none moves while its holder lives,
    /// and nothing leaves for the TUN with a source that its peer doesn't hold.
    #[test]
    fn claims_hold(events in prop::collection::vec((0u32..4, 0u8..6, 0u8..8), 1..200)) {
        let mut forwarder = Forwarder::new(open_policy(), SEED);
        for index in 0..4 {
            forwarder.add_peer(peer(index));
        }
        let mut held: [Option<Ipv4Addr>; 4] = [None; 4];
        for (index, host, what) in events {
            let id = peer(index);
            let address = Ipv4Addr::new(10, 0, 0, host);
            if what == 0 {
                forwarder.remove_peer(id);
                forwarder.add_peer(id);
                held[index as usize] = None;
                continue;
            }
            let holder = held.iter().position(|&other| other == Some(address));
            let verdict = to(&mut forwarder, id, address, HOST);
            let expected = match (held[index as usize], holder) {
                (Some(own), _) if own == address => Outward::Tun,
                (Some(_), _) => Outward::Drop(DropReason::SpoofedSource),
                (None, None) => Outward::Tun,
                (None, Some(other)) => {
                    Outward::Contested { address, holder: peer(u32::try_from(other).expect("below 4")) }
                }
            };
            prop_assert_eq!(verdict, expected);
            if verdict == Outward::Tun {
                held[index as usize] = Some(address);
            }
        }
        for (index, address) in held.into_iter().enumerate() {
            prop_assert_eq!(forwarder.address(peer(u32::try_from(index).expect("below 4"))), address);
        }
    }

    /// No packet makes the forwarder panic, from either side.
    #[test]
    fn any_packet_gets_a_verdict(mut bytes in prop::collection::vec(any::<u8>(), 20..100)) {
        bytes[..4].copy_from_slice(&[0x45, 0, 0, 20]);
        let mut forwarder = forwarder(open_policy());
        forwarder.outward(peer(1), &ip(&bytes));
        forwarder.inward(Origin::Tun, &ip(&bytes));
    }
}
