//! One connection, as the router sees it.

use std::net::IpAddr;

use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::frame::FrameError;
use tuntap_wire::greeting::BadStart;
use tuntap_wire::offloads::Offloads;

use super::frames::READ_LEN;
use super::meter::WriteMeter;
use super::queue::FrameQueue;
use super::shell::Fault;
use crate::policy::admission::AdmissionError;
use crate::policy::drops::{DropCounters, DropReason};
use crate::policy::grant::Identity;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The first bytes are to be the credentials.
    Credentials,
    /// The first bytes may be credentials that nobody asked for; else they are a frame.
    Start,
    /// The first frame. It may be a hello, with a descriptor.
    FirstFrame,
    /// Frames.
    Frames,
}

/// How a peer's packets travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// In frames on the stream.
    Stream(StreamReason),
    /// Its TUN device is read and written by the router; the stream shows whether the peer lives.
    Tun,
}

/// Why a peer's packets travel in frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamReason {
    /// The router was started again, and the peer has not handed over its device again yet.
    #[error("the router was started again and waits for its device")]
    Restored,
    /// It didn't ask for anything else.
    #[error("it said no hello")]
    NoHello,
    /// Its hello came without exactly one descriptor.
    #[error("its hello brought no descriptor")]
    NoDescriptor,
    /// It speaks another version of the extension.
    #[error("its hello is of another version")]
    Version,
    /// The descriptor is not what it should be.
    #[error("{0}")]
    Device(String),
    /// The descriptor has no header before packets.
    #[error("its device has no header before packets")]
    NoHeader,
    /// The descriptor is the router's own device.
    #[error("it handed over the router's own device")]
    OwnDevice,
    /// The kernel can't promise that the device doesn't block.
    #[error("this kernel has no RWF_NOWAIT for TUN devices")]
    MayBlock,
    /// A device of the same network namespace, or of the same user, went back to frames for [`Self::SlowWrites`].
    #[error("packets took too much time in its network namespace, or in another one of its user, a short while ago")]
    Quarantined,
    /// Its device hands received packets on to another context of the kernel, where nobody sees what they cost.
    #[error("its device has IFF_NAPI")]
    Napi,
    /// Its device may have other queues, with other flags.
    #[error("its device has IFF_MULTI_QUEUE")]
    Queues,
    /// It was deleted while it waited to be attached.
    #[error("its device was deleted")]
    Deleted,
    /// Packets that are written to it take too long to be received there.
    #[error("packets take too much time in its network namespace")]
    SlowWrites,
    /// The devices of peers that left are still being closed.
    #[error("too many devices of other peers are still being closed")]
    Busy,
    /// There is no descriptor or memory left to watch the device.
    #[error("its device can't be watched: {0}")]
    Watch(Fault),
}

/// A peer's connection.
#[derive(Debug)]
pub struct Session {
    /// How far it has come.
    pub stage: Stage,
    /// Who the peer is: from the connect, or from the credentials that it sent.
    pub credentials: PeerCredentials,
    /// The network namespace in which the connection was made, if the kernel tells it.
    pub namespace: Option<u64>,
    /// How its packets travel.
    pub transport: Transport,
    /// True while its device is kept and waits to be attached.
    pub has_waiting_device: bool,
    /// What writes to its device cost.
    pub write_meter: WriteMeter,
    /// The offloads that the peer turns on when it is attached.
    pub offloads: Offloads,
    /// Start of a frame of which the rest is still to come.
    pub partial: Vec<u8>,
    /// Bytes that are read from the connection in its next turn.
    pub turn_len: usize,
    /// Frames towards the peer.
    pub queue: FrameQueue,
    /// True while the shell tells when the connection has room.
    pub watches_writable: bool,
    /// True while the peer is in the list of those to flush after this wake-up.
    pub to_flush: bool,
    /// The claim that was refused last, so that it is logged once.
    pub refused_claim: Option<IpAddr>,
    /// The name under which the peer asked for its configuration.
    pub autoconf_name: Option<u64>,
    /// How often the peer asked or claimed.
    pub autoconf_requests: u8,
    /// The peer's number in the store, if it is kept there.
    pub serial: Option<u64>,
    /// True once it was logged that the peer's rules came too late.
    pub late_rules_logged: bool,
    /// True once it was logged that the peer sends to a gateway.
    pub to_gateway_logged: bool,
    /// What passed.
    pub traffic: Traffic,
}

impl Session {
    /// A new connection.
    pub fn new(credentials: PeerCredentials, namespace: Option<u64>, stage: Stage) -> Self {
        Self {
            stage,
            credentials,
            namespace,
            transport: Transport::Stream(StreamReason::NoHello),
            has_waiting_device: false,
            write_meter: WriteMeter::default(),
            offloads: Offloads::NONE,
            partial: Vec::new(),
            turn_len: READ_LEN,
            queue: FrameQueue::default(),
            watches_writable: false,
            to_flush: false,
            refused_claim: None,
            autoconf_name: None,
            autoconf_requests: 0,
            serial: None,
            late_rules_logged: false,
            to_gateway_logged: false,
            traffic: Traffic::default(),
        }
    }

    /// Returns true if its device is read and written by the router.
    pub fn is_attached(&self) -> bool {
        self.transport == Transport::Tun
    }
}

impl Default for Session {
    /// A connection of root's, which has sent nothing yet.
    fn default() -> Self {
        Self::new(PeerCredentials { pid: 0, uid: 0, gid: 0 }, None, Stage::Start)
    }
}

/// Who a peer is, as far as credentials tell: they have no supplementary groups.
pub const fn identity(credentials: PeerCredentials) -> Identity {
    Identity { uid: credentials.uid, gid: credentials.gid, groups: Vec::new() }
}

/// Counters of one peer, seen from the router: `tx` goes to the peer. Bytes include the frame headers, as in the C
/// plugin.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// Bytes written to the peer.
    pub tx_bytes: u64,
    /// Bytes read from the peer.
    pub rx_bytes: u64,
    /// Packets queued for the peer.
    pub tx_packets: u64,
    /// Packets of the peer that went on.
    pub rx_packets: u64,
    /// Packets from or to the peer that did not.
    pub drops: DropCounters,
}

impl Traffic {
    /// What the C plugin calls `dropped`: packets that the peer was too slow to take.
    pub const fn dropped(&self) -> u64 {
        self.drops.get(DropReason::QueueFull)
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// It was closed.
    #[error("closed")]
    Closed,
    /// Reading or writing failed.
    #[error("{0}")]
    Socket(Fault),
    /// The device that it handed over was deleted.
    #[error("its device was deleted")]
    DeviceGone,
    /// The device that it handed over can't be read.
    #[error("its device can't be read: {0}")]
    Device(Fault),
    /// Its stream makes no sense.
    #[error("it sent {0}")]
    Frame(#[from] FrameError),
    /// Its rules make no sense.
    #[error("it sent a block of {0} bytes that is no list of rules")]
    Rules(usize),
    /// It sent more rules than it may.
    #[error("it sent {count} rules, {limit} are allowed (tuntap-router-max-device-rules)")]
    TooManyRules {
        /// How many it sent.
        count: usize,
        /// [`tuntap_core::policy::limits::Limits::device_rules`]
        limit: usize,
    },
    /// It had no address for long, and made room for another connection.
    #[error("it made room for another connection (tuntap-router-unclaimed-timeout)")]
    MadeRoom,
    /// The credentials that it showed are those of a user who has too many peers.
    #[error("it showed the credentials of uid {uid}: {error}")]
    TurnedAway {
        /// Whose they are.
        uid: u32,
        /// Why that is too many.
        error: AdmissionError,
    },
    /// It sent something else than its credentials.
    #[error("it did not send its credentials (set tuntap-use-credentials there, too)")]
    NoCredentials,
    /// It sent something that looks like credentials and isn't.
    #[error("it sent {0}")]
    BadStart(#[from] BadStart),
    /// The credentials hook said no.
    #[error("the credentials hook refused uid {uid}, gid {gid}, pid {pid}", uid = .0.uid, gid = .0.gid, pid = .0.pid)]
    Refused(PeerCredentials),
    /// The credentials hook gave it an address that is not leased to it.
    #[error("the credentials hook gave it {0}, which is not leased to it")]
    NotLeased(IpAddr),
    /// The credentials hook gave it an address that no peer can have.
    #[error("the credentials hook gave it {0}, which is the host's or a router's own, or no host's")]
    Taken(IpAddr),
}

impl CloseReason {
    /// Whether the peer is to blame.
    pub fn is_fault(&self) -> bool {
        !matches!(self, Self::Closed | Self::MadeRoom)
    }
}
