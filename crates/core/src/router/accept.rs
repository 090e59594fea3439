//! New connections.

use std::time::Duration;

use tuntap_wire::credentials::PeerCredentials;

use super::notice::Notice;
use super::session::{CloseReason, Session, Stage, identity};
use super::shell::{Fault, Shell};
use super::{CredentialsCheck, Router};
use crate::policy::account::Account;
use crate::policy::admission::AdmissionError;
use crate::policy::registry::PeerId;
use std::time::Instant;

/// Connections that are accepted in one turn.
pub const ACCEPT_BUDGET: usize = 64;

/// How long no connection is accepted after the kernel had no descriptor or memory left. The listeners stay readable
/// meanwhile, so that watching them would only waste processor time.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// A new connection, as the kernel describes it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The credentials of the process that called connect(2) (SO_PEERCRED).
    pub credentials: PeerCredentials,
    /// The network namespace in which the connection was made (SO_NETNS_COOKIE).
    pub namespace: Option<u64>,
    /// Supplementary groups of that process (SO_PEERGROUPS), if [`Router::wants_groups`] returns true.
    pub groups: Vec<u32>,
}

impl Router {
    /// Returns true if the shell should read the supplementary groups of a new connection.
    pub fn wants_groups(&self) -> bool {
        // Where peers show credentials, the process that connected may be another one than the peer.
        self.settings.credentials == CredentialsCheck::Off && self.forwarder.wants_groups()
    }

    /// Returns true if peers have to show their credentials (SO_PASSCRED).
    pub fn wants_credentials(&self) -> bool {
        self.settings.credentials != CredentialsCheck::Off
    }

    /// Handles a new connection. Returns the new peer, or `None` if the shell is to close the connection at once.
    pub fn accept(&mut self, shell: &mut impl Shell, connection: Connection, now: Instant) -> Option<PeerId> {
        self.advance(now);
        let Connection { credentials, namespace, groups } = connection;
        // Connections of root in the router's own namespace count for no account.
        let account = Account::of(credentials.uid, self.foreign(namespace));
        match self.admission.admit(account, self.now) {
            Ok(None) => {}
            Ok(Some(oldest)) => {
                self.counters.limits_reached.unclaimed_timeout += 1;
                self.close(shell, oldest, CloseReason::MadeRoom);
            }
            Err(error) => {
                self.turn_away(shell, credentials, account, error);
                return None;
            }
        }
        let stage = if self.wants_credentials() { Stage::Credentials } else { Stage::Start };
        let mut identity = identity(credentials);
        identity.groups = groups;
        let id = self.forwarder.vacant()?;
        self.forwarder.add_session(id, identity, Session::new(credentials, namespace, stage));
        self.forwarder.set_namespace(id, self.foreign(namespace));
        self.admission.enter(id, account, self.now);
        self.counters.totals.accepted += 1;
        self.open(shell, id);
        self.forwarder.peers.get(id).map(|peer| peer.id)
    }

    /// Handles a failure of accept(2): the kernel has no descriptor or memory left. No connection is accepted for a while.
    pub fn accept_failed(&mut self, shell: &mut impl Shell, fault: Fault, now: Instant) {
        self.advance(now);
        self.counters.totals.accept_failures += 1;
        let notice = Notice::CannotAccept { fault, peers: self.len(), pause: ACCEPT_PAUSE };
        self.note_fault(shell, None, &notice);
        shell.watch_listeners(false);
        self.accept_again_at = Some(self.now + ACCEPT_PAUSE);
    }

    /// Watches the listeners again when the pause is over.
    pub(super) fn resume_accepting(&mut self, shell: &mut impl Shell) {
        if self.accept_again_at.is_some_and(|time| time <= self.now) {
            self.accept_again_at = None;
            shell.watch_listeners(true);
        }
    }

    /// Returns a namespace unless it is the router's own.
    pub(super) fn foreign(&self, namespace: Option<u64>) -> Option<u64> {
        namespace.filter(|theirs| Some(*theirs) != self.settings.namespace)
    }

    /// Makes the shell watch a new peer's connection. If that fails, the peer is closed.
    pub(super) fn open(&mut self, shell: &mut impl Shell, id: PeerId) {
        if let Err(fault) = shell.open(id) {
            self.close(shell, id, CloseReason::Socket(fault));
        }
    }

    /// Counts and logs a connection that is closed at once.
    fn turn_away(
        &mut self,
        shell: &mut impl Shell,
        credentials: PeerCredentials,
        account: Option<Account>,
        error: AdmissionError,
    ) {
        self.counters.totals.turned_away += 1;
        self.counters.count_refused(error);
        self.note_fault(shell, account, &Notice::TurnedAway { credentials, error });
    }
}
