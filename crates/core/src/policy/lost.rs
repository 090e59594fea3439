//! Claims of peers of other routers, and what they mean for the peers of this one.

use std::net::IpAddr;

use tuntap_wire::holding::{Holding, RouterId};

use super::claims::ClaimContext;
use super::forward::Forwarder;
use super::registry::{Changes, PeerId, Registry};
use crate::elsewhere::{Elsewhere, Source, Told};
use crate::trunk::TrunkId;

/// What has become of the claims of a router's peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimChanges {
    /// Each address whose claim has changed, with what it is now; `None` if no peer holds it any more.
    Of(Vec<(IpAddr, Option<Holding>)>),
    /// Too many have changed: all claims have to be compared with what others were told.
    Any,
}

impl Forwarder {
    /// Gives the router an id among all that know of each other. No address may be claimed before.
    pub(crate) fn set_own(&mut self, own: RouterId) {
        self.elsewhere = Elsewhere::new(Some(own));
        self.registry = Registry::new(true);
    }

    /// Returns what is known of the holdings of other routers' peers.
    pub const fn elsewhere(&self) -> &Elsewhere {
        &self.elsewhere
    }

    /// Returns the trunk by which an address is reached that a peer of another router holds. The host's own addresses are here,
    /// whatever others tell.
    pub(super) fn trunk_to(&self, address: IpAddr) -> Option<TrunkId> {
        match self.elsewhere.holder(address)?.source {
            Source::Trunk(number) => Some(TrunkId(number.into())).filter(|_| !self.guard.is_here(address)),
            Source::Routes => None,
        }
    }

    /// Returns true if an address is one of this host, or a peer of this router holds it.
    pub(crate) fn is_held_here(&self, address: IpAddr) -> bool {
        self.registry.holder(address).is_some() || self.guard.is_here(address)
    }

    pub(super) fn claim_context(&self) -> ClaimContext<'_> {
        ClaimContext {
            grants: &self.policy.grants,
            pool: &self.pool,
            guard: &self.guard,
            shares: &self.shares,
            elsewhere: &self.elsewhere,
        }
    }

    /// An address has no holder here any more.
    pub(super) fn free(&mut self, id: PeerId, address: IpAddr) {
        if let Some(since) = self.registry.release(address, id) {
            self.elsewhere.note_release(address, since);
        }
        self.shares.give_back(address);
        self.pool.take_back(address);
    }

    /// Takes an address from its holder if a newer claim elsewhere has it. Returns the holder, and what it has lost against. Its
    /// flows are decided anew, so that none of them goes on.
    pub(crate) fn yield_address(&mut self, address: IpAddr) -> Option<(PeerId, Told)> {
        let claim = self.registry.claim_of(address)?;
        let winner = self.elsewhere.winner(address, claim.since)?;
        self.free(claim.peer, address);
        if let Some(peer) = self.peers.get_mut(claim.peer) {
            peer.claims.lose(address);
            peer.session.forget_limits();
        }
        self.changes.note_claim(claim.peer, address);
        self.decide_anew();
        Some((claim.peer, winner))
    }

    /// Returns the claim to an address, as other routers are told of it.
    pub fn holding(&self, address: IpAddr) -> Option<Holding> {
        let since = self.registry.claim_of(address)?.since;
        self.elsewhere.own().map(|router| Holding { router, since })
    }

    /// Returns all claims of the router's peers, as other routers are told of them.
    pub fn holdings(&self) -> impl Iterator<Item = (IpAddr, Holding)> {
        let own = self.elsewhere.own();
        self.registry
            .claims()
            .filter_map(move |(address, claim)| own.map(|router| (address, Holding { router, since: claim.since })))
    }

    /// Returns the claims that have changed since this was called before.
    pub(crate) fn take_claim_changes(&mut self) -> ClaimChanges {
        match self.registry.take_changes() {
            Changes::Of(addresses) => {
                ClaimChanges::Of(addresses.into_iter().map(|address| (address, self.holding(address))).collect())
            }
            Changes::Any => ClaimChanges::Any,
        }
    }
}
