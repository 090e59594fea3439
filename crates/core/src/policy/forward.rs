//! The policy together with the state of the peers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::Policy;
use super::account::Account;
use super::changes::Changes;
use super::claims::AssignResult;
use super::counters::{RuleCounters, SharedMemory};
use super::flows::{FlowTable, Owner};
use super::grant::{Grant, Grants, Identity};
use super::guard::Guard;
use super::limits::Limits;
use super::pool::Pool;
use super::rates::Rates;
use super::registry::{PeerId, Registry};
use super::shares::Shares;
use super::verdict::{RestoredPeer, RulesVerdict};
use super::walk::ToLog;
use crate::elsewhere::Elsewhere;
use crate::nanos::nanos;
use crate::peers::{CheckedRule, Peer, PeerTable};
use crate::router::session::Session;
use tuntap_wire::autoconf::is_claimable;
use tuntap_wire::rule::{Direction, PeerRule, PeerSelector, RuleAction};

/// The part of the router that decides about packets: the policy, the flows, and the state of the peers.
#[derive(Debug)]
pub struct Forwarder {
    pub(crate) policy: Arc<Policy>,
    pub(crate) flows: FlowTable,
    pub(super) rates: Rates,
    pub(super) counters: RuleCounters,
    /// What verdicts depend on, besides claims: another number means that they have to be decided anew. Never 0.
    pub(super) epoch: u32,
    /// The number of addresses that were claimed, modulo 2³².
    pub(super) claims: u32,
    /// Rules that want the latest verdict to be logged.
    pub(super) to_log: ToLog,
    /// The time since the start, in nanoseconds.
    pub(super) elapsed: u64,
    start: u32,
    /// What nobody outside can guess.
    pub(crate) seed: u64,
    pub(crate) registry: Registry,
    pub(super) pool: Pool,
    pub(super) guard: Guard,
    pub(super) shares: Shares,
    pub(crate) peers: PeerTable,
    /// What peers of other routers hold.
    pub(crate) elsewhere: Elsewhere,
    /// What the kernel has to be told.
    pub(crate) changes: Changes,
}

impl Forwarder {
    /// Makes a forwarder without peers, of which nothing outlives it. `seed` should be hard to guess: it keeps peers from aiming
    /// at the places of each other's flows.
    pub fn new(policy: impl Into<Arc<Policy>>, seed: u64) -> Self {
        Self::with_memory(policy, seed, &Limits::default(), SharedMemory::default())
    }

    /// Makes a forwarder without peers, which knows the flows and the counts that its predecessor has left in the memory.
    pub fn with_memory(policy: impl Into<Arc<Policy>>, seed: u64, limits: &Limits, memory: SharedMemory) -> Self {
        let policy = policy.into();
        Self {
            flows: FlowTable::new(limits, memory.flows, seed, memory.start),
            rates: Rates::new(seed),
            counters: RuleCounters::new(memory.counters),
            epoch: 1,
            claims: 0,
            to_log: ToLog::default(),
            elapsed: 0,
            start: memory.start,
            seed,
            registry: Registry::default(),
            pool: Pool::new(policy.networks.clone(), &policy.grants, policy.port_targets.iter().copied())
                .with_slices(&policy.slices, &policy.grants),
            guard: Guard::new(policy.guard.clone()),
            shares: Shares::new(policy.max_addresses, &policy.networks),
            peers: PeerTable::default(),
            elsewhere: Elsewhere::new(None),
            changes: Changes::default(),
            policy,
        }
    }

    /// Sets the time since the start. An earlier time than the present one is ignored.
    #[inline]
    pub fn advance(&mut self, elapsed: Duration) {
        /// Longest time. A second more, and seconds would have no room in 32 bits.
        const MOST: Duration = Duration::from_secs(1 << 31);
        let elapsed = elapsed.min(MOST);
        self.elapsed = self.elapsed.max(nanos(elapsed));
        self.flows.advance(self.start.saturating_add(u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX)));
    }

    /// Returns the counters of the rules.
    pub const fn counters(&self) -> RuleCounters {
        self.counters
    }

    /// Returns the number of the present policy.
    pub fn generation(&self) -> u64 {
        self.policy.generation
    }

    /// Replaces the policy. Peers keep the addresses that they hold. The router's networks, the guard and the shares stay
    /// those of the first policy. Known flows are decided anew with their next packets.
    pub fn set_policy(&mut self, policy: impl Into<Arc<Policy>>) {
        let before = std::mem::replace(&mut self.policy, policy.into());
        self.decide_anew();
        let (old, new) = (&before, &self.policy);
        if (&old.device_routes, old.has_gateway) == (&new.device_routes, new.has_gateway) {
            return;
        }
        for peer in self.peers.iter_mut() {
            for checked in &mut peer.rules {
                checked.target_refused = refused_target(&self.policy, &checked.rule).is_some();
            }
        }
    }

    /// Returns the policy in use.
    pub const fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// All verdicts on known flows have to be decided anew.
    pub(super) fn decide_anew(&mut self) {
        self.epoch = self.epoch.wrapping_add(1).max(1);
        self.changes.note_all();
    }

    /// A peer has claimed an address: packets to it may go another way now.
    pub(super) fn note_claim(&mut self, peer: PeerId, address: IpAddr) {
        self.claims = self.claims.wrapping_add(1);
        self.changes.note_claim(peer, address);
    }

    /// Who holds an address elsewhere may have changed: packets to it may go another way now. `None` if several may have.
    pub(crate) fn note_news_elsewhere(&mut self, address: Option<IpAddr>) {
        self.claims = self.claims.wrapping_add(1);
        self.changes.note_elsewhere(address);
    }

    /// Returns true if the supplementary groups of peers are needed, to check the grants or to find the limits.
    pub fn wants_groups(&self) -> bool {
        self.policy.names_groups()
    }

    /// Adds grants, for addresses that were granted to nobody until now.
    pub fn grant(&mut self, grants: impl IntoIterator<Item = Grant>) {
        self.set_policy(self.policy.with_grants(grants));
    }

    /// Returns the id for the next peer; `None` if there is no room for another one.
    pub fn vacant(&self) -> Option<PeerId> {
        self.peers.vacant()
    }

    /// Adds a peer, which may claim any address that is granted to it.
    pub fn add_peer(&mut self, id: PeerId, identity: Identity) {
        self.add_session(id, identity, Session::default());
    }

    /// Adds a peer with the state of its connection.
    pub(crate) fn add_session(&mut self, id: PeerId, mut identity: Identity, session: Session) {
        self.policy.forget_other_groups(&mut identity);
        self.peers.put(Peer::new(id, identity, session));
    }

    /// Sets the network namespace from which a peer has connected, if it isn't the router's own. The peer must not hold an
    /// address yet.
    pub fn set_namespace(&mut self, id: PeerId, namespace: Option<u64>) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.namespace = namespace;
        }
    }

    /// Returns the account that a peer is counted for.
    pub fn account(&self, id: PeerId) -> Option<Account> {
        self.peers.get(id)?.account()
    }

    /// Sets the present addresses of the host's interfaces, with their prefix lengths. Peers keep the addresses that they
    /// hold.
    pub fn set_host_addresses(&mut self, addresses: impl IntoIterator<Item = IpNet>) {
        self.guard.set_host_addresses(addresses);
        self.decide_anew();
    }

    /// Adds a peer of an earlier router, with its rules, and with those of its addresses that are free and that it may
    /// still hold.
    pub fn restore(&mut self, id: PeerId, restored: RestoredPeer<'_>) {
        self.restore_session(id, restored, Session::default());
    }

    /// Restores a peer with the state of its connection.
    pub(crate) fn restore_session(&mut self, id: PeerId, restored: RestoredPeer<'_>, session: Session) {
        let RestoredPeer { identity, namespace, rules, addresses, since, lost, is_bound } = restored;
        self.add_session(id, identity, session);
        self.set_namespace(id, namespace);
        self.set_rules(id, rules);
        let Some(peer) = self.peers.get_mut(id) else { return };
        let (grants, pool, guard) = (&self.policy.grants, &self.pool, &self.guard);
        let may_have = |address| {
            // An address that the router or a credentials hook has chosen needs no grant.
            if is_bound && !grants.cover(address) {
                is_claimable(address) && !guard.is_taken(address)
            } else {
                grants.allow(address, &peer.identity) && guard.may_claim(address, &peer.identity, grants, pool)
            }
        };
        let times = since.iter().copied().map(Some).chain(std::iter::repeat(None));
        for (&address, since) in addresses.iter().zip(times).filter(|(address, _)| may_have(**address)) {
            let since = since.unwrap_or_else(|| self.elsewhere.time_of_claim(address));
            // Its claim stands. One elsewhere that is newer takes it as any other one, once all are there.
            if peer.claims.assign(address, (id, since), None, &mut self.registry) == AssignResult::Granted {
                self.shares.take(peer.account_for(address, grants), address);
                self.changes.note_claim(id, address);
            }
        }
        peer.claims.set_bound(is_bound);
        lost.iter().filter(|address| is_bound && may_have(**address)).for_each(|it| peer.claims.await_again(*it));
        peer.has_sent = true;
        self.claims = self.claims.wrapping_add(1);
    }

    /// Sets the identity of a peer that has no address yet, but has shown its credentials.
    pub fn identify(&mut self, id: PeerId, mut identity: Identity) {
        self.policy.forget_other_groups(&mut identity);
        if let Some(peer) = self.peers.get_mut(id) {
            debug_assert!(peer.claims.held().next().is_none(), "what was granted to somebody else would stay");
            peer.identity = identity;
        }
    }

    /// Sets the supplementary groups of a peer. Returns false if it had the same ones, as far as they matter.
    pub(crate) fn set_groups(&mut self, id: PeerId, groups: Vec<u32>) -> bool {
        let Some(peer) = self.peers.get_mut(id) else { return false };
        let before = std::mem::replace(&mut peer.identity.groups, groups);
        self.policy.forget_other_groups(&mut peer.identity);
        let has_changed = before != peer.identity.groups;
        if has_changed {
            self.changes.note_limits(id);
        }
        has_changed
    }

    /// Removes a peer and frees its addresses.
    pub fn remove_peer(&mut self, id: PeerId) -> Option<Peer> {
        let peer = self.peers.remove(id)?;
        peer.claims.held().for_each(|address| self.free(id, address));
        self.flows.leave(id);
        Some(peer)
    }

    /// Gives a peer the address that a credentials hook has chosen, if the grants allow it. From then on the peer may
    /// choose no address by itself. If another peer holds an IPv4 address, each packet of this peer tries to claim it
    /// again. Returns `None` if the peer is unknown.
    pub fn assign(&mut self, id: PeerId, address: IpAddr) -> Option<AssignResult> {
        let peer = self.peers.get_mut(id)?;
        if !is_claimable(address) || self.guard.is_taken(address) {
            return Some(AssignResult::Taken);
        }
        if !self.policy.grants.allow(address, &peer.identity) {
            return Some(AssignResult::NotGranted);
        }
        let (elsewhere, since) = (self.elsewhere.holder(address), self.elsewhere.time_of_claim(address));
        let assignment = peer.claims.assign(address, (id, since), elsewhere, &mut self.registry);
        self.note_claim(id, address);
        Some(assignment)
    }

    /// Gives a peer an address that the router itself has chosen. Unlike [`Forwarder::assign`], this needs no grant, but an
    /// address that is granted to others is refused.
    pub fn assign_chosen(&mut self, id: PeerId, address: IpAddr) -> Option<AssignResult> {
        let peer = self.peers.get_mut(id)?;
        if self.policy.grants.cover(address) && !self.policy.grants.allow(address, &peer.identity) {
            return Some(AssignResult::NotGranted);
        }
        let (elsewhere, since) = (self.elsewhere.holder(address), self.elsewhere.time_of_claim(address));
        let assignment = peer.claims.assign(address, (id, since), elsewhere, &mut self.registry);
        if assignment == AssignResult::Granted {
            self.shares.take(peer.account_for(address, &self.policy.grants), address);
            self.note_claim(id, address);
        }
        Some(assignment)
    }

    /// Replaces a peer's own rules, unless a packet of the peer was accepted before. Returns `None` if the peer is unknown.
    pub fn set_rules(&mut self, id: PeerId, rules: Vec<PeerRule>) -> Option<RulesVerdict> {
        let peer = self.peers.get_mut(id)?;
        if peer.has_sent {
            let same = peer.rules.iter().map(|checked| checked.rule).eq(rules);
            return Some(if same { RulesVerdict::Unchanged } else { RulesVerdict::Frozen });
        }
        let looks_at_state =
            |rule: &PeerRule| matches!(rule.selector, PeerSelector::Full(selector) if selector.state().is_some());
        peer.looks_at_state = rules.iter().any(looks_at_state);
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

    /// Returns true if datagrams from this address are accepted as those of another router.
    pub fn accepts_datagrams_of(&self, source: IpAddr) -> bool {
        self.policy.gateway_sources.is_empty() || self.policy.gateway_sources.covering(source).next().is_some()
    }

    /// Returns true if a peer with this address may send datagrams to gateways.
    pub fn may_send_to_gateways(&self, source: IpAddr) -> bool {
        self.guard.gateways().may_send(source)
    }

    /// Returns true if an address is the host's own, see [`Guard::is_local`].
    pub fn is_local(&self, source: IpAddr) -> bool {
        self.guard.is_local(source)
    }

    /// Returns true if the sender from an address may be a peer: a peer of this router holds the address, or a peer of a
    /// router of the instance may hold it.
    pub fn may_be_peers(&self, address: IpAddr) -> bool {
        self.holder(address).is_some() || self.guard.is_vassals(address)
    }

    /// Returns true if the operator has named the networks from which datagrams of other routers may come.
    pub fn names_gateway_sources(&self) -> bool {
        !self.policy.gateway_sources.is_empty()
    }

    /// Returns the first address that a peer holds: its IPv4 address, if it has one.
    pub fn address(&self, id: PeerId) -> Option<IpAddr> {
        self.addresses(id).next()
    }

    /// Returns all addresses that a peer holds, the IPv4 address first.
    pub fn addresses(&self, id: PeerId) -> impl Iterator<Item = IpAddr> {
        self.peers.get(id).into_iter().flat_map(|peer| peer.claims.held())
    }

    /// Returns true if a peer may choose no address by itself.
    pub fn is_bound(&self, id: PeerId) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.claims.is_bound())
    }

    /// Returns true if a peer waits for an address that another peer still holds.
    pub fn is_waiting(&self, id: PeerId) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.claims.is_waiting())
    }

    /// Returns true if a peer holds an address, or waits for it.
    pub(super) fn is_reserved_for(&self, id: PeerId, address: IpAddr) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.claims.has(address))
    }

    /// Returns the holder of an address.
    pub fn holder(&self, address: IpAddr) -> Option<PeerId> {
        self.registry.holder(address)
    }

    /// Returns the peer that has sent a packet from this address, which came by the TUN device. The address must be in one
    /// of the router's networks or covered by a grant: outside of these, another host may use an address that a peer has
    /// claimed.
    pub fn sender(&self, source: IpAddr) -> Option<PeerId> {
        let is_granted = self.pool.is_for_peers(source) || self.policy.grants.cover(source);
        self.holder(source).filter(|_| is_granted)
    }

    /// Returns the rules that a peer sent.
    pub fn rules(&self, id: PeerId) -> impl ExactSizeIterator<Item = &PeerRule> + Clone {
        self.peers.get(id).map_or(&[][..], |peer| &peer.rules).iter().map(|checked| &checked.rule)
    }

    /// Returns the rules that want the latest verdict to be logged, once.
    #[inline]
    pub fn take_to_log(&mut self) -> ToLog {
        std::mem::take(&mut self.to_log)
    }

    /// Returns who a peer is, for its flows.
    pub(super) fn owner(&self, id: PeerId) -> Option<Owner> {
        let peer = self.peers.get(id)?;
        Some(Owner::of(peer.account(), peer.identity.uid, peer.identity.gid))
    }

    /// Returns the identity by which a peer's grants are checked.
    pub fn identity(&self, id: PeerId) -> Option<&Identity> {
        self.peers.get(id).map(|peer| &peer.identity)
    }
}

/// Returns the gateway that a peer's rule names without permission. Rules for packets towards the peer, and all such rules
/// of a router without a gateway, are not reported: they drop packets in any case.
fn refused_target(policy: &Policy, rule: &PeerRule) -> Option<SocketAddr> {
    match (rule.direction, rule.action) {
        (Direction::Out, RuleAction::Route(target)) if policy.has_gateway => {
            Some(target).filter(|target| !policy.device_routes.allow(*target))
        }
        _ => None,
    }
}

impl Peer {
    /// Returns the account that the peer is counted for.
    pub(crate) fn account(&self) -> Option<Account> {
        Account::of(self.identity.uid, self.namespace)
    }

    /// Returns the account that an address of the peer is counted for; `None` if the address is granted to the peer.
    pub(super) fn account_for(&self, address: IpAddr, grants: &Grants) -> Option<Account> {
        self.account().filter(|_| grants.is_granted(address, &self.identity) != Some(true))
    }
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
