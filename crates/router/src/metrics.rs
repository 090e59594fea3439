//! The metrics: what the statistics say, for Prometheus.

use std::collections::BTreeMap;
use std::time::Instant;

use super::event_loop::EventLoop;
use super::http::{PLAIN, Request, Status, response};
use super::stats::drop_counts;
use tuntap_api::metrics::{Departed, Format, Metrics, RuleTotals};
use tuntap_core::policy::counters::CounterSlot;
use tuntap_core::policy::pattern::RuleId;

/// Where the metrics are. What else is asked for isn't there.
const PATHS: [&str; 2] = ["/metrics", "/"];

impl EventLoop<'_> {
    /// Serves clients of the metrics: one that can be read or written, or new ones.
    pub(super) fn serve_metrics(&mut self, client: Option<u32>) {
        let Some(mut server) = self.metrics.take() else { return };
        self.serve(&mut server, client, |this, request, now| this.metrics_response(request.unwrap_or_default(), now));
        self.metrics = Some(server);
    }

    fn metrics_response(&self, request: &[u8], now: Instant) -> Vec<u8> {
        match Request::read(request) {
            Ok(request) if PATHS.contains(&request.path) => {
                let format = Format::accepted(&request.accept);
                response(Status::Ok, format.content_type(), &self.metrics_text(format, now), request.is_head)
            }
            Ok(request) => response(Status::NotFound, PLAIN, "The metrics are at /metrics.\n", request.is_head),
            Err(status) => response(status, PLAIN, "The metrics are at /metrics.\n", false),
        }
    }

    fn metrics_text(&self, format: Format, now: Instant) -> String {
        let setup = self.io.setup;
        let max_users = setup.spec.metrics.max_users();
        let departed = self.router.counters().departed.iter().map(|(uid, traffic)| Departed {
            uid,
            tx: traffic.tx_bytes,
            rx: traffic.rx_bytes,
            tx_packets: traffic.tx_packets,
            rx_packets: traffic.rx_packets,
            drops: drop_counts(&traffic.drops),
        });
        let metrics = Metrics {
            snapshot: &self.snapshot(now),
            departed: departed.filter(|_| max_users > 0).collect(),
            users: &setup.users,
            max_users,
            rules: self.rule_totals(),
        };
        metrics.render(format)
    }

    /// What the rules of the policy in use have decided about, in the order of their numbers.
    fn rule_totals(&self) -> Vec<RuleTotals> {
        let forwarder = self.router.forwarder();
        let (policy, counters) = (forwarder.policy(), forwarder.counters());
        let chains = policy.firewall_in.slots().chain(policy.firewall_out.slots()).chain(policy.routes.slots());
        let slots: BTreeMap<RuleId, CounterSlot> = chains.filter(|(id, _)| *id != RuleId::IMPLIED).collect();
        let totals = slots.into_iter().map(|(RuleId(id), slot)| {
            let counted = counters.get(slot);
            RuleTotals { id, packets: counted.packets, bytes: counted.bytes }
        });
        totals.collect()
    }
}
