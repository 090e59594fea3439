//! Flows, as clients see them.

use std::time::Duration;

use tuntap_wire::rule::Direction;

use super::filter::{Filter, Subject};
use super::question::{FLOWS_PER_PAGE, FlowCounts, FlowPage};
use crate::event_loop::EventLoop;
use tuntap_api::control::FlowEntry;
use tuntap_core::policy::flows::{Fate, FlowView, SideView};
use tuntap_core::policy::pattern::RuleId;
use tuntap_core::policy::registry::PeerId;
use tuntap_core::policy::verdict::RuleRef;

impl EventLoop<'_> {
    pub(super) fn flow_counts(&self) -> FlowCounts {
        let (known, max) = self.router.flow_counts();
        FlowCounts { known: known as u64, max: max as u64 }
    }

    /// Returns those of some flows that a filter wants.
    pub(super) fn flow_page(&mut self, from: u32, filter: &Filter) -> FlowPage {
        let peers = self.peers_of(filter);
        let numbers = from..from.saturating_add(FLOWS_PER_PAGE);
        self.router.count_usage_of_flows(&mut self.io, numbers.clone());
        let is_wanted = |view: &FlowView<'_>| filter.matches_flow(&subject(view), is_among(view, peers.as_deref()));
        let views = numbers.clone().filter_map(|number| Some((number, self.router.flow(number)?)));
        let wanted = views.filter(|(_, view)| is_wanted(view));
        let found: Vec<_> = wanted.map(|(number, view)| (number, self.flow_entry(&view))).collect();
        let flows = found.into_iter().map(|(number, entry)| self.with_paths(number, entry)).collect();
        FlowPage { flows, next: Some(numbers.end).filter(|next| *next < self.router.flow_numbers()) }
    }

    /// Adds who passes the packets of a flow on, if that can be the kernel.
    fn with_paths(&mut self, number: u32, entry: FlowEntry) -> FlowEntry {
        if !self.router.has_kernel_path() {
            return entry;
        }
        let mut path = |direction| {
            let why_not = self.router.path_of(number, direction).err();
            Some(why_not.map_or_else(|| "kernel".to_owned(), |why_not| why_not.to_string()))
        };
        FlowEntry { path_out: path(Direction::Out), path_in: path(Direction::In), ..entry }
    }

    /// Forgets those of some flows that a filter wants. Returns how many these were, and where the next ones begin.
    pub(super) fn kill_flow_page(&mut self, from: u32, filter: &Filter) -> (u64, Option<u32>) {
        let peers = self.peers_of(filter);
        let numbers = from..from.saturating_add(FLOWS_PER_PAGE);
        let is_wanted = |view: &FlowView<'_>| filter.matches_flow(&subject(view), is_among(view, peers.as_deref()));
        let killed = self.router.kill_flows(&mut self.io, numbers.clone(), is_wanted);
        (killed, Some(numbers.end).filter(|next| *next < self.router.flow_numbers()))
    }

    /// The peers of the process that a filter names.
    fn peers_of(&self, filter: &Filter) -> Option<Vec<PeerId>> {
        let pid = filter.peer()?;
        let peers = self.router.peers().filter(|peer| peer.credentials().pid == pid);
        Some(peers.map(|peer| peer.id()).collect())
    }

    fn flow_entry(&self, view: &FlowView<'_>) -> FlowEntry {
        let (key, out, inbound) = (view.key(), view.out(), view.inbound());
        let peer = view.peer().and_then(|id| self.router.peer(id));
        let limit = |direction| {
            let whose = self.router.limited_by(view.peer()?, direction, view.class(direction))?;
            Some(whose.to_string())
        };
        FlowEntry {
            peer: peer.map_or(0, |peer| peer.credentials().pid),
            uid: view.owner().uid(),
            local: key.local(),
            local_port: key.local_port,
            remote: key.remote(),
            remote_port: key.remote_port(),
            protocol: key.protocol,
            state: view.phase().name().to_owned(),
            verdict_out: verdict(&out).map(str::to_owned),
            verdict_in: verdict(&inbound).map(str::to_owned),
            rule_out: out.rule.and_then(policy_rule),
            rule_in: inbound.rule.and_then(policy_rule),
            limit_out: limit(Direction::Out),
            limit_in: limit(Direction::In),
            generation: view.generation(),
            idle: seconds(view.idle()),
            age: seconds(view.age()),
            packets_out: out.packets,
            bytes_out: out.bytes,
            packets_in: inbound.packets,
            bytes_in: inbound.bytes,
            path_out: None,
            path_in: None,
        }
    }
}

fn seconds(count: u32) -> u64 {
    Duration::from_secs(count.into()).as_secs()
}

/// What a filter looks at.
fn subject(view: &FlowView<'_>) -> Subject {
    let (key, out, inbound) = (view.key(), view.out(), view.inbound());
    Subject {
        uid: view.owner().uid(),
        ends: [key.local(), key.remote()],
        protocol: key.protocol,
        ports: [key.local_port, key.remote_port()],
        rules: [out.rule.and_then(policy_rule), inbound.rule.and_then(policy_rule)],
        verdicts: [verdict(&out), verdict(&inbound)],
    }
}

/// Returns true if a flow belongs to one of these peers, or if these don't matter.
fn is_among(view: &FlowView<'_>, peers: Option<&[PeerId]>) -> bool {
    peers.is_none_or(|peers| view.peer().is_some_and(|peer| peers.contains(&peer)))
}

fn verdict(side: &SideView) -> Option<&'static str> {
    match side.fate {
        Fate::Undecided => None,
        Fate::Pass => Some("allow"),
        Fate::Drop(_) => Some("deny"),
        Fate::Reject(_) => Some("reject"),
    }
}

/// The number of a rule of the policy; `None` for rules of peers, which have numbers of their own.
pub fn policy_rule(rule: RuleRef) -> Option<u32> {
    match rule {
        RuleRef::FirewallIn(id) | RuleRef::FirewallOut(id) | RuleRef::Route(id) if id != RuleId::IMPLIED => Some(id.0),
        _ => None,
    }
}
