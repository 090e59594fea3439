//! The router's state machine.
//!
//! The shell tells it what has happened ([`Router::accept`], [`Router::received`], [`Router::tun_packet`] and so on), with
//! the time. The router decides, and has the shell act by the methods of [`Shell`]. A packet costs one call in each
//! direction, and no memory.

mod accept;
mod attach;
mod autoconf;
mod close;
mod counters;
mod credentials;
mod debt;
mod deliver;
pub mod frames;
mod gateway;
mod interfaces;
mod inward;
mod log;
pub mod meter;
pub mod notice;
mod outward;
mod probation;
pub mod quarantine;
pub mod queue;
mod reject;
pub mod restore;
pub mod session;
mod shell;
mod view;

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use ipnet::IpNet;
use tuntap_wire::autoconf::DirectoryId;
use tuntap_wire::credentials::PeerCredentials;

use crate::policy::account::Account;
use crate::policy::admission::Admission;
use crate::policy::drops::DropReason;
use crate::policy::forward::Forwarder;
use crate::policy::grant::Grant;
use crate::policy::limits::Limits;
use crate::policy::rate_limit::RateLimit;
use crate::policy::registry::PeerId;
use gateway::PathMtus;
use interfaces::InterfaceCache;
use log::{Line, LogBudget};
use meter::WorkMeter;
use notice::{Notice, Who};
use probation::Probations;
use quarantine::Quarantine;
use queue::SpareBuffers;

pub use accept::{ACCEPT_BUDGET, Connection};
pub use attach::{DeviceError, DeviceTurn};
pub use counters::Counters;
pub use inward::{Ingress, PACKET_BUDGET};
pub use shell::{DeviceFacts, DeviceWrite, Fault, SendError, Shell, ThreadUsage, WriteError};
pub use view::PeerView;

/// Lines in a minute on peers that come and go, and on those that misbehave.
const PEER_LINES: u32 = 500;
const FAULT_LINES: u32 = 60;

/// What peers have to show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CredentialsCheck {
    /// Nothing.
    #[default]
    Off,
    /// Their credentials, before anything else.
    Shown,
    /// Their credentials; a hook gives each its address.
    Hook,
}

/// What a router is told at its start, beside its policy.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What peers may take.
    pub limits: Limits,
    /// What peers have to show.
    pub credentials: CredentialsCheck,
    /// The router's own addresses: those of its networks, and its gateway's.
    pub addresses: Vec<IpAddr>,
    /// The gateway that other routers send to.
    pub gateway: Option<SocketAddr>,
    /// The router's own network namespace, if the kernel tells it (SO_NETNS_COOKIE).
    pub namespace: Option<u64>,
    /// DNS servers that devices are told.
    pub dns: Vec<IpAddr>,
    /// Folders of the machine that no device may write its resolv.conf into.
    pub host_etc: Vec<DirectoryId>,
}

/// A router.
#[derive(Debug)]
pub struct Router {
    settings: Settings,
    /// The latest time that the router was told.
    now: Instant,
    forwarder: Forwarder,
    admission: Admission,
    work: WorkMeter,
    quarantine: Quarantine,
    probations: Probations,
    /// Peers with frames to send at the end of this turn.
    to_flush: Vec<PeerId>,
    spares: SpareBuffers,
    /// Packets that are cut from GSO packets are put together here.
    scratch: Vec<u8>,
    replies: RateLimit,
    path_mtus: PathMtus,
    interfaces: InterfaceCache,
    counters: Counters,
    peer_log: LogBudget,
    fault_log: LogBudget,
    accept_again_at: Option<Instant>,
    /// Packets from peers since the TUN device was read.
    outward_streak: usize,
}

impl Router {
    /// A router without peers. `seed` should be hard to guess.
    pub fn new(forwarder: Forwarder, settings: Settings, now: Instant) -> Self {
        Self {
            admission: Admission::new(settings.limits),
            settings,
            now,
            forwarder,
            work: WorkMeter::new(now),
            quarantine: Quarantine::default(),
            probations: Probations::default(),
            to_flush: Vec::new(),
            spares: SpareBuffers::default(),
            scratch: Vec::new(),
            replies: RateLimit::new(now),
            path_mtus: PathMtus::default(),
            interfaces: InterfaceCache::default(),
            counters: Counters::default(),
            peer_log: LogBudget::new(PEER_LINES, now),
            fault_log: LogBudget::new(FAULT_LINES, now),
            accept_again_at: None,
            outward_streak: 0,
        }
    }

    /// A turn begins: the shell has waited for events.
    pub fn wake(&mut self, shell: &impl Shell, now: Instant) {
        self.advance(now);
        self.work.wake(self.now, || shell.thread_usage());
    }

    /// A turn ends: sends what waits for peers, and does what is due.
    pub fn poll(&mut self, shell: &mut impl Shell, now: Instant) {
        self.advance(now);
        self.resume_accepting(shell);
        self.attach_again(shell);
        self.flush_peers(shell);
    }

    /// The time at which [`Self::poll`] has something to do, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.accept_again_at, self.probations.next_end()].into_iter().flatten().min()
    }

    /// Takes note of the addresses that the machine's interfaces have now. Peers must not claim them, and gateways that are
    /// bound to all of them are there.
    pub fn set_host_addresses(&mut self, addresses: impl IntoIterator<Item = IpNet>) {
        self.forwarder.set_host_addresses(addresses);
    }

    /// Takes further grants.
    pub fn grant(&mut self, grants: impl IntoIterator<Item = Grant>) {
        self.forwarder.grant(grants);
    }

    /// What decides about packets and addresses.
    pub const fn forwarder(&self) -> &Forwarder {
        &self.forwarder
    }

    /// All counters.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The number of peers.
    pub fn len(&self) -> usize {
        self.forwarder.peers.len()
    }

    /// Returns true if there are no peers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Time never goes back.
    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Counts a packet that went nowhere.
    fn count_drop(&mut self, id: Option<PeerId>, reason: DropReason) {
        self.counters.drops.count(reason);
        if let Some(peer) = id.and_then(|id| self.forwarder.peers.get_mut(id)) {
            peer.session.traffic.drops.count(reason);
        }
    }

    /// Writes a line on peers that come and go, as far as their account has lines left.
    fn note_peer(&mut self, shell: &mut impl Shell, cause: Option<Account>, notice: &Notice) {
        write(shell, self.peer_log.take(self.now, cause), notice);
    }

    /// Writes a line on what is wrong, as far as the account that caused it has lines left.
    pub fn note_fault(&mut self, shell: &mut impl Shell, cause: Option<Account>, notice: &Notice) {
        write(shell, self.fault_log.take(self.now, cause), notice);
    }

    /// A peer and the account that pays for its lines.
    fn who(&self, id: PeerId) -> Option<(Who, Option<Account>)> {
        let peer = self.forwarder.peers.get(id)?;
        let PeerCredentials { pid, uid, .. } = peer.session.credentials;
        Some((Who { address: peer.address(), pid, uid }, peer.account()))
    }

    /// Writes a line on what is wrong with a peer.
    fn note_peer_fault(&mut self, shell: &mut impl Shell, id: PeerId, notice: impl FnOnce(Who) -> Notice) {
        if let Some((who, account)) = self.who(id) {
            self.note_fault(shell, account, &notice(who));
        }
    }
}

fn write(shell: &mut impl Shell, line: Line, notice: &Notice) {
    if let Line::Written { left_out_before } = line {
        if left_out_before > 0 {
            shell.log(&Notice::LeftOut(left_out_before));
        }
        shell.log(notice);
    }
}
