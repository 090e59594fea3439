//! The event loop: waits, reads and writes, and reports to the router what has happened. It decides nothing about packets
//! and peers.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;

use super::busy_poll::BusyPoll;
use super::control::{self, Control, Opened};
use super::exported::Exporter;
use super::hosts::Announcers;
use super::kernel_path::{Event as PathEvent, KernelPath};
use super::priority;
use super::restore;
use super::sandbox;
use super::shell::{Io, fault};
use super::stats_server::{Documents, StatsServer};
use super::store::StoreWriter;
use super::token::Token;
use super::turn_clock::TurnClock;
use super::{RouterError, Setup};
use tuntap_api::{Confinement, PolicyStats, Priority};
use tuntap_core::policy::flows::affordable;
use tuntap_core::policy::forward::Forwarder;
use tuntap_core::policy::limits::Limits;
use tuntap_core::policy::registry::PeerId;
use tuntap_core::router::frames::{BUFFER_LEN, Read};
use tuntap_core::router::notice::Notice;
use tuntap_core::router::turns::Work;
use tuntap_core::router::{ACCEPT_BUDGET, Connection, DeviceError, DeviceTurn, Router};
use tuntap_live::ScriptSources;
use tuntap_sys::log::Event;
use tuntap_sys::net::{NamespaceCookie, namespace_of};
use tuntap_sys::netlink::AddressWatch;
use tuntap_sys::process::raise_descriptor_limit;
use tuntap_sys::socket::{self, ControlBuffer, Received, recv_datagrams};
use tuntap_sys::tun::{MAX_PACKET_LEN, Tun};
use tuntap_wire::greeting::CREDENTIALS_MAGIC;
use tuntap_wire::trunk::MAX_MESSAGE_LEN;

/// The maximum number of events taken from the kernel in one turn.
const EVENTS: usize = 64;

/// A running router.
#[derive(Debug)]
pub struct EventLoop<'a> {
    pub(super) router: Router,
    pub(super) io: Io<'a>,
    /// The buffer for everything that is read: a peer's partial frame and what follows it, or one packet.
    pub(super) buffer: Box<[u8]>,
    /// The buffer for control messages of datagrams.
    ancillary: ControlBuffer,
    pub(super) stats: Option<StatsServer<'a>>,
    pub(super) metrics: Option<StatsServer<'a>>,
    pub(super) started: Instant,
    pub(super) priority: Priority,
    pub(super) confinement: Confinement,
    /// The way to the control thread; `None` if there is none.
    pub(super) control: Option<Control>,
    /// What the statistics say about the policy.
    pub(super) policy: PolicyStats,
    /// The script that the router starts with, as text.
    pub(super) script_sources: ScriptSources,
    busy_poll: BusyPoll,
    /// What tells other hosts of claims; `None` if nothing does.
    pub(super) hosts: Option<Announcers<'a>>,
    /// True if no packet waited when this turn began.
    pub(super) is_idle: bool,
    exporter: Exporter,
    /// The watch on the machine's addresses; `None` if it can't be opened.
    addresses: Option<AddressWatch>,
}

impl<'a> EventLoop<'a> {
    /// Makes what must not exist before the fork: the event queue, the buffers and the router, with its restored peers.
    pub fn new(setup: &'a Setup) -> Result<Self, RouterError> {
        let priority = priority::take(
            setup.priority,
            setup.logger,
            setup.tun.name(),
            "vassals that flood the router may leave it little processor time",
        );
        let (store, stored) = StoreWriter::open(&setup.store);
        restore::pause(&stored, setup);
        let started = Instant::now();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let remade_tun = if setup.tun.is_alive() { None } else { Some(remake(setup)?) };
        let tun = remade_tun.as_ref().unwrap_or(&setup.tun);
        watch(setup, &epoll, tun)?;
        let server = |endpoint, documents| StatsServer::new(endpoint, documents, &epoll);
        let stats = setup.stats.as_ref().map(|it| server(&it.listening, Documents::Stats)).transpose()?;
        let metrics = setup.metrics.as_ref().map(|it| server(it, Documents::Metrics)).transpose()?;
        if let Err(errno) = raise_descriptor_limit() {
            setup.logger.line(
                Event::RouterIncomplete,
                format_args!("[tuntap-router] can't raise the limit of open descriptors: {errno}"),
            );
        }
        let addresses = watch_addresses(setup, &epoll)?;
        let Opened { policy, script, stats: stats_of_policy, memory, mut control } = control::open(setup)?;
        if let Some(control) = &control {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Questions.encode());
            epoll.add(control.answerer.bell(), event)?;
        }
        let hosts = Announcers::new(setup, &epoll, started)?;
        let seed = RandomState::new().hash_one(started);
        let forwarder = Forwarder::with_memory(policy, seed, &limits(setup), memory);
        let mut this = Self {
            router: Router::new(forwarder, setup.settings(tun), started),
            io: Io::new(setup, epoll, store, remade_tun, control.as_mut().and_then(Control::take_tellers)),
            buffer: vec![0; BUFFER_LEN.max(MAX_PACKET_LEN).max(MAX_MESSAGE_LEN)].into_boxed_slice(),
            ancillary: ControlBuffer::default(),
            stats,
            metrics,
            started,
            priority,
            confinement: sandbox::found(),
            control,
            policy: stats_of_policy,
            script_sources: script,
            busy_poll: BusyPoll::new(setup.busy_poll, started),
            hosts,
            is_idle: true,
            exporter: Exporter::new(setup.exported, started),
            addresses,
        };
        this.update_addresses();
        this.set_clock();
        this.open_kernel_path()?;
        this.restore(stored);
        Ok(this)
    }

    /// Runs the router until the TUN device or the event queue fails, or the master ends.
    pub fn run(mut self) -> Result<Infallible, RouterError> {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let count = self.wait(&mut events)?;
            self.is_idle = count == 0 && !self.router.has_turns();
            self.router.wake(&self.io, Instant::now());
            self.set_clock();
            for event in &events[..count] {
                if let Some(token) = Token::decode(event.data()) {
                    self.dispatch(token, event.events())?;
                }
            }
            self.serve_turns()?;
            self.finish_turn();
        }
    }

    /// Serves peers and the gateway in turn, as long as there is no reason to look for others that have to be served first.
    fn serve_turns(&mut self) -> Result<(), RouterError> {
        while let Some(turn) = self.router.next_turn() {
            let clock = TurnClock::start(self.router.has_turns());
            let has_more = match turn.work {
                Work::Connection(id) => self.read_peer(id),
                Work::Device(id) => self.read_device(id),
                Work::Backlog(id) => self.router.write_backlog(&mut self.io, id),
                Work::Gateway => self.read_gateway(),
                Work::Trunk(trunk) => self.read_trunk(trunk),
                Work::Queue(queue) => self.read_tun(queue)?,
            };
            self.router.end_turn(turn, clock.took(), has_more);
            if self.router.is_tun_turn_due() {
                self.read_tun(0)?;
            }
            if has_more || turn.is_last || self.router.has_to_look() {
                break;
            }
        }
        Ok(())
    }

    /// Does what is due after the events of a turn.
    pub(super) fn finish_turn(&mut self) {
        let now = Instant::now();
        for id in self.io.take_blocked() {
            self.router.device_failed(&mut self.io, id, DeviceError::Blocked, now);
        }
        self.router.poll(&mut self.io, now);
        self.serve_hosts(now);
        self.tell_drops(now);
        self.look_after_script();
        self.io.kernel_path.iter_mut().for_each(KernelPath::tidy);
        if let Some(notice) = self.io.tidy_store(&self.router, now) {
            self.router.note_fault(&mut self.io, None, &notice);
        }
        // What has waited is sent without an event.
        let may_have_changed = !self.is_idle || self.router.next_held().is_some();
        self.exporter.turn(&self.router, may_have_changed, now);
        self.stats.iter_mut().chain(&mut self.metrics).for_each(|server| server.expire(now));
    }

    /// Waits for events, polling as long as that pays. Returns their number, which is 0 at a deadline, and may be 0 while
    /// peers wait for their turns.
    fn wait(&mut self, events: &mut [EpollEvent]) -> Result<usize, RouterError> {
        self.io.pulse.beat();
        let mut now = Instant::now();
        self.busy_poll.begin(now);
        let has_turns = self.router.has_turns()
            || self.router.is_sweeping()
            || self.hosts.as_ref().is_some_and(|hosts| hosts.has_work(now));
        loop {
            let awake = self.busy_poll.is_open(now);
            let timeout = if awake || has_turns {
                EpollTimeout::ZERO
            } else {
                self.io.end_alarm();
                self.sleep(now)?
            };
            match self.io.epoll.wait(events, timeout) {
                Ok(0) if awake && !has_turns && self.router.next_held().is_none_or(|next| now < next) => {
                    now = Instant::now();
                }
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

    /// Sleeps until the first event or the time of a packet that is held back, and returns zero then: epoll_wait(2) counts in
    /// milliseconds, in which a fast line sends a hundred packets. Returns how long to sleep if no packet is held back.
    fn sleep(&self, now: Instant) -> nix::Result<EpollTimeout> {
        let Some(next) = self.deadline(now) else { return Ok(EpollTimeout::NONE) };
        let rest = next.saturating_duration_since(now);
        if self.router.next_held().is_none() {
            // One millisecond is added, so that the deadline has passed at the wake-up.
            return Ok(EpollTimeout::try_from(rest.as_millis() + 1).unwrap_or(EpollTimeout::MAX));
        }
        let mut queue = [PollFd::new(self.io.epoll.0.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut queue, Some(TimeSpec::from_duration(rest)), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(EpollTimeout::ZERO),
            Err(errno) => Err(errno),
        }
    }

    /// Returns when the loop has to wake up even without an event.
    fn deadline(&self, now: Instant) -> Option<Instant> {
        let stats_deadline = self.stats.iter().chain(&self.metrics).filter_map(StatsServer::next_deadline).min();
        let next_beat = self.io.pulse.interval.map(|interval| now + interval);
        let hosts_deadline = self.hosts.as_ref().and_then(Announcers::next_deadline);
        let path_deadline = self.io.kernel_path.as_ref().and_then(|path| path.next_deadline(now));
        let deadlines = [
            self.router.poll_timeout(),
            stats_deadline,
            hosts_deadline,
            path_deadline,
            next_beat,
            self.exporter.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn dispatch(&mut self, token: Token, flags: EpollFlags) -> Result<(), RouterError> {
        match token {
            Token::Tun(queue) => {
                if self.router.tun_readable(queue) {
                    self.read_tun(queue)?;
                }
            }
            Token::Listener => self.accept_peers(),
            Token::Gateway => self.router.queue_turn(Work::Gateway),
            Token::Questions => self.answer_questions(),
            Token::Addresses => self.update_addresses(),
            Token::GrantUpdates => self.read_grant_updates(),
            Token::RoutesListener => self.hosts.iter_mut().for_each(|hosts| hosts.routes_event(None)),
            Token::RoutesConnection => self.hosts.iter_mut().for_each(|hosts| hosts.routes_event(Some(flags))),
            Token::TrunkControl => self.take_trunks(),
            Token::Trunk(trunk) => self.trunk_event(trunk, flags),
            Token::Pairs => self.hear_of_pairs(),
            Token::Master => return Err(RouterError::MasterGone),
            Token::StatsListener => self.serve_stats(None),
            Token::MetricsListener => self.serve_metrics(None),
            Token::MetricsClient(serial) => self.serve_metrics(Some(serial)),
            Token::Device(id) => self.router.queue_turn(Work::Device(id)),
            Token::StatsClient(serial) => self.serve_stats(Some(serial)),
            Token::Peer(id) => {
                if flags.contains(EpollFlags::EPOLLOUT) {
                    self.router.writable(&mut self.io, id, Instant::now());
                }
                if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                    self.router.queue_turn(Work::Connection(id));
                }
            }
        }
        Ok(())
    }

    /// Opens the path in the kernel, if there may be one. Verdicts of an earlier process are void from here on.
    fn open_kernel_path(&mut self) -> Result<(), RouterError> {
        let Some(endpoint) = &self.io.setup.kernel_path else { return Ok(()) };
        match KernelPath::open(endpoint) {
            Ok(path) => {
                self.io.epoll.add(path.socket(), EpollEvent::new(EpollFlags::EPOLLIN, Token::Pairs.encode()))?;
                self.io.kernel_path = Some(path);
            }
            Err(errno) => self.io.line(
                Event::RouterIncomplete,
                format_args!("there is no path in the kernel: its maps can't be used: {errno}"),
            ),
        }
        Ok(())
    }

    /// Reports to the router what has become of pairs.
    fn hear_of_pairs(&mut self) {
        let events = self.io.kernel_path.as_mut().map(KernelPath::receive).unwrap_or_default();
        let (router, io) = (&mut self.router, &mut self.io);
        for event in events {
            match event {
                PathEvent::Opened => router.set_kernel_path(io, true),
                PathEvent::Closed => router.set_kernel_path(io, false),
                PathEvent::Made(peer) => router.pair_made(io, peer, Instant::now()),
                PathEvent::Lost(peer, why) => router.pair_lost(io, peer, why, Instant::now()),
            }
        }
    }

    /// Reports the machine's present addresses to the router. If they can't be read, the router keeps the earlier ones.
    fn update_addresses(&mut self) {
        let Some(watch) = &mut self.addresses else { return };
        match watch.addresses() {
            Ok(addresses) => self.router.set_host_addresses(&mut self.io, addresses),
            Err(error) => self.router.note_fault(&mut self.io, None, &Notice::Shell(error.to_string())),
        }
    }

    /// Reads a queue of the TUN device. Returns true if it may have more packets.
    fn read_tun(&mut self, queue: u8) -> Result<bool, RouterError> {
        let mut turn = self.router.begin_tun_turn(queue);
        while turn.is_open() {
            let start = Instant::now();
            match self.io.tun().recv_from(queue.into(), &mut self.buffer) {
                Ok(len) => {
                    turn.count(len, 0);
                    self.router.tun_packet(&mut self.io, &self.buffer[..len], start, Instant::now());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.router.end_tun_turn(&mut self.io, true);
                    return Ok(false);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let name = self.io.name().to_owned();
                    return Err(if Tun::is_gone(&error) {
                        RouterError::DeviceGone(name)
                    } else {
                        RouterError::Device(name, error)
                    });
                }
            }
        }
        self.router.end_tun_turn(&mut self.io, false);
        Ok(true)
    }

    /// Reads the gateway. Returns true if it may have more.
    fn read_gateway(&mut self) -> bool {
        let Some(gateway) = &self.io.setup.gateway else { return false };
        let mut turn = DeviceTurn::default();
        while turn.is_open() {
            match recv_datagrams(gateway.socket.as_fd(), &mut self.buffer, &mut self.ancillary) {
                Ok(Received { len, segment_len, source, interface }) => {
                    let (bytes, now) = (&self.buffer[..len], Instant::now());
                    let packets = self.router.datagrams(&mut self.io, bytes, segment_len, source, interface, now);
                    turn.count_read(len, packets);
                }
                Err(Errno::EAGAIN) => return false,
                // For instance an ICMP error about an earlier datagram, which this read has cleared.
                Err(_) => turn.count_read(0, 0),
            }
        }
        true
    }

    fn accept_peers(&mut self) {
        let Some(listener) = &self.io.setup.listener else { return };
        for _ in 0..ACCEPT_BUDGET {
            match socket::accept(listener.as_fd()) {
                Ok(fd) => self.add_peer(fd),
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(errno) => return self.accept_failed(errno),
            }
        }
    }

    pub(super) fn accept_failed(&mut self, errno: Errno) {
        self.router.accept_failed(&mut self.io, fault(errno), Instant::now());
    }

    fn add_peer(&mut self, fd: OwnedFd) {
        let Ok(credentials) = socket::peer_credentials(fd.as_fd()) else { return };
        if self.router.wants_credentials() && socket::receive_credentials(fd.as_fd()).is_err() {
            return;
        }
        // If the kernel doesn't report the groups, fewer grants apply.
        let groups = if self.router.wants_groups() { socket::peer_groups(fd.as_fd()) } else { Ok(Vec::new()) };
        let connection =
            Connection { credentials, namespace: namespace_number(fd.as_fd()), groups: groups.unwrap_or_default() };
        let router = &mut self.router;
        self.io.with_connection(fd, |io| router.accept(io, connection, Instant::now()));
    }

    /// Reads the supplementary groups of all peers, if the policy names others than before. The router keeps those alone that
    /// matter, since a process may have tens of thousands.
    pub(super) fn read_groups(&mut self) {
        if !self.router.take_lacks_groups() {
            return;
        }
        let ids: Vec<_> = self.router.peers().map(|peer| peer.id()).collect();
        for id in ids {
            if let Some(Ok(groups)) = self.io.connection(id).map(|connection| socket::peer_groups(connection)) {
                self.router.set_groups(&mut self.io, id, groups);
            }
        }
    }

    /// Reads a peer's connection. Returns true if it may have more.
    fn read_peer(&mut self, id: PeerId) -> bool {
        let Some(connection) = self.io.connection(id) else { return false };
        let Some(read) = self.router.begin_read(id, &mut self.buffer) else { return false };
        let (start, len, with_descriptor) = match read {
            Read::Credentials => {
                self.read_credentials(id);
                return false;
            }
            Read::Bytes { start, len, with_descriptor } => (start, len, with_descriptor),
        };
        let free = &mut self.buffer[start..start + len];
        let received = if with_descriptor {
            socket::recv_with_descriptor(connection, free)
        } else {
            socket::recv(connection, free).map(|count| (count, None))
        };
        let now = Instant::now();
        match received {
            Ok((0, _)) => self.router.connection_ended(&mut self.io, id, None, now),
            Ok((count, descriptor)) => {
                if let Some(descriptor) = descriptor {
                    self.io.offer(id, descriptor);
                }
                #[cfg(feature = "faults")]
                tuntap_sys::faults::point("router");
                self.router.received(&mut self.io, id, &self.buffer[..start + count], count, now);
                return count == len;
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => self.router.connection_ended(&mut self.io, id, Some(fault(errno)), now),
        }
        false
    }

    /// Reads the message with a peer's credentials, and nothing of what follows it.
    fn read_credentials(&mut self, id: PeerId) {
        let Some(connection) = self.io.connection(id) else { return };
        let mut magic = [0; CREDENTIALS_MAGIC.len()];
        let received = socket::recv_with_credentials(connection, &mut magic);
        let now = Instant::now();
        match received {
            Ok((0, _)) => self.router.connection_ended(&mut self.io, id, None, now),
            Ok((count, credentials)) => {
                self.router.received_credentials(&mut self.io, id, &magic[..count], credentials, now);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => self.router.connection_ended(&mut self.io, id, Some(fault(errno)), now),
        }
    }

    /// Reads a peer's device. Returns true if it may have more.
    fn read_device(&mut self, id: PeerId) -> bool {
        let mut turn = DeviceTurn::default();
        let mut is_first = true;
        self.io.set_alarm();
        while turn.is_open() && self.router.is_attached(id) {
            let Some(device) = self.io.device(id) else { return false };
            // Only the first read of a turn is timed. That is enough to know the cost of reading.
            let start = is_first.then(Instant::now);
            let error = match device.recv(&mut self.buffer) {
                Ok(len) => {
                    #[cfg(feature = "faults")]
                    tuntap_sys::faults::point("router");
                    let timing = start.map(|start| (start, Instant::now()));
                    is_first = false;
                    let segments = self.router.device_packet(&mut self.io, id, &self.buffer[..len], timing);
                    turn.count(len, segments);
                    continue;
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => {
                        self.router.device_emptied(&mut self.io, id);
                        return false;
                    }
                    ErrorKind::Interrupted if device.is_alarmed() => DeviceError::Blocked,
                    ErrorKind::Interrupted => continue,
                    ErrorKind::Unsupported => DeviceError::MayBlock,
                    _ if Tun::is_gone(&error) => DeviceError::Gone,
                    kind => DeviceError::Failed(tuntap_core::router::Fault(kind.to_string())),
                },
            };
            self.router.device_failed(&mut self.io, id, error, Instant::now());
            return false;
        }
        self.router.is_attached(id)
    }
}

/// Returns the number of the network namespace in which a socket was made; `None` if the kernel doesn't report it.
pub fn namespace_number(socket: std::os::fd::BorrowedFd<'_>) -> Option<u64> {
    namespace_of(socket).map(NamespaceCookie::number)
}

/// Watches the descriptors that exist from the start.
fn watch(setup: &Setup, epoll: &Epoll, tun: &Tun) -> nix::Result<()> {
    let readable = |token: Token| EpollEvent::new(EpollFlags::EPOLLIN, token.encode());
    for (number, queue) in (0..=u8::MAX).zip(tun.queues()) {
        epoll.add(queue, readable(Token::Tun(number)))?;
    }
    setup.listener.iter().try_for_each(|listener| epoll.add(listener, readable(Token::Listener)))?;
    if let Some(gateway) = &setup.gateway {
        epoll.add(&gateway.socket, readable(Token::Gateway))?;
    }
    if let Some(endpoint) = &setup.hosts.trunks {
        epoll.add(endpoint.control(), readable(Token::TrunkControl))?;
    }
    epoll.add(setup.grant_updates.read_end(), readable(Token::GrantUpdates))?;
    if let Some(master) = &setup.master {
        epoll.add(master, readable(Token::Master))?;
    }
    Ok(())
}

/// Makes the kernel report when the machine's addresses change.
fn watch_addresses(setup: &Setup, epoll: &Epoll) -> nix::Result<Option<AddressWatch>> {
    match AddressWatch::open() {
        Ok(watch) => {
            epoll.add(&watch, EpollEvent::new(EpollFlags::EPOLLIN, Token::Addresses.encode()))?;
            Ok(Some(watch))
        }
        Err(error) => {
            setup.logger.line(Event::RouterIncomplete, format_args!(
                "[tuntap-router] {}: the host's addresses are not known here, so that peers can claim them: {error}",
                setup.tun.name()
            ));
            Ok(None)
        }
    }
}

/// The limits, with no more flows than there is memory for: a router without memory for all of them must not be none at all.
fn limits(setup: &Setup) -> Limits {
    let wanted = setup.limits.flows;
    let flows = affordable(wanted);
    if flows < wanted {
        setup.logger.line(Event::RouterIncomplete, format_args!(
            "[tuntap-router] {}: there is no memory for {wanted} flows (tuntap-router-max-flows): {flows} are known at a time",
            setup.tun.name()
        ));
    }
    Limits { flows, ..setup.limits }
}

/// Makes the TUN device again after it was deleted. Addresses and routes that no option names are lost.
fn remake(setup: &Setup) -> Result<Tun, RouterError> {
    let mut tun = Tun::create_for_router(setup.tun.name())?;
    tun.enable_offloads();
    tuntap_host::set_up_device(&setup.spec, setup.logger);
    setup.logger.line(Event::DeviceMade, format_args!(
        "[tuntap-router] {}: the device was deleted and is made again; what tuntap-router-* options don't say about its \
         addresses and routes has to be set again, too",
        tun.name()
    ));
    Ok(tun)
}
