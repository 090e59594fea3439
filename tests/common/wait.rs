//! Waiting for a condition: polled, bounded, with a message that says what never came.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Long enough for an Emperor or a vassal to start on a loaded machine.
pub const LONG: Duration = Duration::from_secs(60);
/// Long enough for a packet or a socket event on a loaded machine.
pub const SHORT: Duration = Duration::from_secs(10);

const INTERVAL: Duration = Duration::from_millis(20);

/// What all timeouts are multiplied by, for slow runs as under valgrind (scripts/memcheck): `TUNTAP_TIMEOUT_FACTOR`, or 1
/// if it isn't set.
fn timeout_factor() -> u32 {
    std::env::var("TUNTAP_TIMEOUT_FACTOR").map_or(1, |it| it.parse().expect("TUNTAP_TIMEOUT_FACTOR is a number"))
}

/// Returns true if the machine is said to be slow: it is emulated, or valgrind runs what is tested.
pub fn is_slow() -> bool {
    timeout_factor() > 1
}

/// The first value that `probe` yields before the deadline.
pub fn try_until<T>(within: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within * timeout_factor();
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        sleep(INTERVAL);
    }
}

/// The first value that `probe` yields before the deadline; panics with `what` when it passes.
#[track_caller]
pub fn until<T>(what: &str, within: Duration, probe: impl FnMut() -> Option<T>) -> T {
    match try_until(within, probe) {
        Some(value) => value,
        None => panic!("waited {within:?} in vain: {what}"),
    }
}

/// Waits for a condition.
#[track_caller]
pub fn until_true(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    until(what, within, || condition().then_some(()));
}
