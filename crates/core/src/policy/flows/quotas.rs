//! Who has caused how many flows, and which of them go first.
//!
//! Each peer has two lists of the flows that it has caused: those that were never answered or are closed, and those that are in
//! use. The least recently used one is first in its list. All operations take the same time, however many flows there are.

use std::collections::BTreeSet;

use super::entry::{Entry, NONE};
use crate::policy::registry::PeerId;

/// The flows of one list, from the one that was used earliest to the one that was used latest.
#[derive(Debug, Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

impl List {
    const EMPTY: Self = Self { first: NONE, last: NONE };
}

/// The flows that one peer has caused.
#[derive(Debug)]
struct Quota {
    /// The peer. `None` once it has left.
    peer: Option<PeerId>,
    count: u32,
    /// Flows that are not in use, and flows that are.
    lists: [List; 2],
    /// When it left, as a number in the order of leaving.
    left: u64,
    /// Neighbours among those with as many flows.
    previous: u32,
    next: u32,
}

/// The quotas of all peers, and of those that have left.
#[derive(Debug)]
pub(super) struct Quotas {
    quotas: Vec<Quota>,
    free: Vec<u32>,
    /// The quota of the peer in each slot of the table of peers, [`NONE`] for none.
    by_slot: Vec<u32>,
    /// The quotas of those who are there, by their number of flows: the first one of a list for each number.
    by_count: Vec<u32>,
    /// The largest number of flows.
    most: u32,
    /// The number of those who are there and have flows.
    pub(super) users: usize,
    /// Those who have left, by the order in which they did.
    left: BTreeSet<(u64, u32)>,
    departures: u64,
}

impl Quotas {
    /// No peer has more than `most` flows.
    pub(super) fn new(most: usize) -> Self {
        Self {
            quotas: Vec::new(),
            free: Vec::new(),
            by_slot: Vec::new(),
            // Number 0 is not used. Zeros, so that the kernel gives memory only where it is used: an entry is the number plus
            // one.
            by_count: vec![0; most + 2],
            most: 0,
            users: 0,
            left: BTreeSet::new(),
            departures: 0,
        }
    }

    /// Returns the quota of a peer.
    pub(super) fn of_peer(&mut self, peer: PeerId) -> u32 {
        let slot = peer.index as usize;
        if slot >= self.by_slot.len() {
            self.by_slot.resize(slot + 1, NONE);
        }
        let present = self.by_slot[slot];
        if present != NONE && self.quotas[present as usize].peer == Some(peer) {
            return present;
        }
        if present != NONE {
            self.depart(present);
        }
        let quota = self.add(Some(peer));
        self.by_slot[slot] = quota;
        quota
    }

    /// Returns a new quota for the flows of those who have left.
    pub(super) fn of_nobody(&mut self) -> u32 {
        let quota = self.add(None);
        self.note_departure(quota);
        quota
    }

    /// A peer has left. Its flows stay until others need the room.
    pub(super) fn leave(&mut self, peer: PeerId) {
        let Some(&present) = self.by_slot.get(peer.index as usize) else { return };
        if present != NONE && self.quotas[present as usize].peer == Some(peer) {
            self.depart(present);
        }
    }

    /// Returns the number of flows in a quota.
    pub(super) fn count(&self, quota: u32) -> usize {
        self.quotas[quota as usize].count as usize
    }

    /// Returns the quotas of those who have left and still have flows, in the order in which they did.
    pub(super) fn departed(&self) -> impl Iterator<Item = u32> {
        self.left.iter().map(|(_, quota)| *quota)
    }

    /// Returns the quota with the most flows, of those who are there.
    pub(super) fn largest(&self) -> Option<u32> {
        self.by_count.get(self.most as usize).and_then(|first| first.checked_sub(1))
    }

    /// Returns the flow that goes first, except these: of those that are not in use the least recently used one, then of the
    /// others.
    pub(super) fn oldest(&self, quota: u32, entries: &[Entry], keep: [u32; 2]) -> Option<u32> {
        let first_of = |list: &List| {
            let mut at = list.first;
            while at != NONE && keep.contains(&at) {
                at = entries[at as usize].later;
            }
            Some(at).filter(|at| *at != NONE)
        };
        self.quotas[quota as usize].lists.iter().find_map(first_of)
    }

    /// Adds a flow as the latest one.
    pub(super) fn link(&mut self, quota: u32, entries: &mut [Entry], at: u32) {
        entries[at as usize].quota = quota;
        self.append(entries, at);
        self.change_count(quota, 1);
    }

    /// Removes a flow.
    pub(super) fn unlink(&mut self, entries: &mut [Entry], at: u32) {
        let quota = entries[at as usize].quota;
        self.take_out(entries, at);
        entries[at as usize].quota = NONE;
        self.change_count(quota, -1);
    }

    /// A flow was used, and is the latest one of its list now.
    pub(super) fn touch(&mut self, entries: &mut [Entry], at: u32) {
        let is_in_use = entries[at as usize].deserves_use();
        self.take_out(entries, at);
        entries[at as usize].is_in_use = is_in_use;
        self.append(entries, at);
    }

    fn append(&mut self, entries: &mut [Entry], at: u32) {
        let entry = &entries[at as usize];
        let list = &mut self.quotas[entry.quota as usize].lists[usize::from(entry.is_in_use)];
        let last = std::mem::replace(&mut list.last, at);
        if last == NONE {
            list.first = at;
        } else {
            entries[last as usize].later = at;
        }
        (entries[at as usize].earlier, entries[at as usize].later) = (last, NONE);
    }

    fn take_out(&mut self, entries: &mut [Entry], at: u32) {
        let &Entry { earlier, later, quota, is_in_use, .. } = &entries[at as usize];
        let list = &mut self.quotas[quota as usize].lists[usize::from(is_in_use)];
        if earlier == NONE {
            list.first = later;
        } else {
            entries[earlier as usize].later = later;
        }
        if later == NONE {
            list.last = earlier;
        } else {
            entries[later as usize].earlier = earlier;
        }
    }

    fn add(&mut self, peer: Option<PeerId>) -> u32 {
        let new = Quota { peer, count: 0, lists: [List::EMPTY; 2], left: 0, previous: NONE, next: NONE };
        if let Some(free) = self.free.pop() {
            self.quotas[free as usize] = new;
            return free;
        }
        self.quotas.push(new);
        u32::try_from(self.quotas.len() - 1).unwrap_or(NONE)
    }

    fn depart(&mut self, quota: u32) {
        self.leave_counts(quota);
        self.lower_most();
        if let Some(peer) = self.quotas[quota as usize].peer.take() {
            self.by_slot[peer.index as usize] = NONE;
        }
        if self.quotas[quota as usize].count == 0 {
            self.free.push(quota);
        } else {
            self.note_departure(quota);
        }
    }

    fn note_departure(&mut self, quota: u32) {
        self.departures += 1;
        self.quotas[quota as usize].left = self.departures;
        self.left.insert((self.departures, quota));
    }

    fn change_count(&mut self, quota: u32, change: i32) {
        let is_there = self.quotas[quota as usize].peer.is_some();
        if is_there {
            self.leave_counts(quota);
        }
        let it = &mut self.quotas[quota as usize];
        it.count = it.count.saturating_add_signed(change);
        if is_there {
            self.enter_counts(quota);
            self.lower_most();
        } else if it.count == 0 {
            self.left.remove(&(it.left, quota));
            self.free.push(quota);
        }
    }

    /// Puts a quota among those with as many flows.
    fn enter_counts(&mut self, quota: u32) {
        let count = self.quotas[quota as usize].count;
        if count == 0 {
            return;
        }
        self.users += 1;
        self.most = self.most.max(count);
        let first = std::mem::replace(&mut self.by_count[count as usize], quota + 1).checked_sub(1);
        if let Some(first) = first {
            self.quotas[first as usize].previous = quota;
        }
        let it = &mut self.quotas[quota as usize];
        (it.previous, it.next) = (NONE, first.unwrap_or(NONE));
    }

    fn leave_counts(&mut self, quota: u32) {
        let &Quota { count, previous, next, .. } = &self.quotas[quota as usize];
        if count == 0 {
            return;
        }
        self.users -= 1;
        if previous == NONE {
            // Without a next one, this is 0.
            self.by_count[count as usize] = next.wrapping_add(1);
        } else {
            self.quotas[previous as usize].next = next;
        }
        if next != NONE {
            self.quotas[next as usize].previous = previous;
        }
    }

    /// Finds the largest number of flows again. One flow less is one step. Only a peer that leaves takes more of them, at most as
    /// many as it had flows.
    fn lower_most(&mut self) {
        while self.most > 0 && self.by_count[self.most as usize] == 0 {
            self.most -= 1;
        }
    }
}

#[cfg(test)]
impl Quotas {
    /// Panics if a list doesn't have the entries that it should have. `counts` are those of the entries.
    pub(super) fn check(&self, entries: &[Entry], counts: &std::collections::HashMap<u32, usize>) {
        for (quota, number) in self.quotas.iter().zip(0..) {
            let mut found = 0;
            for (list, is_in_use) in quota.lists.iter().zip([false, true]) {
                let (mut at, mut before) = (list.first, NONE);
                while at != NONE {
                    let entry = &entries[at as usize];
                    assert_eq!((entry.quota, entry.is_in_use, entry.earlier), (number, is_in_use, before));
                    found += 1;
                    (before, at) = (at, entry.later);
                }
                assert_eq!(list.last, before);
            }
            let is_free = self.free.contains(&number);
            assert_eq!(found, counts.get(&number).copied().unwrap_or(0));
            assert!(is_free && found == 0 || quota.count as usize == found);
            let is_listed = self.left.contains(&(quota.left, number));
            assert_eq!(is_listed, !is_free && quota.peer.is_none());
        }
        let there = self.quotas.iter().filter(|quota| quota.peer.is_some() && quota.count > 0);
        assert_eq!(self.users, there.clone().count());
        let largest = self.largest().map_or(0, |largest| self.quotas[largest as usize].count);
        assert_eq!(largest, there.map(|quota| quota.count).max().unwrap_or(0));
    }
}
