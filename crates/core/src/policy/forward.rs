//! One verdict for each packet, from the chains, the claims, the peers' rules and the routes.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::account::Account;
use super::cache::CachedRules;
use super::claims::{AssignResult, ClaimContext, Claimant, Claims, Source};
use super::drops::DropReason;
use super::grant::{Grant, Grants, Identity};
use super::guard::{Guard, GuardPolicy};
use super::pattern::{Action, AnyFlow, Rules};
use super::pool::Pool;
use super::prefix_map::PrefixSet;
use super::registry::{PeerId, Registry};
use super::shares::Shares;
use super::targets::AllowedTargets;
use tuntap_wire::autoconf::is_claimable;
use tuntap_wire::ip::Packet;
use tuntap_wire::rule::{Direction, PeerRule, RuleAction};

/// What the operator configured, the same for all peers.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Chain for packets towards the peers.
    pub firewall_in: Rules<Action>,
    /// Chain for packets from the peers.
    pub firewall_out: Rules<Action>,
    /// Where packets from the peers go instead of the TUN device.
    pub routes: Rules<SocketAddr>,
    /// Whether there is a gateway that can send to other routers. Without one the routes don't count.
    pub has_gateway: bool,
    /// Whether packets between two peers are delivered here rather than by the host's kernel.
    pub switch: bool,
    /// Who may hold which address.
    pub leases: Grants,
    /// Gateways that peers may name in their rules.
    pub device_routes: AllowedTargets,
    /// Where datagrams of other routers may come from. An empty set is anywhere.
    pub gateway_sources: PrefixSet,
    /// The router's own addresses, with the lengths of the prefixes of the networks that peers get addresses from.
    pub networks: Vec<IpNet>,
    /// Where ports of the host lead: peers are given these only by a lease.
    pub port_targets: Vec<IpAddr>,
    /// What no peer may have, and where none may send to.
    pub guard: GuardPolicy,
    /// Addresses that one account may hold of each family, see [`Shares::new`].
    pub max_addresses: Option<usize>,
}

impl Default for Policy {
    /// Without any rule: every peer may claim and send what it likes.
    fn default() -> Self {
        Self {
            firewall_in: Rules::chain([]),
            firewall_out: Rules::chain([]),
            routes: Rules::new([]),
            has_gateway: false,
            switch: false,
            leases: Grants::none(),
            device_routes: AllowedTargets::default(),
            gateway_sources: PrefixSet::default(),
            networks: Vec::new(),
            port_targets: Vec::new(),
            guard: GuardPolicy::default(),
            max_addresses: None,
        }
    }
}

/// Where a packet from a peer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outward {
    /// To the router's TUN device.
    Tun,
    /// To another router, as a UDP datagram.
    Gateway(SocketAddr),
    /// To another peer of this router.
    Peer(PeerId),
    /// Nowhere.
    Drop(DropReason),
    /// Nowhere, and its sender is to be told.
    Reject(DropReason),
    /// Nowhere as long as `holder` lives, because it holds the packet's source. If it turns out to be dead, the caller
    /// removes it and asks again; if not, the packet is dropped for [`DropReason::AddressHeld`].
    Contested {
        /// The packet's source.
        address: IpAddr,
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
    pub claimed: Option<IpAddr>,
    /// Whether it is the peer's first one that was accepted: its rules are fixed now.
    pub is_first: bool,
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
    /// Nowhere, and its sender is to be told.
    Reject(DropReason, Option<PeerId>),
}

/// What is known of a peer that an earlier router had.
#[derive(Debug)]
pub struct RestoredPeer<'a> {
    /// Who it is.
    pub identity: Identity,
    /// Root's network namespace, if it isn't the router's.
    pub namespace: Option<u64>,
    /// Its own rules.
    pub rules: Vec<PeerRule>,
    /// The addresses that it held.
    pub addresses: &'a [IpAddr],
    /// Whether it could choose none by itself.
    pub is_bound: bool,
}

/// What became of rules that a peer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RulesVerdict {
    /// They apply from now on. If they name a gateway that peers may not name, packets for it are dropped.
    Applied {
        /// The first such gateway.
        refused_target: Option<SocketAddr>,
    },
    /// They are those that apply already.
    Unchanged,
    /// They came after the peer's first packet, and are not looked at.
    Frozen,
}

#[derive(Debug)]
struct PeerPolicy {
    id: PeerId,
    identity: Identity,
    /// Root's network namespace, if it isn't the router's.
    namespace: Option<u64>,
    claims: Claims,
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

/// What a peer's rules say to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PeerVerdict {
    Pass,
    Deny,
    Reject,
    Route(SocketAddr),
    /// To a gateway that the peer may not name.
    RouteRefused,
}

/// The policy together with what it has to remember of the peers.
#[derive(Debug)]
pub struct Forwarder {
    firewall_in: CachedRules<Action>,
    pub(super) firewall_out: CachedRules<Action>,
    routes: CachedRules<SocketAddr>,
    has_gateway: bool,
    switch: bool,
    pub(super) leases: Grants,
    pub(super) pool: Pool,
    pub(super) guard: Guard,
    pub(super) shares: Shares,
    device_routes: AllowedTargets,
    gateway_sources: PrefixSet,
    pub(super) registry: Registry,
    /// By [`PeerId::index`].
    peers: Vec<Option<PeerPolicy>>,
}

impl Forwarder {
    /// Without any peer. `seed` should be hard to guess: it keeps peers from disturbing each other's cached verdicts.
    pub fn new(policy: Policy, seed: u64) -> Self {
        let shares = Shares::new(policy.max_addresses, &policy.networks);
        let pool = Pool::new(policy.networks, &policy.leases, policy.port_targets);
        Self {
            firewall_in: CachedRules::new(policy.firewall_in, seed),
            firewall_out: CachedRules::new(policy.firewall_out, seed),
            routes: CachedRules::new(policy.routes, seed),
            has_gateway: policy.has_gateway,
            switch: policy.switch,
            leases: policy.leases,
            pool,
            guard: Guard::new(policy.guard),
            shares,
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

    /// Takes one more lease of what was leased to nobody until now.
    pub fn grant(&mut self, lease: Grant) {
        self.leases.add(lease);
    }

    /// A new peer, which may claim any address that is leased to it.
    pub fn add_peer(&mut self, id: PeerId, mut identity: Identity) {
        self.leases.forget_other_groups(&mut identity);
        let slot = id.index as usize;
        if slot >= self.peers.len() {
            self.peers.resize_with(slot + 1, || None);
        }
        let (claims, rules) = (Claims::default(), Vec::new());
        self.peers[slot] = Some(PeerPolicy { id, identity, namespace: None, claims, rules, has_sent: false });
    }

    /// Says which network namespace a peer that holds nothing yet has connected from, if it isn't the router's.
    pub fn set_namespace(&mut self, id: PeerId, namespace: Option<u64>) {
        if let Some(peer) = find_mut(&mut self.peers, id) {
            peer.namespace = namespace;
        }
    }

    /// For whom a peer's part of what all share is counted.
    pub fn account(&self, id: PeerId) -> Option<Account> {
        self.peer(id)?.account()
    }

    /// What the host's interfaces have right now, with the lengths of their networks' prefixes. Peers keep what they hold.
    pub fn set_host_addresses(&mut self, addresses: impl IntoIterator<Item = IpNet>) {
        self.guard.set_host_addresses(addresses);
    }

    /// A peer that an earlier router had, from this namespace. Its rules stay what they were; its addresses, too, as far as
    /// they are free and it may have them.
    pub fn restore(&mut self, id: PeerId, legacy: RestoredPeer<'_>) {
        let RestoredPeer { identity, namespace, rules, addresses, is_bound } = legacy;
        self.add_peer(id, identity);
        self.set_namespace(id, namespace);
        self.set_rules(id, rules);
        let Some(peer) = find_mut(&mut self.peers, id) else { return };
        let (leases, pool, guard) = (&self.leases, &self.pool, &self.guard);
        for &address in addresses {
            // What somebody else has chosen for it may be nobody's lease.
            let may_have = if is_bound && !leases.cover(address) {
                is_claimable(address) && !guard.is_taken(address)
            } else {
                leases.allow(address, &peer.identity) && guard.may_claim(address, &peer.identity, leases, pool)
            };
            if may_have && peer.claims.assign(address, id, &mut self.registry) == AssignResult::Granted {
                self.shares.take(peer.account_for(address, leases), address);
            }
        }
        peer.claims.set_bound(is_bound);
        peer.has_sent = true;
    }

    /// A peer that has no address yet has shown who it is.
    pub fn identify(&mut self, id: PeerId, mut identity: Identity) {
        self.leases.forget_other_groups(&mut identity);
        if let Some(peer) = find_mut(&mut self.peers, id) {
            debug_assert!(peer.claims.held().next().is_none(), "what was granted to somebody else would stay");
            peer.identity = identity;
        }
    }

    /// Forgets a peer and frees its addresses.
    pub fn remove_peer(&mut self, id: PeerId) {
        if let Some(slot) = self.peers.get_mut(id.index as usize)
            && let Some(peer) = slot.take_if(|peer| peer.id == id)
        {
            for address in peer.claims.held() {
                self.registry.release(address, id);
                self.shares.give_back(address);
                self.pool.take_back(address);
            }
        }
    }

    /// Gives a peer an address that it asks for, or that its credentials stand for, if it is leased to it. From then on the
    /// peer may choose none by itself. If another peer holds an IPv4 address, packets of this one try again. `None` if the
    /// peer is unknown.
    pub fn assign(&mut self, id: PeerId, address: IpAddr) -> Option<AssignResult> {
        let peer = find_mut(&mut self.peers, id)?;
        if !is_claimable(address) || self.guard.is_taken(address) {
            return Some(AssignResult::Taken);
        }
        if !self.leases.allow(address, &peer.identity) {
            return Some(AssignResult::NotLeased);
        }
        Some(peer.claims.assign(address, id, &mut self.registry))
    }

    /// As [`Forwarder::assign`], for an address that the router itself has chosen: that is as good as a lease, unless it is
    /// leased to others.
    pub fn lease(&mut self, id: PeerId, address: IpAddr) -> Option<AssignResult> {
        let peer = find_mut(&mut self.peers, id)?;
        if self.leases.cover(address) && !self.leases.allow(address, &peer.identity) {
            return Some(AssignResult::NotLeased);
        }
        let assignment = peer.claims.assign(address, id, &mut self.registry);
        if assignment == AssignResult::Granted {
            self.shares.take(peer.account_for(address, &self.leases), address);
        }
        Some(assignment)
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
    pub fn accepts_datagrams_of(&self, source: IpAddr) -> bool {
        self.gateway_sources.is_empty() || self.gateway_sources.covering(source).next().is_some()
    }

    /// Whether datagrams of a peer with this address may go to gateways.
    pub fn may_send_to_gateways(&self, source: IpAddr) -> bool {
        self.guard.gateways().may_send(source)
    }

    /// Whether what comes from an address comes from the host itself, see [`Guard::is_local`].
    pub fn is_local(&self, source: IpAddr) -> bool {
        self.guard.is_local(source)
    }

    /// Whether an address is held by a peer, or may be held by one of a router of the instance: who comes from it may be
    /// a peer.
    pub fn may_be_peers(&self, address: IpAddr) -> bool {
        self.holder(address).is_some() || self.guard.is_vassals(address)
    }

    /// Whether the operator has said where datagrams of other routers come from.
    pub fn names_gateway_sources(&self) -> bool {
        !self.gateway_sources.is_empty()
    }

    /// The first address that a peer holds: that of IPv4, if it has one.
    pub fn address(&self, id: PeerId) -> Option<IpAddr> {
        self.addresses(id).next()
    }

    /// All addresses that a peer holds, that of IPv4 first.
    pub fn addresses(&self, id: PeerId) -> impl Iterator<Item = IpAddr> {
        self.peer(id).into_iter().flat_map(|peer| peer.claims.held())
    }

    /// Whether a peer may choose no address by itself.
    pub fn is_bound(&self, id: PeerId) -> bool {
        self.peer(id).is_some_and(|peer| peer.claims.is_bound())
    }

    /// Whether a peer may have an address that another one still holds.
    pub fn is_waiting(&self, id: PeerId) -> bool {
        self.peer(id).is_some_and(|peer| peer.claims.is_waiting())
    }

    /// Whether an address is a peer's already, or is to be as soon as its holder is gone.
    pub(super) fn is_reserved_for(&self, id: PeerId, address: IpAddr) -> bool {
        self.peer(id).is_some_and(|peer| peer.claims.has(address))
    }

    /// Who holds an address.
    pub fn holder(&self, address: IpAddr) -> Option<PeerId> {
        self.registry.holder(address)
    }

    /// Who has sent a packet from this address that came by the TUN device, if that was a peer: the address is the
    /// operator's grant, by a network of the router's or a lease. Any other one that a peer holds may be somebody else's
    /// all the same.
    pub fn sender(&self, source: IpAddr) -> Option<PeerId> {
        let is_granted = self.pool.is_for_peers(source) || self.leases.cover(source);
        self.holder(source).filter(|_| is_granted)
    }

    /// The rules that a peer sent.
    pub fn rules(&self, id: PeerId) -> impl ExactSizeIterator<Item = &PeerRule> + Clone {
        self.peer(id).map_or(&[][..], |peer| &peer.rules).iter().map(|checked| &checked.rule)
    }

    /// Who a peer is, as far as leases ask for it.
    pub fn identity(&self, id: PeerId) -> Option<&Identity> {
        self.peer(id).map(|peer| &peer.identity)
    }

    /// Where a packet from a peer goes. The first one that the firewall lets pass claims its source.
    pub fn outward(&mut self, id: PeerId, packet: &Packet<'_>) -> OutwardVerdict {
        let unclaimed = |to| OutwardVerdict { to, claimed: None, is_first: false };
        let flow = AnyFlow::of(packet);
        match self.firewall_out.first_match(&flow) {
            Some(Action::Deny) => return unclaimed(Outward::Drop(DropReason::Firewall)),
            Some(Action::Reject) => return unclaimed(Outward::Reject(DropReason::Firewall)),
            Some(Action::Allow) | None => {}
        }
        let Some(peer) = find_mut(&mut self.peers, id) else {
            return unclaimed(Outward::Drop(DropReason::NoPeer));
        };
        let src = packet.src();
        let claimant = Claimant { id, identity: &peer.identity, account: peer.account() };
        let grants = ClaimContext { leases: &self.leases, pool: &self.pool, guard: &self.guard, shares: &self.shares };
        let claimed = match peer.claims.check(src, claimant, grants, &mut self.registry) {
            Source::Own => None,
            Source::Claimed => {
                self.shares.take(peer.account_for(src, &self.leases), src);
                Some(src)
            }
            Source::HeldBy(holder) => return unclaimed(Outward::Contested { address: src, holder }),
            Source::Refused(reason) => return unclaimed(Outward::Drop(reason)),
        };
        let is_first = !std::mem::replace(&mut peer.has_sent, true);
        if let Some(reason) = self.guard.refusal(packet, &self.pool) {
            return OutwardVerdict { to: Outward::Drop(reason), claimed, is_first };
        }
        if self.guard.is_strict() && packet.is_error_about_others(|receiver| peer.claims.has(receiver)) {
            return OutwardVerdict { to: Outward::Drop(DropReason::ForeignError), claimed, is_first };
        }
        let to = match peer.verdict(Direction::Out, packet) {
            PeerVerdict::Deny => Outward::Drop(DropReason::PeerRule),
            PeerVerdict::Reject => Outward::Reject(DropReason::PeerRule),
            PeerVerdict::Route(_) | PeerVerdict::RouteRefused if !self.has_gateway => {
                Outward::Drop(DropReason::NoGateway)
            }
            PeerVerdict::RouteRefused => Outward::Drop(DropReason::RouteTarget),
            PeerVerdict::Route(target) => Outward::Gateway(target),
            PeerVerdict::Pass => self.route(&flow, packet),
        };
        OutwardVerdict { to, claimed, is_first }
    }

    /// Which peer gets a packet.
    pub fn inward(&mut self, origin: Origin, packet: &Packet<'_>) -> Inward {
        self.inward_flow(origin, &AnyFlow::of(packet), packet)
    }

    fn inward_flow(&mut self, origin: Origin, flow: &AnyFlow, packet: &Packet<'_>) -> Inward {
        let holder = self.registry.holder(packet.dst());
        match self.firewall_in.first_match(flow) {
            Some(Action::Deny) => return Inward::Drop(DropReason::Firewall, holder),
            Some(Action::Reject) => return Inward::Reject(DropReason::Firewall, holder),
            Some(Action::Allow) | None => {}
        }
        let Some(peer) = holder.and_then(|id| self.peer(id)) else {
            return Inward::Drop(DropReason::NoPeer, None);
        };
        if origin == Origin::Gateway {
            return Inward::Peer(peer.id);
        }
        match peer.verdict(Direction::In, packet) {
            PeerVerdict::Pass => Inward::Peer(peer.id),
            PeerVerdict::Reject => Inward::Reject(DropReason::PeerRule, Some(peer.id)),
            // Rules that would route don't apply here; the packet has arrived already.
            PeerVerdict::Deny | PeerVerdict::Route(_) | PeerVerdict::RouteRefused => {
                Inward::Drop(DropReason::PeerRule, Some(peer.id))
            }
        }
    }

    fn route(&mut self, flow: &AnyFlow, packet: &Packet<'_>) -> Outward {
        match self.routes.first_match(flow) {
            Some(target) if self.has_gateway => Outward::Gateway(target),
            _ if self.switch && self.registry.holder(packet.dst()).is_some() => {
                match self.inward_flow(Origin::Tun, flow, packet) {
                    Inward::Peer(id) => Outward::Peer(id),
                    Inward::Drop(reason, _) => Outward::Drop(reason),
                    Inward::Reject(reason, _) => Outward::Reject(reason),
                }
            }
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

impl PeerPolicy {
    fn account(&self) -> Option<Account> {
        Account::of(self.identity.uid, self.namespace)
    }

    /// For whom an address is counted: for nobody, if it is leased to the peer.
    fn account_for(&self, address: IpAddr, leases: &Grants) -> Option<Account> {
        self.account().filter(|_| leases.is_granted(address, &self.identity) != Some(true))
    }

    /// What the peer's own rules say. If there are some for this direction, and none of them is about IPv6, they deny it:
    /// whoever wrote them knew IPv4 only.
    fn verdict(&self, direction: Direction, packet: &Packet<'_>) -> PeerVerdict {
        let mut knows_version = packet.is_v4();
        let mut has_rules = false;
        for CheckedRule { rule, target_refused } in self.rules.iter().filter(|it| it.rule.direction == direction) {
            has_rules = true;
            if rule.selector.matches(packet) {
                return match rule.action {
                    RuleAction::Allow => PeerVerdict::Pass,
                    RuleAction::Deny => PeerVerdict::Deny,
                    RuleAction::Reject => PeerVerdict::Reject,
                    RuleAction::Route(_) if *target_refused => PeerVerdict::RouteRefused,
                    RuleAction::Route(target) => PeerVerdict::Route(target),
                };
            }
            knows_version |= rule.selector.is_for_v6();
        }
        if has_rules && !knows_version { PeerVerdict::Deny } else { PeerVerdict::Pass }
    }
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
