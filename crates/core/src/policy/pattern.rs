//! Ordered rules of which the first match decides: the rules of the chains, and the routes.

use std::net::IpAddr;

use tuntap_wire::ip::Packet;
use tuntap_wire::selector::{AddressPattern, Selector};

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

/// The number of a rule in its list, as the operator has written it: the first one is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RuleId(pub u32);

impl RuleId {
    /// The rule that denies IPv6 at the end of a chain that speaks of IPv4 only, see [`PolicyRules::chain`].
    pub const IMPLIED: Self = Self(u32::MAX);
}

/// The rule that decides about a packet, and what it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match<T> {
    /// Which rule it is.
    pub rule: RuleId,
    /// What it decides.
    pub target: T,
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
}

impl Bits for u32 {
    fn masked(self, mask: Self) -> Self {
        self & mask
    }
}

impl Bits for u128 {
    fn masked(self, mask: Self) -> Self {
        self & mask
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
    looks_at_service: bool,
}

#[derive(Debug, Clone)]
struct Masked<A, T> {
    src: A,
    src_mask: A,
    dst: A,
    dst_mask: A,
    protocol: Option<u8>,
    ports: Option<(u16, u16)>,
    decision: Match<T>,
}

impl<A, T> RuleList<A, T> {
    /// Returns true if there are no rules.
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Returns true if a rule looks at protocol or port.
    pub const fn looks_at_service(&self) -> bool {
        self.looks_at_service
    }
}

impl<A: Bits, T: Copy> RuleList<A, T> {
    fn new(rules: impl Iterator<Item = Masked<A, T>>) -> Self {
        let rules: Vec<_> = rules.collect();
        let looks_at_service = rules.iter().any(|rule| rule.protocol.is_some());
        Self { rules, looks_at_service }
    }

    /// Returns what the first matching rule decides.
    pub fn first_match(&self, flow: &MatchKey<A>) -> Option<T> {
        self.find(flow).map(|found| found.target)
    }

    /// Returns the first matching rule and what it decides.
    pub fn find(&self, flow: &MatchKey<A>) -> Option<Match<T>> {
        let fits = |rule: &&Masked<A, T>| {
            flow.src.masked(rule.src_mask) == rule.src
                && flow.dst.masked(rule.dst_mask) == rule.dst
                && rule.protocol.is_none_or(|protocol| protocol == flow.service.protocol)
                && rule
                    .ports
                    .is_none_or(|(first, last)| flow.service.port.is_some_and(|port| (first..=last).contains(&port)))
        };
        self.rules.iter().find(fits).map(|rule| rule.decision)
    }
}

impl<A: Bits + Default> RuleList<A, Action> {
    /// Returns true if no packet from this source can pass.
    pub fn pass_nothing_from(&self, src: A) -> bool {
        let of_source = self.rules.iter().filter(|rule| src.masked(rule.src_mask) == rule.src);
        let is_for_all = |rule: &Masked<A, Action>| rule.dst_mask == A::default() && rule.protocol.is_none();
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

impl<T: Copy> PolicyRules<T> {
    /// Takes the rules in order.
    pub fn new(rules: impl IntoIterator<Item = PolicyRule<T>>) -> Self {
        let rules: Vec<_> = (0..).map(RuleId).zip(rules).collect();
        let masked_v4 = |(id, rule): &(RuleId, PolicyRule<T>)| {
            let (src, src_mask) = v4_bits(rule.selector.src())?;
            let (dst, dst_mask) = v4_bits(rule.selector.dst())?;
            Some(mask(*id, rule, true, [src, src_mask, dst, dst_mask]))
        };
        let masked_v6 = |(id, rule): &(RuleId, PolicyRule<T>)| {
            let (src, src_mask) = v6_bits(rule.selector.src())?;
            let (dst, dst_mask) = v6_bits(rule.selector.dst())?;
            Some(mask(*id, rule, false, [src, src_mask, dst, dst_mask]))
        };
        Self {
            v4: RuleList::new(rules.iter().filter_map(masked_v4)),
            v6: RuleList::new(rules.iter().filter_map(masked_v6)),
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
        let is_for_v4_only = are_for_v4_only(&rules);
        let mut chain = Self::new(rules);
        if is_for_v4_only {
            let decision = Match { rule: RuleId::IMPLIED, target: Action::Deny };
            let all = Masked { src: 0, src_mask: 0, dst: 0, dst_mask: 0, protocol: None, ports: None, decision };
            chain.v6 = RuleList::new(std::iter::once(all));
        }
        chain
    }
}

/// Returns true if there are rules and none of them can match IPv6 packets.
pub fn are_for_v4_only<T>(rules: &[PolicyRule<T>]) -> bool {
    !rules.is_empty() && !rules.iter().any(|rule| rule.selector.is_for(false))
}

fn mask<A, T: Copy>(
    id: RuleId,
    rule: &PolicyRule<T>,
    v4: bool,
    [src, src_mask, dst, dst_mask]: [A; 4],
) -> Masked<A, T> {
    let service = rule.selector.service();
    Masked {
        src,
        src_mask,
        dst,
        dst_mask,
        protocol: service.map(|service| service.protocol.number(v4)),
        ports: service.and_then(|service| service.ports).map(tuntap_wire::selector::Ports::bounds),
        decision: Match { rule: id, target: rule.target },
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
