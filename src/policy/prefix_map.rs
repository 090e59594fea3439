//! Values by prefix. What a lookup costs depends on how many lengths of prefixes there are, 33 at most, and not on how
//! many prefixes.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Values by prefix.
#[derive(Debug, Clone)]
pub struct PrefixMap<V> {
    values: HashMap<Ipv4Net, V>,
    /// Lengths of the prefixes, each once.
    lengths: Vec<u8>,
}

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        Self { values: HashMap::new(), lengths: Vec::new() }
    }
}

impl<V> PrefixMap<V> {
    /// Whether there are no prefixes.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The values of all prefixes that cover an address.
    pub fn covering(&self, address: Ipv4Addr) -> impl Iterator<Item = &V> {
        self.lengths.iter().filter_map(move |&length| {
            let prefix = Ipv4Net::new(address, length).ok()?.trunc();
            self.values.get(&prefix)
        })
    }
}

impl<V: Default> PrefixMap<V> {
    /// The value of a prefix; a default one if it has none yet. Host bits don't count.
    pub fn entry(&mut self, prefix: Ipv4Net) -> &mut V {
        if !self.lengths.contains(&prefix.prefix_len()) {
            self.lengths.push(prefix.prefix_len());
        }
        self.values.entry(prefix.trunc()).or_default()
    }
}

/// A set of prefixes.
pub type PrefixSet = PrefixMap<()>;

impl FromIterator<Ipv4Net> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = Ipv4Net>>(prefixes: I) -> Self {
        let mut set = Self::default();
        for prefix in prefixes {
            set.entry(prefix);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The same as looking at each prefix, for every length, with host bits or without.
        #[test]
        fn covers_what_its_prefixes_cover(
            prefixes in prop::collection::vec((any::<u32>(), 0u8..=32), 0..40),
            (near, bits) in (any::<prop::sample::Index>(), any::<u32>()),
        ) {
            let prefixes: Vec<Ipv4Net> =
                prefixes.into_iter().map(|(bits, len)| Ipv4Net::new_assert(bits.into(), len)).collect();
            let map: PrefixSet = prefixes.iter().copied().collect();
            // Addresses at random hit the short prefixes only.
            let at_random = Ipv4Addr::from_bits(bits);
            let inside = prefixes.get(near.index(prefixes.len().max(1))).map_or(at_random, |prefix| {
                Ipv4Addr::from_bits(prefix.network().to_bits() | (bits & prefix.hostmask().to_bits()))
            });
            for address in [at_random, inside] {
                let mut covering: Vec<_> = prefixes.iter().map(Ipv4Net::trunc).filter(|it| it.contains(&address)).collect();
                covering.sort_unstable();
                covering.dedup();
                prop_assert_eq!(map.covering(address).count(), covering.len());
            }
        }
    }
}
