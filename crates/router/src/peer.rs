//! One connection, as the router sees it.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::event_loop::READ_LEN;
use super::meter::WriteMeter;
use super::queue::FrameQueue;
use tuntap_core::policy::admission::AdmissionError;
use tuntap_core::policy::drops::{DropCounters, DropReason};
use tuntap_core::policy::grant::Identity;
use tuntap_sys::tun::Tun;
use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::frame::FrameError;
use tuntap_wire::greeting::BadStart;
use tuntap_wire::offloads::Offloads;

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
#[derive(Debug)]
pub enum Path {
    /// In frames on the stream.
    Stream(StreamReason),
    /// Its TUN device is read and written here; the stream is its lifeline.
    Attached(Tun),
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
    Watch(nix::errno::Errno),
}

/// A peer.
#[derive(Debug)]
pub struct Peer {
    fd: OwnedFd,
    /// How far it has come.
    pub stage: Stage,
    /// Who it is: from the connect, or from the credentials that it sent.
    pub credentials: PeerCredentials,
    /// How its packets travel.
    pub path: Path,
    /// Its device while that may not be attached, and what the device leaves to be done then.
    pub waiting: Option<Box<(Offloads, Tun)>>,
    /// What writes to its device cost.
    pub write_meter: WriteMeter,
    /// The offloads that it turns on when it is attached.
    pub offloads: Offloads,
    /// What came with its first bytes.
    pub offered: Option<OwnedFd>,
    /// Start of a frame of which the rest is still to come.
    pub partial: Vec<u8>,
    /// Bytes that are read from its connection in its next turn.
    pub turn_len: usize,
    /// Frames towards it.
    pub queue: FrameQueue,
    /// Whether epoll watches for room in its socket.
    pub watches_writable: bool,
    /// Whether it is in the list of peers to flush after this wake-up.
    pub to_flush: bool,
    /// The claim that was refused last, so that it is logged once.
    pub refused_claim: Option<IpAddr>,
    /// The name under which it asked for its configuration.
    pub lease_name: Option<u64>,
    /// How often it asked or claimed.
    pub lease_requests: u8,
    /// Its number in the store, if it is kept there.
    pub store_serial: Option<u64>,
    /// Whether it was logged that its rules came too late.
    pub late_rules_logged: bool,
    /// Whether it was logged that it sends to a gateway.
    pub to_gateway_logged: bool,
    /// What passed.
    pub traffic: Traffic,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Departure {
    /// It was closed.
    #[error("closed")]
    Closed,
    /// Reading or writing failed.
    #[error("{0}")]
    Socket(nix::errno::Errno),
    /// The device that it handed over was deleted.
    #[error("its device was deleted")]
    DeviceGone,
    /// The device that it handed over can't be read.
    #[error("its device can't be read: {0}")]
    Device(std::io::ErrorKind),
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
    #[error("it showed the credentials of uid {uid}: {refusal}")]
    TurnedAway {
        /// Whose they are.
        uid: libc::uid_t,
        /// Why that is too many.
        refusal: AdmissionError,
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

impl Departure {
    /// Whether the peer is to blame.
    pub fn is_fault(self) -> bool {
        !matches!(self, Self::Closed | Self::MadeRoom)
    }
}

impl Peer {
    /// A new connection.
    pub fn new(fd: OwnedFd, credentials: PeerCredentials, stage: Stage) -> Self {
        Self {
            fd,
            stage,
            credentials,
            path: Path::Stream(StreamReason::NoHello),
            waiting: None,
            write_meter: WriteMeter::default(),
            offloads: Offloads::NONE,
            offered: None,
            partial: Vec::new(),
            turn_len: READ_LEN,
            queue: FrameQueue::default(),
            watches_writable: false,
            to_flush: false,
            refused_claim: None,
            lease_name: None,
            lease_requests: 0,
            store_serial: None,
            late_rules_logged: false,
            to_gateway_logged: false,
            traffic: Traffic::default(),
        }
    }
}

/// Who a peer is, as far as credentials tell: they have no supplementary groups.
pub const fn identity(credentials: PeerCredentials) -> Identity {
    Identity { uid: credentials.uid, gid: credentials.gid, groups: Vec::new() }
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
