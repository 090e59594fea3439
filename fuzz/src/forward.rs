//! The verdict on each packet, against one that is worked out from the documents.
//!
//! Input: a policy, then what happens to peers and packets, read by `read_policy` and `Scene::step`. Most addresses are
//! among a few, so that rules match and claims collide.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;
use tuntap_plugin::policy::drops::DropReason;
use tuntap_plugin::policy::forward::{Forwarder, Inward, Origin, Outward, OutwardVerdict, Policy};
use tuntap_plugin::policy::pattern::{Action, Rule, RuleList};
use tuntap_plugin::policy::registry::{Claim, PeerId};
use tuntap_plugin::wire::ip::Ipv4Packet;
use tuntap_plugin::wire::rule::{Direction, MaskedAddress, PeerRule, RuleAction};

use super::input::Input;

/// Peers at a time.
const PEERS: usize = 4;

/// Makes a router's policy and lets things happen to it.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = u64::from(input.byte());
    let rules = read_policy(&mut input);
    let policy = Policy {
        firewall_in: RuleList::new(rules.firewall_in.iter().copied()),
        firewall_out: RuleList::new(rules.firewall_out.iter().copied()),
        routes: RuleList::new(rules.routes.iter().copied()),
        has_gateway: rules.has_gateway,
        switch: rules.switch,
    };
    let mut scene = Scene {
        forwarder: Forwarder::new(policy, seed),
        oracle: Oracle { rules, peers: Default::default() },
        added: 0,
    };
    while !input.is_empty() {
        scene.step(&mut input);
    }
}

/// A policy that can still be read.
struct Rules {
    firewall_in: Vec<Rule<Action>>,
    firewall_out: Vec<Rule<Action>>,
    routes: Vec<Rule<SocketAddrV4>>,
    has_gateway: bool,
    switch: bool,
}

fn read_policy(input: &mut Input<'_>) -> Rules {
    let flags = input.byte();
    let action = |input: &mut Input<'_>| if input.flag() { Action::Deny } else { Action::Allow };
    Rules {
        firewall_in: read_rules(input, action),
        firewall_out: read_rules(input, action),
        routes: read_rules(input, target),
        has_gateway: flags & 1 != 0,
        switch: flags & 2 != 0,
    }
}

fn read_rules<T>(input: &mut Input<'_>, target: impl Fn(&mut Input<'_>) -> T) -> Vec<Rule<T>> {
    let net = |input: &mut Input<'_>| {
        let len = u8::try_from(input.below(33)).expect("at most 32");
        Ipv4Net::new_assert(address(input), len)
    };
    (0..input.below(8)).map(|_| Rule { src: net(input), dst: net(input), target: target(input) }).collect()
}

fn read_peer_rules(input: &mut Input<'_>) -> Vec<PeerRule> {
    let pattern = |input: &mut Input<'_>| match input.byte() {
        len @ 0..=32 => MaskedAddress {
            address: address(input).to_bits(),
            mask: u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0),
        },
        _ => MaskedAddress { address: u32::from_be_bytes(input.array()), mask: u32::from_be_bytes(input.array()) },
    };
    (0..input.below(6))
        .map(|_| {
            let kind = input.byte();
            PeerRule {
                direction: if kind & 1 == 0 { Direction::In } else { Direction::Out },
                src: pattern(input),
                dst: pattern(input),
                action: match kind >> 1 & 3 {
                    0 => RuleAction::Allow,
                    1 => RuleAction::Route(target(input)),
                    _ => RuleAction::Deny,
                },
            }
        })
        .collect()
}

fn target(input: &mut Input<'_>) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), input.word())
}

fn address(input: &mut Input<'_>) -> Ipv4Addr {
    match input.byte() {
        last @ 0..=7 => Ipv4Addr::new(10, 0, 0, last),
        last @ 8..=15 => Ipv4Addr::new(10, 0, 1, last),
        16 => Ipv4Addr::UNSPECIFIED,
        17 => Ipv4Addr::new(0, 1, 2, 3),
        18 => Ipv4Addr::LOCALHOST,
        19 => Ipv4Addr::new(224, 0, 0, 1),
        20 => Ipv4Addr::BROADCAST,
        21 => Ipv4Addr::new(223, 255, 255, 255),
        _ => Ipv4Addr::from(input.array::<4>()),
    }
}

/// The crate's forwarder and the oracle, side by side.
struct Scene {
    forwarder: Forwarder,
    oracle: Oracle,
    /// Peers so far.
    added: u32,
}

impl Scene {
    fn step(&mut self, input: &mut Input<'_>) {
        let kind = input.byte();
        let slot = input.below(PEERS);
        // Now and then, somebody uses the name of a peer that is no more, or that never was.
        let id = match &self.oracle.peers[slot] {
            Some(peer) if kind < 0xf0 => peer.id,
            _ => PeerId { index: u32::try_from(slot).expect("below PEERS"), generation: u32::MAX },
        };
        match kind % 8 {
            0 => self.replace_peer(slot, id),
            1 => {
                self.forwarder.remove_peer(id);
                self.oracle.remove(id);
            }
            2 => {
                let address = address(input);
                assert_eq!(self.forwarder.assign(id, address), self.oracle.assign(id, address));
            }
            3 => {
                let rules = read_peer_rules(input);
                self.forwarder.set_rules(id, rules.clone());
                if let Some(peer) = self.oracle.peer_mut(id) {
                    peer.rules = rules;
                }
            }
            4 | 5 => {
                let (src, dst) = (address(input), address(input));
                let bytes = packet(src, dst);
                let packet = Ipv4Packet::parse(&bytes).expect("a packet");
                assert_eq!(
                    self.forwarder.outward(id, &packet),
                    self.oracle.outward(id, src, dst),
                    "{id:?} {src} {dst}"
                );
            }
            6 => self.inward(input, Origin::Tun),
            _ => self.inward(input, Origin::Gateway),
        }
        for peer in self.oracle.peers.iter().flatten() {
            assert_eq!(self.forwarder.address(peer.id), peer.held);
            assert_eq!(self.forwarder.rules_count(peer.id), peer.rules.len());
        }
    }

    fn replace_peer(&mut self, slot: usize, id: PeerId) {
        self.forwarder.remove_peer(id);
        self.oracle.remove(id);
        // A stale name has removed nobody.
        if self.oracle.peers[slot].is_none() {
            let id = PeerId { index: id.index, generation: self.added };
            self.added += 1;
            self.forwarder.add_peer(id);
            self.oracle.peers[slot] = Some(Peer { id, held: None, assigned: None, rules: Vec::new() });
        }
    }

    fn inward(&mut self, input: &mut Input<'_>, origin: Origin) {
        let (src, dst) = (address(input), address(input));
        let bytes = packet(src, dst);
        let packet = Ipv4Packet::parse(&bytes).expect("a packet");
        assert_eq!(self.forwarder.inward(origin, &packet), self.oracle.inward(origin, src, dst), "{src} {dst}");
    }
}

fn packet(src: Ipv4Addr, dst: Ipv4Addr) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..4].copy_from_slice(&[0x45, 0, 0, 20]);
    bytes[12..16].copy_from_slice(&src.octets());
    bytes[16..].copy_from_slice(&dst.octets());
    bytes
}

/// The documents, word for word: lists that are walked, peers that are searched.
struct Oracle {
    rules: Rules,
    peers: [Option<Peer>; PEERS],
}

struct Peer {
    id: PeerId,
    held: Option<Ipv4Addr>,
    assigned: Option<Ipv4Addr>,
    rules: Vec<PeerRule>,
}

impl Oracle {
    fn peer_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.iter_mut().flatten().find(|peer| peer.id == id)
    }

    fn holder(&self, address: Ipv4Addr) -> Option<&Peer> {
        self.peers.iter().flatten().find(|peer| peer.held == Some(address))
    }

    fn remove(&mut self, id: PeerId) {
        for slot in &mut self.peers {
            slot.take_if(|peer| peer.id == id);
        }
    }

    fn assign(&mut self, id: PeerId, address: Ipv4Addr) -> Option<Claim> {
        let holder = self.holder(address).map(|peer| peer.id);
        let peer = self.peer_mut(id).filter(|peer| peer.held.is_none())?;
        peer.assigned = Some(address);
        if let Some(holder) = holder {
            return Some(Claim::HeldBy(holder));
        }
        peer.held = Some(address);
        Some(Claim::Granted)
    }

    fn outward(&mut self, id: PeerId, src: Ipv4Addr, dst: Ipv4Addr) -> OutwardVerdict {
        let drop = |reason| OutwardVerdict { to: Outward::Drop(reason), claimed: None };
        if first(&self.rules.firewall_out, src, dst) == Some(Action::Deny) {
            return drop(DropReason::Firewall);
        }
        let holder = self.holder(src).map(|peer| peer.id);
        let Some(peer) = self.peer_mut(id) else { return drop(DropReason::NoPeer) };
        let mut claimed = None;
        if peer.held != Some(src) {
            if peer.held.is_some() || peer.assigned.is_some_and(|address| address != src) {
                return drop(DropReason::SpoofedSource);
            }
            let belongs_to_a_host = (1..=223).contains(&src.octets()[0]) && !src.is_loopback();
            if peer.assigned.is_none() && !belongs_to_a_host {
                return drop(DropReason::InvalidSource);
            }
            if let Some(holder) = holder {
                return OutwardVerdict { to: Outward::Contested { address: src, holder }, claimed: None };
            }
            peer.held = Some(src);
            claimed = Some(src);
        }
        let to = match first_of_peer(&peer.rules, Direction::Out, src, dst) {
            Some(RuleAction::Deny) => Outward::Drop(DropReason::PeerRule),
            Some(RuleAction::Route(target)) if self.rules.has_gateway => Outward::Gateway(target),
            Some(RuleAction::Route(_)) => Outward::Drop(DropReason::NoGateway),
            _ => self.route(src, dst),
        };
        OutwardVerdict { to, claimed }
    }

    fn route(&self, src: Ipv4Addr, dst: Ipv4Addr) -> Outward {
        if self.rules.has_gateway
            && let Some(target) = first(&self.rules.routes, src, dst)
        {
            return Outward::Gateway(target);
        }
        if !self.rules.switch || self.holder(dst).is_none() {
            return Outward::Tun;
        }
        match self.inward(Origin::Tun, src, dst) {
            Inward::Peer(id) => Outward::Peer(id),
            Inward::Drop(reason, _) => Outward::Drop(reason),
        }
    }

    fn inward(&self, origin: Origin, src: Ipv4Addr, dst: Ipv4Addr) -> Inward {
        let holder = self.holder(dst);
        if first(&self.rules.firewall_in, src, dst) == Some(Action::Deny) {
            return Inward::Drop(DropReason::Firewall, holder.map(|peer| peer.id));
        }
        let Some(peer) = holder else { return Inward::Drop(DropReason::NoPeer, None) };
        match first_of_peer(&peer.rules, Direction::In, src, dst) {
            Some(RuleAction::Deny | RuleAction::Route(_)) if origin == Origin::Tun => {
                Inward::Drop(DropReason::PeerRule, Some(peer.id))
            }
            _ => Inward::Peer(peer.id),
        }
    }
}

fn first<T: Copy>(rules: &[Rule<T>], src: Ipv4Addr, dst: Ipv4Addr) -> Option<T> {
    let within = |address: Ipv4Addr, net: Ipv4Net| {
        let difference = address.to_bits() ^ net.addr().to_bits();
        difference.leading_zeros() >= u32::from(net.prefix_len())
    };
    rules.iter().find(|rule| within(src, rule.src) && within(dst, rule.dst)).map(|rule| rule.target)
}

fn first_of_peer(rules: &[PeerRule], direction: Direction, src: Ipv4Addr, dst: Ipv4Addr) -> Option<RuleAction> {
    let matches = |address: Ipv4Addr, pattern: MaskedAddress| {
        let any = pattern == MaskedAddress { address: 0, mask: 0xffff_ffff };
        any || address.to_bits() & pattern.mask == pattern.address
    };
    let found =
        rules.iter().find(|rule| rule.direction == direction && matches(src, rule.src) && matches(dst, rule.dst));
    found.map(|rule| rule.action)
}
