//! The session with the host's routing daemon, with its sockets: [`tuntap_core::routes`] has none.
//!
//! The connection is read without taking (`MSG_PEEK`), and what the speaker has read whole is taken. Before anything is sent, what
//! waits is kept for a successor. So a router may be killed at any time, and the next one goes on with the session
//! ([`tuntap_core::routes::takeover`]).
//!
//! A piece of work is one message to read, or one buffer to write. While there are packets, pieces have pauses between them
//! ([`Ration`]), however much the daemon has to tell.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::super::control::DocumentWriter;
use super::super::shell::Io;
use super::super::token::Token;
use super::super::{RouterError, Setup};
use super::endpoint::RoutesEndpoint;
use super::ration::Ration;
use tuntap_config::RoutesSpec;
use tuntap_core::elsewhere::Source;
use tuntap_core::router::Router;
use tuntap_core::router::notice::Notice;
use tuntap_core::routes::Listener;
use tuntap_core::routes::notice::Notice as RoutesNotice;
use tuntap_core::routes::output::Unsent;
use tuntap_core::routes::settings::{NextHops, Settings};
use tuntap_core::routes::speaker::{Accepted, Speaker, refusal};
use tuntap_core::routes::status::Status;
use tuntap_core::routes::takeover::StoredSession;
use tuntap_sys::socket::{self, tcp};
use tuntap_wire::holding::{Holding, RouterId};

/// The longest message (RFC 4271, section 4). As much is read at once.
const READ_LEN: usize = 4096;

/// Most changes that the router is told of in one piece of work.
const CHANGES: usize = 1024;

/// How long after a takeover claims of vassals may come back that the router before has told of. After a reload of the instance,
/// vassals are started again, on a machine that may be busy; a route that is withdrawn too soon cuts connections. A route that stays
/// too long sends packets to a host that answers them with an error. Graceful restarts wait longer still (RFC 4724).
const SETTLE: Duration = Duration::from_secs(30);

/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What the speaker has heard, until the router is told.
#[derive(Debug, Default)]
struct Heard {
    changes: VecDeque<(IpAddr, Option<Holding>)>,
    notices: Vec<RoutesNotice>,
    faults: Vec<String>,
}

impl Listener for Heard {
    fn held(&mut self, address: IpAddr, holding: Holding) {
        self.changes.push_back((address, Some(holding)));
    }

    fn released(&mut self, address: IpAddr) {
        self.changes.push_back((address, None));
    }

    fn notice(&mut self, notice: RoutesNotice) {
        self.notices.push(notice);
    }
}

/// The daemon's connection.
#[derive(Debug)]
struct Connection {
    fd: OwnedFd,
    /// True if the session is in the store.
    is_stored: bool,
    /// True if there may be something to read.
    is_readable: bool,
    /// True if the kernel takes nothing at the moment.
    is_full: bool,
    /// What epoll watches. It stops with each event.
    armed: EpollFlags,
    /// The number of bytes from which on epoll reports that there is something to read.
    low_water: usize,
    /// Why writing has failed. What the daemon has sent before is read first.
    failure: Option<String>,
}

impl Connection {
    fn new(fd: OwnedFd, is_stored: bool) -> Self {
        let armed = EpollFlags::empty();
        Self { fd, is_stored, is_readable: true, is_full: false, armed, low_water: 1, failure: None }
    }
}

/// The session.
#[derive(Debug)]
pub struct Routes<'a> {
    endpoint: &'a RoutesEndpoint,
    /// What the options say of it.
    spec: &'a RoutesSpec,
    speaker: Speaker,
    connection: Option<Connection>,
    /// Keeps what waits for a successor.
    unsent: DocumentWriter,
    /// Kept for its memory.
    document: Vec<u8>,
    heard: Heard,
    /// True if somebody may wait to be accepted.
    has_caller: bool,
    accept_again_at: Option<Instant>,
    reading: Ration,
    writing: Ration,
    /// When the speaker wants to be asked again.
    next: Option<Instant>,
    /// True if a claim has changed since then.
    is_changed: bool,
    /// The daemon has had its time to tell what it knows after this.
    told_by: Instant,
    hold_time: Duration,
    has_met: bool,
    strangers: u64,
    buffer: Box<[u8]>,
}

impl<'a> Routes<'a> {
    /// Listens.
    pub fn new(
        setup: &'a Setup,
        endpoint: &'a RoutesEndpoint,
        spec: &'a RoutesSpec,
        router: RouterId,
        epoll: &Epoll,
        now: Instant,
    ) -> Result<Self, RouterError> {
        let settings = Settings {
            router,
            asn: spec.asn,
            neighbour_asn: spec.neighbour_asn,
            hold_time: spec.hold_time,
            next_hops: NextHops::NOBODY,
            networks: setup.spec.addresses.iter().map(ipnet::IpNet::trunc).collect(),
        };
        let hold_time = Duration::from_secs(spec.hold_time.into());
        epoll.add(endpoint.listener(), EpollEvent::new(caller_flags(), Token::RoutesListener.encode()))?;
        Ok(Self {
            endpoint,
            spec,
            speaker: Speaker::new(settings, now),
            connection: None,
            unsent: endpoint.unsent().writer().map_err(RouterError::Memory)?,
            document: Vec::new(),
            heard: Heard::default(),
            has_caller: false,
            accept_again_at: None,
            reading: Ration::new(now),
            writing: Ration::new(now),
            next: Some(now),
            is_changed: false,
            told_by: now + hold_time,
            hold_time,
            has_met: false,
            strangers: 0,
            buffer: vec![0; READ_LEN].into_boxed_slice(),
        })
    }

    /// Goes on with the session of the router before this one, or ends it so that the daemon makes a new one.
    pub fn take_over(&mut self, io: &mut Io<'_>, session: &StoredSession, fd: OwnedFd, now: Instant) {
        let result = self.unsent().map_err(|error| error.to_string()).and_then(|unsent| {
            let written = tcp::written(fd.as_fd()).map_err(|error| error.to_string())?;
            let taken = self.speaker.take_over(session, unsent, written, SETTLE, now, &mut self.heard);
            taken.map_err(|error| error.to_string())
        });
        let event = EpollEvent::new(EpollFlags::EPOLLONESHOT, Token::RoutesConnection.encode());
        match result.and_then(|()| io.epoll.add(&fd, event).map_err(|errno| errno.to_string())) {
            Ok(()) => {
                io.store_routes(session, fd.as_fd());
                self.connection = Some(Connection::new(fd, true));
                self.is_changed = true;
            }
            Err(error) => {
                let line = format!("routes: the session of the router before this one can't go on: {error}");
                self.heard.faults.push(line);
                socket::shut_down(fd.as_fd());
                self.speaker.closed(Some(error), now, &mut self.heard);
            }
        }
    }

    /// What the router before this one had yet to send.
    fn unsent(&self) -> Result<Unsent, &'static str> {
        let document = self.unsent.latest().ok_or("it has kept nothing")?;
        let (position, bytes) = document.split_first_chunk().ok_or("what it has kept is cut off")?;
        Ok(Unsent { position: u64::from_ne_bytes(*position), bytes: bytes.to_vec() })
    }

    /// How the session stands.
    pub fn status(&self, now: Instant) -> Status {
        self.speaker.status(now)
    }

    /// What the options say of it.
    pub const fn spec(&self) -> &RoutesSpec {
        self.spec
    }

    /// Connections from other addresses, which were refused.
    pub const fn strangers(&self) -> u64 {
        self.strangers
    }

    /// A claim of one of the router's peers has changed.
    pub fn claim_changed(&mut self, address: IpAddr, holding: Option<Holding>) {
        self.is_changed = true;
        match holding {
            Some(holding) => self.speaker.claimed(address, holding),
            None => self.speaker.released(address),
        }
    }

    /// These are all claims of the router's peers.
    pub fn replace_claims(&mut self, claims: impl Iterator<Item = (IpAddr, Holding)>) {
        self.is_changed = true;
        self.speaker.replace_claims(claims);
    }

    /// An event of the connection. Epoll watches it no more.
    pub fn event(&mut self, flags: EpollFlags) {
        let Some(connection) = &mut self.connection else { return };
        let has_ended = flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
        connection.armed = EpollFlags::empty();
        connection.is_readable |= has_ended || flags.contains(EpollFlags::EPOLLIN);
        connection.is_full &= connection.failure.is_some() || !(has_ended || flags.contains(EpollFlags::EPOLLOUT));
    }

    /// Somebody wants to connect. Epoll watches the listener no more.
    pub const fn note_caller(&mut self) {
        self.has_caller = true;
    }

    /// Returns true if there is work that doesn't wait for an event.
    pub fn has_work(&self, now: Instant) -> bool {
        let can_accept = self.has_caller && self.accept_again_at.is_none();
        let of_connection = self
            .connection
            .as_ref()
            .is_some_and(|connection| connection.is_readable || !connection.is_full && self.speaker.has_output(now));
        can_accept || of_connection || !self.heard.changes.is_empty() || self.speaker.is_sweeping()
    }

    /// Returns when there will be something to do even without an event.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.next, self.accept_again_at].into_iter().flatten().min()
    }

    /// Returns true if the daemon has told what it knows, or has had its time for that: the hold time to connect, and once more to
    /// tell.
    pub fn has_told(&self, now: Instant) -> bool {
        now >= self.told_by || self.heard.changes.is_empty() && self.speaker.status(now).is_complete
    }

    /// Does a piece of work at what comes in.
    pub fn read(&mut self, router: &mut Router, io: &mut Io<'_>, now: Instant, is_idle: bool) {
        if self.accept_again_at.is_some_and(|at| at <= now) {
            self.accept_again_at = None;
        }
        if is_idle || self.reading.is_open(now) {
            let begin = Instant::now();
            // One after the other, so that a piece stays a small one.
            let has_worked = if !self.heard.changes.is_empty() {
                true
            } else if self.speaker.sweep(&mut self.heard) {
                self.is_changed = true;
                true
            } else if self.has_caller && self.accept_again_at.is_none() {
                self.accept(io, now);
                true
            } else {
                self.read_message(io, now)
            };
            self.tell(router, io);
            if has_worked {
                self.reading.spend(begin, Instant::now());
            }
        }
        if self.next.is_some_and(|at| at <= now) {
            self.speaker.poll(now, &mut self.heard);
            self.is_changed = true;
        }
    }

    /// Does a piece of work at what goes out.
    pub fn write(&mut self, router: &mut Router, io: &mut Io<'_>, now: Instant, is_idle: bool) {
        if is_idle || self.writing.is_open(now) {
            let begin = Instant::now();
            if self.write_some(now) {
                self.writing.spend(begin, Instant::now());
            }
        }
        if self.speaker.is_to_be_closed(now) {
            self.close(io, None, now);
        }
        if std::mem::take(&mut self.is_changed) || !self.heard.notices.is_empty() {
            self.tell(router, io);
            self.next = self.speaker.next_time(now);
        }
        self.arm(io);
    }

    /// Tells the router what was heard.
    fn tell(&mut self, router: &mut Router, io: &mut Io<'_>) {
        for notice in self.heard.notices.drain(..) {
            if matches!(notice, RoutesNotice::Established { .. }) && !self.has_met {
                self.has_met = true;
                self.told_by = Instant::now() + self.hold_time;
            }
            router.note_source(io, Source::Routes, &Notice::Routes(notice));
        }
        for fault in self.heard.faults.drain(..) {
            router.note_source(io, Source::Routes, &Notice::Shell(fault));
        }
        let count = self.heard.changes.len().min(CHANGES);
        for (address, holding) in self.heard.changes.drain(..count) {
            match holding {
                Some(holding) => router.held_elsewhere(io, Source::Routes, address, holding),
                None => router.released_elsewhere(Source::Routes, address),
            }
        }
    }

    fn accept(&mut self, io: &mut Io<'_>, now: Instant) {
        match socket::accept(self.endpoint.listener()) {
            Ok(fd) => self.add(io, fd, now),
            Err(Errno::EAGAIN) => {
                self.has_caller = false;
                let mut event = EpollEvent::new(caller_flags(), Token::RoutesListener.encode());
                // It is registered, so this fails only without memory. The daemon tries again.
                let _ = io.epoll.modify(self.endpoint.listener(), &mut event);
            }
            Err(Errno::EINTR | Errno::ECONNABORTED) => {}
            Err(errno) => {
                self.heard.faults.push(format!("routes: the routing daemon can't be accepted: {errno}"));
                self.accept_again_at = Some(now + ACCEPT_PAUSE);
            }
        }
    }

    /// Takes a new connection, if it comes from where the daemon is and the one before has ended.
    fn add(&mut self, io: &mut Io<'_>, fd: OwnedFd, now: Instant) {
        self.is_changed = true;
        match tcp::peer(fd.as_fd()) {
            Some(peer) if peer.ip() == self.spec.from => {}
            peer => {
                if self.strangers == 0 {
                    let from = peer.map_or_else(|| "nowhere".to_owned(), |peer| peer.ip().to_string());
                    let line = format!("routes: refused a connection from {from}; further ones are only counted");
                    self.heard.faults.push(line);
                }
                self.strangers += 1;
                return;
            }
        }
        if self.connection.as_ref().is_some_and(|connection| socket::is_hung_up(connection.fd.as_fd())) {
            self.read_message(io, now);
            self.close(io, None, now);
        }
        match self.speaker.accept(now, &mut self.heard) {
            Accepted::Refused => _ = socket::send(fd.as_fd(), &refusal()),
            Accepted::Taken | Accepted::Replaces => {
                self.discard_connection(io);
                let event = EpollEvent::new(EpollFlags::EPOLLONESHOT, Token::RoutesConnection.encode());
                match io.epoll.add(&fd, event) {
                    Ok(()) => self.connection = Some(Connection::new(fd, false)),
                    Err(errno) => self.speaker.closed(Some(errno.to_string()), now, &mut self.heard),
                }
            }
        }
    }

    /// Reads a message, if there is one. Returns true if there was something to do.
    fn read_message(&mut self, io: &mut Io<'_>, now: Instant) -> bool {
        let Some(connection) = self.connection.as_mut().filter(|connection| connection.is_readable) else {
            return false;
        };
        match tcp::peek(connection.fd.as_fd(), &mut self.buffer) {
            Ok(0) => {
                let failure = connection.failure.take();
                self.close(io, failure, now);
            }
            Ok(len) => self.take(io, len, now),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => match connection.failure.take() {
                None => connection.is_readable = false,
                failure => self.close(io, failure, now),
            },
            Err(errno) => {
                let failure = connection.failure.take().unwrap_or_else(|| errno.to_string());
                self.close(io, Some(failure), now);
            }
        }
        true
    }

    /// Shows the speaker what was read, and takes as much as it has used.
    fn take(&mut self, io: &mut Io<'_>, len: usize, now: Instant) {
        let taken = self.speaker.received(&self.buffer[..len], now, &mut self.heard);
        self.is_changed = true;
        let Some(connection) = &mut self.connection else { return };
        // What a successor needs is kept before the bytes are taken.
        if !connection.is_stored
            && let Some(session) = self.speaker.stored()
        {
            connection.is_stored = true;
            io.store_routes(&session, connection.fd.as_fd());
        }
        let low_water = if taken.consumed > 0 { 1 } else { taken.needed.clamp(1, READ_LEN) };
        if low_water != connection.low_water && tcp::set_low_water(connection.fd.as_fd(), low_water).is_ok() {
            connection.low_water = low_water;
        }
        if taken.consumed == 0 {
            connection.is_readable = false;
        } else if let Err(errno) = socket::recv(connection.fd.as_fd(), &mut self.buffer[..taken.consumed]) {
            self.close(io, Some(errno.to_string()), now);
        }
    }

    /// Writes what waits, as far as the kernel takes it. Returns true if there was something.
    fn write_some(&mut self, now: Instant) -> bool {
        let Some(connection) = self.connection.as_mut().filter(|connection| !connection.is_full) else { return false };
        let waiting = self.speaker.output(now).len();
        let Some((position, bytes)) = self.speaker.unsent().filter(|_| waiting > 0) else { return false };
        self.document.clear();
        self.document.extend_from_slice(&position.to_ne_bytes());
        self.document.extend_from_slice(bytes);
        self.is_changed = true;
        // Without memory for it the session goes on, and ends with this router.
        let _ = self.unsent.write(&self.document);
        match socket::send(connection.fd.as_fd(), &bytes[bytes.len() - waiting..]) {
            Ok(count) => {
                connection.is_full = count < waiting;
                self.speaker.sent(count, now);
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => connection.is_full = true,
            Err(errno) => {
                connection.failure = Some(errno.to_string());
                (connection.is_full, connection.is_readable) = (true, true);
            }
        }
        true
    }

    /// The connection has ended, or is to end.
    fn close(&mut self, io: &mut Io<'_>, error: Option<String>, now: Instant) {
        self.discard_connection(io);
        self.is_changed = true;
        self.speaker.closed(error, now, &mut self.heard);
    }

    fn discard_connection(&mut self, io: &mut Io<'_>) {
        let Some(connection) = self.connection.take() else { return };
        let _ = io.epoll.delete(&connection.fd);
        // The store has a copy, so that closing it would not end the connection.
        socket::shut_down(connection.fd.as_fd());
        if connection.is_stored {
            io.unstore_routes();
        }
    }

    /// Has epoll watch for what is waited for.
    fn arm(&mut self, io: &Io<'_>) {
        let Some(connection) = &mut self.connection else { return };
        let mut wanted = EpollFlags::empty();
        wanted.set(EpollFlags::EPOLLIN, !connection.is_readable);
        wanted.set(EpollFlags::EPOLLOUT, connection.is_full && connection.failure.is_none());
        if wanted.is_empty() || wanted == connection.armed {
            return;
        }
        let mut event = EpollEvent::new(wanted | EpollFlags::EPOLLONESHOT, Token::RoutesConnection.encode());
        if io.epoll.modify(&connection.fd, &mut event).is_ok() {
            connection.armed = wanted;
        }
    }
}

/// One event for all that wait to be accepted.
fn caller_flags() -> EpollFlags {
    EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT
}
