//! The verdict on each packet, against one that is worked out from the documents.
//!
//! Input: a policy, then what happens to peers and packets, read by `read_policy` and `Scene::step`. Most addresses are
//! among a few, so that rules match and claims collide.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;
use tuntap_plugin::policy::drops::DropReason;
use tuntap_plugin::policy::forward::{
    Assignment, Forwarder, Inward, Origin, Outward, OutwardVerdict, Policy, RulesVerdict,
};
use tuntap_plugin::policy::lease::{Holder, Identity, Lease, Leases, Uncovered};
use tuntap_plugin::policy::pattern::{Action, Rule, RuleList};
use tuntap_plugin::policy::registry::PeerId;
use tuntap_plugin::policy::targets::{AllowedTargets, TargetRange};
use tuntap_plugin::wire::ip::Packet;
use tuntap_plugin::wire::rule::{Direction, MaskedAddress, PeerRule, RuleAction};

use super::input::Input;

/// Peers at a time.
const PEERS: usize = 4;

/// Users, and groups.
const IDS: u32 = 5;

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
        leases: Leases::new(rules.leases.iter().copied(), rules.uncovered),
        // As the plugin does it: peers may name what the router's own routes name.
        device_routes: AllowedTargets::new(
            rules.routes.iter().map(|route| route.target),
            rules.device_routes.iter().copied(),
        ),
        gateway_sources: rules.gateway_sources.iter().copied().collect(),
        networks: Vec::new(),
    };
    let mut scene = Scene {
        forwarder: Forwarder::new(policy, seed),
        oracle: Oracle { rules, peers: Default::default() },
        added: 0,
    };
    let wants_groups = (0..IDS).any(|group| scene.oracle.is_named(group));
    assert_eq!(scene.forwarder.wants_groups(), wants_groups);
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
    leases: Vec<Lease>,
    uncovered: Uncovered,
    device_routes: Vec<TargetRange>,
    gateway_sources: Vec<Ipv4Net>,
}

fn read_policy(input: &mut Input<'_>) -> Rules {
    let flags = input.byte();
    let action = |input: &mut Input<'_>| if input.flag() { Action::Deny } else { Action::Allow };
    let mut rules = Rules {
        firewall_in: read_rules(input, action),
        firewall_out: read_rules(input, action),
        routes: read_rules(input, target),
        has_gateway: flags & 1 != 0,
        switch: flags & 2 != 0,
        leases: Vec::new(),
        uncovered: Uncovered::Allow,
        device_routes: Vec::new(),
        gateway_sources: Vec::new(),
    };
    if flags & 4 != 0 {
        rules.uncovered = if input.flag() { Uncovered::Allow } else { Uncovered::Deny };
        rules.leases = (0..input.below(8)).map(|_| read_lease(input)).collect();
    }
    if flags & 8 != 0 {
        rules.device_routes = (0..input.below(4)).map(|_| read_range(input)).collect();
    }
    if flags & 16 != 0 {
        rules.gateway_sources = (0..input.below(4)).map(|_| net(input)).collect();
    }
    rules
}

fn read_rules<T>(input: &mut Input<'_>, target: impl Fn(&mut Input<'_>) -> T) -> Vec<Rule<T>> {
    (0..input.below(8)).map(|_| Rule { src: net(input), dst: net(input), target: target(input) }).collect()
}

fn read_lease(input: &mut Input<'_>) -> Lease {
    let prefix = net(input);
    let holder = input.byte();
    let number = u32::from(holder >> 1) % IDS;
    Lease { prefix, holder: if holder & 1 == 0 { Holder::User(number) } else { Holder::Group(number) } }
}

fn read_range(input: &mut Input<'_>) -> TargetRange {
    let len = u8::try_from(input.below(33)).expect("at most 32");
    let port = input.flag();
    let target = target(input);
    TargetRange { prefix: Ipv4Net::new_assert(*target.ip(), len), port: port.then_some(target.port()) }
}

/// Users and groups have the same few numbers, so that mistaking one for the other shows.
fn read_identity(input: &mut Input<'_>) -> Identity {
    let mut id = || u32::from(input.byte()) % IDS;
    let (uid, gid) = (id(), id());
    let count = input.below(4);
    Identity { uid, gid, groups: (0..count).map(|_| u32::from(input.byte()) % IDS).collect() }
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

/// Few addresses and few ports, so that those of peers and of the router meet.
fn target(input: &mut Input<'_>) -> SocketAddrV4 {
    let [last, port] = input.array();
    SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, last), port.into())
}

fn net(input: &mut Input<'_>) -> Ipv4Net {
    let len = u8::try_from(input.below(33)).expect("at most 32");
    Ipv4Net::new_assert(address(input), len)
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
        match kind % 12 {
            0 => {
                self.add_peer(slot, id, input);
            }
            1 => self.remove_peer(id),
            2 => {
                let address = address(input);
                assert_eq!(self.forwarder.assign(id, address), self.oracle.assign(id, address));
            }
            3 => {
                let rules = read_peer_rules(input);
                let verdict = self.forwarder.set_rules(id, rules.clone());
                assert_eq!(verdict, self.oracle.set_rules(id, rules));
            }
            6 => self.inward(input, Origin::Tun),
            7 => self.inward(input, Origin::Gateway),
            8 => self.restore_peer(slot, id, input),
            9 => self.identify(id, input),
            10 => {
                let source = address(input);
                assert_eq!(self.forwarder.accepts_datagrams_of(source), self.oracle.accepts_datagrams_of(source));
            }
            _ => {
                let (src, dst) = (address(input), address(input));
                let bytes = packet(src, dst);
                let packet = Packet::parse(&bytes).expect("a packet");
                assert_eq!(
                    self.forwarder.outward(id, &packet),
                    self.oracle.outward(id, src, dst),
                    "{id:?} {src} {dst}"
                );
            }
        }
        self.check_peers();
    }

    /// What the statistics show, and what a router that is started again is told.
    fn check_peers(&self) {
        for peer in self.oracle.peers.iter().flatten() {
            assert_eq!(self.forwarder.address(peer.id), peer.held);
            assert!(self.forwarder.rules(peer.id).eq(&peer.rules));
            let identity = self.forwarder.identity(peer.id).expect("a peer");
            let mut groups = peer.identity.groups.clone();
            groups.retain(|group| self.oracle.is_named(*group));
            assert_eq!(*identity, Identity { groups, ..peer.identity.clone() });
        }
    }

    fn remove_peer(&mut self, id: PeerId) {
        self.forwarder.remove_peer(id);
        self.oracle.remove(id);
    }

    /// A name for a peer in the place of another one. A stale name has removed nobody.
    fn make_room(&mut self, slot: usize, id: PeerId) -> Option<PeerId> {
        self.remove_peer(id);
        let generation = self.added;
        self.oracle.peers[slot].is_none().then_some(PeerId { index: id.index, generation })
    }

    fn add_peer(&mut self, slot: usize, id: PeerId, input: &mut Input<'_>) {
        let identity = self.identity(input);
        if let Some(id) = self.make_room(slot, id) {
            self.added += 1;
            self.forwarder.add_peer(id, identity.clone());
            self.oracle.peers[slot] = Some(Peer::new(id, identity));
        }
    }

    fn restore_peer(&mut self, slot: usize, id: PeerId, input: &mut Input<'_>) {
        let identity = self.identity(input);
        let address = input.flag().then(|| address(input));
        let rules = read_peer_rules(input);
        if let Some(id) = self.make_room(slot, id) {
            self.added += 1;
            self.forwarder.restore(id, identity.clone(), rules.clone(), address);
            self.oracle.peers[slot] = Some(Peer { rules, has_sent: true, ..Peer::new(id, identity) });
            if let Some(address) = address {
                self.oracle.assign(id, address);
            }
        }
    }

    /// The router asks a peer who it is before anything else.
    fn identify(&mut self, id: PeerId, input: &mut Input<'_>) {
        let identity = self.identity(input);
        if self.oracle.peer_mut(id).is_some_and(|peer| peer.held.is_some() || peer.assigned.is_some()) {
            return;
        }
        self.forwarder.identify(id, identity.clone());
        if let Some(peer) = self.oracle.peer_mut(id) {
            peer.identity = identity;
        }
    }

    /// Without leases nobody asks who a peer is.
    fn identity(&self, input: &mut Input<'_>) -> Identity {
        if self.oracle.rules.leases.is_empty() {
            Identity { uid: 0, gid: 0, groups: Vec::new() }
        } else {
            read_identity(input)
        }
    }

    fn inward(&mut self, input: &mut Input<'_>, origin: Origin) {
        let (src, dst) = (address(input), address(input));
        let bytes = packet(src, dst);
        let packet = Packet::parse(&bytes).expect("a packet");
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
    identity: Identity,
    held: Option<Ipv4Addr>,
    assigned: Option<Ipv4Addr>,
    rules: Vec<PeerRule>,
    has_sent: bool,
}

impl Peer {
    fn new(id: PeerId, identity: Identity) -> Self {
        Self { id, identity, held: None, assigned: None, rules: Vec::new(), has_sent: false }
    }
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

    fn assign(&mut self, id: PeerId, address: Ipv4Addr) -> Option<Assignment> {
        let holder = self.holder(address).map(|peer| peer.id);
        let peer = self.peers.iter().flatten().find(|peer| peer.id == id && peer.held.is_none())?;
        if !self.is_leased_to(address, &peer.identity) {
            return Some(Assignment::NotLeased);
        }
        let peer = self.peer_mut(id)?;
        peer.assigned = Some(address);
        if let Some(holder) = holder {
            return Some(Assignment::HeldBy(holder));
        }
        peer.held = Some(address);
        Some(Assignment::Granted)
    }

    fn set_rules(&mut self, id: PeerId, rules: Vec<PeerRule>) -> Option<RulesVerdict> {
        let targets =
            rules.iter().filter(|rule| rule.direction == Direction::Out).filter_map(|rule| match rule.action {
                RuleAction::Route(target) => Some(target),
                RuleAction::Allow | RuleAction::Deny => None,
            });
        let refused_target = targets.filter(|_| self.rules.has_gateway).find(|target| !self.may_name(*target));
        let peer = self.peer_mut(id)?;
        if !peer.has_sent {
            peer.rules = rules;
            return Some(RulesVerdict::Applied { refused_target });
        }
        Some(if peer.rules == rules { RulesVerdict::Unchanged } else { RulesVerdict::Frozen })
    }

    /// One of the leases that cover the address is the peer's, or none covers it and that is enough.
    fn is_leased_to(&self, address: Ipv4Addr, identity: &Identity) -> bool {
        let covering: Vec<_> = self.rules.leases.iter().filter(|lease| within(address, lease.prefix)).collect();
        if covering.is_empty() {
            return self.rules.uncovered == Uncovered::Allow;
        }
        covering.iter().any(|lease| match lease.holder {
            Holder::User(uid) => identity.uid == uid,
            Holder::Group(gid) => identity.gid == gid || identity.groups.contains(&gid),
        })
    }

    /// Whether there is a lease of the group.
    fn is_named(&self, group: u32) -> bool {
        self.rules.leases.iter().any(|lease| lease.holder == Holder::Group(group))
    }

    /// The gateway is the target of a route of the router, or among those that the operator names.
    fn may_name(&self, target: SocketAddrV4) -> bool {
        self.rules.routes.iter().any(|route| route.target == target)
            || self.rules.device_routes.iter().any(|range| {
                within(*target.ip(), range.prefix) && (range.port.is_none() || range.port == Some(target.port()))
            })
    }

    fn accepts_datagrams_of(&self, source: Ipv4Addr) -> bool {
        let sources = &self.rules.gateway_sources;
        sources.is_empty() || sources.iter().any(|net| within(source, *net))
    }

    fn outward(&mut self, id: PeerId, src: Ipv4Addr, dst: Ipv4Addr) -> OutwardVerdict {
        let drop = |reason| OutwardVerdict { to: Outward::Drop(reason), claimed: None };
        if first(&self.rules.firewall_out, src, dst) == Some(Action::Deny) {
            return drop(DropReason::Firewall);
        }
        let holder = self.holder(src).map(|peer| peer.id);
        let Some(peer) = self.peers.iter().flatten().find(|peer| peer.id == id) else {
            return drop(DropReason::NoPeer);
        };
        let mut claimed = None;
        if peer.held != Some(src) {
            if peer.held.is_some() || peer.assigned.is_some_and(|address| address != src) {
                return drop(DropReason::SpoofedSource);
            }
            let belongs_to_a_host = (1..=223).contains(&src.octets()[0]) && !src.is_loopback();
            if peer.assigned.is_none() && !belongs_to_a_host {
                return drop(DropReason::InvalidSource);
            }
            if !self.is_leased_to(src, &peer.identity) {
                return drop(DropReason::NotLeased);
            }
            if let Some(holder) = holder {
                return OutwardVerdict { to: Outward::Contested { address: src, holder }, claimed: None };
            }
            claimed = Some(src);
        }
        let peer = self.peer_mut(id).expect("it was found above");
        peer.held = Some(src);
        peer.has_sent = true;
        let rules = peer.rules.clone();
        let to = match first_of_peer(&rules, Direction::Out, src, dst) {
            Some(RuleAction::Deny) => Outward::Drop(DropReason::PeerRule),
            Some(RuleAction::Route(_)) if !self.rules.has_gateway => Outward::Drop(DropReason::NoGateway),
            Some(RuleAction::Route(target)) if !self.may_name(target) => Outward::Drop(DropReason::RouteTarget),
            Some(RuleAction::Route(target)) => Outward::Gateway(target),
            Some(RuleAction::Allow) | None => self.route(src, dst),
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

/// Host bits of the prefix don't count.
fn within(address: Ipv4Addr, net: Ipv4Net) -> bool {
    let difference = address.to_bits() ^ net.addr().to_bits();
    difference.leading_zeros() >= u32::from(net.prefix_len())
}

fn first<T: Copy>(rules: &[Rule<T>], src: Ipv4Addr, dst: Ipv4Addr) -> Option<T> {
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
