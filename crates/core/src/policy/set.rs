//! Sets of addresses and networks, as sorted ranges. A look-up is a binary search, however many lengths the prefixes have.

use std::net::IpAddr;

use ipnet::IpNet;

/// A set of IPv4 and IPv6 addresses. It never changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressSet {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

/// Ranges that neither overlap nor touch, in order. Firsts and lasts are apart, so that the search touches less memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ranges<A> {
    firsts: Vec<A>,
    lasts: Vec<A>,
}

/// Addresses of which each but the last has a next one.
trait Successor: Copy + Ord {
    fn next(self) -> Option<Self>;
}

impl Successor for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Successor for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl<A: Successor> Ranges<A> {
    fn new(mut ranges: Vec<(A, A)>) -> Self {
        ranges.sort_unstable();
        let (mut firsts, mut lasts): (Vec<A>, Vec<A>) = (Vec::new(), Vec::new());
        for (first, last) in ranges {
            match lasts.last_mut() {
                // It overlaps the range before, or follows it without a gap. After the last address nothing follows.
                Some(end) if end.next().is_none_or(|next| first <= next) => *end = last.max(*end),
                _ => {
                    firsts.push(first);
                    lasts.push(last);
                }
            }
        }
        firsts.shrink_to_fit();
        lasts.shrink_to_fit();
        Self { firsts, lasts }
    }

    fn contains(&self, address: A) -> bool {
        let after = self.firsts.partition_point(|first| *first <= address);
        after.checked_sub(1).and_then(|index| self.lasts.get(index)).is_some_and(|last| address <= *last)
    }
}

impl AddressSet {
    /// Returns true if the set has an IPv4 address, given as its bits.
    pub fn contains_v4(&self, address: u32) -> bool {
        self.v4.contains(address)
    }

    /// Returns true if the set has an IPv6 address, given as its bits.
    pub fn contains_v6(&self, address: u128) -> bool {
        self.v6.contains(address)
    }

    /// Returns true if the set has an address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.contains_v4(address.to_bits()),
            IpAddr::V6(address) => self.contains_v6(address.to_bits()),
        }
    }

    /// Returns true if the set has no address.
    pub const fn is_empty(&self) -> bool {
        self.v4.firsts.is_empty() && self.v6.firsts.is_empty()
    }

    /// Returns the number of ranges, after those that overlap or touch were merged.
    pub const fn ranges(&self) -> usize {
        self.v4.firsts.len() + self.v6.firsts.len()
    }
}

impl FromIterator<IpNet> for AddressSet {
    /// Takes networks in any order. They may overlap.
    fn from_iter<T: IntoIterator<Item = IpNet>>(networks: T) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self { v4: Ranges::new(v4), v6: Ranges::new(v6) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::pattern::tests::{any_net, inside};

    fn set(networks: &[&str]) -> AddressSet {
        networks.iter().map(|text| text.parse::<IpNet>().expect("a network")).collect()
    }

    #[test]
    fn networks_that_touch_are_one_range() {
        let set =
            set(&["10.0.1.0/24", "10.0.0.0/24", "10.0.0.7/32", "10.0.3.0/24", "0.0.0.0/32", "255.255.255.255/32"]);
        assert_eq!(set.ranges(), 4);
        let has = |text: &str| set.contains(text.parse().expect("an address"));
        for text in ["10.0.0.0", "10.0.1.255", "10.0.3.9", "0.0.0.0", "255.255.255.255"] {
            assert!(has(text), "{text}");
        }
        for text in ["10.0.2.0", "9.255.255.255", "10.0.4.0", "::", "::a00:0"] {
            assert!(!has(text), "{text}");
        }
    }

    #[test]
    fn all_addresses_are_one_range_each() {
        let all = set(&["::/0", "0.0.0.0/0", "fd00::/8", "10.0.0.0/8"]);
        assert_eq!(all.ranges(), 2);
        assert!(all.contains(IpAddr::from([255; 4])) && all.contains(IpAddr::from([255; 16])));
        assert!(AddressSet::default().is_empty() && !all.is_empty());
    }

    proptest! {
        /// The set agrees with a search of all its networks.
        #[test]
        fn agrees_with_a_list(
            networks in prop::collection::vec(any_net(), 0..40),
            near in any::<prop::sample::Index>(),
            bits in 0u128..5,
        ) {
            let set: AddressSet = networks.iter().copied().collect();
            prop_assume!(!networks.is_empty());
            let address = inside(networks[near.index(networks.len())], bits);
            prop_assert_eq!(set.contains(address), networks.iter().any(|net| net.contains(&address)));
            let next = match address {
                IpAddr::V4(address) => IpAddr::from(address.to_bits().wrapping_add(1).to_be_bytes()),
                IpAddr::V6(address) => IpAddr::from(address.to_bits().wrapping_sub(1).to_be_bytes()),
            };
            prop_assert_eq!(set.contains(next), networks.iter().any(|net| net.contains(&next)));
        }
    }
}
