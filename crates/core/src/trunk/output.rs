//! The addresses that a neighbour is to be told of.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use tuntap_wire::trunk::{Announcement, append_announce, append_withdraw};

use super::MAX_ANNOUNCED;
use super::table::{Place, Table};

/// What the neighbour is to be told of. It is a set of addresses, so that changes that come faster than the connection takes
/// them need no memory.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    changed: BTreeSet<IpAddr>,
    told: HashSet<IpAddr>,
    /// Where it goes on while everything is told.
    rest: Option<Place>,
    is_end_due: bool,
}

impl Outgoing {
    /// The neighbour is to be told what is known of an address.
    pub(super) fn change(&mut self, address: IpAddr) {
        self.changed.insert(address);
    }

    /// The neighbour knows nothing, and is to be told everything.
    pub(super) fn restart(&mut self) {
        self.told.clear();
        self.rest = Some(Place::default());
        self.is_end_due = true;
    }

    /// Number of addresses that the neighbour was told of.
    pub(super) fn told(&self) -> usize {
        self.told.len()
    }

    /// Returns true if there is something to tell.
    pub(super) fn has_more(&self) -> bool {
        !self.changed.is_empty() || self.rest.is_some()
    }

    /// Appends frames until `limit` bytes are reached, everything is told, or `budget` addresses were looked at. `known` is what may
    /// be told of an address. Returns true if all announcements after a restart have just been told.
    pub(super) fn append(
        &mut self,
        out: &mut Vec<u8>,
        limit: usize,
        budget: &mut usize,
        table: &Table,
        known: impl Fn(IpAddr) -> Option<Announcement>,
    ) -> bool {
        while out.len() < limit && *budget > 0 {
            let Some((address, has_changed)) = self.next(table) else { break };
            *budget -= 1;
            if !has_changed && self.told.contains(&address) {
                continue;
            }
            match known(address) {
                Some(announcement) if self.told.contains(&address) || self.told.len() < MAX_ANNOUNCED => {
                    self.told.insert(address);
                    append_announce(out, address, &announcement);
                }
                _ if self.told.remove(&address) => append_withdraw(out, address),
                _ => {}
            }
        }
        !self.has_more() && std::mem::take(&mut self.is_end_due)
    }

    /// The next address that the neighbour is to be told of, and whether something else is known of it than before. Otherwise it
    /// may have been told already.
    fn next(&mut self, table: &Table) -> Option<(IpAddr, bool)> {
        if let Some(address) = self.changed.pop_first() {
            return Some((address, true));
        }
        let address = self.rest.as_mut().and_then(|place| table.next(place));
        if address.is_none() {
            self.rest = None;
        }
        address.map(|address| (address, false))
    }
}
