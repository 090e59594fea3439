//! From a flow's key to its entry: an open-addressed table with linear probing, which never grows.

use super::key::{FlowKey, Hasher};

/// A place: the upper 32 bits are those of the hash, the lower ones the entry's number plus one; 0 is a free place.
type Place = u64;

/// Places for each entry. At most half of them are taken, so that a search ends after few places.
const PLACES_PER_ENTRY: usize = 2;

/// The index.
#[derive(Debug)]
pub(super) struct Index {
    places: Vec<Place>,
    mask: usize,
    hasher: Hasher,
}

impl Index {
    /// Bytes for each flow, on average.
    pub(super) const BYTES_PER_FLOW: usize = PLACES_PER_ENTRY * size_of::<Place>();

    /// Makes an index for so many flows. The kernel gives it memory where it is used.
    pub(super) fn new(flows: usize, seed: u64) -> Self {
        let count = (flows * PLACES_PER_ENTRY).next_power_of_two();
        Self { places: vec![0; count], mask: count - 1, hasher: Hasher::new(seed) }
    }

    /// Returns the number of an entry that `is_it` accepts, among those with the key's hash.
    #[inline]
    pub(super) fn find(&self, key: &FlowKey, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let hash = self.hash(key);
        let mut at = home(hash) & self.mask;
        loop {
            let place = self.places[at];
            if place == 0 {
                return None;
            }
            if place >> 32 == hash {
                let entry = entry_of(place);
                if is_it(entry) {
                    return Some(entry);
                }
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Adds an entry that is not there.
    pub(super) fn insert(&mut self, key: &FlowKey, entry: u32) {
        let hash = self.hash(key);
        let mut at = home(hash) & self.mask;
        while self.places[at] != 0 {
            at = (at + 1) & self.mask;
        }
        self.places[at] = hash << 32 | (u64::from(entry) + 1);
    }

    /// Removes an entry, and closes the gap, so that no search ends too early.
    pub(super) fn remove(&mut self, key: &FlowKey, entry: u32) {
        let hash = self.hash(key);
        let wanted = hash << 32 | (u64::from(entry) + 1);
        let mut gap = home(hash) & self.mask;
        while self.places[gap] != wanted {
            if self.places[gap] == 0 {
                return;
            }
            gap = (gap + 1) & self.mask;
        }
        let mut at = gap;
        loop {
            at = (at + 1) & self.mask;
            let place = self.places[at];
            if place == 0 {
                break;
            }
            // A place may move to the gap unless its home lies between the gap and itself.
            let from_home = at.wrapping_sub(home(place >> 32)) & self.mask;
            let from_gap = at.wrapping_sub(gap) & self.mask;
            if from_home >= from_gap {
                self.places[gap] = place;
                gap = at;
            }
        }
        self.places[gap] = 0;
    }

    #[inline]
    fn hash(&self, key: &FlowKey) -> u64 {
        self.hasher.hash(key) >> 32
    }
}

/// Where a search begins.
#[allow(clippy::cast_possible_truncation)] // it has 32 bits
const fn home(hash: u64) -> usize {
    hash as usize
}

#[allow(clippy::cast_possible_truncation)] // the lower 32 bits are meant
const fn entry_of(place: Place) -> u32 {
    (place as u32).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn key(number: u64) -> FlowKey {
        FlowKey { local: [0, number], remote: [0, 7], local_port: 1, remote_port: 2, protocol: 6, is_v4: true }
    }

    proptest! {
        /// The index agrees with a map, in whatever order entries come and go. There are so few places that they collide.
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0u64..40, any::<bool>()), 1..200), seed: u64) {
            let mut index = Index::new(40, seed);
            let mut map = HashMap::new();
            for (step, (number, is_there)) in (0..).zip(steps) {
                match (is_there, map.contains_key(&number)) {
                    (true, false) => {
                        index.insert(&key(number), step);
                        map.insert(number, step);
                    }
                    (false, true) => index.remove(&key(number), map.remove(&number).expect("it is there")),
                    _ => {}
                }
                for number in 0..40 {
                    let expected = map.get(&number).copied();
                    let found = index.find(&key(number), |entry| expected == Some(entry));
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}
