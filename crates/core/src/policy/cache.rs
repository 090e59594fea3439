//! A cache of a rule list's verdicts by flow, so that the cost of most packets does not grow with the number of rules.

use super::pattern::{AnyMatchKey, Bits, Match, MatchKey, NoContext, PolicyRules, RuleList, Service};

/// The start value of the hash, which also spreads the bits of the seed: the fractional part of the golden ratio.
const START: u64 = 0x9e37_79b9_7f4a_7c15;

/// The number of cached flows for each version of IP, a power of two. They take 24 KiB for a chain of IPv4 rules.
const SLOTS: usize = 1024;

/// The verdicts of a list of rules on recent flows. Each flow has one possible slot, so that a flood of flows costs no more
/// than a search of the rules, and no more memory.
#[derive(Debug, Clone)]
pub struct RuleCache<T> {
    v4: CachedList<u32, T>,
    v6: CachedList<u128, T>,
}

impl<T: Copy> RuleCache<T> {
    /// Makes an empty cache for these rules. `seed` should be hard to guess.
    pub fn new(rules: &PolicyRules<T>, seed: u64) -> Self {
        Self { v4: CachedList::new(&rules.v4, seed), v6: CachedList::new(&rules.v6, seed) }
    }

    /// Returns the first rule that matches, and its target. `rules` have to be those that the cache was made for.
    pub fn find(&mut self, rules: &PolicyRules<T>, flow: &AnyMatchKey) -> Option<Match<T>> {
        match flow {
            AnyMatchKey::V4(flow) => self.v4.find(&rules.v4, *flow),
            AnyMatchKey::V6(flow) => self.v6.find(&rules.v6, *flow),
        }
    }
}

#[derive(Debug, Clone)]
struct CachedList<A, T> {
    slots: Vec<Option<Slot<A, T>>>,
    /// Makes the slots unpredictable, so that no peer can aim at the slot of another peer's flow. Each word of a flow is
    /// multiplied by the seed before the next word is mixed in, so that a difference in one word can't be made up for in
    /// another.
    seed: u64,
}

#[derive(Debug, Clone, Copy)]
struct Slot<A, T> {
    flow: MatchKey<A>,
    found: Option<Match<T>>,
}

/// Addresses that can be hashed in words of 64 bits.
trait Words: Sized {
    type Pair: IntoIterator<Item = u64>;

    /// Returns all bits of both addresses.
    fn pair(src: Self, dst: Self) -> Self::Pair;
}

impl Words for u32 {
    type Pair = [u64; 1];

    fn pair(src: Self, dst: Self) -> Self::Pair {
        [u64::from(src) << 32 | u64::from(dst)]
    }
}

impl Words for u128 {
    type Pair = [u64; 4];

    fn pair(src: Self, dst: Self) -> Self::Pair {
        let ([src_high, src_low], [dst_high, dst_low]) = (halves(src), halves(dst));
        [src_high, src_low, dst_high, dst_low]
    }
}

/// Returns the upper and the lower half.
#[allow(clippy::cast_possible_truncation)] // both halves are taken
const fn halves(value: u128) -> [u64; 2] {
    [(value >> 64) as u64, value as u64]
}

impl<A: Bits + Words, T: Copy> CachedList<A, T> {
    fn new(rules: &RuleList<A, T>, seed: u64) -> Self {
        // A list without rules needs no cache.
        let slots = if rules.is_empty() { Vec::new() } else { vec![None; SLOTS] };
        // This spreads a seed of few bits, as tests have it, over all bits of a word.
        Self { slots, seed: (seed ^ START).wrapping_mul(START) | 1 }
    }

    fn find(&mut self, rules: &RuleList<A, T>, mut flow: MatchKey<A>) -> Option<Match<T>> {
        if self.slots.is_empty() {
            return None;
        }
        if !rules.looks_at_service() {
            flow.service = Service::default();
        }
        let index = self.index(&flow);
        if let Some(slot) = self.slots[index]
            && slot.flow == flow
        {
            return slot.found;
        }
        let found = rules.find(&flow, None, &mut NoContext);
        self.slots[index] = Some(Slot { flow, found });
        found
    }

    fn index(&self, flow: &MatchKey<A>) -> usize {
        let service = u64::from(flow.service.protocol) << 16 | u64::from(flow.service.port.unwrap_or_default());
        let mixed = A::pair(flow.src, flow.dst).into_iter().chain([service]).fold(START, |mixed, word| {
            let [high, low] = halves(u128::from(mixed ^ word) * u128::from(self.seed));
            high ^ low
        });
        usize::try_from(mixed).unwrap_or_default() & (SLOTS - 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::pattern::PolicyRule;
    use crate::policy::pattern::tests::{any_net, inside, rule};
    use tuntap_wire::selector::{AddressPattern, Ports, Protocol, Selector, Service as SelectedService};

    fn flow(src: u32, dst: u32) -> MatchKey<u32> {
        MatchKey { src, dst, service: Service::default() }
    }

    /// Two flows that share a slot displace each other, and neither gets the verdict on the other.
    #[test]
    fn flows_that_share_a_place_are_told_apart() {
        let first = flow(0x0a00_0001, 0x0a00_0002);
        let with = |change: fn(MatchKey<u32>, u16) -> MatchKey<u32>, other: PolicyRule<i32>| {
            let rules = PolicyRules::new([other, rule(2, "any", "any")]);
            let mut cached = CachedList::new(&rules.v4, 0x5eed);
            let same_place = (1..=u16::MAX)
                .map(|low| change(first, low))
                .find(|flow| cached.index(flow) == cached.index(&first))
                .expect("there are fewer places than flows");
            for _ in 0..2 {
                assert_eq!(cached.find(&rules.v4, first).map(|found| found.target), Some(2));
                assert_eq!(cached.find(&rules.v4, same_place).map(|found| found.target), Some(1));
            }
        };
        with(|flow, low| MatchKey { src: 0xc0a8_0000 | u32::from(low), ..flow }, rule(1, "192.168.0.0/16", "any"));
        with(|flow, low| MatchKey { dst: 0xc0a8_0000 | u32::from(low), ..flow }, rule(1, "any", "192.168.0.0/16"));
        let tcp = SelectedService { protocol: Protocol::Number(6), ports: Ports::new(1, u16::MAX) };
        let selector = Selector::new(AddressPattern::Any, AddressPattern::Any, Some(tcp)).expect("both versions");
        with(
            |flow, low| MatchKey { service: Service { protocol: 6, port: Some(low) }, ..flow },
            PolicyRule { selector, target: 1 },
        );
    }

    /// The flows differ in two words. The differences would cancel each other out if the words were mixed before the seed.
    #[test]
    fn nobody_can_aim_at_a_place_without_the_seed() {
        let at = |port: u16| MatchKey {
            src: 0x0a00_0001,
            dst: 0x0a00_0002 ^ u32::from(port) << 20,
            service: Service { protocol: 6, port: Some(port) },
        };
        for seed in 0..50 {
            let list = CachedList::new(&PolicyRules::new([rule(1, "any", "any")]).v4, seed << 32 | 0x5eed);
            let shared = (1..0x1000).filter(|&port| list.index(&at(port)) == list.index(&at(0))).count();
            assert!(shared < 0x1000 / 32, "{shared} share a place");
        }
    }

    /// The addresses of vassals are consecutive.
    #[test]
    fn neighbours_are_spread_over_the_places() {
        for seed in 0..50 {
            let list = CachedList::new(&PolicyRules::new([rule(1, "any", "any")]).v4, seed);
            let mut places: Vec<_> = (0..256).map(|host| list.index(&flow(0x0a00_0000 + host, 0xc0a8_0001))).collect();
            places.sort_unstable();
            places.dedup();
            assert!(places.len() > 128, "{} places with the seed {seed}", places.len());
        }
    }

    fn any_rules() -> impl Strategy<Value = Vec<Selector>> {
        let service = prop_oneof![
            Just(None),
            (0u8..3).prop_map(|number| Some(SelectedService { protocol: Protocol::Number(number), ports: None })),
            (0u16..4, 0u16..4).prop_map(|(one, other)| Some(SelectedService {
                protocol: Protocol::Number(6),
                ports: Ports::new(one.min(other), one.max(other)),
            })),
        ];
        let rule = (any_net(), any_net(), service).prop_filter_map("versions", |(src, dst, service)| {
            Selector::new(AddressPattern::Net(src), AddressPattern::Net(dst), service).ok()
        });
        prop::collection::vec(rule, 1..30)
    }

    proptest! {
        /// The cache agrees with the list, in whatever order and however often it is asked.
        #[test]
        fn agrees_with_the_list(
            selectors in any_rules(),
            asked in prop::collection::vec((any::<prop::sample::Index>(), 0u128..4, 0u128..4, 0u8..7, 0u16..5), 1..300),
            seed: u64,
        ) {
            let rules = PolicyRules::new(selectors.iter().enumerate().map(|(target, &selector)| PolicyRule { selector, target }));
            let mut cached = RuleCache::new(&rules, seed);
            for (near, src, dst, protocol, port) in asked {
                let near = selectors[near.index(selectors.len())];
                let (AddressPattern::Net(from), AddressPattern::Net(to)) = (near.src(), near.dst()) else { continue };
                let service = Service { protocol, port: (port > 0).then_some(port) };
                match (inside(from, src), inside(to, dst)) {
                    (std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) => {
                        let flow = MatchKey { src: src.to_bits(), dst: dst.to_bits(), service };
                        prop_assert_eq!(cached.find(&rules, &AnyMatchKey::V4(flow)), rules.v4.find(&flow, None, &mut NoContext));
                    }
                    (std::net::IpAddr::V6(src), std::net::IpAddr::V6(dst)) => {
                        let flow = MatchKey { src: src.to_bits(), dst: dst.to_bits(), service };
                        prop_assert_eq!(cached.find(&rules, &AnyMatchKey::V6(flow)), rules.v6.find(&flow, None, &mut NoContext));
                    }
                    _ => {}
                }
            }
        }
    }
}
