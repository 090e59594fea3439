//! The maps: what programs and the router's process share. programs/shared.h has the same for the programs.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use thiserror::Error;
use tuntap_sys::bpf::{LoadError, Map, MapKind, can_wait_for_programs, wait_for_programs};

use super::btf::{Btf, BtfError};
use super::clerk::{Change, Clerk};
use super::generated::CLERK;

/// Most pairs of a router: a power of 2, since the lower bits of a pair's index are its place.
pub const MAX_PAIRS: u32 = 4096;

/// Most addresses that all peers with pairs hold together. The core lets a peer have 9, so that none finds the map full. Memory is taken
/// for those that there are.
const MAX_CLAIMS: u32 = 16 * MAX_PAIRS;

/// Bytes of keys and values.
pub(crate) const KEY_LEN: usize = 40;
pub(crate) const VERDICT_LEN: usize = 8;
pub(crate) const CLAIM_LEN: usize = 20;
const LAYOUT_LEN: usize = 36;
pub(crate) const INDEX_LEN: usize = 4;

/// Words of a record, and where it has what. Each of them but the counters has a version in its upper bits.
pub(crate) const RECORD_WORDS: usize = 16;
pub(crate) const RECORD_GENERATION: usize = 0;
pub(crate) const RECORD_FROM: usize = 1;
pub(crate) const RECORD_TO: usize = 2;
pub(crate) const RECORD_TRANSPORT: usize = 3;
pub(crate) const RECORD_ADDRESSES: usize = 4;
/// Packets and bytes of even versions, and then of odd ones.
pub(crate) const RECORD_PASSED: usize = 12;

/// Bits of the version in a word, which are the upper ones.
pub(crate) const STAMP_BITS: u32 = 24;
pub(crate) const STAMP_SHIFT: u32 = u64::BITS - STAMP_BITS;

/// Words of a pair, and where it has what.
const PAIR_WORDS: usize = 3;
const PAIR_INDEXES: usize = 0;
const PAIR_SPOOFED: usize = 1;
const PAIR_UNDECIDED: usize = 2;

/// Words of the value that the router's process changes, and where it has what.
const CONTROL_WORDS: usize = 3;
pub(crate) const CONTROL_GENERATION: usize = 0;
const CONTROL_DEVICE: usize = 1;
pub(crate) const CONTROL_ANSWER: usize = 2;

/// Bytes of the part of struct sk_buff that programs read for checksums.
const CHECKSUM_PART_LEN: u32 = 64;
/// Bytes of the part that they read for the place of struct skb_shared_info: that with `end`, and `head`.
const BUFFER_PART_LEN: u32 = 16;

/// The one key of an array with one value.
const ONLY: [u8; INDEX_LEN] = [0; INDEX_LEN];

/// Why there are no maps.
#[derive(Debug, Error)]
pub enum MapsError {
    /// The kernel refuses one.
    #[error("a BPF map: {0}{hint}", hint = hint(*.0))]
    Map(#[from] Errno),
    /// The router can't change them: there is no program that does.
    #[error(transparent)]
    Clerk(#[from] LoadError),
    /// Nor is there a socket for that.
    #[error("a socket with a BPF program: {0}")]
    Socket(Errno),
    /// The router can't wait for programs.
    #[error(
        "membarrier(2) can't wait for BPF programs here, as with nohz_full, and kernel.unprivileged_bpf_disabled keeps the router, which \
         has no capability, from bpf(2); it has to be 0 before Linux 5.19"
    )]
    NoWait,
    /// The layout of its packets is not known.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// What a refusal can mean beside what it says.
const fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM => {
            " (it takes CAP_BPF or CAP_SYS_ADMIN outside of user namespaces, and no filter of system calls, such as systemd's \
             SystemCallFilter, that refuses bpf(2); before Linux 5.11 also CAP_SYS_RESOURCE, or a limit of locked memory that is far above 64 KiB, \
             as by LimitMEMLOCK=infinity of systemd)"
        }
        _ => "",
    }
}

/// Why programs can't read what they need of packets.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// The kernel doesn't say where it has it.
    #[error(transparent)]
    Unknown(#[from] BtfError),
    /// The kernel doesn't have it in one piece.
    #[error("this kernel's struct sk_buff has {0} and {1} further apart than any that is known")]
    Apart(&'static str, &'static str),
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
    pub(crate) const fn code(self) -> u32 {
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
    /// Time since a look at the verdict has shown the last one, or since the verdict was given. The packet has passed between that look
    /// and the one before it.
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
    /// What changes `flows` and `claims` for the router's process.
    clerk: Clerk,
    turnstile: Turnstile,
}

/// How the router's process waits for programs.
#[derive(Debug)]
enum Turnstile {
    /// By membarrier(2).
    Barrier,
    /// By bpf(2): the kernel waits when this map is to hold another one.
    Map(Map),
}

impl Turnstile {
    /// The one that works for a process without capabilities. `has_barrier` says whether the first one does.
    fn new(has_barrier: bool, control: &Map) -> Result<Self, MapsError> {
        if has_barrier {
            Ok(Self::Barrier)
        } else if Map::serves_without_capabilities()? {
            Ok(Self::Map(Map::holding(c"tuntap_turn", control)?))
        } else {
            Err(MapsError::NoWait)
        }
    }

    /// The map.
    const fn map(&self) -> Option<&Map> {
        match self {
            Self::Barrier => None,
            Self::Map(map) => Some(map),
        }
    }
}

impl Maps {
    /// Makes the maps, for so many verdicts. Needs CAP_BPF; who uses them needs nothing.
    pub fn new(verdicts: u32) -> Result<Self, MapsError> {
        const WORD: usize = size_of::<u64>();
        let control = Map::new(c"tuntap_control", MapKind::Words, INDEX_LEN, CONTROL_WORDS * WORD, 1)?;
        let maps = Self {
            turnstile: Turnstile::new(can_wait_for_programs(), &control)?,
            clerk: Clerk::new().map_err(MapsError::Socket)?,
            flows: Map::new(c"tuntap_flows", MapKind::Hash, KEY_LEN, VERDICT_LEN, verdicts)?,
            records: Map::new(c"tuntap_records", MapKind::Words, INDEX_LEN, RECORD_WORDS * WORD, verdicts)?,
            claims: Map::new(c"tuntap_claims", MapKind::SparseHash, CLAIM_LEN, INDEX_LEN, MAX_CLAIMS)?,
            pairs: Map::new(c"tuntap_pairs", MapKind::Words, INDEX_LEN, PAIR_WORDS * WORD, MAX_PAIRS)?,
            control,
            layout: Map::new(c"tuntap_layout", MapKind::Constants, INDEX_LEN, LAYOUT_LEN, 1)?,
        };
        maps.layout.set(&ONLY, &layout(&Btf::of_kernel().map_err(LayoutError::from)?)?)?;
        maps.layout.freeze()?;
        maps.clerk.employ(&CLERK.load_filter(&maps)?).map_err(MapsError::Socket)?;
        Ok(maps)
    }

    /// The descriptors that keep the maps.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let maps = [&self.flows, &self.records, &self.claims, &self.pairs, &self.control, &self.layout];
        maps.into_iter().chain(self.turnstile.map()).map(AsFd::as_fd).chain(self.clerk.descriptors())
    }

    /// Returns when no program runs any more that had begun before: none has an earlier opinion of a verdict.
    pub fn wait_for_programs(&self) -> nix::Result<()> {
        match &self.turnstile {
            Turnstile::Barrier => wait_for_programs(),
            Turnstile::Map(map) => map.hold(&self.control),
        }
    }

    /// Returns true if [`Self::wait_for_programs`] takes bpf(2), and not membarrier(2).
    pub const fn waits_by_bpf(&self) -> bool {
        self.turnstile.map().is_some()
    }

    /// Forgets the verdicts and claims of an earlier process. Needs CAP_BPF before Linux 5.19.
    pub fn clear(&self) -> nix::Result<()> {
        self.flows.clear()?;
        self.claims.clear()
    }

    /// Says which device is the router's.
    pub fn set_device(&self, index: Index) -> nix::Result<()> {
        let control = self.control.map()?;
        control[CONTROL_DEVICE].store(index.into(), Ordering::Release);
        Ok(())
    }

    /// Returns what was dropped at a pair. `None` if it isn't known.
    pub fn dropped(&self, pair: Index) -> nix::Result<Option<Dropped>> {
        let words = words_of(self.pairs.map()?, pair);
        let word = |at: usize| words[at].load(Ordering::Relaxed);
        let is_known = word(PAIR_INDEXES) & u64::from(Index::MAX) == u64::from(pair);
        Ok(is_known.then(|| Dropped { spoofed: word(PAIR_SPOOFED), undecided: word(PAIR_UNDECIDED) }))
    }

    /// Says whether the peer of a pair holds an address. A pair lets in no other sources.
    pub fn set_claim(&self, pair: Index, address: IpAddr, is_held: bool) -> nix::Result<()> {
        let mut key = [0; CLAIM_LEN];
        key[..INDEX_LEN].copy_from_slice(&pair.to_ne_bytes());
        key[INDEX_LEN..].copy_from_slice(&mapped(address));
        match self.change(if is_held { Change::SetClaim(&key) } else { Change::RemoveClaim(&key) }) {
            Err(Errno::ENOENT) => Ok(()),
            result => result,
        }
    }

    /// Has the clerk change `flows` or `claims`.
    pub(crate) fn change(&self, change: Change<'_>) -> nix::Result<()> {
        self.clerk.change(&self.control.map()?[CONTROL_ANSWER], change)
    }
}

/// The pairs, as the process that makes them sees them: each has a place in memory that is shared with the programs.
#[derive(Debug)]
pub struct Places {
    words: &'static [AtomicU64],
    /// Those that were free for the longest time come first.
    free: VecDeque<u32>,
}

impl Places {
    /// Maps the memory. Pairs of an earlier process are forgotten.
    pub fn new(maps: &Maps) -> nix::Result<Self> {
        let mut places = Self { words: maps.pairs.map()?, free: VecDeque::new() };
        places.clear();
        Ok(places)
    }

    /// Forgets all pairs.
    pub fn clear(&mut self) {
        self.words.iter().for_each(|word| word.store(0, Ordering::SeqCst));
        self.free = (0..MAX_PAIRS).collect();
    }

    /// Takes a free place, which is to be in the lower bits of the pair's index. `None` if there is none.
    pub fn take(&mut self) -> Option<u32> {
        self.free.pop_front()
    }

    /// Says that there is a pair with this index, whose peer's device has this index in its namespace.
    pub fn set(&self, pair: Index, device: Index) {
        let words = words_of(self.words, pair);
        words[PAIR_SPOOFED].store(0, Ordering::Relaxed);
        words[PAIR_UNDECIDED].store(0, Ordering::Relaxed);
        // One store, so that programs see both indexes or neither.
        words[PAIR_INDEXES].store(u64::from(device) << u32::BITS | u64::from(pair), Ordering::SeqCst);
    }

    /// Forgets a pair, if there was one, and frees its place.
    pub fn release(&mut self, pair: Index) {
        words_of(self.words, pair)[PAIR_INDEXES].store(0, Ordering::SeqCst);
        self.free.push_back(place_of(pair));
    }
}

/// The words of the pair with an index.
fn words_of(words: &'static [AtomicU64], pair: Index) -> &'static [AtomicU64] {
    let start = place_of(pair) as usize * PAIR_WORDS;
    &words[start..start + PAIR_WORDS]
}

/// The place of the pair with an index.
const fn place_of(pair: Index) -> u32 {
    pair % MAX_PAIRS
}

/// The address as programs have it.
pub(crate) fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Where the running kernel has what programs read: `struct kernel_layout`.
fn layout(btf: &Btf) -> Result<[u8; LAYOUT_LEN], LayoutError> {
    let bits = |member| btf.bit_offset("sk_buff", member);
    let ip_summed = bits("ip_summed")?;
    let (end, head) = (bits("end")? / 8, bits("head")? / 8);
    // This part ends with the head, a pointer. Of the two words in front of it, the end is the second, or the first before a gap.
    let buffer = (head + 8).checked_sub(BUFFER_PART_LEN);
    let buffer =
        buffer.filter(|buffer| [*buffer, buffer + 4].contains(&end)).ok_or(LayoutError::Apart("end", "head"))?;
    // Programs read members of two bytes in a copy of this part, for which it has to begin at a multiple of their size.
    let part = ip_summed / 64 * 8;
    let in_part = |member, len| {
        let offset = (bits(member)? / 8).checked_sub(part).filter(|offset| offset + len <= CHECKSUM_PART_LEN);
        offset.ok_or(LayoutError::Apart("ip_summed", member))
    };
    let numbers = [
        part,
        in_part("csum_start", 2)?,
        in_part("csum_offset", 2)?,
        in_part("network_header", 2)?,
        in_part("ip_summed", 1)?,
        ip_summed % 8,
        buffer,
        end - buffer,
        btf.bit_offset("skb_shared_info", "gso_type")? / 8,
    ];
    let mut bytes = [0; LAYOUT_LEN];
    bytes.chunks_mut(INDEX_LEN).zip(numbers).for_each(|(to, number)| to.copy_from_slice(&number.to_ne_bytes()));
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_pairs_are_in_their_indexes_and_are_used_in_turn() {
        let maps = Maps::new(16).expect("needs root");
        let mut places = Places::new(&maps).expect("memory");
        let taken: Vec<_> = std::iter::from_fn(|| places.take()).collect();
        assert_eq!(taken, (0..MAX_PAIRS).collect::<Vec<_>>());
        let index = 5 * MAX_PAIRS + 77;
        places.set(index, 3);
        assert_eq!(maps.dropped(index), Ok(Some(Dropped::default())));
        assert_eq!(maps.dropped(index + MAX_PAIRS), Ok(None), "another one with the same place");
        places.release(index);
        assert_eq!(maps.dropped(index), Ok(None));
        assert_eq!((places.take(), places.take()), (Some(77), None));
    }

    #[test]
    fn programs_are_waited_for_by_one_way_or_the_other() {
        let maps = Maps::new(16).expect("needs root");
        assert_eq!(maps.waits_by_bpf(), !can_wait_for_programs());
        maps.wait_for_programs().expect("a barrier");
        let closed = !Map::serves_without_capabilities().expect("needs root");
        match Turnstile::new(false, &maps.control) {
            Ok(Turnstile::Map(map)) => map.hold(&maps.control).expect("the same kind of map"),
            Err(MapsError::NoWait) => assert!(closed, "Linux 5.19 has it always"),
            other => panic!("{other:?}"),
        }
    }

    /// Members with their offsets in bits.
    type Members = Vec<(&'static str, u32)>;

    /// The BTF of a kernel that has only these structures (Documentation/bpf/btf.rst).
    fn btf_of(structures: &[(&str, Members)]) -> Btf {
        const STRUCT: u32 = 4;
        let number = |len: usize| u32::try_from(len).expect("few of them");
        let (mut types, mut strings) = (Vec::new(), vec![0]);
        let mut name = |text: &str| {
            let at = number(strings.len());
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        for (structure, members) in structures {
            types.extend([name(structure), STRUCT << 24 | number(members.len()), 0]);
            for (member, offset) in members {
                types.extend([name(member), 0, *offset]);
            }
        }
        let types_len = number(types.len()) * 4;
        // Magic number and version, length of the header, where the types are, where the strings are.
        let mut words = vec![1 << 16 | 0xeb9f, 24, 0, types_len, types_len, number(strings.len())];
        words.extend(types);
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        bytes.extend(strings);
        Btf::parse(bytes).expect("well-formed")
    }

    /// Offsets in bytes, ip_summed and the type of GSO aside, which all of these kernels have in the same places.
    fn kernel(csum_start: u32, network_header: u32, end: u32, head: u32) -> Btf {
        let members = vec![
            ("ip_summed", 128 * 8 + 5),
            ("csum_start", csum_start * 8),
            ("csum_offset", csum_start * 8 + 16),
            ("network_header", network_header * 8),
            ("end", end * 8),
            ("head", head * 8),
        ];
        btf_of(&[("sk_buff", members), ("skb_shared_info", vec![("gso_type", 24 * 8)])])
    }

    #[test]
    fn layouts_of_kernels_are_known() {
        let found = |btf: &Btf| {
            let bytes = layout(btf).expect("a known layout");
            bytes.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().expect("a word"))).collect::<Vec<_>>()
        };
        // Those of Debian 12 and 13 have a gap between end and head.
        let debian_12 = kernel(136, 184, 192, 200);
        assert_eq!(found(&debian_12), [128, 8, 10, 56, 0, 5, 192, 0, 24]);
        let debian_13 = kernel(140, 184, 192, 200);
        assert_eq!(found(&debian_13), [128, 12, 14, 56, 0, 5, 192, 0, 24]);
        let without_gap = kernel(136, 180, 188, 192);
        assert_eq!(found(&without_gap), [128, 8, 10, 52, 0, 5, 184, 4, 24]);
    }

    #[test]
    fn other_layouts_are_refused() {
        for (end, head) in [(176, 192), (190, 200), (192, 192), (196, 192), (0, 4)] {
            let error = layout(&kernel(136, 184, end, head)).expect_err("not a known layout");
            assert!(matches!(error, LayoutError::Apart("end", "head")), "{end} {head}: {error}");
        }
        let error = layout(&kernel(136, 192, 200, 208)).expect_err("not a known layout");
        assert!(matches!(error, LayoutError::Apart("ip_summed", "network_header")), "{error}");
        let error = layout(&btf_of(&[("sk_buff", vec![("ip_summed", 0)])])).expect_err("not a known layout");
        assert!(matches!(error, LayoutError::Unknown(BtfError::NoMember("sk_buff", "end"))), "{error}");
    }
}
