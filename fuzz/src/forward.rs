//! The verdict on each packet, against one that is worked out from the documents.
//!
//! Input: a policy, then what happens to peers and packets, read by `read_policy` and `Scene::step`. Most addresses are
//! among a few, so that rules match and claims collide.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use tuntap_core::policy::Policy;
use tuntap_core::policy::assignment::{Applicant, AssignmentError, Candidate};
use tuntap_core::policy::claims::AssignResult;
use tuntap_core::policy::drops::DropReason;
use tuntap_core::policy::forward::Forwarder;
use tuntap_core::policy::grant::{Grant, Grants, Holder, Identity, Uncovered};
use tuntap_core::policy::guard::{ClaimScope, Gateways, GuardPolicy};
use tuntap_core::policy::pattern::{Action, Rule, Rules as CompiledRules};
use tuntap_core::policy::pool::{Key, PoolError};
use tuntap_core::policy::registry::PeerId;
use tuntap_core::policy::targets::{AllowedTargets, TargetRange};
use tuntap_core::policy::verdict::{Inbound, Outbound, OutboundVerdict, PacketSource, RestoredPeer, RulesVerdict};
use tuntap_wire::autoconf::{ClaimedAddress, Family};
use tuntap_wire::ip::{Packet, PacketError};
use tuntap_wire::rule::{Direction, MaskedAddress, PeerRule, PeerSelector, RuleAction};
use tuntap_wire::selector::{AddressPattern, Ports, Protocol, Selector, Service};

use super::input::Input;
use super::probe::Probe;

/// Peers at a time.
const PEERS: usize = 4;

/// Users, and groups.
const IDS: u32 = 5;

/// IPv6 addresses of a peer.
const MOST_V6: usize = 8;

/// Makes a router's policy and lets things happen to it.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = u64::from(input.byte());
    let rules = read_policy(&mut input);
    let policy = Policy {
        generation: 0,
        firewall_in: CompiledRules::chain(rules.firewall_in.iter().copied()),
        firewall_out: CompiledRules::chain(rules.firewall_out.iter().copied()),
        routes: CompiledRules::new(rules.routes.iter().copied()),
        has_gateway: rules.has_gateway,
        switch: rules.switch,
        grants: Grants::new(rules.leases.iter().copied(), rules.uncovered),
        // As the plugin does it: peers may name what the router's own routes name.
        device_routes: AllowedTargets::new(
            rules.routes.iter().map(|route| route.target),
            rules.device_routes.iter().copied(),
        ),
        gateway_sources: rules.gateway_sources.iter().copied().collect(),
        networks: rules.networks.clone(),
        port_targets: Vec::new(),
        guard: GuardPolicy {
            claims: if rules.claims_own { ClaimScope::Own } else { ClaimScope::Any },
            is_strict: rules.is_strict,
            own: rules.networks.clone(),
            gateways: Gateways::new(
                rules.own_gateway,
                rules.routes.iter().map(|route| route.target),
                &rules.device_routes,
                &rules.gateway_sources,
                rules.gateway_vassals,
            ),
        },
        // Shares are bounds of their own, see the tests of the module.
        max_addresses: Some(0),
    };
    let mut forwarder = Forwarder::new(policy, seed);
    forwarder.set_host_addresses(rules.host.iter().copied());
    let mut scene = Scene { forwarder, oracle: Oracle { rules, peers: Default::default() }, added: 0 };
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
    routes: Vec<Rule<SocketAddr>>,
    has_gateway: bool,
    switch: bool,
    leases: Vec<Grant>,
    uncovered: Uncovered,
    device_routes: Vec<TargetRange>,
    gateway_sources: Vec<IpNet>,
    /// The router's own addresses.
    networks: Vec<IpNet>,
    /// Where this router's gateway is.
    own_gateway: Option<SocketAddr>,
    /// Who may send to gateways all the same.
    gateway_vassals: Option<IpNet>,
    /// Whether peers claim what is in the networks only.
    claims_own: bool,
    /// Whether they send to hosts only, and claim nothing of the host's.
    is_strict: bool,
    /// What the host's interfaces have.
    host: Vec<IpNet>,
    /// Whether rules may name protocols, and packets have some.
    has_services: bool,
}

fn read_policy(input: &mut Input<'_>) -> Rules {
    let flags = input.byte();
    let has_services = flags & 32 != 0;
    let action = |input: &mut Input<'_>| match input.byte() & 3 {
        1 => Action::Deny,
        3 => Action::Reject,
        _ => Action::Allow,
    };
    let mut rules = Rules {
        firewall_in: read_rules(input, has_services, action),
        firewall_out: read_rules(input, has_services, action),
        routes: read_rules(input, has_services, target),
        has_gateway: flags & 1 != 0,
        switch: flags & 2 != 0,
        leases: Vec::new(),
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
        rules.leases = (0..input.below(8)).map(|_| read_lease(input)).collect();
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
    rules
}

fn read_rules<T>(input: &mut Input<'_>, has_services: bool, target: impl Fn(&mut Input<'_>) -> T) -> Vec<Rule<T>> {
    (0..input.below(8)).map(|_| Rule { selector: read_selector(input, has_services), target: target(input) }).collect()
}

fn read_selector(input: &mut Input<'_>, has_services: bool) -> Selector {
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

fn read_pattern(input: &mut Input<'_>) -> AddressPattern {
    match input.byte() {
        0xf0.. => AddressPattern::Any,
        len => AddressPattern::Net(net_of(len, address(input))),
    }
}

/// A few protocols, with ports and without, and few ports.
fn read_service(input: &mut Input<'_>) -> Option<Service> {
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

fn read_lease(input: &mut Input<'_>) -> Grant {
    let prefix = net(input);
    let holder = input.byte();
    let number = u32::from(holder >> 1) % IDS;
    Grant { prefix, holder: if holder & 1 == 0 { Holder::User(number) } else { Holder::Group(number) } }
}

fn read_range(input: &mut Input<'_>) -> TargetRange {
    let len = input.byte();
    let port = input.flag();
    let target = target(input);
    TargetRange { prefix: net_of(len, target.ip()), port: port.then_some(target.port()) }
}

/// Users and groups have the same few numbers, so that mistaking one for the other shows.
fn read_identity(input: &mut Input<'_>) -> Identity {
    let mut id = || u32::from(input.byte()) % IDS;
    let (uid, gid) = (id(), id());
    let count = input.below(4);
    Identity { uid, gid, groups: (0..count).map(|_| u32::from(input.byte()) % IDS).collect() }
}

fn read_peer_rules(input: &mut Input<'_>, has_services: bool) -> Vec<PeerRule> {
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

/// Few addresses and few ports, so that those of peers and of the router meet.
fn target(input: &mut Input<'_>) -> SocketAddr {
    let [last, port] = input.array();
    let ip = match last {
        0..0xc0 => IpAddr::from([203, 0, 113, last]),
        _ => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()]),
    };
    SocketAddr::new(ip, port.into())
}

fn net(input: &mut Input<'_>) -> IpNet {
    let len = input.byte();
    net_of(len, address(input))
}

fn net_of(len: u8, address: IpAddr) -> IpNet {
    let lengths = if address.is_ipv4() { 33 } else { 129 };
    IpNet::new_assert(address, len % lengths)
}

fn address(input: &mut Input<'_>) -> IpAddr {
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
                let rules = read_peer_rules(input, self.oracle.rules.has_services);
                let verdict = self.forwarder.set_rules(id, rules.clone());
                assert_eq!(verdict, self.oracle.set_rules(id, rules));
            }
            6 => self.inbound(input, PacketSource::Tun),
            7 => self.inbound(input, PacketSource::Gateway),
            8 => self.restore_peer(slot, id, input),
            9 => self.identify(id, input),
            10 => {
                let source = address(input);
                assert_eq!(self.forwarder.accepts_datagrams_of(source), self.oracle.accepts_datagrams_of(source));
            }
            11 if !self.oracle.rules.networks.is_empty() && input.flag() => self.ask(id, input),
            11 if !self.oracle.rules.networks.is_empty() => self.claim(id, input),
            11 if self.oracle.rules.has_services => {
                let address = address(input);
                assert_eq!(self.forwarder.assign_chosen(id, address), self.oracle.assign_chosen(id, address));
            }
            _ => self.outbound(id, input),
        }
        self.check_peers();
    }

    /// What the statistics show, and what a router that is started again is told.
    fn check_peers(&self) {
        for peer in self.oracle.peers.iter().flatten() {
            assert!(self.forwarder.addresses(peer.id).eq(peer.addresses()));
            assert_eq!(self.forwarder.address(peer.id), peer.addresses().next());
            assert_eq!(self.forwarder.is_bound(peer.id), peer.is_bound);
            assert_eq!(self.forwarder.is_waiting(peer.id), peer.assigned.is_some());
            assert!(peer.v6.len() <= MOST_V6);
            for address in peer.addresses() {
                assert_eq!(self.forwarder.holder(address), Some(peer.id), "{address}");
            }
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
        let kind = input.byte();
        let is_bound = kind & 2 != 0;
        let count = if kind & 1 == 0 { 0 } else { 1 + usize::from(kind >> 2 & 15) };
        let addresses: Vec<_> = (0..count).map(|_| address(input)).collect();
        let rules = read_peer_rules(input, self.oracle.rules.has_services);
        if let Some(id) = self.make_room(slot, id) {
            self.added += 1;
            let legacy = RestoredPeer {
                identity: identity.clone(),
                namespace: None,
                rules: rules.clone(),
                addresses: &addresses,
                is_bound,
            };
            self.forwarder.restore(id, legacy);
            self.oracle.peers[slot] = Some(Peer { rules, has_sent: true, ..Peer::new(id, identity) });
            for address in addresses {
                self.oracle.restore(id, address, is_bound);
            }
            self.oracle.peer_mut(id).expect("it was just added").is_bound = is_bound;
        }
    }

    /// The router asks a peer who it is before anything else.
    fn identify(&mut self, id: PeerId, input: &mut Input<'_>) {
        let identity = self.identity(input);
        if self.oracle.peer_mut(id).is_some_and(|peer| peer.assigned.is_some() || peer.addresses().next().is_some()) {
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

    /// A peer asks for an address of a family of which it has none. Which one it gets is the router's choice.
    fn ask(&mut self, id: PeerId, input: &mut Input<'_>) {
        let (family, name) = (Family::ALL[input.below(2)], input.byte().into());
        let are_dead = input.flag();
        if self.forwarder.address_of(id, family).is_some() {
            return;
        }
        let has_network = self.oracle.rules.networks.iter().any(|net| Family::of(net.addr()) == family);
        match self.forwarder.choose(applicant(id, name), family, |_| are_dead) {
            Ok(chosen) => {
                assert_eq!(Family::of(chosen.address), family);
                assert!(self.oracle.may_give(chosen.address, id), "{chosen:?}");
                assert!(!self.oracle.passes_nothing_from(chosen.address), "{chosen:?}");
                assert!(!self.oracle.is_taken(chosen.address), "{chosen:?}");
                assert!(are_dead || chosen.dead_holder.is_none());
                self.give(id, chosen, name);
            }
            Err(AssignmentError::NoPeer) => assert!(self.oracle.peer(id).is_none()),
            Err(AssignmentError::Pool(PoolError::NoNetwork(_))) => assert!(!has_network),
            Err(
                AssignmentError::Pool(PoolError::Full(_)) | AssignmentError::Firewall | AssignmentError::NotClaimable,
            ) => {
                assert!(has_network)
            }
            Err(refusal) => panic!("{refusal:?}"),
        }
    }

    /// A peer claims an address by name.
    fn claim(&mut self, id: PeerId, input: &mut Input<'_>) {
        let (address, name) = (address(input), input.byte().into());
        let (leased, are_dead) = (input.flag(), input.flag());
        let chosen = self.forwarder.consider(applicant(id, name), ClaimedAddress { address, leased }, |_| are_dead);
        assert_eq!(chosen, self.oracle.consider(id, address, leased, are_dead));
        if let Ok(chosen) = chosen {
            self.give(id, chosen, name);
        }
    }

    /// The dead make room.
    fn give(&mut self, id: PeerId, chosen: Candidate, name: u64) {
        let Candidate { address, dead_holder } = chosen;
        assert_eq!(dead_holder, self.oracle.holder(address).map(|holder| holder.id).filter(|holder| *holder != id));
        if let Some(holder) = dead_holder {
            self.remove_peer(holder);
        }
        let is_new = self.oracle.holder(address).is_none();
        let expected = match self.oracle.assign_chosen(id, address).expect("it is there") {
            AssignResult::Granted => Ok(is_new),
            AssignResult::HeldBy(_) => Err(AssignmentError::Held),
            AssignResult::NotGranted => Err(AssignmentError::NotGranted),
            AssignResult::Taken => Err(AssignmentError::NotClaimable),
            AssignResult::TooMany => Err(AssignmentError::TooMany),
        };
        assert_eq!(self.forwarder.give(id, address, applicant(id, name).key), expected, "{address}");
    }

    fn outbound(&mut self, id: PeerId, input: &mut Input<'_>) {
        let probe = self.probe(input);
        if let Some(packet) = parse(&probe) {
            let expected = self.oracle.outbound(id, &probe);
            // The oracle has rules without numbers.
            let verdict = OutboundVerdict { rule: None, ..self.forwarder.outbound(id, &packet) };
            assert_eq!(verdict, expected, "{id:?} {probe:?}");
        }
    }

    fn inbound(&mut self, input: &mut Input<'_>, from: PacketSource) {
        let probe = self.probe(input);
        if let Some(packet) = parse(&probe) {
            assert_eq!(self.forwarder.inbound(from, &packet).to, self.oracle.inbound(from, &probe), "{probe:?}");
        }
    }

    fn probe(&self, input: &mut Input<'_>) -> Probe {
        let (src, dst) = (address(input), address(input));
        Probe::read(src, dst, self.oracle.rules.has_services, input)
    }
}

/// A peer that shows nobody who it is.
fn applicant(id: PeerId, name: u64) -> Applicant {
    Applicant { id, key: Key { uid: 0, name }, is_assigned: false }
}

/// Nothing for a packet that wants to be sent on by its receiver: it goes nowhere, whatever the rules say.
fn parse(probe: &Probe) -> Option<Packet<'_>> {
    let packet = Packet::parse(&probe.bytes);
    let expected = if probe.is_source_routed { Err(PacketError::SourceRoute) } else { Ok(()) };
    assert_eq!(packet.map(|_| ()), expected, "{probe:?}");
    packet.ok()
}

/// The documents, word for word: lists that are walked, peers that are searched.
struct Oracle {
    rules: Rules,
    peers: [Option<Peer>; PEERS],
}

struct Peer {
    id: PeerId,
    identity: Identity,
    /// The IPv4 address that it holds.
    held: Option<Ipv4Addr>,
    /// The one that it waits for.
    assigned: Option<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
    /// Whether it gets no address by choosing it.
    is_bound: bool,
    rules: Vec<PeerRule>,
    has_sent: bool,
}

impl Peer {
    fn new(id: PeerId, identity: Identity) -> Self {
        let (held, assigned, v6) = (None, None, Vec::new());
        Self { id, identity, held, assigned, v6, is_bound: false, rules: Vec::new(), has_sent: false }
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.held.map(IpAddr::V4).into_iter().chain(self.v6.iter().copied().map(IpAddr::V6))
    }

    fn hold(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => (self.held, self.assigned) = (Some(address), None),
            IpAddr::V6(address) if !self.v6.contains(&address) => self.v6.push(address),
            IpAddr::V6(_) => {}
        }
    }
}

impl Oracle {
    fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.iter().flatten().find(|peer| peer.id == id)
    }

    fn peer_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.iter_mut().flatten().find(|peer| peer.id == id)
    }

    fn holder(&self, address: IpAddr) -> Option<&Peer> {
        self.peers.iter().flatten().find(|peer| peer.addresses().any(|held| held == address))
    }

    fn remove(&mut self, id: PeerId) {
        for slot in &mut self.peers {
            slot.take_if(|peer| peer.id == id);
        }
    }

    /// For those that have a lease, where one is needed.
    fn assign(&mut self, id: PeerId, address: IpAddr) -> Option<AssignResult> {
        let is_granted = self.is_granted_to(address, &self.peer(id)?.identity);
        if self.is_taken(address) || !can_be_host(address) {
            return Some(AssignResult::Taken);
        }
        Some(if is_granted { self.give(id, address) } else { AssignResult::NotGranted })
    }

    /// What the router has chosen needs no lease, and is nobody else's.
    fn assign_chosen(&mut self, id: PeerId, address: IpAddr) -> Option<AssignResult> {
        let may_have = !self.is_covered(address) || self.is_granted_to(address, &self.peer(id)?.identity);
        self.peer(id)?;
        Some(if may_have { self.give(id, address) } else { AssignResult::NotGranted })
    }

    /// From one of the router's networks, fit for a host, not the router's own, and leased to the peer or to nobody.
    fn may_give(&self, address: IpAddr, id: PeerId) -> bool {
        let Some(peer) = self.peer(id) else { return false };
        let mut around = self.rules.networks.iter().filter(|net| within(address, **net)).peekable();
        let is_for_hosts = around.peek().is_some() && around.all(|net| !is_for_all(address, *net));
        let is_for_peer = !self.is_covered(address) || self.is_granted_to(address, &peer.identity);
        is_for_hosts && !self.is_own(address) && is_for_peer
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.rules.networks.iter().any(|net| net.addr() == address)
    }

    /// The chain `out` comes to a rule that refuses whatever comes from an address before one that lets something pass.
    fn passes_nothing_from(&self, address: IpAddr) -> bool {
        let chain = &self.rules.firewall_out;
        let is_v6 = address.is_ipv6();
        if is_v6 && !chain.is_empty() && !chain.iter().any(|rule| may_be_v6(&rule.selector)) {
            return true;
        }
        let matches_some = |rule: &&Rule<Action>| {
            let is_version = |pattern| match pattern {
                AddressPattern::Any => true,
                AddressPattern::Net(net) => net.addr().is_ipv6() == is_v6,
            };
            let is_source = match rule.selector.src() {
                AddressPattern::Any => true,
                AddressPattern::Net(net) => within(address, net),
            };
            is_source && is_version(rule.selector.dst())
        };
        for rule in chain.iter().filter(matches_some) {
            let is_every_destination = match rule.selector.dst() {
                AddressPattern::Any => true,
                AddressPattern::Net(net) => net.prefix_len() == 0,
            };
            match rule.target {
                Action::Allow => return false,
                Action::Deny | Action::Reject if is_every_destination && rule.selector.service().is_none() => {
                    return true;
                }
                Action::Deny | Action::Reject => {}
            }
        }
        false
    }

    /// As a packet would be looked at, but the router's own addresses are nobody's; what it could choose, a peer that has had
    /// it before may have again.
    fn consider(
        &self,
        id: PeerId,
        address: IpAddr,
        leased: bool,
        are_dead: bool,
    ) -> Result<Candidate, AssignmentError> {
        let Some(peer) = self.peer(id) else { return Err(AssignmentError::NoPeer) };
        if self.is_own(address) {
            return Err(AssignmentError::Own);
        }
        let is_granted = self.is_granted_to(address, &peer.identity) || leased && self.may_give(address, id);
        if !is_granted {
            return Err(AssignmentError::NotGranted);
        }
        let has_it = peer.addresses().chain(peer.assigned.map(IpAddr::V4)).any(|own| own == address);
        if !has_it && self.is_out_of_reach(address, peer) {
            return Err(AssignmentError::NotClaimable);
        }
        if self.passes_nothing_from(address) {
            return Err(AssignmentError::Firewall);
        }
        let is_chosen = leased && self.may_give(address, id);
        if !has_it && !is_chosen && !self.may_claim(address, &peer.identity) {
            return Err(AssignmentError::NotClaimable);
        }
        let other = self.holder(address).map(|holder| holder.id).filter(|holder| *holder != id);
        if other.is_some() && !are_dead {
            Err(AssignmentError::Held)
        } else {
            Ok(Candidate { address, dead_holder: other })
        }
    }

    /// What a peer had, it may have again if somebody would give it to it now.
    fn restore(&mut self, id: PeerId, address: IpAddr, was_bound: bool) {
        let identity = &self.peer(id).expect("it was just added").identity;
        let may_have = if was_bound && !self.is_covered(address) {
            can_be_host(address) && !self.is_taken(address)
        } else {
            self.is_granted_to(address, identity) && self.may_claim(address, identity)
        };
        if may_have {
            self.give(id, address);
        }
    }

    fn is_taken(&self, address: IpAddr) -> bool {
        (self.rules.is_strict || address.is_ipv6()) && self.is_hosts_own(address)
    }

    /// The host's, a router's, or that of a whole network of a router's.
    fn is_hosts_own(&self, address: IpAddr) -> bool {
        self.rules.host.iter().any(|net| net.addr() == address)
            || self
                .rules
                .networks
                .iter()
                .any(|net| net.addr() == address || within(address, *net) && is_for_all(address, *net))
    }

    /// What not even the router's choice makes a peer's.
    fn is_out_of_reach(&self, address: IpAddr, peer: &Peer) -> bool {
        let is_grantee = self.is_covered(address) && self.is_granted_to(address, &peer.identity);
        self.is_taken(address) || self.is_gateways(address) && !is_grantee
    }

    /// Nobody's own, and where that is asked for inside of the networks; what is leased to the peer is the operator's word.
    fn may_claim(&self, address: IpAddr, identity: &Identity) -> bool {
        if !can_be_host(address) || self.is_taken(address) {
            return false;
        }
        if self.is_covered(address) && self.is_granted_to(address, identity) {
            return true;
        }
        let mut around = self.rules.networks.iter().filter(|net| within(address, **net)).peekable();
        let is_vassals =
            around.peek().is_some() && !self.is_own(address) && around.all(|net| !is_for_all(address, *net));
        !self.is_gateways(address) && (!self.rules.claims_own || is_vassals)
    }

    /// All gateways that are at one address and a port.
    fn gateways(&self) -> impl Iterator<Item = SocketAddr> {
        let own = self.rules.own_gateway.filter(|own| !own.ip().is_unspecified());
        self.rules.routes.iter().map(|route| route.target).chain(own)
    }

    /// Other hosts that have gateways somewhere.
    fn gateway_hosts(&self) -> impl Iterator<Item = IpNet> {
        let ranges = self.rules.device_routes.iter().filter(|range| range.port.is_none());
        ranges.map(|range| range.prefix).chain(self.rules.gateway_sources.iter().copied())
    }

    /// One host that has a gateway, but nobody says on which port.
    fn has_gateway_somewhere(&self, address: IpAddr) -> bool {
        let is_single = |net: &IpNet| net.addr() == address && net.prefix_len() == net.max_prefix_len();
        let is_known = self.gateways().any(|gateway| gateway.ip() == address)
            || self.rules.device_routes.iter().any(|range| range.port.is_some() && within(address, range.prefix));
        !is_known && self.gateway_hosts().any(|net| is_single(&net))
    }

    fn is_gateways(&self, address: IpAddr) -> bool {
        self.gateways().any(|gateway| gateway.ip() == address) || self.has_gateway_somewhere(address)
    }

    /// Whether the host keeps what goes there.
    fn is_hosts(&self, address: IpAddr) -> bool {
        self.is_hosts_own(address) || !self.is_one_host(address)
    }

    fn is_one_host(&self, address: IpAddr) -> bool {
        let networks = self.rules.networks.iter().chain(&self.rules.host);
        let mut networks = networks.filter(|net| net.addr().is_ipv4());
        belongs_to_a_host(address) && !networks.any(|net| within(address, *net) && is_for_all(address, *net))
    }

    /// A datagram, or something that a kernel may unpack, to where a gateway is.
    fn goes_to_a_gateway(&self, probe: &Probe) -> bool {
        let dst = probe.dst.to_canonical();
        let own = self.rules.own_gateway.filter(|own| own.ip().is_unspecified());
        let is_known = self.gateways().next().is_some()
            || own.is_some()
            || self.rules.device_routes.iter().any(|range| range.port.is_some())
            || self.gateway_hosts().any(|net| self.has_gateway_somewhere(net.addr()));
        if !is_known || self.rules.gateway_vassals.is_some_and(|net| within(probe.src, net)) {
            return false;
        }
        if [4, 41, 47].contains(&probe.protocol) {
            return self.is_gateways(dst) || own.is_some() && self.is_hosts(dst);
        }
        if ![17, 136].contains(&probe.protocol) {
            return false;
        }
        if self.has_gateway_somewhere(dst) && probe.port != Some(53) {
            return true;
        }
        let Some(port) = probe.port else { return false };
        let with_port = || self.rules.device_routes.iter().filter(|range| range.port == Some(port));
        let is_any_ones =
            self.gateways().chain(own).any(|gateway| gateway.port() == port) || with_port().next().is_some();
        let is_vassals = self.rules.networks.iter().any(|net| within(dst, *net)) && !self.is_own(dst) && {
            self.rules.networks.iter().filter(|net| within(dst, **net)).all(|net| !is_for_all(dst, *net))
        };
        self.gateways().any(|gateway| gateway == SocketAddr::new(dst, port))
            || own.is_some_and(|own| own.port() == port && (own.is_ipv6() || dst.is_ipv4()) && self.is_hosts(dst))
            || with_port().any(|range| within(dst, range.prefix))
            || is_any_ones && !is_vassals && self.gateway_hosts().any(|net| within(dst, net))
    }

    fn give(&mut self, id: PeerId, address: IpAddr) -> AssignResult {
        let other = self.holder(address).map(|peer| peer.id).filter(|holder| *holder != id);
        let peer = self.peer_mut(id).expect("a peer");
        let is_one_more = match address {
            IpAddr::V4(address) => peer.held.or(peer.assigned).is_some_and(|one| one != address),
            IpAddr::V6(address) => !peer.v6.contains(&address) && peer.v6.len() == MOST_V6,
        };
        if is_one_more {
            return AssignResult::TooMany;
        }
        peer.is_bound = true;
        match (other, address) {
            (None, _) => {
                peer.hold(address);
                return AssignResult::Granted;
            }
            (Some(_), IpAddr::V4(address)) => peer.assigned = Some(address),
            (Some(_), IpAddr::V6(_)) => {}
        }
        AssignResult::HeldBy(other.expect("somebody"))
    }

    fn set_rules(&mut self, id: PeerId, rules: Vec<PeerRule>) -> Option<RulesVerdict> {
        let targets =
            rules.iter().filter(|rule| rule.direction == Direction::Out).filter_map(|rule| match rule.action {
                RuleAction::Route(target) => Some(target),
                RuleAction::Allow | RuleAction::Deny | RuleAction::Reject => None,
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
    fn is_granted_to(&self, address: IpAddr, identity: &Identity) -> bool {
        let covering: Vec<_> = self.rules.leases.iter().filter(|lease| within(address, lease.prefix)).collect();
        if covering.is_empty() {
            return self.rules.uncovered == Uncovered::Allow;
        }
        covering.iter().any(|lease| match lease.holder {
            Holder::User(uid) => identity.uid == uid,
            Holder::Group(gid) => identity.gid == gid || identity.groups.contains(&gid),
            Holder::Nobody => false,
        })
    }

    /// Whether the address is leased to anybody.
    fn is_covered(&self, address: IpAddr) -> bool {
        self.rules.leases.iter().any(|lease| within(address, lease.prefix))
    }

    /// Whether there is a lease of the group.
    fn is_named(&self, group: u32) -> bool {
        self.rules.leases.iter().any(|lease| lease.holder == Holder::Group(group))
    }

    /// The gateway is the target of a route of the router, or among those that the operator names.
    fn may_name(&self, target: SocketAddr) -> bool {
        self.rules.routes.iter().any(|route| route.target == target)
            || self.rules.device_routes.iter().any(|range| {
                within(target.ip(), range.prefix) && (range.port.is_none() || range.port == Some(target.port()))
            })
    }

    fn accepts_datagrams_of(&self, source: IpAddr) -> bool {
        let sources = &self.rules.gateway_sources;
        sources.is_empty() || sources.iter().any(|net| within(source, *net))
    }

    fn outbound(&mut self, id: PeerId, probe: &Probe) -> OutboundVerdict {
        let nowhere = |to| OutboundVerdict { to, claimed: None, is_first: false, rule: None };
        match chain(&self.rules.firewall_out, probe) {
            Action::Allow => {}
            Action::Deny => return nowhere(Outbound::Drop(DropReason::Firewall)),
            Action::Reject => return nowhere(Outbound::Reject(DropReason::Firewall)),
        }
        let src = probe.src;
        let Some(peer) = self.peer(id) else { return nowhere(Outbound::Drop(DropReason::NoPeer)) };
        let mut claimed = None;
        if !peer.addresses().any(|own| own == src) {
            if let Some(reason) = self.refusal(peer, src) {
                return nowhere(Outbound::Drop(reason));
            }
            if let Some(holder) = self.holder(src) {
                return nowhere(Outbound::Contested { address: src, holder: holder.id });
            }
            claimed = Some(src);
        }
        let peer = self.peer_mut(id).expect("it was found above");
        peer.hold(src);
        let is_first = !peer.has_sent;
        peer.has_sent = true;
        let rules = peer.rules.clone();
        let refused = if self.rules.is_strict && !self.is_one_host(probe.dst) {
            Some(DropReason::Destination)
        } else {
            self.goes_to_a_gateway(probe).then_some(DropReason::ToGateway)
        };
        if let Some(reason) = refused {
            return OutboundVerdict { to: Outbound::Drop(reason), claimed, is_first, rule: None };
        }
        let to = match of_peer(&rules, Direction::Out, probe) {
            RuleAction::Deny => Outbound::Drop(DropReason::PeerRule),
            RuleAction::Reject => Outbound::Reject(DropReason::PeerRule),
            RuleAction::Route(_) if !self.rules.has_gateway => Outbound::Drop(DropReason::NoGateway),
            RuleAction::Route(target) if !self.may_name(target) => Outbound::Drop(DropReason::RouteTarget),
            RuleAction::Route(target) => Outbound::Gateway(target),
            RuleAction::Allow => self.route(probe),
        };
        OutboundVerdict { to, claimed, is_first, rule: None }
    }

    /// Why a peer may not have an address, apart from its being another one's.
    fn refusal(&self, peer: &Peer, address: IpAddr) -> Option<DropReason> {
        if address.is_ipv4()
            && let Some(own) = peer.held.or(peer.assigned)
        {
            // What it was given it was allowed to have.
            return (own != address).then_some(DropReason::SpoofedSource);
        }
        if !can_be_host(address) {
            return Some(DropReason::InvalidSource);
        }
        if peer.is_bound && !self.is_covered(address) {
            return Some(DropReason::SpoofedSource);
        }
        if !self.is_granted_to(address, &peer.identity) {
            return Some(DropReason::NotGranted);
        }
        if !self.may_claim(address, &peer.identity) {
            return Some(DropReason::NotClaimable);
        }
        (address.is_ipv6() && peer.v6.len() == MOST_V6).then_some(DropReason::TooManyAddresses)
    }

    fn route(&self, probe: &Probe) -> Outbound {
        if self.rules.has_gateway
            && let Some(target) = first(&self.rules.routes, probe)
        {
            return Outbound::Gateway(target);
        }
        if !self.rules.switch || self.holder(probe.dst).is_none() {
            return Outbound::Tun;
        }
        match self.inbound(PacketSource::Tun, probe) {
            Inbound::Peer(id) => Outbound::Peer(id),
            Inbound::Drop(reason, _) => Outbound::Drop(reason),
            Inbound::Reject(reason, _) => Outbound::Reject(reason),
        }
    }

    fn inbound(&self, from: PacketSource, probe: &Probe) -> Inbound {
        let holder = self.holder(probe.dst);
        let id = holder.map(|peer| peer.id);
        match chain(&self.rules.firewall_in, probe) {
            Action::Allow => {}
            Action::Deny => return Inbound::Drop(DropReason::Firewall, id),
            Action::Reject => return Inbound::Reject(DropReason::Firewall, id),
        }
        let Some(peer) = holder else { return Inbound::Drop(DropReason::NoPeer, None) };
        if from == PacketSource::Gateway {
            return Inbound::Peer(peer.id);
        }
        match of_peer(&peer.rules, Direction::In, probe) {
            RuleAction::Allow => Inbound::Peer(peer.id),
            RuleAction::Reject => Inbound::Reject(DropReason::PeerRule, id),
            RuleAction::Deny | RuleAction::Route(_) => Inbound::Drop(DropReason::PeerRule, id),
        }
    }
}

/// Not on its own link only either.
fn can_be_host(address: IpAddr) -> bool {
    belongs_to_a_host(address) && !within(address, "169.254.0.0/16".parse().expect("a network"))
}

/// Neither one of many receivers, nor the sender itself, nor somebody on the same link alone.
fn belongs_to_a_host(address: IpAddr) -> bool {
    let nets: &[&str] = match address {
        IpAddr::V4(_) => &["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"],
        IpAddr::V6(_) => &["::/96", "::ffff:0:0/96", "fe80::/10", "ff00::/8"],
    };
    !nets.iter().any(|net| within(address, net.parse().expect("a network")))
}

/// The first address of a network, and the last one of IPv4, unless it has two or one only.
fn is_for_all(address: IpAddr, net: IpNet) -> bool {
    let host_bits = net.max_prefix_len() - net.prefix_len();
    let (bits, is_v4) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), true),
        IpAddr::V6(address) => (address.to_bits(), false),
    };
    let all_ones = 1u128.checked_shl(host_bits.into()).unwrap_or(0).wrapping_sub(1);
    host_bits > 1 && (bits & all_ones == 0 || is_v4 && bits & all_ones == all_ones)
}

/// Host bits of the prefix don't count.
fn within(address: IpAddr, net: IpNet) -> bool {
    let same_bits = match (address, net.addr()) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => return false,
    };
    same_bits >= u32::from(net.prefix_len())
}

/// A chain without rules lets everything pass, as one without a matching rule does; but one that speaks of IPv4 only has
/// not allowed IPv6.
fn chain(rules: &[Rule<Action>], probe: &Probe) -> Action {
    let speaks_of_v4_only = !rules.is_empty() && !rules.iter().any(|rule| may_be_v6(&rule.selector));
    if probe.src.is_ipv6() && speaks_of_v4_only { Action::Deny } else { first(rules, probe).unwrap_or(Action::Allow) }
}

fn first<T: Copy>(rules: &[Rule<T>], probe: &Probe) -> Option<T> {
    rules.iter().find(|rule| selects(&rule.selector, probe)).map(|rule| rule.target)
}

/// As [`chain`], for the rules of a peer that look in this direction.
fn of_peer(rules: &[PeerRule], direction: Direction, probe: &Probe) -> RuleAction {
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

fn may_be_v6(selector: &Selector) -> bool {
    [selector.src(), selector.dst()].iter().all(|it| !matches!(it, AddressPattern::Net(IpNet::V4(_))))
}

fn selects(selector: &Selector, probe: &Probe) -> bool {
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
