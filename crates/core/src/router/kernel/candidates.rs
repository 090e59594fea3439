//! Flows that may be given to the kernel once nothing waits any more that came before: their packets must not overtake each other.

use std::time::{Duration, Instant};

use super::verdicts::Verdict;
use crate::kernel_path::{FlowId, KernelFlow, KernelKey, MAX_VERDICTS, WhyNot};
use crate::policy::flows::{KernelState, Phase, Slots, Way};
use crate::policy::registry::PeerId;
use crate::policy::verdict::{Class, Lane};
use crate::router::Router;
use crate::router::shell::Shell;
use tuntap_wire::rule::Direction;

/// Most candidates. Further flows become candidates with later packets.
const MOST: usize = 1024;

/// A candidate waits so long for the queue that its packets come by to become empty. A queue that never does is one that overflows:
/// then packets are lost in any case, and the kernel is what helps.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// After the kernel has refused a verdict, it isn't asked again for so long.
const PAUSE: Duration = Duration::from_secs(1);

/// A flow that waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    id: FlowId,
    from: Option<PeerId>,
    to: Option<PeerId>,
    /// The queue of the router's device that its packets come by, if no peer sends them.
    queue: u8,
    since: Instant,
}

impl Candidate {
    pub fn is_of(&self, peer: PeerId) -> bool {
        self.from == Some(peer) || self.to == Some(peer)
    }

    /// Returns until when it waits at the latest.
    pub fn latest(&self) -> Instant {
        self.since + LONGEST_WAIT
    }
}

impl Router {
    /// A packet of a flow has taken the router's way. From now on, the next ones may pass in the kernel.
    #[inline]
    pub(in crate::router) fn note_passed(
        &mut self,
        shell: &mut impl Shell,
        lane: Lane,
        direction: Direction,
        from: Option<PeerId>,
        to: Option<PeerId>,
    ) {
        if self.kernel.is_on() && lane.flow != Lane::NO_FLOW {
            self.consider(shell, lane.flow, direction, from, to);
        }
    }

    #[inline(never)]
    fn consider(
        &mut self,
        shell: &mut impl Shell,
        slot: u32,
        direction: Direction,
        from: Option<PeerId>,
        to: Option<PeerId>,
    ) {
        let id = FlowId::new(slot, direction);
        let entry = self.forwarder.flows.get(slot);
        match entry.kernel(direction) {
            KernelState::Waits => return,
            KernelState::Passes if entry.phase() == Phase::Closed => return self.withdraw_closed(shell, slot),
            // It was on its way already, or the kernel passes no such packets on.
            KernelState::Passes => return,
            KernelState::Void => self.withdraw(shell, id),
            KernelState::None => {}
        }
        let is_paused = self.kernel.refused_until.is_some_and(|until| self.now < until);
        if is_paused || self.kernel.candidates.len() >= MOST || self.verdict_for(slot, direction, from, to).is_err() {
            return;
        }
        // Both are asked for, if both are missing.
        let pairs = [from, to].map(|peer| peer.is_none_or(|peer| self.want_pair(shell, peer)));
        if pairs == [true; 2] {
            self.forwarder.flows.get_mut(slot).set_kernel(direction, KernelState::Waits);
            let queue = self.tun_queues.current();
            self.kernel.candidates.push(Candidate { id, from, to, queue, since: self.now });
        }
    }

    /// A connection is closed: the kernel has no more use for its verdicts.
    fn withdraw_closed(&mut self, shell: &mut impl Shell, slot: u32) {
        let twin = self.forwarder.flows.twin(slot);
        [Some(slot), twin].into_iter().flatten().for_each(|slot| self.withdraw_flow(shell, slot));
    }

    /// Returns where the packets in a direction of a flow come from and go to, if they pass: peers, or the router's device.
    pub(super) fn ends_of(&self, slot: u32, direction: Direction) -> (Option<PeerId>, Option<PeerId>) {
        let entry = self.forwarder.flows.get(slot);
        match (direction, entry.out.way) {
            (Direction::Out, Way::Peer(to)) => (Some(entry.peer), Some(to)),
            (Direction::Out, _) => (Some(entry.peer), None),
            (Direction::In, _) => (None, Some(entry.peer)),
        }
    }

    /// Returns how the kernel recognises the packets in a direction of a flow if they may pass there, apart from pairs; else why they
    /// may not.
    pub(super) fn verdict_for(
        &mut self,
        slot: u32,
        direction: Direction,
        from: Option<PeerId>,
        to: Option<PeerId>,
    ) -> Result<KernelKey, WhyNot> {
        let key = self.forwarder.kernel_key(slot, direction)?;
        let is_inside = from.is_some() && to.is_some();
        let class = self.forwarder.flows.get(slot).class(direction);
        let of_receiver = self.forwarder.flows.twin(slot).filter(|_| is_inside).map_or(class, |twin| {
            let class = self.forwarder.flows.get(twin).class(Direction::In);
            if self.forwarder.policy.shapes.is_empty() { Class::OWN } else { class }
        });
        for (peer, direction, class) in [(from, Direction::Out, class), (to, Direction::In, of_receiver)] {
            let Some(peer) = peer else { continue };
            if self.is_limited(peer, direction, class, is_inside) {
                return Err(WhyNot::Limited);
            }
            if !self.is_attached(peer) {
                return Err(WhyNot::Frames);
            }
            if self.is_costly(peer) {
                return Err(WhyNot::Costly);
            }
            if self.may_be_captured(Some(peer), [key.src, key.dst], key.protocol, key.ports()) {
                return Err(WhyNot::Captured);
            }
        }
        if to.is_some_and(|to| self.backlog.has(to)) {
            return Err(WhyNot::Backlog);
        }
        if self.kernel.verdicts.len() >= MAX_VERDICTS || [from, to].into_iter().flatten().any(|it| self.has_most(it)) {
            return Err(WhyNot::Full);
        }
        Ok(key)
    }

    /// Drops candidates.
    pub(super) fn drop_candidates(&mut self, is_it: impl Fn(&Candidate) -> bool) {
        for candidate in self.kernel.candidates.extract_if(.., |candidate| is_it(candidate)) {
            forget(&mut self.forwarder.flows, candidate.id);
        }
    }

    /// A peer's device has nothing more to read: what comes next may pass in the kernel.
    pub fn device_emptied(&mut self, shell: &mut impl Shell, id: PeerId) {
        self.give_verdicts(shell, |candidate| candidate.from == Some(id));
    }

    /// The same for a queue of the router's device.
    pub(in crate::router) fn give_verdicts_of_queue(&mut self, shell: &mut impl Shell) {
        let current = self.tun_queues.current();
        self.give_verdicts(shell, |candidate| candidate.from.is_none() && candidate.queue == current);
    }

    /// Gives verdicts to those that have waited for long.
    pub(super) fn give_late_verdicts(&mut self, shell: &mut impl Shell) {
        let now = self.now;
        self.give_verdicts(shell, |candidate| candidate.latest() <= now);
    }

    fn give_verdicts(&mut self, shell: &mut impl Shell, is_due: impl Fn(&Candidate) -> bool) {
        if self.kernel.candidates.is_empty() {
            return;
        }
        self.follow_changes(shell);
        let due: Vec<_> = self.kernel.candidates.extract_if(.., |candidate| is_due(candidate)).collect();
        for candidate in due {
            if forget(&mut self.forwarder.flows, candidate.id) {
                self.give_verdict(shell, candidate);
            }
        }
    }

    fn give_verdict(&mut self, shell: &mut impl Shell, Candidate { id, from, to, .. }: Candidate) {
        let direction = id.direction();
        if self.ends_of(id.slot, direction) != (from, to)
            || [from, to].into_iter().flatten().any(|peer| self.has_pair(peer).is_err())
        {
            return;
        }
        let Ok(key) = self.verdict_for(id.slot, direction, from, to) else { return };
        let is_inside = from.is_some() && to.is_some();
        let twin = self.forwarder.flows.twin(id.slot).filter(|_| is_inside);
        if is_inside && twin.is_none_or(|twin| Some(self.forwarder.flows.get(twin).peer) != to) {
            return;
        }
        self.withdraw(shell, id);
        let flow = KernelFlow { id, generation: self.kernel.generation, key, from, to };
        if !shell.offload(&flow) {
            self.kernel.counts.refused += 1;
            self.kernel.refused_until = Some(self.now + PAUSE);
            return;
        }
        self.kernel.counts.given += 1;
        let entry = self.forwarder.flows.get_mut(id.slot);
        let mut slots = Slots::default();
        match direction {
            Direction::Out => slots = entry.out.slots,
            Direction::In => entry.inn.slots.iter().for_each(|slot| slots.push(slot)),
        }
        entry.set_kernel(direction, KernelState::Passes);
        if let Some(twin) = twin {
            self.forwarder.flows.get_mut(twin).set_kernel(Direction::In, KernelState::Passes);
        }
        self.note_verdict(&flow, |count| count + 1);
        self.kernel.verdicts.insert(Verdict::new(flow, twin, slots));
        self.plan_sweep();
    }
}

/// A flow doesn't wait any more. Returns false if it didn't.
fn forget(flows: &mut crate::policy::flows::FlowTable, id: FlowId) -> bool {
    let entry = flows.get_mut(id.slot);
    let did_wait = entry.kernel(id.direction()) == KernelState::Waits;
    if did_wait {
        entry.set_kernel(id.direction(), KernelState::None);
    }
    did_wait
}
