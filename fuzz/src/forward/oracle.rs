//! The oracle: peers, and what becomes of their packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tuntap_core::policy::assignment::{AssignmentError, Candidate};
use tuntap_core::policy::claims::AssignResult;
use tuntap_core::policy::drops::DropReason;
use tuntap_core::policy::grant::Identity;
use tuntap_core::policy::pattern::Action;
use tuntap_core::policy::registry::PeerId;
use tuntap_core::policy::verdict::{Inbound, Lane, Outbound, OutboundVerdict, PacketSource, RulesVerdict};
use tuntap_wire::rule::{Direction, PeerRule, RuleAction};

use super::super::probe::Probe;
use super::matching::{can_be_claimed, chain, first, of_peer};
use super::policy::PolicyRules;
use super::{MOST_V6, PEERS};

/// The documents, word for word. It walks through lists and searches all peers.
pub(super) struct Oracle {
    pub(super) rules: PolicyRules,
    pub(super) peers: [Option<Peer>; PEERS],
}

pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) identity: Identity,
    /// The IPv4 address that it holds.
    pub(super) held: Option<Ipv4Addr>,
    /// The IPv4 address that it waits for.
    pub(super) assigned: Option<Ipv4Addr>,
    pub(super) v6: Vec<Ipv6Addr>,
    /// True if it can't choose its addresses itself.
    pub(super) is_bound: bool,
    pub(super) rules: Vec<PeerRule>,
    pub(super) has_sent: bool,
}

impl Peer {
    pub(super) fn new(id: PeerId, identity: Identity) -> Self {
        let (held, assigned, v6) = (None, None, Vec::new());
        Self { id, identity, held, assigned, v6, is_bound: false, rules: Vec::new(), has_sent: false }
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.held.map(IpAddr::V4).into_iter().chain(self.v6.iter().copied().map(IpAddr::V6))
    }

    pub(super) fn hold(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => (self.held, self.assigned) = (Some(address), None),
            IpAddr::V6(address) if !self.v6.contains(&address) => self.v6.push(address),
            IpAddr::V6(_) => {}
        }
    }
}

impl Oracle {
    pub(super) fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.iter().flatten().find(|peer| peer.id == id)
    }

    pub(super) fn peer_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.iter_mut().flatten().find(|peer| peer.id == id)
    }

    pub(super) fn holder(&self, address: IpAddr) -> Option<&Peer> {
        self.peers.iter().flatten().find(|peer| peer.addresses().any(|held| held == address))
    }

    pub(super) fn remove(&mut self, id: PeerId) {
        for slot in &mut self.peers {
            slot.take_if(|peer| peer.id == id);
        }
    }

    /// An address by credentials is given to those to whom it is granted, where a grant is needed.
    pub(super) fn assign(&mut self, id: PeerId, address: IpAddr) -> Option<AssignResult> {
        let is_granted = self.is_granted_to(address, &self.peer(id)?.identity);
        if self.is_taken(address) || !can_be_claimed(address) {
            return Some(AssignResult::Taken);
        }
        Some(if is_granted { self.give(id, address) } else { AssignResult::NotGranted })
    }

    /// An address that the router has chosen needs no grant, but must not be granted to others only.
    pub(super) fn lease(&mut self, id: PeerId, address: IpAddr) -> Option<AssignResult> {
        let may_have = !self.is_covered(address) || self.is_granted_to(address, &self.peer(id)?.identity);
        self.peer(id)?;
        Some(if may_have { self.give(id, address) } else { AssignResult::NotGranted })
    }

    /// A claim is checked as a packet would be, but never succeeds for the router's own addresses. A peer may have an
    /// address again that the router could choose for it.
    pub(super) fn consider(
        &self,
        id: PeerId,
        address: IpAddr,
        assigned: bool,
        are_dead: bool,
    ) -> Result<Candidate, AssignmentError> {
        let Some(peer) = self.peer(id) else { return Err(AssignmentError::NoPeer) };
        if self.is_own(address) {
            return Err(AssignmentError::Own);
        }
        let is_granted = self.is_granted_to(address, &peer.identity) || assigned && self.may_give(address, id);
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
        let is_chosen = assigned && self.may_give(address, id);
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

    /// A restored peer keeps an address that it could get now.
    pub(super) fn restore(&mut self, id: PeerId, address: IpAddr, was_bound: bool) {
        let identity = &self.peer(id).expect("it was just added").identity;
        let may_have = if was_bound && !self.is_covered(address) {
            can_be_claimed(address) && !self.is_taken(address)
        } else {
            self.is_granted_to(address, identity) && self.may_claim(address, identity)
        };
        if may_have {
            self.give(id, address);
        }
    }

    pub(super) fn give(&mut self, id: PeerId, address: IpAddr) -> AssignResult {
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

    pub(super) fn set_rules(&mut self, id: PeerId, rules: Vec<PeerRule>) -> Option<RulesVerdict> {
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

    pub(super) fn outward(&mut self, id: PeerId, probe: &Probe) -> OutboundVerdict {
        let nowhere = |to| verdict(to, None, false);
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
            return verdict(Outbound::Drop(reason), claimed, is_first);
        }
        let to = match of_peer(&rules, Direction::Out, probe) {
            RuleAction::Deny => Outbound::Drop(DropReason::PeerRule),
            RuleAction::Reject => Outbound::Reject(DropReason::PeerRule),
            RuleAction::Route(_) if !self.rules.has_gateway => Outbound::Drop(DropReason::NoGateway),
            RuleAction::Route(target) if !self.may_name(target) => Outbound::Drop(DropReason::RouteTarget),
            RuleAction::Route(target) => Outbound::Gateway(target),
            RuleAction::Allow => self.route(probe),
        };
        verdict(to, claimed, is_first)
    }

    /// Why a peer may not have an address, apart from another peer that holds it.
    pub(super) fn refusal(&self, peer: &Peer, address: IpAddr) -> Option<DropReason> {
        if address.is_ipv4()
            && let Some(own) = peer.held.or(peer.assigned)
        {
            // An address that it was given is allowed.
            return (own != address).then_some(DropReason::SpoofedSource);
        }
        if !can_be_claimed(address) {
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

    pub(super) fn route(&self, probe: &Probe) -> Outbound {
        if self.rules.has_gateway
            && let Some(target) = first(&self.rules.routes, probe)
        {
            return Outbound::Gateway(target);
        }
        if !self.rules.switch || self.holder(probe.dst).is_none() {
            return Outbound::Tun;
        }
        self.inward(PacketSource::Tun, probe).into()
    }

    pub(super) fn inward(&self, origin: PacketSource, probe: &Probe) -> Inbound {
        let holder = self.holder(probe.dst);
        let id = holder.map(|peer| peer.id);
        match chain(&self.rules.firewall_in, probe) {
            Action::Allow => {}
            Action::Deny => return Inbound::Drop(DropReason::Firewall, id),
            Action::Reject => return Inbound::Reject(DropReason::Firewall, id),
        }
        let Some(peer) = holder else { return Inbound::Drop(DropReason::NoPeer, None) };
        if origin == PacketSource::Gateway {
            return Inbound::Peer(peer.id);
        }
        match of_peer(&peer.rules, Direction::In, probe) {
            RuleAction::Allow => Inbound::Peer(peer.id),
            RuleAction::Reject => Inbound::Reject(DropReason::PeerRule, id),
            RuleAction::Deny | RuleAction::Route(_) => Inbound::Drop(DropReason::PeerRule, id),
        }
    }
}

/// A verdict without the rule and the flow, which the oracle doesn't know.
pub(super) fn verdict(to: Outbound, claimed: Option<IpAddr>, is_first: bool) -> OutboundVerdict {
    let lane = Lane::default();
    OutboundVerdict { to, claimed, is_first, rule: None, lane, receiver_lane: lane }
}
