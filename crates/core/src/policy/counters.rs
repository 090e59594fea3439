//! Packets and bytes by rule. The counters lie in memory that outlives the router's process, and that other threads read.

use std::sync::atomic::{AtomicU64, Ordering};

use super::flows::FlowTable;

/// Memory in words that outlives the router's process, or that a test made.
pub type Words = &'static [AtomicU64];

/// The place of a rule's counters, or of those of a named counter. A place beyond the memory counts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CounterSlot(pub u32);

impl CounterSlot {
    /// Nowhere: it counts nothing.
    pub const NONE: Self = Self(u32::MAX);
}

/// The counters of all rules.
#[derive(Debug, Clone, Copy, Default)]
pub struct RuleCounters(Words);

/// What one slot has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RuleCount {
    /// Packets. A GSO packet is one.
    pub packets: u64,
    /// Bytes of the IP packets.
    pub bytes: u64,
}

/// The memory of a router that outlives its process: its successor goes on with what is there.
#[derive(Debug, Clone, Copy, Default)]
pub struct SharedMemory {
    /// For [`RuleCounters`].
    pub counters: Words,
    /// For the records of flows, see [`SharedMemory::flow_words`]. Flows beyond it don't outlive the router.
    pub flows: Words,
    /// The time at which the router begins, in seconds of a clock that all routers with this memory have in common
    /// (CLOCK_MONOTONIC).
    pub start: u32,
}

impl SharedMemory {
    /// The number of words for so many flows.
    pub const fn flow_words(flows: usize) -> usize {
        FlowTable::words(flows)
    }

    /// Memory for tests, which is never given back.
    pub fn leaked(slots: usize, flows: usize) -> Self {
        let leak = |words: usize| &*Box::leak((0..words).map(|_| AtomicU64::new(0)).collect::<Box<[_]>>());
        Self { counters: leak(RuleCounters::words(slots)), flows: leak(Self::flow_words(flows)), start: 0 }
    }
}

/// Words of one slot.
const WORDS: usize = 2;

impl RuleCounters {
    /// The number of slots that a router has: one for each rule and each named counter.
    pub const SLOTS: usize = 1 << 16;

    /// The number of words that so many slots take.
    pub const fn words(slots: usize) -> usize {
        slots * WORDS
    }

    /// Uses this memory, with what is counted in it.
    pub const fn new(words: Words) -> Self {
        Self(words)
    }

    /// Counts a packet. Only the router's thread may call this: it is the only one that writes, so that a plain load and a
    /// plain store do.
    pub fn count(self, slot: CounterSlot, bytes: usize) {
        self.add(slot, 1, bytes as u64);
    }

    /// Counts packets of so many bytes in all. Only the router's thread may call this, too.
    pub fn add(self, slot: CounterSlot, count: u64, bytes: u64) {
        let at = slot.0 as usize * WORDS;
        let Some([packets, total]) = self.0.get(at..).and_then(|words| words.first_chunk::<WORDS>()) else { return };
        packets.store(packets.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
        total.store(total.load(Ordering::Relaxed).wrapping_add(bytes), Ordering::Relaxed);
    }

    /// Returns what a slot has counted.
    pub fn get(self, slot: CounterSlot) -> RuleCount {
        let at = slot.0 as usize * WORDS;
        let Some([packets, bytes]) = self.0.get(at..).and_then(|words| words.first_chunk::<WORDS>()) else {
            return RuleCount::default();
        };
        RuleCount { packets: packets.load(Ordering::Relaxed), bytes: bytes.load(Ordering::Relaxed) }
    }

    /// Sets a slot to zero, before another rule gets it.
    pub fn clear(self, slot: CounterSlot) {
        let at = slot.0 as usize * WORDS;
        if let Some(words) = self.0.get(at..at + WORDS) {
            words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_apart_and_those_beyond_the_memory_count_nothing() {
        let words = Box::leak((0..RuleCounters::words(2)).map(|_| AtomicU64::new(0)).collect::<Box<[_]>>());
        let counters = RuleCounters::new(words);
        counters.count(CounterSlot(0), 100);
        counters.count(CounterSlot(1), 50);
        counters.count(CounterSlot(1), 60);
        counters.count(CounterSlot(2), 7);
        counters.count(CounterSlot(u32::MAX), 7);
        assert_eq!(counters.get(CounterSlot(0)), RuleCount { packets: 1, bytes: 100 });
        assert_eq!(counters.get(CounterSlot(1)), RuleCount { packets: 2, bytes: 110 });
        assert_eq!(counters.get(CounterSlot(2)), RuleCount::default());
        counters.clear(CounterSlot(1));
        assert_eq!(counters.get(CounterSlot(1)), RuleCount::default());
    }
}
