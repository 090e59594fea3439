//! Credentials that peers show before their first frame.

use std::net::IpAddr;
use std::time::Instant;

use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::greeting::CREDENTIALS_MAGIC;

use super::notice::Notice;
use super::session::{CloseReason, Stage, identity};
use super::shell::Shell;
use super::{CredentialsCheck, Router};
use crate::policy::claims::AssignResult;
use crate::policy::registry::PeerId;

impl Router {
    /// Handles the first message of a peer that has to show credentials. `magic` has the bytes of the message, which are
    /// read up to the length of [`CREDENTIALS_MAGIC`].
    pub fn received_credentials(
        &mut self,
        shell: &mut impl Shell,
        id: PeerId,
        magic: &[u8],
        credentials: Option<PeerCredentials>,
        now: Instant,
    ) {
        self.advance(now);
        if let Err(reason) = self.take_credentials(shell, id, magic, credentials) {
            self.close(shell, id, reason);
        }
        self.follow_changes(shell);
    }

    fn take_credentials(
        &mut self,
        shell: &mut impl Shell,
        id: PeerId,
        magic: &[u8],
        credentials: Option<PeerCredentials>,
    ) -> Result<(), CloseReason> {
        // With SO_PASSCRED the kernel attaches credentials to every message, so only the magic shows that the peer meant to
        // send them.
        let (true, Some(credentials)) = (magic == &CREDENTIALS_MAGIC[..], credentials) else {
            return Err(CloseReason::NoCredentials);
        };
        let Some(peer) = self.forwarder.peers.get(id) else { return Ok(()) };
        let (as_connected, before) = (peer.session.credentials, peer.account());
        self.forwarder.identify(id, identity(credentials));
        let after = self.forwarder.account(id);
        if let Err(error) = self.admission.change_account(id, before, after) {
            // The peer is counted under its first account, so that it has to be removed from that one.
            self.forwarder.identify(id, identity(as_connected));
            self.counters.count_refused(error);
            return Err(CloseReason::TurnedAway { uid: credentials.uid, error });
        }
        if let Some(peer) = self.forwarder.peers.get_mut(id) {
            peer.session.credentials = credentials;
            peer.session.stage = Stage::FirstFrame;
        }
        if self.settings.credentials != CredentialsCheck::Hook {
            return Ok(());
        }
        let address = shell.address_for(credentials).map(IpAddr::V4).ok_or(CloseReason::Refused(credentials))?;
        self.assign_by_hook(shell, id, address, credentials)
    }

    fn assign_by_hook(
        &mut self,
        shell: &mut impl Shell,
        id: PeerId,
        address: IpAddr,
        credentials: PeerCredentials,
    ) -> Result<(), CloseReason> {
        let mut result = self.forwarder.assign(id, address);
        if let Some(AssignResult::HeldBy(holder)) = result
            && self.close_if_dead(shell, holder)
        {
            result = self.forwarder.assign(id, address);
        }
        match result {
            Some(AssignResult::Granted) => self.complete_claim(shell, id, address),
            Some(AssignResult::HeldBy(_)) => {
                let notice = Notice::AddressHeld { address, credentials };
                self.note_refused_claim(shell, id, address, &notice);
            }
            Some(AssignResult::HeldElsewhere(_)) => self.note_held_elsewhere(shell, id, address),
            Some(AssignResult::Taken) => return Err(CloseReason::Taken(address)),
            Some(AssignResult::NotGranted) => return Err(CloseReason::NotGranted(address)),
            // Can't happen: the peer has just connected, and holds no address.
            Some(AssignResult::TooMany) | None => {}
        }
        Ok(())
    }
}
