//! What comes before a peer's first frame.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;

use super::CredentialsCheck;
use super::event_loop::EventLoop;
use super::peer::{Departure, Stage, identity};
use super::stats::count_refusal;
use tuntap_core::policy::claims::AssignResult;
use tuntap_core::policy::registry::PeerId;
use tuntap_sys::socket;
use tuntap_wire::greeting::CREDENTIALS_MAGIC;

impl EventLoop<'_> {
    /// Reads a peer's credentials. They come in one message, and nothing of what follows is read with them.
    pub(super) fn read_credentials(&mut self, id: PeerId) -> Result<(), Departure> {
        let Some(peer) = self.peers.get_mut(id) else { return Ok(()) };
        let mut magic = [0; CREDENTIALS_MAGIC.len()];
        let (count, credentials) = match socket::recv_with_credentials(peer.as_fd(), &mut magic) {
            Ok((0, _)) => return Err(Departure::Closed),
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(Departure::Socket(errno)),
        };
        // With SO_PASSCRED the kernel attaches credentials to whatever arrives, so the magic is what tells.
        let (true, Some(credentials)) = (magic[..count] == CREDENTIALS_MAGIC[..], credentials) else {
            return Err(Departure::NoCredentials);
        };
        let before = self.forwarder.account(id);
        self.forwarder.identify(id, identity(credentials));
        let after = self.forwarder.account(id);
        if let Err(refusal) = self.admission.change_account(id, before, after) {
            // It leaves as who it came.
            self.forwarder.identify(id, identity(peer.credentials));
            count_refusal(&mut self.limits_reached, refusal);
            return Err(Departure::TurnedAway { uid: credentials.uid, refusal });
        }
        peer.credentials = credentials;
        peer.stage = Stage::FirstFrame;
        let CredentialsCheck::Hook(hook) = &self.setup.credentials else { return Ok(()) };
        let Some(address) = hook(credentials).map(IpAddr::V4) else { return Err(Departure::Refused(credentials)) };
        let mut assignment = self.forwarder.assign(id, address);
        if let Some(AssignResult::HeldBy(holder)) = assignment
            && self.remove_if_dead(holder)
        {
            assignment = self.forwarder.assign(id, address);
        }
        match assignment {
            Some(AssignResult::Granted) => self.log_claim(id, address),
            Some(AssignResult::HeldBy(_)) => self.log_refused_claim(id, address, Instant::now()),
            Some(AssignResult::Taken) => return Err(Departure::Taken(address)),
            Some(AssignResult::NotLeased) => return Err(Departure::NotLeased(address)),
            // It has just connected, and holds none.
            Some(AssignResult::TooMany) | None => {}
        }
        Ok(())
    }
}
