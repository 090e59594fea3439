//! Addresses that peers get without sending a packet: those that the router chooses for them, and those that they claim by
//! a claim request.

use std::net::IpAddr;

use thiserror::Error;

use super::claims::AssignResult;
use super::forward::Forwarder;
use super::grant::Identity;
use super::pool::{Key, Pool, PoolError};
use super::registry::PeerId;
use crate::elsewhere::Told;
use tuntap_wire::autoconf::{ClaimedAddress, Family};

/// Why a peer doesn't get an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AssignmentError {
    /// No address is left, or the router has no network of that family.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// Another peer holds it.
    #[error("another peer holds it")]
    Held,
    /// A peer of another router holds it, on another host.
    #[error("a vassal of another host holds it (router {})", .0.holding.router)]
    HeldElsewhere(Told),
    /// It is granted to others, or to nobody where grants are needed.
    #[error("it is not leased to this peer (tuntap-router-lease)")]
    NotGranted,
    /// It is the router's own.
    #[error("it is the router's own")]
    Own,
    /// Peers may not choose it, because it is outside of the router's networks, the host's own, or a gateway's.
    #[error(
        "it is no address for vassals of this router: in none of its networks, or the host's own, or a gateway's (tuntap-router-claims, tuntap-router-lease)"
    )]
    NotClaimable,
    /// The peer's user holds as many addresses as one user may hold.
    #[error("this user holds as many addresses as one may (tuntap-router-max-addresses-per-uid)")]
    Share,
    /// A credentials hook has chosen another address for the peer.
    #[error("this peer's address is the one that its credentials stand for (tuntap-use-credentials)")]
    Assigned,
    /// The firewall drops all packets from it.
    #[error("the router lets nothing pass from it (tuntap-router-firewall-out)")]
    Firewall,
    /// The MTU of the router's device is too small for IPv6.
    #[error("the router's device takes no packets of 1280 bytes, as IPv6 needs them")]
    Narrow,
    /// The peer has another IPv4 address, or as many IPv6 addresses as it may have.
    #[error("this peer has another address, or as many as it may")]
    TooMany,
    /// The peer is closed.
    #[error("it is gone")]
    NoPeer,
}

impl AssignmentError {
    /// Returns true if the error depends only on the router's options, so that it stays until these change. Other errors
    /// may end when another peer leaves.
    pub const fn is_for_good(&self) -> bool {
        match self {
            Self::NotGranted | Self::Own | Self::NotClaimable | Self::Assigned | Self::Firewall => true,
            Self::Pool(_)
            | Self::Held
            | Self::HeldElsewhere(_)
            | Self::Narrow
            | Self::Share
            | Self::TooMany
            | Self::NoPeer => false,
        }
    }
}

/// A peer that wants an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applicant {
    /// The peer.
    pub id: PeerId,
    /// The key that identifies the device. It stays the same when the device connects again.
    pub key: Key,
    /// True if a credentials hook chooses the peer's address. Then it gets only other addresses that are granted to it.
    pub is_assigned: bool,
}

/// An address that a peer may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The address.
    pub address: IpAddr,
    /// The present holder, if its connection has ended. It has to be closed first.
    pub dead_holder: Option<PeerId>,
}

impl Forwarder {
    /// Returns the router's networks.
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Returns the address of a family that a peer holds; of several IPv6 addresses, the first one.
    pub fn address_of(&self, id: PeerId, family: Family) -> Option<IpAddr> {
        self.addresses(id).find(|address| Family::of(*address) == family)
    }

    /// Chooses an address for a peer that holds none of this family. `is_dead` returns true if a holder's connection has
    /// ended.
    pub fn choose(
        &self,
        applicant: Applicant,
        family: Family,
        is_dead: impl Fn(PeerId) -> bool,
    ) -> Result<Candidate, AssignmentError> {
        let identity = self.identity(applicant.id).ok_or(AssignmentError::NoPeer)?;
        let (mut refusal, mut is_any_usable) = (None, false);
        let found =
            self.pool.choose(applicant.key, family, identity, &self.policy.grants, |address, is_own_earlier| {
                if let Some(reason) = self.unusable(applicant, address, identity) {
                    // A used-up share is more useful to report than a refusal of one address.
                    if refusal.is_none() || reason == AssignmentError::Share {
                        refusal = Some(reason);
                    }
                    return false;
                }
                is_any_usable = true;
                self.elsewhere.holder(address).is_none()
                    && self.holder(address).is_none_or(|holder| is_own_earlier && is_dead(holder))
            });
        match (found, refusal) {
            (Ok(address), _) => Ok(Candidate { address, dead_holder: self.holder(address) }),
            // If an address that others hold would be usable, the network is full. Otherwise the refusal is reported.
            (Err(PoolError::Full(_)), Some(refusal)) if !is_any_usable || refusal == AssignmentError::Share => {
                Err(refusal)
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    /// Checks that a peer may have an address that it claims by a claim request. It gets an address that its packets could
    /// claim, or that the router has chosen for it before and could still choose.
    pub fn consider(
        &self,
        applicant: Applicant,
        claimed: ClaimedAddress,
        is_dead: impl Fn(PeerId) -> bool,
    ) -> Result<Candidate, AssignmentError> {
        let ClaimedAddress { address, assigned } = claimed;
        let id = applicant.id;
        let identity = self.identity(id).ok_or(AssignmentError::NoPeer)?;
        if self.pool.is_own(address) {
            return Err(AssignmentError::Own);
        }
        let may_be_given = assigned && self.pool.may_give(address, identity, &self.policy.grants);
        if !may_be_given && !self.policy.grants.allow(address, identity) {
            return Err(AssignmentError::NotGranted);
        }
        if let Some(refusal) = self.unusable(applicant, address, identity) {
            return Err(refusal);
        }
        // An address that the peer already holds or waits for was chosen by the router or a credentials hook.
        let may_claim = || {
            self.is_reserved_for(id, address)
                || self.guard.may_claim(address, identity, &self.policy.grants, &self.pool)
        };
        if !may_be_given && !may_claim() {
            return Err(AssignmentError::NotClaimable);
        }
        let holder = self.holder(address);
        match (holder.filter(|holder| *holder != id), self.elsewhere.holder(address)) {
            (Some(holder), _) if !is_dead(holder) => Err(AssignmentError::Held),
            // An older claim elsewhere changes nothing about one that stands here.
            (_, Some(told)) if holder != Some(id) => Err(AssignmentError::HeldElsewhere(told)),
            (dead_holder, _) => Ok(Candidate { address, dead_holder }),
        }
    }

    /// Returns why a peer couldn't use an address, whoever holds it.
    fn unusable(&self, applicant: Applicant, address: IpAddr, identity: &Identity) -> Option<AssignmentError> {
        let is_another = applicant.is_assigned
            && !self.is_reserved_for(applicant.id, address)
            && self.policy.grants.is_granted(address, identity) != Some(true);
        if is_another {
            return Some(AssignmentError::Assigned);
        }
        let is_granted = self.policy.grants.is_granted(address, identity) == Some(true);
        let is_out_of_reach = self.guard.is_taken(address) || self.guard.is_gateway(address) && !is_granted;
        if is_out_of_reach && !self.is_reserved_for(applicant.id, address) {
            return Some(AssignmentError::NotClaimable);
        }
        if self.policy.firewall_out.pass_nothing_from(address) {
            return Some(AssignmentError::Firewall);
        }
        let account = self.account(applicant.id);
        let has_room =
            is_granted || self.shares.has_room(account, address) || self.shares.is_counted_for(account, address);
        (!has_room).then_some(AssignmentError::Share)
    }

    /// Gives a peer an address that [`Forwarder::choose`] or [`Forwarder::consider`] has returned. Returns true if the peer
    /// didn't hold it before.
    pub fn give(&mut self, id: PeerId, address: IpAddr, key: Key) -> Result<bool, AssignmentError> {
        let is_new = !self.addresses(id).any(|held| held == address);
        match self.assign_chosen(id, address) {
            Some(AssignResult::Granted) => {
                self.remember(id, address, key);
                Ok(is_new)
            }
            Some(AssignResult::HeldBy(_)) => Err(AssignmentError::Held),
            Some(AssignResult::HeldElsewhere(told)) => Err(AssignmentError::HeldElsewhere(told)),
            Some(AssignResult::NotGranted) => Err(AssignmentError::NotGranted),
            Some(AssignResult::Taken) => Err(AssignmentError::NotClaimable),
            Some(AssignResult::TooMany) => Err(AssignmentError::TooMany),
            None => Err(AssignmentError::NoPeer),
        }
    }

    /// Stores the key under which a peer holds an address of the router's networks.
    pub fn remember(&mut self, id: PeerId, address: IpAddr, key: Key) {
        if let Some(identity) = self.identity(id)
            && self.pool.may_give(address, identity, &self.policy.grants)
        {
            self.pool.give(address, key);
        }
    }
}

#[cfg(test)]
#[path = "assignment_tests.rs"]
mod tests;
