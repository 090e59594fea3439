//! Numbers about one neighbour. They go on over its connections.

use std::time::Duration;

use super::notice::Refusal;

/// What has gone one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Packets. One that stands for many counts once.
    pub packets: u64,
    /// Their bytes, without headers of frames and virtio_net.
    pub bytes: u64,
}

impl Traffic {
    /// Counts a packet.
    pub(super) const fn count(&mut self, len: usize) {
        self.packets += 1;
        self.bytes += len as u64;
    }
}

/// Numbers about one neighbour.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets that came.
    pub received: Traffic,
    /// Packets that were given to the connection or wait for it.
    pub sent: Traffic,
    /// Packets to the neighbour that were dropped because too many waited already.
    pub queue_full: u64,
    /// Packets to the neighbour that were dropped because they, or those before them in their flow, had waited too long.
    pub queue_late: u64,
    /// Packets to the neighbour that were dropped because no trunk was open.
    pub not_open: u64,
    /// Packets to the neighbour that had crossed as many trunks as they may.
    pub expired: u64,
    /// Announcements and withdrawals that came.
    pub announcements: u64,
    /// Frames of unknown kinds, which were skipped.
    pub unknown_frames: u64,
    /// How often a trunk was opened.
    pub opened: u64,
    /// How long the neighbour took to answer the last time, with all that waited on the way.
    pub round_trip: Option<Duration>,
    /// What was refused, in the order of [`Refusal::ALL`].
    refused: [u64; Refusal::ALL.len()],
}

impl Statistics {
    /// How often something was refused for this reason.
    pub const fn refused(&self, refusal: Refusal) -> u64 {
        self.refused[refusal.index()]
    }

    /// Counts something that was refused.
    pub(super) const fn refuse(&mut self, refusal: Refusal) {
        self.refused[refusal.index()] += 1;
    }
}
