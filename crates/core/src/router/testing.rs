//! Surroundings for unit tests: sockets and devices take everything, and nothing ever fails.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tuntap_wire::attach::Hello;
use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::frame::{self, FrameKind};
use tuntap_wire::gso::GsoPacket;
use tuntap_wire::holding::RouterId;
use tuntap_wire::offloads::Offloads;

use super::capture::CaptureRecord;
use super::notice::Notice;
use super::quarantine::{Offender, Record};
use super::restore::StoredPeer;
use super::shell::{BatchError, DeviceFacts, DeviceWrite, Fault, SendError, Shell, ThreadUsage, WriteError};
use super::watch::DropRecord;
use super::{Connection, Router};
use crate::kernel_path::{FlowId, KernelFlow, PairDrops, Revoke, Usage};
use crate::policy::registry::PeerId;
use crate::policy::script::{ScriptQuery, ScriptVerdict};
use crate::trunk::{Sent, TrunkId};

/// Connects a peer, which sends frames.
pub fn connect_in_frames(
    router: &mut Router,
    shell: &mut TestShell,
    credentials: PeerCredentials,
    now: Instant,
) -> PeerId {
    let connection = Connection { credentials, namespace: None, groups: Vec::new() };
    router.accept(shell, connection, now).expect("there is room")
}

/// Lets a peer that sends frames pass its device. The router may refuse it.
pub fn say_hello(router: &mut Router, shell: &mut TestShell, id: PeerId, now: Instant) {
    let hello = Hello { offloads: Offloads::NONE.bits(), router_only: false };
    let mut bytes = Vec::new();
    assert!(frame::append(&mut bytes, FrameKind::Hello, &hello.encode()));
    router.received(shell, id, &bytes, bytes.len(), now);
}

/// Connects a peer that passes its device.
pub fn connect(router: &mut Router, shell: &mut TestShell, credentials: PeerCredentials, now: Instant) -> PeerId {
    let id = connect_in_frames(router, shell, credentials, now);
    say_hello(router, shell, id, now);
    assert!(router.is_attached(id));
    id
}

/// Surroundings in which each peer has passed a usable device.
#[derive(Debug, Default)]
pub struct TestShell {
    /// The latest number of a peer in the store.
    pub last_serial: u64,
    /// The time, once the test has set it; otherwise the machine's.
    pub now: Option<Instant>,
    /// The cost of a write to a peer's device, if the test has set the time.
    pub write_cost: Duration,
    /// True if the peers don't read their connections, which are full.
    pub are_connections_full: bool,
    /// Lines of the log.
    pub lines: Vec<Notice>,
    /// Packets that were dropped while the router was watched.
    pub dropped: Vec<DropRecord>,
    /// Packets that were captured.
    pub captured: Vec<CaptureRecord<Vec<u8>>>,
    /// Packets that were written to the router's device.
    pub to_tun: Vec<Vec<u8>>,
    /// Packets that were written to peers' devices.
    pub to_devices: Vec<(PeerId, Vec<u8>)>,
    /// Packets to other routers, by system call.
    pub to_gateways: Vec<Vec<Vec<u8>>>,
    /// How batches to other routers fail, and single packets.
    pub batch_error: Option<BatchError>,
    pub single_error: Option<WriteError>,
    /// How often a batch was to be sent.
    pub batches_tried: usize,
    /// The path MTU to other routers.
    pub path_mtu: Option<u16>,
    /// True if trunks' connections are full.
    pub are_trunks_full: bool,
    /// Messages that were sent on trunks.
    pub to_trunks: Vec<(TrunkId, Vec<u8>)>,
    /// Trunks that have a connection.
    pub trunks: Vec<TrunkId>,
    /// Trunks that were stored, with the versions of their protocol.
    pub stored_trunks: Vec<(TrunkId, u16)>,
    /// True if all hosts are beyond a `nat` interface.
    pub is_all_beyond_nat: bool,
    /// What the kernel was told, and what passes there.
    pub kernel: TestKernel,
}

/// A kernel with a path for flows, as far as the router knows it.
#[derive(Debug, Default)]
pub struct TestKernel {
    /// True if it refuses verdicts.
    pub is_full: bool,
    /// True if it can't make pairs.
    pub has_no_pairs: bool,
    /// Peers that have a pair, or are about to.
    pub pairs: Vec<PeerId>,
    /// The claims that it knows.
    pub claims: Vec<(PeerId, IpAddr)>,
    /// The verdicts that it has, void or not, with what has passed.
    pub flows: Vec<(KernelFlow, Usage)>,
    /// What was revoked.
    pub revoked: Vec<Revoke>,
    /// What was dropped at each pair.
    pub drops: PairDrops,
}

impl TestKernel {
    /// So many packets of so many bytes in all pass by a verdict.
    pub fn pass(&mut self, id: FlowId, packets: u64, bytes: u64) {
        let (_, usage) = self.flows.iter_mut().find(|(flow, _)| flow.id == id).expect("the kernel has it");
        (usage.packets, usage.bytes, usage.idle) = (usage.packets + packets, usage.bytes + bytes, Duration::ZERO);
    }

    /// Time passes without packets.
    pub fn rest(&mut self, time: Duration) {
        self.flows.iter_mut().for_each(|(_, usage)| usage.idle += time);
    }
}

impl Shell for TestShell {
    fn script(&mut self, _query: &ScriptQuery<'_>) -> Option<ScriptVerdict> {
        None
    }

    fn is_beyond_nat(&mut self, _address: IpAddr) -> bool {
        self.is_all_beyond_nat
    }

    fn tun_takes_gso(&self) -> bool {
        true
    }

    fn write_tun(&mut self, packet: &GsoPacket<'_>) -> Result<(), WriteError> {
        self.to_tun.push(packet.packet().bytes().to_vec());
        Ok(())
    }

    fn write_tun_segment(&mut self, _packet: &[u8]) -> Result<(), WriteError> {
        Ok(())
    }

    fn write_device(&mut self, peer: PeerId, _serial: Option<u64>, packet: &GsoPacket<'_>) -> DeviceWrite {
        self.to_devices.push((peer, packet.packet().bytes().to_vec()));
        let start = self.now.unwrap_or_else(Instant::now);
        let end = start + self.write_cost;
        self.now = self.now.map(|_| end);
        DeviceWrite { result: Ok(()), start, end }
    }

    fn send_datagram(&mut self, _target: SocketAddr, packet: &[u8]) -> Result<(), WriteError> {
        self.to_gateways.push(vec![packet.to_vec()]);
        self.single_error.map_or(Ok(()), Err)
    }

    fn send_datagrams(&mut self, _target: SocketAddr, packets: &[u8], len: usize) -> Result<(), BatchError> {
        self.batches_tried += 1;
        if let Some(error) = &self.batch_error {
            return Err(error.clone());
        }
        self.to_gateways.push(packets.chunks(len).map(<[u8]>::to_vec).collect());
        Ok(())
    }

    fn send_trunk(&mut self, trunk: TrunkId, parts: &[&[u8]]) -> Sent {
        if self.are_trunks_full {
            return Sent::Full;
        }
        self.to_trunks.push((trunk, parts.concat()));
        Sent::All
    }

    fn open_trunk(&mut self, trunk: TrunkId) -> Result<(), Fault> {
        self.trunks.push(trunk);
        Ok(())
    }

    fn close_trunk(&mut self, trunk: TrunkId, _neighbour: RouterId) {
        self.trunks.retain(|open| *open != trunk);
    }

    fn store_trunk(&mut self, trunk: TrunkId, _neighbour: RouterId, version: u16) {
        self.stored_trunks.push((trunk, version));
    }

    fn send(&mut self, _peer: PeerId, bytes: &[u8]) -> Result<usize, SendError> {
        if self.are_connections_full { Err(SendError::Full) } else { Ok(bytes.len()) }
    }

    fn open(&mut self, _peer: PeerId) -> Result<(), Fault> {
        Ok(())
    }

    fn watch_writable(&mut self, _peer: PeerId, _wanted: bool) -> Result<(), Fault> {
        Ok(())
    }

    fn refuse_descriptors(&mut self, _peer: PeerId) {}

    fn is_hung_up(&self, _peer: PeerId) -> bool {
        false
    }

    fn close(&mut self, _peer: PeerId, _everywhere: bool) {}

    fn watch_listeners(&mut self, _wanted: bool) {}

    fn has_offer(&self, _peer: PeerId) -> bool {
        true
    }

    fn offered_device(&mut self, _peer: PeerId) -> Result<DeviceFacts, String> {
        Ok(DeviceFacts { has_header: true, is_own: false, has_napi: false, has_queues: false, may_block: false })
    }

    fn accept_device(&mut self, _peer: PeerId) {}

    fn discard_offer(&mut self, _peer: PeerId) {}

    fn attach(&mut self, _peer: PeerId) -> Result<(), Fault> {
        Ok(())
    }

    fn suspend(&mut self, _peer: PeerId) {}

    fn discard_device(&mut self, _peer: PeerId) {}

    fn is_device_alive(&self, _peer: PeerId) -> bool {
        true
    }

    fn is_closing_many(&self) -> bool {
        false
    }

    fn make_pair(&mut self, peer: PeerId) -> bool {
        if !self.kernel.has_no_pairs {
            self.kernel.pairs.push(peer);
        }
        !self.kernel.has_no_pairs
    }

    fn drop_pair(&mut self, peer: PeerId) {
        self.kernel.pairs.retain(|with_pair| *with_pair != peer);
        self.kernel.claims.retain(|(holder, _)| *holder != peer);
    }

    fn set_kernel_claim(&mut self, peer: PeerId, address: IpAddr, is_held: bool) {
        self.kernel.claims.retain(|claim| *claim != (peer, address));
        if is_held {
            self.kernel.claims.push((peer, address));
        }
    }

    fn offload(&mut self, flow: &KernelFlow) -> bool {
        if !self.kernel.is_full {
            self.kernel.flows.push((*flow, Usage::default()));
        }
        !self.kernel.is_full
    }

    fn revoke(&mut self, which: Revoke) {
        self.kernel.revoked.push(which);
    }

    fn withdraw(&mut self, flow: &KernelFlow) -> Usage {
        let at = self.kernel.flows.iter().position(|(known, _)| known == flow);
        at.map_or_else(Usage::default, |at| self.kernel.flows.swap_remove(at).1)
    }

    fn kernel_usage(&mut self, flow: FlowId) -> Option<Usage> {
        self.kernel.flows.iter().find(|(known, _)| known.id == flow).map(|(_, usage)| *usage)
    }

    fn pair_drops(&mut self, _peer: PeerId) -> PairDrops {
        self.kernel.drops
    }

    fn path_mtu(&mut self, _target: SocketAddr) -> Option<u16> {
        self.path_mtu
    }

    fn tun_mtu(&self) -> Option<u16> {
        None
    }

    fn is_router_device(&mut self, _interface: u32) -> bool {
        false
    }

    fn address_for(&mut self, _credentials: PeerCredentials) -> Option<Ipv4Addr> {
        None
    }

    fn thread_usage(&self) -> ThreadUsage {
        ThreadUsage::default()
    }

    fn log(&mut self, notice: &Notice) {
        self.lines.push(notice.clone());
    }

    fn dropped(&mut self, record: &DropRecord) {
        self.dropped.push(*record);
    }

    fn captured(&mut self, record: &CaptureRecord<&[u8]>) {
        self.captured.push(record.with_bytes(record.bytes.to_vec()));
    }

    fn new_serial(&mut self) -> u64 {
        self.last_serial += 1;
        self.last_serial
    }

    fn store(&mut self, _peer: PeerId, _stored: StoredPeer) {}

    fn unstore(&mut self, _serial: u64) {}

    fn store_quarantine(&mut self, _offender: Offender, _record: Record) {}
}
