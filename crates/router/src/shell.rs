//! Implements [`Shell`] with descriptors, the log and the store.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::closer::Closer;
use super::control::{CaptureTeller, DropTeller, PER_SECOND};
use super::events;
use super::heartbeat::Pulse;
use super::hosts::TrunkSockets;
use super::kernel_path::KernelPath;
use super::script::{DryRun, LoopScript};
use super::store::StoreWriter;
use super::token::Token;
use super::{CredentialsCheck, Setup};
use tuntap_api::control::Dropped;
use tuntap_core::kernel_path::{FlowId, KernelFlow, PairDrops, Revoke, Usage};
use tuntap_core::policy::registry::PeerId;
use tuntap_core::policy::script::{ScriptQuery, ScriptVerdict};
use tuntap_core::router::capture::CaptureRecord;
use tuntap_core::router::notice::Notice;
use tuntap_core::router::quarantine::{Offender, Record};
use tuntap_core::router::restore::StoredPeer;
use tuntap_core::router::{
    BatchError, DeviceFacts, DeviceWrite, DropRecord, Fault, Router, SendError, Shell, ThreadUsage, WriteError,
};
use tuntap_core::routes::takeover::StoredSession;
use tuntap_core::trunk::{Sent, TrunkId};
use tuntap_sys::alarm::Alarm;
use tuntap_sys::log::Event;
use tuntap_sys::net;
use tuntap_sys::netlink::Netlink;
use tuntap_sys::process::{context_switches, thread_time_nanos};
use tuntap_sys::socket::{self, path_mtu, sends_batches};
use tuntap_sys::tun::{Tun, supports_nowait};
use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::gso::GsoPacket;
use tuntap_wire::holding::RouterId;
use tuntap_wire::vnet::Offload;

/// How long to wait after the store could not be rewritten. The cost of rewriting it grows with the number of peers.
const REWRITE_PAUSE: Duration = Duration::from_secs(10);

/// Makes a fault from a kernel's error number.
pub fn fault(errno: Errno) -> Fault {
    Fault(errno.to_string())
}

/// A peer's descriptors.
#[derive(Debug)]
struct Connection {
    id: PeerId,
    fd: OwnedFd,
    /// The descriptor that the peer has passed, until it is accepted or discarded.
    offer: Option<OwnedFd>,
    /// The device of that descriptor, once it was checked.
    candidate: Option<Tun>,
    device: Option<Tun>,
    /// True if a write to the device had to be ended by the alarm.
    has_blocked: bool,
}

/// The surroundings of a router: its descriptors, its log and its store.
#[derive(Debug)]
pub struct Io<'a> {
    pub(super) setup: &'a Setup,
    /// The device that replaces the setup's device if that was deleted.
    pub(super) remade_tun: Option<Tun>,
    pub(super) epoll: Epoll,
    pub(super) closer: Closer,
    pub(super) pulse: Pulse<'a>,
    store: StoreWriter<'a>,
    /// True if a peer or an offender could not be stored.
    store_is_incomplete: bool,
    rewrite_again_at: Option<Instant>,
    /// The connections of peers, by [`PeerId::index`].
    connections: Vec<Option<Connection>>,
    /// The connection that is being reported to the router.
    pending: Option<OwnedFd>,
    /// True if the gateway's socket can send several datagrams at once.
    sends_batches: bool,
    /// Asks the kernel for routes, if there are `nat` interfaces.
    routes: Option<Netlink>,
    /// Tells the control thread of dropped packets.
    drops: Option<DropTeller>,
    /// Tells it of captured packets.
    captures: Option<CaptureTeller>,
    /// The script, once its threads are started.
    pub(super) script: Option<LoopScript>,
    /// True if it was asked since the loop has last looked after it.
    pub(super) script_has_run: bool,
    /// The packets that were dropped in this turn, if somebody watches.
    dropped: Vec<DropRecord>,
    pub(super) trunks: TrunkSockets,
    /// The path in the kernel, if there may be one.
    pub(super) kernel_path: Option<KernelPath<'a>>,
    /// What ends calls that block, if the kernel has nothing better (RWF_NOWAIT).
    alarm: Option<Alarm>,
    /// Peers with a write that had to be ended.
    blocked: Vec<PeerId>,
}

impl<'a> Io<'a> {
    pub(super) fn new(
        setup: &'a Setup,
        epoll: Epoll,
        store: StoreWriter<'a>,
        remade_tun: Option<Tun>,
        tellers: Option<(DropTeller, CaptureTeller)>,
    ) -> Self {
        let (drops, captures) = tellers.unzip();
        Self {
            setup,
            remade_tun,
            epoll,
            closer: Closer::default(),
            pulse: Pulse::new(&setup.heartbeat, setup.harakiri),
            store,
            store_is_incomplete: false,
            rewrite_again_at: None,
            connections: Vec::new(),
            pending: None,
            sends_batches: setup.gateway.as_ref().is_some_and(|gateway| sends_batches(&gateway.socket)),
            // Without it no host is beyond a `nat` interface, so that the limits for all flows apply.
            routes: if setup.spec.nat.is_empty() { None } else { Netlink::open().ok() },
            drops,
            captures,
            script: None,
            script_has_run: false,
            dropped: Vec::new(),
            trunks: TrunkSockets::default(),
            kernel_path: None,
            alarm: alarm(setup),
            blocked: Vec::new(),
        }
    }

    /// Sets the alarm, if there is one: from here on no call may block for long.
    #[inline]
    pub(super) fn set_alarm(&mut self) {
        self.alarm.iter_mut().for_each(Alarm::set);
    }

    /// Ends the alarm, before the loop sleeps.
    #[inline]
    pub(super) fn end_alarm(&mut self) {
        self.alarm.iter_mut().for_each(Alarm::end);
    }

    /// Takes the peers with a write that had to be ended.
    pub(super) fn take_blocked(&mut self) -> Vec<PeerId> {
        std::mem::take(&mut self.blocked)
    }

    /// Returns the router's device.
    pub(super) fn tun(&self) -> &Tun {
        self.remade_tun.as_ref().unwrap_or(&self.setup.tun)
    }

    /// Returns the router's name in the log, which is that of its device.
    pub(super) fn name(&self) -> &'a str {
        self.setup.tun.name()
    }

    /// What decides about a packet that isn't there, without any effect.
    pub(super) fn dry_run(&mut self) -> DryRun<'_> {
        let (routes, setup) = (self.routes.as_mut(), self.setup);
        DryRun { script: self.script.as_ref(), beyond_nat: BeyondNat { routes, setup } }
    }

    /// Writes a line to the log.
    pub(super) fn line(&self, event: Event, text: impl std::fmt::Display) {
        self.setup.logger.line(event, format_args!("[tuntap-router] {}: {text}", self.name()));
    }

    /// Calls `report`, which reports a connection to the router. Closes the connection if it doesn't become a peer's.
    pub(super) fn with_connection<T>(&mut self, connection: OwnedFd, report: impl FnOnce(&mut Self) -> T) -> T {
        self.pending = Some(connection);
        let result = report(self);
        self.pending = None;
        result
    }

    /// Takes the connection that is being reported to the router.
    pub(super) const fn take_pending(&mut self) -> Option<OwnedFd> {
        self.pending.take()
    }

    /// Returns a peer's connection.
    pub(super) fn connection(&self, id: PeerId) -> Option<BorrowedFd<'_>> {
        Some(self.entry(id)?.fd.as_fd())
    }

    /// Returns a peer's device.
    pub(super) fn device(&self, id: PeerId) -> Option<&Tun> {
        self.entry(id)?.device.as_ref()
    }

    /// Keeps a descriptor that a peer has passed. It replaces an earlier one.
    pub(super) fn offer(&mut self, id: PeerId, descriptor: OwnedFd) {
        let before = self.entry_mut(id).map(|entry| entry.offer.replace(descriptor));
        before.flatten().into_iter().for_each(|before| self.closer.close_offer(before));
    }

    /// Rewrites the store if most of it is out of date, or something is missing in it. Returns a notice if that fails.
    pub(super) fn tidy_store(&mut self, router: &Router, now: Instant) -> Option<Notice> {
        let is_wanted = self.store_is_incomplete || self.store.is_due();
        if !is_wanted || self.rewrite_again_at.is_some_and(|time| now < time) {
            return None;
        }
        let connections = &self.connections;
        let peers = router.stored_peers().filter_map(|(id, stored)| Some((stored, find(connections, id)?.fd.as_fd())));
        let result = self.store.rewrite(peers);
        self.store_is_incomplete = result.is_err();
        let errno = result.err();
        self.rewrite_again_at = errno.map(|_| now + REWRITE_PAUSE);
        errno.map(|errno| Notice::Shell(format!("not all vassals would survive this router's death: {errno}")))
    }

    /// Stores the session with the routing daemon, for a successor.
    pub(super) fn store_routes(&mut self, session: &StoredSession, connection: BorrowedFd<'_>) {
        self.store_is_incomplete |= self.store.put_routes(session, connection).is_err();
    }

    /// Removes the session with the routing daemon from the store.
    pub(super) fn unstore_routes(&mut self) {
        self.store_is_incomplete |= self.store.remove_routes().is_err();
    }

    fn entry(&self, id: PeerId) -> Option<&Connection> {
        find(&self.connections, id)
    }

    fn entry_mut(&mut self, id: PeerId) -> Option<&mut Connection> {
        self.connections.get_mut(id.index as usize)?.as_mut().filter(|entry| entry.id == id)
    }

    /// Has dropped packets told to the control thread, or not.
    pub(super) fn watch_drops(&mut self, wanted: bool) {
        self.drops.iter_mut().for_each(|drops| drops.watch(wanted));
    }

    /// Takes the packets that were dropped since the last call.
    pub(super) fn take_drops(&mut self) -> Vec<DropRecord> {
        std::mem::take(&mut self.dropped)
    }

    /// Tells the control thread of a dropped packet.
    pub(super) fn tell_drop(&mut self, now: Instant, dropped: Dropped) {
        if let Some(drops) = &mut self.drops {
            drops.tell(now, dropped);
        }
    }

    /// Begins a capture that takes so many bytes of each packet.
    pub(super) fn begin_capture(&mut self, number: usize, snap_len: usize) {
        self.captures.iter_mut().for_each(|captures| captures.begin(number, snap_len));
    }

    /// A write to a peer's device had to be ended.
    fn note_blocked(&mut self, peer: PeerId) {
        let entry = self.entry_mut(peer);
        if entry.is_some_and(|entry| !std::mem::replace(&mut entry.has_blocked, true)) {
            self.blocked.push(peer);
        }
    }

    /// Stops reading a device.
    fn unwatch_device(&self, device: &Tun) {
        // The peer has a copy of the descriptor, so that closing ours would not end the events.
        let _ = self.epoll.delete(device);
    }
}

/// Returns a peer's entry. As a function it borrows only the table.
fn find(connections: &[Option<Connection>], id: PeerId) -> Option<&Connection> {
    connections.get(id.index as usize)?.as_ref().filter(|entry| entry.id == id)
}

/// Makes the alarm, if the kernel leaves no other way not to block on the devices of vassals.
fn alarm(setup: &Setup) -> Option<Alarm> {
    if supports_nowait() {
        return None;
    }
    // Without it, the first read of each device finds that it may block.
    Alarm::of_this_thread()
        .inspect_err(|errno| {
            setup.logger.line(
                Event::RouterIncomplete,
                format_args!(
                    "[tuntap-router] {}: no vassal's device can be attached: a timer: {errno}",
                    setup.tun.name()
                ),
            );
        })
        .ok()
}

/// Writes a packet to a device.
fn send(tun: &Tun, packet: &GsoPacket<'_>) -> io::Result<()> {
    match packet.whole() {
        Some(whole) if tun.has_header() => tun.send_whole(whole),
        _ => tun.send(packet.offload(), packet.packet().bytes()),
    }
}

fn write_error(error: &io::Error) -> WriteError {
    if error.kind() == ErrorKind::WouldBlock { WriteError::Full } else { WriteError::Refused }
}

/// Returns why a batch was not sent. The kernel sends single datagrams in some of these cases.
fn batch_error(errno: Errno) -> BatchError {
    match errno {
        Errno::EMSGSIZE => BatchError::TooLong,
        Errno::EIO | Errno::EINVAL | Errno::EOPNOTSUPP => BatchError::Unsupported(fault(errno)),
        Errno::EAGAIN => BatchError::Failed(WriteError::Full),
        _ => BatchError::Failed(WriteError::Refused),
    }
}

/// What tells which hosts are beyond a `nat` interface.
#[derive(Debug)]
pub(super) struct BeyondNat<'a> {
    routes: Option<&'a mut Netlink>,
    setup: &'a Setup,
}

impl BeyondNat<'_> {
    /// Returns true if the kernel's route to a host is by such an interface.
    pub(super) fn has(&mut self, address: IpAddr) -> bool {
        let interface = self.routes.as_mut().and_then(|routes| routes.interface_to(address).ok().flatten());
        let name = interface.and_then(|index| net::interface_name(self.setup.any_socket(), index).ok());
        name.is_some_and(|name| self.setup.spec.nat.contains(&name))
    }
}

/// Returns the path MTU to a gateway. The kernel knows it only for a connected socket, so a new socket is connected.
fn ask_path_mtu(target: SocketAddr) -> io::Result<u16> {
    let any = if target.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let probe = UdpSocket::bind((any, 0))?;
    probe.connect(target)?;
    path_mtu(&probe, target)
}

/// Returns the target in the form that the gateway's socket takes: a socket for both versions takes IPv4 addresses as
/// IPv4-mapped IPv6 addresses (ipv6(7)).
fn in_family_of(gateway: SocketAddr, target: SocketAddr) -> SocketAddr {
    match (gateway, target) {
        (SocketAddr::V6(_), SocketAddr::V4(target)) => {
            SocketAddr::new(target.ip().to_ipv6_mapped().into(), target.port())
        }
        _ => target,
    }
}

impl Shell for Io<'_> {
    fn tun_takes_gso(&self) -> bool {
        self.tun().has_header()
    }

    fn write_tun(&mut self, packet: &GsoPacket<'_>) -> Result<(), WriteError> {
        send(self.tun(), packet).map_err(|error| write_error(&error))
    }

    fn write_tun_segment(&mut self, packet: &[u8]) -> Result<(), WriteError> {
        self.tun().send(&Offload::NONE, packet).map_err(|error| write_error(&error))
    }

    fn write_device(&mut self, peer: PeerId, serial: Option<u64>, packet: &GsoPacket<'_>) -> DeviceWrite {
        self.set_alarm();
        let device = self.device(peer);
        let start = Instant::now();
        let result = match device {
            Some(device) => self.pulse.while_writing(serial, || send(device, packet)),
            None => Err(Errno::EBADF.into()),
        };
        let end = Instant::now();
        let result = result.map_err(|error| {
            if error.kind() == ErrorKind::Interrupted {
                self.note_blocked(peer);
            }
            write_error(&error)
        });
        DeviceWrite { result, start, end }
    }

    fn send_datagram(&mut self, target: SocketAddr, packet: &[u8]) -> Result<(), WriteError> {
        let gateway = self.setup.gateway.as_ref().ok_or(WriteError::Refused)?;
        let target = in_family_of(gateway.address, target);
        gateway.socket.send_to(packet, target).map(drop).map_err(|error| write_error(&error))
    }

    fn send_datagrams(&mut self, target: SocketAddr, packets: &[u8], len: usize) -> Result<(), BatchError> {
        let gateway = self.setup.gateway.as_ref().ok_or(BatchError::Failed(WriteError::Refused))?;
        let Some(len) = u16::try_from(len).ok().filter(|_| self.sends_batches) else {
            return Err(BatchError::Unsupported(fault(Errno::ENOPROTOOPT)));
        };
        let target = in_family_of(gateway.address, target);
        socket::send_datagrams(gateway.socket.as_fd(), target, packets, len).map_err(batch_error)
    }

    fn send(&mut self, peer: PeerId, bytes: &[u8]) -> Result<usize, SendError> {
        let connection = self.connection(peer).ok_or(SendError::Closed)?;
        loop {
            return match socket::send(connection, bytes) {
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Err(SendError::Full),
                Err(Errno::EPIPE | Errno::ECONNRESET) => Err(SendError::Closed),
                result => result.map_err(|errno| SendError::Failed(fault(errno))),
            };
        }
    }

    fn send_trunk(&mut self, trunk: TrunkId, parts: &[&[u8]]) -> Sent {
        self.send_on_trunk(trunk, parts)
    }

    fn open_trunk(&mut self, trunk: TrunkId) -> Result<(), Fault> {
        self.open_on_trunk(trunk)
    }

    fn close_trunk(&mut self, trunk: TrunkId, neighbour: RouterId) {
        self.close_on_trunk(trunk);
        self.store_is_incomplete |= self.store.remove_trunk(neighbour).is_err();
    }

    fn store_trunk(&mut self, trunk: TrunkId, neighbour: RouterId, version: u16) {
        let Some(socket) = self.trunks.socket(trunk) else { return };
        self.store_is_incomplete |= self.store.put_trunk(neighbour, version, socket).is_err();
    }

    fn open(&mut self, peer: PeerId) -> Result<(), Fault> {
        let fd = self.pending.take().ok_or_else(|| fault(Errno::EBADF))?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Peer(peer).encode());
        let result = self.epoll.add(&fd, event).map_err(fault);
        let slot = peer.index as usize;
        if slot >= self.connections.len() {
            self.connections.resize_with(slot + 1, || None);
        }
        self.connections[slot] =
            Some(Connection { id: peer, fd, offer: None, candidate: None, device: None, has_blocked: false });
        result
    }

    fn watch_writable(&mut self, peer: PeerId, wanted: bool) -> Result<(), Fault> {
        let connection = self.connection(peer).ok_or_else(|| fault(Errno::EBADF))?;
        let flags = if wanted { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        let mut event = EpollEvent::new(flags, Token::Peer(peer).encode());
        self.epoll.modify(connection, &mut event).map_err(fault)
    }

    fn refuse_descriptors(&mut self, peer: PeerId) {
        if let Some(connection) = self.connection(peer) {
            socket::receive_descriptors(connection, false);
        }
    }

    fn is_hung_up(&self, peer: PeerId) -> bool {
        self.connection(peer).is_none_or(socket::is_hung_up)
    }

    fn close(&mut self, peer: PeerId, everywhere: bool) {
        self.discard_offer(peer);
        self.discard_device(peer);
        let Some(connection) = self.connection(peer) else { return };
        if everywhere {
            socket::shut_down(connection);
        }
        // Closing would be enough, unless another process has a copy of the socket, as after a fork in a credentials hook.
        let _ = self.epoll.delete(connection);
        self.connections[peer.index as usize] = None;
    }

    fn watch_listeners(&mut self, wanted: bool) {
        let flags = if wanted { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        let own = self.setup.listener.as_ref().map(|listener| (listener, Token::Listener));
        let stats = self.setup.stats.as_ref().map(|stats| (&stats.listening.listener, Token::StatsListener));
        let metrics = self.setup.metrics.as_ref().map(|metrics| (&metrics.listener, Token::MetricsListener));
        for (listener, token) in own.into_iter().chain(stats).chain(metrics) {
            // All are registered, so this fails only without memory. The end of the next pause tries again.
            let _ = self.epoll.modify(listener, &mut EpollEvent::new(flags, token.encode()));
        }
    }

    fn has_offer(&self, peer: PeerId) -> bool {
        self.entry(peer).is_some_and(|entry| entry.offer.is_some())
    }

    fn offered_device(&mut self, peer: PeerId) -> Result<DeviceFacts, String> {
        let entry = self.entry_mut(peer).ok_or_else(|| Errno::EBADF.to_string())?;
        // A refused descriptor may be the last copy of its device, and closing it here would block. So the offer is kept
        // besides the device, unless there is no descriptor left for a copy.
        let copy = entry.offer.as_ref().and_then(|offer| offer.try_clone().ok()).or_else(|| entry.offer.take());
        let descriptor = copy.ok_or_else(|| Errno::EBADF.to_string())?;
        let adopt = if self.alarm.is_some() { Tun::adopt_alarmed } else { Tun::adopt_shared };
        let tun = adopt(descriptor).map_err(|error| error.to_string())?;
        let facts = DeviceFacts {
            has_header: tun.has_header(),
            // If the kernel can't compare descriptors, the names are compared. A vassal's device may have the same name.
            is_own: tun.is_copy_of(self.tun()).unwrap_or_else(|| tun.name() == self.name()),
            has_napi: tun.has_napi(),
            has_queues: tun.has_queues(),
            may_block: tun.is_alarmed() && tun.may_block(),
        };
        if let Some(entry) = self.entry_mut(peer) {
            entry.candidate = Some(tun);
        }
        Ok(facts)
    }

    fn accept_device(&mut self, peer: PeerId) {
        if let Some(entry) = self.entry_mut(peer) {
            (entry.device, entry.has_blocked) = (entry.candidate.take(), false);
            // The device is another copy of the descriptor, so closing this one doesn't block.
            entry.offer = None;
        }
    }

    fn discard_offer(&mut self, peer: PeerId) {
        let offer = self.entry_mut(peer).and_then(|entry| {
            entry.candidate = None;
            entry.offer.take()
        });
        if let Some(offer) = offer {
            self.closer.close_offer(offer);
        }
    }

    fn attach(&mut self, peer: PeerId) -> Result<(), Fault> {
        let device = self.device(peer).ok_or_else(|| fault(Errno::EBADF))?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Device(peer).encode());
        self.epoll.add(device, event).map_err(fault)
    }

    fn suspend(&mut self, peer: PeerId) {
        if let Some(device) = self.device(peer) {
            self.unwatch_device(device);
        }
    }

    fn discard_device(&mut self, peer: PeerId) {
        if let Some(device) = self.entry_mut(peer).and_then(|entry| entry.device.take()) {
            self.unwatch_device(&device);
            self.closer.close(device.into());
        }
    }

    fn is_device_alive(&self, peer: PeerId) -> bool {
        self.device(peer).is_some_and(Tun::is_alive)
    }

    fn is_closing_many(&self) -> bool {
        self.closer.is_full()
    }

    // Without a path in the kernel, no pair is made, so that the router gives no verdict.

    fn make_pair(&mut self, peer: PeerId) -> bool {
        let device = find(&self.connections, peer).and_then(|entry| entry.device.as_ref());
        let (Some(path), Some(device)) = (&mut self.kernel_path, device) else { return false };
        path.make_pair(peer, device.as_fd())
    }

    fn drop_pair(&mut self, peer: PeerId) {
        self.kernel_path.iter_mut().for_each(|path| path.drop_pair(peer));
    }

    fn set_kernel_claim(&mut self, peer: PeerId, address: IpAddr, is_held: bool) {
        self.kernel_path.iter_mut().for_each(|path| path.set_claim(peer, address, is_held));
    }

    fn offload(&mut self, flow: &KernelFlow) -> bool {
        self.kernel_path.as_mut().is_some_and(|path| path.offload(flow))
    }

    fn revoke(&mut self, which: Revoke) {
        self.kernel_path.iter_mut().for_each(|path| path.revoke(which));
    }

    fn withdraw(&mut self, flow: &KernelFlow) -> Usage {
        self.kernel_path.as_mut().map_or_else(Usage::default, |path| path.withdraw(flow))
    }

    fn kernel_usage(&mut self, flow: FlowId) -> Option<Usage> {
        self.kernel_path.as_mut()?.usage(flow)
    }

    fn pair_drops(&mut self, peer: PeerId) -> PairDrops {
        self.kernel_path.as_ref().map_or_else(PairDrops::default, |path| path.drops(peer))
    }

    fn path_mtu(&mut self, target: SocketAddr) -> Option<u16> {
        ask_path_mtu(target).ok()
    }

    fn tun_mtu(&self) -> Option<u16> {
        net::interface_mtu(self.setup.any_socket(), self.name()).ok()
    }

    fn is_router_device(&mut self, interface: u32) -> bool {
        // An interface that doesn't exist any more is not a router's device.
        net::interface_name(self.setup.any_socket(), interface).is_ok_and(|name| {
            self.setup.devices.contains(&name) || self.tun().current_name().is_ok_and(|own| own == name)
        })
    }

    fn address_for(&mut self, credentials: PeerCredentials) -> Option<Ipv4Addr> {
        match &self.setup.credentials {
            CredentialsCheck::Hook(hook) => hook(credentials),
            CredentialsCheck::Off | CredentialsCheck::Shown => None,
        }
    }

    fn thread_usage(&self) -> ThreadUsage {
        ThreadUsage { nanos: thread_time_nanos(), switches: context_switches() }
    }

    fn script(&mut self, query: &ScriptQuery<'_>) -> Option<ScriptVerdict> {
        self.script_has_run = true;
        self.script.as_mut()?.decide(query)
    }

    fn is_beyond_nat(&mut self, address: IpAddr) -> bool {
        BeyondNat { routes: self.routes.as_mut(), setup: self.setup }.has(address)
    }

    fn dropped(&mut self, record: &DropRecord) {
        let Some(drops) = self.drops.as_ref().filter(|drops| drops.is_watched()) else { return };
        if self.dropped.len() < PER_SECOND {
            self.dropped.push(*record);
        } else {
            drops.leave_out();
        }
    }

    fn captured(&mut self, record: &CaptureRecord<&[u8]>) {
        self.captures.iter().for_each(|captures| captures.tell(record));
    }

    fn log(&mut self, notice: &Notice) {
        let (event, peer) = (events::event(notice), events::peer(notice));
        match notice {
            Notice::LeftOut(_) => self.setup.logger.line(event, format_args!("[tuntap-router] {notice}")),
            _ => self.setup.logger.about(event, peer, format_args!("[tuntap-router] {}: {notice}", self.name())),
        }
    }

    fn new_serial(&mut self) -> u64 {
        self.store.new_serial()
    }

    fn store(&mut self, peer: PeerId, stored: StoredPeer) {
        let Some(entry) = find(&self.connections, peer) else { return };
        self.store_is_incomplete |= self.store.put(stored, entry.fd.as_fd()).is_err();
    }

    fn unstore(&mut self, serial: u64) {
        self.store_is_incomplete |= self.store.remove(serial).is_err();
    }

    fn store_quarantine(&mut self, offender: Offender, record: Record) {
        self.store_is_incomplete |= self.store.quarantine(offender, record).is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_a_path() {
        for address in ["127.0.0.1:9", "[::1]:9"] {
            assert!(ask_path_mtu(address.parse().expect("an address")).is_ok(), "{address}");
        }
    }

    #[test]
    fn socket_for_both_versions_gets_targets_it_takes() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for (gateway, target, expected) in [
            ("[::]:1", "192.0.2.1:4000", "[::ffff:192.0.2.1]:4000"),
            ("[::]:1", "[2001:db8::1]:4000", "[2001:db8::1]:4000"),
            ("0.0.0.0:1", "192.0.2.1:4000", "192.0.2.1:4000"),
        ] {
            assert_eq!(in_family_of(address(gateway), address(target)), address(expected));
        }
    }
}
