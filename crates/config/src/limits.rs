//! `tuntap-router-max-*` and `tuntap-router-unclaimed-timeout`.

use std::time::Duration;

use super::error::Problem;
use super::parse;
use tuntap_core::policy::limits::Limits;

/// Reads `tuntap-router-max-peers`.
pub fn peers(value: &str) -> Result<usize, Problem> {
    count(value, 1, Limits::MAX_PEERS)
}

/// Reads `tuntap-router-max-peers-per-uid`.
pub fn peers_per_uid(value: &str) -> Result<usize, Problem> {
    count(value, 0, Limits::MAX_PEERS)
}

/// Reads `tuntap-router-max-addresses-per-uid`.
pub fn addresses_per_uid(value: &str) -> Result<usize, Problem> {
    count(value, 0, Limits::MAX_PEERS)
}

/// Reads `tuntap-router-max-unclaimed`.
pub fn unclaimed(value: &str) -> Result<usize, Problem> {
    count(value, 1, Limits::MAX_PEERS)
}

/// Reads `tuntap-router-unclaimed-timeout`, in seconds.
pub fn unclaimed_timeout(value: &str) -> Result<Duration, Problem> {
    parse::number(value, 1, Limits::MAX_UNCLAIMED_TIMEOUT.as_secs()).map(Duration::from_secs)
}

/// Reads `tuntap-router-max-queue`, in bytes.
pub fn queued_bytes(value: &str) -> Result<usize, Problem> {
    count(value, Limits::MIN_QUEUED_BYTES, Limits::MAX_QUEUED_BYTES)
}

/// Reads `tuntap-router-max-device-rules`.
pub fn device_rules(value: &str) -> Result<usize, Problem> {
    count(value, 0, Limits::MAX_DEVICE_RULES)
}

/// Reads `tuntap-router-max-flows`.
pub fn flows(value: &str) -> Result<usize, Problem> {
    count(value, Limits::MIN_FLOWS, Limits::MAX_FLOWS)
}

/// Reads `tuntap-router-max-flows-per-peer`.
pub fn flows_per_peer(value: &str) -> Result<usize, Problem> {
    count(value, Limits::MIN_FLOWS_PER_PEER, Limits::MAX_FLOWS)
}

fn count(value: &str, min: usize, max: usize) -> Result<usize, Problem> {
    let number = parse::number(value, min as u64, max as u64)?;
    // A number up to `max` fits its type.
    Ok(usize::try_from(number).unwrap_or(max))
}
