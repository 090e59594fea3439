//! A record of those whose devices were too expensive to write to. It keeps a peer from escaping the [`super::meter`] by
//! connecting again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What identifies those whose devices are not attached. It stays the same when a peer connects again from another process
/// or with another device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Offender {
    /// A user other than root. The namespace doesn't count, because a user who can make one can make many.
    User(u32),
    /// A network namespace from which root has connected. Vassals mostly connect as root, and each has a namespace of its
    /// own.
    Namespace(u64),
    /// Root, from a namespace that the kernel doesn't report. All of these share one record; otherwise each of them could
    /// return at once.
    Unknown,
}

impl Offender {
    /// Returns the user or namespace by which a peer of this user, which has connected from this namespace, is remembered.
    pub const fn of(uid: u32, namespace: Option<u64>) -> Self {
        match (uid, namespace) {
            (0, Some(namespace)) => Self::Namespace(namespace),
            (0, None) => Self::Unknown,
            (uid, _) => Self::User(uid),
        }
    }
}

/// The record of an offender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The time at which devices may be attached again.
    pub end: Instant,
    /// The length of the quarantine.
    pub period: Duration,
}

impl Record {
    /// A record is kept for so many of its periods after its end. A relapse within this time makes the next quarantine
    /// longer.
    const MEMORY: u32 = 10;

    fn is_over(&self, now: Instant) -> bool {
        now >= self.end
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.end) >= self.period * Self::MEMORY
    }
}

/// The records of all offenders.
#[derive(Debug, Default)]
pub struct Quarantine(HashMap<Offender, Record>);

impl Quarantine {
    /// The length of the first quarantine of an offender. Each relapse doubles it.
    pub const FIRST_PERIOD: Duration = Duration::from_secs(20);

    /// The maximum length of a quarantine after relapses.
    pub const LONGEST_PERIOD: Duration = Duration::from_secs(3600);

    /// The length of the quarantine after a write in which a router hung, which stopped the network of all vassals.
    pub const HANG_PERIOD: Duration = Duration::from_secs(600);

    /// The maximum number of records. Each comes after several expensive writes, so that they can't be filled quickly.
    pub const MAX: usize = 256;

    /// Adds or extends the record of an offender, and returns it.
    pub fn add(&mut self, offender: Offender, now: Instant) -> Record {
        self.add_for(offender, Self::FIRST_PERIOD, now)
    }

    /// Adds or extends the record of an offender whose device made a router hang, and returns it.
    pub fn add_hang(&mut self, offender: Offender, now: Instant) -> Record {
        self.add_for(offender, Self::HANG_PERIOD, now)
    }

    /// Adds a record from a router before this one.
    pub fn restore(&mut self, offender: Offender, record: Record) {
        self.0.insert(offender, record);
    }

    fn add_for(&mut self, offender: Offender, least: Duration, now: Instant) -> Record {
        self.0.retain(|_, record| !record.is_forgotten(now));
        let period = match self.0.get(&offender) {
            // Another device of the same offender, which was attached before the quarantine began.
            Some(record) if !record.is_over(now) => record.period,
            Some(record) => (record.period * 2).min(Self::LONGEST_PERIOD),
            None => least,
        };
        let record = Record { end: now + period.max(least), period: period.max(least) };
        if self.0.len() >= Self::MAX
            && !self.0.contains_key(&offender)
            && let Some(first) = self.0.iter().min_by_key(|(_, record)| record.end).map(|(offender, _)| *offender)
        {
            self.0.remove(&first);
        }
        self.0.insert(offender, record);
        record
    }

    /// Returns the time at which devices of an offender may be attached again; `None` if they may be attached now.
    pub fn end(&self, offender: Offender, now: Instant) -> Option<Instant> {
        self.0.get(&offender).filter(|record| !record.is_over(now)).map(|record| record.end)
    }

    /// Returns true if there is a record of an offender.
    pub fn has_record(&self, offender: Offender, now: Instant) -> bool {
        self.0.get(&offender).is_some_and(|record| !record.is_forgotten(now))
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
        assert_eq!(quarantine.add(Offender::User(7), start).period, FIRST);
        assert_eq!(quarantine.end(Offender::User(7), start + FIRST / 2), Some(start + FIRST));
        assert_eq!(quarantine.end(Offender::User(8), start), None);
        assert_eq!(quarantine.end(Offender::User(7), start + FIRST), None);
        assert!(quarantine.has_record(Offender::User(7), start + FIRST));
        assert!(!quarantine.has_record(Offender::User(8), start));
    }

    #[test]
    fn relapses_double_the_period_up_to_an_hour() {
        let mut now = Instant::now();
        let mut quarantine = Quarantine::default();
        let mut periods = Vec::new();
        for _ in 0..10 {
            let period = quarantine.add(Offender::Unknown, now).period;
            periods.push(period.as_secs());
            now += period + Duration::from_secs(1);
        }
        assert_eq!(periods, [20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
    }

    #[test]
    fn second_device_of_an_offender_is_no_relapse() {
        let start = Instant::now();
        let mut quarantine = Quarantine::default();
        quarantine.add(Offender::User(7), start);
        assert_eq!(quarantine.add(Offender::User(7), start + FIRST / 2).period, FIRST);
        assert_eq!(quarantine.end(Offender::User(7), start + FIRST), Some(start + FIRST / 2 + FIRST));
    }

    #[test]
    fn record_is_forgotten_after_ten_periods() {
        let start = Instant::now();
        let mut quarantine = Quarantine::default();
        quarantine.add(Offender::User(7), start);
        let forgotten = start + FIRST * (1 + Record::MEMORY);
        assert!(quarantine.has_record(Offender::User(7), forgotten - Duration::from_millis(1)));
        assert!(!quarantine.has_record(Offender::User(7), forgotten));
        assert_eq!(quarantine.add(Offender::User(7), forgotten).period, FIRST);
    }

    #[test]
    fn the_first_to_end_is_forgotten_first() {
        let start = Instant::now();
        let mut quarantine = Quarantine::default();
        let offenders: Vec<Offender> = (1..).map(Offender::User).take(Quarantine::MAX + 1).collect();
        for (offender, millis) in offenders.iter().zip(0..) {
            quarantine.add(*offender, start + Duration::from_millis(millis));
        }
        let now = start + FIRST / 2;
        assert!(!quarantine.has_record(offenders[0], now));
        assert!(offenders[1..].iter().all(|offender| quarantine.end(*offender, now).is_some()));
        quarantine.add(Offender::Unknown, now + FIRST * (1 + Record::MEMORY));
        assert_eq!(quarantine.0.len(), 1, "what is forgotten takes no room");
    }
}
