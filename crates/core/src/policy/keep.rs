//! What is kept of a decision: the verdict with the packet's flow, and what is counted.

use std::net::IpAddr;

use super::counters::CounterSlot;
use super::decide::{FOREVER, InDecision, OutDecision, Walk};
use super::flows::{Fate, FlowKey, NewFlow, Way};
use super::forward::Forwarder;
use super::registry::PeerId;
use super::repeat::Known;
use super::verdict::{Class, Inbound, Lane, Outbound, OutboundVerdict};
use tuntap_wire::ip::{FlowPart, Packet};
use tuntap_wire::rule::Direction;
use tuntap_wire::selector::ConnectionState;

impl Forwarder {
    /// Counts the packet, keeps what was decided with its flow, and makes the verdict. `accepted` is there if the peer holds
    /// the source.
    pub(super) fn conclude_outbound(
        &mut self,
        id: PeerId,
        walk: &Walk<'_>,
        known: Known,
        decision: &OutDecision,
        accepted: Option<(Option<IpAddr>, bool)>,
    ) -> OutboundVerdict {
        let (claimed, is_first) = accepted.unwrap_or_default();
        let (to, rule) = (decision.to, decision.rule);
        let lane = Lane { class: decision.class, ..Lane::default() };
        let mut verdict = OutboundVerdict { to, claimed, is_first, rule, lane, receiver_lane: Lane::default() };
        if let Outbound::Contested { .. } = decision.to {
            // The caller asks again, or drops the packet. It is counted by then.
            return verdict;
        }
        self.to_log = decision.trail.to_log;
        self.count(decision.trail.slots.iter(), walk.packet);
        if accepted.is_some() {
            let flags = walk.packet.tcp_flags();
            let passes = fate_out(decision.to) == Fate::Pass;
            let at = self.keep_outbound(id, walk, known, decision);
            let twin = decision.inner.as_ref().and_then(|inner| self.keep_inbound(walk, inner, Some(id), at));
            for (at, direction) in [(at, Direction::Out), (twin, Direction::In)] {
                if let Some(at) = at {
                    self.flows.record(at, direction, walk.packet, flags, passes);
                }
            }
            if let (Some(at), Some(twin)) = (at, twin)
                && at != twin
            {
                self.flows.pair(at, twin);
            }
            verdict.lane.flow = at.unwrap_or(Lane::NO_FLOW);
            let class = decision.inner.as_ref().map_or(Class::OWN, |inner| inner.class);
            verdict.receiver_lane = Lane { flow: twin.unwrap_or(Lane::NO_FLOW), class };
            self.record_error(known, Direction::Out, walk);
            if let Some(inner) = &decision.inner {
                self.record_error(inner.known, Direction::In, walk);
            }
        }
        verdict
    }

    pub(super) fn record_error(&mut self, known: Known, direction: Direction, walk: &Walk<'_>) {
        if let (FlowPart::Error(_), Some(at)) = (walk.part, known.at) {
            self.flows.record_error(at, direction, walk.packet);
        }
    }

    #[inline]
    pub(super) fn count(&self, slots: impl Iterator<Item = CounterSlot>, packet: &Packet<'_>) {
        slots.for_each(|slot| self.counters.count(slot, packet.total_len()));
    }

    /// Keeps what was decided about a packet from a peer. Returns the number of its flow, if it has one.
    fn keep_outbound(&mut self, id: PeerId, walk: &Walk<'_>, known: Known, decision: &OutDecision) -> Option<u32> {
        let at = self.flow_of(walk, Direction::Out, known, id, id, None)?;
        let (epoch, claims, generation) = (self.epoch, self.claims, self.generation());
        let receiver = decision.inner.as_ref().and_then(|inner| inner.holder);
        let until = [decision.asked, decision.inner.as_ref().and_then(|inner| inner.asked)];
        let until = until.into_iter().flatten().map(|asked| asked.until).min().unwrap_or(FOREVER);
        let looks_at_state = self.policy.looks_at_state() || decision.trail.looks_at_state;
        let entry = self.flows.get_mut(at);
        entry.generation = u32::try_from(generation).unwrap_or(u32::MAX);
        entry.claims = claims;
        let side = &mut entry.out;
        let is_lasting = !decision.trail.met_rate && !decision.trail.met_open_rules;
        side.epoch = epoch;
        side.fate = fate_out(decision.to);
        side.way = match (receiver, decision.to) {
            (Some(receiver), _) => Way::Peer(receiver),
            (None, Outbound::Gateway(target)) => Way::Gateway(target),
            (None, Outbound::Trunk(trunk)) => Way::Trunk(trunk),
            (None, _) => Way::Tun,
        };
        side.set_rule(id, decision.rule);
        side.slots = decision.trail.slots;
        side.until = if is_lasting { until } else { 0 };
        side.state = known.state.unwrap_or(ConnectionState::New);
        side.twin_state = decision.inner.as_ref().and_then(|inner| inner.known.state);
        side.looks_at_state = looks_at_state;
        side.keep_script(decision.asked.map(|asked| (asked.said, asked.until)));
        entry.set_class(Direction::Out, decision.class);
        entry.is_logged[Direction::Out.index()] = !decision.trail.to_log.is_empty();
        Some(at)
    }

    /// Keeps what was decided about a packet towards a peer. Returns the number of its flow, if it has one.
    pub(super) fn keep_inbound(
        &mut self,
        walk: &Walk<'_>,
        decision: &InDecision,
        cause: Option<PeerId>,
        twin: Option<u32>,
    ) -> Option<u32> {
        let holder = decision.holder?;
        let at = self.flow_of(walk, Direction::In, decision.known, holder, cause.unwrap_or(holder), twin)?;
        let (epoch, generation) = (self.epoch, self.generation());
        let looks_at_state = self.policy.looks_at_state() || decision.trail.looks_at_state;
        let entry = self.flows.get_mut(at);
        entry.generation = u32::try_from(generation).unwrap_or(u32::MAX);
        let side = &mut entry.inn;
        let is_lasting = !decision.trail.met_rate && !decision.trail.met_open_rules;
        side.epoch = epoch;
        side.way = decision.source;
        side.fate = fate_in(decision.verdict.to);
        side.set_rule(holder, decision.verdict.rule);
        side.slots = decision.trail.chain_slots();
        let until = decision.asked.map_or(FOREVER, |asked| asked.until);
        side.until = if is_lasting { until } else { 0 };
        side.state = decision.known.state.unwrap_or(ConnectionState::New);
        side.looks_at_state = looks_at_state;
        side.keep_script(decision.asked.map(|asked| (asked.said, asked.until)));
        entry.set_class(Direction::In, decision.class);
        entry.is_logged[Direction::In.index()] = !decision.trail.to_log.is_empty();
        Some(at)
    }

    /// Returns the number of the flow that a packet belongs to. It is added if it is not known, and it goes over to the peer if
    /// it was that of an earlier connection. `None` for packets without a flow of their own. `keep` is not forgotten for it.
    fn flow_of(
        &mut self,
        walk: &Walk<'_>,
        direction: Direction,
        known: Known,
        peer: PeerId,
        cause: PeerId,
        keep: Option<u32>,
    ) -> Option<u32> {
        let FlowPart::Flow(ports) = walk.part else { return None };
        let owner = self.owner(peer)?;
        let key = FlowKey::of(walk.packet, ports, direction);
        // Another flow may have gone since, to make room. A packet from an address to itself has one flow.
        let has_key = |at: &u32| self.flows.known(*at).is_some_and(|entry| entry.key == key);
        let known = known.at.filter(has_key).or(keep.filter(has_key));
        match known {
            Some(at) if self.flows.get(at).peer == peer => Some(at),
            Some(at) => {
                let cause =
                    if self.flows.get(at).is_by_remote() { self.holder(key.remote()).unwrap_or(peer) } else { peer };
                self.flows.adopt(at, NewFlow { key, peer, owner, cause }, keep);
                Some(at)
            }
            None => Some(self.flows.insert(NewFlow { key, peer, owner, cause }, keep)),
        }
    }
}

const fn fate_out(to: Outbound) -> Fate {
    match to {
        Outbound::Tun | Outbound::Gateway(_) | Outbound::Peer(_) | Outbound::Trunk(_) => Fate::Pass,
        Outbound::Drop(reason) => Fate::Drop(reason),
        Outbound::Reject(reason) => Fate::Reject(reason),
        Outbound::Contested { .. } => Fate::Undecided,
    }
}

pub(super) const fn fate_in(to: Inbound) -> Fate {
    match to {
        Inbound::Peer(_) | Inbound::Trunk(_) | Inbound::Tun => Fate::Pass,
        Inbound::Drop(reason, _) => Fate::Drop(reason),
        Inbound::Reject(reason, _) => Fate::Reject(reason),
    }
}
