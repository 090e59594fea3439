//! What the router asks of the world, and what it has the world do. An event loop with descriptors is one; a simulation is
//! another one.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::gso::GsoPacket;

use super::notice::Notice;
use super::quarantine::{Origin, Record};
use super::restore::StoredPeer;
use crate::policy::registry::PeerId;

/// What the kernel said when something failed, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

/// Why a packet was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteError {
    /// There is no room for it right now.
    Full,
    /// It was refused, or there is nothing to write to.
    Refused,
}

/// Why bytes were not sent to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendError {
    /// The peer's socket has no room right now.
    Full,
    /// The peer has closed its end.
    Closed,
    /// Anything else.
    Failed(Fault),
}

/// A write to a peer's device, and the moments at which it began and ended.
#[derive(Debug, Clone, Copy)]
pub struct DeviceWrite {
    /// Its outcome.
    pub result: Result<(), WriteError>,
    /// When it began.
    pub start: Instant,
    /// When it ended.
    pub end: Instant,
}

/// What can be seen of a device that a peer has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceFacts {
    /// A virtio_net header stands before each packet (IFF_VNET_HDR).
    pub has_header: bool,
    /// It is the router's own device.
    pub is_own: bool,
    /// IFF_NAPI is set.
    pub has_napi: bool,
    /// IFF_MULTI_QUEUE is set.
    pub has_queues: bool,
}

/// How long the router's thread has run, and how often another one took its place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadUsage {
    /// Nanoseconds of processor time (CLOCK_THREAD_CPUTIME_ID).
    pub nanos: u64,
    /// Context switches (getrusage(2), RUSAGE_THREAD).
    pub switches: u64,
}

/// The world around a router. No method may block.
pub trait Shell {
    // Packets.

    /// Returns true if the router's device takes GSO packets whole.
    fn tun_takes_gso(&self) -> bool;

    /// Writes a packet to the router's device.
    fn write_tun(&mut self, packet: &GsoPacket<'_>) -> Result<(), WriteError>;

    /// Writes a packet that was cut from a GSO packet to the router's device.
    fn write_tun_segment(&mut self, packet: &[u8]) -> Result<(), WriteError>;

    /// Writes a packet to a peer's device. `serial` is the peer's number in the store.
    fn write_device(&mut self, peer: PeerId, serial: Option<u64>, packet: &GsoPacket<'_>) -> DeviceWrite;

    /// Sends a packet to another router.
    fn send_datagram(&mut self, target: SocketAddr, packet: &[u8]) -> Result<(), WriteError>;

    /// Sends bytes on a peer's connection. Returns how many were taken.
    fn send(&mut self, peer: PeerId, bytes: &[u8]) -> Result<usize, SendError>;

    // Connections.

    /// The connection that the router is told of is this peer's from now on. Watches it.
    fn open(&mut self, peer: PeerId) -> Result<(), Fault>;

    /// Tells the router when a peer's connection has room, or tells it no more.
    fn watch_writable(&mut self, peer: PeerId, wanted: bool) -> Result<(), Fault>;

    /// No further descriptors are taken from a peer.
    fn refuse_descriptors(&mut self, peer: PeerId);

    /// Returns true if the peer has closed its end, or is not known.
    fn is_hung_up(&self, peer: PeerId) -> bool;

    /// Closes a peer's connection and its devices. `everywhere`: also for others who have a copy of the connection.
    fn close(&mut self, peer: PeerId, everywhere: bool);

    /// Watches the listening sockets, or doesn't.
    fn watch_listeners(&mut self, wanted: bool);

    // Devices of peers.

    /// Returns true if a peer has passed a descriptor that nothing was done with yet.
    fn has_offer(&self, peer: PeerId) -> bool;

    /// Looks at the device that a peer has passed. An error says why the descriptor is none that can be used.
    fn offered_device(&mut self, peer: PeerId) -> Result<DeviceFacts, String>;

    /// Makes the device that a peer has passed the peer's device.
    fn accept_device(&mut self, peer: PeerId);

    /// Closes the descriptor that a peer has passed, if there is one.
    fn discard_offer(&mut self, peer: PeerId);

    /// Reads packets from a peer's device from now on.
    fn attach(&mut self, peer: PeerId) -> Result<(), Fault>;

    /// Reads a peer's device no more, but keeps it.
    fn suspend(&mut self, peer: PeerId);

    /// Closes a peer's device.
    fn discard_device(&mut self, peer: PeerId);

    /// Returns true if a peer's device has not been deleted.
    fn is_device_alive(&self, peer: PeerId) -> bool;

    /// Returns true if so many devices wait to be closed that no further ones should be taken.
    fn is_closing_many(&self) -> bool;

    // Facts.

    /// The MTU of the path to a gateway in bytes, if the kernel knows it.
    fn path_mtu(&mut self, target: SocketAddr) -> Option<u16>;

    /// The MTU of the router's device in bytes.
    fn tun_mtu(&self) -> Option<u16>;

    /// Returns true if an interface is the device of a router of this instance.
    fn is_router_device(&mut self, interface: u32) -> bool;

    /// The address that the credentials hook gives to a peer; `None` refuses the peer.
    fn address_for(&mut self, credentials: PeerCredentials) -> Option<Ipv4Addr>;

    /// How long this thread has run.
    fn thread_usage(&self) -> ThreadUsage;

    // The log and the store.

    /// Writes a line to the log.
    fn log(&mut self, notice: &Notice);

    /// A new number in the store.
    fn new_serial(&mut self) -> u64;

    /// Stores a peer with its connection, or what is new about it, for a router that may follow this one.
    fn store(&mut self, peer: PeerId, stored: StoredPeer);

    /// Takes a peer out of the store.
    fn unstore(&mut self, serial: u64);

    /// Stores that devices of an origin are not attached for some time.
    fn store_quarantine(&mut self, origin: Origin, record: Record);
}
