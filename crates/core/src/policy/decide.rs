//! Decisions about packets: chains, claims, the guard, the peer's own rules, and routes.

use std::net::{IpAddr, SocketAddr};

use super::claims::{ClaimContext, Claimant, Source};
use super::drops::DropReason;
use super::forward::Forwarder;
use super::pattern::{Action, AnyMatchKey, Match, RuleId};
use super::registry::PeerId;
use super::verdict::{Inbound, InboundVerdict, Outbound, OutboundVerdict, PacketSource, RuleRef};
use crate::peers::Peer;
use tuntap_wire::ip::Packet;
use tuntap_wire::rule::{Direction, RuleAction};

/// The decision of a peer's own rules about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PeerDecision {
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

impl Forwarder {
    /// Decides where a packet from a peer goes. A packet that the firewall allows claims its source address, if the peer
    /// doesn't hold it yet.
    pub fn outbound(&mut self, id: PeerId, packet: &Packet<'_>) -> OutboundVerdict {
        let flow = AnyMatchKey::of(packet);
        let found = self.cache.firewall_out.find(&self.policy.firewall_out, &flow);
        let by_chain = found.map(|found| RuleRef::FirewallOut(found.rule));
        let unclaimed = |to, rule| OutboundVerdict { to, claimed: None, is_first: false, rule };
        match action(found) {
            Action::Deny => return unclaimed(Outbound::Drop(DropReason::Firewall), by_chain),
            Action::Reject => return unclaimed(Outbound::Reject(DropReason::Firewall), by_chain),
            Action::Allow => {}
        }
        let (claimed, is_first) = match self.check_source(id, packet.src()) {
            SourceCheck::Passed { claimed, is_first } => (claimed, is_first),
            SourceCheck::Stopped(to) => return unclaimed(to, None),
        };
        let (to, rule) = match self.stopped_by_guard(id, packet) {
            Some(reason) => (Outbound::Drop(reason), None),
            None => self.outbound_by_peer(id, &flow, packet),
        };
        OutboundVerdict { to, claimed, is_first, rule: rule.or(by_chain) }
    }

    fn check_source(&mut self, id: PeerId, source: IpAddr) -> SourceCheck {
        let Some(peer) = self.peers.get_mut(id) else {
            return SourceCheck::Stopped(Outbound::Drop(DropReason::NoPeer));
        };
        let grants = &self.policy.grants;
        let claimant = Claimant { id, identity: &peer.identity, account: peer.account() };
        let context = ClaimContext { grants, pool: &self.pool, guard: &self.guard, shares: &self.shares };
        let claimed = match peer.claims.check(source, claimant, context, &mut self.registry) {
            Source::Own => None,
            Source::Claimed => {
                self.shares.take(peer.account_for(source, grants), source);
                Some(source)
            }
            Source::HeldBy(holder) => return SourceCheck::Stopped(Outbound::Contested { address: source, holder }),
            Source::Refused(reason) => return SourceCheck::Stopped(Outbound::Drop(reason)),
        };
        let is_first = !std::mem::replace(&mut peer.has_sent, true);
        SourceCheck::Passed { claimed, is_first }
    }

    /// Returns the reason why the guard drops a packet, whatever the rules say; `None` if it doesn't.
    fn stopped_by_guard(&self, id: PeerId, packet: &Packet<'_>) -> Option<DropReason> {
        if let Some(reason) = self.guard.refusal(packet, &self.pool) {
            return Some(reason);
        }
        let is_own = |receiver| self.peers.get(id).is_some_and(|peer| peer.claims.has(receiver));
        (self.guard.is_strict() && packet.is_error_about_others(is_own)).then_some(DropReason::ForeignError)
    }

    fn outbound_by_peer(&mut self, id: PeerId, flow: &AnyMatchKey, packet: &Packet<'_>) -> (Outbound, Option<RuleRef>) {
        let Some(peer) = self.peers.get(id) else { return (Outbound::Drop(DropReason::NoPeer), None) };
        let (decision, rule) = peer.decide(Direction::Out, packet);
        let to = match decision {
            PeerDecision::Deny => Outbound::Drop(DropReason::PeerRule),
            PeerDecision::Reject => Outbound::Reject(DropReason::PeerRule),
            PeerDecision::Route(_) | PeerDecision::RouteRefused if !self.policy.has_gateway => {
                Outbound::Drop(DropReason::NoGateway)
            }
            PeerDecision::RouteRefused => Outbound::Drop(DropReason::RouteTarget),
            PeerDecision::Route(target) => Outbound::Gateway(target),
            PeerDecision::Pass => {
                let (to, by_route) = self.route(flow, packet);
                return (to, by_route.or(rule));
            }
        };
        (to, rule)
    }

    /// Decides which peer gets a packet towards the peers.
    pub fn inbound(&mut self, from: PacketSource, packet: &Packet<'_>) -> InboundVerdict {
        self.inbound_flow(from, &AnyMatchKey::of(packet), packet)
    }

    fn inbound_flow(&mut self, from: PacketSource, flow: &AnyMatchKey, packet: &Packet<'_>) -> InboundVerdict {
        let holder = self.registry.holder(packet.dst());
        let found = self.cache.firewall_in.find(&self.policy.firewall_in, flow);
        let by_chain = found.map(|found| RuleRef::FirewallIn(found.rule));
        let by_chain = |to| InboundVerdict { to, rule: by_chain };
        match action(found) {
            Action::Deny => return by_chain(Inbound::Drop(DropReason::Firewall, holder)),
            Action::Reject => return by_chain(Inbound::Reject(DropReason::Firewall, holder)),
            Action::Allow => {}
        }
        let Some(peer) = holder.and_then(|id| self.peers.get(id)) else {
            return InboundVerdict { to: Inbound::Drop(DropReason::NoPeer, None), rule: None };
        };
        if from == PacketSource::Gateway {
            return by_chain(Inbound::Peer(peer.id));
        }
        let (decision, rule) = peer.decide(Direction::In, packet);
        let to = match decision {
            PeerDecision::Pass => Inbound::Peer(peer.id),
            PeerDecision::Reject => Inbound::Reject(DropReason::PeerRule, Some(peer.id)),
            // A packet towards a peer can't be routed, so such a rule drops it.
            PeerDecision::Deny | PeerDecision::Route(_) | PeerDecision::RouteRefused => {
                Inbound::Drop(DropReason::PeerRule, Some(peer.id))
            }
        };
        if rule.is_some() { InboundVerdict { to, rule } } else { by_chain(to) }
    }

    fn route(&mut self, flow: &AnyMatchKey, packet: &Packet<'_>) -> (Outbound, Option<RuleRef>) {
        match self.cache.routes.find(&self.policy.routes, flow) {
            Some(found) if self.policy.has_gateway => {
                (Outbound::Gateway(found.target), Some(RuleRef::Route(found.rule)))
            }
            _ if self.policy.switch && self.registry.holder(packet.dst()).is_some() => {
                let verdict = self.inbound_flow(PacketSource::Tun, flow, packet);
                let to = match verdict.to {
                    Inbound::Peer(id) => Outbound::Peer(id),
                    Inbound::Drop(reason, _) => Outbound::Drop(reason),
                    Inbound::Reject(reason, _) => Outbound::Reject(reason),
                };
                (to, verdict.rule)
            }
            _ => (Outbound::Tun, None),
        }
    }
}

/// Returns the action of a chain's matching rule. Without one the packet is allowed.
fn action(found: Option<Match<Action>>) -> Action {
    found.map_or(Action::Allow, |found| found.target)
}

impl Peer {
    /// Returns the decision of the peer's own rules. If there are rules for this direction, but none that applies to IPv6,
    /// IPv6 packets are denied: these rules were written for IPv4 only.
    fn decide(&self, direction: Direction, packet: &Packet<'_>) -> (PeerDecision, Option<RuleRef>) {
        let by = |rule| Some(RuleRef::Peer(self.id, rule));
        let mut knows_version = packet.is_v4();
        let mut has_rules = false;
        for (checked, number) in self.rules.iter().zip(0..).filter(|(it, _)| it.rule.direction == direction) {
            let rule = &checked.rule;
            has_rules = true;
            if rule.selector.matches(packet, None) {
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
