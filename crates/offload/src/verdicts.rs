//! The verdicts, as the router's process sees them. Most of it is memory that is shared with the programs.
//!
//! A record serves one verdict after the other, while programs run that nobody waits for. Each number in it carries a version, which is
//! another one for each verdict, and programs take those numbers alone that have the version which they look for: that of the packet's
//! hint, or of the verdict that they have found. So they never take half of one verdict and half of the next one, in whichever order the
//! processor reads and writes, and a packet of a flow passes by no record that is another flow's by now. Versions begin anew after 2^24
//! verdicts of a record; a program would have to stand still for all of these.
//!
//! A program counts after it has looked. If its processor is taken away in between, it counts later: in the counters of its own version,
//! even or odd, where the next verdict doesn't look.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use nix::errno::Errno;
use tuntap_sys::process::monotonic_time;

use super::clerk::Change;
use super::maps::{
    CONTROL_GENERATION, End, INDEX_LEN, KEY_LEN, Key, Maps, Passed, RECORD_ADDRESSES, RECORD_FROM, RECORD_GENERATION,
    RECORD_PASSED, RECORD_TO, RECORD_TRANSPORT, RECORD_WORDS, STAMP_BITS, STAMP_SHIFT, VERDICT_LEN, mapped,
};

/// A generation in which no verdict holds.
const NO_GENERATION: u64 = u64::MAX;

/// How long a verdict that was taken back lets those packets pass that are on their way by it.
const LINGER: Duration = Duration::from_secs(1);

/// A verdict that was given.
#[derive(Debug)]
struct Given {
    key: [u8; KEY_LEN],
    /// The ends by which its packets come and leave.
    ends: [u32; 2],
    /// The number of its record, and the version there.
    record: u32,
    version: u32,
    /// What its record had counted before.
    packets: u64,
    bytes: u64,
    /// How many packets the record had counted at the last look, and when a look has found more than the one before.
    seen: u64,
    changed: Duration,
    /// It was taken back, and is removed then.
    lingers_until: Option<Duration>,
}

/// The verdicts that were given.
#[derive(Debug)]
pub struct Verdicts<'a> {
    maps: &'a Maps,
    records: &'static [AtomicU64],
    control: &'static [AtomicU64],
    /// By their places.
    given: HashMap<usize, Given>,
    /// Their places, by their keys.
    places: HashMap<[u8; KEY_LEN], usize>,
    /// Records without a verdict. Those that were free for the longest time come first.
    free: VecDeque<u32>,
    /// Places of those that were taken back, the first ones first. Some may have another verdict by now.
    lingering: VecDeque<usize>,
}

impl<'a> Verdicts<'a> {
    /// Maps the memory. Verdicts of an earlier process are void, and claims let nothing pass without these. Before verdicts are given,
    /// [`Maps::clear`] has to make room.
    pub fn new(maps: &'a Maps) -> nix::Result<Self> {
        let (records, control) = (maps.records.map()?, maps.control.map()?);
        control[CONTROL_GENERATION].store(NO_GENERATION, Ordering::SeqCst);
        records.chunks(RECORD_WORDS).for_each(|record| record[RECORD_GENERATION].store(0, Ordering::Relaxed));
        fence(Ordering::SeqCst);
        let free = (0_u32..).take(records.len() / RECORD_WORDS).collect();
        Ok(Self {
            maps,
            records,
            control,
            given: HashMap::new(),
            places: HashMap::new(),
            free,
            lingering: VecDeque::new(),
        })
    }

    /// Gives a verdict. It holds while the generation is this one. `place` is what it is called: no other verdict has it. E2BIG if there
    /// is no room.
    pub fn give(&mut self, place: usize, generation: u32, key: &Key, from: End, to: End) -> nix::Result<()> {
        let (key, ends) = (encode(key, from), [from.code(), to.code()]);
        // The same one may have been taken back a moment ago. What is still on its way by it passes, and is counted.
        if self.given.get(&place).is_none_or(|given| given.key != key || given.ends != ends) {
            self.remove(place);
            // The flow may have had another place before.
            if let Some(other) = self.places.get(&key).copied() {
                self.remove(other);
            }
            let given = self.write(key, ends)?;
            self.given.insert(place, given);
            self.places.insert(key, place);
        }
        let Some(given) = self.given.get_mut(&place) else { return Err(Errno::EINVAL) };
        given.lingers_until = None;
        given.changed = monotonic_time();
        let mut value = [0; VERDICT_LEN];
        value[..INDEX_LEN].copy_from_slice(&given.record.to_ne_bytes());
        value[INDEX_LEN..].copy_from_slice(&given.version.to_ne_bytes());
        let record = record(self.records, given.record);
        record[RECORD_GENERATION].store(stamped(generation.into(), given.version), Ordering::SeqCst);
        // Programs find it from here on.
        let is_set = self.maps.change(Change::SetFlow(&key, &value));
        if is_set.is_err() {
            self.remove(place);
        }
        is_set
    }

    /// Writes a record, which has no generation yet, for another verdict.
    fn write(&mut self, key: [u8; KEY_LEN], ends: [u32; 2]) -> nix::Result<Given> {
        let number = self.free.pop_front().ok_or(Errno::E2BIG)?;
        let record = record(self.records, number);
        let version = next_version(record[RECORD_TRANSPORT].load(Ordering::Relaxed));
        let store = |at: usize, number: u64| record[at].store(stamped(number, version), Ordering::Relaxed);
        store(RECORD_FROM, ends[0].into());
        store(RECORD_TO, ends[1].into());
        let (addresses, rest) = key.split_at(KEY_LEN - 2 * INDEX_LEN);
        for (at, word) in (RECORD_ADDRESSES..).zip(addresses.chunks(INDEX_LEN)) {
            store(at, word.first_chunk().copied().map_or(0, u32::from_ne_bytes).into());
        }
        // Both ports as they are in packets, and the protocol.
        let ports = rest.first_chunk().copied().map_or(0, u32::from_ne_bytes);
        store(RECORD_TRANSPORT, u64::from(rest[INDEX_LEN]) << u32::BITS | u64::from(ports));
        let (packets, bytes) = counted(record, version);
        let changed = monotonic_time();
        Ok(Given { key, ends, record: number, version, packets, bytes, seen: packets, changed, lingers_until: None })
    }

    /// Makes a verdict void, by one store. What it has counted stays.
    pub fn void(&self, place: usize) {
        if let Some(given) = self.given.get(&place) {
            record(self.records, given.record)[RECORD_GENERATION].store(0, Ordering::SeqCst);
        }
    }

    /// Makes those void that were taken back and name this end: packets on their way by them pass no more.
    pub fn void_lingering(&self, end: End) {
        let name_it = |place: &&usize| self.given.get(*place).is_some_and(|given| given.ends.contains(&end.code()));
        self.lingering.iter().filter(name_it).for_each(|place| self.void(*place));
    }

    /// Makes all verdicts of other generations void, by one store.
    pub fn set_generation(&self, generation: u32) {
        self.control[CONTROL_GENERATION].store(generation.into(), Ordering::SeqCst);
    }

    /// Takes back a verdict, and returns what has passed by it. If it isn't void, packets that are on their way by it still pass.
    pub fn withdraw(&mut self, place: usize) -> Passed {
        let passed = self.passed(place).unwrap_or_default();
        if let Some(given) = self.given.get_mut(&place) {
            given.packets = given.packets.wrapping_add(passed.packets);
            given.bytes = given.bytes.wrapping_add(passed.bytes);
            if given.lingers_until.replace(monotonic_time() + LINGER).is_none() {
                // No program finds it any more. If the kernel has lost it, there is nothing to remove.
                let _ = self.maps.change(Change::RemoveFlow(&given.key));
                self.lingering.push_back(place);
            }
        }
        passed
    }

    /// Removes verdicts that were taken back some time ago, so many at most. Returns true if more of them wait.
    pub fn tidy(&mut self, most: usize) -> bool {
        let now = monotonic_time();
        for _ in 0..most {
            let Some(place) = self.lingering.front().copied() else { return false };
            let until = self.given.get(&place).and_then(|given| given.lingers_until);
            if until.is_some_and(|until| until > now) {
                return true;
            }
            self.lingering.pop_front();
            if until.is_some() {
                self.remove(place);
            }
        }
        !self.lingering.is_empty()
    }

    /// Returns when [`Self::tidy`] has something to do.
    pub fn next_tidy(&self) -> Option<Duration> {
        let until = self.given.get(self.lingering.front()?).and_then(|given| given.lingers_until);
        Some(until.map_or(Duration::ZERO, |until| until.saturating_sub(monotonic_time())))
    }

    /// Removes a verdict at once.
    fn remove(&mut self, place: usize) {
        self.void(place);
        if let Some(given) = self.given.remove(&place) {
            self.places.remove(&given.key);
            if given.lingers_until.is_none() {
                let _ = self.maps.change(Change::RemoveFlow(&given.key));
            }
            self.free.push_back(given.record);
        }
    }

    /// Returns what has passed by a verdict, void or not, since it was given or taken back. `None` if there is none with this place.
    pub fn passed(&mut self, place: usize) -> Option<Passed> {
        let given = self.given.get_mut(&place)?;
        let (packets, bytes) = counted(record(self.records, given.record), given.version);
        let now = monotonic_time();
        if packets != given.seen {
            (given.seen, given.changed) = (packets, now);
        }
        Some(Passed {
            packets: packets.wrapping_sub(given.packets),
            bytes: bytes.wrapping_sub(given.bytes),
            idle: now.saturating_sub(given.changed),
        })
    }
}

fn record(records: &'static [AtomicU64], number: u32) -> &'static [AtomicU64] {
    let start = number as usize * RECORD_WORDS;
    &records[start..start + RECORD_WORDS]
}

/// A number with a version, as it stands in a record. The number has 40 bits at most.
fn stamped(number: u64, version: u32) -> u64 {
    number | u64::from(version) << STAMP_SHIFT
}

/// The version after that of a word; never 0, which new records have.
fn next_version(word: u64) -> u32 {
    let next = (word >> STAMP_SHIFT) + 1;
    u32::try_from(next).ok().filter(|next| *next < 1 << STAMP_BITS).unwrap_or(1)
}

/// The packets and bytes that a record has counted for all its verdicts with even versions, or with odd ones, as this one is.
fn counted(record: &[AtomicU64], version: u32) -> (u64, u64) {
    let at = RECORD_PASSED + if version.is_multiple_of(2) { 0 } else { 2 };
    (record[at].load(Ordering::Relaxed), record[at + 1].load(Ordering::Relaxed))
}

/// `struct flow_key`.
fn encode(key: &Key, from: End) -> [u8; KEY_LEN] {
    let mut bytes = [0; KEY_LEN];
    bytes[..16].copy_from_slice(&mapped(key.source));
    bytes[16..32].copy_from_slice(&mapped(key.destination));
    bytes[32..34].copy_from_slice(&key.source_port.to_be_bytes());
    bytes[34..36].copy_from_slice(&key.destination_port.to_be_bytes());
    bytes[36] = key.protocol;
    bytes[37] = u8::from(from == End::Host);
    bytes
}
