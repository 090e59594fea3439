//! What has passed in the kernel: it is asked for by and by, and counted as if the router had passed it on.

use std::ops::Range;
use std::time::Duration;

use super::verdicts::Verdict;
use crate::kernel_path::{FlowId, Usage};
use crate::policy::flows::KernelState;
use crate::router::Router;
use crate::router::shell::Shell;
use tuntap_wire::frame::HEADER_LEN;
use tuntap_wire::rule::Direction;

/// Each verdict is looked at once in this time, or after [`LONGEST_PAUSE`] if there are few.
const PERIOD: Duration = Duration::from_secs(8);

/// Verdicts that are looked at in one turn, and the longest and shortest time between two of these turns.
const SWEPT_PER_TURN: usize = 256;
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// Verdicts that are looked at when somebody wants to know the counters.
const ASKED: usize = 4096;

/// A flow of which nothing has passed for so long goes back to the router.
const IDLE: Duration = Duration::from_secs(10);

/// Of flows towards peers with so many packets since the last look, one in `SAMPLED` is a sample: its next packet takes the router's
/// way, where its cost is measured.
const BUSY_PACKETS: u64 = 64;
const SAMPLED: u64 = 4;

impl Router {
    /// Counts what has passed by a verdict since it was asked for the last time. Returns the number of packets.
    pub(super) fn count_usage(&mut self, verdict: &mut Verdict, usage: Usage) -> u64 {
        let (packets, bytes) = verdict.news(usage);
        if packets == 0 {
            return 0;
        }
        verdict.slots().for_each(|slot| self.forwarder.counters().add(slot, packets, bytes));
        let id = verdict.flow.id;
        let idle = u32::try_from(usage.idle.as_secs()).unwrap_or(u32::MAX);
        let sides = [Some((id.slot, id.direction())), verdict.twin.map(|twin| (twin, Direction::In))];
        for (slot, direction) in sides.into_iter().flatten() {
            // The place may be another flow's by now.
            if matches!(self.forwarder.flows.get(slot).kernel(direction), KernelState::Passes | KernelState::Void) {
                self.forwarder.flows.add_usage(slot, direction, packets, bytes, idle);
            }
        }
        let framed = bytes.wrapping_add(packets.wrapping_mul(HEADER_LEN as u64));
        if let Some(peer) = verdict.flow.from.and_then(|id| self.forwarder.peers.get_mut(id)) {
            let traffic = &mut peer.session.traffic;
            (traffic.rx_packets, traffic.rx_bytes) = (traffic.rx_packets + packets, traffic.rx_bytes + framed);
        }
        if let Some(peer) = verdict.flow.to.and_then(|id| self.forwarder.peers.get_mut(id)) {
            let traffic = &mut peer.session.traffic;
            (traffic.tx_packets, traffic.tx_bytes) = (traffic.tx_packets + packets, traffic.tx_bytes + framed);
        }
        self.kernel.counts.packets += packets;
        self.kernel.counts.bytes += bytes;
        packets
    }

    /// Asks the kernel what has passed by a verdict, and counts it. Returns the number of packets, and the time since the last one;
    /// `None` if the verdict is not there any more.
    fn ask_usage(&mut self, shell: &mut impl Shell, id: FlowId) -> Option<(u64, Duration)> {
        self.kernel.verdicts.get(id)?;
        let Some(usage) = shell.kernel_usage(id) else {
            self.withdraw(shell, id);
            return None;
        };
        let mut verdict = self.kernel.verdicts.get(id)?.clone();
        let packets = self.count_usage(&mut verdict, usage);
        *self.kernel.verdicts.get_mut(id)? = verdict;
        Some((packets, usage.idle))
    }

    /// Looks at some verdicts, when their time has come: counts what has passed, and takes back those that nobody uses.
    pub(super) fn sweep_verdicts(&mut self, shell: &mut impl Shell) {
        if self.kernel.next_sweep.is_none_or(|next| self.now < next) {
            return;
        }
        for id in self.kernel.verdicts.next(self.kernel.cursor, SWEPT_PER_TURN) {
            self.kernel.cursor = id;
            let Some((packets, idle)) = self.ask_usage(shell, id) else { continue };
            let Some(verdict) = self.kernel.verdicts.get(id) else { continue };
            let to = verdict.flow.to;
            if idle >= IDLE || packets >= BUSY_PACKETS && to.is_some() && self.throw_dice().is_multiple_of(SAMPLED) {
                self.withdraw(shell, id);
            }
            if let Some(from) = self.kernel.verdicts.get(id).and_then(|verdict| verdict.flow.from) {
                self.count_pair_drops(shell, from);
            }
        }
        self.kernel.next_sweep = None;
        self.plan_sweep();
    }

    /// Sets when verdicts are looked at next, if there are some.
    pub(super) fn plan_sweep(&mut self) {
        if self.kernel.next_sweep.is_none() && !self.kernel.verdicts.is_empty() {
            let turns = u32::try_from(self.kernel.verdicts.len().div_ceil(SWEPT_PER_TURN)).unwrap_or(u32::MAX);
            let pause = (PERIOD / turns).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
            self.kernel.next_sweep = Some(self.now + pause);
        }
    }

    /// A number that nobody can guess who doesn't know the seed (SplitMix64).
    const fn throw_dice(&mut self) -> u64 {
        self.kernel.dice = self.kernel.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.kernel.dice ^ self.kernel.dice >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Counts what has passed in the kernel, for somebody who wants to know the counters of rules and peers. If there are very many
    /// verdicts, the counters of some are a few seconds old.
    pub fn count_kernel_usage(&mut self, shell: &mut impl Shell) {
        for id in self.kernel.verdicts.next(self.kernel.cursor, ASKED) {
            self.ask_usage(shell, id);
        }
        let ids: Vec<_> =
            self.forwarder.peers.iter().filter(|peer| peer.session.path.is_some()).map(|it| it.id).collect();
        ids.into_iter().for_each(|id| self.count_pair_drops(shell, id));
    }

    /// The same for some flows, by their numbers.
    pub fn count_usage_of_flows(&mut self, shell: &mut impl Shell, numbers: Range<u32>) {
        for number in numbers.start..numbers.end.min(self.flow_numbers()) {
            if !self.forwarder.flows.get(number).is_in_kernel() {
                continue;
            }
            let twin = self.forwarder.flows.twin(number).map(|twin| FlowId::new(twin, Direction::Out));
            let own = Direction::BOTH.map(|direction| Some(FlowId::new(number, direction)));
            own.into_iter().chain([twin]).flatten().for_each(|id| _ = self.ask_usage(shell, id));
        }
    }

    /// Counts all that has passed by verdicts that are about to lose the counters of their rules. The loop waits for this, so that it is one
    /// pass over them.
    pub(in crate::router) fn count_all_usage(&mut self, shell: &mut impl Shell) {
        let mut verdicts = std::mem::take(&mut self.kernel.verdicts);
        for verdict in verdicts.iter_mut() {
            // If the kernel has lost it, the next look at it shows that.
            if let Some(usage) = shell.kernel_usage(verdict.flow.id) {
                self.count_usage(verdict, usage);
            }
        }
        self.kernel.verdicts = verdicts;
    }
}
