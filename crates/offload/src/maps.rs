//! The maps: what programs and the router's process share. programs/shared.h has the same for the programs.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use nix::errno::Errno;
use thiserror::Error;
use tuntap_sys::bpf::{Map, MapKind};
use tuntap_sys::process::monotonic_time;

use super::btf::{Btf, BtfError};

/// Most pairs of a router.
pub const MAX_PAIRS: u32 = 4096;

/// Most addresses that all peers with pairs hold together. The core lets a peer have 9, so that none finds the map full. Memory is taken
/// for those that there are.
const MAX_CLAIMS: u32 = 16 * MAX_PAIRS;

/// Bytes of keys and values.
const KEY_LEN: usize = 40;
const VERDICT_LEN: usize = 16;
const CLAIM_LEN: usize = 20;
const PAIR_LEN: usize = 24;
const LAYOUT_LEN: usize = 32;
const INDEX_LEN: usize = 4;

/// Words of a record, and where it has what. The lower half of the last one is the generation in which the verdict holds, the upper
/// half that in which packets enter a pair by it.
const RECORD_WORDS: usize = 4;
const PACKETS: usize = 0;
const BYTES: usize = 1;
const LAST: usize = 2;
const VALIDITY: usize = 3;

/// Words of the value that the router's process changes, and where it has what.
const CONTROL_WORDS: usize = 2;
const CONTROL_GENERATION: usize = 0;
const CONTROL_DEVICE: usize = 1;

/// A generation in which no verdict holds.
const NO_GENERATION: u64 = u64::MAX;

/// How long a verdict that was taken back lets those packets pass that are on their way by it.
const LINGER: Duration = Duration::from_millis(100);

/// The one key of an array with one value.
const ONLY: [u8; INDEX_LEN] = [0; INDEX_LEN];

/// Why there are no maps.
#[derive(Debug, Error)]
pub enum MapsError {
    /// The kernel refuses one.
    #[error("a BPF map: {0}")]
    Map(#[from] Errno),
    /// The layout of its packets is not known.
    #[error(transparent)]
    Layout(#[from] BtfError),
}

/// The index of a network interface in its namespace; for a pair, of both ends in theirs.
pub type Index = u32;

/// The packets of a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The packets' source.
    pub source: IpAddr,
    /// Their destination, of the same version of IP.
    pub destination: IpAddr,
    /// In host byte order. For an echo message of ICMP, its identifier.
    pub source_port: u16,
    /// In host byte order. For an echo message of ICMP, its type.
    pub destination_port: u16,
    /// The number of the protocol.
    pub protocol: u8,
}

/// Where packets come from or go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The router's device.
    Host,
    /// A peer's pair.
    Pair(Index),
}

impl End {
    /// No interface has the index 0.
    const fn code(self) -> u32 {
        match self {
            Self::Host => 0,
            Self::Pair(index) => index,
        }
    }
}

/// What has passed by a verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// Packets. A GSO packet is one.
    pub packets: u64,
    /// Bytes of IP packets.
    pub bytes: u64,
    /// Time since the last one, or since the verdict was given.
    pub idle: Duration,
}

/// What was dropped at a pair.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// From sources that the peer doesn't hold.
    pub spoofed: u64,
    /// Without a verdict, or with headers that may not go on.
    pub undecided: u64,
}

/// The maps.
#[derive(Debug)]
pub struct Maps {
    pub(crate) flows: Map,
    pub(crate) records: Map,
    pub(crate) claims: Map,
    pub(crate) pairs: Map,
    pub(crate) control: Map,
    pub(crate) layout: Map,
    /// What waits for programs.
    turnstile: Map,
}

impl Maps {
    /// Makes the maps, for so many verdicts with places below `places`. Needs CAP_BPF.
    pub fn new(verdicts: u32, places: u32) -> Result<Self, MapsError> {
        const WORD: usize = size_of::<u64>();
        let control = Map::new(c"tuntap_control", MapKind::Words, INDEX_LEN, CONTROL_WORDS * WORD, 1)?;
        let maps = Self {
            turnstile: Map::holding(c"tuntap_turn", &control)?,
            flows: Map::new(c"tuntap_flows", MapKind::Hash, KEY_LEN, VERDICT_LEN, verdicts)?,
            records: Map::new(c"tuntap_records", MapKind::Words, INDEX_LEN, RECORD_WORDS * WORD, places)?,
            claims: Map::new(c"tuntap_claims", MapKind::SparseHash, CLAIM_LEN, INDEX_LEN, MAX_CLAIMS)?,
            pairs: Map::new(c"tuntap_pairs", MapKind::SparseHash, INDEX_LEN, PAIR_LEN, MAX_PAIRS)?,
            control,
            layout: Map::new(c"tuntap_layout", MapKind::Constants, INDEX_LEN, LAYOUT_LEN, 1)?,
        };
        maps.layout.set(&ONLY, &layout(&Btf::of_kernel()?)?)?;
        maps.layout.freeze()?;
        Ok(maps)
    }

    /// The descriptors that keep the maps.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.flows, &self.records, &self.claims, &self.pairs, &self.control, &self.layout, &self.turnstile]
            .into_iter()
            .map(AsFd::as_fd)
    }

    /// Returns when no program runs any more that had begun before: none has an earlier opinion of a verdict.
    pub fn wait_for_programs(&self) -> nix::Result<()> {
        self.turnstile.hold(&self.control)
    }

    /// Says which device is the router's.
    pub fn set_device(&self, index: Index) -> nix::Result<()> {
        let control = self.control.map()?;
        control[CONTROL_DEVICE].store(index.into(), Ordering::Release);
        Ok(())
    }

    /// Adds a pair, whose peer's device has this index in its namespace.
    pub fn add_pair(&self, pair: Index, device: Index) -> nix::Result<()> {
        let mut value = [0; PAIR_LEN];
        value[..INDEX_LEN].copy_from_slice(&device.to_ne_bytes());
        self.pairs.set(&pair.to_ne_bytes(), &value)
    }

    /// Forgets a pair.
    pub fn remove_pair(&self, pair: Index) -> nix::Result<bool> {
        self.pairs.remove(&pair.to_ne_bytes())
    }

    /// Returns what was dropped at a pair. `None` if it isn't known.
    pub fn dropped(&self, pair: Index) -> nix::Result<Option<Dropped>> {
        let mut value = [0; PAIR_LEN];
        let is_known = self.pairs.get(&pair.to_ne_bytes(), &mut value)?;
        let word = |at: usize| value[at..].first_chunk().copied().map_or(0, u64::from_ne_bytes);
        Ok(is_known.then(|| Dropped { spoofed: word(8), undecided: word(16) }))
    }

    /// Says whether the peer of a pair holds an address. A pair lets in no other sources.
    pub fn set_claim(&self, pair: Index, address: IpAddr, is_held: bool) -> nix::Result<()> {
        let mut key = [0; CLAIM_LEN];
        key[..INDEX_LEN].copy_from_slice(&pair.to_ne_bytes());
        key[INDEX_LEN..].copy_from_slice(&mapped(address));
        if is_held { self.claims.set(&key, &[0; INDEX_LEN]) } else { self.claims.remove(&key).map(drop) }
    }
}

/// A verdict that was given.
#[derive(Debug)]
struct Given {
    key: [u8; KEY_LEN],
    /// What its record had counted before.
    packets: u64,
    bytes: u64,
    /// It was taken back, and is removed then.
    lingers_until: Option<Duration>,
}

/// The verdicts, as the router's process sees them. Most of it is memory that is shared with the programs.
#[derive(Debug)]
pub struct Verdicts<'a> {
    maps: &'a Maps,
    records: &'static [AtomicU64],
    control: &'static [AtomicU64],
    /// Those that are in the map, by their places.
    given: HashMap<usize, Given>,
    /// Their places, by what is in the map.
    places: HashMap<[u8; KEY_LEN], usize>,
    /// Places of those that were taken back, the first ones first. Some may have another verdict by now.
    lingering: VecDeque<usize>,
}

impl<'a> Verdicts<'a> {
    /// Maps the memory. Verdicts and claims of an earlier process are void.
    pub fn new(maps: &'a Maps) -> nix::Result<Self> {
        let (records, control) = (maps.records.map()?, maps.control.map()?);
        control[CONTROL_GENERATION].store(NO_GENERATION, Ordering::SeqCst);
        records.chunks(RECORD_WORDS).for_each(|record| record[VALIDITY].store(0, Ordering::Relaxed));
        fence(Ordering::SeqCst);
        maps.flows.clear()?;
        maps.claims.clear()?;
        Ok(Self { maps, records, control, given: HashMap::new(), places: HashMap::new(), lingering: VecDeque::new() })
    }

    /// Gives a verdict. It holds while the generation is this one. `place` is that of its record: no other verdict has it. E2BIG if there
    /// is no room, EINVAL for a place that there isn't.
    pub fn give(&mut self, place: usize, generation: u32, key: &Key, from: End, to: End) -> nix::Result<()> {
        let record = self.record(place).ok_or(Errno::EINVAL)?;
        let key = encode(key, from);
        // It has been taken back, and what has still passed is counted.
        let before = self.given.get(&place).filter(|same| same.key == key).map(|same| (same.packets, same.bytes));
        if before.is_none() {
            self.remove(place);
        }
        // The flow may have had another place before.
        if let Some(other) = self.places.get(&key).copied().filter(|other| *other != place) {
            self.remove(other);
        }
        let mut value = [0; VERDICT_LEN];
        let number = u32::try_from(place).map_err(|_| Errno::EINVAL)?;
        for (at, number) in [(0, number), (4, from.code()), (8, to.code())] {
            value[at..at + 4].copy_from_slice(&number.to_ne_bytes());
        }
        self.void(place);
        record[LAST].store(now_nanos(), Ordering::Relaxed);
        let (packets, bytes) = before.unwrap_or_else(|| counted(record));
        self.maps.flows.set(&key, &value)?;
        self.given.insert(place, Given { key, packets, bytes, lingers_until: None });
        self.places.insert(key, place);
        record[VALIDITY].store(u64::from(generation) << 32 | u64::from(generation), Ordering::SeqCst);
        Ok(())
    }

    /// Makes a verdict void, by one store. What it has counted stays.
    pub fn void(&self, place: usize) {
        if let Some(record) = self.record(place) {
            record[VALIDITY].store(0, Ordering::SeqCst);
        }
    }

    /// Makes all verdicts of other generations void, by one store.
    pub fn set_generation(&self, generation: u32) {
        self.control[CONTROL_GENERATION].store(generation.into(), Ordering::SeqCst);
    }

    /// Takes back a verdict, and returns what has passed by it. If it isn't void, packets that are on their way by it still pass.
    pub fn withdraw(&mut self, place: usize) -> Passed {
        let passed = self.passed(place).unwrap_or_default();
        if let (Some(record), Some(given)) = (self.record(place), self.given.get_mut(&place)) {
            // No packet enters any more.
            record[VALIDITY].fetch_and(u64::from(u32::MAX), Ordering::SeqCst);
            given.packets += passed.packets;
            given.bytes += passed.bytes;
            if given.lingers_until.replace(monotonic_time() + LINGER).is_none() {
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
            // If the kernel has lost it, there is nothing to remove.
            let _ = self.maps.flows.remove(&given.key);
        }
    }

    /// Returns what has passed by a verdict, void or not, since it was given or taken back. `None` if there is none with this place.
    pub fn passed(&self, place: usize) -> Option<Passed> {
        let (record, given) = (self.record(place)?, self.given.get(&place)?);
        let (packets, bytes) = counted(record);
        let last = record[LAST].load(Ordering::Relaxed);
        Some(Passed {
            packets: packets.wrapping_sub(given.packets),
            bytes: bytes.wrapping_sub(given.bytes),
            idle: Duration::from_nanos(now_nanos().saturating_sub(last)),
        })
    }

    fn record(&self, place: usize) -> Option<&'static [AtomicU64]> {
        let start = place.checked_mul(RECORD_WORDS)?;
        self.records.get(start..start.checked_add(RECORD_WORDS)?)
    }
}

/// The packets and bytes that a record has counted for all its verdicts.
fn counted(record: &[AtomicU64]) -> (u64, u64) {
    (record[PACKETS].load(Ordering::Relaxed), record[BYTES].load(Ordering::Relaxed))
}

/// The time of CLOCK_MONOTONIC, which the programs have, too.
fn now_nanos() -> u64 {
    u64::try_from(monotonic_time().as_nanos()).unwrap_or(u64::MAX)
}

/// The address as programs have it.
fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

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

/// `struct kernel_layout` of the running kernel.
fn layout(btf: &Btf) -> Result<[u8; LAYOUT_LEN], BtfError> {
    let bits = |member| btf.bit_offset("sk_buff", member);
    let ip_summed = bits("ip_summed")?;
    let numbers = [
        bits("head")? / 8,
        bits("data")? / 8,
        bits("end")? / 8,
        bits("csum_start")? / 8,
        bits("csum_offset")? / 8,
        ip_summed / 8,
        ip_summed % 8,
        btf.bit_offset("skb_shared_info", "gso_type")? / 8,
    ];
    let mut bytes = [0; LAYOUT_LEN];
    bytes.chunks_mut(INDEX_LEN).zip(numbers).for_each(|(to, number)| to.copy_from_slice(&number.to_ne_bytes()));
    Ok(bytes)
}
