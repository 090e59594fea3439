//! The metrics of a router, for Prometheus: the numbers of the one [`Snapshot`] that the statistics are made of, as text.
//!
//! Time series are named by few labels, of which none has a value that a vassal can choose: `device`; `peer`, the user of the
//! vassals, by name if the options name that user; `direction`, as in rules: `out` is from a vassal; `reason`; `rule`, its
//! number; and `trunk`, the neighbour's id. Process numbers, ports and addresses are in none, so that a vassal that comes again
//! goes on with its series.

mod exposition;
mod families;
mod format;
mod hosts;
mod peers;

use std::collections::HashMap;

use super::{DropCounts, Snapshot};
use exposition::Exposition;
pub use format::Format;

/// What the metrics are made of.
#[derive(Debug)]
pub struct Metrics<'a> {
    /// The statistics.
    pub snapshot: &'a Snapshot,
    /// What vassals that have left had sent and got, by user. Without it the counters of a user would go back when one leaves.
    pub departed: Vec<Departed>,
    /// The names of users that the options name, by uid.
    pub users: &'a HashMap<u32, String>,
    /// The most users whose vassals have metrics of their own.
    pub max_users: usize,
    /// What rules have decided about, in the order of their numbers.
    pub rules: Vec<RuleTotals>,
}

/// What the vassals of a user that have left had sent and got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Departed {
    /// The user.
    pub uid: u32,
    /// Bytes towards them.
    pub tx: u64,
    /// Bytes from them.
    pub rx: u64,
    /// Packets towards them.
    pub tx_packets: u64,
    /// Packets from them.
    pub rx_packets: u64,
    /// Packets from or to them that went nowhere, by reason.
    pub drops: DropCounts,
}

/// What a rule has decided about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleTotals {
    /// Its number.
    pub id: u32,
    /// Packets.
    pub packets: u64,
    /// Bytes of the IP packets.
    pub bytes: u64,
}

/// The most rules with metrics of their own. Rules beyond are those with higher numbers, which were added last.
pub const MAX_RULES: usize = 2000;

impl Metrics<'_> {
    /// Writes all metrics.
    pub fn render(&self, format: Format) -> String {
        let mut out = Exposition::new(format, &self.snapshot.device);
        families::write(&mut out, self.snapshot);
        hosts::write(&mut out, self.snapshot);
        self.write_rules(&mut out);
        peers::write(&mut out, self);
        out.finish()
    }

    fn write_rules(&self, out: &mut Exposition) {
        let shown = &self.rules[..self.rules.len().min(MAX_RULES)];
        let labels: Vec<_> = shown.iter().map(|rule| rule.id.to_string()).collect();
        out.counter("rule_packets", "Packets that a rule has decided about.")
            .samples(shown.iter().zip(&labels).map(|(rule, id)| ([("rule", id.as_str())], rule.packets)));
        out.counter("rule_bytes", "Bytes of the IP packets that a rule has decided about.")
            .samples(shown.iter().zip(&labels).map(|(rule, id)| ([("rule", id.as_str())], rule.bytes)));
        out.gauge("rules_left_out", "Rules without metrics of their own, because there are too many.")
            .value((self.rules.len() - shown.len()) as u64);
    }
}

#[cfg(test)]
mod tests;
