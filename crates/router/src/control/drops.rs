//! Dropped packets, on their way from the event loop to clients that watch. A flood of them costs the loop a counter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::{Duration, Instant};

use super::question::Bell;
use tuntap_api::control::Dropped;

/// Dropped packets that are told in a second. The rest is counted.
pub const PER_SECOND: usize = 100;

/// Those that may wait for the control thread.
const MAX_WAITING: usize = 2 * PER_SECOND;

/// Both ends: that of the event loop, and that of the control thread, which the bell wakes.
pub fn channel(bell: Arc<Bell>) -> (DropTeller, Drops) {
    let (to_thread, told) = mpsc::sync_channel(MAX_WAITING);
    let left_out = Arc::new(AtomicU64::new(0));
    let teller =
        DropTeller { to_thread, left_out: Arc::clone(&left_out), bell, is_watched: false, second: None, in_second: 0 };
    (teller, Drops { told, left_out })
}

/// The event loop's end.
#[derive(Debug)]
pub struct DropTeller {
    to_thread: SyncSender<Dropped>,
    left_out: Arc<AtomicU64>,
    bell: Arc<Bell>,
    is_watched: bool,
    /// When the present second began, and what was told in it.
    second: Option<Instant>,
    in_second: usize,
}

impl DropTeller {
    /// Tells from now on, or no longer.
    pub fn watch(&mut self, wanted: bool) {
        self.is_watched = wanted;
        self.left_out.store(0, Ordering::Relaxed);
    }

    /// Returns true if somebody watches.
    pub const fn is_watched(&self) -> bool {
        self.is_watched
    }

    /// Counts a dropped packet that isn't told of.
    pub fn leave_out(&self) {
        self.left_out.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells of a dropped packet, or counts it if there are too many.
    pub fn tell(&mut self, now: Instant, dropped: Dropped) {
        if self.second.is_none_or(|second| now.saturating_duration_since(second) >= Duration::from_secs(1)) {
            self.second = Some(now);
            self.in_second = 0;
        }
        if self.in_second >= PER_SECOND || self.to_thread.try_send(dropped).is_err() {
            self.leave_out();
            return;
        }
        self.in_second += 1;
        self.bell.ring();
    }
}

/// The control thread's end.
#[derive(Debug)]
pub struct Drops {
    told: Receiver<Dropped>,
    left_out: Arc<AtomicU64>,
}

impl Drops {
    /// Returns the next dropped packet.
    pub fn next(&self) -> Option<Dropped> {
        self.told.try_recv().ok()
    }

    /// Returns once how many were left out.
    pub fn take_left_out(&self) -> u64 {
        self.left_out.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tuntap_api::control::Direction;

    #[test]
    fn drops_beyond_those_of_a_second_are_counted() {
        let (mut teller, drops) = channel(Arc::new(Bell::new().expect("a descriptor")));
        let dropped = || Dropped {
            time: 0,
            millis: 0,
            peer: None,
            uid: None,
            direction: Direction::Out,
            src: [10, 0, 0, 1].into(),
            src_port: None,
            dst: [10, 0, 0, 2].into(),
            dst_port: None,
            protocol: 1,
            len: 84,
            reason: "firewall".to_owned(),
            rule: None,
        };
        let take = || std::iter::from_fn(|| drops.next()).count();
        teller.watch(true);
        let start = Instant::now();
        (0..PER_SECOND + 5).for_each(|_| teller.tell(start, dropped()));
        assert_eq!((take(), drops.take_left_out(), drops.take_left_out()), (PER_SECOND, 5, 0));
        // Nobody takes what is told in the next seconds.
        for second in 1..=3 {
            (0..PER_SECOND).for_each(|_| teller.tell(start + Duration::from_secs(second), dropped()));
        }
        assert_eq!((take(), drops.take_left_out()), (MAX_WAITING, PER_SECOND as u64));
    }
}
