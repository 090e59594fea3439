//! One connection, as the router sees it.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::queue::FrameQueue;
use crate::policy::drops::{DropCounters, DropReason};
use crate::sys::socket::PeerCredentials;
use crate::wire::frame::FrameError;
use crate::wire::greeting::BadStart;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The first bytes are to be the credentials.
    Credentials,
    /// The first bytes may be credentials that nobody asked for; else they are a frame.
    Start,
    /// Frames.
    Frames,
}

/// A stream peer.
#[derive(Debug)]
pub struct Peer {
    fd: OwnedFd,
    /// How far it has come.
    pub stage: Stage,
    /// Who it is: from the connect, or from the credentials that it sent.
    pub credentials: PeerCredentials,
    /// Start of a frame of which the rest is still to come.
    pub partial: Vec<u8>,
    /// Frames towards it.
    pub queue: FrameQueue,
    /// Whether epoll watches for room in its socket.
    pub watches_writable: bool,
    /// Whether it is in the list of peers to flush after this wake-up.
    pub to_flush: bool,
    /// The claim that was refused last, so that it is logged once.
    pub refused_claim: Option<Ipv4Addr>,
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
    /// Its stream makes no sense.
    #[error("it sent {0}")]
    Frame(#[from] FrameError),
    /// Its rules make no sense.
    #[error("it sent a block of {0} bytes that is no list of rules")]
    Rules(usize),
    /// It sent something else than its credentials.
    #[error("it did not send its credentials (set tuntap-use-credentials there, too)")]
    NoCredentials,
    /// It sent something that looks like credentials and isn't.
    #[error("it sent {0}")]
    BadStart(#[from] BadStart),
    /// The credentials hook said no.
    #[error("the credentials hook refused uid {uid}, gid {gid}, pid {pid}", uid = .0.uid, gid = .0.gid, pid = .0.pid)]
    Refused(PeerCredentials),
}

impl Peer {
    /// A new connection.
    pub fn new(fd: OwnedFd, credentials: PeerCredentials, stage: Stage) -> Self {
        Self {
            fd,
            stage,
            credentials,
            partial: Vec::new(),
            queue: FrameQueue::default(),
            watches_writable: false,
            to_flush: false,
            refused_claim: None,
            traffic: Traffic::default(),
        }
    }
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
