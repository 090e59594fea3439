//! What limits on traffic (`tuntap-router-shape`) have done.

use serde::{Deserialize, Serialize};

/// What limits have done, by direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shaped {
    /// Packets from the peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<ShapeStats>,
    /// Packets towards the peers.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    pub inn: Option<ShapeStats>,
}

impl Shaped {
    /// Returns true if nothing is limited.
    pub const fn is_none(&self) -> bool {
        self.out.is_none() && self.inn.is_none()
    }
}

/// What limits have done in one direction. Counters begin at zero when the router's process starts, and when the peer comes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShapeStats {
    /// The most bits per second, or with another `ceil` what is guaranteed; 0 if only others together with it are limited.
    pub rate: u64,
    /// The most bits per second.
    pub ceil: u64,
    /// Packets that wait now. A GSO packet is one.
    pub waiting_packets: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// How long the packet that went on last had waited, in microseconds.
    pub delay_us: u64,
    /// Bytes that went on.
    pub sent_bytes: u64,
    /// Bytes of these that went on beyond the guaranteed rate.
    pub borrowed_bytes: u64,
    /// Packets that were dropped because their queue was full.
    pub dropped_full: u64,
    /// Packets that were dropped because they had waited too long.
    pub dropped_late: u64,
    /// Packets that were marked instead of dropped (ECN, RFC 3168).
    pub marked: u64,
    /// How often a packet had to wait.
    pub held: u64,
}
