//! The table of flows: what was decided about the packets of each connection, so that the next ones need one look-up, and what
//! the rules need to know of it.

pub(crate) mod entry;
mod index;
pub(crate) mod key;
mod quotas;
mod record;
pub mod timeouts;
mod view;

use tuntap_wire::ip::{Packet, TcpFlags};
use tuntap_wire::rule::Direction;

use super::counters::Words;
use super::limits::Limits;
use super::registry::PeerId;
pub(crate) use entry::Entry;
use entry::NONE;
pub(crate) use entry::Slots;
pub use entry::{Fate, KernelState, Owner, Phase, Way};
use index::Index;
pub use key::FlowKey;
use quotas::Quotas;
use record::Records;
pub use view::{FlowView, SideView};

/// Bytes of memory that a flow takes: its entry, its places in the index, and its record for the router's successor. Memory
/// for the most flows is reserved at the start, but the kernel gives it only when flows use it.
pub const BYTES_PER_FLOW: usize = size_of::<Entry>() + Index::BYTES_PER_FLOW + Records::BYTES;

/// Returns for how many flows this process gets memory: as many as are wanted, or, where the kernel or a limit of the process
/// refuses that, half as many, until it is enough. Records are not asked for: these are there already.
pub fn affordable(wanted: usize) -> usize {
    let mut flows = wanted;
    let is_refused = |flows: usize| Vec::<u8>::new().try_reserve_exact(flows.saturating_mul(BYTES_PER_FLOW)).is_err();
    while flows > Limits::MIN_FLOWS && is_refused(flows) {
        flows = (flows / 2).max(Limits::MIN_FLOWS);
    }
    flows
}

/// Entries that are looked at for each new flow, to find those that are over.
const SWEPT_PER_FLOW: usize = 2;

/// Entries that are looked at in each second in which the router is awake.
const SWEPT_PER_SECOND: usize = 256;

/// A new flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewFlow {
    pub(crate) key: FlowKey,
    /// The peer that holds the local address, and who it is.
    pub(crate) peer: PeerId,
    pub(crate) owner: Owner,
    /// The peer that has caused the flow.
    pub(crate) cause: PeerId,
}

/// The table of flows.
#[derive(Debug)]
pub(crate) struct FlowTable {
    entries: Vec<Entry>,
    index: Index,
    quotas: Quotas,
    records: Records,
    /// The first free entry, and the number of those that are taken.
    free: u32,
    len: usize,
    /// Those that were forgotten before their time.
    evicted: u64,
    most: usize,
    most_per_peer: usize,
    /// The next entry to be looked at.
    hand: usize,
    /// The numbers of flows in the kernel that are no longer those that it knows.
    gone: Vec<u32>,
    /// The present second, and the one of the latest sweep.
    pub(crate) now: u32,
    swept: u32,
}

impl FlowTable {
    /// Makes a table with the flows that the records have. `seed` should be hard to guess. `now` is the present second of
    /// the clock that all routers with these records have in common.
    pub(crate) fn new(limits: &Limits, records: Words, seed: u64, now: u32) -> Self {
        let most = limits.flows.clamp(Limits::MIN_FLOWS, Limits::MAX_FLOWS);
        let most_per_peer = limits.flows_per_peer.clamp(Limits::MIN_FLOWS_PER_PEER, most);
        let mut table = Self {
            entries: Vec::with_capacity(most),
            index: Index::new(most, seed),
            quotas: Quotas::new(most_per_peer),
            records: Records::new(records),
            free: NONE,
            len: 0,
            evicted: 0,
            most,
            most_per_peer,
            hand: 0,
            gone: Vec::new(),
            now,
            swept: now,
        };
        table.restore();
        table
    }

    /// Words of memory that so many flows need.
    pub(crate) const fn words(flows: usize) -> usize {
        Records::words(flows)
    }

    /// The number of flows.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// The number of flows that were forgotten before their time.
    pub(crate) const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The number of flows that there may be.
    pub(crate) const fn most(&self) -> usize {
        self.most
    }

    /// The number of entries that were ever used.
    pub(crate) fn entries(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(NONE)
    }

    /// Returns a flow.
    #[inline]
    pub(crate) fn get(&self, at: u32) -> &Entry {
        &self.entries[at as usize]
    }

    /// Returns a flow, to change its verdicts.
    #[inline]
    pub(crate) fn get_mut(&mut self, at: u32) -> &mut Entry {
        &mut self.entries[at as usize]
    }

    /// Returns the entry of this number if it has a flow that is not over.
    pub(crate) fn known(&self, at: u32) -> Option<&Entry> {
        self.entries.get(at as usize).filter(|entry| entry.quota != NONE && !entry.is_over(self.now))
    }

    /// Returns the number of a flow. Flows that are over are not found.
    #[inline]
    pub(crate) fn find(&self, key: &FlowKey) -> Option<u32> {
        let at = self.index.find(key, |at| self.entries[at as usize].key == *key)?;
        (!self.entries[at as usize].is_over(self.now)).then_some(at)
    }

    /// Adds a flow. If there is no room, others go: first those that are over, then, of the peer that has caused it if it has
    /// more than its part, the oldest ones. `keep` stays in any case.
    pub(crate) fn insert(&mut self, new: NewFlow, keep: Option<u32>) -> u32 {
        self.sweep(SWEPT_PER_FLOW);
        // One that is over was not found.
        if let Some(at) = self.index.find(&new.key, |at| self.entries[at as usize].key == new.key) {
            self.remove(at);
        }
        let quota = self.quotas.of_peer(new.cause);
        self.make_room(quota, [keep.unwrap_or(NONE), NONE]);
        let mut entry = Entry::new(new.key, new.peer, new.owner, self.now);
        entry.is_by_remote = new.cause != new.peer;
        let at = self.take_entry(entry);
        self.index.insert(&new.key, at);
        self.quotas.link(quota, &mut self.entries, at);
        self.records.write(at, &self.entries[at as usize]);
        at
    }

    /// A peer that is the same one as the earlier holder of the local address gets its flow. `keep` is not forgotten for it.
    pub(crate) fn adopt(&mut self, at: u32, new: NewFlow, keep: Option<u32>) {
        self.leave_kernel(at);
        self.quotas.unlink(&mut self.entries, at);
        let entry = &mut self.entries[at as usize];
        (entry.peer, entry.owner) = (new.peer, new.owner);
        (entry.out.epoch, entry.inn.epoch) = (0, 0);
        let twin = entry.twin;
        let quota = self.quotas.of_peer(new.cause);
        // Its own room is free, so that at most the share can be full.
        if self.quotas.count(quota) >= self.most_per_peer
            && let Some(oldest) = self.quotas.oldest(quota, &self.entries, [twin, keep.unwrap_or(NONE)])
        {
            self.evict(oldest);
        }
        self.quotas.link(quota, &mut self.entries, at);
        self.records.write(at, &self.entries[at as usize]);
    }

    /// Makes room for one flow.
    fn make_room(&mut self, quota: u32, keep: [u32; 2]) {
        let count = self.quotas.count(quota);
        let loser = if count >= self.most_per_peer {
            quota
        } else if self.len < self.most {
            return;
        } else if let Some(departed) = self.quotas.departed().next() {
            departed
        } else if count * self.quotas.users > self.most {
            quota
        } else {
            self.quotas.largest().unwrap_or(quota)
        };
        let oldest = |loser| self.quotas.oldest(loser, &self.entries, keep);
        // All that a loser has may have to stay.
        let others = || self.quotas.departed().chain(self.quotas.largest()).find_map(oldest);
        if let Some(oldest) = oldest(loser).or_else(|| (self.len >= self.most).then(others).flatten()) {
            self.evict(oldest);
        }
    }

    /// Forgets a flow before its time, for another one.
    fn evict(&mut self, at: u32) {
        self.evicted += 1;
        self.remove(at);
    }

    fn take_entry(&mut self, entry: Entry) -> u32 {
        self.len += 1;
        let at = self.free;
        if at == NONE {
            // There is room: the memory for all was reserved.
            self.entries.push(entry);
            return self.entries() - 1;
        }
        self.free = std::mem::replace(&mut self.entries[at as usize], entry).later;
        at
    }

    /// Forgets a flow.
    pub(crate) fn remove(&mut self, at: u32) {
        self.leave_kernel(at);
        self.records.clear(at);
        let entry = &self.entries[at as usize];
        self.index.remove(&entry.key, at);
        let twin = entry.twin;
        if twin != NONE {
            self.entries[twin as usize].twin = NONE;
        }
        self.quotas.unlink(&mut self.entries, at);
        let entry = &mut self.entries[at as usize];
        // What passes in the kernel until the verdicts are withdrawn is no flow's any more.
        Direction::BOTH.into_iter().for_each(|direction| entry.set_kernel(direction, KernelState::None));
        (entry.twin, entry.later) = (NONE, self.free);
        self.free = at;
        self.len -= 1;
    }

    /// A flow is no longer the one that the kernel knows.
    fn leave_kernel(&mut self, at: u32) {
        let entry = &self.entries[at as usize];
        if entry.is_in_kernel() {
            // Packets from a peer to another one pass by the sender's verdict.
            self.gone.extend([at, entry.twin].into_iter().filter(|at| *at != NONE));
        }
    }

    /// Returns the numbers of flows of which the verdicts that the kernel has are to be withdrawn.
    pub(crate) fn take_gone(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.gone)
    }

    /// Returns true if [`Self::take_gone`] has some.
    #[inline]
    pub(crate) const fn has_gone(&self) -> bool {
        !self.gone.is_empty()
    }

    /// Counts packets of a flow that have passed in the kernel, the last one so many seconds ago.
    pub(crate) fn add_usage(&mut self, at: u32, direction: Direction, packets: u64, bytes: u64, idle: u32) {
        let last_seen = self.now.saturating_sub(idle);
        let entry = &mut self.entries[at as usize];
        entry.add(direction, packets, bytes);
        if entry.last_seen < last_seen {
            entry.last_seen = last_seen;
            self.quotas.touch(&mut self.entries, at);
            self.records.write_state(at, &self.entries[at as usize]);
        }
        self.records.write_counts(at, &self.entries[at as usize]);
    }

    /// Makes two flows each other's twins: they have the same packets, seen from both ends.
    pub(crate) fn pair(&mut self, one: u32, other: u32) {
        for (at, twin) in [(one, other), (other, one)] {
            let before = std::mem::replace(&mut self.entries[at as usize].twin, twin);
            if before != NONE && before != twin {
                self.leave_kernel(before);
                self.gone.extend(self.entries[at as usize].is_in_kernel().then_some(at));
                self.entries[before as usize].twin = NONE;
            }
        }
    }

    /// Returns the number of a flow's twin, unless that is over: the two need not end at the same time.
    pub(crate) fn twin(&self, at: u32) -> Option<u32> {
        Some(self.entries[at as usize].twin)
            .filter(|twin| *twin != NONE && !self.entries[*twin as usize].is_over(self.now))
    }

    /// A peer has left. Its flows wait for one that is the same, and are the first to go if there is no room.
    pub(crate) fn leave(&mut self, peer: PeerId) {
        self.quotas.leave(peer);
    }

    /// Counts a packet of a flow, and notes that it has passed, if it has.
    #[inline]
    pub(crate) fn record(
        &mut self,
        at: u32,
        direction: Direction,
        packet: &Packet<'_>,
        flags: Option<TcpFlags>,
        passes: bool,
    ) {
        let entry = &mut self.entries[at as usize];
        entry.count(direction, packet.total_len());
        let has_changed = passes && entry.pass(direction, flags);
        if has_changed || entry.last_seen != self.now || entry.begins_use() {
            entry.last_seen = self.now;
            self.quotas.touch(&mut self.entries, at);
            self.records.write_state(at, &self.entries[at as usize]);
        }
        self.records.write_counts(at, &self.entries[at as usize]);
    }

    /// Counts an ICMP error about a packet of a flow. It doesn't keep the flow alive.
    pub(crate) fn record_error(&mut self, at: u32, direction: Direction, packet: &Packet<'_>) {
        self.entries[at as usize].count(direction, packet.total_len());
        self.records.write_counts(at, &self.entries[at as usize]);
    }

    /// Sets the present second. Once in a second, some flows that are over are forgotten.
    pub(crate) fn advance(&mut self, now: u32) {
        self.now = self.now.max(now);
    }

    /// Forgets some flows that are over, once in a second.
    pub(crate) fn tidy(&mut self) {
        if self.swept != self.now {
            self.swept = self.now;
            self.sweep(SWEPT_PER_SECOND);
        }
    }

    fn sweep(&mut self, count: usize) {
        for _ in 0..count.min(self.entries.len()) {
            self.hand = if self.hand + 1 < self.entries.len() { self.hand + 1 } else { 0 };
            let entry = &self.entries[self.hand];
            if entry.quota != NONE
                && entry.is_over(self.now)
                && let Ok(at) = u32::try_from(self.hand)
            {
                self.remove(at);
            }
        }
    }

    /// Takes over the flows that the router before this one had. They wait for the peers that they belong to.
    fn restore(&mut self) {
        let used = self.records.used().min(self.most);
        let mut found = Vec::new();
        for number in 0..u32::try_from(used).unwrap_or(NONE) {
            let known = self.records.read(number, self.now).filter(|entry| {
                !entry.is_over(self.now)
                    && self.index.find(&entry.key, |at| self.entries[at as usize].key == entry.key).is_none()
            });
            let Some(entry) = known else {
                self.records.clear(number);
                let vacant =
                    FlowKey { local: [0; 2], remote: [0; 2], local_port: 0, remote_port: 0, protocol: 0, is_v4: true };
                let nobody = PeerId { index: 0, generation: 0 };
                let mut vacant = Entry::new(vacant, nobody, Owner::User(0), 0);
                vacant.later = std::mem::replace(&mut self.free, number);
                self.entries.push(vacant);
                continue;
            };
            found.push((entry.last_seen, number));
            self.index.insert(&entry.key, number);
            self.entries.push(entry);
        }
        self.len = found.len();
        if found.is_empty() {
            return;
        }
        found.sort_unstable();
        let quota = self.quotas.of_nobody();
        for (_, number) in found {
            self.entries[number as usize].is_in_use = self.entries[number as usize].deserves_use();
            self.quotas.link(quota, &mut self.entries, number);
        }
    }
}

#[cfg(test)]
mod tests;
