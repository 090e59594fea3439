//! One verdict for each packet, from the chains, the claims, the peers' rules and the routes.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use super::cache::CachedRules;
use super::drops::DropReason;
use super::lease::{Identity, Leases};
use super::pattern::{Action, RuleList};
use super::prefix_map::PrefixSet;
use super::registry::{Claim, PeerId, Registry};
use super::targets::AllowedTargets;
use crate::wire::ip::{Packet, is_unicast};
use crate::wire::rule::{Direction, PeerRule, RuleAction};

/// What the operator configured, the same for all peers.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Chain for packets towards the peers.
    pub firewall_in: RuleList<Action>,
    /// Chain for packets from the peers.
    pub firewall_out: RuleList<Action>,
    /// Where packets from the peers go instead of the TUN device.
    pub routes: RuleList<SocketAddrV4>,
    /// Whether there is a gateway that can send to other routers. Without one the routes don't count.
    pub has_gateway: bool,
    /// Whether packets between two peers are delivered here rather than by the host's kernel.
    pub switch: bool,
    /// Who may hold which address.
    pub leases: Leases,
    /// Gateways that peers may name in their rules.
    pub device_routes: AllowedTargets,
    /// Where datagrams of other routers may come from. An empty set is anywhere.
    pub gateway_sources: PrefixSet,
}

/// Where a packet from a peer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outward {
    /// To the router's TUN device.
    Tun,
    /// To another router, as a UDP datagram.
    Gateway(SocketAddrV4),
    /// To another peer of this router.
    Peer(PeerId),
    /// Nowhere.
    Drop(DropReason),
    /// Nowhere as long as `holder` lives, because it holds the packet's source. If it turns out to be dead, the caller
    /// removes it and asks again; if not, the packet is dropped for [`DropReason::AddressHeld`].
    Contested {
        /// The packet's source.
        address: Ipv4Addr,
        /// Who holds it.
        holder: PeerId,
    },
}

/// A verdict on a packet from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutwardVerdict {
    /// Where it goes.
    pub to: Outward,
    /// The address that the peer got with this packet.
    pub claimed: Option<Ipv4Addr>,
}

/// Where a packet towards the peers comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The router's TUN device.
    Tun,
    /// Another router. The peers' own rules don't apply, as in the C plugin.
    Gateway,
}

/// A verdict on a packet towards the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inward {
    /// To this peer.
    Peer(PeerId),
    /// Nowhere. The peer is named where the destination has one.
    Drop(DropReason, Option<PeerId>),
}

/// How an assignment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assignment {
    /// The peer holds the address now.
    Granted,
    /// Another peer holds it, and keeps it until it dies.
    HeldBy(PeerId),
    /// It is not leased to the peer.
    NotLeased,
}

/// What became of rules that a peer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RulesVerdict {
    /// They apply from now on. If they name a gateway that peers may not name, packets for it are dropped.
    Applied {
        /// The first such gateway.
        refused_target: Option<SocketAddrV4>,
    },
    /// They are those that apply already.
    Unchanged,
    /// They came after the peer's first packet, and are not looked at.
    Frozen,
}

/// What is known about a peer's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Address {
    /// Its first valid packet will claim one.
    Unclaimed,
    /// It may have this one only, and hasn't got it yet.
    Assigned(Ipv4Addr),
    /// It holds this one.
    Held(Ipv4Addr),
}

#[derive(Debug)]
struct PeerPolicy {
    id: PeerId,
    identity: Identity,
    address: Address,
    rules: Vec<CheckedRule>,
    /// Whether a packet of the peer has been accepted: from then on its rules stay what they are.
    has_sent: bool,
}

/// A rule of a peer, and whether it may do what it says.
#[derive(Debug, Clone, Copy)]
struct CheckedRule {
    rule: PeerRule,
    target_refused: bool,
}

/// The policy together with what it has to remember of the peers.
#[derive(Debug)]
pub struct Forwarder {
    firewall_in: CachedRules<Action>,
    firewall_out: CachedRules<Action>,
    routes: CachedRules<SocketAddrV4>,
    has_gateway: bool,
    switch: bool,
    leases: Leases,
    device_routes: AllowedTargets,
    gateway_sources: PrefixSet,
    registry: Registry,
    /// By [`PeerId::index`].
    peers: Vec<Option<PeerPolicy>>,
}

impl Forwarder {
    /// Without any peer. `seed` should be hard to guess: it keeps peers from disturbing each other's cached verdicts.
    pub fn new(policy: Policy, seed: u64) -> Self {
        Self {
            firewall_in: CachedRules::new(policy.firewall_in, seed),
            firewall_out: CachedRules::new(policy.firewall_out, seed),
            routes: CachedRules::new(policy.routes, seed),
            has_gateway: policy.has_gateway,
            switch: policy.switch,
            leases: policy.leases,
            device_routes: policy.device_routes,
            gateway_sources: policy.gateway_sources,
            registry: Registry::default(),
            peers: Vec::new(),
        }
    }

    /// Whether the supplementary groups of a peer matter.
    pub fn wants_groups(&self) -> bool {
        self.leases.name_groups()
    }

    /// A new peer, which may claim any address that is leased to it.
    pub fn add_peer(&mut self, id: PeerId, mut identity: Identity) {
        self.leases.forget_other_groups(&mut identity);
        let slot = id.index as usize;
        if slot >= self.peers.len() {
            self.peers.resize_with(slot + 1, || None);
        }
        self.peers[slot] =
            Some(PeerPolicy { id, identity, address: Address::Unclaimed, rules: Vec::new(), has_sent: false });
    }

    /// A peer that an earlier router had. Its rules stay what they were; its address, too, if that is free and leased to
    /// it.
    pub fn restore(&mut self, id: PeerId, identity: Identity, rules: Vec<PeerRule>, address: Option<Ipv4Addr>) {
        self.add_peer(id, identity);
        self.set_rules(id, rules);
        if let Some(address) = address {
            self.assign(id, address);
        }
        if let Some(peer) = find_mut(&mut self.peers, id) {
            peer.has_sent = true;
        }
    }

    /// A peer that has no address yet has shown who it is.
    pub fn identify(&mut self, id: PeerId, mut identity: Identity) {
        self.leases.forget_other_groups(&mut identity);
        if let Some(peer) = find_mut(&mut self.peers, id) {
            debug_assert_eq!(peer.address, Address::Unclaimed, "what was granted to somebody else would stay");
            peer.identity = identity;
        }
    }

    /// Forgets a peer and frees its address.
    pub fn remove_peer(&mut self, id: PeerId) {
        if let Some(slot) = self.peers.get_mut(id.index as usize)
            && let Some(peer) = slot.take_if(|peer| peer.id == id)
            && let Address::Held(address) = peer.address
        {
            self.registry.release(address, id);
        }
    }

    /// Binds a peer to an address, the only one that it may use from now on, and tries to claim it. If another peer
    /// holds it, packets of this one try again. `None` if the peer is unknown or holds an address already.
    pub fn assign(&mut self, id: PeerId, address: Ipv4Addr) -> Option<Assignment> {
        let peer = find_mut(&mut self.peers, id)?;
        if matches!(peer.address, Address::Held(_)) {
            return None;
        }
        if !self.leases.allow(address, &peer.identity) {
            return Some(Assignment::NotLeased);
        }
        Some(match self.registry.claim(address, id) {
            Claim::Granted => {
                peer.address = Address::Held(address);
                Assignment::Granted
            }
            Claim::HeldBy(holder) => {
                peer.address = Address::Assigned(address);
                Assignment::HeldBy(holder)
            }
        })
    }

    /// Replaces a peer's own rules, unless a packet of it has been accepted already. `None` if the peer is unknown.
    pub fn set_rules(&mut self, id: PeerId, rules: Vec<PeerRule>) -> Option<RulesVerdict> {
        let peer = find_mut(&mut self.peers, id)?;
        if peer.has_sent {
            let same = peer.rules.iter().map(|checked| checked.rule).eq(rules);
            return Some(if same { RulesVerdict::Unchanged } else { RulesVerdict::Frozen });
        }
        let mut refused_target = None;
        peer.rules = rules
            .into_iter()
            .map(|rule| {
                // Where nothing can be sent to a gateway, and towards the peer, such rules drop packets anyway.
                let refused = match (rule.direction, rule.action) {
                    (Direction::Out, RuleAction::Route(target)) if self.has_gateway => {
                        Some(target).filter(|target| !self.device_routes.allow(*target))
                    }
                    _ => None,
                };
                refused_target = refused_target.or(refused);
                CheckedRule { rule, target_refused: refused.is_some() }
            })
            .collect();
        Some(RulesVerdict::Applied { refused_target })
    }

    /// Whether datagrams from this address are those of another router.
    pub fn accepts_datagrams_of(&self, source: Ipv4Addr) -> bool {
        self.gateway_sources.is_empty() || self.gateway_sources.covering(source).next().is_some()
    }

    /// The address that a peer holds.
    pub fn address(&self, id: PeerId) -> Option<Ipv4Addr> {
        match self.peer(id)?.address {
            Address::Held(address) => Some(address),
            Address::Unclaimed | Address::Assigned(_) => None,
        }
    }

    /// The rules that a peer sent.
    pub fn rules(&self, id: PeerId) -> impl ExactSizeIterator<Item = &PeerRule> {
        self.peer(id).map_or(&[][..], |peer| &peer.rules).iter().map(|checked| &checked.rule)
    }

    /// Who a peer is, as far as leases ask for it.
    pub fn identity(&self, id: PeerId) -> Option<&Identity> {
        self.peer(id).map(|peer| &peer.identity)
    }

    /// Where a packet from a peer goes. The first one that the firewall lets pass claims its source.
    pub fn outward(&mut self, id: PeerId, packet: &Packet<'_>) -> OutwardVerdict {
        let unclaimed = |to| OutwardVerdict { to, claimed: None };
        let Some((src, dst)) = v4(packet) else { return unclaimed(Outward::Drop(DropReason::Ipv6)) };
        if self.firewall_out.first_match(src, dst) == Some(Action::Deny) {
            return unclaimed(Outward::Drop(DropReason::Firewall));
        }
        let Some(peer) = find_mut(&mut self.peers, id) else {
            return unclaimed(Outward::Drop(DropReason::NoPeer));
        };
        let claimed = match peer.address {
            Address::Held(address) if address == src => None,
            Address::Held(_) => return unclaimed(Outward::Drop(DropReason::SpoofedSource)),
            Address::Assigned(address) if address != src => {
                return unclaimed(Outward::Drop(DropReason::SpoofedSource));
            }
            Address::Unclaimed if !is_unicast(src.into()) => {
                return unclaimed(Outward::Drop(DropReason::InvalidSource));
            }
            Address::Unclaimed if !self.leases.allow(src, &peer.identity) => {
                return unclaimed(Outward::Drop(DropReason::NotLeased));
            }
            Address::Assigned(_) | Address::Unclaimed => match self.registry.claim(src, id) {
                Claim::Granted => {
                    peer.address = Address::Held(src);
                    Some(src)
                }
                Claim::HeldBy(holder) => return unclaimed(Outward::Contested { address: src, holder }),
            },
        };
        peer.has_sent = true;
        let first = first_peer_rule(&peer.rules, Direction::Out, packet);
        let to = match first.map(|checked| checked.rule.action) {
            Some(RuleAction::Deny) => Outward::Drop(DropReason::PeerRule),
            Some(RuleAction::Route(_)) if !self.has_gateway => Outward::Drop(DropReason::NoGateway),
            Some(RuleAction::Route(_)) if first.is_some_and(|checked| checked.target_refused) => {
                Outward::Drop(DropReason::RouteTarget)
            }
            Some(RuleAction::Route(target)) => Outward::Gateway(target),
            Some(RuleAction::Allow) | None => self.route(packet),
        };
        OutwardVerdict { to, claimed }
    }

    /// Which peer gets a packet.
    pub fn inward(&mut self, origin: Origin, packet: &Packet<'_>) -> Inward {
        let Some((src, dst)) = v4(packet) else { return Inward::Drop(DropReason::Ipv6, None) };
        let holder = self.registry.holder(dst);
        if self.firewall_in.first_match(src, dst) == Some(Action::Deny) {
            return Inward::Drop(DropReason::Firewall, holder);
        }
        let Some(peer) = holder.and_then(|id| self.peer(id)) else {
            return Inward::Drop(DropReason::NoPeer, None);
        };
        // Rules of the peer that would route don't apply here; the packet has arrived already.
        let denied = origin == Origin::Tun
            && matches!(
                first_peer_rule(&peer.rules, Direction::In, packet).map(|checked| checked.rule.action),
                Some(RuleAction::Deny | RuleAction::Route(_))
            );
        if denied {
            return Inward::Drop(DropReason::PeerRule, Some(peer.id));
        }
        Inward::Peer(peer.id)
    }

    fn route(&mut self, packet: &Packet<'_>) -> Outward {
        let Some((src, dst)) = v4(packet) else { return Outward::Drop(DropReason::Ipv6) };
        match self.routes.first_match(src, dst) {
            Some(target) if self.has_gateway => Outward::Gateway(target),
            _ if self.switch && self.registry.holder(dst).is_some() => match self.inward(Origin::Tun, packet) {
                Inward::Peer(id) => Outward::Peer(id),
                Inward::Drop(reason, _) => Outward::Drop(reason),
            },
            _ => Outward::Tun,
        }
    }

    fn peer(&self, id: PeerId) -> Option<&PeerPolicy> {
        self.peers.get(id.index as usize)?.as_ref().filter(|peer| peer.id == id)
    }
}

/// Beside the methods, so that it borrows the table alone.
fn find_mut(peers: &mut [Option<PeerPolicy>], id: PeerId) -> Option<&mut PeerPolicy> {
    peers.get_mut(id.index as usize)?.as_mut().filter(|peer| peer.id == id)
}

fn first_peer_rule<'a>(rules: &'a [CheckedRule], direction: Direction, packet: &Packet<'_>) -> Option<&'a CheckedRule> {
    let (src, dst) = v4(packet)?;
    rules
        .iter()
        .find(|CheckedRule { rule, .. }| rule.direction == direction && rule.src.matches(src) && rule.dst.matches(dst))
}

fn v4(packet: &Packet<'_>) -> Option<(Ipv4Addr, Ipv4Addr)> {
    match (packet.src(), packet.dst()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Some((src, dst)),
        _ => None,
    }
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
