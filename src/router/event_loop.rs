//! The event loop: reads and writes, and asks the forwarder what to do with each packet.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd;

use super::handshake::frames_start;
use super::peer::{Departure, Stage};
use super::queue::{Flushed, SpareBuffers};
use super::stats::{PeerStats, Snapshot, Totals};
use super::stats_server::StatsServer;
use super::table::PeerTable;
use super::token::Token;
use super::{RouterError, Setup};
use crate::log::LimitedLogger;
use crate::policy::drops::{DropCounters, DropReason};
use crate::policy::forward::{Forwarder, Inward, Origin, Outward};
use crate::policy::registry::PeerId;
use crate::sys::process::raise_descriptor_limit;
use crate::sys::socket;
use crate::sys::tun::Tun;
use crate::wire::frame::{Frame, FrameKind, Frames, MAX_FRAME_LEN};
use crate::wire::rule;

/// Events taken from the kernel in one wake-up.
const EVENTS: usize = 64;

/// Packets read from the TUN device, or datagrams from the gateway, in one wake-up, before the peers get their turn.
const PACKET_BUDGET: usize = 64;

/// Bytes read from one peer in one wake-up.
const READ_LEN: usize = 64 * 1024;

/// Lines in a minute on peers that come and go, and on those that misbehave.
const PEER_LINES: u32 = 500;
const FAULT_LINES: u32 = 60;

/// A running router.
#[derive(Debug)]
pub struct EventLoop<'a> {
    pub(super) setup: &'a Setup,
    /// In place of the setup's device, if that one was deleted.
    remade_tun: Option<Tun>,
    pub(super) epoll: Epoll,
    pub(super) forwarder: Forwarder,
    pub(super) peers: PeerTable,
    /// Peers with frames to write at the end of this wake-up.
    to_flush: Vec<PeerId>,
    spares: SpareBuffers,
    /// What is read ends up here: a peer's partial frame and what follows it, or one packet.
    buffer: Box<[u8]>,
    pub(super) accept_again_at: Option<Instant>,
    stats: Option<StatsServer<'a>>,
    pub(super) totals: Totals,
    drops: DropCounters,
    peer_log: LimitedLogger,
    pub(super) fault_log: LimitedLogger,
    started: Instant,
}

impl<'a> EventLoop<'a> {
    /// Makes what must not exist before the fork: the event queue and the buffers.
    pub fn new(setup: &'a Setup) -> Result<Self, RouterError> {
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
        let stats = setup.stats.as_ref().map(|endpoint| StatsServer::new(endpoint, &epoll)).transpose()?;
        if let Err(errno) = raise_descriptor_limit() {
            setup.logger.line(format_args!("[tuntap-router] can't raise the limit of open descriptors: {errno}"));
        }
        Ok(Self {
            setup,
            remade_tun,
            epoll,
            forwarder: Forwarder::new(setup.policy.clone()),
            peers: PeerTable::default(),
            to_flush: Vec::new(),
            spares: SpareBuffers::default(),
            buffer: vec![0; MAX_FRAME_LEN + READ_LEN].into_boxed_slice(),
            accept_again_at: None,
            stats,
            totals: Totals::default(),
            drops: DropCounters::default(),
            peer_log: LimitedLogger::new(setup.logger, PEER_LINES, started),
            fault_log: LimitedLogger::new(setup.logger, FAULT_LINES, started),
            started,
        })
    }

    /// Forwards until the TUN device or the event queue fails.
    pub fn run(mut self) -> Result<Infallible, RouterError> {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let ready = match self.epoll.wait(&mut events, self.timeout(Instant::now())) {
                Ok(count) => &events[..count],
                Err(Errno::EINTR) => &[],
                Err(errno) => return Err(errno.into()),
            };
            for event in ready {
                if let Some(token) = Token::decode(event.data()) {
                    self.dispatch(token, event.events())?;
                }
            }
            self.flush_peers();
            let now = Instant::now();
            self.resume_accepting(now);
            if let Some(stats) = &mut self.stats {
                stats.expire(now);
            }
        }
    }

    fn dispatch(&mut self, token: Token, flags: EpollFlags) -> Result<(), RouterError> {
        match token {
            Token::Tun => self.read_tun()?,
            Token::Listener => self.accept_peers(Instant::now()),
            Token::Gateway => self.read_gateway(),
            Token::StatsListener => self.serve_stats(None),
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

    /// How long to sleep when nothing happens.
    fn timeout(&self, now: Instant) -> EpollTimeout {
        let stats_deadline = self.stats.as_ref().and_then(StatsServer::next_deadline);
        let Some(next) = self.accept_again_at.into_iter().chain(stats_deadline).min() else {
            return EpollTimeout::NONE;
        };
        // One millisecond more, so that the deadline has passed at the wake-up.
        let millis = next.saturating_duration_since(now).as_millis() + 1;
        EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX)
    }

    fn tun(&self) -> &Tun {
        self.remade_tun.as_ref().unwrap_or(&self.setup.tun)
    }

    /// The router's name in the log: that of its device.
    pub(super) fn name(&self) -> &'a str {
        self.setup.tun.name()
    }

    // ---- from the peers ----

    fn read_peer(&mut self, id: PeerId) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = match self.peers.get(id).map(|peer| peer.stage) {
            Some(Stage::Credentials) => self.read_credentials(id),
            Some(Stage::Start | Stage::Frames) => self.read_frames(id, &mut buffer),
            None => Ok(()),
        };
        self.buffer = buffer;
        if let Err(departure) = result {
            self.disconnect(id, departure);
        }
    }

    fn read_frames(&mut self, id: PeerId, buffer: &mut [u8]) -> Result<(), Departure> {
        let Some(peer) = self.peers.get_mut(id) else { return Ok(()) };
        let partial_len = peer.partial.len();
        buffer[..partial_len].copy_from_slice(&peer.partial);
        let count = match socket::recv(peer.as_fd(), &mut buffer[partial_len..]) {
            Ok(0) => return Err(Departure::Closed),
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(Departure::Socket(errno)),
        };
        peer.traffic.rx_bytes += count as u64;
        let bytes = &buffer[..partial_len + count];
        let start = match peer.stage {
            Stage::Start => frames_start(bytes)?,
            Stage::Credentials | Stage::Frames => Some(0),
        };
        let mut frames = Frames::new(match start {
            Some(start) => {
                peer.stage = Stage::Frames;
                &bytes[start..]
            }
            None => &[],
        });
        for frame in frames.by_ref() {
            self.handle_frame(id, frame?)?;
        }
        if let Some(peer) = self.peers.get_mut(id) {
            peer.partial = if start.is_some() { frames.rest() } else { bytes }.to_vec();
        }
        Ok(())
    }

    fn handle_frame(&mut self, id: PeerId, frame: Frame<'_>) -> Result<(), Departure> {
        match frame.kind {
            FrameKind::Packet => self.forward_outward(id, frame.payload),
            FrameKind::Rules => {
                let rules = rule::decode_all(frame.payload).ok_or(Departure::Rules(frame.payload.len()))?;
                self.forwarder.set_rules(id, rules);
            }
            FrameKind::Other(_) => self.count_drop(Some(id), DropReason::UnknownFrame),
        }
        Ok(())
    }

    fn forward_outward(&mut self, id: PeerId, packet: &[u8]) {
        let mut verdict = self.forwarder.outward(id, packet);
        if let Outward::Contested { holder, .. } = verdict.to
            && self.remove_if_dead(holder)
        {
            verdict = self.forwarder.outward(id, packet);
        }
        if let Some(address) = verdict.claimed {
            self.log_claim(id, address);
        }
        let sent = match verdict.to {
            Outward::Tun => self.send_to_tun(packet),
            Outward::Gateway(target) => self.send_to_gateway(target, packet),
            Outward::Drop(reason) => Err(reason),
            Outward::Contested { address, .. } => {
                self.log_refused_claim(id, address, Instant::now());
                Err(DropReason::AddressHeld)
            }
        };
        match sent {
            Ok(()) => {
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.traffic.rx_packets += 1;
                }
            }
            Err(reason) => self.count_drop(Some(id), reason),
        }
    }

    /// The kernel's refusals are the packet's end, not the router's: EIO while the device is down, EINVAL for what
    /// it can't parse, ENOBUFS without memory. That the device is gone shows when it is read.
    fn send_to_tun(&mut self, packet: &[u8]) -> Result<(), DropReason> {
        loop {
            match self.tun().send(packet) {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(DropReason::TunRefused),
            }
        }
        self.totals.tun_tx_packets += 1;
        self.totals.tun_tx_bytes += packet.len() as u64;
        Ok(())
    }

    fn send_to_gateway(&mut self, target: SocketAddrV4, packet: &[u8]) -> Result<(), DropReason> {
        let gateway = self.setup.gateway.as_ref().ok_or(DropReason::NoGateway)?;
        gateway.socket.send_to(packet, target).map_err(|_| DropReason::GatewayRefused)?;
        self.totals.gateway_tx_packets += 1;
        self.totals.gateway_tx_bytes += packet.len() as u64;
        Ok(())
    }

    // ---- towards the peers ----

    fn read_tun(&mut self) -> Result<(), RouterError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.forward_from_tun(&mut buffer);
        self.buffer = buffer;
        result.map_err(|error| {
            let name = self.name().to_owned();
            if Tun::is_gone(&error) { RouterError::DeviceGone(name) } else { RouterError::Device(name, error) }
        })
    }

    fn forward_from_tun(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..PACKET_BUDGET {
            let len = match self.tun().recv(buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.totals.tun_rx_packets += 1;
            self.totals.tun_rx_bytes += len as u64;
            self.forward_inward(Origin::Tun, &buffer[..len]);
        }
        Ok(())
    }

    fn read_gateway(&mut self) {
        let Some(gateway) = &self.setup.gateway else { return };
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..PACKET_BUDGET {
            match gateway.socket.recv(&mut buffer) {
                Ok(len) => {
                    self.totals.gateway_rx_packets += 1;
                    self.totals.gateway_rx_bytes += len as u64;
                    self.forward_inward(Origin::Gateway, &buffer[..len]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // An earlier datagram's ICMP error, say. It is gone with this read.
                Err(_) => {}
            }
        }
        self.buffer = buffer;
    }

    fn forward_inward(&mut self, origin: Origin, packet: &[u8]) {
        let id = match self.forwarder.inward(origin, packet) {
            Inward::Peer(id) => id,
            Inward::Drop(reason, holder) => return self.count_drop(holder, reason),
        };
        let Some(peer) = self.peers.get_mut(id) else { return self.count_drop(None, DropReason::NoPeer) };
        if !peer.queue.push(packet, &mut self.spares) {
            return self.count_drop(Some(id), DropReason::QueueFull);
        }
        peer.traffic.tx_packets += 1;
        if !peer.to_flush && !peer.watches_writable {
            peer.to_flush = true;
            self.to_flush.push(id);
        }
    }

    fn flush_peers(&mut self) {
        let mut ids = std::mem::take(&mut self.to_flush);
        for id in ids.drain(..) {
            self.flush_peer(id);
        }
        self.to_flush = ids;
    }

    fn flush_peer(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.to_flush = false;
        let mut queue = std::mem::take(&mut peer.queue);
        let result = queue.flush(peer.as_fd(), &mut self.spares);
        peer.queue = queue;
        let (count, flushed) = match result {
            Ok(done) => done,
            Err(Errno::EPIPE | Errno::ECONNRESET) => return self.disconnect(id, Departure::Closed),
            Err(errno) => return self.disconnect(id, Departure::Socket(errno)),
        };
        peer.traffic.tx_bytes += count as u64;
        let watch = flushed == Flushed::Partly;
        if watch != peer.watches_writable {
            peer.watches_writable = watch;
            let flags = if watch { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
            let mut event = EpollEvent::new(flags, Token::Peer(id).encode());
            if let Err(errno) = self.epoll.modify(&*peer, &mut event) {
                self.disconnect(id, Departure::Socket(errno));
            }
        }
    }

    // ---- peers that go ----

    /// Removes a peer whose other end is closed already. Returns whether it was.
    pub(super) fn remove_if_dead(&mut self, id: PeerId) -> bool {
        let dead = self.peers.get(id).is_none_or(|peer| socket::is_hung_up(peer.as_fd()));
        if dead {
            self.disconnect(id, Departure::Closed);
        }
        dead
    }

    /// Ends a connection and frees its address.
    pub(super) fn disconnect(&mut self, id: PeerId, departure: Departure) {
        let address = self.forwarder.address(id);
        self.forwarder.remove_peer(id);
        let Some(peer) = self.peers.remove(id) else { return };
        // Closing is enough unless another process has the same socket, as after a fork in a credentials hook.
        let _ = self.epoll.delete(&peer);
        let now = Instant::now();
        let (name, pid, uid) = (self.name(), peer.credentials.pid, peer.credentials.uid);
        match (address, departure) {
            (Some(address), _) => self.peer_log.line(
                now,
                format_args!("[tuntap-router] {name}: peer {address} left (pid {pid}, uid {uid}): {departure}"),
            ),
            (None, Departure::Closed) => {}
            (None, _) => self.fault_log.line(
                now,
                format_args!("[tuntap-router] {name}: peer without address ended (pid {pid}, uid {uid}): {departure}"),
            ),
        }
        if departure != Departure::Closed {
            self.totals.faults += 1;
        }
    }

    // ---- accounts ----

    pub(super) fn log_claim(&mut self, id: PeerId, address: Ipv4Addr) {
        self.totals.claims += 1;
        let Some(peer) = self.peers.get(id) else { return };
        let (name, pid, uid) = (self.name(), peer.credentials.pid, peer.credentials.uid);
        self.peer_log
            .line(Instant::now(), format_args!("[tuntap-router] {name}: peer {address} joined (pid {pid}, uid {uid})"));
    }

    /// Once for each address that a peer tries to take.
    pub(super) fn log_refused_claim(&mut self, id: PeerId, address: Ipv4Addr, now: Instant) {
        let name = self.name();
        let Some(peer) = self.peers.get_mut(id) else { return };
        if peer.refused_claim.replace(address) != Some(address) {
            let (pid, uid) = (peer.credentials.pid, peer.credentials.uid);
            self.fault_log.line(
                now,
                format_args!(
                    "[tuntap-router] {name}: address {address} is held by another peer, \
                     dropping packets with it from pid {pid}, uid {uid}"
                ),
            );
        }
    }

    fn count_drop(&mut self, id: Option<PeerId>, reason: DropReason) {
        self.drops.count(reason);
        if let Some(peer) = id.and_then(|id| self.peers.get_mut(id)) {
            peer.traffic.drops.count(reason);
        }
    }

    fn serve_stats(&mut self, client: Option<u32>) {
        let Some(mut server) = self.stats.take() else { return };
        let now = Instant::now();
        let json = |minified| self.snapshot(now).to_json(minified);
        let result = match client {
            Some(serial) => {
                server.progress(serial, &self.epoll, now, &json);
                Ok(())
            }
            None => server.accept(&self.epoll, now, &json),
        };
        self.stats = Some(server);
        if let Err(errno) = result {
            self.pause_accepting(now, errno);
        }
    }

    fn snapshot(&self, now: Instant) -> Snapshot<'_> {
        let peers = self.peers.iter().map(|(id, peer)| {
            let (addr, addr_32) = PeerStats::address_forms(self.forwarder.address(id));
            let traffic = &peer.traffic;
            PeerStats {
                addr,
                addr_32,
                uid: peer.credentials.uid,
                gid: peer.credentials.gid,
                pid: peer.credentials.pid,
                tx: traffic.tx_bytes,
                rx: traffic.rx_bytes,
                dropped: traffic.dropped(),
                tx_packets: traffic.tx_packets,
                rx_packets: traffic.rx_packets,
                queued: peer.queue.len(),
                rules: self.forwarder.rules_count(id),
                drops: &traffic.drops,
            }
        });
        Snapshot {
            version: &self.setup.host_version,
            pid: unistd::getpid().as_raw(),
            uid: unistd::getuid().as_raw(),
            gid: unistd::getgid().as_raw(),
            cwd: std::env::current_dir().map_or_else(|_| String::new(), |path| path.to_string_lossy().into_owned()),
            peers: peers.collect(),
            plugin_version: env!("CARGO_PKG_VERSION"),
            device: self.name(),
            socket: &self.setup.socket_name,
            gateway: self.setup.gateway.as_ref().map(|gateway| gateway.address.to_string()),
            uptime: now.saturating_duration_since(self.started).as_secs(),
            totals: &self.totals,
            drops: &self.drops,
        }
    }
}

/// Makes the TUN device again after it was deleted. Its addresses and routes are gone all the same.
fn remake(setup: &Setup) -> Result<Tun, RouterError> {
    let tun = Tun::create(setup.tun.name())?;
    setup.logger.line(format_args!(
        "[tuntap-router] {}: the device was deleted and is made again; set its addresses and routes again, too",
        tun.name()
    ));
    Ok(tun)
}
