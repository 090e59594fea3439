//! The state of one peer's connection.

use std::net::IpAddr;

use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::frame::FrameError;
use tuntap_wire::greeting::BadStart;
use tuntap_wire::offloads::Offloads;

use super::frames::READ_LEN;
use super::held::Queues;
use super::kernel::PeerPath;
use super::meter::WriteMeter;
use super::queue::FrameQueue;
use super::shell::Fault;
use crate::policy::admission::AdmissionError;
use crate::policy::drops::{DropCounters, DropReason};
use crate::policy::grant::Identity;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The first message has to be the credentials.
    Credentials,
    /// The first bytes may be credentials that the router doesn't ask for; otherwise they are a frame.
    Start,
    /// The first frame is expected. It may be a hello with a descriptor.
    FirstFrame,
    /// Further frames are expected.
    Frames,
}

/// How a peer's packets travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// In frames on the stream.
    Stream(StreamReason),
    /// Its TUN device is attached: the router reads and writes it. The stream only shows that the peer lives.
    Tun,
}

/// Why a peer's packets travel in frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamReason {
    /// The router was started again, and the peer has not passed its device again yet.
    #[error("the router was started again and waits for its device")]
    Restored,
    /// It has not said hello.
    #[error("it said no hello")]
    NoHello,
    /// Its hello came without exactly one descriptor.
    #[error("its hello brought no descriptor")]
    NoDescriptor,
    /// It speaks another version of the extension.
    #[error("its hello is of another version")]
    Version,
    /// The descriptor is not that of a usable TUN device.
    #[error("{0}")]
    Device(String),
    /// The device has no virtio_net header before packets.
    #[error("its device has no header before packets")]
    NoHeader,
    /// The descriptor is the router's own device.
    #[error("it handed over the router's own device")]
    OwnDevice,
    /// The kernel doesn't support non-blocking reads of the device (RWF_NOWAIT).
    #[error("this kernel has no RWF_NOWAIT for TUN devices")]
    MayBlock,
    /// Its descriptor is without O_NONBLOCK, and the kernel has no RWF_NOWAIT.
    #[error("its descriptor is without O_NONBLOCK, and this kernel has no RWF_NOWAIT for TUN devices")]
    Blocking,
    /// A read or a write of the device had to be ended, since somebody has cleared O_NONBLOCK.
    #[error("it has cleared O_NONBLOCK of its device, and the router had to wait")]
    Blocked,
    /// A device of the same network namespace, or of the same user, went back to frames for [`Self::SlowWrites`] or
    /// [`Self::Blocked`].
    #[error(
        "packets took too much time in its network namespace, or in another one of its user, or a device there blocked, a short while ago"
    )]
    Quarantined,
    /// With IFF_NAPI the kernel handles written packets in another context, where their cost can't be measured.
    #[error("its device has IFF_NAPI")]
    Napi,
    /// Its device may have other queues, with other flags.
    #[error("its device has IFF_MULTI_QUEUE")]
    Queues,
    /// Its device was deleted while it waited to be attached.
    #[error("its device was deleted")]
    Deleted,
    /// Packets that are written to its device take too long to be received in its network namespace.
    #[error("packets take too much time in its network namespace")]
    SlowWrites,
    /// Too many devices of peers that left are still being closed.
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
    /// The peer's credentials: those of the connection, or those that it has shown.
    pub credentials: PeerCredentials,
    /// The network namespace in which the connection was made, if the kernel reports it.
    pub namespace: Option<u64>,
    /// How its packets travel.
    pub transport: Transport,
    /// True while its device is kept and waits to be attached.
    pub has_waiting_device: bool,
    /// The queues in which its packets are held back, out and in.
    pub queues: [Option<Box<Queues>>; 2],
    /// The number of the limits, and the number of the peer's addresses, with which none was for it, out and in.
    pub free_for: [(u32, usize); 2],
    /// The cost of writes to its device.
    pub write_meter: WriteMeter,
    /// The offloads that the peer turns on when it is attached.
    pub offloads: Offloads,
    /// The beginning of a frame of which the rest has not come yet.
    pub partial: Vec<u8>,
    /// The maximum number of bytes to read from the connection in its next turn.
    pub turn_len: usize,
    /// Frames towards the peer.
    pub queue: FrameQueue,
    /// True while the shell reports when the connection has room.
    pub watches_writable: bool,
    /// True while the peer is in the list of peers to flush at the end of this turn.
    pub to_flush: bool,
    /// The address of the last refused claim. It is kept so that the refusal is logged only once.
    pub refused_claim: Option<IpAddr>,
    /// The name of the peer's configuration request.
    pub autoconf_name: Option<u64>,
    /// True if the router has chosen an address for the peer's device, now or before the device connected again.
    pub has_chosen_address: bool,
    /// The number of the peer's configuration requests and claim requests.
    pub autoconf_requests: u8,
    /// The peer's number in the store, if it is stored.
    pub serial: Option<u64>,
    /// True once it was logged that the peer's rules came too late.
    pub late_rules_logged: bool,
    /// True once it was logged that the peer sends to the gateway of a router.
    pub to_gateway_logged: bool,
    /// True if its device doesn't want the path in the kernel.
    pub denies_kernel_path: bool,
    /// What the kernel has of it, if it could use the path there.
    pub path: Option<Box<PeerPath>>,
    /// Counters of the peer.
    pub traffic: Traffic,
}

impl Session {
    /// Has the limits be looked up again.
    pub fn forget_limits(&mut self) {
        self.free_for = <[(u32, usize); 2]>::default();
        self.queues.iter_mut().flatten().for_each(|queues| queues.forget_limits());
    }

    /// Makes the state of a new connection.
    pub fn new(credentials: PeerCredentials, namespace: Option<u64>, stage: Stage) -> Self {
        Self {
            stage,
            credentials,
            namespace,
            transport: Transport::Stream(StreamReason::NoHello),
            has_waiting_device: false,
            queues: [None, None],
            free_for: [(0, 0); 2],
            write_meter: WriteMeter::default(),
            offloads: Offloads::NONE,
            partial: Vec::new(),
            turn_len: READ_LEN,
            queue: FrameQueue::default(),
            watches_writable: false,
            to_flush: false,
            refused_claim: None,
            autoconf_name: None,
            has_chosen_address: false,
            autoconf_requests: 0,
            serial: None,
            late_rules_logged: false,
            to_gateway_logged: false,
            denies_kernel_path: false,
            path: None,
            traffic: Traffic::default(),
        }
    }

    /// Returns true if the peer's device is attached.
    pub fn is_attached(&self) -> bool {
        self.transport == Transport::Tun
    }
}

impl Default for Session {
    /// Makes the state of a connection of root that has sent nothing yet.
    fn default() -> Self {
        Self::new(PeerCredentials { pid: 0, uid: 0, gid: 0 }, None, Stage::Start)
    }
}

/// Returns the identity that follows from credentials, which have no supplementary groups.
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
    /// Packets from the peer that were forwarded.
    pub rx_packets: u64,
    /// Dropped packets from or to the peer, by reason.
    pub drops: DropCounters,
}

impl Traffic {
    /// Adds that of another peer.
    pub fn add(&mut self, other: &Self) {
        self.tx_bytes += other.tx_bytes;
        self.rx_bytes += other.rx_bytes;
        self.tx_packets += other.tx_packets;
        self.rx_packets += other.rx_packets;
        self.drops.add_all(&other.drops);
    }

    /// Returns what the C plugin calls `dropped`: the packets that the peer was too slow to take.
    pub const fn dropped(&self) -> u64 {
        self.drops.get(DropReason::QueueFull)
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The peer has closed it.
    #[error("closed")]
    Closed,
    /// Reading or writing failed.
    #[error("{0}")]
    Socket(Fault),
    /// The device that it passed was deleted.
    #[error("its device was deleted")]
    DeviceGone,
    /// The device that it passed can't be read.
    #[error("its device can't be read: {0}")]
    Device(Fault),
    /// Its stream has an invalid frame.
    #[error("it sent {0}")]
    Frame(#[from] FrameError),
    /// Its rules can't be decoded.
    #[error("it sent a block of {0} bytes that is no list of rules")]
    Rules(usize),
    /// It sent more rules than it may.
    #[error("it sent {count} rules, {limit} are allowed (tuntap-router-max-device-rules)")]
    TooManyRules {
        /// The number of rules that it sent.
        count: usize,
        /// The limit, [`Limits::device_rules`](crate::policy::limits::Limits::device_rules).
        limit: usize,
    },
    /// It had no address for a long time, and was closed to make room for another connection.
    #[error("it made room for another connection (tuntap-router-unclaimed-timeout)")]
    MadeRoom,
    /// The credentials that it has shown are those of a user with too many peers.
    #[error("it showed the credentials of uid {uid}: {error}")]
    TurnedAway {
        /// The user whose credentials they are.
        uid: u32,
        /// The limit that was reached.
        error: AdmissionError,
    },
    /// Its first message has no credentials.
    #[error("it did not send its credentials (set tuntap-use-credentials there, too)")]
    NoCredentials,
    /// It began with invalid credentials.
    #[error("it sent {0}")]
    BadStart(#[from] BadStart),
    /// The credentials hook refused it.
    #[error("the credentials hook refused uid {uid}, gid {gid}, pid {pid}", uid = .0.uid, gid = .0.gid, pid = .0.pid)]
    Refused(PeerCredentials),
    /// A newer claim on another host has the address that the router had chosen for its device. The device gets another one when
    /// it starts again.
    #[error("the address that was chosen for it went to a vassal of another host")]
    LostAddress,
    /// The credentials hook gave it an address that is not granted to it.
    #[error("the credentials hook gave it {0}, which is not leased to it")]
    NotGranted(IpAddr),
    /// The credentials hook gave it an address that no peer may hold.
    #[error("the credentials hook gave it {0}, which is the host's or a router's own, or no host's")]
    Taken(IpAddr),
}

impl CloseReason {
    /// Returns true if the connection was not closed in an orderly way, so that it counts as a fault.
    pub fn is_fault(&self) -> bool {
        !matches!(self, Self::Closed | Self::MadeRoom | Self::LostAddress)
    }
}
