//! Waiting for others that may be about to end, as the processes of an instance that was killed are: until then they have devices,
//! sockets and ports.

use std::thread;
use std::time::{Duration, Instant};

/// How long a start waits for others.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Interval at which it tries again.
const POLL: Duration = Duration::from_millis(50);

/// Tries something until it succeeds, or fails after `patience` has passed or for another reason than that somebody is in the way.
pub fn outwait<T, E>(
    patience: Duration,
    mut attempt: impl FnMut() -> Result<T, E>,
    mut is_in_the_way: impl FnMut(&E) -> bool,
) -> Result<T, E> {
    let deadline = Instant::now() + patience;
    loop {
        match attempt() {
            Err(error) if Instant::now() < deadline && is_in_the_way(&error) => thread::sleep(POLL),
            result => return result,
        }
    }
}
