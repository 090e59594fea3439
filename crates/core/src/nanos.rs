//! Durations as numbers.

use std::time::Duration;

/// Returns a duration in nanoseconds. One of more than 584 years counts as that.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
