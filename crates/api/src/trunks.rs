//! What the statistics say of trunks to routers of other hosts.

use serde::{Deserialize, Serialize};

use super::Word;

/// A router of another host. Counters began with the router's process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrunkStats {
    /// Its id, which belongs to its key.
    pub router: String,
    /// Its name, as it said when it connected last. Empty before.
    pub name: String,
    /// What it may announce, and what its packets may come from.
    pub networks: Vec<String>,
    /// True if it is told what others tell, and its packets may go on to them.
    pub relay: bool,
    /// `down`, `greeting` or `open`.
    pub state: Word,
    /// Seconds since then.
    pub state_seconds: u64,
    /// How often a trunk was opened.
    pub opened: u64,
    /// Microseconds that it took to answer the last time, with all that waited on the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_trip_micros: Option<u64>,
    /// Addresses that it announces.
    pub announced: u64,
    /// Addresses that it was told of.
    pub told: u64,
    /// Announcements and withdrawals that came.
    pub announcements: u64,
    /// Packets that came. One that stands for many counts once.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets that were sent, or wait.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Bytes of packets that wait.
    pub queued_bytes: u64,
    /// Packets to it that were dropped.
    pub dropped: TrunkDropped,
    /// What it sent that was refused.
    pub refused: TrunkRefused,
    /// Frames of unknown kinds, which were skipped.
    pub unknown_frames: u64,
}

/// Packets to a router of another host that were dropped, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrunkDropped {
    /// Too many waited already.
    pub queue_full: u64,
    /// They, or those before them in their flow, had waited too long.
    pub queue_late: u64,
    /// No trunk was open.
    pub not_open: u64,
    /// They had crossed as many trunks as they may.
    pub hops: u64,
}

/// What a router of another host sent that was refused, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrunkRefused {
    /// Announcements outside of its networks.
    pub foreign_announcement: u64,
    /// Announcements of addresses that no vassal can have.
    pub unusable_address: u64,
    /// Announcements that had come from this router.
    #[serde(rename = "loop")]
    pub looped: u64,
    /// Announcements that too many routers had passed on.
    pub long_path: u64,
    /// Announcements in the name of another router.
    pub other_teller: u64,
    /// Announcements beyond the most that one may make.
    pub too_many: u64,
    /// Packets with sources outside of its networks, or of addresses that others hold.
    pub spoofed_source: u64,
    /// Packets that are none.
    pub malformed_packet: u64,
}
