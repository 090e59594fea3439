//! Decisions about packets: chains, claims, the guard, the peer's own rules, routes, and the script.
//!
//! This is the whole walk, which the first packet of a flow takes. What comes of it is kept with the flow for the next ones, see
//! the module `repeat`.

use std::net::{IpAddr, SocketAddr};

use super::claims::{ClaimContext, Claimant, Source};
use super::drops::DropReason;
use super::flows::Fate;
use super::forward::Forwarder;
use super::keep::fate_in;
use super::pattern::{Action, AnyMatchKey, Match, RuleId};
use super::registry::PeerId;
use super::repeat::Known;
use super::script::{Script, ScriptQuery};
use super::verdict::{Class, Inbound, InboundVerdict, Lane, Outbound, OutboundVerdict, PacketSource, RuleRef};
use super::walk::{Context, RatesAccess, Trail};
use crate::peers::Peer;
use tuntap_wire::ip::{FlowPart, Packet};
use tuntap_wire::rule::{Direction, RuleAction};
use tuntap_wire::selector::ConnectionState;

/// Addresses of one peer: one of IPv4, and those of IPv6.
const MOST_ADDRESSES: usize = 1 + super::claims::MAX_V6_ADDRESSES;

/// A verdict without an end.
pub(super) const FOREVER: u32 = u32::MAX;

/// The decision of a peer's own rules about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeerDecision {
    Pass,
    Deny,
    Reject,
    Route(SocketAddr),
    /// Route to a gateway that the peer may not name.
    RouteRefused,
}

/// The result of the check of a packet's source.
enum SourceCheck {
    /// The peer holds the source. `claimed` is the address that the peer got with this packet. `is_first` is true if it is
    /// the peer's first accepted packet.
    Passed { claimed: Option<IpAddr>, is_first: bool },
    /// The peer doesn't hold the source.
    Stopped(Outbound),
}

/// What the script has said about one direction of a flow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) said: Option<Action>,
    pub(super) until: u32,
    pub(super) class: Option<u16>,
}

/// A packet on its walk.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a> {
    pub(super) packet: &'a Packet<'a>,
    pub(super) part: FlowPart,
    pub(super) key: AnyMatchKey,
}

impl<'a> Walk<'a> {
    pub(super) fn of(packet: &'a Packet<'a>) -> Self {
        Self { packet, part: packet.flow_part(), key: AnyMatchKey::of(packet) }
    }
}

/// What was decided about a packet towards a peer.
pub(super) struct InDecision {
    pub(super) verdict: InboundVerdict,
    pub(super) trail: Trail,
    /// What is known of its flow.
    pub(super) known: Known,
    /// The peer that holds the destination.
    pub(super) holder: Option<PeerId>,
    pub(super) asked: Option<Asked>,
    pub(super) class: Class,
    pub(super) source: PacketSource,
}

/// What was decided about a packet from a peer.
pub(super) struct OutDecision {
    pub(super) to: Outbound,
    pub(super) rule: Option<RuleRef>,
    pub(super) trail: Trail,
    pub(super) asked: Option<Asked>,
    pub(super) class: Class,
    /// The decision for the receiver, if the router itself passes the packet on.
    pub(super) inner: Option<InDecision>,
}

impl OutDecision {
    const fn stopped(to: Outbound, rule: Option<RuleRef>, trail: Trail) -> Self {
        Self { to, rule, trail, asked: None, class: Class::OWN, inner: None }
    }
}

impl Forwarder {
    /// Decides where a packet from a peer goes. A packet that the firewall allows claims its source address, if the peer
    /// doesn't hold it yet.
    pub fn outbound(&mut self, id: PeerId, packet: &Packet<'_>, script: &mut impl Script) -> OutboundVerdict {
        self.repeat_outbound(id, packet).unwrap_or_else(|| self.first_outbound(id, &Walk::of(packet), script))
    }

    #[inline(never)]
    fn first_outbound(&mut self, id: PeerId, walk: &Walk<'_>, script: &mut impl Script) -> OutboundVerdict {
        let known = self.known(walk, Direction::Out, Some(id));
        let mut trail = Trail::default();
        let policy = std::sync::Arc::clone(&self.policy);
        let found = self.context(&policy).search(
            &policy.firewall_out,
            &walk.key,
            known.state,
            RuleRef::FirewallOut,
            &mut trail,
        );
        let by_chain = found.map(|found| RuleRef::FirewallOut(found.rule));
        let stopped = match action(found) {
            Action::Deny => Some(Outbound::Drop(DropReason::Firewall)),
            Action::Reject => Some(Outbound::Reject(DropReason::Firewall)),
            Action::Allow => None,
        };
        if let Some(to) = stopped {
            let decision = OutDecision::stopped(to, by_chain, trail);
            // The source was not checked. Only the holder of an address has flows with it.
            let is_own = self.registry.holder(walk.packet.src()) == Some(id);
            return self.conclude_outbound(id, walk, known, &decision, is_own.then_some((None, false)));
        }
        let (claimed, is_first) = match self.check_source(id, walk.packet.src()) {
            SourceCheck::Passed { claimed, is_first } => (claimed, is_first),
            SourceCheck::Stopped(to) => {
                let decision = OutDecision::stopped(to, None, trail);
                return self.conclude_outbound(id, walk, known, &decision, None);
            }
        };
        let mut decision = match self.stopped_by_guard(id, walk.packet) {
            Some(reason) => OutDecision::stopped(Outbound::Drop(reason), None, trail),
            None => self.outbound_by_peer(id, walk, known, trail, script),
        };
        decision.rule = decision.rule.or(by_chain);
        self.conclude_outbound(id, walk, known, &decision, Some((claimed, is_first)))
    }

    pub(super) fn context<'a>(&'a mut self, policy: &'a super::Policy) -> Context<'a> {
        Context { policy, rates: RatesAccess::Take(&mut self.rates), now: self.elapsed, met_rate: false }
    }

    fn check_source(&mut self, id: PeerId, source: IpAddr) -> SourceCheck {
        let Some(peer) = self.peers.get_mut(id) else {
            return SourceCheck::Stopped(Outbound::Drop(DropReason::NoPeer));
        };
        let grants = &self.policy.grants;
        let claimant = Claimant { id, identity: &peer.identity, account: peer.account() };
        let context = ClaimContext {
            grants,
            pool: &self.pool,
            guard: &self.guard,
            shares: &self.shares,
            elsewhere: &self.elsewhere,
        };
        let claimed = match peer.claims.check(source, claimant, context, &mut self.registry) {
            Source::Own => None,
            Source::Claimed => {
                self.shares.take(peer.account_for(source, grants), source);
                Some(source)
            }
            Source::HeldBy(holder) => return SourceCheck::Stopped(Outbound::Contested { address: source, holder }),
            Source::HeldElsewhere(_) => return SourceCheck::Stopped(Outbound::Drop(DropReason::HeldElsewhere)),
            Source::Refused(reason) => return SourceCheck::Stopped(Outbound::Drop(reason)),
        };
        let is_first = !std::mem::replace(&mut peer.has_sent, true);
        if let Some(address) = claimed {
            self.note_claim(id, address);
        }
        SourceCheck::Passed { claimed, is_first }
    }

    /// Returns the reason why the guard drops a packet, whatever the rules say; `None` if it doesn't.
    pub(super) fn stopped_by_guard(&self, id: PeerId, packet: &Packet<'_>) -> Option<DropReason> {
        self.stopped_by_guard_from(packet, |receiver| self.peers.get(id).is_some_and(|peer| peer.claims.has(receiver)))
    }

    /// The same for a packet of anybody else: what peers of this router may not reach, those of others may not either. `is_own`
    /// says which addresses are the sender's.
    pub(crate) fn stopped_by_guard_from(
        &self,
        packet: &Packet<'_>,
        is_own: impl Fn(IpAddr) -> bool,
    ) -> Option<DropReason> {
        if let Some(reason) = self.guard.refusal(packet, &self.pool) {
            return Some(reason);
        }
        (self.guard.is_strict() && packet.is_error_about_others(is_own)).then_some(DropReason::ForeignError)
    }

    fn outbound_by_peer(
        &mut self,
        id: PeerId,
        walk: &Walk<'_>,
        known: Known,
        mut trail: Trail,
        script: &mut impl Script,
    ) -> OutDecision {
        let Some(peer) = self.peers.get(id) else {
            return OutDecision::stopped(Outbound::Drop(DropReason::NoPeer), None, trail);
        };
        trail.looks_at_state |= peer.looks_at_state;
        let (decision, rule) = peer.decide(Direction::Out, walk.packet, known.state);
        let stopped = |to| OutDecision::stopped(to, rule, trail);
        let mut decision = match decision {
            PeerDecision::Deny => return stopped(Outbound::Drop(DropReason::PeerRule)),
            PeerDecision::Reject => return stopped(Outbound::Reject(DropReason::PeerRule)),
            PeerDecision::Route(_) | PeerDecision::RouteRefused if !self.policy.has_gateway => {
                return stopped(Outbound::Drop(DropReason::NoGateway));
            }
            PeerDecision::RouteRefused => return stopped(Outbound::Drop(DropReason::RouteTarget)),
            PeerDecision::Route(target) => stopped(Outbound::Gateway(target)),
            PeerDecision::Pass => self.route(walk, known, rule, trail, script),
        };
        if matches!(decision.to, Outbound::Drop(_) | Outbound::Reject(_)) {
            return decision;
        }
        decision.asked = self.ask(script, walk.packet, Direction::Out, id, known);
        decision.class = self.class(script, decision.asked, walk.packet.dst(), decision.to == Outbound::Tun);
        match decision.asked.and_then(|asked| asked.said) {
            Some(Action::Deny) => decision.to = Outbound::Drop(DropReason::Script),
            Some(Action::Reject) => decision.to = Outbound::Reject(DropReason::Script),
            Some(Action::Allow) | None => {}
        }
        decision
    }

    fn route(
        &mut self,
        walk: &Walk<'_>,
        known: Known,
        rule: Option<RuleRef>,
        mut trail: Trail,
        script: &mut impl Script,
    ) -> OutDecision {
        let policy = std::sync::Arc::clone(&self.policy);
        if policy.has_gateway
            && let Some(found) =
                self.context(&policy).search(&policy.routes, &walk.key, known.state, RuleRef::Route, &mut trail)
        {
            let rule = Some(RuleRef::Route(found.rule));
            return OutDecision::stopped(Outbound::Gateway(found.target), rule, trail);
        }
        let has_holder = self.registry.holder(walk.packet.dst()).is_some();
        if !policy.switch || !has_holder {
            let trunk = if has_holder { None } else { self.trunk_to(walk.packet.dst()) };
            return OutDecision::stopped(trunk.map_or(Outbound::Tun, Outbound::Trunk), rule, trail);
        }
        let inner = self.decide_inbound(PacketSource::Tun, walk, script);
        trail.add(&inner.trail);
        let to = inner.verdict.to.into();
        let rule = inner.verdict.rule.or(rule);
        OutDecision { inner: Some(inner), ..OutDecision::stopped(to, rule, trail) }
    }

    /// Asks the script about a packet that the rules let pass, unless it is known what it says about its flow.
    pub(super) fn ask(
        &self,
        script: &mut impl Script,
        packet: &Packet<'_>,
        direction: Direction,
        id: PeerId,
        known: Known,
    ) -> Option<Asked> {
        if !self.policy.has_script {
            return None;
        }
        if let Some(kept) = self.kept(known, direction, id) {
            return Some(kept);
        }
        let (peer, owner) = (self.peers.get(id)?, self.owner(id)?);
        let mut addresses = [IpAddr::from([0; 4]); MOST_ADDRESSES];
        let held = addresses.iter_mut().zip(peer.claims.held()).map(|(place, address)| *place = address).count();
        let has_ports = packet.destination_port().is_some();
        let src_port = match packet.flow_part() {
            FlowPart::Flow(ports) if has_ports => Some(ports.first),
            FlowPart::Flow(_) | FlowPart::Error(_) | FlowPart::Fragment => None,
        };
        let said = script.decide(&ScriptQuery {
            direction,
            src: packet.src(),
            dst: packet.dst(),
            protocol: packet.protocol(),
            src_port,
            dst_port: packet.destination_port(),
            peer: id,
            owner,
            credentials: peer.session.credentials,
            addresses: &addresses[..held],
            policy: &self.policy,
        });
        let ttl = said.and_then(|said| said.ttl).map(|ttl| ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0));
        let until = ttl.map_or(FOREVER, |ttl| self.flows.now.saturating_add(u32::try_from(ttl).unwrap_or(FOREVER)));
        Some(Asked { said: said.map(|said| said.action), until, class: said.and_then(|said| said.class) })
    }

    /// Decides which peer gets a packet towards the peers.
    pub fn inbound(&mut self, from: PacketSource, packet: &Packet<'_>, script: &mut impl Script) -> InboundVerdict {
        self.repeat_inbound(from, packet).unwrap_or_else(|| self.first_inbound(from, &Walk::of(packet), script))
    }

    #[inline(never)]
    fn first_inbound(&mut self, from: PacketSource, walk: &Walk<'_>, script: &mut impl Script) -> InboundVerdict {
        let packet = walk.packet;
        let decision = self.decide_inbound(from, walk, script);
        self.to_log = decision.trail.to_log;
        self.count(decision.trail.slots.iter(), packet);
        let cause = match from {
            // Even if another host may use the address, too: the share of the one that gets all of it would be worse.
            PacketSource::Tun => self.holder(packet.src()),
            PacketSource::Gateway | PacketSource::Trunk => None,
        };
        let mut verdict = decision.verdict;
        // A packet without a flow waits for the limit of its class, too.
        verdict.lane.class = decision.class;
        if let Some(at) = self.keep_inbound(walk, &decision, cause, None) {
            verdict.lane.flow = at;
            self.flows.record(
                at,
                Direction::In,
                packet,
                packet.tcp_flags(),
                fate_in(decision.verdict.to) == Fate::Pass,
            );
        }
        self.record_error(decision.known, Direction::In, walk);
        verdict
    }

    fn decide_inbound(&mut self, from: PacketSource, walk: &Walk<'_>, script: &mut impl Script) -> InDecision {
        let holder = self.registry.holder(walk.packet.dst());
        let known = self.known(walk, Direction::In, holder);
        let mut trail = Trail::default();
        let policy = std::sync::Arc::clone(&self.policy);
        let found =
            self.context(&policy).search(&policy.firewall_in, &walk.key, known.state, RuleRef::FirewallIn, &mut trail);
        let by_chain = found.map(|found| RuleRef::FirewallIn(found.rule));
        let decided = |to, rule, trail| InDecision {
            verdict: InboundVerdict { to, rule, lane: Lane::default() },
            trail,
            known,
            holder,
            asked: None,
            class: Class::OWN,
            source: from,
        };
        match action(found) {
            Action::Deny => return decided(Inbound::Drop(DropReason::Firewall, holder), by_chain, trail),
            Action::Reject => return decided(Inbound::Reject(DropReason::Firewall, holder), by_chain, trail),
            Action::Allow => {}
        }
        let Some(peer) = holder.and_then(|id| self.peers.get(id)) else {
            return decided(self.beyond(from, walk.packet.dst()), None, trail);
        };
        let id = peer.id;
        let (decision, by_peer) = if from == PacketSource::Gateway {
            (PeerDecision::Pass, None)
        } else {
            trail.looks_at_state |= peer.looks_at_state;
            trail.met_open_rules |= !peer.has_sent;
            peer.decide(Direction::In, walk.packet, known.state)
        };
        let rule = by_peer.or(by_chain);
        match decision {
            PeerDecision::Pass => {}
            PeerDecision::Reject => return decided(Inbound::Reject(DropReason::PeerRule, Some(id)), rule, trail),
            // A packet towards a peer can't be routed, so such a rule drops it.
            PeerDecision::Deny | PeerDecision::Route(_) | PeerDecision::RouteRefused => {
                return decided(Inbound::Drop(DropReason::PeerRule, Some(id)), rule, trail);
            }
        }
        let asked = self.ask(script, walk.packet, Direction::In, id, known);
        let to = match asked.and_then(|asked| asked.said) {
            Some(Action::Deny) => Inbound::Drop(DropReason::Script, Some(id)),
            Some(Action::Reject) => Inbound::Reject(DropReason::Script, Some(id)),
            Some(Action::Allow) | None => Inbound::Peer(id),
        };
        let class = self.class(script, asked, walk.packet.src(), from == PacketSource::Tun);
        InDecision { asked, class, ..decided(to, rule, trail) }
    }

    /// Returns where a packet goes that no peer of this router holds the destination of.
    pub(super) fn beyond(&self, from: PacketSource, destination: IpAddr) -> Inbound {
        let nobody = Inbound::Drop(DropReason::NoPeer, None);
        match from {
            PacketSource::Gateway => nobody,
            PacketSource::Trunk if self.guard.is_routers(destination) => Inbound::Tun,
            PacketSource::Tun | PacketSource::Trunk => self.trunk_to(destination).map_or(nobody, Inbound::Trunk),
        }
    }

    /// Returns where the packets of a flow wait: in the class that the script names, or in that of flows with hosts beyond a
    /// `nat` interface. `is_by_tun` is true if they come or go by the TUN device.
    pub(super) fn class(
        &self,
        script: &mut impl Script,
        asked: Option<Asked>,
        remote: IpAddr,
        is_by_tun: bool,
    ) -> Class {
        if let Some(class) = asked.and_then(|asked| asked.class) {
            return Class::named(class);
        }
        let is_internet = is_by_tun
            && self.policy.shapes.ask_for_internet()
            && self.registry.holder(remote).is_none()
            && script.is_beyond_nat(remote);
        if is_internet { Class::INTERNET } else { Class::OWN }
    }
}

/// Returns the action of a chain's matching rule. Without one the packet is allowed.
pub(super) fn action(found: Option<Match<Action>>) -> Action {
    found.map_or(Action::Allow, |found| found.target)
}

impl Peer {
    /// Returns the decision of the peer's own rules. If there are rules for this direction, but none that applies to IPv6,
    /// IPv6 packets are denied: these rules were written for IPv4 only.
    pub(super) fn decide(
        &self,
        direction: Direction,
        packet: &Packet<'_>,
        state: Option<ConnectionState>,
    ) -> (PeerDecision, Option<RuleRef>) {
        let by = |rule| Some(RuleRef::Peer(self.id, rule));
        let mut knows_version = packet.is_v4();
        let mut has_rules = false;
        for (checked, number) in self.rules.iter().zip(0..).filter(|(it, _)| it.rule.direction == direction) {
            let rule = &checked.rule;
            has_rules = true;
            if rule.selector.matches(packet, state) {
                let decision = match rule.action {
                    RuleAction::Allow => PeerDecision::Pass,
                    RuleAction::Deny => PeerDecision::Deny,
                    RuleAction::Reject => PeerDecision::Reject,
                    RuleAction::Route(_) if checked.target_refused => PeerDecision::RouteRefused,
                    RuleAction::Route(target) => PeerDecision::Route(target),
                };
                return (decision, by(RuleId(number)));
            }
            knows_version |= rule.selector.is_for_v6();
        }
        if has_rules && !knows_version { (PeerDecision::Deny, by(RuleId::IMPLIED)) } else { (PeerDecision::Pass, None) }
    }
}
