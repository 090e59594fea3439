//! What would happen to a packet, the whole way, without anything happening.

use std::net::IpAddr;

use super::claims::{Claimant, Source};
use super::decide::{Asked, PeerDecision, Walk, action};
use super::drops::DropReason;
use super::forward::Forwarder;
use super::pattern::Action;
use super::registry::PeerId;
use super::repeat::Known;
use super::script::Script;
use super::verdict::{Class, Outbound, PacketSource, RuleRef};
use super::walk::{Context, RatesAccess, Trail};
use tuntap_wire::ip::{FlowPart, Packet};
use tuntap_wire::rule::Direction;
use tuntap_wire::selector::ConnectionState;

/// A station on a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// What is known of its flow.
    Flow,
    /// The chain for packets from the peers.
    ChainOut,
    /// May the peer use the source?
    Claim,
    /// Destinations that no peer may send to.
    Guard,
    /// The rules of the peer that sends it.
    PeerRulesOut,
    /// The script.
    Script,
    /// The routes.
    Route,
    /// Does the router itself pass it on to another peer?
    Switch,
    /// The chain for packets towards the peers.
    ChainIn,
    /// The rules of the peer that gets it.
    PeerRulesIn,
}

impl Stage {
    /// Its name on the control socket.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::ChainOut => "chain-out",
            Self::Claim => "claim",
            Self::Guard => "guard",
            Self::PeerRulesOut => "peer-rules-out",
            Self::Script => "script",
            Self::Route => "route",
            Self::Switch => "switch",
            Self::ChainIn => "chain-in",
            Self::PeerRulesIn => "peer-rules-in",
        }
    }
}

/// What happens at a station.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The packet's flow is not known, or the packet has none: its state, if it has one.
    Unknown(Option<ConnectionState>),
    /// The packet's flow is known under this number. Its state follows.
    Known(u32, Option<ConnectionState>),
    /// The packet goes on.
    Pass,
    /// The packet goes on, and its peer would get the source as its address.
    Claim(IpAddr),
    /// The packet is dropped.
    Drop(DropReason),
    /// The packet is dropped, and its sender gets a reply.
    Reject(DropReason),
    /// Another peer holds the source.
    HeldBy(PeerId),
    /// The packet goes to the router's TUN device, to another router, or to a peer.
    To(Outbound),
}

/// A station, what happens there, and the rule that decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The station.
    pub stage: Stage,
    /// What happens there.
    pub outcome: Outcome,
    /// The rule that decides; `None` if none matches.
    pub rule: Option<RuleRef>,
}

/// The way of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Its stations, in order.
    pub steps: Vec<Step>,
    /// Where it ends. For a packet towards the peers, this is [`Outbound::Peer`] if it passes.
    pub to: Outbound,
    /// In which queue of which peer it would wait if it passes, and if there is a limit: the sender's, and the receiver's.
    pub queues: Vec<(PeerId, Direction, Class)>,
}

/// A packet whose way is to be explained.
#[derive(Debug, Clone, Copy)]
pub struct Probe<'a> {
    /// Its way: from this peer, or towards the peers.
    pub from: ProbeSource,
    /// The packet.
    pub packet: &'a Packet<'a>,
    /// The state to be assumed; `None` means what is known of the packet's flow.
    pub state: Option<ConnectionState>,
}

/// Where a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeSource {
    /// From a peer.
    Peer(PeerId),
    /// From the TUN device or another router.
    Outside(PacketSource),
}

/// The explanation while it is made.
struct Report<'a> {
    walk: Walk<'a>,
    state: Option<ConnectionState>,
    steps: Vec<Step>,
    queues: Vec<(PeerId, Direction, Class)>,
}

impl Report<'_> {
    fn add(&mut self, stage: Stage, outcome: Outcome, rule: Option<RuleRef>) {
        self.steps.push(Step { stage, outcome, rule });
    }

    /// Adds what a chain decides. Returns where a packet ends that doesn't pass.
    fn add_action(
        &mut self,
        stage: Stage,
        action: Action,
        reason: DropReason,
        rule: Option<RuleRef>,
    ) -> Option<Outbound> {
        let (outcome, to) = match action {
            Action::Allow => (Outcome::Pass, None),
            Action::Deny => (Outcome::Drop(reason), Some(Outbound::Drop(reason))),
            Action::Reject => (Outcome::Reject(reason), Some(Outbound::Reject(reason))),
        };
        self.add(stage, outcome, rule);
        to
    }

    fn state_of(&self, known: Known) -> Option<ConnectionState> {
        if self.walk.part == FlowPart::Fragment { None } else { self.state.or(known.state) }
    }
}

impl Forwarder {
    /// Says what would happen to a packet. Nothing is changed or counted, and nothing of what is known of its flow is used but
    /// its state and what the script has said.
    pub fn explain(&self, probe: &Probe<'_>, script: &mut impl Script) -> Explanation {
        let mut report =
            Report { walk: Walk::of(probe.packet), state: probe.state, steps: Vec::new(), queues: Vec::new() };
        let to = match probe.from {
            ProbeSource::Peer(id) => self.explain_outbound(id, &mut report, script),
            ProbeSource::Outside(source) => self.explain_inbound(source, &mut report, true, script),
        };
        Explanation { steps: report.steps, to, queues: report.queues }
    }

    fn look(&self) -> Context<'_> {
        Context { policy: &self.policy, rates: RatesAccess::Look(&self.rates), now: self.elapsed, met_rate: false }
    }

    fn explain_outbound(&self, id: PeerId, report: &mut Report<'_>, script: &mut impl Script) -> Outbound {
        let walk = report.walk;
        let known = self.known(&walk, Direction::Out, Some(id));
        let state = report.state_of(known);
        report.add(Stage::Flow, known.at.map_or(Outcome::Unknown(state), |at| Outcome::Known(at, state)), None);
        let mut trail = Trail::default();
        let list = &self.policy.firewall_out;
        let found = self.look().search(list, &walk.key, state, RuleRef::FirewallOut, &mut trail);
        let rule = found.map(|found| RuleRef::FirewallOut(found.rule));
        if let Some(to) = report.add_action(Stage::ChainOut, action(found), DropReason::Firewall, rule) {
            return to;
        }
        if let Some(to) = self.explain_claim(id, report) {
            return to;
        }
        if let Some(reason) = self.stopped_by_guard(id, walk.packet) {
            report.add(Stage::Guard, Outcome::Drop(reason), None);
            return Outbound::Drop(reason);
        }
        report.add(Stage::Guard, Outcome::Pass, None);
        let to = self.explain_way(id, report, state, script);
        if matches!(to, Outbound::Drop(_) | Outbound::Reject(_)) {
            return to;
        }
        let (remote, is_by_tun) = (walk.packet.dst(), to == Outbound::Tun);
        let (asked, stopped) = self.explain_script(report, Direction::Out, id, known, script);
        let class = self.class(script, asked, remote, is_by_tun);
        // The sender's queue comes before the receiver's.
        report.queues.insert(0, (id, Direction::Out, class));
        stopped.unwrap_or(to)
    }

    fn explain_claim(&self, id: PeerId, report: &mut Report<'_>) -> Option<Outbound> {
        let source = report.walk.packet.src();
        let Some(peer) = self.peers.get(id) else {
            report.add(Stage::Claim, Outcome::Drop(DropReason::NoPeer), None);
            return Some(Outbound::Drop(DropReason::NoPeer));
        };
        let claimant = Claimant { id, identity: &peer.identity, account: peer.account() };
        let context = self.claim_context();
        let (outcome, to) = match peer.claims.assess(source, claimant, context, &self.registry) {
            Source::Own => (Outcome::Pass, None),
            Source::Claimed => (Outcome::Claim(source), None),
            Source::HeldBy(holder) => (Outcome::HeldBy(holder), Some(Outbound::Drop(DropReason::AddressHeld))),
            Source::HeldElsewhere(_) => {
                let reason = DropReason::HeldElsewhere;
                (Outcome::Drop(reason), Some(Outbound::Drop(reason)))
            }
            Source::Refused(reason) => (Outcome::Drop(reason), Some(Outbound::Drop(reason))),
        };
        report.add(Stage::Claim, outcome, None);
        to
    }

    /// The rules of the peer, the routes, and the other peer.
    fn explain_way(
        &self,
        id: PeerId,
        report: &mut Report<'_>,
        state: Option<ConnectionState>,
        script: &mut impl Script,
    ) -> Outbound {
        let walk = report.walk;
        let Some(peer) = self.peers.get(id) else { return Outbound::Drop(DropReason::NoPeer) };
        let (decision, rule) = peer.decide(Direction::Out, walk.packet, state);
        let to = match decision {
            PeerDecision::Pass => None,
            PeerDecision::Deny => Some(Outbound::Drop(DropReason::PeerRule)),
            PeerDecision::Reject => Some(Outbound::Reject(DropReason::PeerRule)),
            PeerDecision::Route(_) | PeerDecision::RouteRefused if !self.policy.has_gateway => {
                Some(Outbound::Drop(DropReason::NoGateway))
            }
            PeerDecision::RouteRefused => Some(Outbound::Drop(DropReason::RouteTarget)),
            PeerDecision::Route(target) => Some(Outbound::Gateway(target)),
        };
        report.add(Stage::PeerRulesOut, to.map_or(Outcome::Pass, outcome), rule);
        if let Some(to) = to {
            return to;
        }
        if self.policy.has_gateway {
            let found =
                self.look().search(&self.policy.routes, &walk.key, state, RuleRef::Route, &mut Trail::default());
            let to = found.map(|found| Outbound::Gateway(found.target));
            report.add(Stage::Route, to.map_or(Outcome::Pass, outcome), found.map(|found| RuleRef::Route(found.rule)));
            if let Some(to) = to {
                return to;
            }
        }
        let holder = self.registry.holder(walk.packet.dst());
        let trunk = if holder.is_some() { None } else { self.trunk_to(walk.packet.dst()) };
        let holder = holder.filter(|_| self.policy.switch);
        let to = holder.map_or_else(|| trunk.map_or(Outbound::Tun, Outbound::Trunk), Outbound::Peer);
        report.add(Stage::Switch, Outcome::To(to), None);
        if holder.is_some() { self.explain_inbound(PacketSource::Tun, report, false, script) } else { to }
    }

    fn explain_inbound(
        &self,
        from: PacketSource,
        report: &mut Report<'_>,
        is_whole_way: bool,
        script: &mut impl Script,
    ) -> Outbound {
        let walk = report.walk;
        let holder = self.registry.holder(walk.packet.dst());
        let known = self.known(&walk, Direction::In, holder);
        let state = report.state_of(known);
        if is_whole_way {
            report.add(Stage::Flow, known.at.map_or(Outcome::Unknown(state), |at| Outcome::Known(at, state)), None);
        }
        if from == PacketSource::Trunk {
            // Whose addresses an ICMP error may be about depends on the neighbour.
            let stopped = self.stopped_by_guard_from(walk.packet, |_| true);
            report.add(Stage::Guard, stopped.map_or(Outcome::Pass, Outcome::Drop), None);
            if let Some(reason) = stopped {
                return Outbound::Drop(reason);
            }
        }
        let list = &self.policy.firewall_in;
        let found = self.look().search(list, &walk.key, state, RuleRef::FirewallIn, &mut Trail::default());
        let rule = found.map(|found| RuleRef::FirewallIn(found.rule));
        if let Some(to) = report.add_action(Stage::ChainIn, action(found), DropReason::Firewall, rule) {
            return to;
        }
        let Some(peer) = holder.and_then(|id| self.peers.get(id)) else {
            let to = self.beyond(from, walk.packet.dst()).into();
            report.add(Stage::Switch, outcome(to), None);
            return to;
        };
        if from != PacketSource::Gateway {
            let (decision, rule) = peer.decide(Direction::In, walk.packet, state);
            let action = match decision {
                PeerDecision::Pass => Action::Allow,
                PeerDecision::Reject => Action::Reject,
                PeerDecision::Deny | PeerDecision::Route(_) | PeerDecision::RouteRefused => Action::Deny,
            };
            if let Some(to) = report.add_action(Stage::PeerRulesIn, action, DropReason::PeerRule, rule) {
                return to;
            }
        }
        let (asked, stopped) = self.explain_script(report, Direction::In, peer.id, known, script);
        let class = self.class(script, asked, walk.packet.src(), from == PacketSource::Tun);
        report.queues.push((peer.id, Direction::In, class));
        stopped.unwrap_or(Outbound::Peer(peer.id))
    }

    /// Returns what the script says, and where a packet ends that it doesn't let pass.
    fn explain_script(
        &self,
        report: &mut Report<'_>,
        direction: Direction,
        id: PeerId,
        known: Known,
        script: &mut impl Script,
    ) -> (Option<Asked>, Option<Outbound>) {
        if !self.policy.has_script {
            return (None, None);
        }
        let asked = self.ask(script, report.walk.packet, direction, id, known);
        let action = asked.and_then(|asked| asked.said).unwrap_or(Action::Allow);
        (asked, report.add_action(Stage::Script, action, DropReason::Script, None))
    }
}

const fn outcome(to: Outbound) -> Outcome {
    match to {
        Outbound::Drop(reason) => Outcome::Drop(reason),
        Outbound::Reject(reason) => Outcome::Reject(reason),
        Outbound::Contested { holder, .. } => Outcome::HeldBy(holder),
        Outbound::Tun | Outbound::Gateway(_) | Outbound::Peer(_) | Outbound::Trunk(_) => Outcome::To(to),
    }
}
