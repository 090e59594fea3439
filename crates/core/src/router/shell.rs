//! The interface between the router and its surroundings: what it asks them, and what it makes them do. The router's
//! process implements it with descriptors; a simulation can implement it without.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::gso::GsoPacket;
use tuntap_wire::holding::RouterId;

use super::capture::CaptureRecord;
use super::notice::Notice;
use super::quarantine::{Offender, Record};
use super::restore::StoredPeer;
use super::watch::DropRecord;
use crate::kernel_path::{FlowId, KernelFlow, PairDrops, Revoke, Usage};
use crate::policy::registry::PeerId;
use crate::policy::script::{ScriptQuery, ScriptVerdict};
use crate::trunk::{Sent, TrunkId};

/// The kernel's error message when something failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

/// Why a packet was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteError {
    /// There is no room for it right now.
    Full,
    /// The kernel refused it, or there is no descriptor to write to.
    Refused,
}

/// Why a batch of packets was not sent to another router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchError {
    /// Single packets would fail, too.
    Failed(WriteError),
    /// The path has become narrower than [`Shell::path_mtu`] has said.
    TooLong,
    /// The kernel doesn't send batches, or not by this path.
    Unsupported(Fault),
}

/// Why bytes were not sent to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendError {
    /// The peer's socket has no room right now.
    Full,
    /// The peer has closed its end.
    Closed,
    /// Sending failed for another reason.
    Failed(Fault),
}

/// The result of a write to a peer's device, and the times at which it began and ended.
#[derive(Debug, Clone, Copy)]
pub struct DeviceWrite {
    /// The result of the write.
    pub result: Result<(), WriteError>,
    /// When it began.
    pub start: Instant,
    /// When it ended.
    pub end: Instant,
}

/// The properties of a device that a peer has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceFacts {
    /// True if a virtio_net header stands before each packet (IFF_VNET_HDR).
    pub has_header: bool,
    /// True if it is the router's own device.
    pub is_own: bool,
    /// True if IFF_NAPI is set.
    pub has_napi: bool,
    /// True if IFF_MULTI_QUEUE is set.
    pub has_queues: bool,
    /// True if reading it may block: O_NONBLOCK isn't set, and the kernel has no other way (RWF_NOWAIT).
    pub may_block: bool,
}

/// The processor time of the router's thread, and the number of its context switches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadUsage {
    /// Nanoseconds of processor time (CLOCK_THREAD_CPUTIME_ID).
    pub nanos: u64,
    /// Context switches (getrusage(2), RUSAGE_THREAD).
    pub switches: u64,
}

/// The surroundings of a router. No method may block.
pub trait Shell {
    // Packets.

    /// Returns true if the router's device takes GSO packets.
    fn tun_takes_gso(&self) -> bool;

    /// Writes a packet to the router's device.
    fn write_tun(&mut self, packet: &GsoPacket<'_>) -> Result<(), WriteError>;

    /// Writes one segment of a GSO packet to the router's device.
    fn write_tun_segment(&mut self, packet: &[u8]) -> Result<(), WriteError>;

    /// Writes a packet to a peer's device. `serial` is the peer's number in the store.
    fn write_device(&mut self, peer: PeerId, serial: Option<u64>, packet: &GsoPacket<'_>) -> DeviceWrite;

    /// Sends a packet to another router.
    fn send_datagram(&mut self, target: SocketAddr, packet: &[u8]) -> Result<(), WriteError>;

    /// Sends packets to another router with one system call, each in a datagram of its own: they lie end to end, and all have
    /// `len` bytes but for the last one, which may have fewer. Either all are sent or none is.
    fn send_datagrams(&mut self, target: SocketAddr, packets: &[u8], len: usize) -> Result<(), BatchError>;

    /// Sends bytes on a peer's connection. Returns how many were taken.
    fn send(&mut self, peer: PeerId, bytes: &[u8]) -> Result<usize, SendError>;

    // Trunks.

    /// Sends the parts as one message on a trunk's connection, whole or not at all. If there is no room,
    /// [`Router::trunk_writable`](super::Router::trunk_writable) is to be called once there is.
    fn send_trunk(&mut self, trunk: TrunkId, parts: &[&[u8]]) -> Sent;

    /// Stores the connection that is being reported to the router as that of a trunk, and watches it.
    fn open_trunk(&mut self, trunk: TrunkId) -> Result<(), Fault>;

    /// Closes the connection of a trunk to this neighbour, and removes it from the store.
    fn close_trunk(&mut self, trunk: TrunkId, neighbour: RouterId);

    /// Stores a trunk's connection for the next router: it leads to this neighbour and is open in this version of the protocol.
    fn store_trunk(&mut self, trunk: TrunkId, neighbour: RouterId, version: u16);

    // Connections.

    /// Stores the connection that is being reported to the router under the id of its peer, and watches it for input.
    fn open(&mut self, peer: PeerId) -> Result<(), Fault>;

    /// Starts or stops calling [`Router::writable`](super::Router::writable) when a peer's connection has room.
    fn watch_writable(&mut self, peer: PeerId, wanted: bool) -> Result<(), Fault>;

    /// Stops taking descriptors from a peer.
    fn refuse_descriptors(&mut self, peer: PeerId);

    /// Returns true if the peer has closed its end, or is unknown.
    fn is_hung_up(&self, peer: PeerId) -> bool;

    /// Closes a peer's connection and its devices. If `everywhere` is true, the connection is shut down, so that it also
    /// ends for those who have a copy of it.
    fn close(&mut self, peer: PeerId, everywhere: bool);

    /// Starts or stops watching the listening sockets.
    fn watch_listeners(&mut self, wanted: bool);

    // Devices of peers.

    /// Returns true if a peer has passed a descriptor that was neither accepted nor discarded yet.
    fn has_offer(&self, peer: PeerId) -> bool;

    /// Returns the properties of the device that a peer has passed. The error says why the descriptor can't be used.
    fn offered_device(&mut self, peer: PeerId) -> Result<DeviceFacts, String>;

    /// Makes the device that a peer has passed the peer's device.
    fn accept_device(&mut self, peer: PeerId);

    /// Closes the descriptor that a peer has passed, if there is one.
    fn discard_offer(&mut self, peer: PeerId);

    /// Starts reading packets from a peer's device.
    fn attach(&mut self, peer: PeerId) -> Result<(), Fault>;

    /// Stops reading a peer's device, but keeps it.
    fn suspend(&mut self, peer: PeerId);

    /// Closes a peer's device.
    fn discard_device(&mut self, peer: PeerId);

    /// Returns true if a peer's device has not been deleted.
    fn is_device_alive(&self, peer: PeerId) -> bool;

    /// Returns true if so many devices wait to be closed that no further ones should be taken.
    fn is_closing_many(&self) -> bool;

    // The path in the kernel.

    /// Begins to make a peer's pair: a hidden way between the peer's device and this host. Returns false if there can be none.
    /// Otherwise [`Router::pair_made`](super::Router::pair_made) or [`Router::pair_lost`](super::Router::pair_lost) follows, later.
    fn make_pair(&mut self, peer: PeerId) -> bool;

    /// Removes a peer's pair, or stops making it. No verdict is left that names the peer.
    fn drop_pair(&mut self, peer: PeerId);

    /// Says whether a peer that has a pair holds an address. A new pair has no address, and lets no packet in from any other one,
    /// whatever the verdicts say.
    fn set_kernel_claim(&mut self, peer: PeerId, address: IpAddr, is_held: bool);

    /// Gives the kernel a verdict. The kernel has no other one of its id. Peers that it names have pairs. Returns false if the kernel
    /// doesn't take it.
    fn offload(&mut self, flow: &KernelFlow) -> bool;

    /// Makes verdicts void, those too that were withdrawn a moment ago. When it returns, no packet passes by them any more that
    /// the host hasn't judged already. What they have counted stays until each is withdrawn.
    fn revoke(&mut self, which: Revoke);

    /// Takes back a verdict that the kernel was given, void or not, and returns what has passed by it.
    fn withdraw(&mut self, flow: &KernelFlow) -> Usage;

    /// Returns what has passed by a verdict, void or not. `None` if the kernel has lost it: then it has to be withdrawn.
    fn kernel_usage(&mut self, flow: FlowId) -> Option<Usage>;

    /// Returns what the kernel has dropped at a peer's pair.
    fn pair_drops(&mut self, peer: PeerId) -> PairDrops;

    // Facts.

    /// Returns the MTU of the path to a gateway in bytes, if the kernel knows it.
    fn path_mtu(&mut self, target: SocketAddr) -> Option<u16>;

    /// Returns the MTU of the router's device in bytes.
    fn tun_mtu(&self) -> Option<u16>;

    /// Returns true if an interface is the device of a router of this instance.
    fn is_router_device(&mut self, interface: u32) -> bool;

    /// Returns the address that the credentials hook gives to a peer; `None` refuses the peer.
    fn address_for(&mut self, credentials: PeerCredentials) -> Option<Ipv4Addr>;

    /// Returns the processor time and the context switches of the router's thread.
    fn thread_usage(&self) -> ThreadUsage;

    /// Returns what the policy's script says about a flow that the rules let pass; `None` if it has no opinion. A script that
    /// fails denies the flow.
    fn script(&mut self, query: &ScriptQuery<'_>) -> Option<ScriptVerdict>;

    /// Returns true if packets to this address leave the host by a `nat` interface.
    fn is_beyond_nat(&mut self, address: IpAddr) -> bool;

    // The log and the store.

    /// A packet was dropped, while [`Router::set_watch`](super::Router::set_watch) is on.
    fn dropped(&mut self, record: &DropRecord);

    /// A capture wants to see this packet, see [`Router::set_capture`](super::Router::set_capture).
    fn captured(&mut self, record: &CaptureRecord<&[u8]>);

    /// Writes a line to the log.
    fn log(&mut self, notice: &Notice);

    /// Returns a new number for a peer in the store.
    fn new_serial(&mut self) -> u64;

    /// Stores a peer with its connection for the next router, or replaces what is stored of it.
    fn store(&mut self, peer: PeerId, stored: StoredPeer);

    /// Removes a peer from the store.
    fn unstore(&mut self, serial: u64);

    /// Stores the quarantine of an offender for the next router.
    fn store_quarantine(&mut self, offender: Offender, record: Record);
}
