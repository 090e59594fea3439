//! New connections.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::CredentialsCheck;
use super::event_loop::EventLoop;
use super::peer::{Departure, Peer, Stage, identity};
use super::stats::count_refusal;
use super::token::Token;
use tuntap_core::policy::account::Account;
use tuntap_core::policy::admission::AdmissionError;
use tuntap_core::policy::registry::PeerId;
use tuntap_sys::net::{NamespaceCookie, namespace_of};
use tuntap_sys::socket::{self, PeerCredentials};

/// Connections taken in one wake-up.
const ACCEPT_BUDGET: usize = 64;

/// How long nothing is accepted after the kernel had no descriptor or memory left. The listeners stay readable, and
/// watching them would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

impl EventLoop<'_> {
    /// Takes new peers.
    pub(super) fn accept_peers(&mut self, now: Instant) {
        for _ in 0..ACCEPT_BUDGET {
            match socket::accept(self.setup.listener.as_fd()) {
                Ok(fd) => self.add_peer(fd, now),
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(errno) => return self.pause_accepting(now, errno),
            }
        }
    }

    /// Stops watching the listeners for a while.
    pub(super) fn pause_accepting(&mut self, now: Instant, errno: Errno) {
        self.totals.accept_failures += 1;
        let name = self.name();
        self.fault_log.line(
            now,
            None,
            format_args!(
                "[tuntap-router] {name}: can't accept: {errno} ({} peers); trying again in {} s",
                self.peers.len(),
                ACCEPT_PAUSE.as_secs()
            ),
        );
        self.watch_listeners(EpollFlags::empty());
        self.accept_again_at = Some(now + ACCEPT_PAUSE);
    }

    /// Watches the listeners again once their pause is over.
    pub(super) fn resume_accepting(&mut self, now: Instant) {
        if self.accept_again_at.is_some_and(|time| time <= now) {
            self.accept_again_at = None;
            self.watch_listeners(EpollFlags::EPOLLIN);
        }
    }

    fn watch_listeners(&self, flags: EpollFlags) {
        let stats = self.setup.stats.as_ref().map(|stats| (&stats.listener, Token::StatsListener));
        for (listener, token) in [(&self.setup.listener, Token::Listener)].into_iter().chain(stats) {
            // Both are registered, so that nothing but a lack of memory can make this fail; the next pause retries.
            let _ = self.epoll.modify(listener, &mut EpollEvent::new(flags, token.encode()));
        }
    }

    fn add_peer(&mut self, fd: OwnedFd, now: Instant) {
        let Ok(credentials) = socket::peer_credentials(fd.as_fd()) else { return };
        // All that the host's own root connects is nobody's share.
        let namespace = self.namespace_of(fd.as_fd());
        let account = Account::of(credentials.uid, namespace);
        match self.admission.admit(account, now) {
            Ok(None) => {}
            Ok(Some(oldest)) => {
                self.limits_reached.unclaimed_timeout += 1;
                self.disconnect(oldest, Departure::MadeRoom);
            }
            Err(refusal) => return self.turn_away(credentials, account, refusal, now),
        }
        let stage = match self.setup.credentials {
            CredentialsCheck::Off => Stage::Start,
            CredentialsCheck::Shown | CredentialsCheck::Hook(_) => Stage::Credentials,
        };
        if stage == Stage::Credentials && socket::receive_credentials(fd.as_fd()).is_err() {
            return;
        }
        let mut identity = identity(credentials);
        // Those of somebody else, if the peer is going to show credentials.
        if stage == Stage::Start && self.forwarder.wants_groups() {
            // A kernel that doesn't tell: fewer leases fit.
            identity.groups = socket::peer_groups(fd.as_fd()).unwrap_or_default();
        }
        let Some(id) = self.peers.insert(Peer::new(fd, credentials, stage)) else { return };
        self.forwarder.add_peer(id, identity);
        self.forwarder.set_namespace(id, namespace);
        self.admission.enter(id, account, now);
        self.totals.accepted += 1;
        self.watch_peer(id);
    }

    /// The network namespace that a connection was made in, if it isn't the router's.
    pub(super) fn namespace_of(&self, connection: BorrowedFd<'_>) -> Option<u64> {
        let own = namespace_of(self.setup.listener.as_fd());
        namespace_of(connection).filter(|theirs| Some(*theirs) != own).map(NamespaceCookie::number)
    }

    /// Watches a new peer's connection. Without memory for that it is the peer's end.
    pub(super) fn watch_peer(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get(id)
            && let Err(errno) = self.epoll.add(peer, EpollEvent::new(EpollFlags::EPOLLIN, Token::Peer(id).encode()))
        {
            self.disconnect(id, Departure::Socket(errno));
        }
    }

    /// Takes note of a connection that is closed at once.
    fn turn_away(
        &mut self,
        credentials: PeerCredentials,
        account: Option<Account>,
        refusal: AdmissionError,
        now: Instant,
    ) {
        self.totals.turned_away += 1;
        count_refusal(&mut self.limits_reached, refusal);
        let (name, pid, uid) = (self.name(), credentials.pid, credentials.uid);
        self.fault_log.line(
            now,
            account,
            format_args!("[tuntap-router] {name}: a connection was turned away (pid {pid}, uid {uid}): {refusal}"),
        );
    }
}
