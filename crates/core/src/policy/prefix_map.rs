//! Values by prefix. The cost of a lookup depends on the number of different prefix lengths, at most 129, and not on
//! the number of prefixes.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// Values by prefix.
#[derive(Debug, Clone)]
pub struct PrefixMap<V> {
    values: HashMap<IpNet, V>,
    /// Lengths of the IPv4 prefixes, each once.
    v4_lengths: Vec<u8>,
    /// Lengths of the IPv6 prefixes, each once.
    v6_lengths: Vec<u8>,
}

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        Self { values: HashMap::new(), v4_lengths: Vec::new(), v6_lengths: Vec::new() }
    }
}

impl<V> PrefixMap<V> {
    /// Returns true if there are no prefixes.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The values of all prefixes that cover an address.
    pub fn covering(&self, address: IpAddr) -> impl Iterator<Item = &V> {
        let lengths = if address.is_ipv4() { &self.v4_lengths } else { &self.v6_lengths };
        lengths.iter().filter_map(move |&length| {
            let prefix = IpNet::new(address, length).ok()?.trunc();
            self.values.get(&prefix)
        })
    }
}

impl<V: Default> PrefixMap<V> {
    /// The value of a prefix, which is set to the default if it has none yet. Host bits are ignored.
    pub fn entry(&mut self, prefix: IpNet) -> &mut V {
        let lengths = if prefix.addr().is_ipv4() { &mut self.v4_lengths } else { &mut self.v6_lengths };
        if !lengths.contains(&prefix.prefix_len()) {
            lengths.push(prefix.prefix_len());
        }
        self.values.entry(prefix.trunc()).or_default()
    }
}

/// A set of prefixes.
pub type PrefixSet = PrefixMap<()>;

impl FromIterator<IpNet> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(prefixes: I) -> Self {
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
    use crate::policy::pattern::tests::{any_net, inside};

    proptest! {
        /// A lookup finds the same as a comparison with each prefix, for every length, with host bits or without.
        #[test]
        fn covers_what_its_prefixes_cover(
            prefixes in prop::collection::vec(any_net(), 1..40),
            (near, bits) in (any::<prop::sample::Index>(), any::<u128>()),
        ) {
            let map: PrefixSet = prefixes.iter().copied().collect();
            // Random addresses alone would only be in short prefixes.
            let at_random = inside(prefixes[0].supernet().unwrap_or(prefixes[0]), bits);
            let near = inside(prefixes[near.index(prefixes.len())], bits);
            for address in [at_random, near] {
                let mut covering: Vec<_> = prefixes.iter().map(IpNet::trunc).filter(|it| it.contains(&address)).collect();
                covering.sort_unstable();
                covering.dedup();
                prop_assert_eq!(map.covering(address).count(), covering.len());
            }
        }
    }
}
