//! Flows, for those who list, explain or forget them.

use super::Router;
use super::shell::Shell;
use crate::policy::explain::{Explanation, Probe};
use crate::policy::flows::FlowView;
use crate::policy::script::Script;

impl Router {
    /// The number of flows that are known, and the number of those that may be.
    pub const fn flow_counts(&self) -> (usize, usize) {
        (self.forwarder.flows.len(), self.forwarder.flows.most())
    }

    /// The number of flows that had to make room for others before their time, since this router began.
    pub const fn evicted_flows(&self) -> u64 {
        self.forwarder.flows.evicted()
    }

    /// The numbers of all flows are below this one. So a long list can be made in parts, over several turns.
    pub fn flow_numbers(&self) -> u32 {
        self.forwarder.flows.entries()
    }

    /// Returns the flow of this number, if there is one.
    pub fn flow(&self, number: u32) -> Option<FlowView<'_>> {
        let entry = self.forwarder.flows.known(number)?;
        // A peer that is there holds the address, unless a newer claim on another host has taken it.
        let peer = Some(entry.peer).filter(|peer| self.forwarder.holder(entry.key.local()) == Some(*peer));
        Some(FlowView::new(entry, self.forwarder.flows.now, peer))
    }

    /// Returns all flows, with their numbers.
    pub fn flows(&self) -> impl Iterator<Item = (u32, FlowView<'_>)> {
        (0..self.flow_numbers()).filter_map(|number| Some((number, self.flow(number)?)))
    }

    /// Says what would happen to a packet, the whole way. Nothing is changed or counted. `script` is asked if the script would be.
    pub fn explain(&self, probe: &Probe<'_>, script: &mut impl Script) -> Explanation {
        self.forwarder.explain(probe, script)
    }

    /// Forgets those flows of these numbers that `is_wanted` returns true for. Their next packets are those of new flows. Returns
    /// how many were forgotten.
    pub fn kill_flows(
        &mut self,
        shell: &mut impl Shell,
        numbers: std::ops::Range<u32>,
        mut is_wanted: impl FnMut(&FlowView<'_>) -> bool,
    ) -> u64 {
        let mut killed = 0;
        for number in numbers.start..numbers.end.min(self.flow_numbers()) {
            if self.flow(number).is_some_and(|flow| is_wanted(&flow)) {
                let twin = self.forwarder.flows.twin(number);
                self.forwarder.flows.remove(number);
                // Verdicts may have been withdrawn a moment ago.
                if self.has_kernel_path() {
                    [Some(number), twin].into_iter().flatten().for_each(|number| self.end_flow(shell, number));
                }
                killed += 1;
            }
        }
        self.follow_changes(shell);
        killed
    }
}
