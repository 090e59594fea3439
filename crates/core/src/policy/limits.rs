//! How much of the router its peers may take.

use std::time::Duration;

use tuntap_wire::rule::MAX_RULES;

/// Limits on peers, all of them at once and each by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all, at most [`Limits::MAX_PEERS`].
    pub peers: usize,
    /// Connections of one user other than root; 0 is no limit.
    pub peers_per_uid: usize,
    /// Addresses of one user other than root, of each family; 0 is no limit. `None`: a part of the router's networks.
    pub addresses_per_uid: Option<usize>,
    /// Connections without an address.
    pub unclaimed: usize,
    /// Age from which a connection without an address makes room for another one where there is none.
    pub unclaimed_timeout: Duration,
    /// Bytes that wait to be written to one peer, frame headers included. They bridge the time in which a vassal's
    /// thread is not scheduled; what a vassal doesn't take then, TCP should learn of by a loss rather than by a delay.
    pub queued_bytes: usize,
    /// Rules of one peer, at most [`MAX_RULES`].
    pub device_rules: usize,
}

impl Limits {
    /// Most connections that the router's tables are made for.
    pub const MAX_PEERS: usize = 65_536;

    /// Longest age that can be asked for.
    pub const MAX_UNCLAIMED_TIMEOUT: Duration = Duration::from_secs(3600);

    /// A queue has room for a super-packet that was cut, or the end of each one would be lost.
    pub const MIN_QUEUED_BYTES: usize = 128 * 1024;

    /// Beyond this a queue is only delay.
    pub const MAX_QUEUED_BYTES: usize = 16 << 20;

    /// As many rules as fit the frame that carries them.
    pub const MAX_DEVICE_RULES: usize = MAX_RULES;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            peers: Self::MAX_PEERS,
            peers_per_uid: 1024,
            addresses_per_uid: None,
            unclaimed: 1024,
            unclaimed_timeout: Duration::from_secs(10),
            queued_bytes: 256 * 1024,
            device_rules: Self::MAX_DEVICE_RULES,
        }
    }
}
