//! What a turn of a peer costs.

use std::time::{Duration, Instant};

use tuntap_sys::process::thread_time_nanos;

/// Measures one turn. While others wait, processor time counts: if the machine does something else in the middle of a turn, the
/// peer has not caused that. While nobody waits, the cost matters little, and the time of day is much cheaper to read.
#[derive(Debug, Clone, Copy)]
pub enum TurnClock {
    /// By processor time of this thread, in nanoseconds.
    Processor(u64),
    /// By time.
    Wall(Instant),
}

impl TurnClock {
    /// Begins to measure. `others_wait` says if other peers wait for their turns.
    pub fn start(others_wait: bool) -> Self {
        if others_wait { Self::Processor(thread_time_nanos()) } else { Self::Wall(Instant::now()) }
    }

    /// Returns what the turn has cost until now.
    pub fn took(self) -> Duration {
        match self {
            Self::Processor(start) => Duration::from_nanos(thread_time_nanos().saturating_sub(start)),
            Self::Wall(start) => start.elapsed(),
        }
    }
}
