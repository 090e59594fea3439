//! The policy, together with what has to be remembered of the peers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::Policy;
use super::account::Account;
use super::cache::RuleCache;
use super::claims::AssignResult;
use super::grant::{Grant, Grants, Identity};
use super::guard::Guard;
use super::pattern::Action;
use super::pool::Pool;
use super::registry::{PeerId, Registry};
use super::shares::Shares;
use super::verdict::{RestoredPeer, RulesVerdict};
use crate::peers::{CheckedRule, Peer, PeerTable};
use crate::router::session::Session;
use tuntap_wire::autoconf::is_claimable;
use tuntap_wire::rule::{Direction, PeerRule, RuleAction};

/// What decides about packets: the policy, what it said about recent flows, and the state of the peers.
#[derive(Debug)]
pub struct Forwarder {
    pub(crate) policy: Arc<Policy>,
    pub(super) cache: VerdictCache,
    pub(super) registry: Registry,
    pub(super) pool: Pool,
    pub(super) guard: Guard,
    pub(super) shares: Shares,
    pub(crate) peers: PeerTable,
    seed: u64,
}

/// What the lists of one policy said about recent flows.
#[derive(Debug)]
pub(super) struct VerdictCache {
    pub(super) firewall_in: RuleCache<Action>,
    pub(super) firewall_out: RuleCache<Action>,
    pub(super) routes: RuleCache<SocketAddr>,
}

impl VerdictCache {
    fn new(policy: &Policy, seed: u64) -> Self {
        Self {
            firewall_in: RuleCache::new(&policy.firewall_in, seed),
            firewall_out: RuleCache::new(&policy.firewall_out, seed),
            routes: RuleCache::new(&policy.routes, seed),
        }
    }
}

impl Forwarder {
    /// A forwarder without peers. `seed` should be hard to guess: it keeps peers from disturbing each other's cached
    /// verdicts.
    pub fn new(policy: impl Into<Arc<Policy>>, seed: u64) -> Self {
        let policy = policy.into();
        Self {
            cache: VerdictCache::new(&policy, seed),
            registry: Registry::default(),
            pool: Pool::new(policy.networks.clone(), &policy.leases, policy.port_targets.iter().copied()),
            guard: Guard::new(policy.guard.clone()),
            shares: Shares::new(policy.max_addresses, &policy.networks),
            peers: PeerTable::default(),
            policy,
            seed,
        }
    }

    /// The number of the policy by which packets are decided now.
    pub fn generation(&self) -> u64 {
        self.policy.generation
    }

    /// Decides by another policy from the next packet on. Peers keep the addresses that they hold; the router's networks, and
    /// what nobody may have, stay those of the first policy.
    pub fn set_policy(&mut self, policy: impl Into<Arc<Policy>>) {
        self.policy = policy.into();
        self.cache = VerdictCache::new(&self.policy, self.seed);
        for peer in self.peers.iter_mut() {
            for checked in &mut peer.rules {
                checked.target_refused = refused_target(&self.policy, &checked.rule).is_some();
            }
        }
    }

    /// Whether the supplementary groups of a peer matter.
    pub fn wants_groups(&self) -> bool {
        self.policy.leases.name_groups()
    }

    /// Takes further grants, of what was granted to nobody until now.
    pub fn grant(&mut self, grants: impl IntoIterator<Item = Grant>) {
        self.set_policy(self.policy.with_grants(grants));
    }

    /// The id that the next peer gets; `None` if there are as many as there can be.
    pub fn vacant(&self) -> Option<PeerId> {
        self.peers.vacant()
    }

    /// Adds a peer, which may claim any address that is granted to it.
    pub fn add_peer(&mut self, id: PeerId, identity: Identity) {
        self.add_session(id, identity, Session::default());
    }

    /// As [`Self::add_peer`], for a peer with this connection.
    pub(crate) fn add_session(&mut self, id: PeerId, mut identity: Identity, session: Session) {
        self.policy.leases.forget_other_groups(&mut identity);
        self.peers.put(Peer::new(id, identity, session));
    }

    /// Says which network namespace a peer that holds nothing yet has connected from, if it isn't the router's.
    pub fn set_namespace(&mut self, id: PeerId, namespace: Option<u64>) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.namespace = namespace;
        }
    }

    /// For whom a peer's part of what all share is counted.
    pub fn account(&self, id: PeerId) -> Option<Account> {
        self.peers.get(id)?.account()
    }

    /// What the host's interfaces have right now, with the lengths of their networks' prefixes. Peers keep what they hold.
    pub fn set_host_addresses(&mut self, addresses: impl IntoIterator<Item = IpNet>) {
        self.guard.set_host_addresses(addresses);
    }

    /// A peer that an earlier router had, from this namespace. Its rules stay what they were; its addresses, too, as far as
    /// they are free and it may have them.
    pub fn restore(&mut self, id: PeerId, restored: RestoredPeer<'_>) {
        self.restore_session(id, restored, Session::default());
    }

    /// As [`Self::restore`], for a peer with this connection.
    pub(crate) fn restore_session(&mut self, id: PeerId, restored: RestoredPeer<'_>, session: Session) {
        let RestoredPeer { identity, namespace, rules, addresses, is_bound } = restored;
        self.add_session(id, identity, session);
        self.set_namespace(id, namespace);
        self.set_rules(id, rules);
        let Some(peer) = self.peers.get_mut(id) else { return };
        let (leases, pool, guard) = (&self.policy.leases, &self.pool, &self.guard);
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
        self.policy.leases.forget_other_groups(&mut identity);
        if let Some(peer) = self.peers.get_mut(id) {
            debug_assert!(peer.claims.held().next().is_none(), "what was granted to somebody else would stay");
            peer.identity = identity;
        }
    }

    /// Removes a peer and frees its addresses.
    pub fn remove_peer(&mut self, id: PeerId) -> Option<Peer> {
        let peer = self.peers.remove(id)?;
        for address in peer.claims.held() {
            self.registry.release(address, id);
            self.shares.give_back(address);
            self.pool.take_back(address);
        }
        Some(peer)
    }

    /// Gives a peer an address that it asks for, or that its credentials stand for, if it is leased to it. From then on the
    /// peer may choose none by itself. If another peer holds an IPv4 address, packets of this one try again. `None` if the
    /// peer is unknown.
    pub fn assign(&mut self, id: PeerId, address: IpAddr) -> Option<AssignResult> {
        let peer = self.peers.get_mut(id)?;
        if !is_claimable(address) || self.guard.is_taken(address) {
            return Some(AssignResult::Taken);
        }
        if !self.policy.leases.allow(address, &peer.identity) {
            return Some(AssignResult::NotLeased);
        }
        Some(peer.claims.assign(address, id, &mut self.registry))
    }

    /// As [`Forwarder::assign`], for an address that the router itself has chosen: that is as good as a lease, unless it is
    /// leased to others.
    pub fn lease(&mut self, id: PeerId, address: IpAddr) -> Option<AssignResult> {
        let peer = self.peers.get_mut(id)?;
        if self.policy.leases.cover(address) && !self.policy.leases.allow(address, &peer.identity) {
            return Some(AssignResult::NotLeased);
        }
        let assignment = peer.claims.assign(address, id, &mut self.registry);
        if assignment == AssignResult::Granted {
            self.shares.take(peer.account_for(address, &self.policy.leases), address);
        }
        Some(assignment)
    }

    /// Replaces a peer's own rules, unless a packet of it has been accepted already. `None` if the peer is unknown.
    pub fn set_rules(&mut self, id: PeerId, rules: Vec<PeerRule>) -> Option<RulesVerdict> {
        let peer = self.peers.get_mut(id)?;
        if peer.has_sent {
            let same = peer.rules.iter().map(|checked| checked.rule).eq(rules);
            return Some(if same { RulesVerdict::Unchanged } else { RulesVerdict::Frozen });
        }
        let mut first_refused = None;
        peer.rules = rules
            .into_iter()
            .map(|rule| {
                let refused = refused_target(&self.policy, &rule);
                first_refused = first_refused.or(refused);
                CheckedRule { rule, target_refused: refused.is_some() }
            })
            .collect();
        Some(RulesVerdict::Applied { refused_target: first_refused })
    }

    /// Whether datagrams from this address are those of another router.
    pub fn accepts_datagrams_of(&self, source: IpAddr) -> bool {
        self.policy.gateway_sources.is_empty() || self.policy.gateway_sources.covering(source).next().is_some()
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
        !self.policy.gateway_sources.is_empty()
    }

    /// The first address that a peer holds: that of IPv4, if it has one.
    pub fn address(&self, id: PeerId) -> Option<IpAddr> {
        self.addresses(id).next()
    }

    /// All addresses that a peer holds, that of IPv4 first.
    pub fn addresses(&self, id: PeerId) -> impl Iterator<Item = IpAddr> {
        self.peers.get(id).into_iter().flat_map(|peer| peer.claims.held())
    }

    /// Whether a peer may choose no address by itself.
    pub fn is_bound(&self, id: PeerId) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.claims.is_bound())
    }

    /// Whether a peer may have an address that another one still holds.
    pub fn is_waiting(&self, id: PeerId) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.claims.is_waiting())
    }

    /// Whether an address is a peer's already, or is to be as soon as its holder is gone.
    pub(super) fn is_reserved_for(&self, id: PeerId, address: IpAddr) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.claims.has(address))
    }

    /// Who holds an address.
    pub fn holder(&self, address: IpAddr) -> Option<PeerId> {
        self.registry.holder(address)
    }

    /// Who has sent a packet from this address that came by the TUN device, if that was a peer: the address is the
    /// operator's grant, by a network of the router's or a lease. Any other one that a peer holds may be somebody else's
    /// all the same.
    pub fn sender(&self, source: IpAddr) -> Option<PeerId> {
        let is_granted = self.pool.is_for_peers(source) || self.policy.leases.cover(source);
        self.holder(source).filter(|_| is_granted)
    }

    /// The rules that a peer sent.
    pub fn rules(&self, id: PeerId) -> impl ExactSizeIterator<Item = &PeerRule> + Clone {
        self.peers.get(id).map_or(&[][..], |peer| &peer.rules).iter().map(|checked| &checked.rule)
    }

    /// Who a peer is, as far as leases ask for it.
    pub fn identity(&self, id: PeerId) -> Option<&Identity> {
        self.peers.get(id).map(|peer| &peer.identity)
    }
}

/// The gateway that a peer's rule names and must not. Where nothing can be sent to a gateway, and towards the peer, such
/// rules drop packets anyway.
fn refused_target(policy: &Policy, rule: &PeerRule) -> Option<SocketAddr> {
    match (rule.direction, rule.action) {
        (Direction::Out, RuleAction::Route(target)) if policy.has_gateway => {
            Some(target).filter(|target| !policy.device_routes.allow(*target))
        }
        _ => None,
    }
}

impl Peer {
    /// For whom the peer's part of what all share is counted.
    pub(crate) fn account(&self) -> Option<Account> {
        Account::of(self.identity.uid, self.namespace)
    }

    /// For whom an address is counted: for nobody, if it is leased to the peer.
    pub(super) fn account_for(&self, address: IpAddr, leases: &Grants) -> Option<Account> {
        self.account().filter(|_| leases.is_granted(address, &self.identity) != Some(true))
    }
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
