//! Addresses that peers get without a packet: those that a router chooses for them, and those that they claim by name.

use std::net::IpAddr;

use thiserror::Error;

use super::claims::Assignment;
use super::forward::Forwarder;
use super::pool::{Key, Pool, PoolRefusal};
use super::registry::PeerId;
use crate::wire::lease::{ClaimedAddress, Family};

/// Why a peer doesn't get an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LeaseRefusal {
    /// There is none left, or none of that family.
    #[error(transparent)]
    Pool(#[from] PoolRefusal),
    /// Another peer holds it.
    #[error("another peer holds it")]
    Held,
    /// It is leased to others, or to nobody where leases are needed.
    #[error("it is not leased to this peer (tuntap-router-lease)")]
    NotLeased,
    /// It is the router's.
    #[error("it is the router's own")]
    Own,
    /// Nothing that comes from it would pass.
    #[error("the router lets nothing pass from it (tuntap-router-firewall-out)")]
    Firewall,
    /// The peer has another one, or as many as it may have.
    #[error("this peer has another address, or as many as it may")]
    TooMany,
    /// The peer is gone.
    #[error("it is gone")]
    NoPeer,
}

/// An address for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// The address.
    pub address: IpAddr,
    /// Who holds it although its connection has ended: has to go first.
    pub dead_holder: Option<PeerId>,
}

impl Forwarder {
    /// The router's networks.
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The address of a family that a peer holds; the first one of IPv6.
    pub fn address_of(&self, id: PeerId, family: Family) -> Option<IpAddr> {
        self.addresses(id).find(|address| Family::of(*address) == family)
    }

    /// Chooses an address for a peer that holds none of this family. `name` tells it from its user's other peers; `is_dead`
    /// tells whether a holder's connection has ended.
    pub fn choose(
        &self,
        id: PeerId,
        family: Family,
        name: u64,
        is_dead: impl Fn(PeerId) -> bool,
    ) -> Result<Chosen, LeaseRefusal> {
        let identity = self.identity(id).ok_or(LeaseRefusal::NoPeer)?;
        let key = Key { uid: identity.uid, name };
        let address = self.pool.choose(key, family, identity, &self.leases, |address, is_own_earlier| {
            self.holder(address).is_none_or(|holder| is_own_earlier && is_dead(holder))
        })?;
        if self.firewall_out.pass_nothing_from(address) {
            return Err(LeaseRefusal::Firewall);
        }
        Ok(Chosen { address, dead_holder: self.holder(address) })
    }

    /// Looks whether a peer may have an address that it claims by name. What its packets could not claim it doesn't get;
    /// what a router has chosen for it before, and still could choose, it does.
    pub fn consider(
        &self,
        id: PeerId,
        claimed: ClaimedAddress,
        is_dead: impl Fn(PeerId) -> bool,
    ) -> Result<Chosen, LeaseRefusal> {
        let ClaimedAddress { address, leased } = claimed;
        let identity = self.identity(id).ok_or(LeaseRefusal::NoPeer)?;
        if self.pool.is_own(address) {
            return Err(LeaseRefusal::Own);
        }
        let may_be_given = leased && self.pool.may_give(address, identity, &self.leases);
        if !may_be_given && !self.leases.allow(address, identity) {
            return Err(LeaseRefusal::NotLeased);
        }
        if self.firewall_out.pass_nothing_from(address) {
            return Err(LeaseRefusal::Firewall);
        }
        let holder = self.holder(address).filter(|holder| *holder != id);
        match holder {
            Some(holder) if !is_dead(holder) => Err(LeaseRefusal::Held),
            dead_holder => Ok(Chosen { address, dead_holder }),
        }
    }

    /// Gives a peer an address that [`Forwarder::choose`] or [`Forwarder::consider`] has named. Returns whether it is a new one for the peer.
    pub fn give(&mut self, id: PeerId, address: IpAddr, name: u64) -> Result<bool, LeaseRefusal> {
        let is_new = !self.addresses(id).any(|held| held == address);
        match self.lease(id, address) {
            Some(Assignment::Granted) => {
                self.remember(id, address, name);
                Ok(is_new)
            }
            Some(Assignment::HeldBy(_)) => Err(LeaseRefusal::Held),
            Some(Assignment::NotLeased) => Err(LeaseRefusal::NotLeased),
            Some(Assignment::TooMany) => Err(LeaseRefusal::TooMany),
            None => Err(LeaseRefusal::NoPeer),
        }
    }

    /// Notes under which name a peer holds an address of the router's networks.
    pub fn remember(&mut self, id: PeerId, address: IpAddr, name: u64) {
        if let Some(identity) = self.identity(id)
            && self.pool.may_give(address, identity, &self.leases)
        {
            let key = Key { uid: identity.uid, name };
            self.pool.give(address, key);
        }
    }
}

#[cfg(test)]
#[path = "leasing_tests.rs"]
mod tests;
