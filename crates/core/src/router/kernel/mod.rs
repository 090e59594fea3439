//! The path in the kernel, as the router sees it: which flows take it, from when on, and until when. See
//! [`kernel_path`](crate::kernel_path).
//!
//! A flow that passes plainly is a candidate from its eighth packet on ([`candidates`]). Its peers need pairs ([`pairs`]), and a
//! verdict is given when nothing waits any more that came before. What has passed in the kernel is asked for by and by, and counted
//! ([`usage`]). Whatever a verdict depends on revokes it, here.

mod candidates;
mod pairs;
mod usage;
mod verdicts;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Instant;

use super::Router;
use super::shell::Shell;
use crate::kernel_path::{FlowId, Revoke, WhyNot};
use crate::policy::flows::KernelState;
use crate::policy::registry::PeerId;
use candidates::Candidate;
use pairs::Askers;
pub use pairs::PeerPath;
pub(super) use pairs::Suspicion;
use tuntap_wire::rule::Direction;
use verdicts::Verdicts;

/// Verdicts that were revoked and are withdrawn in one turn.
const WITHDRAWN_PER_TURN: usize = 256;

/// What has happened on the path in the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathCounts {
    /// Verdicts that the kernel has or had.
    pub given: u64,
    /// Verdicts that it didn't take.
    pub refused: u64,
    /// Verdicts that were revoked before their flows were idle.
    pub revoked: u64,
    /// Packets that have passed.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Times that a peer's packets took the router's way for a while because some towards it had taken long.
    pub watched: u64,
}

/// What the router knows of the path in the kernel.
#[derive(Debug)]
pub(super) struct KernelPath {
    /// True if there is one.
    is_there: bool,
    generation: u32,
    /// True if verdicts of this generation were withdrawn that weren't void. By these, some packets may still pass.
    has_withdrawn: bool,
    verdicts: Verdicts,
    candidates: Vec<Candidate>,
    /// Until when the kernel isn't asked again after it has refused a verdict.
    refused_until: Option<Instant>,
    /// When verdicts are looked at again, and the last one that was.
    next_sweep: Option<Instant>,
    cursor: FlowId,
    /// What decides which flows are sampled. It is as hard to guess as its start.
    dice: u64,
    counts: PathCounts,
    askers: Askers,
}

impl KernelPath {
    pub fn new(seed: u64) -> Self {
        Self {
            is_there: false,
            generation: 1,
            has_withdrawn: false,
            verdicts: Verdicts::default(),
            candidates: Vec::new(),
            refused_until: None,
            next_sweep: None,
            cursor: FlowId { slot: 0, is_inward: false },
            dice: seed,
            counts: PathCounts::default(),
            askers: Askers::default(),
        }
    }

    /// Returns true if flows may be given to the kernel.
    #[inline]
    const fn is_on(&self) -> bool {
        self.is_there
    }

    /// Returns true if verdicts wait to be withdrawn.
    pub fn has_void(&self) -> bool {
        self.verdicts.has_void()
    }
}

impl Router {
    /// Says whether there is a path in the kernel. At the start there is none. When it goes, all verdicts are void and all pairs are
    /// dropped.
    pub fn set_kernel_path(&mut self, shell: &mut impl Shell, is_there: bool) {
        if self.kernel.is_there == is_there {
            return;
        }
        self.follow_changes(shell);
        if !is_there {
            self.revoke_all(shell);
            while let Some(id) = self.kernel.verdicts.next_void() {
                self.withdraw(shell, id);
            }
            let ids: Vec<_> = self.forwarder.peers.iter().map(|peer| peer.id).collect();
            ids.into_iter().for_each(|id| self.leave_kernel_path(shell, id));
            self.kernel.next_sweep = None;
        }
        self.kernel.is_there = is_there;
        self.forwarder.changes.keep(is_there);
    }

    /// Returns what has happened on the path in the kernel, and how many verdicts the kernel has.
    pub fn path_counts(&self) -> (PathCounts, usize) {
        (self.kernel.counts, self.kernel.verdicts.len())
    }

    /// Returns true if there is a path in the kernel.
    pub const fn has_kernel_path(&self) -> bool {
        self.kernel.is_there
    }

    /// Returns why packets in a direction of a flow don't pass in the kernel; `Ok` if they do.
    pub fn path_of(&mut self, number: u32, direction: Direction) -> Result<(), WhyNot> {
        let Some(entry) = self.forwarder.flows.known(number) else { return Err(WhyNot::Undecided) };
        if entry.kernel(direction) == KernelState::Passes {
            return Ok(());
        }
        if !self.kernel.is_there {
            return Err(WhyNot::Off);
        }
        // Of packets between two peers, the sender's flow decides.
        let sender = self.forwarder.flows.twin(number).filter(|_| direction == Direction::In);
        let (number, direction) = sender.map_or((number, direction), |sender| (sender, Direction::Out));
        let (from, to) = self.ends_of(number, direction);
        self.verdict_for(number, direction, from, to)?;
        [from, to].into_iter().flatten().try_for_each(|peer| self.has_pair(peer))?;
        Err(WhyNot::NotGiven)
    }

    /// Follows what has changed, before anything else passes in the kernel.
    #[inline]
    pub(super) fn follow_changes(&mut self, shell: &mut impl Shell) {
        if !self.forwarder.changes.is_empty() || self.forwarder.flows.has_gone() {
            self.revoke_changed(shell);
        }
    }

    #[inline(never)]
    fn revoke_changed(&mut self, shell: &mut impl Shell) {
        for slot in self.forwarder.flows.take_gone() {
            self.end_flow(shell, slot);
        }
        let changes = self.forwarder.changes.take();
        // Without trunks, packets to peers of other routers go by the host, wherever these are.
        if changes.all || changes.is_any_elsewhere && self.trunks.is_some() {
            self.revoke_all(shell);
        }
        let has_limits = !self.forwarder.policy.shapes.is_empty();
        for (peer, address) in changes.claims {
            let is_held = self.forwarder.holder(address) == Some(peer);
            self.tell_claim(shell, peer, address, is_held);
            // Limits are for addresses, too.
            if has_limits {
                self.revoke_peer(shell, peer);
            }
            if is_held {
                self.withdraw_to(shell, address);
            }
        }
        for address in changes.elsewhere {
            self.withdraw_to(shell, address);
        }
        for peer in changes.peers {
            self.revoke_peer(shell, peer);
        }
    }

    /// Makes all verdicts void.
    pub(in crate::router) fn revoke_all(&mut self, shell: &mut impl Shell) {
        self.drop_candidates(|_| true);
        let has_withdrawn = std::mem::take(&mut self.kernel.has_withdrawn);
        if !has_withdrawn && !self.kernel.verdicts.has_live() {
            return;
        }
        self.kernel.generation = self.kernel.generation.wrapping_add(1).max(1);
        shell.revoke(Revoke::All { generation: self.kernel.generation });
        self.note_void(&self.kernel.verdicts.live());
    }

    /// Makes the verdicts void that name a peer.
    pub(super) fn revoke_peer(&mut self, shell: &mut impl Shell, peer: PeerId) {
        self.drop_candidates(|candidate| candidate.is_of(peer));
        let ids = self.kernel.verdicts.of_peer(peer);
        // With a pair, it may have one that was withdrawn a moment ago.
        if !ids.is_empty() || self.has_pair(peer).is_ok() {
            shell.revoke(Revoke::Peer(peer));
        }
        self.note_void(&ids);
    }

    /// Verdicts were revoked.
    fn note_void(&mut self, ids: &[FlowId]) {
        for id in ids {
            if let Some((id, twin)) = self.kernel.verdicts.revoke(*id) {
                self.kernel.counts.revoked += 1;
                self.change_state(id, twin, KernelState::Passes, KernelState::Void);
            }
        }
    }

    /// Changes what the flows of a verdict have to do with the kernel, unless they are others by now.
    fn change_state(&mut self, id: FlowId, twin: Option<u32>, from: KernelState, to: KernelState) {
        let sides = [Some((id.slot, id.direction())), twin.map(|twin| (twin, Direction::In))];
        for (slot, direction) in sides.into_iter().flatten() {
            let entry = self.forwarder.flows.get_mut(slot);
            if entry.kernel(direction) == from {
                entry.set_kernel(direction, to);
            }
        }
    }

    /// Withdraws the verdicts on a flow.
    fn withdraw_flow(&mut self, shell: &mut impl Shell, slot: u32) {
        Direction::BOTH.into_iter().for_each(|direction| self.withdraw(shell, FlowId::new(slot, direction)));
    }

    /// Withdraws the verdicts on a flow, and has not even those of its packets pass that are on their way. They may be none that the kernel
    /// at the peer has let pass: root there can name a verdict himself, until the host forgets it.
    pub(in crate::router) fn end_flow(&mut self, shell: &mut impl Shell, slot: u32) {
        for direction in Direction::BOTH {
            shell.revoke(Revoke::Flow(FlowId::new(slot, direction)));
        }
        self.withdraw_flow(shell, slot);
    }

    /// The same for packets from peers to an address.
    fn withdraw_to(&mut self, shell: &mut impl Shell, address: IpAddr) {
        for id in self.kernel.verdicts.to_address(address) {
            self.kernel.counts.revoked += 1;
            shell.revoke(Revoke::Flow(id));
            self.withdraw(shell, id);
        }
    }

    /// Takes back a verdict, void or not, if the kernel has it, and counts what has passed.
    fn withdraw(&mut self, shell: &mut impl Shell, id: FlowId) {
        let Some(mut verdict) = self.kernel.verdicts.remove(id) else { return };
        let usage = shell.withdraw(&verdict.flow);
        self.kernel.has_withdrawn |= !verdict.is_void;
        self.count_usage(&mut verdict, usage);
        for state in [KernelState::Passes, KernelState::Void] {
            self.change_state(id, verdict.twin, state, KernelState::None);
        }
        self.note_verdict(&verdict.flow, |count| count.saturating_sub(1));
    }

    /// Does what is due on the path in the kernel.
    pub(super) fn poll_kernel_path(&mut self, shell: &mut impl Shell) {
        self.follow_changes(shell);
        if !self.kernel.is_there {
            return;
        }
        for _ in 0..WITHDRAWN_PER_TURN {
            let Some(id) = self.kernel.verdicts.next_void() else { break };
            self.withdraw(shell, id);
        }
        self.give_late_verdicts(shell);
        self.sweep_verdicts(shell);
    }

    /// Returns when [`Self::poll_kernel_path`] has to be called, even if no event comes before.
    pub(super) fn next_of_kernel_path(&self) -> Option<Instant> {
        let late = self.kernel.candidates.first().map(Candidate::latest);
        [late, self.kernel.next_sweep].into_iter().flatten().min()
    }
}
