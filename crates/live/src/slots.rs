//! Which counters are free.

use tuntap_core::policy::counters::RuleCounters;

/// The counters of a router, of which some are taken.
#[derive(Debug)]
pub struct Slots {
    is_taken: Vec<bool>,
    /// All slots before it are taken.
    next: usize,
}

impl Slots {
    /// All but these are free.
    pub fn without(taken: impl Iterator<Item = u32>) -> Self {
        let mut is_taken = vec![false; RuleCounters::SLOTS];
        for slot in taken {
            if let Some(place) = usize::try_from(slot).ok().and_then(|slot| is_taken.get_mut(slot)) {
                *place = true;
            }
        }
        Self { is_taken, next: 0 }
    }

    /// Takes a free one; `None` if there is none.
    pub fn take(&mut self) -> Option<u32> {
        let free = self.is_taken.get(self.next..)?.iter().position(|is_taken| !is_taken)?;
        let slot = self.next + free;
        self.is_taken[slot] = true;
        self.next = slot + 1;
        u32::try_from(slot).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_free_slot_is_given_once() {
        let mut slots = Slots::without([0, 2, 3, u32::MAX].into_iter());
        let given: Vec<_> = std::iter::from_fn(|| slots.take()).collect();
        assert_eq!(given.len(), RuleCounters::SLOTS - 3);
        assert_eq!(given[..3], [1, 4, 5]);
        assert_eq!(slots.take(), None);
    }
}
