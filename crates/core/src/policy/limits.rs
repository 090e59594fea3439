//! Limits on the router's resources that peers may use.

use std::time::Duration;

use tuntap_wire::rule::MAX_RULES;

/// Limits on all peers together and on each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections, at most [`Limits::MAX_PEERS`].
    pub peers: usize,
    /// Connections of one user other than root. 0 means no limit.
    pub peers_per_uid: usize,
    /// Addresses of one user other than root, for each family. 0 means no limit, `None` a part of the router's
    /// networks.
    pub addresses_per_uid: Option<usize>,
    /// Connections without an address.
    pub unclaimed: usize,
    /// Age from which a connection without an address may be closed to make room for another one.
    pub unclaimed_timeout: Duration,
    /// Bytes that are queued for one peer, with frame headers. The queue bridges the time in which the vassal's thread
    /// is not scheduled. Beyond it, packets are dropped, because TCP should see a loss rather than a delay.
    pub queued_bytes: usize,
    /// Rules of one peer, at most [`MAX_RULES`].
    pub device_rules: usize,
    /// Flows that are known at a time, from [`Limits::MIN_FLOWS`] to [`Limits::MAX_FLOWS`].
    pub flows: usize,
    /// Flows that one peer may cause, at least [`Limits::MIN_FLOWS_PER_PEER`]. If it causes more, its oldest ones are forgotten.
    pub flows_per_peer: usize,
}

impl Limits {
    /// Most connections that the router's tables are designed for.
    pub const MAX_PEERS: usize = 65_536;

    /// Longest [`Limits::unclaimed_timeout`].
    pub const MAX_UNCLAIMED_TIMEOUT: Duration = Duration::from_secs(3600);

    /// Least [`Limits::queued_bytes`]: a queue must have room for all segments of a GSO packet, or the last ones would
    /// always be lost.
    pub const MIN_QUEUED_BYTES: usize = 128 * 1024;

    /// Most [`Limits::queued_bytes`]: a longer queue would only add delay.
    pub const MAX_QUEUED_BYTES: usize = 16 << 20;

    /// Most [`Limits::device_rules`]: as many as fit one frame.
    pub const MAX_DEVICE_RULES: usize = MAX_RULES;

    /// Least [`Limits::flows`].
    pub const MIN_FLOWS: usize = 1024;

    /// Most [`Limits::flows`].
    pub const MAX_FLOWS: usize = 4 << 20;

    /// Least [`Limits::flows_per_peer`].
    pub const MIN_FLOWS_PER_PEER: usize = 16;
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
            flows: 256 << 10,
            flows_per_peer: 16 << 10,
        }
    }
}
