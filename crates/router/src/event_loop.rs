//! The event loop: reads and writes, and asks the forwarder what to do with each packet.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::busy_poll::BusyPoll;
use super::closer::Closer;
use super::gateway::PathMtus;
use super::heartbeat::Pulse;
use super::inward::PACKET_BUDGET;
use super::meter::WorkMeter;
use super::priority;
use super::probation::Probations;
use super::quarantine::Quarantine;
use super::queue::SpareBuffers;
use super::restore;
use super::sandbox;
use super::stats_server::StatsServer;
use super::store::Keeper;
use super::table::PeerTable;
use super::token::Token;
use super::ways::Ways;
use super::{RouterError, Setup};

use tuntap_api::{Confinement, LimitsReached, Priority, Totals};
use tuntap_core::policy::account::Account;
use tuntap_core::policy::admission::Admission;
use tuntap_core::policy::drops::DropCounters;
use tuntap_core::policy::forward::Forwarder;
use tuntap_core::policy::rate_limit::RateLimit;
use tuntap_core::policy::registry::PeerId;
use tuntap_sys::log::LimitedLogger;
use tuntap_sys::netlink::AddressWatch;
use tuntap_sys::process::raise_descriptor_limit;
use tuntap_sys::socket::ControlBuffer;
use tuntap_sys::tun::{MAX_PACKET_LEN, Tun};
use tuntap_wire::frame::MAX_FRAME_LEN;

/// Events taken from the kernel in one wake-up.
const EVENTS: usize = 64;

/// Bytes read from one peer in one wake-up.
pub(super) const READ_LEN: usize = 64 * 1024;

/// Lines in a minute on peers that come and go, and on those that misbehave.
const PEER_LINES: u32 = 500;
const FAULT_LINES: u32 = 60;

/// A running router.
#[derive(Debug)]
pub struct EventLoop<'a> {
    pub(super) setup: &'a Setup,
    /// In place of the setup's device, if that one was deleted.
    pub(super) remade_tun: Option<Tun>,
    pub(super) epoll: Epoll,
    pub(super) forwarder: Forwarder,
    pub(super) peers: PeerTable,
    pub(super) admission: Admission,
    pub(super) quarantine: Quarantine,
    pub(super) probations: Probations,
    pub(super) work: WorkMeter,
    /// Peers with frames to write at the end of this wake-up.
    pub(super) to_flush: Vec<PeerId>,
    pub(super) spares: SpareBuffers,
    /// What is read ends up here: a peer's partial frame and what follows it, or one packet.
    pub(super) buffer: Box<[u8]>,
    /// Packets that are cut from super-packets are put together here.
    pub(super) scratch: Vec<u8>,
    pub(super) path_mtus: PathMtus,
    pub(super) accept_again_at: Option<Instant>,
    pub(super) stats: Option<StatsServer<'a>>,
    pub(super) totals: Totals,
    pub(super) limits_reached: LimitsReached,
    /// What is left of errors and resets that may be sent.
    pub(super) answers: RateLimit,
    pub(super) drops: DropCounters,
    pub(super) peer_log: LimitedLogger<Account>,
    pub(super) fault_log: LimitedLogger<Account>,
    pub(super) started: Instant,
    pub(super) priority: Priority,
    pub(super) confinement: Confinement,
    busy_poll: BusyPoll,
    pub(super) pulse: Pulse<'a>,
    pub(super) keeper: Keeper<'a>,
    pub(super) rewrite_again_at: Option<Instant>,
    pub(super) closer: Closer,
    /// By which interfaces datagrams and clients come.
    pub(super) ways: Ways,
    /// What the host's interfaces have. Nothing is known of it where the kernel doesn't tell.
    addresses: Option<AddressWatch>,
    /// Room for what is told beside datagrams.
    pub(super) control: ControlBuffer,
    /// Packets from peers since the TUN device was read.
    pub(super) outward_streak: usize,
}

impl<'a> EventLoop<'a> {
    /// Makes what must not exist before the fork: the event queue and the buffers.
    pub fn new(setup: &'a Setup) -> Result<Self, RouterError> {
        let priority = priority::take(setup);
        let (keeper, legacy) = Keeper::open(&setup.store);
        restore::pause(&legacy, setup);
        let started = Instant::now();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let remade_tun = if setup.tun.is_alive() { None } else { Some(remake(setup)?) };
        let tun = remade_tun.as_ref().unwrap_or(&setup.tun);
        let readable = |token: Token| EpollEvent::new(EpollFlags::EPOLLIN, token.encode());
        epoll.add(tun, readable(Token::Tun))?;
        epoll.add(&setup.listener, readable(Token::Listener))?;
        if let Some(gateway) = &setup.gateway {
            epoll.add(&gateway.socket, readable(Token::Gateway))?;
        }
        epoll.add(setup.news.read_end(), readable(Token::News))?;
        if let Some(master) = &setup.master {
            epoll.add(master, readable(Token::Master))?;
        }
        let stats = setup.stats.as_ref().map(|endpoint| StatsServer::new(endpoint, &epoll)).transpose()?;
        if let Err(errno) = raise_descriptor_limit() {
            setup.logger.line(format_args!("[tuntap-router] can't raise the limit of open descriptors: {errno}"));
        }
        let addresses = match AddressWatch::open() {
            Ok(watch) => {
                epoll.add(&watch, readable(Token::Addresses))?;
                Some(watch)
            }
            Err(error) => {
                setup.logger.line(format_args!(
                    "[tuntap-router] {}: the host's addresses are not known here, so that peers can claim them: {error}",
                    setup.tun.name()
                ));
                None
            }
        };
        let mut this = Self {
            setup,
            remade_tun,
            epoll,
            forwarder: Forwarder::new(setup.policy.clone(), RandomState::new().hash_one(started)),
            peers: PeerTable::default(),
            admission: Admission::new(setup.limits),
            quarantine: Quarantine::default(),
            probations: Probations::default(),
            work: WorkMeter::new(started),
            to_flush: Vec::new(),
            spares: SpareBuffers::default(),
            buffer: vec![0; (MAX_FRAME_LEN + READ_LEN).max(MAX_PACKET_LEN)].into_boxed_slice(),
            scratch: Vec::new(),
            path_mtus: PathMtus::default(),
            accept_again_at: None,
            stats,
            totals: Totals::default(),
            limits_reached: LimitsReached::default(),
            answers: RateLimit::new(started),
            drops: DropCounters::default(),
            peer_log: LimitedLogger::new(setup.logger, PEER_LINES, started),
            fault_log: LimitedLogger::new(setup.logger, FAULT_LINES, started),
            started,
            priority,
            confinement: sandbox::found(),
            busy_poll: BusyPoll::new(setup.busy_poll, started),
            pulse: Pulse::new(&setup.heartbeat, setup.harakiri),
            keeper,
            rewrite_again_at: None,
            closer: Closer::default(),
            ways: Ways::default(),
            addresses,
            control: ControlBuffer::default(),
            outward_streak: 0,
        };
        this.learn_addresses();
        this.restore_spoilers(&legacy);
        this.restore(legacy.peers);
        Ok(this)
    }

    /// Forwards until the TUN device or the event queue fails.
    pub fn run(mut self) -> Result<Infallible, RouterError> {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let count = self.wait(&mut events)?;
            self.work.wake(Instant::now());
            for event in &events[..count] {
                if let Some(token) = Token::decode(event.data()) {
                    self.dispatch(token, event.events())?;
                }
                // All packets towards the peers come by the one device, those of a flood among vassals, too. With one
                // turn beside many peers' turns its queue would overflow, and the honest would hear nobody any more.
                if self.outward_streak >= PACKET_BUDGET {
                    self.read_tun()?;
                }
            }
            self.flush_peers();
            let now = Instant::now();
            self.resume_accepting(now);
            self.attach_again(now);
            if let Some(stats) = &mut self.stats {
                stats.expire(now);
            }
        }
    }

    /// Waits for events, awake for as long as that pays. Returns their number; none at a deadline.
    fn wait(&mut self, events: &mut [EpollEvent]) -> Result<usize, RouterError> {
        self.pulse.beat();
        let mut now = Instant::now();
        self.busy_poll.begin(now);
        loop {
            let awake = self.busy_poll.is_open(now);
            let timeout = if awake { EpollTimeout::ZERO } else { self.timeout(now) };
            match self.epoll.wait(events, timeout) {
                Ok(0) if awake => now = Instant::now(),
                Ok(0) | Err(Errno::EINTR) => return Ok(0),
                Ok(count) => {
                    if !awake {
                        self.busy_poll.woke(Instant::now());
                    }
                    return Ok(count);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn dispatch(&mut self, token: Token, flags: EpollFlags) -> Result<(), RouterError> {
        match token {
            Token::Tun => self.read_tun()?,
            Token::Listener => self.accept_peers(Instant::now()),
            Token::Gateway => self.read_gateway(),
            Token::Addresses => self.learn_addresses(),
            Token::News => self.read_news(),
            Token::Master => return Err(RouterError::MasterGone),
            Token::StatsListener => self.serve_stats(None),
            Token::Device(id) => self.read_device(id),
            Token::StatsClient(serial) => self.serve_stats(Some(serial)),
            Token::Peer(id) => {
                if flags.contains(EpollFlags::EPOLLOUT) {
                    self.flush_peer(id);
                }
                if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                    self.read_peer(id);
                }
            }
        }
        Ok(())
    }

    /// Takes note of the addresses that the host's interfaces have now. Peers must not claim them, and gateways that are bound
    /// to all of them are there. If they can't be read, those from before count.
    fn learn_addresses(&mut self) {
        let Some(watch) = &mut self.addresses else { return };
        match watch.addresses() {
            Ok(addresses) => self.forwarder.set_host_addresses(addresses),
            Err(error) => {
                let name = self.name();
                self.fault_log.line(Instant::now(), None, format_args!("[tuntap-router] {name}: {error}"));
            }
        }
    }

    /// How long to sleep when nothing happens.
    fn timeout(&self, now: Instant) -> EpollTimeout {
        let stats_deadline = self.stats.as_ref().and_then(StatsServer::next_deadline);
        let next_beat = self.pulse.interval.map(|interval| now + interval);
        let deadlines = [self.accept_again_at, stats_deadline, self.probations.next_end(), next_beat];
        let Some(next) = deadlines.into_iter().flatten().min() else {
            return EpollTimeout::NONE;
        };
        // One millisecond more, so that the deadline has passed at the wake-up.
        let millis = next.saturating_duration_since(now).as_millis() + 1;
        EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX)
    }

    pub(super) fn tun(&self) -> &Tun {
        self.remade_tun.as_ref().unwrap_or(&self.setup.tun)
    }

    /// The router's name in the log: that of its device.
    pub(super) fn name(&self) -> &'a str {
        self.setup.tun.name()
    }
}

/// Makes the TUN device again after it was deleted. Its addresses and routes are gone all the same.
fn remake(setup: &Setup) -> Result<Tun, RouterError> {
    let mut tun = Tun::create(setup.tun.name())?;
    tun.enable_offloads();
    tuntap_host::set_up_device(&setup.spec, setup.logger);
    setup.logger.line(format_args!(
        "[tuntap-router] {}: the device was deleted and is made again; what tuntap-router-* options don't say about its \
         addresses and routes has to be set again, too",
        tun.name()
    ));
    Ok(tun)
}
