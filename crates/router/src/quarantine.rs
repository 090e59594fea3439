//! Who had devices that were too expensive to write to, so that hanging up and coming back is no way around the
//! [`super::meter`].

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use tuntap_sys::net::{NamespaceCookie, namespace_of};
use tuntap_wire::credentials::PeerCredentials;

/// What stays the same when a peer comes back with another process and another device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Origin {
    /// A user other than root. Namespaces are cheap for one who can make any.
    User(libc::uid_t),
    /// Vassals mostly connect as root; each has a network namespace of its own.
    Namespace(NamespaceCookie),
    /// As root from a namespace that the kernel doesn't tell: one place for all of them, or each could come back at once.
    Unknown,
}

impl Origin {
    /// Where a peer with this connection comes from.
    pub fn of(credentials: PeerCredentials, connection: BorrowedFd<'_>) -> Self {
        match credentials.uid {
            0 => namespace_of(connection).map_or(Self::Unknown, Self::Namespace),
            uid => Self::User(uid),
        }
    }
}

/// What is remembered of an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// When its devices may be attached again.
    pub end: Instant,
    /// How long that took.
    pub period: Duration,
}

impl Record {
    /// After a relapse it takes longer, unless nothing was heard of it for so many of its periods.
    const MEMORY: u32 = 10;

    fn is_over(&self, now: Instant) -> bool {
        now >= self.end
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.end) >= self.period * Self::MEMORY
    }
}

/// Where expensive devices came from.
#[derive(Debug, Default)]
pub struct Quarantine(HashMap<Origin, Record>);

impl Quarantine {
    /// How long devices from there are not attached: at first, and at most after relapses, each of which doubles it.
    pub const FIRST_PERIOD: Duration = Duration::from_secs(20);
    pub const LONGEST_PERIOD: Duration = Duration::from_secs(3600);

    /// After a write in which a router hung. It was the same for all as if there were no router.
    pub const HANG_PERIOD: Duration = Duration::from_secs(600);

    /// Most origins that are remembered. Each has cost the router some expensive writes, so that they come slowly.
    pub const MAX: usize = 256;

    /// Remembers an origin, and tells until when its devices are not attached.
    pub fn add(&mut self, origin: Origin, now: Instant) -> Record {
        self.add_for(origin, Self::FIRST_PERIOD, now)
    }

    /// Remembers an origin to which a write took so long that the router was ended.
    pub fn add_hang(&mut self, origin: Origin, now: Instant) -> Record {
        self.add_for(origin, Self::HANG_PERIOD, now)
    }

    /// Remembers what a router before this one has found.
    pub fn restore(&mut self, origin: Origin, record: Record) {
        self.0.insert(origin, record);
    }

    fn add_for(&mut self, origin: Origin, least: Duration, now: Instant) -> Record {
        self.0.retain(|_, record| !record.is_forgotten(now));
        let period = match self.0.get(&origin) {
            // Another device from there, that was attached as well.
            Some(record) if !record.is_over(now) => record.period,
            Some(record) => (record.period * 2).min(Self::LONGEST_PERIOD),
            None => least,
        };
        let record = Record { end: now + period.max(least), period: period.max(least) };
        if self.0.len() >= Self::MAX
            && !self.0.contains_key(&origin)
            && let Some(first) = self.0.iter().min_by_key(|(_, record)| record.end).map(|(origin, _)| *origin)
        {
            self.0.remove(&first);
        }
        self.0.insert(origin, record);
        record
    }

    /// When devices of an origin may be attached again, if that is not now.
    pub fn end(&self, origin: Origin, now: Instant) -> Option<Instant> {
        self.0.get(&origin).filter(|record| !record.is_over(now)).map(|record| record.end)
    }

    /// Whether an origin is remembered.
    pub fn knows(&self, origin: Origin, now: Instant) -> bool {
        self.0.get(&origin).is_some_and(|record| !record.is_forgotten(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Quarantine::FIRST_PERIOD;

    #[test]
    fn is_over_after_its_period() {
        let start = Instant::now();
        let mut quarantine = Quarantine::default();
        assert_eq!(quarantine.add(Origin::User(7), start).period, FIRST);
        assert_eq!(quarantine.end(Origin::User(7), start + FIRST / 2), Some(start + FIRST));
        assert_eq!(quarantine.end(Origin::User(8), start), None);
        assert_eq!(quarantine.end(Origin::User(7), start + FIRST), None);
        assert!(quarantine.knows(Origin::User(7), start + FIRST));
        assert!(!quarantine.knows(Origin::User(8), start));
    }

    #[test]
    fn relapses_double_it_up_to_an_hour() {
        let mut now = Instant::now();
        let mut quarantine = Quarantine::default();
        let mut periods = Vec::new();
        for _ in 0..10 {
            let period = quarantine.add(Origin::Unknown, now).period;
            periods.push(period.as_secs());
            now += period + Duration::from_secs(1);
        }
        assert_eq!(periods, [20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
    }

    #[test]
    fn second_device_of_an_origin_is_no_relapse() {
        let start = Instant::now();
        let mut quarantine = Quarantine::default();
        quarantine.add(Origin::User(7), start);
        assert_eq!(quarantine.add(Origin::User(7), start + FIRST / 2).period, FIRST);
        assert_eq!(quarantine.end(Origin::User(7), start + FIRST), Some(start + FIRST / 2 + FIRST));
    }

    #[test]
    fn who_was_good_for_long_begins_anew() {
        let start = Instant::now();
        let mut quarantine = Quarantine::default();
        quarantine.add(Origin::User(7), start);
        let forgotten = start + FIRST * (1 + Record::MEMORY);
        assert!(quarantine.knows(Origin::User(7), forgotten - Duration::from_millis(1)));
        assert!(!quarantine.knows(Origin::User(7), forgotten));
        assert_eq!(quarantine.add(Origin::User(7), forgotten).period, FIRST);
    }

    #[test]
    fn the_first_to_end_is_forgotten_first() {
        let start = Instant::now();
        let mut quarantine = Quarantine::default();
        let origins: Vec<Origin> = (1..).map(Origin::User).take(Quarantine::MAX + 1).collect();
        for (origin, millis) in origins.iter().zip(0..) {
            quarantine.add(*origin, start + Duration::from_millis(millis));
        }
        let now = start + FIRST / 2;
        assert!(!quarantine.knows(origins[0], now));
        assert!(origins[1..].iter().all(|origin| quarantine.end(*origin, now).is_some()));
        quarantine.add(Origin::Unknown, now + FIRST * (1 + Record::MEMORY));
        assert_eq!(quarantine.0.len(), 1, "what is forgotten takes no room");
    }
}
