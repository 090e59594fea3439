//! How often the same thing is mended. What another program undoes again and again is left alone for a while. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often the same thing is mended before it is left alone.
const MAX_MENDS: u32 = 5;

/// Time between the first two mends. It doubles with each further mend.
const FIRST_INTERVAL: Duration = Duration::from_millis(500);

/// Time between a failed mend and the next attempt.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// How long a thing is left alone for the first time. It doubles each time, up to the longest pause.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// A mend that has lasted for this time is forgotten.
const QUIET: Duration = Duration::from_secs(60);

/// Most things that are remembered.
const MAX_KEYS: usize = 4096;

/// What is to be done about something that has to be mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Mend it now.
    Mend,
    /// Leave it alone for now.
    Wait,
    /// Leave it alone for this time. Returned once for each pause; after that it is [`Advice::Wait`].
    GiveUp(Duration),
}

/// Remembers what was mended, how often, and when.
#[derive(Debug, Default)]
pub struct Retries(BTreeMap<String, Record>);

#[derive(Debug, Clone, Copy)]
struct Record {
    mends: u32,
    last: Instant,
    not_before: Instant,
    pause: Duration,
}

impl Retries {
    /// Returns what to do about something that has to be mended, and assumes that it is done.
    pub fn ask(&mut self, key: &str, now: Instant) -> Advice {
        self.0.retain(|_, record| now < record.not_before.max(record.last + record.pause) + QUIET);
        let Some(record) = self.0.get_mut(key) else {
            if self.0.len() >= MAX_KEYS {
                return Advice::Wait;
            }
            let record = Record { mends: 1, last: now, not_before: now + FIRST_INTERVAL, pause: Duration::ZERO };
            self.0.insert(key.to_owned(), record);
            return Advice::Mend;
        };
        if now < record.not_before {
            return Advice::Wait;
        }
        record.last = now;
        if record.mends < MAX_MENDS {
            record.not_before = now + FIRST_INTERVAL * 2_u32.pow(record.mends);
            record.mends += 1;
            return Advice::Mend;
        }
        // One more attempt after each pause.
        record.mends = MAX_MENDS - 1;
        record.pause = (record.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        record.not_before = now + record.pause;
        Advice::GiveUp(record.pause)
    }

    /// Notes that a mend has failed. It doesn't count, because nobody has undone it, and is tried again soon.
    pub fn failed(&mut self, key: &str, now: Instant) {
        if let Some(record) = self.0.get_mut(key) {
            record.mends = record.mends.saturating_sub(1);
            record.not_before = now + AFTER_FAILURE;
        }
    }

    /// Returns true if something was mended recently.
    pub fn remembers(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The time when the next thing may be mended that waits.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        self.0.values().map(|record| record.not_before).filter(|time| *time > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates a program that undoes each mend at once. Returns the number of mends, and the pauses in seconds.
    fn fight(retries: &mut Retries, start: Instant, seconds: u64) -> (u32, Vec<u64>) {
        let (mut mends, mut given_up) = (0, Vec::new());
        for tick in 0..seconds * 10 {
            match retries.ask("address", start + Duration::from_millis(tick * 100)) {
                Advice::Mend => mends += 1,
                Advice::Wait => {}
                Advice::GiveUp(pause) => given_up.push(pause.as_secs()),
            }
        }
        (mends, given_up)
    }

    #[test]
    fn what_is_changed_now_and_then_is_mended_each_time() {
        let (mut retries, start) = (Retries::default(), Instant::now());
        for time in 0..100 {
            assert_eq!(retries.ask("address", start + Duration::from_secs(time * 90)), Advice::Mend);
        }
    }

    #[test]
    fn fight_is_given_up_for_longer_and_longer() {
        let (mut retries, start) = (Retries::default(), Instant::now());
        let (mends, given_up) = fight(&mut retries, start, 3600);
        assert_eq!(given_up[..4], [60, 120, 240, 480]);
        assert!(mends <= 5 + 6, "{mends}");
        assert_eq!(retries.ask("another", start + Duration::from_secs(1)), Advice::Mend, "others are not judged by it");
    }

    #[test]
    fn what_can_not_be_mended_is_tried_for_as_long_as_it_takes() {
        let (mut retries, start) = (Retries::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for time in 0..1000 {
            assert_eq!(retries.ask("address", at(2 * time)), Advice::Mend);
            retries.failed("address", at(2 * time));
            assert_eq!(retries.ask("address", at(2 * time)), Advice::Wait);
        }
    }

    #[test]
    fn it_starts_again_when_it_was_quiet() {
        let (mut retries, start) = (Retries::default(), Instant::now());
        fight(&mut retries, start, 30);
        let later = start + Duration::from_secs(30) + FIRST_PAUSE + FIRST_PAUSE + QUIET;
        let (mends, given_up) = fight(&mut retries, later, 30);
        assert_eq!((mends, given_up), (5, vec![60]));
    }
}
