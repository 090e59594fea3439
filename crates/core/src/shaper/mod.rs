//! Holds packets back until their time has come: a tree of limits (all peers, those of one user, one peer), and in each leaf a
//! queue of flows (fq_codel, RFC 8290). It is pure: the time is passed in, in nanoseconds since any start, and it never goes back.
//! There is one for each direction.

use crate::policy::shape::Limit;

/// The number of a leaf: the queue of one peer in one direction, or of one class of its flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeafId(pub(crate) u32);

/// A packet that waits.
#[derive(Debug)]
pub struct Item<T> {
    /// A virtio_net header and an IP packet.
    pub bytes: Vec<u8>,
    /// What it counts in bytes: all its segments with their headers.
    pub cost: u32,
    /// How many packets it stands for, at least 1.
    pub segments: u32,
    /// The flow that it belongs to; packets of one flow stay in order.
    pub flow: u32,
    /// What becomes of it when its time has come.
    pub target: T,
}

/// Why a packet was dropped from a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The queue was full.
    Full,
    /// It, or those before it in its flow, had waited too long for too long (`CoDel`, RFC 8289).
    Late,
}

/// What a leaf has and had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeafStats {
    /// Packets that wait (a super-packet counts once).
    pub packets: u64,
    /// Bytes that wait.
    pub bytes: u64,
    /// How long the packet that left last had waited, in nanoseconds.
    pub delay: u64,
    /// Bytes that left, in all.
    pub sent: u64,
    /// Bytes of these that left beyond the guaranteed rate.
    pub borrowed: u64,
    /// Packets that were dropped because the queue was full.
    pub full: u64,
    /// Packets that were dropped because they had waited too long.
    pub late: u64,
    /// Packets that were marked instead (ECN, RFC 3168).
    pub marked: u64,
    /// How often a packet found that it had to wait.
    pub held: u64,
}

/// The limits of a leaf and of those around it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeafLimits {
    /// Its own.
    pub own: Option<Limit>,
    /// The user that it belongs to, and the limit of all leaves of that user together.
    pub user: Option<(u32, Limit)>,
}
