//! Rules that know the state of connections, compared with an oracle that keeps flows in a list and decides each packet anew.
//!
//! Input: the rules, then events: packets of all kinds, peers that leave and come again, other policies, time. Addresses, ports
//! and users are few, so that flows meet.

mod oracle;
mod packets;

use std::net::IpAddr;
use std::time::Duration;

use tuntap_core::policy::Policy;
use tuntap_core::policy::counters::SharedMemory;
use tuntap_core::policy::drops::DropReason;
use tuntap_core::policy::explain::{Probe, ProbeSource};
use tuntap_core::policy::forward::Forwarder;
use tuntap_core::policy::grant::Identity;
use tuntap_core::policy::limits::Limits;
use tuntap_core::policy::pattern::{Action, PolicyRule, PolicyRules};
use tuntap_core::policy::registry::PeerId;
use tuntap_core::policy::script::NoScript;
use tuntap_core::policy::verdict::{Outbound, PacketSource};
use tuntap_wire::ip::Packet;
use tuntap_wire::rule::{Direction, PeerRule, PeerSelector, RuleAction};
use tuntap_wire::selector::{AddressPattern, ConnectionState, Protocol, Selector, Service};

use self::oracle::Oracle;
use self::packets::Spec;
use super::input::Input;

/// Most peers at a time.
const PEERS: usize = 3;

/// Packets that others follow.
const RECENT: usize = 4;

/// Seconds that pass at once: less and more than the time-outs of flows.
const PAUSES: [u64; 8] = [0, 1, 29, 31, 61, 125, 305, 8000];

/// The addresses of vassals, and those of others.
const ADDRESSES: [&str; 8] =
    ["10.0.0.2", "10.0.0.3", "10.0.0.4", "192.0.2.1", "fd00::2", "fd00::3", "2001:db8::1", "192.0.2.2"];

fn address(input: &mut Input<'_>) -> IpAddr {
    ADDRESSES[input.below(ADDRESSES.len())].parse().expect("an address")
}

fn read_selector(input: &mut Input<'_>) -> Selector {
    let byte = input.byte();
    let src = if byte & 1 != 0 { AddressPattern::Net(address(input).into()) } else { AddressPattern::Any };
    let service = match byte >> 1 & 3 {
        0 | 1 => None,
        2 => Some(Service { protocol: Protocol::Number(6), ports: None }),
        _ => Some(Service { protocol: Protocol::Icmp, ports: None }),
    };
    let state = match byte >> 3 & 3 {
        0 => None,
        1 => Some(ConnectionState::New),
        _ => Some(ConnectionState::Established),
    };
    Selector::new(src, AddressPattern::Any, service).expect("one version").with_state(state)
}

fn read_chain(input: &mut Input<'_>) -> Vec<PolicyRule<Action>> {
    let count = input.below(4);
    let actions = [Action::Allow, Action::Allow, Action::Deny, Action::Reject];
    (0..count).map(|_| PolicyRule { selector: read_selector(input), target: actions[input.below(4)] }).collect()
}

fn read_peer_rules(input: &mut Input<'_>) -> Vec<PeerRule> {
    let count = input.below(3);
    let rule = |input: &mut Input<'_>| PeerRule {
        direction: if input.byte() & 1 == 0 { Direction::Out } else { Direction::In },
        action: [RuleAction::Allow, RuleAction::Deny, RuleAction::Reject][input.below(3)],
        selector: PeerSelector::Full(read_selector(input)),
    };
    (0..count).map(|_| rule(input)).collect()
}

fn read_policy(input: &mut Input<'_>, oracle: &mut Oracle) -> Policy {
    oracle.firewall_in = read_chain(input);
    oracle.firewall_out = read_chain(input);
    oracle.switch = input.byte() & 1 != 0;
    Policy {
        firewall_in: PolicyRules::chain(oracle.firewall_in.iter().copied()),
        firewall_out: PolicyRules::chain(oracle.firewall_out.iter().copied()),
        switch: oracle.switch,
        ..Policy::default()
    }
}

/// Reads a policy, and applies the events to the forwarder and to the oracle.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = u64::from(input.byte());
    let mut oracle = Oracle::default();
    let policy = read_policy(&mut input, &mut oracle);
    let limits = Limits { flows: Limits::MIN_FLOWS, ..Limits::default() };
    let forwarder = Forwarder::with_memory(policy, seed, &limits, SharedMemory::default());
    let mut scene =
        Scene { forwarder, oracle, ids: [None; PEERS], recent: [None; RECENT], added: 0, time: Duration::ZERO };
    for slot in 0..PEERS {
        scene.join(slot, &mut input);
    }
    while !input.is_empty() {
        scene.step(&mut input);
    }
}

/// The forwarder under test and the oracle.
struct Scene {
    forwarder: Forwarder,
    oracle: Oracle,
    ids: [Option<PeerId>; PEERS],
    /// The latest packets that began something.
    recent: [Option<Spec>; RECENT],
    added: u32,
    time: Duration,
}

impl Scene {
    fn step(&mut self, input: &mut Input<'_>) {
        let kind = input.byte();
        let slot = input.below(PEERS);
        match kind {
            0..6 => self.leave(slot),
            6..14 => {
                self.leave(slot);
                self.join(slot, input);
            }
            14..20 => {
                let policy = read_policy(input, &mut self.oracle);
                self.forwarder.set_policy(policy);
            }
            20..36 => {
                self.time += Duration::from_secs(PAUSES[input.below(PAUSES.len())]);
                self.forwarder.advance(self.time);
                self.oracle.now = self.time.as_secs();
            }
            36..80 => self.new_packet(Some(slot), input),
            80..110 => self.new_packet(None, input),
            _ => self.next_packet(kind & 1 != 0, input),
        }
    }

    /// A packet that nothing is known of, from a peer or towards the peers.
    fn new_packet(&mut self, slot: Option<usize>, input: &mut Input<'_>) {
        let Some(spec) = Spec::read(input) else { return };
        self.recent.rotate_right(1);
        self.recent[0] = Some(spec);
        match slot {
            Some(slot) => self.outbound(slot, &spec),
            None => self.inbound(&spec, input),
        }
    }

    /// A packet like an earlier one, or an answer to it.
    fn next_packet(&mut self, is_answer: bool, input: &mut Input<'_>) {
        let Some(earlier) = self.recent[input.below(RECENT)] else { return };
        let spec = earlier.next(is_answer, input);
        let holder = self.forwarder.holder(spec.src);
        match self.ids.iter().position(|id| id.is_some() && *id == holder) {
            // Some packets of peers come by the kernel.
            Some(slot) if input.byte() & 3 != 0 => self.outbound(slot, &spec),
            _ => self.inbound(&spec, input),
        }
    }

    fn leave(&mut self, slot: usize) {
        if let Some(id) = self.ids[slot].take() {
            self.forwarder.remove_peer(id);
            self.oracle.remove(id);
        }
    }

    fn join(&mut self, slot: usize, input: &mut Input<'_>) {
        let id = PeerId { index: u32::try_from(slot).expect("few"), generation: self.added };
        self.added += 1;
        let uid = u32::from(input.byte() & 1);
        self.forwarder.add_peer(id, Identity { uid, gid: 7, groups: Vec::new() });
        let rules = read_peer_rules(input);
        self.forwarder.set_rules(id, rules.clone());
        self.oracle.add(id, uid, rules);
        self.ids[slot] = Some(id);
    }

    fn outbound(&mut self, slot: usize, spec: &Spec) {
        let Some(id) = self.ids[slot] else { return };
        let bytes = spec.bytes();
        let packet = Packet::parse(&bytes).expect("a valid packet");
        let explained = self.explain(ProbeSource::Peer(id), &packet);
        let verdict = self.forwarder.outbound(id, &packet, &mut NoScript);
        let told = match verdict.to {
            Outbound::Contested { .. } => Outbound::Drop(DropReason::AddressHeld),
            to => to,
        };
        // A packet may claim its own destination, which is nobody's as long as nothing happens.
        assert!(explained == told || spec.src == spec.dst, "{explained:?} is not {told:?}: {spec:?}");
        let expected = self.oracle.outward(id, &packet, spec);
        assert_eq!((verdict.to, verdict.rule), expected, "{spec:?}");
    }

    fn inbound(&mut self, spec: &Spec, input: &mut Input<'_>) {
        let source = if input.byte() & 7 == 0 { PacketSource::Gateway } else { PacketSource::Tun };
        let bytes = spec.bytes();
        let packet = Packet::parse(&bytes).expect("a valid packet");
        let explained = self.explain(ProbeSource::Outside(source), &packet);
        let verdict = self.forwarder.inbound(source, &packet, &mut NoScript);
        let told = Outbound::from(verdict.to);
        assert_eq!(explained, told, "{spec:?}");
        let expected = self.oracle.inward(source, &packet, spec);
        assert_eq!((verdict.to, verdict.rule), expected, "{spec:?}");
    }

    /// What would happen to a packet is what does happen to it.
    fn explain(&self, from: ProbeSource, packet: &Packet<'_>) -> Outbound {
        self.forwarder.explain(&Probe { from, packet, state: None }, &mut NoScript).to
    }
}
