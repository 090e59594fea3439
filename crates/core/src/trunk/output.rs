//! The addresses that a neighbour is to be told of.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use tuntap_wire::trunk::{Announcement, append_announce, append_withdraw};

use super::MAX_ANNOUNCED;

/// What the neighbour is to be told of. It is a set of addresses, so that changes that come faster than the connection takes
/// them need no memory.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    changed: BTreeSet<IpAddr>,
    told: HashSet<IpAddr>,
    is_end_due: bool,
}

impl Outgoing {
    /// The neighbour is to be told what is known of an address.
    pub(super) fn change(&mut self, address: IpAddr) {
        self.changed.insert(address);
    }

    /// The neighbour knows nothing, and is to be told everything.
    pub(super) fn restart(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        self.told.clear();
        self.changed = addresses.collect();
        self.is_end_due = true;
    }

    /// Number of addresses that the neighbour was told of.
    pub(super) fn told(&self) -> usize {
        self.told.len()
    }

    /// Appends frames until `limit` bytes are reached or everything is told. `known` is what may be told of an address. Returns
    /// true if all announcements after a restart have just been told.
    pub(super) fn append(
        &mut self,
        out: &mut Vec<u8>,
        limit: usize,
        known: impl Fn(IpAddr) -> Option<Announcement>,
    ) -> bool {
        while out.len() < limit {
            let Some(address) = self.changed.pop_first() else { break };
            match known(address) {
                Some(announcement) if self.told.contains(&address) || self.told.len() < MAX_ANNOUNCED => {
                    self.told.insert(address);
                    append_announce(out, address, &announcement);
                }
                _ if self.told.remove(&address) => append_withdraw(out, address),
                _ => {}
            }
        }
        self.changed.is_empty() && std::mem::take(&mut self.is_end_due)
    }
}
