//! Ordered rules of which the first match decides: the rules of the chains, and the routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use tuntap_wire::ip::Packet;
use tuntap_wire::selector::{AddressPattern, ConnectionState, Selector};

use super::counters::CounterSlot;
use super::set::AddressSet;

/// What a chain rule does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Forward.
    Allow,
    /// Drop.
    Deny,
    /// Drop, and send an error to the sender.
    Reject,
}

/// A chain rule or a route: what is decided about the packets that it selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyRule<T> {
    /// Which packets it matches.
    pub selector: Selector,
    /// What the rule decides.
    pub target: T,
}

/// The number of a rule. No other rule of its policy has it, and a rule keeps it in the policies that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

impl RuleId {
    /// The rule that denies IPv6 at the end of a chain that speaks of IPv4 only, see [`PolicyRules::chain`].
    pub const IMPLIED: Self = Self(u32::MAX);
}

/// The index of a set in [`Policy::sets`](super::Policy::sets).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SetId(pub u16);

/// A rule with everything that it can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleSpec<T> {
    /// Its number.
    pub id: RuleId,
    /// Where its packets and bytes are counted, see [`RuleCounters`](super::counters::RuleCounters).
    pub slot: CounterSlot,
    /// Which packets it matches, as far as no set is named: the end that a set is named for is `any` here.
    pub selector: Selector,
    /// The source must be in this set.
    pub src_set: Option<SetId>,
    /// The destination must be in this set.
    pub dst_set: Option<SetId>,
    /// What the rule decides.
    pub target: T,
    /// True if what it decides is logged.
    pub log: bool,
    /// It matches so many packets per second from each source, and no more.
    pub rate: Option<NonZeroU32>,
    /// A named counter that counts its packets, too.
    pub counter: Option<CounterSlot>,
}

impl<T> RuleSpec<T> {
    /// A rule of this number that says nothing but selector and target. It is counted in the slot of the same number.
    pub const fn new(id: RuleId, selector: Selector, target: T) -> Self {
        Self {
            id,
            slot: CounterSlot(id.0),
            selector,
            src_set: None,
            dst_set: None,
            target,
            log: false,
            rate: None,
            counter: None,
        }
    }
}

/// The rule that decides about a packet, and what it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match<T> {
    /// Which rule it is.
    pub rule: RuleId,
    /// What it decides.
    pub target: T,
    /// Where the packet is counted.
    pub slot: CounterSlot,
    /// True if the decision is logged.
    pub log: bool,
    /// A named counter that counts the packet, too.
    pub counter: Option<CounterSlot>,
}

/// What a search of rules is told besides the packet's headers.
pub trait MatchContext {
    /// Returns a set.
    fn set(&self, set: SetId) -> Option<&AddressSet>;

    /// A rule with a rate would match a packet from this source. Returns true if the rate allows that, and counts the packet.
    fn is_within_rate(&mut self, rule: RuleId, rate: NonZeroU32, source: IpAddr) -> bool;
}

/// The context of rules without sets and rates. A set is empty in it, and no rate is ever reached.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoContext;

impl MatchContext for NoContext {
    fn set(&self, _set: SetId) -> Option<&AddressSet> {
        None
    }

    fn is_within_rate(&mut self, _rule: RuleId, _rate: NonZeroU32, _source: IpAddr) -> bool {
        true
    }
}

/// What rules look at in a packet. The address bits of IPv4 fill the lower 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatchKey<A> {
    /// Source.
    pub src: A,
    /// Destination.
    pub dst: A,
    /// Protocol and destination port.
    pub service: Service,
}

/// Protocol and destination port of a packet. The default stands for all of them where no rule looks at them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Service {
    /// The protocol's number.
    pub protocol: u8,
    /// The port. `None` for packets without one.
    pub port: Option<u16>,
}

/// The bits of an IPv4 or IPv6 address.
pub trait Bits: Copy + Eq {
    /// The bits that a mask selects.
    fn masked(self, mask: Self) -> Self;

    /// Returns true if a set has the address.
    fn is_in(self, set: &AddressSet) -> bool;

    /// Returns the address.
    fn address(self) -> IpAddr;
}

impl Bits for u32 {
    fn masked(self, mask: Self) -> Self {
        self & mask
    }

    fn is_in(self, set: &AddressSet) -> bool {
        set.contains_v4(self)
    }

    fn address(self) -> IpAddr {
        Ipv4Addr::from_bits(self).into()
    }
}

impl Bits for u128 {
    fn masked(self, mask: Self) -> Self {
        self & mask
    }

    fn is_in(self, set: &AddressSet) -> bool {
        set.contains_v6(self)
    }

    fn address(self) -> IpAddr {
        Ipv6Addr::from_bits(self).into()
    }
}

/// The [`MatchKey`] of a packet of either version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnyMatchKey {
    /// IPv4.
    V4(MatchKey<u32>),
    /// IPv6.
    V6(MatchKey<u128>),
}

impl AnyMatchKey {
    /// The fields of this packet.
    pub fn of(packet: &Packet<'_>) -> Self {
        let service = Service { protocol: packet.protocol(), port: packet.destination_port() };
        match (packet.src(), packet.dst()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                Self::V4(MatchKey { src: src.to_bits(), dst: dst.to_bits(), service })
            }
            (src, dst) => Self::V6(MatchKey { src: bits(src), dst: bits(dst), service }),
        }
    }
}

/// The bits of an IPv6 address. The first arm is never taken, because both addresses of a packet are of one version.
const fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits() as u128,
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The rules for one version of IP in their order, with their masks.
#[derive(Debug, Clone)]
pub struct RuleList<A, T> {
    rules: Vec<Masked<A, T>>,
    looks_at_state: bool,
}

#[derive(Debug, Clone)]
struct Masked<A, T> {
    src: A,
    src_mask: A,
    dst: A,
    dst_mask: A,
    protocol: Option<u8>,
    ports: Option<(u16, u16)>,
    state: Option<ConnectionState>,
    src_set: Option<SetId>,
    dst_set: Option<SetId>,
    rate: Option<NonZeroU32>,
    decision: Match<T>,
}

impl<A, T> RuleList<A, T> {
    /// Returns true if there are no rules.
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Returns true if a rule looks at the state of connections.
    pub const fn looks_at_state(&self) -> bool {
        self.looks_at_state
    }
}

impl<A: Bits, T: Copy> RuleList<A, T> {
    fn new(rules: impl Iterator<Item = Masked<A, T>>) -> Self {
        let rules: Vec<_> = rules.collect();
        let looks_at_state = rules.iter().any(|rule| rule.state.is_some());
        Self { rules, looks_at_state }
    }

    /// Returns what the first matching rule decides about a packet that belongs to no connection, if there are neither sets
    /// nor rates.
    pub fn first_match(&self, flow: &MatchKey<A>) -> Option<T> {
        self.find(flow, None, &mut NoContext).map(|found| found.target)
    }

    /// Returns the first matching rule and what it decides. `state` is that of the packet's connection, `None` if it belongs
    /// to none.
    pub fn find(
        &self,
        flow: &MatchKey<A>,
        state: Option<ConnectionState>,
        context: &mut impl MatchContext,
    ) -> Option<Match<T>> {
        let fits = |rule: &&Masked<A, T>| {
            flow.src.masked(rule.src_mask) == rule.src
                && flow.dst.masked(rule.dst_mask) == rule.dst
                && rule.protocol.is_none_or(|protocol| protocol == flow.service.protocol)
                && rule
                    .ports
                    .is_none_or(|(first, last)| flow.service.port.is_some_and(|port| (first..=last).contains(&port)))
                && rule.state.is_none_or(|wanted| state == Some(wanted))
                && is_in_set(context, rule.src_set, flow.src)
                && is_in_set(context, rule.dst_set, flow.dst)
                && rule.rate.is_none_or(|rate| context.is_within_rate(rule.decision.rule, rate, flow.src.address()))
        };
        self.rules.iter().find(fits).map(|rule| rule.decision)
    }
}

/// Returns true if a rule names no set, or the set has the address.
fn is_in_set<A: Bits>(context: &impl MatchContext, set: Option<SetId>, address: A) -> bool {
    set.is_none_or(|set| context.set(set).is_some_and(|set| address.is_in(set)))
}

impl<A: Bits + Default> RuleList<A, Action> {
    /// Returns true if no packet from this source can pass.
    pub fn pass_nothing_from(&self, src: A) -> bool {
        let of_source = self.rules.iter().filter(|rule| src.masked(rule.src_mask) == rule.src);
        let is_for_all = |rule: &Masked<A, Action>| {
            let has_condition = rule.src_set.is_some() || rule.dst_set.is_some() || rule.rate.is_some();
            rule.dst_mask == A::default() && rule.protocol.is_none() && rule.state.is_none() && !has_condition
        };
        // A rule that drops only some of the packets leaves the others to later rules.
        let mut decisive = of_source.filter(|rule| rule.decision.target == Action::Allow || is_for_all(rule));
        decisive.next().is_some_and(|rule| rule.decision.target != Action::Allow)
    }
}

/// The rules for both versions of IP. Each rule is in the list of every version that it can match.
#[derive(Debug, Clone)]
pub struct PolicyRules<T> {
    /// For IPv4.
    pub v4: RuleList<u32, T>,
    /// For IPv6.
    pub v6: RuleList<u128, T>,
}

impl<T> PolicyRules<T> {
    /// Returns the numbers of all rules, with the places of their counters. A rule for both versions is there twice.
    pub fn slots(&self) -> impl Iterator<Item = (RuleId, CounterSlot)> {
        let v4 = self.v4.rules.iter().map(|rule| (rule.decision.rule, rule.decision.slot));
        v4.chain(self.v6.rules.iter().map(|rule| (rule.decision.rule, rule.decision.slot)))
    }
}

impl<T: Copy> PolicyRules<T> {
    /// Takes the rules in order, and numbers them from 0.
    pub fn new(rules: impl IntoIterator<Item = PolicyRule<T>>) -> Self {
        Self::of(numbered(rules))
    }

    /// Takes the rules in order.
    pub fn of(rules: impl IntoIterator<Item = RuleSpec<T>>) -> Self {
        let rules: Vec<_> = rules.into_iter().collect();
        let masked_v4 = |rule: &RuleSpec<T>| {
            let (src, src_mask) = v4_bits(rule.selector.src())?;
            let (dst, dst_mask) = v4_bits(rule.selector.dst())?;
            Some(mask(rule, true, [src, src_mask, dst, dst_mask]))
        };
        let masked_v6 = |rule: &RuleSpec<T>| {
            let (src, src_mask) = v6_bits(rule.selector.src())?;
            let (dst, dst_mask) = v6_bits(rule.selector.dst())?;
            Some(mask(rule, false, [src, src_mask, dst, dst_mask]))
        };
        Self {
            v4: RuleList::new(rules.iter().filter_map(masked_v4)),
            v6: RuleList::new(rules.iter().filter_map(masked_v6)),
        }
    }

    /// Returns true if a rule looks at the state of connections.
    pub const fn looks_at_state(&self) -> bool {
        self.v4.looks_at_state() || self.v6.looks_at_state()
    }

    /// Returns the first matching rule and what it decides. `state` is that of the packet's connection, `None` if it belongs
    /// to none.
    pub fn find(
        &self,
        key: &AnyMatchKey,
        state: Option<ConnectionState>,
        context: &mut impl MatchContext,
    ) -> Option<Match<T>> {
        match key {
            AnyMatchKey::V4(key) => self.v4.find(key, state, context),
            AnyMatchKey::V6(key) => self.v6.find(key, state, context),
        }
    }

    /// Returns true if there are no rules.
    pub const fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

impl PolicyRules<Action> {
    /// Returns true if no packet from this source can pass.
    pub fn pass_nothing_from(&self, src: IpAddr) -> bool {
        match src {
            IpAddr::V4(src) => self.v4.pass_nothing_from(src.to_bits()),
            IpAddr::V6(src) => self.v6.pass_nothing_from(src.to_bits()),
        }
    }

    /// A chain of the firewall. If it has rules, and none of them is about IPv6, IPv6 packets are denied: a
    /// chain that was written for IPv4 alone doesn't mean to let all of IPv6 pass.
    pub fn chain(rules: impl IntoIterator<Item = PolicyRule<Action>>) -> Self {
        let rules: Vec<_> = rules.into_iter().collect();
        let is_for_v4_only = are_for_v4_only(rules.iter().map(|rule| rule.selector));
        let mut chain = Self::new(rules);
        if is_for_v4_only {
            let deny_all = RuleSpec::new(RuleId::IMPLIED, Selector::ALL, Action::Deny);
            chain.v6 = RuleList::new(std::iter::once(mask(&deny_all, false, [0; 4])));
        }
        chain
    }
}

/// Numbers rules from 0.
fn numbered<T>(rules: impl IntoIterator<Item = PolicyRule<T>>) -> impl Iterator<Item = RuleSpec<T>> {
    (0..).map(RuleId).zip(rules).map(|(id, rule)| RuleSpec::new(id, rule.selector, rule.target))
}

/// Returns true if there are rules and none of their selectors can match IPv6 packets.
pub fn are_for_v4_only(selectors: impl IntoIterator<Item = Selector>) -> bool {
    let mut selectors = selectors.into_iter().peekable();
    selectors.peek().is_some() && !selectors.any(|selector| selector.is_for(false))
}

fn mask<A, T: Copy>(rule: &RuleSpec<T>, v4: bool, [src, src_mask, dst, dst_mask]: [A; 4]) -> Masked<A, T> {
    let service = rule.selector.service();
    let RuleSpec { id, slot, target, log, counter, .. } = *rule;
    Masked {
        src,
        src_mask,
        dst,
        dst_mask,
        protocol: service.map(|service| service.protocol.number(v4)),
        ports: service.and_then(|service| service.ports).map(tuntap_wire::selector::Ports::bounds),
        state: rule.selector.state(),
        src_set: rule.src_set,
        dst_set: rule.dst_set,
        rate: rule.rate,
        decision: Match { rule: id, target, slot, log, counter },
    }
}

/// Network and mask of an IPv4 pattern. `None` for IPv6.
fn v4_bits(pattern: AddressPattern) -> Option<(u32, u32)> {
    match pattern {
        AddressPattern::Any => Some((0, 0)),
        AddressPattern::Net(ipnet::IpNet::V4(net)) => Some((net.network().to_bits(), net.netmask().to_bits())),
        AddressPattern::Net(ipnet::IpNet::V6(_)) => None,
    }
}

/// Network and mask of an IPv6 pattern. `None` for IPv4.
fn v6_bits(pattern: AddressPattern) -> Option<(u128, u128)> {
    match pattern {
        AddressPattern::Any => Some((0, 0)),
        AddressPattern::Net(ipnet::IpNet::V6(net)) => Some((net.network().to_bits(), net.netmask().to_bits())),
        AddressPattern::Net(ipnet::IpNet::V4(_)) => None,
    }
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
pub(super) mod tests;
