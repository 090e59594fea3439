//! What waits for a trunk's connection: packets up to a bound, and the addresses that the neighbour is to be told of.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use tuntap_wire::trunk::{Announcement, MAX_MESSAGE_LEN, append_announce, append_withdraw, whole_frames};

use super::{MAX_ANNOUNCED, MAX_QUEUED_LEN};

/// Packets that wait, in frames one behind the other. The memory is kept once it was needed.
#[derive(Debug, Default)]
pub(super) struct Queue {
    bytes: Vec<u8>,
    /// What is before it was sent.
    start: usize,
}

impl Queue {
    /// Returns true if nothing waits.
    pub(super) const fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Bytes that wait.
    pub(super) const fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Adds a frame. Returns false if there is no room.
    pub(super) fn push(&mut self, parts: &[&[u8]]) -> bool {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if self.len() + len > MAX_QUEUED_LEN {
            return false;
        }
        // Moving costs at most one copy of each byte that was sent since the last time.
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        true
    }

    /// The frames to send next, as one message. Empty if nothing waits.
    pub(super) fn next(&self) -> &[u8] {
        let waiting = &self.bytes[self.start..];
        // These frames were made here, so that none is too long.
        let len = whole_frames(waiting, MAX_MESSAGE_LEN).unwrap_or(0);
        &waiting[..len]
    }

    /// Removes as many bytes as were sent.
    pub(super) fn sent(&mut self, len: usize) {
        self.start += len;
        if self.is_empty() {
            self.bytes.clear();
            self.start = 0;
        }
    }
}

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
