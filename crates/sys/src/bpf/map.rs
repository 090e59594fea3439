//! Maps (bpf(2)).

use std::ffi::CStr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use caps::CapSet;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap};

use super::{Attributes, Command, ObjectName, address, address_mut, call, make, object_name};

/// BPF_F_NO_PREALLOC: elements take memory as they come.
const NO_PREALLOC: u32 = 1;
/// BPF_F_RDONLY_PROG: programs can't write it.
const READ_ONLY: u32 = 1 << 7;
/// BPF_F_MMAPABLE: processes can map it.
const MAPPABLE: u32 = 1 << 10;

/// Bytes of an array's key, and of a map in an array of maps.
const INDEX_LEN: usize = 4;

/// What a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapKind {
    /// A hash table, whose memory is taken when it is made (BPF_MAP_TYPE_HASH).
    Hash,
    /// A hash table, whose memory is taken as elements come.
    SparseHash,
    /// An array whose values are numbers of 64 bits, which processes map into their memory (BPF_MAP_TYPE_ARRAY).
    Words,
    /// An array of maps (BPF_MAP_TYPE_ARRAY_OF_MAPS). [`Map::holding`] makes it.
    Maps,
    /// One value that programs only read. Once it is frozen, the kernel takes what is in it for constants.
    Constants,
}

impl MapKind {
    const fn code(self) -> u32 {
        match self {
            Self::Hash | Self::SparseHash => 1,
            Self::Words | Self::Constants => 2,
            Self::Maps => 12,
        }
    }

    const fn flags(self) -> u32 {
        match self {
            Self::Hash | Self::Maps => 0,
            Self::SparseHash => NO_PREALLOC,
            Self::Words => MAPPABLE,
            Self::Constants => READ_ONLY,
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Create {
    kind: u32,
    key_len: u32,
    value_len: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: ObjectName,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Element {
    map: u32,
    unused: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Freeze {
    map: u32,
}

// SAFETY: integers without padding; no addresses.
unsafe impl Attributes for Create {}
// SAFETY: integers without padding. `Map` checks that keys and values have the map's lengths.
unsafe impl Attributes for Element {}
// SAFETY: one integer.
unsafe impl Attributes for Freeze {}

/// A map. It lives as long as a descriptor of it, or a program that uses it.
#[derive(Debug)]
pub struct Map {
    file: OwnedFd,
    kind: MapKind,
    key_len: usize,
    value_len: usize,
    max_entries: u32,
}

impl Map {
    /// Makes a map without elements; arrays are zeroed. Lengths are in bytes; the key of an array has 4. Needs CAP_BPF.
    pub fn new(name: &CStr, kind: MapKind, key_len: usize, value_len: usize, max_entries: u32) -> nix::Result<Self> {
        Self::make(name, kind, [key_len, value_len], max_entries, None)
    }

    /// Makes an array for one map like `inner`, which it holds.
    pub fn holding(name: &CStr, inner: &Self) -> nix::Result<Self> {
        let map = Self::make(name, MapKind::Maps, [INDEX_LEN, INDEX_LEN], 1, Some(inner))?;
        map.hold(inner)?;
        Ok(map)
    }

    /// Puts a map into an array of one map. When it returns, no program runs any more that had begun before: the kernel waits for them
    /// (synchronize_rcu() in maybe_wait_bpf_programs() of kernel/bpf/syscall.c, since Linux 4.19).
    pub fn hold(&self, inner: &Self) -> nix::Result<()> {
        self.set(&[0; INDEX_LEN], &inner.number().to_ne_bytes())
    }

    fn make(
        name: &CStr,
        kind: MapKind,
        [key_len, value_len]: [usize; 2],
        max_entries: u32,
        inner: Option<&Self>,
    ) -> nix::Result<Self> {
        let len = |len: usize| u32::try_from(len).map_err(|_| Errno::E2BIG);
        if kind == MapKind::Words && !value_len.is_multiple_of(size_of::<AtomicU64>()) {
            return Err(Errno::EINVAL);
        }
        let mut attributes = Create {
            kind: kind.code(),
            key_len: len(key_len)?,
            value_len: len(value_len)?,
            max_entries,
            flags: kind.flags(),
            inner_map: inner.map_or(0, Self::number),
            numa_node: 0,
            name: object_name(name),
        };
        let file = make(Command::MapCreate, &mut attributes)?;
        Ok(Self { file, kind, key_len, value_len, max_entries })
    }

    /// Returns true if a process without capabilities may look up, set and remove elements of maps that it has open. Before Linux 5.19 that
    /// takes `kernel.unprivileged_bpf_disabled = 0`, since the kernel refuses it all of bpf(2) otherwise. Asks by a map of one word.
    pub fn serves_without_capabilities() -> nix::Result<bool> {
        let map = Self::new(c"tuntap_probe", MapKind::Words, INDEX_LEN, size_of::<u64>(), 1)?;
        let effective = caps::read(None, CapSet::Effective).map_err(|_| Errno::EINVAL)?;
        caps::clear(None, CapSet::Effective).map_err(|_| Errno::EPERM)?;
        let is_set = map.set(&[0; INDEX_LEN], &[0; size_of::<u64>()]);
        // They are among the permitted ones still.
        caps::set(None, CapSet::Effective, &effective).map_err(|_| Errno::EPERM)?;
        match is_set {
            Err(Errno::EPERM) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// Reads the value of a key. Returns false if there is none.
    pub fn get(&self, key: &[u8], value: &mut [u8]) -> nix::Result<bool> {
        self.check(key, value.len())?;
        let mut attributes = self.element(address(key), address_mut(value), 0);
        match call(Command::MapLookup, &mut attributes) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Sets the value of a key. E2BIG if there is no room.
    pub fn set(&self, key: &[u8], value: &[u8]) -> nix::Result<()> {
        self.check(key, value.len())?;
        call(Command::MapUpdate, &mut self.element(address(key), address(value), 0)).map(drop)
    }

    /// Removes a key. Returns false if it isn't there.
    pub fn remove(&self, key: &[u8]) -> nix::Result<bool> {
        self.check(key, self.value_len)?;
        match call(Command::MapDelete, &mut self.element(address(key), 0, 0)) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// The key behind `key`, or the first one. `None` behind the last one.
    pub fn next_key(&self, key: Option<&[u8]>) -> nix::Result<Option<Vec<u8>>> {
        if let Some(key) = key {
            self.check(key, self.value_len)?;
        }
        let mut next = vec![0; self.key_len];
        let mut attributes = self.element(key.map_or(0, address), address_mut(&mut next), 0);
        match call(Command::MapNextKey, &mut attributes) {
            Ok(_) => Ok(Some(next)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Removes all keys of a hash table.
    pub fn clear(&self) -> nix::Result<()> {
        while let Some(key) = self.next_key(None)? {
            self.remove(&key)?;
        }
        Ok(())
    }

    /// Nobody can change it any more.
    pub fn freeze(&self) -> nix::Result<()> {
        call(Command::MapFreeze, &mut Freeze { map: self.number() }).map(drop)
    }

    /// Maps the numbers of [`MapKind::Words`] into this process, for as long as it lives. EINVAL for other maps.
    pub fn map(&self) -> nix::Result<&'static [AtomicU64]> {
        let entries = usize::try_from(self.max_entries).map_err(|_| Errno::EOVERFLOW)?;
        let len = self.value_len.checked_mul(entries).and_then(NonZeroUsize::new).ok_or(Errno::EINVAL)?;
        if self.kind != MapKind::Words {
            return Err(Errno::EINVAL);
        }
        let (protection, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let place = unsafe { mmap(None, len, protection, flags, &self.file, 0) }?;
        // SAFETY: the mapping begins at a page, so that it is aligned, and the kernel has taken memory for all of it. Values have a
        // multiple of 8 bytes and lie end to end. Any bits are a valid number, which programs change atomically, and this process, too.
        // Nobody ever unmaps it.
        Ok(unsafe { std::slice::from_raw_parts(place.cast().as_ptr(), len.get() / size_of::<AtomicU64>()) })
    }

    fn check(&self, key: &[u8], value_len: usize) -> nix::Result<()> {
        if key.len() == self.key_len && value_len == self.value_len { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn element(&self, key: u64, value: u64, flags: u64) -> Element {
        Element { map: self.number(), unused: 0, key, value, flags }
    }

    /// The descriptor, as the kernel's structures have it.
    pub(super) fn number(&self) -> u32 {
        self.file.as_raw_fd().cast_unsigned()
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn elements_come_and_go() {
        let map = Map::new(c"tuntap_test", MapKind::SparseHash, 4, 2, 2).expect("needs root");
        let mut value = [0; 2];
        assert_eq!(map.get(&[1; 4], &mut value), Ok(false));
        map.set(&[1; 4], &[7, 8]).and_then(|()| map.set(&[2; 4], &[9, 9])).expect("there is room");
        assert_eq!(map.set(&[3; 4], &[0; 2]), Err(Errno::E2BIG));
        assert_eq!((map.get(&[1; 4], &mut value), value), (Ok(true), [7, 8]));
        assert_eq!(map.get(&[1; 3], &mut value), Err(Errno::EINVAL), "a key of another length");
        assert_eq!((map.remove(&[1; 4]), map.remove(&[1; 4])), (Ok(true), Ok(false)));
        map.clear().expect("a hash table");
        assert_eq!(map.next_key(None), Ok(None));
        assert!(map.map().is_err(), "not a map of words");
    }

    #[test]
    fn words_are_shared_with_the_kernel() {
        let map = Map::new(c"tuntap_test", MapKind::Words, 4, 16, 1000).expect("needs root");
        let words = map.map().expect("memory");
        assert_eq!(words.len(), 2000);
        words[1999].store(5, Ordering::Relaxed);
        let mut value = [0; 16];
        assert_eq!(map.get(&999_u32.to_ne_bytes(), &mut value), Ok(true));
        assert_eq!(value[8..], 5_u64.to_ne_bytes());
        map.set(&[0; 4], &[1; 16]).expect("an array has all elements");
        assert_eq!(words[0].load(Ordering::Relaxed), 0x0101_0101_0101_0101);
    }

    #[test]
    fn array_holds_a_map() {
        let inner = Map::new(c"tuntap_test", MapKind::Words, 4, 8, 1).expect("needs root");
        let outer = Map::holding(c"tuntap_test", &inner).expect("needs root");
        outer.hold(&inner).expect("the same again");
        let other = Map::new(c"tuntap_test", MapKind::Hash, 4, 8, 1).expect("needs root");
        assert_eq!(outer.hold(&other), Err(Errno::EINVAL), "of another kind");
    }

    #[test]
    fn constants_are_written_once() {
        let map = Map::new(c"tuntap_test", MapKind::Constants, 4, 8, 1).expect("needs root");
        map.set(&[0; 4], &[1; 8]).and_then(|()| map.freeze()).expect("not frozen yet");
        assert_eq!(map.set(&[0; 4], &[2; 8]), Err(Errno::EPERM));
    }
}
