//! Devices that ask for their network's configuration, or claim their addresses by name, before anything else.

use std::net::IpAddr;

use tuntap_wire::autoconf::{
    ClaimRequest, ClaimedAddress, Configuration, ConfigurationRequest, Family, MIN_MTU_V6, RefusedWish, Wish,
};
use tuntap_wire::frame::FrameKind;

use super::notice::Notice;
use super::shell::Shell;
use super::{CredentialsCheck, Router};
use crate::policy::assignment::{Applicant, AssignmentError, Candidate};
use crate::policy::drops::DropReason;
use crate::policy::pool::{Key, PoolError};
use crate::policy::registry::PeerId;

/// Most requests and claims of a connection. A device has one of each; the rest is for what may be added to them.
const MAX_REQUESTS: u8 = 8;

impl Router {
    /// Chooses the addresses that a peer asks for, and tells it. Who asks again gets the same ones.
    pub(super) fn answer_request(&mut self, shell: &mut impl Shell, id: PeerId, payload: &[u8]) {
        let Some(ask) = ConfigurationRequest::decode(payload).filter(|_| self.may_request(id)) else {
            return self.count_drop(Some(id), DropReason::UnknownFrame);
        };
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return };
        // The first one counts, so that nobody can try one name after the other.
        let name = *peer.session.autoconf_name.get_or_insert(ask.name);
        let mut told = Configuration::default();
        let mut shut_out = Vec::new();
        for (family, _) in [(Family::V4, ask.v4), (Family::V6, ask.v6)].into_iter().filter(|(_, wanted)| *wanted) {
            let result = match self.forwarder.address_of(id, family) {
                Some(held) => Ok(held),
                None if family == Family::V6 && shell.tun_mtu().is_some_and(|mtu| mtu < MIN_MTU_V6) => {
                    Err(AssignmentError::Narrow)
                }
                None => self.choose(shell, id, family, name),
            };
            match result {
                Err(
                    refusal @ (AssignmentError::NotClaimable
                    | AssignmentError::Firewall
                    | AssignmentError::Assigned
                    | AssignmentError::Narrow),
                ) => {
                    shut_out.push(refused(Wish::Any(family), refusal));
                }
                result => self.tell(&mut told, Wish::Any(family), result),
            }
        }
        // A family of which nothing could pass is as good as one that the router doesn't have, beside one that passes.
        if told.addresses.is_empty() {
            told.refused.append(&mut shut_out);
        }
        self.note_refused(shell, id, &shut_out);
        self.send_configuration(shell, id, told);
    }

    /// Gives a peer the addresses that it claims, as far as it may have them, and tells it.
    pub(super) fn answer_claim(&mut self, shell: &mut impl Shell, id: PeerId, payload: &[u8]) {
        let name = self.forwarder.peers.get(id).and_then(|peer| peer.session.autoconf_name);
        // Whoever claims has asked before, and knows that this router understands it.
        let (Some(name), Ok(claim), true) = (name, ClaimRequest::decode(payload), self.may_request(id)) else {
            return self.count_drop(Some(id), DropReason::UnknownFrame);
        };
        let mut told = Configuration::default();
        for claimed in claim.addresses {
            let result = self.claim(shell, id, claimed, name);
            self.tell(&mut told, Wish::Address(claimed.address), result);
        }
        self.send_configuration(shell, id, told);
    }

    /// Counts a question or a claim. Returns whether it is one too many.
    fn may_request(&mut self, id: PeerId) -> bool {
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return false };
        peer.session.autoconf_requests = peer.session.autoconf_requests.saturating_add(1);
        peer.session.autoconf_requests <= MAX_REQUESTS
    }

    /// Counts what a limit has refused.
    fn count_refusal(&mut self, refusal: AssignmentError) {
        if refusal == AssignmentError::Share {
            self.counters.limits_reached.max_addresses_per_uid += 1;
        }
    }

    fn choose(
        &mut self,
        shell: &mut impl Shell,
        id: PeerId,
        family: Family,
        name: u64,
    ) -> Result<IpAddr, AssignmentError> {
        let applicant = self.applicant(id, name)?;
        let chosen = self.forwarder.choose(applicant, family, |holder| shell.is_hung_up(holder))?;
        self.give(shell, applicant, chosen)
    }

    fn claim(
        &mut self,
        shell: &mut impl Shell,
        id: PeerId,
        claimed: ClaimedAddress,
        name: u64,
    ) -> Result<IpAddr, AssignmentError> {
        let applicant = self.applicant(id, name)?;
        let chosen = self.forwarder.consider(applicant, claimed, |holder| shell.is_hung_up(holder))?;
        self.give(shell, applicant, chosen)
    }

    fn applicant(&self, id: PeerId, name: u64) -> Result<Applicant, AssignmentError> {
        let key = self.lease_key(id, name).ok_or(AssignmentError::NoPeer)?;
        Ok(Applicant { id, key, is_assigned: self.settings.credentials == CredentialsCheck::Hook })
    }

    /// What tells a peer from others. Where nobody shows credentials the user is whoever has connected: root when the vassal
    /// starts, and somebody else when it comes back without its privileges.
    pub(super) fn lease_key(&self, id: PeerId, name: u64) -> Option<Key> {
        let uid = match self.settings.credentials {
            CredentialsCheck::Off => 0,
            CredentialsCheck::Shown | CredentialsCheck::Hook => self.forwarder.identity(id)?.uid,
        };
        Some(Key { uid, name })
    }

    fn give(
        &mut self,
        shell: &mut impl Shell,
        applicant: Applicant,
        chosen: Candidate,
    ) -> Result<IpAddr, AssignmentError> {
        if let Some(holder) = chosen.dead_holder {
            self.close_if_dead(shell, holder);
        }
        if self.forwarder.give(applicant.id, chosen.address, applicant.key)? {
            self.note_claim(shell, applicant.id, chosen.address);
        }
        // A peer of the router before this one may ask before it passes its device again. From now on it may choose no address
        // by itself, also if it held this one already.
        self.store(shell, applicant.id);
        Ok(chosen.address)
    }

    /// Puts the end of a wish into an answer. A family that the router doesn't have is left out: nothing is missing then.
    fn tell(&mut self, told: &mut Configuration, wish: Wish, result: Result<IpAddr, AssignmentError>) {
        match result {
            Ok(address) => told.addresses.push(self.forwarder.pool().with_prefix(address)),
            Err(AssignmentError::Pool(PoolError::NoNetwork(_))) => {}
            Err(refusal) => {
                self.count_refusal(refusal);
                told.refused.push(refused(wish, refusal));
            }
        }
    }

    fn send_configuration(&mut self, shell: &mut impl Shell, id: PeerId, mut told: Configuration) {
        self.note_refused(shell, id, &told.refused);
        for family in Family::ALL {
            let held = self.forwarder.address_of(id, family);
            told.gateways.extend(self.forwarder.pool().gateway(family, held));
        }
        told.mtu = shell.tun_mtu();
        told.dns.clone_from(&self.settings.dns);
        told.host_etc.clone_from(&self.settings.host_etc);
        // Who has not read so much asks in vain.
        let _ = self.push_frame(id, FrameKind::Configuration, &told.encode());
    }

    /// Writes what a peer asked for and doesn't get. It asks some times at most.
    fn note_refused(&mut self, shell: &mut impl Shell, id: PeerId, refused: &[RefusedWish]) {
        for refused in refused {
            self.note_peer_fault(shell, id, |who| Notice::Refused { who, refused: refused.clone() });
        }
    }
}

fn refused(wish: Wish, refusal: AssignmentError) -> RefusedWish {
    RefusedWish { wish, reason: refusal.to_string(), for_good: refusal.is_for_good() }
}
