//! The world around the router, in memory: sockets, devices, the store, the log, the clock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tuntap_core::kernel_path::{FlowId, KernelFlow, PairDrops, Revoke, Usage};
use tuntap_core::policy::counters::SharedMemory;
use tuntap_core::policy::registry::PeerId;
use tuntap_core::policy::script::{ScriptQuery, ScriptVerdict};
use tuntap_core::router::DropRecord;
use tuntap_core::router::capture::CaptureRecord;
use tuntap_core::router::notice::Notice;
use tuntap_core::router::quarantine::{Offender, Record};
use tuntap_core::router::restore::StoredPeer;
use tuntap_core::router::{BatchError, DeviceFacts, DeviceWrite, Fault, SendError, Shell, ThreadUsage, WriteError};
use tuntap_core::trunk::{Sent, TrunkId};
use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::gso::GsoPacket;
use tuntap_wire::holding::{Holding, RouterId};
use tuntap_wire::vnet::VNET_HEADER_LEN;

use super::actions::{DeviceState, FaultKind, Offer};
use super::kernel::{Kernel, Told};
use super::peer::{Connection, Device, Number, whole_frames};

/// Number of the interface that is a router's device.
pub const ROUTER_DEVICE: u32 = 7;

/// Where a packet went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    Tun,
    Gateway(SocketAddr),
    Device(Number),
    Stream(Number),
}

impl To {
    pub const fn peer(self) -> Option<Number> {
        match self {
            Self::Device(number) | Self::Stream(number) => Some(number),
            Self::Tun | Self::Gateway(_) => None,
        }
    }
}

/// A packet that came out of the router.
#[derive(Debug, Clone)]
pub struct Output {
    pub to: To,
    pub bytes: Vec<u8>,
    /// It was not cut.
    pub is_whole: bool,
    /// The world has taken it.
    pub is_taken: bool,
}

/// What came out of one call.
#[derive(Debug, Clone, Default)]
pub struct Effects {
    pub outputs: Vec<Output>,
    /// Frames that are no packets, by kind.
    pub controls: Vec<(Number, u8)>,
    /// Bytes that sockets took.
    pub sent: HashMap<Number, u64>,
    pub closed: Vec<Number>,
    pub lines: Vec<Notice>,
    /// What the router was told of packets that have passed in the kernel.
    pub told: Vec<Told>,
    /// True if anything else was done.
    pub has_others: bool,
}

/// Flows that outlive a router.
const KEPT_FLOWS: usize = 100;

/// The world.
#[derive(Debug, Clone)]
pub struct World {
    pub now: Instant,
    /// What outlives a router, and when the first one began.
    memory: SharedMemory,
    began: Instant,
    pub usage: ThreadUsage,
    pub connections: BTreeMap<Number, Connection>,
    pub by_id: HashMap<PeerId, Number>,
    /// Names of peers that are gone.
    pub gone: Vec<PeerId>,
    /// The connection that the router is told of.
    pub arriving: Option<Number>,
    pub store: BTreeMap<u64, (Number, StoredPeer)>,
    next_serial: u64,
    pub quarantine: HashMap<Offender, Record>,
    pub tun: DeviceState,
    /// Peers have to show their credentials.
    pub wants_credentials: bool,
    pub tun_takes_gso: bool,
    pub is_closing_many: bool,
    pub is_listening: bool,
    pub fault: Option<FaultKind>,
    pub effects: Effects,
    /// The path in the kernel.
    pub kernel: Kernel,
    /// True if pairs can't be made.
    pub has_no_pairs: bool,
    /// What sources tell of addresses elsewhere, and how often they did.
    pub elsewhere: BTreeMap<(u16, IpAddr), Holding>,
    pub told: u64,
    /// Who has lost an address to a claim elsewhere.
    pub losers: HashSet<(Number, IpAddr)>,
    /// What the router must never do.
    pub violations: Vec<String>,
}

fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

impl World {
    pub fn new(tun_takes_gso: bool, wants_credentials: bool) -> Self {
        Self {
            now: start(),
            memory: SharedMemory::leaked(8, KEPT_FLOWS),
            began: start(),
            usage: ThreadUsage::default(),
            connections: BTreeMap::new(),
            by_id: HashMap::new(),
            gone: Vec::new(),
            arriving: None,
            store: BTreeMap::new(),
            next_serial: 0,
            quarantine: HashMap::new(),
            tun: DeviceState::Good,
            tun_takes_gso,
            wants_credentials,
            is_closing_many: false,
            is_listening: true,
            fault: None,
            effects: Effects::default(),
            kernel: Kernel::new(),
            has_no_pairs: false,
            elsewhere: BTreeMap::new(),
            told: 0,
            losers: HashSet::new(),
            violations: Vec::new(),
        }
    }

    /// The memory for the next router.
    pub fn memory(&self) -> SharedMemory {
        let elapsed = self.now.duration_since(self.began).as_secs();
        SharedMemory { start: u32::try_from(elapsed).expect("not long"), ..self.memory }
    }

    /// Time passes in which the thread runs.
    pub fn run(&mut self, nanos: u64) {
        self.now += Duration::from_nanos(nanos);
        self.usage.nanos += nanos;
    }

    /// Time passes in which the thread sleeps.
    pub fn sleep(&mut self, time: Duration) {
        self.now += time;
        self.usage.switches += 1;
    }

    pub fn violation(&mut self, text: impl Into<String>) {
        self.violations.push(text.into());
    }

    /// What the kernel finds wrong is a violation.
    fn note<T: Default>(&mut self, result: Result<T, String>) -> T {
        result.unwrap_or_else(|text| {
            self.violation(text);
            T::default()
        })
    }

    /// The connection of a peer that the router speaks of.
    fn connection(&mut self, id: PeerId, what: &str) -> Option<(Number, &mut Connection)> {
        match self.by_id.get(&id) {
            Some(number) => self.connections.get_mut(number).map(|connection| (*number, connection)),
            None => {
                self.violation(format!("{what}: there is no peer {id:?}"));
                None
            }
        }
    }

    fn takes_fault(&mut self, kind: FaultKind) -> Option<Fault> {
        (self.fault == Some(kind)).then(|| {
            self.fault = None;
            Fault(format!("{kind:?} fails"))
        })
    }

    /// Takes note of what the router has queued for a peer: `waiting` is all of its queue.
    pub fn absorb(&mut self, number: Number, waiting: &[u8]) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let known = connection.queued.make_contiguous();
        let Some(news) = waiting.strip_prefix(&*known) else {
            return self.violation(format!("frames that wait for {number} are others than before"));
        };
        let Some(frames) = whole_frames(news) else {
            return self.violation(format!("what was queued for {number} is not whole frames"));
        };
        for (kind, payload) in frames {
            if kind == 0 {
                let to = To::Stream(number);
                self.effects.outputs.push(Output { to, bytes: payload.to_vec(), is_whole: false, is_taken: true });
            } else {
                self.effects.controls.push((number, kind));
            }
        }
        connection.queued.extend(news);
    }

    fn write(&mut self, state: DeviceState) -> Result<(), WriteError> {
        self.run(1_000);
        match state {
            DeviceState::Good => Ok(()),
            DeviceState::Full => Err(WriteError::Full),
            DeviceState::Refusing | DeviceState::Deleted => Err(WriteError::Refused),
        }
    }

    fn output(&mut self, to: To, bytes: &[u8], is_whole: bool, result: Result<(), WriteError>) {
        self.effects.outputs.push(Output { to, bytes: bytes.to_vec(), is_whole, is_taken: result.is_ok() });
    }
}

/// What stands before a packet has to be what the router has checked.
fn has_fitting_header(packet: &GsoPacket<'_>) -> bool {
    packet.whole().is_none_or(|whole| {
        whole[VNET_HEADER_LEN..] == *packet.packet().bytes() && whole[..VNET_HEADER_LEN] == packet.offload().encode()
    })
}

impl Shell for World {
    fn script(&mut self, _query: &ScriptQuery<'_>) -> Option<ScriptVerdict> {
        None
    }

    fn dropped(&mut self, _record: &DropRecord) {}

    fn captured(&mut self, _record: &CaptureRecord<&[u8]>) {}

    fn is_beyond_nat(&mut self, _address: IpAddr) -> bool {
        false
    }

    fn tun_takes_gso(&self) -> bool {
        self.tun_takes_gso
    }

    fn write_tun(&mut self, packet: &GsoPacket<'_>) -> Result<(), WriteError> {
        let result = self.write(self.tun);
        if !self.tun_takes_gso || !has_fitting_header(packet) {
            self.violation("a packet that the router's device does not take");
        }
        self.output(To::Tun, packet.packet().bytes(), true, result);
        result
    }

    fn write_tun_segment(&mut self, packet: &[u8]) -> Result<(), WriteError> {
        let result = self.write(self.tun);
        self.output(To::Tun, packet, false, result);
        result
    }

    fn write_device(&mut self, peer: PeerId, serial: Option<u64>, packet: &GsoPacket<'_>) -> DeviceWrite {
        let start = self.now;
        let mut result = Err(WriteError::Refused);
        let found = self.connection(peer, "write_device").map(|(number, connection)| (number, connection.device));
        if let Some((number, device)) = found {
            let Some(device) = device.filter(|device| device.is_attached) else {
                self.violation(format!("a write to the device of {number}, which is not attached"));
                return DeviceWrite { result, start, end: start };
            };
            if serial.is_none_or(|serial| self.store.get(&serial).is_some_and(|(owner, _)| *owner != number)) {
                self.violation(format!("a write to the device of {number} with the serial {serial:?}"));
            }
            result = self.write(device.state);
            self.run(device.cost);
            self.output(To::Device(number), packet.packet().bytes(), true, result);
        }
        DeviceWrite { result, start, end: self.now }
    }

    fn send_datagram(&mut self, target: SocketAddr, packet: &[u8]) -> Result<(), WriteError> {
        let result = if self.tun == DeviceState::Refusing { Err(WriteError::Refused) } else { Ok(()) };
        self.output(To::Gateway(target), packet, false, result);
        result
    }

    fn send_datagrams(&mut self, target: SocketAddr, packets: &[u8], len: usize) -> Result<(), BatchError> {
        if self.tun == DeviceState::Refusing {
            return Err(BatchError::Unsupported(Fault("EIO".to_owned())));
        }
        if packets.len() <= len || len > 1500 - 28 {
            self.violation(format!("{} bytes in packets of {len} as a batch", packets.len()));
        }
        packets.chunks(len).for_each(|packet| self.output(To::Gateway(target), packet, false, Ok(())));
        Ok(())
    }

    fn send(&mut self, peer: PeerId, bytes: &[u8]) -> Result<usize, SendError> {
        if let Some(fault) = self.takes_fault(FaultKind::Send) {
            if let Some((_, connection)) = self.connection(peer, "send") {
                connection.send_fails = true;
            }
            return Err(SendError::Failed(fault));
        }
        let Some((number, _)) = self.connection(peer, "send") else { return Err(SendError::Closed) };
        self.absorb(number, bytes);
        let Some(connection) = self.connections.get_mut(&number) else { return Err(SendError::Closed) };
        if connection.has_hung_up {
            return Err(SendError::Closed);
        }
        let count = bytes.len().min(connection.room.saturating_sub(connection.in_socket));
        if count == 0 {
            return Err(SendError::Full);
        }
        connection.queued.drain(..count.min(connection.queued.len()));
        connection.in_socket += count;
        connection.in_frame.pass(&bytes[..count]);
        *self.effects.sent.entry(number).or_default() += count as u64;
        Ok(count)
    }

    fn send_trunk(&mut self, trunk: TrunkId, _parts: &[&[u8]]) -> Sent {
        self.violation(format!("something is sent on {trunk:?}, which is not connected"));
        Sent::Closed
    }

    fn open_trunk(&mut self, trunk: TrunkId) -> Result<(), Fault> {
        self.violation(format!("{trunk:?} is opened"));
        Ok(())
    }

    fn close_trunk(&mut self, trunk: TrunkId, _neighbour: RouterId) {
        self.violation(format!("{trunk:?} is closed"));
    }

    fn store_trunk(&mut self, trunk: TrunkId, _neighbour: RouterId, _version: u16) {
        self.violation(format!("{trunk:?} is stored"));
    }

    fn open(&mut self, peer: PeerId) -> Result<(), Fault> {
        let Some(number) = self.arriving.take() else {
            self.violation("a peer is opened without a connection");
            return Err(Fault("no connection".to_owned()));
        };
        if self.by_id.insert(peer, number).is_some() || self.gone.contains(&peer) {
            self.violation(format!("the name {peer:?} is used twice"));
        }
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.id = Some(peer);
        }
        self.takes_fault(FaultKind::Open).map_or(Ok(()), Err)
    }

    fn watch_writable(&mut self, peer: PeerId, wanted: bool) -> Result<(), Fault> {
        if let Some(fault) = self.takes_fault(FaultKind::Watch) {
            if let Some((_, connection)) = self.connection(peer, "watch_writable") {
                connection.send_fails = true;
            }
            return Err(fault);
        }
        if let Some((_, connection)) = self.connection(peer, "watch_writable") {
            connection.watches_writable = wanted;
        }
        Ok(())
    }

    fn refuse_descriptors(&mut self, peer: PeerId) {
        if let Some((_, connection)) = self.connection(peer, "refuse_descriptors") {
            connection.refuses_descriptors = true;
        }
    }

    fn is_hung_up(&self, peer: PeerId) -> bool {
        self.by_id.get(&peer).and_then(|number| self.connections.get(number)).is_none_or(|it| it.has_hung_up)
    }

    fn close(&mut self, peer: PeerId, _everywhere: bool) {
        let Some((number, _)) = self.connection(peer, "close") else { return };
        if let Some((serial, _)) = self.store.iter().find(|(_, (owner, _))| *owner == number) {
            self.violation(format!("{number} is closed and still stored as {serial}"));
        }
        self.by_id.remove(&peer);
        self.gone.push(peer);
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.id = None;
            connection.device = None;
            connection.offer = None;
        }
        self.effects.closed.push(number);
    }

    fn watch_listeners(&mut self, wanted: bool) {
        self.is_listening = wanted;
        self.effects.has_others = true;
    }

    fn has_offer(&self, peer: PeerId) -> bool {
        self.by_id.get(&peer).and_then(|number| self.connections.get(number)).is_some_and(|it| it.offer.is_some())
    }

    fn offered_device(&mut self, peer: PeerId) -> Result<DeviceFacts, String> {
        let offer = self.connection(peer, "offered_device").and_then(|(_, connection)| connection.offer);
        let is = |other: fn(&Offer) -> bool| offer.as_ref().is_some_and(other);
        if offer.is_none() || is(|it| matches!(it, Offer::NoDevice)) {
            return Err("its descriptor is no TUN device".to_owned());
        }
        Ok(DeviceFacts {
            has_header: !is(|it| matches!(it, Offer::NoHeader)),
            is_own: is(|it| matches!(it, Offer::Own)),
            has_napi: is(|it| matches!(it, Offer::Napi)),
            has_queues: is(|it| matches!(it, Offer::Queues)),
            may_block: is(|it| matches!(it, Offer::Blocking)),
        })
    }

    fn accept_device(&mut self, peer: PeerId) {
        let Some((number, connection)) = self.connection(peer, "accept_device") else { return };
        if !matches!(connection.offer.take(), Some(Offer::Good)) {
            return self.violation(format!("{number} has offered no good device"));
        }
        connection.device = Some(Device { state: DeviceState::Good, cost: 0, is_attached: false });
        self.effects.has_others = true;
    }

    fn discard_offer(&mut self, peer: PeerId) {
        if let Some((_, connection)) = self.connection(peer, "discard_offer") {
            connection.offer = None;
        }
    }

    fn attach(&mut self, peer: PeerId) -> Result<(), Fault> {
        if let Some(fault) = self.takes_fault(FaultKind::Attach) {
            return Err(fault);
        }
        self.effects.has_others = true;
        let (now, wants_credentials) = (self.now, self.wants_credentials);
        let Some((number, connection)) = self.connection(peer, "attach") else { return Ok(()) };
        let shown = connection.shown.flatten().filter(|_| wants_credentials);
        let uid = shown.unwrap_or(connection.credentials).uid;
        let origin = Offender::of(uid, connection.namespace);
        match &mut connection.device {
            Some(device) if !device.is_attached => device.is_attached = true,
            other => {
                let text = format!("{number} is attached with {other:?}");
                self.violation(text);
            }
        }
        if self.quarantine.get(&origin).is_some_and(|record| record.end > now) {
            self.violation(format!("{number} is attached, and in quarantine"));
        }
        Ok(())
    }

    fn suspend(&mut self, peer: PeerId) {
        self.effects.has_others = true;
        let Some((number, connection)) = self.connection(peer, "suspend") else { return };
        match &mut connection.device {
            Some(device) if device.is_attached => device.is_attached = false,
            _ => self.violation(format!("{number} is suspended and is not attached")),
        }
    }

    fn discard_device(&mut self, peer: PeerId) {
        self.effects.has_others = true;
        if let Some((number, connection)) = self.connection(peer, "discard_device")
            && connection.device.take().is_none()
        {
            self.violation(format!("{number} has no device to discard"));
        }
    }

    fn is_device_alive(&self, peer: PeerId) -> bool {
        let connection = self.by_id.get(&peer).and_then(|number| self.connections.get(number));
        connection.and_then(|it| it.device).is_some_and(|device| device.state != DeviceState::Deleted)
    }

    fn is_closing_many(&self) -> bool {
        self.is_closing_many
    }

    fn make_pair(&mut self, peer: PeerId) -> bool {
        self.effects.has_others = true;
        let is_attached = self
            .connection(peer, "make_pair")
            .is_some_and(|(_, it)| it.device.is_some_and(|device| device.is_attached));
        if !is_attached {
            self.violation(format!("a pair for {peer:?}, which is not attached"));
        }
        if self.has_no_pairs {
            return false;
        }
        let result = self.kernel.make_pair(peer);
        self.note(result);
        true
    }

    fn drop_pair(&mut self, peer: PeerId) {
        self.effects.has_others = true;
        let result = self.kernel.drop_pair(peer);
        self.note(result);
    }

    fn set_kernel_claim(&mut self, peer: PeerId, address: IpAddr, is_held: bool) {
        let result = self.kernel.set_claim(peer, address, is_held);
        self.note(result);
    }

    fn offload(&mut self, flow: &KernelFlow) -> bool {
        self.effects.has_others = true;
        let result = self.kernel.offload(flow, self.now);
        self.note(result)
    }

    fn revoke(&mut self, which: Revoke) {
        self.effects.has_others = true;
        let result = self.kernel.revoke(which);
        self.note(result);
    }

    fn withdraw(&mut self, flow: &KernelFlow) -> Usage {
        self.effects.has_others = true;
        let result = self.kernel.withdraw(flow, self.now).map(|(usage, told)| {
            self.effects.told.push(told);
            usage
        });
        self.note(result)
    }

    fn kernel_usage(&mut self, flow: FlowId) -> Option<Usage> {
        let (usage, told) = self.kernel.usage(flow, self.now)?;
        self.effects.told.push(told);
        Some(usage)
    }

    fn pair_drops(&mut self, peer: PeerId) -> PairDrops {
        if self.kernel.claims(peer).is_none() {
            self.violation(format!("drops at the pair of {peer:?}, which has none"));
        }
        self.kernel.drops(peer)
    }

    fn path_mtu(&mut self, target: SocketAddr) -> Option<u16> {
        (target.port() == 999).then_some(1500)
    }

    fn tun_mtu(&self) -> Option<u16> {
        Some(1500)
    }

    fn is_router_device(&mut self, interface: u32) -> bool {
        interface == ROUTER_DEVICE
    }

    fn address_for(&mut self, credentials: PeerCredentials) -> Option<Ipv4Addr> {
        hook(credentials.uid)
    }

    fn thread_usage(&self) -> ThreadUsage {
        self.usage
    }

    fn log(&mut self, notice: &Notice) {
        self.effects.lines.push(notice.clone());
    }

    fn new_serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    fn store(&mut self, peer: PeerId, stored: StoredPeer) {
        self.effects.has_others = true;
        let Some((number, _)) = self.connection(peer, "store") else { return };
        if self.store.get(&stored.serial).is_some_and(|(owner, _)| *owner != number) {
            self.violation(format!("the serial {} of {number} is another's", stored.serial));
        }
        self.store.insert(stored.serial, (number, stored));
    }

    fn unstore(&mut self, serial: u64) {
        self.effects.has_others = true;
        self.store.remove(&serial);
    }

    fn store_quarantine(&mut self, origin: Offender, record: Record) {
        self.quarantine.insert(origin, record);
        self.effects.has_others = true;
    }
}

/// The address that the credentials hook has for a user.
pub const fn hook(uid: u32) -> Option<Ipv4Addr> {
    match uid {
        0 => Some(Ipv4Addr::new(10, 0, 0, 4)),
        1000 => Some(Ipv4Addr::new(10, 0, 0, 2)),
        1001 => Some(Ipv4Addr::new(10, 0, 0, 3)),
        // The router's own.
        1003 => Some(Ipv4Addr::new(10, 0, 0, 1)),
        _ => None,
    }
}
