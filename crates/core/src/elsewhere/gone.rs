//! The times of claims that are over, so that later claims to the same addresses have later times, whatever the clocks of hosts
//! say.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use tuntap_wire::holding::ClaimTime;

/// Most addresses that are remembered. The ones that were noted first are forgotten.
pub(super) const MAX_GONE: usize = 1 << 16;

/// The latest time of each address that was held.
#[derive(Debug, Default)]
pub(super) struct Gone {
    times: HashMap<IpAddr, ClaimTime>,
    /// The addresses, the one that was noted first at the front.
    order: VecDeque<IpAddr>,
}

impl Gone {
    /// Notes the time of a claim that is over.
    pub(super) fn note(&mut self, address: IpAddr, since: ClaimTime) {
        match self.times.entry(address) {
            Entry::Occupied(mut entry) => {
                let latest = since.max(*entry.get());
                entry.insert(latest);
                return;
            }
            Entry::Vacant(entry) => entry.insert(since),
        };
        self.order.push_back(address);
        if self.order.len() > MAX_GONE
            && let Some(first) = self.order.pop_front()
        {
            self.times.remove(&first);
        }
    }

    /// Returns the latest time of an address, if it is remembered.
    pub(super) fn time(&self, address: IpAddr) -> Option<ClaimTime> {
        self.times.get(&address).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_time_counts_and_the_first_address_is_forgotten_when_there_is_no_room() {
        let address = |number: usize| IpAddr::from(u32::try_from(number).expect("small").to_be_bytes());
        let mut gone = Gone::default();
        gone.note(address(0), ClaimTime(5));
        gone.note(address(0), ClaimTime(9));
        gone.note(address(0), ClaimTime(7));
        assert_eq!(gone.time(address(0)), Some(ClaimTime(9)));
        (1..=MAX_GONE).for_each(|number| gone.note(address(number), ClaimTime(1)));
        assert_eq!((gone.time(address(0)), gone.time(address(1))), (None, Some(ClaimTime(1))));
        assert_eq!((gone.times.len(), gone.order.len()), (MAX_GONE, MAX_GONE));
    }
}
