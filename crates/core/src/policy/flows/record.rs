//! Flows in memory that outlives the router's process: what its successor needs to know them again.
//!
//! A record is written by the router's thread only. Its first word is written last, and is a sum over the words that never
//! change, so that the successor ignores a record that was written only in part. It trusts no word.

use std::sync::atomic::{AtomicU64, Ordering};

use super::entry::{Entry, Owner};
use super::key::FlowKey;
use crate::policy::counters::Words;
use crate::policy::registry::PeerId;

/// Words of one record. A cache line has eight.
const WORDS: usize = 16;

/// The words of a record.
mod at {
    pub const SUM: usize = 0;
    pub const LOCAL: usize = 1;
    pub const REMOTE: usize = 3;
    pub const SERVICE: usize = 5;
    pub const OWNER: usize = 6;
    pub const FIRST_SEEN: usize = 7;
    /// From here on, words change.
    pub const STATE: usize = 8;
    pub const COUNTS: usize = 9;
}

/// The kind of owner, in the service word.
mod owner {
    pub const IDS: u64 = 0;
    pub const USER: u64 = 1;
    pub const NAMESPACE: u64 = 2;
}

/// The start of the sum. It changes with the meaning of the words.
const VERSION: u64 = 0x7475_6e74_6170_0001;

/// A peer that is never there.
const NOBODY: PeerId = PeerId { index: PeerId::MAX_INDEX, generation: u32::MAX };

/// The records of a table of flows: one for each entry, at the same place. Before them stands one with the number of those that
/// were ever used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Records(Words);

impl Records {
    /// Bytes of one record.
    pub(super) const BYTES: usize = WORDS * size_of::<u64>();

    /// Words for so many flows.
    pub(super) const fn words(flows: usize) -> usize {
        (flows + 1) * WORDS
    }

    pub(super) const fn new(words: Words) -> Self {
        Self(words)
    }

    fn record(self, entry: u32) -> Option<&'static [AtomicU64; WORDS]> {
        let at = (entry as usize + 1) * WORDS;
        self.0.get(at..at + WORDS)?.first_chunk()
    }

    /// The number of records that may have been used.
    pub(super) fn used(self) -> usize {
        let used = self.0.first().map_or(0, |used| used.load(Ordering::Relaxed));
        let most = (self.0.len() / WORDS).saturating_sub(1);
        usize::try_from(used).unwrap_or(most).min(most)
    }

    /// Writes a new flow.
    pub(super) fn write(self, number: u32, entry: &Entry) {
        let Some(record) = self.record(number) else { return };
        let used = u64::from(number) + 1;
        if self.0[0].load(Ordering::Relaxed) < used {
            self.0[0].store(used, Ordering::Relaxed);
        }
        record[at::SUM].store(0, Ordering::Release);
        let fixed = fixed(entry);
        for (word, value) in record[at::LOCAL..at::STATE].iter().zip(fixed) {
            word.store(value, Ordering::Relaxed);
        }
        self.write_state(number, entry);
        self.write_counts(number, entry);
        record[at::SUM].store(sum(number, fixed), Ordering::Release);
    }

    /// Writes how far the connection has come, and when it was used.
    pub(super) fn write_state(self, number: u32, entry: &Entry) {
        let Some(record) = self.record(number) else { return };
        let flags = [entry.passed[0], entry.passed[1], entry.fins[0], entry.fins[1], entry.is_reset];
        let bits = flags.iter().rev().fold(0u64, |bits, flag| bits << 1 | u64::from(*flag));
        record[at::STATE].store(u64::from(entry.last_seen) << 32 | bits, Ordering::Relaxed);
    }

    /// Writes packets and bytes.
    #[inline]
    pub(super) fn write_counts(self, number: u32, entry: &Entry) {
        let Some(record) = self.record(number) else { return };
        let counts = [entry.out.packets, entry.out.bytes, entry.inn.packets, entry.inn.bytes];
        for (word, count) in record[at::COUNTS..].iter().zip(counts) {
            word.store(count, Ordering::Relaxed);
        }
    }

    /// Clears a record. Its flow is forgotten.
    pub(super) fn clear(self, number: u32) {
        if let Some(record) = self.record(number) {
            record[at::SUM].store(0, Ordering::Release);
        }
    }

    /// Reads a flow of the router before this one. `None` if there is none, or if it makes no sense.
    pub(super) fn read(self, number: u32, now: u32) -> Option<Entry> {
        let record = self.record(number)?;
        let word = |at: usize| record[at].load(Ordering::Relaxed);
        let found = record[at::SUM].load(Ordering::Acquire);
        let fixed: [u64; at::STATE - at::LOCAL] = std::array::from_fn(|index| word(at::LOCAL + index));
        if found != sum(number, fixed) {
            return None;
        }
        let (key, owner, first_seen, is_by_remote) = parse(fixed)?;
        let mut entry = Entry::new(key, NOBODY, owner, first_seen);
        let state = word(at::STATE);
        let flag = |bit: u32| state >> bit & 1 != 0;
        let last_seen = u32::try_from(state >> 32).ok()?;
        if state & 0xffff_ffe0 != 0 || first_seen > last_seen || last_seen > now {
            return None;
        }
        entry.last_seen = last_seen;
        entry.is_by_remote = is_by_remote;
        (entry.passed, entry.fins, entry.is_reset) = ([flag(0), flag(1)], [flag(2), flag(3)], flag(4));
        (entry.out.packets, entry.out.bytes) = (word(at::COUNTS), word(at::COUNTS + 1));
        (entry.inn.packets, entry.inn.bytes) = (word(at::COUNTS + 2), word(at::COUNTS + 3));
        // Counters that could overflow are not those of packets.
        let is_sane = entry.out.packets.checked_add(entry.inn.packets).is_some_and(|all| all < 1 << 62);
        Some(entry).filter(|_| is_sane)
    }
}

/// The words that never change.
fn fixed(entry: &Entry) -> [u64; at::STATE - at::LOCAL] {
    let Entry { key, owner, .. } = entry;
    let (kind, owner) = match *owner {
        Owner::Ids { uid, gid } => (owner::IDS, u64::from(uid) << 32 | u64::from(gid)),
        Owner::User(uid) => (owner::USER, uid.into()),
        Owner::Namespace(inode) => (owner::NAMESPACE, inode),
    };
    let service = u64::from(key.local_port) << 48
        | u64::from(key.remote_port) << 32
        | u64::from(key.protocol) << 16
        | kind << 8
        | u64::from(key.is_v4);
    let first_seen = u64::from(entry.first_seen) << 1 | u64::from(entry.is_by_remote);
    [key.local[0], key.local[1], key.remote[0], key.remote[1], service, owner, first_seen]
}

#[allow(clippy::cast_possible_truncation)] // parts of words are meant
fn parse(fixed: [u64; at::STATE - at::LOCAL]) -> Option<(FlowKey, Owner, u32, bool)> {
    let word = |at: usize| fixed[at - at::LOCAL];
    let service = word(at::SERVICE);
    let is_v4 = service & 1 != 0;
    let local = [word(at::LOCAL), word(at::LOCAL + 1)];
    let remote = [word(at::REMOTE), word(at::REMOTE + 1)];
    if is_v4 && [local, remote].iter().any(|[high, low]| *high != 0 || *low > u32::MAX.into()) {
        return None;
    }
    if service & 0xff00_00fe != 0 {
        return None;
    }
    let value = word(at::OWNER);
    let owner = match service >> 8 & 0xff {
        owner::IDS => Owner::Ids { uid: (value >> 32) as u32, gid: value as u32 },
        owner::USER => Owner::User(u32::try_from(value).ok()?),
        owner::NAMESPACE => Owner::Namespace(value),
        _ => return None,
    };
    let key = FlowKey {
        local,
        remote,
        local_port: (service >> 48) as u16,
        remote_port: (service >> 32) as u16,
        protocol: (service >> 16) as u8,
        is_v4,
    };
    let first_seen = word(at::FIRST_SEEN);
    Some((key, owner, u32::try_from(first_seen >> 1).ok()?, first_seen & 1 != 0))
}

/// Returns the sum over the words that never change, and over the record's number; never 0.
fn sum(number: u32, fixed: [u64; at::STATE - at::LOCAL]) -> u64 {
    /// The prime of FNV-1a with 64 bits.
    const PRIME: u64 = 0x0100_0000_01b3;
    let start = VERSION ^ u64::from(number) << 32;
    let mixed = fixed.into_iter().fold(start, |mixed, word| {
        let mixed = (mixed ^ word).wrapping_mul(PRIME);
        mixed ^ mixed >> 32
    });
    mixed | 1
}
