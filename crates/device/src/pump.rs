//! The thread that moves packets between a TUN device and its router.

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use std::{io, mem};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::unistd;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::autoconf::Holding;
use super::greeting::{Greeted, renew_hello, say_hello, show_current_credentials};
use super::rejoin::{Hopeless, Rejoin, Rejoined, Root};
use tuntap_sys::log::{Event, Logger};
use tuntap_sys::process::end_process;
use tuntap_sys::socket;
use tuntap_sys::tun::Tun;
use tuntap_wire::attach::HelloReply;
use tuntap_wire::autoconf::Family;
use tuntap_wire::frame::{self, FrameError, FrameKind, Frames, MAX_FRAME_LEN, MAX_PAYLOAD_LEN};
use tuntap_wire::vnet::{Offload, VNET_HEADER_LEN};

/// Packets read from the device before they are written to the router in one go.
const PACKET_BUDGET: usize = 64;

/// Bytes read from the router in one go.
const READ_LEN: usize = 64 * 1024;

/// Interval at which the thread checks that the privileges have been dropped, if it has to wait for that.
const PRIVILEGES_POLL: Duration = Duration::from_millis(50);

/// The state of the thread that outlives it: bytes on their way, and what is known of the router.
///
/// After a reload it may come from another version of the plugin. A field that this version doesn't find has its default.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Buffers {
    /// Frames that the router's socket had no room for, the first one perhaps written in part.
    pub to_router: Vec<u8>,
    /// The first part of a frame that has not arrived completely.
    pub from_router: Vec<u8>,
    /// True if the router reads and writes the device itself.
    pub attached: bool,
    /// True if the router has answered a question or the hello. A router of the C plugin never does.
    pub router_is_ours: bool,
    /// Frames that have to wait until the privileges are dropped and the credentials are sent.
    pub greeting: Option<Vec<u8>>,
    /// The directory that was the root when the connection was made.
    pub root: Option<Root>,
    /// The device's addresses, for its next connection.
    pub holding: Holding,
    /// True if the connection has to be replaced by a new one, because rules or credentials have changed.
    #[serde(skip)]
    pub connects_anew: bool,
}

impl Buffers {
    /// Returns true if a packet may travel in a frame. A C router would take an IPv6 packet for an IPv4 one, and corrupt its memory
    /// with a longer frame.
    fn may_carry(&self, packet: &[u8]) -> bool {
        let is_known_version = match packet.first().map(|first| first >> 4) {
            Some(4) => true,
            Some(6) => self.router_is_ours,
            _ => false,
        };
        is_known_version && packet.len() <= MAX_PAYLOAD_LEN
    }

    /// The buffers of a connection that has just been made.
    pub fn after_greeting(greeted: Greeted, from_router: Vec<u8>, holding: Holding) -> Self {
        let greeting = match greeted {
            Greeted::Done => None,
            Greeted::Waiting(frames) => Some(frames),
        };
        Self { greeting, from_router, holding, root: Root::current(), ..Self::default() }
    }
}

/// Why a device has no network any more.
#[derive(Debug, Error)]
enum Loss {
    #[error("the router has closed the connection")]
    Closed,
    #[error("the router sent {0}")]
    Frame(#[from] FrameError),
    #[error("the connection to the router failed: {0}")]
    Socket(Errno),
    #[error("the device was deleted")]
    DeviceGone,
    #[error("the device can't be read: {0}")]
    Device(io::Error),
    #[error("the event queue failed: {0}")]
    Epoll(Errno),
    #[error(transparent)]
    Hopeless(#[from] Hopeless),
}

impl Loss {
    /// Returns true if another connection to the router could help.
    const fn is_the_routers(&self) -> bool {
        matches!(self, Self::Closed | Self::Frame(_) | Self::Socket(_))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Tun,
    Router,
    Stop,
}

/// What the thread works with.
#[derive(Debug)]
pub struct Pump {
    tun: Arc<Tun>,
    router: Arc<OwnedFd>,
    stop: Arc<EventFd>,
    epoll: Epoll,
    buffers: Buffers,
    rejoin: Rejoin,
    logger: Logger,
    /// Buffer for reads.
    scratch: Box<[u8]>,
    /// True if the router's socket is full. The device is not read then, so packets wait in its queue.
    blocked: bool,
}

impl Pump {
    /// Makes the pump. It shares the descriptors with the [`super::link::Link`].
    pub fn new(
        tun: &Arc<Tun>,
        router: &Arc<OwnedFd>,
        stop: &Arc<EventFd>,
        epoll: Epoll,
        buffers: Buffers,
        rejoin: Rejoin,
    ) -> Self {
        Self {
            tun: Arc::clone(tun),
            router: Arc::clone(router),
            stop: Arc::clone(stop),
            epoll,
            buffers,
            logger: rejoin.logger(),
            rejoin,
            scratch: vec![0; MAX_FRAME_LEN + READ_LEN].into_boxed_slice(),
            blocked: false,
        }
    }

    /// Moves packets until it is told to stop. If the router is lost, it reconnects. If the device itself is lost, or waiting
    /// can't help, the vassal ends, because it would go on without a network and nobody would notice.
    pub fn run(mut self) -> Buffers {
        let name = self.tun.name().to_owned();
        let logger = self.logger;
        let result = catch_unwind(AssertUnwindSafe(|| self.serve()));
        match result {
            Ok(Ok(())) => return mem::take(&mut self.buffers),
            Ok(Err(loss)) => {
                logger.line(Event::DeviceLost, format_args!("[uwsgi-tuntap] {name}: {loss}; this instance ends"))
            }
            Err(_) => logger.line(
                Event::DeviceLost,
                format_args!("[uwsgi-tuntap] {name}: panic in its thread; this instance ends"),
            ),
        }
        end_process();
        Buffers::default()
    }

    fn serve(&mut self) -> Result<(), Loss> {
        if mem::take(&mut self.buffers.connects_anew) {
            // The router sees the end of the connection, and releases the device and the addresses.
            socket::shut_down(self.router.as_fd());
            if !self.reconnect()? {
                return Ok(());
            }
        }
        loop {
            let result = match self.greet_after_privileges_drop() {
                Ok(true) => self.pump(),
                Ok(false) => Ok(()),
                Err(loss) => Err(loss),
            };
            match result {
                Err(loss) if loss.is_the_routers() && !self.rejoin.is_required() => {
                    self.logger.line(
                        Event::RouterLost,
                        format_args!("[uwsgi-tuntap] {}: {loss}; looking for it", self.tun.name()),
                    );
                    if !self.reconnect()? {
                        return Ok(());
                    }
                }
                result => return result,
            }
        }
    }

    /// Connects to the router again. Returns false if the thread is to stop.
    fn reconnect(&mut self) -> Result<bool, Loss> {
        // The router doesn't read the device any more. Until it is back, packets wait in the device's queue.
        self.tun.disable_offloads();
        let old = mem::take(&mut self.buffers);
        self.blocked = false;
        // A child of this process may have a copy of the descriptor, which would keep it in the queue.
        let _ = self.epoll.delete(self.router.as_fd());
        match self.rejoin.run(&self.tun, &self.router, &self.stop, &old)? {
            Rejoined::Joined(buffers) => self.buffers = *buffers,
            // The next thread will find this connection lost, too.
            Rejoined::Stopped => {
                self.buffers = old;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends a greeting that had to wait until the privileges are dropped. Returns false if the thread is to stop.
    fn greet_after_privileges_drop(&mut self) -> Result<bool, Loss> {
        let Some(greeting) = &self.buffers.greeting else { return Ok(true) };
        while unistd::getuid().is_root() {
            if socket::wait_readable(self.stop.as_fd(), PRIVILEGES_POLL) {
                return Ok(false);
            }
        }
        show_current_credentials(&self.router)
            .and_then(|()| say_hello(&self.router, &self.tun, greeting, self.rejoin.context()))
            .map_err(Loss::Socket)?;
        self.buffers.greeting = None;
        Ok(true)
    }

    fn pump(&mut self) -> Result<(), Loss> {
        for source in [Source::Tun, Source::Router, Source::Stop] {
            self.watch(source).map_err(Loss::Epoll)?;
        }
        self.write_to_router()?;
        let mut events = [EpollEvent::empty(); 3];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(Loss::Epoll(errno)),
            };
            #[cfg(feature = "faults")]
            tuntap_sys::faults::point("device");
            for event in &events[..count] {
                match Source::decode(event.data()) {
                    // The event may be older than the answer by which the router took the device.
                    Some(Source::Tun) if self.buffers.attached && event.events() == EpollFlags::EPOLLIN => {}
                    Some(Source::Tun) => {
                        self.read_tun()?;
                        self.write_to_router()?;
                    }
                    Some(Source::Router) => {
                        if event.events().contains(EpollFlags::EPOLLOUT) {
                            self.write_to_router()?;
                        }
                        if event.events().intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP) {
                            self.read_router()?;
                        }
                    }
                    Some(Source::Stop) => return Ok(()),
                    None => {}
                }
            }
        }
    }

    fn watch(&self, source: Source) -> nix::Result<()> {
        let input = EpollFlags::EPOLLIN;
        let (fd, flags) = match source {
            Source::Tun if self.blocked || self.buffers.attached => (self.tun.as_fd(), EpollFlags::empty()),
            Source::Tun => (self.tun.as_fd(), input),
            Source::Router if self.blocked => (self.router.as_fd(), input | EpollFlags::EPOLLOUT),
            Source::Router => (self.router.as_fd(), input),
            Source::Stop => (self.stop.as_fd(), input),
        };
        let mut event = EpollEvent::new(flags, source.encode());
        match self.epoll.modify(fd, &mut event) {
            Err(Errno::ENOENT) => self.epoll.add(fd, event),
            result => result,
        }
    }

    fn read_tun(&mut self) -> Result<(), Loss> {
        for _ in 0..PACKET_BUDGET {
            let len = match self.tun.recv(&mut self.scratch) {
                Ok(len) => len,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    io::ErrorKind::Interrupted => continue,
                    _ if Tun::is_gone(&error) => return Err(Loss::DeviceGone),
                    _ => return Err(Loss::Device(error)),
                },
            };
            let packet = &self.scratch[VNET_HEADER_LEN.min(len)..len];
            if self.buffers.may_carry(packet) {
                let _fits = frame::append(&mut self.buffers.to_router, FrameKind::Packet, packet);
            }
        }
        Ok(())
    }

    fn write_to_router(&mut self) -> Result<(), Loss> {
        let mut written = 0;
        let pending = &self.buffers.to_router;
        let mut full = false;
        while written < pending.len() && !full {
            match socket::send(self.router.as_fd(), &pending[written..]) {
                Ok(count) => written += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => full = true,
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(Loss::Closed),
                Err(errno) => return Err(Loss::Socket(errno)),
            }
        }
        self.buffers.to_router.drain(..written);
        if full != self.blocked {
            self.blocked = full;
            self.watch(Source::Tun).map_err(Loss::Epoll)?;
            self.watch(Source::Router).map_err(Loss::Epoll)?;
        }
        Ok(())
    }

    fn read_router(&mut self) -> Result<(), Loss> {
        let partial_len = self.buffers.from_router.len();
        self.scratch[..partial_len].copy_from_slice(&self.buffers.from_router);
        let count = match socket::recv(self.router.as_fd(), &mut self.scratch[partial_len..]) {
            Ok(0) | Err(Errno::ECONNRESET) => return Err(Loss::Closed),
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(Loss::Socket(errno)),
        };
        let mut frames = Frames::new(&self.scratch[..partial_len + count]);
        let mut answer = None;
        for frame in frames.by_ref() {
            let frame = frame?;
            match frame.kind {
                // The kernel refuses it while the device is down, or if it is no packet. It is lost then, as on any wire.
                FrameKind::Packet => _ = self.tun.send(&Offload::NONE, frame.payload),
                FrameKind::HelloReply => answer = HelloReply::decode(frame.payload).or(answer),
                FrameKind::Hello
                | FrameKind::Rules
                | FrameKind::ExtendedRules
                | FrameKind::ConfigurationRequest
                | FrameKind::Configuration
                | FrameKind::ClaimRequest
                | FrameKind::Other(_) => {}
            }
        }
        let rest = frames.rest();
        self.buffers.from_router.clear();
        self.buffers.from_router.extend_from_slice(rest);
        match answer {
            Some(answer) => self.change_path(answer),
            None => Ok(()),
        }
    }

    /// Leaves the device to the router, or takes it back. Packets that don't fit frames (offloads) may be turned on only while the
    /// router reads the device.
    fn change_path(&mut self, answer: HelloReply) -> Result<(), Loss> {
        if !mem::replace(&mut self.buffers.router_is_ours, true) {
            // These were held back, because the router could have been one of the C plugin.
            let claims = self.buffers.holding.echo_requests(Family::V6);
            self.buffers.to_router.extend(claims);
            self.write_to_router()?;
        }
        match answer {
            HelloReply::Attached => {
                self.buffers.attached = true;
                self.watch(Source::Tun).map_err(Loss::Epoll)?;
                self.tun.best_offloads();
            }
            HelloReply::Refused => {
                self.buffers.attached = false;
                self.tun.disable_offloads();
                self.watch(Source::Tun).map_err(Loss::Epoll)?;
            }
            // The device stays attached. Nobody reads it until the router has a copy of the descriptor again.
            HelloReply::Renew => renew_hello(&self.router, &self.tun, self.rejoin.context()).map_err(Loss::Socket)?,
        }
        Ok(())
    }
}

impl Source {
    const fn encode(self) -> u64 {
        match self {
            Self::Tun => 0,
            Self::Router => 1,
            Self::Stop => 2,
        }
    }

    const fn decode(data: u64) -> Option<Self> {
        match data {
            0 => Some(Self::Tun),
            1 => Some(Self::Router),
            2 => Some(Self::Stop),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_is_for_routers_that_have_answered() {
        let unknown = Buffers::default();
        let ours = Buffers { router_is_ours: true, ..Buffers::default() };
        for (first, to_unknown, to_ours) in [(0x45, true, true), (0x60, false, true), (0x10, false, false)] {
            assert_eq!(
                (unknown.may_carry(&[first; 40]), ours.may_carry(&[first; 40])),
                (to_unknown, to_ours),
                "{first:#x}"
            );
            assert!(!ours.may_carry(&[first; MAX_PAYLOAD_LEN + 1]));
        }
        assert!(!ours.may_carry(&[]));
    }

    /// The IPv6 addresses are claimed once, from a router that has shown by its answer that it is not of the C plugin.
    #[test]
    fn ipv6_addresses_are_claimed_when_the_router_has_answered() {
        let work = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs root");
            let tun = Arc::new(Tun::create("tun0").expect("a device"));
            let (near, far) = std::os::unix::net::UnixStream::pair().expect("a pair");
            let context = crate::Context {
                specs: Vec::new(),
                rules: Vec::new(),
                identity: None,
                timeout: Duration::ZERO,
                required: false,
                router_only: false,
                vassal: String::new(),
                logger: Logger(|_| {}),
                keep_open: |_| {},
            };
            let [v4, v6]: [std::net::IpAddr; 2] =
                ["10.0.0.2", "fd00:77::2"].map(|address| address.parse().expect("an address"));
            let holding = Holding { fixed: vec![(v4, v4), (v6, v6)], ..Holding::default() };
            let buffers = Buffers { holding, ..Buffers::default() };
            let stop = Arc::new(EventFd::new().expect("an event"));
            let epoll = Epoll::new(nix::sys::epoll::EpollCreateFlags::empty()).expect("an epoll");
            let router = Arc::new(OwnedFd::from(near));
            let mut pump = Pump::new(&tun, &router, &stop, epoll, buffers, Rejoin::new("tun0", "@none", &context));
            for _ in 0..2 {
                pump.change_path(HelloReply::Refused).expect("the connection lives");
            }
            let mut bytes = [0; 1024];
            let count = socket::recv(far.as_fd(), &mut bytes).expect("a claim");
            let sent: Vec<_> =
                Frames::new(&bytes[..count]).map(|frame| frame.expect("a frame").payload[0] >> 4).collect();
            assert_eq!(sent, [6]);
        };
        std::thread::spawn(work).join().expect("the test's own thread");
    }

    #[test]
    fn what_the_router_is_survives_a_reload() {
        let ours = Buffers { router_is_ours: true, ..Buffers::default() };
        let kept = serde_json::to_string(&ours).expect("plain values");
        assert!(serde_json::from_str::<Buffers>(&kept).expect("its own format").router_is_ours);
        // An older version may not write the field.
        assert!(!serde_json::from_str::<Buffers>("{}").expect("everything has a default").router_is_ours);
    }
}
