//! Verdicts of a rule list that were worked out before, by address pair, so that a packet's cost does not grow with the
//! number of rules.

use std::net::Ipv4Addr;

use super::pattern::RuleList;

/// Address pairs that are remembered. A power of two; 16 KiB for a chain of the firewall.
const SLOTS: usize = 1024;

/// A rule list with a memory. Each pair has one place, so that a flood of pairs costs what the list costs, and never
/// more memory.
#[derive(Debug, Clone)]
pub struct CachedRules<T> {
    rules: RuleList<T>,
    slots: Vec<Option<Slot<T>>>,
    /// Makes the places unpredictable, so that nobody can aim at another pair's place.
    seed: u64,
}

#[derive(Debug, Clone, Copy)]
struct Slot<T> {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    verdict: Option<T>,
}

impl<T: Copy> CachedRules<T> {
    /// Nothing remembered yet. `seed` should be hard to guess.
    pub fn new(rules: RuleList<T>, seed: u64) -> Self {
        // A list without rules has nothing to remember.
        let slots = if rules.is_empty() { Vec::new() } else { vec![None; SLOTS] };
        Self { rules, slots, seed: seed | 1 }
    }

    /// What the first rule that matches decides.
    pub fn first_match(&mut self, src: Ipv4Addr, dst: Ipv4Addr) -> Option<T> {
        if self.slots.is_empty() {
            return None;
        }
        let index = self.index(src, dst);
        if let Some(slot) = self.slots[index]
            && (slot.src, slot.dst) == (src, dst)
        {
            return slot.verdict;
        }
        let verdict = self.rules.first_match(src, dst);
        self.slots[index] = Some(Slot { src, dst, verdict });
        verdict
    }

    fn index(&self, src: Ipv4Addr, dst: Ipv4Addr) -> usize {
        let pair = u64::from(src.to_bits()) << 32 | u64::from(dst.to_bits());
        let mixed = (pair ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32).wrapping_mul(self.seed);
        usize::try_from(mixed >> 32).unwrap_or_default() & (SLOTS - 1)
    }
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv4Net;
    use proptest::prelude::*;

    use super::*;
    use crate::policy::pattern::Rule;

    fn any_net() -> impl Strategy<Value = Ipv4Net> {
        (any::<u32>(), 0u8..=32).prop_map(|(bits, len)| Ipv4Net::new_assert(Ipv4Addr::from_bits(bits), len))
    }

    /// Whoever shares a place takes it over, and gets nothing of what was there.
    #[test]
    fn pairs_that_share_a_place_are_told_apart() {
        let first = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let others = (0..).map(|low| Ipv4Addr::from_bits(0xc0a8_0000 | low));
        let pairs_of = |pair: fn((Ipv4Addr, Ipv4Addr), Ipv4Addr) -> (Ipv4Addr, Ipv4Addr)| {
            let other = pair(first, Ipv4Addr::new(192, 168, 0, 0));
            let net =
                |address| Ipv4Net::new_assert(address, if address == first.0 || address == first.1 { 32 } else { 16 });
            let rule = |(src, dst), target| Rule { src: net(src), dst: net(dst), target };
            let mut cached = CachedRules::new(RuleList::new([rule(first, 1), rule(other, 2)]), 0x5eed);
            let same_place = others
                .clone()
                .map(|address| pair(first, address))
                .find(|&(src, dst)| cached.index(src, dst) == cached.index(first.0, first.1))
                .expect("there are fewer places than pairs");
            for _ in 0..2 {
                assert_eq!(cached.first_match(first.0, first.1), Some(1));
                assert_eq!(cached.first_match(same_place.0, same_place.1), Some(2));
            }
        };
        pairs_of(|(src, _), other| (src, other));
        pairs_of(|(_, dst), other| (other, dst));
    }

    proptest! {
        /// Asked in whatever order and however often, it says what the list says.
        #[test]
        fn agrees_with_the_list(
            rules in prop::collection::vec((any_net(), any_net()), 0..30),
            pairs in prop::collection::vec((0usize..30, any::<u32>(), any::<u32>()), 1..300),
            seed: u64,
        ) {
            let rules: Vec<_> = rules.into_iter().enumerate().map(|(target, (src, dst))| Rule { src, dst, target }).collect();
            let list = RuleList::new(rules.iter().copied());
            let mut cached = CachedRules::new(list.clone(), seed);
            for (near, src, dst) in pairs {
                let (src, dst) = match rules.get(near) {
                    Some(rule) => (
                        rule.src.network().to_bits() | (src & 3 & rule.src.hostmask().to_bits()),
                        rule.dst.network().to_bits() | (dst & 3 & rule.dst.hostmask().to_bits()),
                    ),
                    None => (src, dst),
                };
                let (src, dst) = (Ipv4Addr::from_bits(src), Ipv4Addr::from_bits(dst));
                prop_assert_eq!(cached.first_match(src, dst), list.first_match(src, dst));
            }
        }
    }
}
