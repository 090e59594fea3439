//! Configuration requests and claim requests of devices, which come before everything else.

use std::net::IpAddr;

use tuntap_wire::autoconf::{
    ClaimRequest, ClaimedAddress, Configuration, ConfigurationRequest, Family, MIN_MTU_V6, RefusedRequest, Requested,
};
use tuntap_wire::frame::FrameKind;

use super::notice::Notice;
use super::shell::Shell;
use super::{CredentialsCheck, Router};
use crate::policy::assignment::{Applicant, AssignmentError, Candidate};
use crate::policy::drops::DropReason;
use crate::policy::pool::{Key, PoolError};
use crate::policy::registry::PeerId;

/// The maximum number of requests of a connection. A device sends one configuration request and one claim request; the rest
/// leaves room for later versions.
const MAX_REQUESTS: u8 = 8;

impl Router {
    /// Answers a configuration request: chooses addresses for the peer. A repeated request gets the same addresses.
    pub(super) fn answer_request(&mut self, shell: &mut impl Shell, id: PeerId, payload: &[u8]) {
        let Some(request) = ConfigurationRequest::decode(payload).filter(|_| self.may_request(id)) else {
            return self.count_drop(Some(id), DropReason::UnknownFrame);
        };
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return };
        // Only the first name counts, so that no peer can try one name after the other.
        let name = *peer.session.autoconf_name.get_or_insert(request.name);
        let mut answer = Configuration::default();
        let mut unusable = Vec::new();
        for (family, _) in
            [(Family::V4, request.v4), (Family::V6, request.v6)].into_iter().filter(|(_, wanted)| *wanted)
        {
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
                    unusable.push(refused(Requested::Any(family), refusal));
                }
                result => self.add_result(&mut answer, Requested::Any(family), result),
            }
        }
        // If the peer got an address of one family, a family from which nothing could pass is treated like one that the
        // router doesn't have.
        if answer.addresses.is_empty() {
            answer.refused.append(&mut unusable);
        }
        self.note_refused(shell, id, &unusable);
        self.send_configuration(shell, id, answer, Vec::new());
    }

    /// Answers a claim request: gives the peer those of the claimed addresses that it may have.
    pub(super) fn answer_claim(&mut self, shell: &mut impl Shell, id: PeerId, payload: &[u8]) {
        let name = self.forwarder.peers.get(id).and_then(|peer| peer.session.autoconf_name);
        // A device sends a claim request only after a configuration request, by which it knows that this router understands
        // claims.
        let (Some(name), Ok(claim), true) = (name, ClaimRequest::decode(payload), self.may_request(id)) else {
            return self.count_drop(Some(id), DropReason::UnknownFrame);
        };
        let mut answer = Configuration::default();
        let mut elsewhere = Vec::new();
        for claimed in claim.addresses {
            let wish = Requested::Address(claimed.address);
            match self.claim(shell, id, claimed, name) {
                Err(refusal @ AssignmentError::HeldElsewhere(_)) => {
                    self.note_held_elsewhere(shell, id, claimed.address);
                    // A device whose address was chosen needn't wait: a new start gets it another one.
                    elsewhere.push(RefusedRequest { for_good: claimed.assigned, ..refused(wish, refusal) });
                }
                result => self.add_result(&mut answer, wish, result),
            }
        }
        self.send_configuration(shell, id, answer, elsewhere);
    }

    /// Counts a request. Returns true if the peer may still make it.
    fn may_request(&mut self, id: PeerId) -> bool {
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return false };
        peer.session.autoconf_requests = peer.session.autoconf_requests.saturating_add(1);
        peer.session.autoconf_requests <= MAX_REQUESTS
    }

    /// Counts a refusal if it comes from a limit.
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
        self.give(shell, applicant, chosen, true)
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
        self.give(shell, applicant, chosen, claimed.assigned)
    }

    fn applicant(&self, id: PeerId, name: u64) -> Result<Applicant, AssignmentError> {
        let key = self.autoconf_key(id, name).ok_or(AssignmentError::NoPeer)?;
        Ok(Applicant { id, key, is_assigned: self.settings.credentials == CredentialsCheck::Hook })
    }

    /// Returns the key by which a peer's address is found again. It has no user where peers show no credentials: there the
    /// user is the one who connected, which is root when the vassal starts, and another user when it connects again without
    /// its privileges.
    pub(super) fn autoconf_key(&self, id: PeerId, name: u64) -> Option<Key> {
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
        is_chosen_by_router: bool,
    ) -> Result<IpAddr, AssignmentError> {
        if let Some(holder) = chosen.dead_holder {
            self.close_if_dead(shell, holder);
        }
        if self.forwarder.give(applicant.id, chosen.address, applicant.key)? {
            self.complete_claim(shell, applicant.id, chosen.address);
        }
        if let Some(peer) = self.forwarder.peers.get_mut(applicant.id) {
            peer.session.has_chosen_address |= is_chosen_by_router;
        }
        // A peer of the router before this one may ask before it passes its device again. From now on it may choose no address
        // by itself, also if it held this one already.
        self.store(shell, applicant.id);
        Ok(chosen.address)
    }

    /// Puts the result for one wish into the answer. A family that the router doesn't have is left out.
    fn add_result(&mut self, answer: &mut Configuration, wish: Requested, result: Result<IpAddr, AssignmentError>) {
        match result {
            Ok(address) => answer.addresses.push(self.forwarder.pool().with_prefix(address)),
            Err(AssignmentError::Pool(PoolError::NoNetwork(_))) => {}
            Err(refusal) => {
                self.count_refusal(refusal);
                answer.refused.push(refused(wish, refusal));
            }
        }
    }

    /// Sends an answer. `elsewhere` are refusals that the log has, because peers of other routers hold the addresses.
    fn send_configuration(
        &mut self,
        shell: &mut impl Shell,
        id: PeerId,
        mut answer: Configuration,
        elsewhere: Vec<RefusedRequest>,
    ) {
        self.note_refused(shell, id, &answer.refused);
        answer.refused.extend(elsewhere);
        for family in Family::ALL {
            let held = self.forwarder.address_of(id, family);
            answer.routers.extend(self.forwarder.pool().default_router(family, held));
        }
        answer.mtu = shell.tun_mtu();
        answer.dns.clone_from(&self.settings.dns);
        answer.host_etc.clone_from(&self.settings.host_etc);
        // If the queue is full, the peer hasn't read its earlier answers, and gets none now.
        let _ = self.push_frame(id, FrameKind::Configuration, &answer.encode());
    }

    /// Logs what a peer asked for and doesn't get. [`MAX_REQUESTS`] bounds the number of lines.
    fn note_refused(&mut self, shell: &mut impl Shell, id: PeerId, refused: &[RefusedRequest]) {
        for refused in refused {
            self.note_peer_fault(shell, id, |who| Notice::Refused { who, refused: refused.clone() });
        }
    }
}

fn refused(requested: Requested, refusal: AssignmentError) -> RefusedRequest {
    RefusedRequest { requested, reason: refusal.to_string(), for_good: refusal.is_for_good() }
}
