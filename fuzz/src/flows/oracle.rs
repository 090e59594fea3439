//! The oracle: flows in a list, rules from top to bottom for each packet, and nothing remembered but what the rules ask for.

use std::net::IpAddr;

use tuntap_core::policy::drops::DropReason;
use tuntap_core::policy::pattern::{Action, PolicyRule, RuleId};
use tuntap_core::policy::registry::PeerId;
use tuntap_core::policy::verdict::{Inbound, Outbound, PacketSource, RuleRef};
use tuntap_wire::ip::Packet;
use tuntap_wire::rule::{Direction, PeerRule, RuleAction};
use tuntap_wire::selector::ConnectionState;

use super::packets::{Kind, Spec};

/// Most IPv6 addresses of a peer.
const MOST_V6: usize = 8;

/// Addresses, protocol and ports, seen from the peer.
type Key = (IpAddr, IpAddr, u8, u16, u16);

#[derive(Debug)]
struct Flow {
    key: Key,
    peer: PeerId,
    uid: u32,
    /// A packet passed, a FIN was seen: out and in.
    passed: [bool; 2],
    fins: [bool; 2],
    is_reset: bool,
    last: u64,
}

#[derive(Debug)]
struct Peer {
    id: PeerId,
    uid: u32,
    rules: Vec<PeerRule>,
    v4: Option<IpAddr>,
    v6: Vec<IpAddr>,
}

#[derive(Debug, Default)]
pub(super) struct Oracle {
    pub(super) firewall_in: Vec<PolicyRule<Action>>,
    pub(super) firewall_out: Vec<PolicyRule<Action>>,
    pub(super) switch: bool,
    pub(super) now: u64,
    peers: Vec<Peer>,
    flows: Vec<Flow>,
}

type State = Option<ConnectionState>;

impl Oracle {
    pub(super) fn add(&mut self, id: PeerId, uid: u32, rules: Vec<PeerRule>) {
        self.peers.push(Peer { id, uid, rules, v4: None, v6: Vec::new() });
    }

    pub(super) fn remove(&mut self, id: PeerId) {
        self.peers.retain(|peer| peer.id != id);
    }

    fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.id == id)
    }

    fn holder(&self, address: IpAddr) -> Option<PeerId> {
        let holds = |peer: &&Peer| peer.v4 == Some(address) || peer.v6.contains(&address);
        self.peers.iter().find(holds).map(|peer| peer.id)
    }

    pub(super) fn outward(&mut self, id: PeerId, packet: &Packet<'_>, spec: &Spec) -> (Outbound, Option<RuleRef>) {
        let (at, state) = self.state(spec, Direction::Out, Some(id));
        let (action, rule) = chain(&self.firewall_out, packet, state);
        let rule = rule.map(RuleRef::FirewallOut);
        let refused = match action {
            Action::Allow => None,
            Action::Deny => Some(Outbound::Drop(DropReason::Firewall)),
            Action::Reject => Some(Outbound::Reject(DropReason::Firewall)),
        };
        if let Some(to) = refused {
            if self.holder(spec.src) == Some(id) {
                self.note(spec, Direction::Out, at, id, false);
            }
            return (to, rule);
        }
        if let Some(to) = self.claim(id, spec.src) {
            return (to, None);
        }
        let (to, by, twin) = self.way(id, packet, spec, state);
        let passes = matches!(to, Outbound::Tun | Outbound::Peer(_));
        self.note(spec, Direction::Out, at, id, passes);
        if let Some((receiver, at)) = twin {
            // A packet from an address to itself may have one flow.
            let (from, to) = (key(spec, Direction::Out), key(spec, Direction::In));
            let is_known = at.is_some() || from == to;
            let at = self.flows.iter().position(|flow| flow.key == to && is_known);
            self.note(spec, Direction::In, at, receiver, passes);
        }
        (to, by.or(rule))
    }

    /// Where an accepted packet goes, and for one that the router itself passes on, the receiver with its flow.
    #[allow(clippy::type_complexity)] // for this test only
    fn way(
        &self,
        id: PeerId,
        packet: &Packet<'_>,
        spec: &Spec,
        state: State,
    ) -> (Outbound, Option<RuleRef>, Option<(PeerId, Option<usize>)>) {
        let (action, rule) = self.of_peer(id, Direction::Out, packet, state);
        match action {
            RuleAction::Deny => return (Outbound::Drop(DropReason::PeerRule), rule, None),
            RuleAction::Reject => return (Outbound::Reject(DropReason::PeerRule), rule, None),
            RuleAction::Allow | RuleAction::Route(_) => {}
        }
        let Some(receiver) = self.holder(spec.dst).filter(|_| self.switch) else {
            return (Outbound::Tun, rule, None);
        };
        let (at, state) = self.state(spec, Direction::In, Some(receiver));
        let (to, by) = self.at_receiver(PacketSource::Tun, packet, spec, state);
        (to.into(), by.or(rule), Some((receiver, at)))
    }

    pub(super) fn inward(
        &mut self,
        from: PacketSource,
        packet: &Packet<'_>,
        spec: &Spec,
    ) -> (Inbound, Option<RuleRef>) {
        let holder = self.holder(spec.dst);
        let (at, state) = self.state(spec, Direction::In, holder);
        let (to, rule) = self.at_receiver(from, packet, spec, state);
        if let Some(holder) = holder {
            self.note(spec, Direction::In, at, holder, matches!(to, Inbound::Peer(_)));
        }
        (to, rule)
    }

    fn at_receiver(
        &self,
        from: PacketSource,
        packet: &Packet<'_>,
        spec: &Spec,
        state: State,
    ) -> (Inbound, Option<RuleRef>) {
        let holder = self.holder(spec.dst);
        let (action, rule) = chain(&self.firewall_in, packet, state);
        let rule = rule.map(RuleRef::FirewallIn);
        match action {
            Action::Allow => {}
            Action::Deny => return (Inbound::Drop(DropReason::Firewall, holder), rule),
            Action::Reject => return (Inbound::Reject(DropReason::Firewall, holder), rule),
        }
        let Some(id) = holder else { return (Inbound::Drop(DropReason::NoPeer, None), None) };
        if from == PacketSource::Gateway {
            return (Inbound::Peer(id), rule);
        }
        let (action, by) = self.of_peer(id, Direction::In, packet, state);
        let to = match action {
            RuleAction::Allow => Inbound::Peer(id),
            RuleAction::Deny | RuleAction::Route(_) => Inbound::Drop(DropReason::PeerRule, Some(id)),
            RuleAction::Reject => Inbound::Reject(DropReason::PeerRule, Some(id)),
        };
        (to, by.or(rule))
    }

    /// The peer claims a source. Returns why it doesn't get it.
    fn claim(&mut self, id: PeerId, src: IpAddr) -> Option<Outbound> {
        let holder = self.holder(src);
        if holder == Some(id) {
            return None;
        }
        let peer = self.peers.iter_mut().find(|peer| peer.id == id).expect("a peer");
        if src.is_ipv4() && peer.v4.is_some() {
            return Some(Outbound::Drop(DropReason::SpoofedSource));
        }
        if src.is_ipv6() && peer.v6.len() == MOST_V6 {
            return Some(Outbound::Drop(DropReason::TooManyAddresses));
        }
        if let Some(holder) = holder {
            return Some(Outbound::Contested { address: src, holder });
        }
        if src.is_ipv4() {
            peer.v4 = Some(src)
        } else {
            peer.v6.push(src)
        }
        None
    }

    fn of_peer(
        &self,
        id: PeerId,
        direction: Direction,
        packet: &Packet<'_>,
        state: State,
    ) -> (RuleAction, Option<RuleRef>) {
        let peer = self.peer(id).expect("a peer");
        let by = |rule| Some(RuleRef::Peer(id, rule));
        let rules = (0..).zip(&peer.rules).filter(|(_, rule)| rule.direction == direction);
        let mut speaks_of_it = packet.is_v4() || rules.clone().next().is_none();
        for (number, rule) in rules {
            if rule.selector.matches(packet, state) {
                return (rule.action, by(RuleId(number)));
            }
            speaks_of_it |= rule.selector.is_for_v6();
        }
        if speaks_of_it { (RuleAction::Allow, None) } else { (RuleAction::Deny, by(RuleId::IMPLIED)) }
    }

    /// The flow that a packet is about, and the packet's state.
    fn state(&self, spec: &Spec, direction: Direction, peer: Option<PeerId>) -> (Option<usize>, State) {
        let key = match spec.kind {
            Kind::Fragment => return (None, None),
            Kind::Error { src, dst, ports, is_tcp, is_cut } => {
                if is_cut || src != spec.dst {
                    return (None, Some(ConnectionState::New));
                }
                let protocol = if is_tcp { 6 } else { 17 };
                // The quoted packet went the other way.
                match direction {
                    Direction::In => (src, dst, protocol, ports[0], ports[1]),
                    Direction::Out => (dst, src, protocol, ports[1], ports[0]),
                }
            }
            _ => key(spec, direction),
        };
        let opens = spec.kind == Kind::Tcp(2);
        let is_closed = |flow: &Flow| flow.is_reset || flow.fins == [true; 2];
        let found = self.flows.iter().position(|flow| {
            flow.key == key
                && self.now - flow.last < timeout(flow)
                && self.belongs(flow, peer)
                && !(opens && is_closed(flow))
        });
        let opposite = usize::from(direction == Direction::Out);
        let is_answered = found.is_some_and(|at| self.flows[at].passed[opposite]);
        (found, Some(if is_answered { ConnectionState::Established } else { ConnectionState::New }))
    }

    fn belongs(&self, flow: &Flow, peer: Option<PeerId>) -> bool {
        if self.peer(flow.peer).is_some() {
            return peer == Some(flow.peer);
        }
        // Those of root in the router's namespace are told apart by their groups, too. All have the same group here.
        peer.is_none_or(|peer| self.peer(peer).is_some_and(|peer| peer.uid == flow.uid))
    }

    fn note(&mut self, spec: &Spec, direction: Direction, at: Option<usize>, peer: PeerId, passes: bool) {
        if matches!(spec.kind, Kind::Fragment | Kind::Error { .. }) {
            return;
        }
        let uid = self.peer(peer).expect("a peer").uid;
        let at = at.unwrap_or_else(|| {
            let key = key(spec, direction);
            self.flows.retain(|flow| flow.key != key);
            let (passed, fins) = ([false; 2], [false; 2]);
            self.flows.push(Flow { key, peer, uid, passed, fins, is_reset: false, last: 0 });
            self.flows.len() - 1
        });
        let side = usize::from(direction == Direction::In);
        let flow = &mut self.flows[at];
        (flow.peer, flow.uid, flow.last) = (peer, uid, self.now);
        if passes {
            flow.passed[side] = true;
            if let Kind::Tcp(flags) = spec.kind {
                flow.fins[side] |= flags & 1 != 0;
                flow.is_reset = flags & 4 != 0;
            }
        }
    }
}

fn key(spec: &Spec, direction: Direction) -> Key {
    let ports = match spec.kind {
        // Besides the identifier, it counts which end asks: who was asked may not ask for that reason.
        Kind::Echo { reply, id } => {
            let remote_asks = u16::from(reply == (direction == Direction::Out));
            match direction {
                Direction::Out => [id, remote_asks],
                Direction::In => [remote_asks, id],
            }
        }
        Kind::Other => [0; 2],
        _ => spec.ports,
    };
    match direction {
        Direction::Out => (spec.src, spec.dst, spec.protocol(), ports[0], ports[1]),
        Direction::In => (spec.dst, spec.src, spec.protocol(), ports[1], ports[0]),
    }
}

/// Seconds after which a flow is forgotten.
fn timeout(flow: &Flow) -> u64 {
    let both = flow.passed == [true; 2];
    match flow.key.2 {
        _ if flow.passed == [false; 2] => 30,
        6 if both && !flow.is_reset && flow.fins == [false; 2] => 7440,
        6 => 240,
        17 if both => 300,
        17 => 120,
        1 | 58 => 60,
        _ => 600,
    }
}

fn chain(rules: &[PolicyRule<Action>], packet: &Packet<'_>, state: State) -> (Action, Option<RuleId>) {
    let for_v4_only = !rules.is_empty() && !rules.iter().any(|rule| rule.selector.is_for(false));
    if for_v4_only && !packet.is_v4() {
        return (Action::Deny, Some(RuleId::IMPLIED));
    }
    let found = (0..).map(RuleId).zip(rules).find(|(_, rule)| rule.selector.matches(packet, state));
    found.map_or((Action::Allow, None), |(id, rule)| (rule.target, Some(id)))
}
