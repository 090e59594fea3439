//! The router's state machine.
//!
//! The shell reports what has happened, with the time, by [`Router::accept`], [`Router::received`], [`Router::tun_packet`]
//! and so on. The router decides, and makes the shell act through the methods of [`Shell`]. A packet costs one call in each
//! direction, and no allocation.

mod accept;
mod attach;
mod autoconf;
mod backlog;
pub mod capture;
mod close;
mod counters;
mod credentials;
mod debt;
mod deliver;
mod departed;
mod elsewhere;
mod fair;
mod flows;
pub mod frames;
mod gateway;
mod held;
mod inbound;
mod interfaces;
mod kernel;
mod log;
pub mod meter;
pub mod notice;
mod outbound;
pub mod quarantine;
pub mod queue;
mod reattach;
mod reject;
pub mod restore;
pub mod session;
mod shell;
#[cfg(test)]
mod testing;
mod trunks;
mod tun_queues;
pub mod turns;
mod view;
mod watch;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use tuntap_wire::autoconf::DirectoryId;
use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::holding::RouterId;

use crate::elsewhere::Source;
use crate::policy::Policy;
use crate::policy::account::Account;
use crate::policy::admission::Admission;
use crate::policy::drops::DropReason;
use crate::policy::forward::Forwarder;
use crate::policy::grant::Grant;
use crate::policy::limits::Limits;
use crate::policy::rate_limit::RateLimit;
use crate::policy::registry::PeerId;
use crate::policy::shape::Shape;
use crate::trunk::Trunks;
use backlog::Backlog;
use capture::Captures;
use gateway::Paths;
use held::Held;
use interfaces::InterfaceCache;
use kernel::KernelPath;
use log::{Cause, Line, LogBudget};
use meter::WorkMeter;
use notice::{Notice, Who};
use quarantine::Quarantine;
use queue::SpareBuffers;
use reattach::ReattachQueue;
use tun_queues::TunQueues;
use turns::Turns;

pub use accept::{ACCEPT_BUDGET, Connection};
pub use attach::{DeviceError, DeviceTurn};
pub use counters::Counters;
pub use departed::Departed;
pub(crate) use held::item_in as waiting_item;
pub use inbound::{Ingress, PACKET_BUDGET};
pub use kernel::PathCounts;
pub use shell::{BatchError, DeviceFacts, DeviceWrite, Fault, SendError, Shell, ThreadUsage, WriteError};
pub use trunks::TrunkSettings;
pub use view::PeerView;
pub use watch::{DropRecord, PacketFacts};

/// Log lines per minute: about peers that come and go, and about faults.
const PEER_LINES: u32 = 500;
const FAULT_LINES: u32 = 60;

/// Log lines per minute that rules with `log` cause.
const RULE_LINES: u32 = 240;

/// The credentials that peers have to show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CredentialsCheck {
    /// Peers show no credentials.
    #[default]
    Off,
    /// Peers show their credentials before anything else.
    Shown,
    /// Peers show their credentials, and a hook assigns an address to each.
    Hook,
}

/// The settings of a router besides its policy. They are fixed when the router starts.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The limits on what peers may use.
    pub limits: Limits,
    /// Which credentials peers have to show.
    pub credentials: CredentialsCheck,
    /// The router's own addresses: one in each of its networks, and that of its gateway.
    pub addresses: Vec<IpAddr>,
    /// The address of the gateway, to which other routers send.
    pub gateway: Option<SocketAddr>,
    /// The router's own network namespace, if the kernel reports it (SO_NETNS_COOKIE).
    pub namespace: Option<u64>,
    /// DNS servers for the devices' configurations.
    pub dns: Vec<IpAddr>,
    /// The router's id among those of other hosts that it tells of its peers' addresses, if there are any.
    pub router: Option<RouterId>,
    /// What the options say about trunks. Without an id there are none.
    pub trunks: TrunkSettings,
    /// How many queues the TUN device has; none is taken for one.
    pub tun_queues: u8,
    /// Directories of the machine into which no device may write its resolv.conf.
    pub host_etc: Vec<DirectoryId>,
}

/// The router's state machine.
#[derive(Debug)]
pub struct Router {
    settings: Settings,
    /// When the router began, and the latest time that the shell has reported.
    start: Instant,
    now: Instant,
    forwarder: Forwarder,
    admission: Admission,
    work: WorkMeter,
    quarantine: Quarantine,
    reattach_queue: ReattachQueue,
    /// Peers with frames to send at the end of this turn.
    to_flush: Vec<PeerId>,
    spares: SpareBuffers,
    /// Packets that are held back.
    held: Held,
    /// See [`Self::take_lacks_groups`].
    lacks_groups: bool,
    /// Buffer in which the segments of GSO packets are built.
    scratch: Vec<u8>,
    /// Buffer in which GSO packets are built of datagrams.
    coalesced: Vec<u8>,
    replies: RateLimit,
    paths: Paths,
    interfaces: InterfaceCache,
    counters: Counters,
    peer_log: LogBudget,
    fault_log: LogBudget,
    rule_log: LogBudget,
    /// True while somebody wants to know each dropped packet.
    is_watched: bool,
    captures: Captures,
    /// True while drops are watched or packets are captured.
    is_observed: bool,
    accept_again_at: Option<Instant>,
    /// The number of packets from peers since the TUN device was last read.
    outbound_streak: usize,
    tun_queues: TunQueues,
    turns: Turns,
    /// Packets that wait for the turns of their peers.
    backlog: Backlog,
    /// Connections with routers of other hosts, if there may be some, and what they have said in this call.
    trunks: Option<Trunks>,
    trunk_events: Vec<trunks::Event>,
    kernel: KernelPath,
}

impl Router {
    /// Makes a router without peers.
    pub fn new(mut forwarder: Forwarder, settings: Settings, now: Instant) -> Self {
        if let Some(own) = settings.router {
            forwarder.set_own(own);
        }
        let tun_queues = TunQueues::new(settings.tun_queues);
        let kernel = KernelPath::new(forwarder.seed);
        let mut this = Self {
            admission: Admission::new(settings.limits),
            trunks: settings.router.and_then(|own| Self::make_trunks(own, &settings.trunks, now)),
            trunk_events: Vec::new(),
            settings,
            start: now,
            now,
            forwarder,
            work: WorkMeter::new(now),
            quarantine: Quarantine::default(),
            reattach_queue: ReattachQueue::default(),
            to_flush: Vec::new(),
            spares: SpareBuffers::default(),
            held: Held::default(),
            lacks_groups: false,
            scratch: Vec::new(),
            coalesced: Vec::new(),
            replies: RateLimit::new(now),
            paths: Paths::default(),
            interfaces: InterfaceCache::default(),
            counters: Counters::default(),
            peer_log: LogBudget::new(PEER_LINES, now),
            fault_log: LogBudget::new(FAULT_LINES, now),
            rule_log: LogBudget::new(RULE_LINES, now),
            is_watched: false,
            captures: Captures::default(),
            is_observed: false,
            accept_again_at: None,
            outbound_streak: 0,
            tun_queues,
            turns: Turns::default(),
            backlog: Backlog::default(),
            kernel,
        };
        this.update_limits();
        this
    }

    /// Begins a turn: the shell has waited for events.
    pub fn wake(&mut self, shell: &impl Shell, now: Instant) {
        self.advance(now);
        if self.tun_queues.take_turns() {
            self.outbound_streak = 0;
        }
        self.work.wake(self.now, || shell.thread_usage());
    }

    /// Ends a turn: sends what is queued for peers, and does what is due.
    pub fn poll(&mut self, shell: &mut impl Shell, now: Instant) {
        self.advance(now);
        self.send_held(shell);
        // A peer is attached again only if nothing is left to send to it. If packets of this turn were still in its queue, it
        // would not be attached as long as each turn has some.
        self.flush_peers(shell);
        self.resume_accepting(shell);
        self.forwarder.flows.tidy();
        self.attach_again(shell);
        // The replies to the peers that are attached again.
        self.flush_peers(shell);
        self.sweep();
        self.poll_trunks(shell);
        self.poll_kernel_path(shell);
    }

    /// Returns the time at which [`Self::poll`] has to be called, even if no event comes before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.accept_again_at,
            self.reattach_queue.next_end(),
            self.next_held(),
            self.trunks.as_ref().and_then(Trunks::next_poll),
            self.next_of_kernel_path(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Sets the addresses that the machine's interfaces have now. Peers must not claim them. A gateway that is bound to the
    /// unspecified address is reachable at each of them.
    pub fn set_host_addresses(&mut self, shell: &mut impl Shell, addresses: impl IntoIterator<Item = IpNet>) {
        self.forwarder.set_host_addresses(addresses);
        self.follow_changes(shell);
    }

    /// Replaces the policy, between two packets. Peers keep the addresses that they hold, and flows are decided anew with their
    /// next packets: those in the kernel are the router's again. The router's networks, its guard and its shares stay those of the
    /// first policy.
    pub fn set_policy(&mut self, shell: &mut impl Shell, policy: Arc<Policy>) {
        // A counter may be another rule's afterwards.
        self.revoke_all(shell);
        self.count_all_usage(shell);
        let has_other_limits = self.forwarder.policy.shapes != policy.shapes;
        self.forwarder.set_policy(policy);
        if has_other_limits {
            self.update_limits();
            self.want_groups_again();
        }
        self.follow_changes(shell);
    }

    /// Returns true if the policy may name groups of which the router hasn't kept who is in them. The shell should read the
    /// supplementary groups of all peers again then, and tell them by [`Self::set_groups`]. It is asked once.
    pub fn take_lacks_groups(&mut self) -> bool {
        std::mem::take(&mut self.lacks_groups)
    }

    /// Says that the policy may name other groups than those that were kept of the peers, as when these were restored.
    pub fn want_groups_again(&mut self) {
        self.lacks_groups |= self.wants_groups();
    }

    /// Sets the supplementary groups of a peer.
    pub fn set_groups(&mut self, shell: &mut impl Shell, id: PeerId, groups: Vec<u32>) {
        if self.forwarder.set_groups(id, groups)
            && let Some(peer) = self.forwarder.peers.get_mut(id)
        {
            peer.session.forget_limits();
        }
        self.follow_changes(shell);
    }

    /// Adds grants to the policy.
    pub fn grant(&mut self, shell: &mut impl Shell, grants: impl IntoIterator<Item = Grant>) {
        self.forwarder.grant(grants);
        self.follow_changes(shell);
        self.want_groups_again();
    }

    /// Adds limits to the policy, behind all others. Those that it has already are left out.
    pub fn limit(&mut self, shell: &mut impl Shell, shapes: &[Shape]) {
        if let Some(next) = self.forwarder.policy.with_shapes(shapes) {
            self.set_policy(shell, Arc::new(next));
        }
    }

    /// Returns the part of the router that decides about packets and addresses.
    pub const fn forwarder(&self) -> &Forwarder {
        &self.forwarder
    }

    /// Returns all counters.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns the number of peers.
    pub fn len(&self) -> usize {
        self.forwarder.peers.len()
    }

    /// Returns true if there are no peers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets the time. An earlier time than the present one is ignored.
    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.forwarder.advance(self.now - self.start);
    }

    /// Counts a dropped packet.
    fn count_drop(&mut self, id: Option<PeerId>, reason: DropReason) {
        self.counters.drops.count(reason);
        if let Some(peer) = id.and_then(|id| self.forwarder.peers.get_mut(id)) {
            peer.session.traffic.drops.count(reason);
        }
    }

    /// Logs a notice about a peer that comes or goes, unless the lines of its account are used up.
    fn note_peer(&mut self, shell: &mut impl Shell, cause: Option<Account>, notice: &Notice) {
        write(shell, self.peer_log.take(self.now, cause.map(Cause::Account)), notice);
    }

    /// Logs a notice about a fault, unless the lines of the account that caused it are used up.
    pub fn note_fault(&mut self, shell: &mut impl Shell, cause: Option<Account>, notice: &Notice) {
        write(shell, self.fault_log.take(self.now, cause.map(Cause::Account)), notice);
    }

    /// Logs a notice that the routing daemon or a trunk has caused, unless its lines are used up: it leaves the others theirs.
    pub fn note_source(&mut self, shell: &mut impl Shell, source: Source, notice: &Notice) {
        write(shell, self.fault_log.take(self.now, Some(Cause::Source(source))), notice);
    }

    /// Returns a peer's description for the log, and the account that its log lines are counted for.
    fn who(&self, id: PeerId) -> Option<(Who, Option<Account>)> {
        let peer = self.forwarder.peers.get(id)?;
        let PeerCredentials { pid, uid, .. } = peer.session.credentials;
        Some((Who { address: peer.address(), pid, uid }, peer.account()))
    }

    /// Logs a notice about a fault of a peer.
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
