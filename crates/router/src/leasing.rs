//! Devices that ask for their network's configuration, or claim their addresses by name, before anything else.

use std::net::IpAddr;
use std::os::fd::AsFd;

use super::CredentialsCheck;
use super::event_loop::EventLoop;
use tuntap_core::policy::assignment::{Applicant, AssignmentError, Candidate};
use tuntap_core::policy::drops::DropReason;
use tuntap_core::policy::pool::{Key, PoolError};
use tuntap_core::policy::registry::PeerId;
use tuntap_sys::{net, socket};
use tuntap_wire::autoconf::{
    ClaimRequest, ClaimedAddress, Configuration, ConfigurationRequest, Family, MIN_MTU_V6, RefusedRequest, Requested,
};
use tuntap_wire::frame::FrameKind;

/// Most questions and claims of a connection. A device has one of each; the rest is for what may be added to them.
const MAX_REQUESTS: u8 = 8;

impl EventLoop<'_> {
    /// Chooses the addresses that a peer asks for, and tells it. Who asks again gets the same ones.
    pub(super) fn answer_ask(&mut self, id: PeerId, payload: &[u8]) {
        let Some(ask) = ConfigurationRequest::decode(payload).filter(|_| self.may_request(id)) else {
            return self.count_drop(Some(id), DropReason::UnknownFrame);
        };
        let Some(peer) = self.peers.get_mut(id) else { return };
        // The first one counts, so that nobody can try one name after the other.
        let name = *peer.lease_name.get_or_insert(ask.name);
        let mut told = Configuration::default();
        let mut shut_out = Vec::new();
        for (family, _) in [(Family::V4, ask.v4), (Family::V6, ask.v6)].into_iter().filter(|(_, wanted)| *wanted) {
            let result = match self.forwarder.address_of(id, family) {
                Some(held) => Ok(held),
                None if family == Family::V6 && self.mtu().is_some_and(|mtu| mtu < MIN_MTU_V6) => {
                    Err(AssignmentError::Narrow)
                }
                None => self.choose(id, family, name),
            };
            match result {
                Err(
                    refusal @ (AssignmentError::NotClaimable
                    | AssignmentError::Firewall
                    | AssignmentError::Assigned
                    | AssignmentError::Narrow),
                ) => {
                    shut_out.push(refused(Requested::Any(family), refusal));
                }
                result => self.tell(&mut told, Requested::Any(family), result),
            }
        }
        // A family of which nothing could pass is as good as one that the router doesn't have, beside one that passes.
        if told.addresses.is_empty() {
            told.refused.append(&mut shut_out);
        }
        self.log_refusals(id, &shut_out);
        self.send_configuration(id, told);
    }

    /// Gives a peer the addresses that it claims, as far as it may have them, and tells it.
    pub(super) fn answer_claim(&mut self, id: PeerId, payload: &[u8]) {
        let name = self.peers.get(id).and_then(|peer| peer.lease_name);
        // Whoever claims has asked before, and knows that this router understands it.
        let (Some(name), Ok(claim), true) = (name, ClaimRequest::decode(payload), self.may_request(id)) else {
            return self.count_drop(Some(id), DropReason::UnknownFrame);
        };
        let mut told = Configuration::default();
        for claimed in claim.addresses {
            let result = self.claim(id, claimed, name);
            self.tell(&mut told, Requested::Address(claimed.address), result);
        }
        self.send_configuration(id, told);
    }

    /// Counts a question or a claim. Returns whether it is one too many.
    fn may_request(&mut self, id: PeerId) -> bool {
        let Some(peer) = self.peers.get_mut(id) else { return false };
        peer.lease_requests = peer.lease_requests.saturating_add(1);
        peer.lease_requests <= MAX_REQUESTS
    }

    /// Counts what a limit has refused.
    fn count_refusal(&mut self, refusal: AssignmentError) {
        if refusal == AssignmentError::Share {
            self.limits_reached.max_addresses_per_uid += 1;
        }
    }

    fn choose(&mut self, id: PeerId, family: Family, name: u64) -> Result<IpAddr, AssignmentError> {
        let applicant = self.applicant(id, name)?;
        let peers = &self.peers;
        let is_dead = |holder| peers.get(holder).is_none_or(|peer| socket::is_hung_up(peer.as_fd()));
        let chosen = self.forwarder.choose(applicant, family, is_dead)?;
        self.give(applicant, chosen)
    }

    fn claim(&mut self, id: PeerId, claimed: ClaimedAddress, name: u64) -> Result<IpAddr, AssignmentError> {
        let applicant = self.applicant(id, name)?;
        let peers = &self.peers;
        let is_dead = |holder| peers.get(holder).is_none_or(|peer| socket::is_hung_up(peer.as_fd()));
        let chosen = self.forwarder.consider(applicant, claimed, is_dead)?;
        self.give(applicant, chosen)
    }

    fn applicant(&self, id: PeerId, name: u64) -> Result<Applicant, AssignmentError> {
        let key = self.lease_key(id, name).ok_or(AssignmentError::NoPeer)?;
        Ok(Applicant { id, key, is_assigned: matches!(self.setup.credentials, CredentialsCheck::Hook(_)) })
    }

    /// What tells a peer from others. Where nobody shows credentials the user is whoever has connected: root when the vassal
    /// starts, and somebody else when it comes back without its privileges.
    pub(super) fn lease_key(&self, id: PeerId, name: u64) -> Option<Key> {
        let uid = match self.setup.credentials {
            CredentialsCheck::Off => 0,
            CredentialsCheck::Shown | CredentialsCheck::Hook(_) => self.forwarder.identity(id)?.uid,
        };
        Some(Key { uid, name })
    }

    fn give(&mut self, applicant: Applicant, chosen: Candidate) -> Result<IpAddr, AssignmentError> {
        if let Some(holder) = chosen.dead_holder {
            self.remove_if_dead(holder);
        }
        if self.forwarder.give(applicant.id, chosen.address, applicant.key)? {
            self.log_claim(applicant.id, chosen.address);
        }
        Ok(chosen.address)
    }

    /// Puts the result of a request into an answer. A family that the router doesn't have is left out: nothing is missing then.
    fn tell(&mut self, told: &mut Configuration, requested: Requested, result: Result<IpAddr, AssignmentError>) {
        match result {
            Ok(address) => told.addresses.push(self.forwarder.pool().with_prefix(address)),
            Err(AssignmentError::Pool(PoolError::NoNetwork(_))) => {}
            Err(refusal) => {
                self.count_refusal(refusal);
                told.refused.push(refused(requested, refusal));
            }
        }
    }

    /// That of the router's device.
    fn mtu(&self) -> Option<u16> {
        net::interface_mtu(self.setup.listener.as_fd(), self.name()).ok()
    }

    fn send_configuration(&mut self, id: PeerId, mut told: Configuration) {
        self.log_refusals(id, &told.refused);
        for family in Family::ALL {
            let held = self.forwarder.address_of(id, family);
            told.routers.extend(self.forwarder.pool().default_router(family, held));
        }
        told.mtu = self.mtu();
        told.dns.clone_from(&self.setup.network.dns);
        told.host_etc.clone_from(&self.setup.network.host_etc);
        let Some(peer) = self.peers.get_mut(id) else { return };
        let limit = self.setup.limits.queued_bytes;
        // Who has not read so much asks in vain.
        let _ = peer.queue.push(FrameKind::Configuration, &told.encode(), limit, &mut self.spares);
        self.flush_later(id);
    }
}

fn refused(requested: Requested, refusal: AssignmentError) -> RefusedRequest {
    RefusedRequest { requested, reason: refusal.to_string(), for_good: refusal.is_for_good() }
}
