//! The search of the lists for one packet, and what comes of it besides the verdict: who is counted, and what is logged.

use std::net::IpAddr;
use std::num::NonZeroU32;

use super::Policy;
use super::flows::entry::Slots;
use super::pattern::{AnyMatchKey, Match, MatchContext, PolicyRules, RuleId, SetId};
use super::rates::Rates;
use super::set::AddressSet;
use super::verdict::RuleRef;
use tuntap_wire::selector::ConnectionState;

/// Most rules that a packet can match: one of the chain for packets from the peers, a route, and one of the other chain.
const MOST_MATCHES: usize = 3;

/// Rules that want a verdict to be logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ToLog([Option<RuleRef>; MOST_MATCHES]);

impl ToLog {
    fn push(&mut self, rule: RuleRef) {
        if let Some(place) = self.0.iter_mut().find(|place| place.is_none()) {
            *place = Some(rule);
        }
    }

    /// Returns true if there are none.
    pub const fn is_empty(&self) -> bool {
        self.0[0].is_none()
    }

    /// Returns the rules.
    pub fn iter(&self) -> impl Iterator<Item = RuleRef> {
        self.0.into_iter().flatten()
    }
}

/// What a packet has met on its way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Trail {
    /// Counters of the rules that it has matched.
    pub(super) slots: Slots<6>,
    pub(super) to_log: ToLog,
    /// True if a rule with a rate was asked: the next packet may have another verdict.
    pub(super) met_rate: bool,
    /// True if the rules of a peer were asked that the peer can still change.
    pub(super) met_open_rules: bool,
    /// True if a peer's rules were asked that look at the state.
    pub(super) looks_at_state: bool,
}

impl Trail {
    fn note<T>(&mut self, found: &Match<T>, rule: RuleRef) {
        self.slots.push(found.slot);
        if let Some(counter) = found.counter {
            self.slots.push(counter);
        }
        if found.log {
            self.to_log.push(rule);
        }
    }

    /// Returns the first two counters: those of one chain.
    pub(super) fn chain_slots(&self) -> Slots<2> {
        let mut slots = Slots::default();
        self.slots.iter().for_each(|slot| slots.push(slot));
        slots
    }

    /// Takes over what a part of the way has met.
    pub(super) fn add(&mut self, part: &Self) {
        part.slots.iter().for_each(|slot| self.slots.push(slot));
        part.to_log.iter().for_each(|rule| self.to_log.push(rule));
        self.met_rate |= part.met_rate;
        self.met_open_rules |= part.met_open_rules;
        self.looks_at_state |= part.looks_at_state;
    }
}

/// How rates are asked.
pub(super) enum RatesAccess<'a> {
    /// A packet is on its way: it is counted.
    Take(&'a mut Rates),
    /// Somebody wants to know what would happen: nothing is counted.
    Look(&'a Rates),
}

/// Sets and rates for a search.
pub(super) struct Context<'a> {
    pub(super) policy: &'a Policy,
    pub(super) rates: RatesAccess<'a>,
    /// Nanoseconds since the start.
    pub(super) now: u64,
    pub(super) met_rate: bool,
}

impl MatchContext for Context<'_> {
    fn set(&self, set: SetId) -> Option<&AddressSet> {
        self.policy.sets.get(usize::from(set.0)).map(|(_, set)| &**set)
    }

    fn is_within_rate(&mut self, rule: RuleId, rate: NonZeroU32, source: IpAddr) -> bool {
        self.met_rate = true;
        match &mut self.rates {
            RatesAccess::Take(rates) => rates.take(rule, rate, source, self.now),
            RatesAccess::Look(rates) => rates.has(rule, rate, source, self.now),
        }
    }
}

impl Context<'_> {
    /// Searches a list, and notes on the trail what follows.
    pub(super) fn search<T: Copy>(
        &mut self,
        rules: &PolicyRules<T>,
        key: &AnyMatchKey,
        state: Option<ConnectionState>,
        reference: fn(RuleId) -> RuleRef,
        trail: &mut Trail,
    ) -> Option<Match<T>> {
        let found = rules.find(key, state, self);
        trail.met_rate |= std::mem::take(&mut self.met_rate);
        if let Some(found) = &found {
            trail.note(found, reference(found.rule));
        }
        found
    }
}
