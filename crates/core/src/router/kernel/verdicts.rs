//! The verdicts that the kernel has.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use crate::kernel_path::{FlowId, KernelFlow, Usage};
use crate::policy::counters::CounterSlot;
use crate::policy::flows::Slots;
use crate::policy::registry::PeerId;

/// A verdict, and what follows from its packets.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    pub flow: KernelFlow,
    /// The flow of the same packets, seen from their receiver, if that is a peer, too.
    pub twin: Option<u32>,
    /// The counters of the rules that its packets match.
    slots: Slots<6>,
    /// What was counted already.
    counted: Usage,
    /// True if it was revoked.
    pub is_void: bool,
}

impl Verdict {
    pub fn new(flow: KernelFlow, twin: Option<u32>, slots: Slots<6>) -> Self {
        Self { flow, twin, slots, counted: Usage::default(), is_void: false }
    }

    /// Returns the counters of the rules.
    pub fn slots(&self) -> impl Iterator<Item = CounterSlot> {
        self.slots.iter()
    }

    /// Returns the packets and bytes that were not counted yet, once.
    pub fn news(&mut self, usage: Usage) -> (u64, u64) {
        let before = std::mem::replace(&mut self.counted, usage);
        (usage.packets.saturating_sub(before.packets), usage.bytes.saturating_sub(before.bytes))
    }

    fn peers(&self) -> impl Iterator<Item = PeerId> {
        [self.flow.from, self.flow.to].into_iter().flatten()
    }
}

/// All verdicts that the kernel was given and that were not withdrawn.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    all: BTreeMap<FlowId, Verdict>,
    /// Those that hold, by peer, and those of packets from a peer by their destination.
    by_peer: BTreeSet<(PeerId, FlowId)>,
    by_destination: BTreeSet<(IpAddr, FlowId)>,
    /// Those that were revoked, and are to be withdrawn.
    void: VecDeque<FlowId>,
}

const FIRST: FlowId = FlowId { slot: 0, is_inward: false };
const LAST: FlowId = FlowId { slot: u32::MAX, is_inward: true };

impl Verdicts {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns true if one holds.
    pub fn has_live(&self) -> bool {
        !self.by_peer.is_empty()
    }

    pub fn get(&self, id: FlowId) -> Option<&Verdict> {
        self.all.get(&id)
    }

    pub fn get_mut(&mut self, id: FlowId) -> Option<&mut Verdict> {
        self.all.get_mut(&id)
    }

    pub fn insert(&mut self, verdict: Verdict) {
        let id = verdict.flow.id;
        self.by_peer.extend(verdict.peers().map(|peer| (peer, id)));
        if verdict.flow.from.is_some() {
            self.by_destination.insert((verdict.flow.key.dst, id));
        }
        self.all.insert(id, verdict);
    }

    pub fn remove(&mut self, id: FlowId) -> Option<Verdict> {
        let verdict = self.all.remove(&id)?;
        self.forget(&verdict);
        Some(verdict)
    }

    fn forget(&mut self, verdict: &Verdict) {
        for peer in verdict.peers() {
            self.by_peer.remove(&(peer, verdict.flow.id));
        }
        self.by_destination.remove(&(verdict.flow.key.dst, verdict.flow.id));
    }

    /// Revokes one. Returns the flows that it is for, the sender's first.
    pub fn revoke(&mut self, id: FlowId) -> Option<(FlowId, Option<u32>)> {
        let verdict = self.all.get_mut(&id).filter(|verdict| !verdict.is_void)?;
        verdict.is_void = true;
        let verdict = verdict.clone();
        self.forget(&verdict);
        self.void.push_back(id);
        Some((id, verdict.twin))
    }

    /// Returns all that hold.
    pub fn live(&self) -> Vec<FlowId> {
        self.all.values().filter(|verdict| !verdict.is_void).map(|verdict| verdict.flow.id).collect()
    }

    /// Returns all, void or not.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Verdict> {
        self.all.values_mut()
    }

    /// Returns those that hold and name a peer.
    pub fn of_peer(&self, peer: PeerId) -> Vec<FlowId> {
        self.by_peer.range((peer, FIRST)..=(peer, LAST)).map(|(_, id)| *id).collect()
    }

    /// Returns those that hold, for packets from a peer to an address.
    pub fn to_address(&self, address: IpAddr) -> Vec<FlowId> {
        self.by_destination.range((address, FIRST)..=(address, LAST)).map(|(_, id)| *id).collect()
    }

    /// Returns one that was revoked and not withdrawn.
    pub fn next_void(&mut self) -> Option<FlowId> {
        while let Some(id) = self.void.pop_front() {
            // It may have been withdrawn, and given again, meanwhile.
            if self.all.get(&id).is_some_and(|verdict| verdict.is_void) {
                return Some(id);
            }
        }
        None
    }

    /// Returns true if some may have been revoked and not withdrawn.
    pub fn has_void(&self) -> bool {
        !self.void.is_empty()
    }

    /// Returns the next ones behind `after`, beginning anew at the end.
    pub fn next(&self, after: FlowId, count: usize) -> Vec<FlowId> {
        let behind = self.all.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded));
        let before = self.all.range(..=after);
        behind.chain(before).take(count).map(|(id, _)| *id).collect()
    }
}
