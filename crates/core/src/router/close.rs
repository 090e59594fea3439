//! The end of a peer's connection.

use std::time::Instant;

use super::Router;
use super::notice::Notice;
use super::session::CloseReason;
use super::shell::{Fault, Shell};
use crate::policy::registry::PeerId;

impl Router {
    /// Handles the end of a peer's connection. `fault` says why reading it failed; `None` means that the peer has closed
    /// it.
    pub fn connection_ended(&mut self, shell: &mut impl Shell, id: PeerId, fault: Option<Fault>, now: Instant) {
        self.advance(now);
        self.close(shell, id, fault.map_or(CloseReason::Closed, CloseReason::Socket));
    }

    /// Closes a peer's connection if the peer has closed its end. Returns true if it has.
    pub(super) fn close_if_dead(&mut self, shell: &mut impl Shell, id: PeerId) -> bool {
        let dead = shell.is_hung_up(id);
        if dead {
            self.close(shell, id, CloseReason::Closed);
        }
        dead
    }

    /// Closes a peer's connection and frees the peer's addresses.
    pub(super) fn close(&mut self, shell: &mut impl Shell, id: PeerId, reason: CloseReason) {
        self.leave_kernel_path(shell, id);
        let Some(peer) = self.forwarder.remove_peer(id) else { return };
        let (address, account, credentials) = (peer.address(), peer.account(), peer.session.credentials);
        let now = self.nanos();
        self.held.forget(&peer.session.queues, peer.claims.held(), now);
        self.admission.leave(id, account);
        self.drop_backlog(id);
        if let Some(serial) = peer.session.serial {
            shell.unstore(serial);
        }
        // A stored peer's connection has a copy in the store, which has to be closed, too.
        shell.close(id, peer.session.serial.is_some());
        if reason.is_fault() {
            self.counters.totals.faults += 1;
        }
        let peers = &self.forwarder.peers;
        let present = || peers.iter().map(|peer| peer.session.credentials.uid).collect();
        self.counters.departed.add(credentials.uid, &peer.session.traffic, present);
        match (address, reason) {
            (Some(address), reason) => {
                self.note_peer(shell, account, &Notice::Left { address, credentials, reason });
            }
            // The log has said what it has lost.
            (None, CloseReason::Closed | CloseReason::LostAddress) => {}
            (None, reason) => self.note_fault(shell, account, &Notice::Ended { credentials, reason }),
        }
    }
}
