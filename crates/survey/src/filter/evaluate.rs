//! Evaluating the rules of a chain for a packet of which only some properties are known.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::{BaseChain, Condition, FilterRule, Name, Test, Verdict};

/// How many rules are evaluated at most. Those of a chain that is entered twice count twice.
const MAX_RULES: usize = 100_000;

/// How deep jumps may be nested, as in the kernel.
const MAX_DEPTH: usize = 16;

/// The known properties of a packet.
#[derive(Debug, Clone, Default)]
pub struct Packet<'a> {
    /// Interfaces by one of which it came in; empty if unknown.
    pub iif: Vec<&'a str>,
    /// Interfaces by one of which it goes out; empty if unknown.
    pub oif: Vec<&'a str>,
    /// True for IPv6, false for IPv4.
    pub is_ipv6: bool,
    /// The state of its connection.
    pub state: u32,
    /// True if the destination of its connection was changed.
    pub is_dnat: bool,
    /// Its transport protocol.
    pub protocol: Option<u8>,
    /// Its destination port.
    pub port: Option<u16>,
    /// Networks in one of which its source is; empty if unknown.
    pub sources: Vec<IpNet>,
    /// Its destination.
    pub destination: Option<IpAddr>,
    /// The type of its destination, [`UNICAST`](super::UNICAST) or [`LOCAL`](super::LOCAL); 0 if unknown.
    pub destination_type: u32,
}

/// What becomes of a packet in a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is accepted.
    Accept,
    /// It is dropped.
    Drop,
    /// This rule changes its destination.
    Dnat(String),
    /// It depends on this rule, which isn't understood.
    Unknown(String),
}

/// The rule of a chain that changes the destination of packets for a port: of all of them, or of some if it names that port.
pub fn dnat_rule(chain: &BaseChain, packet: &Packet<'_>) -> Option<String> {
    let mut walk = Walk::new(chain, packet);
    match walk.rules(&chain.name, &chain.rules, MAX_DEPTH) {
        End::Dnat(dnat) => Some(dnat.place),
        End::Accepted | End::Dropped | End::Through => walk.may_dnat,
    }
}

/// Evaluates a chain for a packet.
pub fn evaluate(chain: &BaseChain, packet: &Packet<'_>) -> Outcome {
    let mut walk = Walk::new(chain, packet);
    let is_accepted = match walk.rules(&chain.name, &chain.rules, MAX_DEPTH) {
        End::Dnat(dnat) => return Outcome::Dnat(dnat.place),
        End::Accepted => true,
        End::Dropped => false,
        End::Through => !chain.drops,
    };
    match walk.doubt {
        _ if is_accepted => Outcome::Accept,
        Some(doubt) => Outcome::Unknown(doubt),
        None => Outcome::Drop,
    }
}

/// How the evaluation of a chain ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Accepted,
    Dropped,
    Dnat(DnatRule),
    /// No rule has decided about the packet.
    Through,
}

/// A rule that changes the destination of packets.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DnatRule {
    place: String,
    /// True if it has a condition on the destination port.
    names_port: bool,
}

struct Walk<'a> {
    chain: &'a BaseChain,
    packet: &'a Packet<'a>,
    /// The first rule that may accept the packet, or may keep it from a rule that drops it.
    doubt: Option<String>,
    /// The first rule that changes the destination of some packets for the port.
    may_dnat: Option<String>,
    rules_left: usize,
}

impl<'a> Walk<'a> {
    const fn new(chain: &'a BaseChain, packet: &'a Packet<'a>) -> Self {
        Self { chain, packet, doubt: None, may_dnat: None, rules_left: MAX_RULES }
    }

    fn rules(&mut self, name: &str, rules: &[FilterRule], depth: usize) -> End {
        for rule in rules {
            let place = || format!("{} of {name}", rule.place);
            let Some(left) = self.rules_left.checked_sub(1) else {
                self.doubt.get_or_insert_with(|| format!("{}, and more rules than are looked at", place()));
                return End::Dropped;
            };
            self.rules_left = left;
            let names_port = rule.conditions.iter().any(|it| !it.is_negated && matches!(it.test, Test::ToPort(_)));
            let dnat = || DnatRule { place: place(), names_port };
            let is_met = match meets(self.packet, &rule.conditions) {
                Match::No => continue,
                Match::Yes => None,
                Match::Unknown(word) => Some(format!("{} ({word})", place())),
            };
            match (&rule.verdict, is_met) {
                (Verdict::Accept, None) => return End::Accepted,
                (Verdict::Drop, None) => return End::Dropped,
                (Verdict::Dnat, None) => return End::Dnat(dnat()),
                (Verdict::Return, None) => return End::Through,
                // It may drop some packets, but lets others pass, and is there on purpose.
                (Verdict::Drop, Some(_)) | (Verdict::Continue, _) => {}
                (Verdict::Dnat, Some(_)) => self.may_dnat(dnat()),
                (Verdict::Accept | Verdict::Return, Some(doubt)) => self.doubts(doubt),
                (Verdict::Other(word), met) => self.doubts(met.unwrap_or_else(|| format!("{} ({word})", place()))),
                (Verdict::Jump(other) | Verdict::Goto(other), met) => {
                    let is_goto = matches!(rule.verdict, Verdict::Goto(_));
                    match (self.other(other, depth), met) {
                        (End::Through, None) if is_goto => return End::Through,
                        (End::Through | End::Dropped, Some(_)) | (End::Through, None) => {}
                        (End::Dnat(dnat), Some(_)) => self.may_dnat(dnat),
                        (end, None) => return end,
                        (End::Accepted, Some(doubt)) => self.doubts(doubt),
                    }
                }
            }
        }
        End::Through
    }

    fn other(&mut self, name: &str, depth: usize) -> End {
        let rules = self.chain.others.get(name).map_or(&[][..], Vec::as_slice);
        match depth.checked_sub(1) {
            Some(depth) => self.rules(name, rules, depth),
            None => End::Through,
        }
    }

    fn may_dnat(&mut self, dnat: DnatRule) {
        if dnat.names_port {
            self.may_dnat.get_or_insert(dnat.place);
        }
    }

    fn doubts(&mut self, doubt: String) {
        self.doubt.get_or_insert(doubt);
    }
}

/// Result of a comparison of a packet with conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Match {
    Yes,
    No,
    /// It depends on this, in a word for people.
    Unknown(String),
}

fn meets(packet: &Packet<'_>, conditions: &[Condition]) -> Match {
    let mut all = Match::Yes;
    for condition in conditions {
        match (fits(packet, &condition.test), condition.is_negated) {
            (Match::No, false) | (Match::Yes, true) => return Match::No,
            (Match::Unknown(word), _) if all == Match::Yes => all = Match::Unknown(word),
            _ => {}
        }
    }
    all
}

fn fits(packet: &Packet<'_>, test: &Test) -> Match {
    let known = |yes| if yes { Match::Yes } else { Match::No };
    match test {
        Test::Iif(names) => one_of(&packet.iif, names, &packet.oif),
        Test::Oif(names) => one_of(&packet.oif, names, &packet.iif),
        Test::State(states) => known(states & packet.state != 0),
        Test::IsDnat => known(packet.is_dnat),
        Test::IsIpv6(is_ipv6) => known(*is_ipv6 == packet.is_ipv6),
        Test::Protocol(ranges) => within(packet.protocol.as_ref(), ranges, "a protocol"),
        Test::ToPort(ranges) => within(packet.port.as_ref(), ranges, "a port"),
        Test::To(ranges) => within(packet.destination.as_ref(), ranges, "an address"),
        Test::From(ranges) => comes_from(&packet.sources, ranges),
        Test::ToType(_) if packet.destination_type == 0 => Match::Unknown("a type of address".to_owned()),
        Test::ToType(types) => known(types & packet.destination_type != 0),
        Test::Other(word) => Match::Unknown(word.clone()),
    }
}

fn within<T: PartialOrd>(value: Option<&T>, ranges: &[RangeInclusive<T>], word: &str) -> Match {
    match value {
        Some(value) if ranges.iter().any(|range| range.contains(value)) => Match::Yes,
        Some(_) => Match::No,
        None => Match::Unknown(word.to_owned()),
    }
}

/// Compares the networks that the source may be in with ranges of addresses.
fn comes_from(sources: &[IpNet], ranges: &[RangeInclusive<IpAddr>]) -> Match {
    let ends = |net: &IpNet| (net.network(), net.broadcast());
    let is_inside = |net: &IpNet| {
        let (first, last) = ends(net);
        ranges.iter().any(|range| range.contains(&first) && range.contains(&last))
    };
    let is_outside = |net: &IpNet| {
        let (first, last) = ends(net);
        // Of two ranges that overlap, one contains the first address of the other.
        !ranges.iter().any(|range| range.contains(&first) || (first..=last).contains(range.start()))
    };
    match sources {
        [] => Match::Unknown("an address".to_owned()),
        all if all.iter().all(is_inside) => Match::Yes,
        all if all.iter().all(is_outside) => Match::No,
        _ => Match::Unknown("an address".to_owned()),
    }
}

/// Compares the interfaces that a packet may use with the names in a test. If none is known, it is still not one of those on
/// the other side of the packet.
fn one_of(interfaces: &[&str], names: &[Name], other_side: &[&str]) -> Match {
    let is_of_other_side = |name: &Name| matches!(name, Name::Exactly(name) if other_side.contains(&name.as_str()));
    let fitting = interfaces.iter().filter(|interface| names.iter().any(|name| name.fits(interface))).count();
    match fitting {
        // Every name begins with the empty text.
        _ if names.contains(&Name::From(String::new())) => Match::Yes,
        _ if interfaces.is_empty() && names.iter().all(is_of_other_side) => Match::No,
        _ if interfaces.is_empty() => Match::Unknown("an interface".to_owned()),
        0 => Match::No,
        all if all == interfaces.len() => Match::Yes,
        _ => Match::Unknown("an interface".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{ESTABLISHED, LOCAL, NEW};
    use crate::testing::{chain, condition, iif, oif, rule, state, unclear};

    fn out() -> Packet<'static> {
        Packet { iif: vec!["emperor0"], oif: vec!["eth0"], state: NEW, ..Packet::default() }
    }

    fn back() -> Packet<'static> {
        Packet { iif: vec!["eth0"], oif: vec!["emperor0"], state: ESTABLISHED, ..out() }
    }

    fn not(condition: Condition) -> Condition {
        Condition { is_negated: true, ..condition }
    }

    #[test]
    fn first_rule_that_fits_decides() {
        let accept = || rule(&[iif("emperor0")], Verdict::Accept);
        let both = chain(true, vec![accept(), rule(&[state(ESTABLISHED)], Verdict::Accept)]);
        assert_eq!((evaluate(&both, &out()), evaluate(&both, &back())), (Outcome::Accept, Outcome::Accept));
        let one = chain(true, vec![accept()]);
        assert_eq!((evaluate(&one, &out()), evaluate(&one, &back())), (Outcome::Accept, Outcome::Drop));
        let drop = || rule(&[iif("emperor0")], Verdict::Drop);
        assert_eq!(evaluate(&chain(true, vec![drop(), accept()]), &out()), Outcome::Drop, "its name is not enough");
        assert_eq!(
            evaluate(&chain(false, vec![rule(&[], Verdict::Drop)]), &out()),
            Outcome::Drop,
            "as good as a policy"
        );
        assert_eq!(evaluate(&chain(false, Vec::new()), &out()), Outcome::Accept);
        let others = rule(&[not(iif("eth0"))], Verdict::Accept);
        let others = chain(true, vec![others]);
        assert_eq!((evaluate(&others, &out()), evaluate(&others, &back())), (Outcome::Accept, Outcome::Drop));
    }

    #[test]
    fn what_is_not_understood_is_a_doubt_where_it_could_let_pass() {
        let doubt = Outcome::Unknown("rule 1 of FORWARD (payload)".to_owned());
        let unclear_rule = |verdict| rule(&[unclear()], verdict);
        assert_eq!(evaluate(&chain(true, vec![unclear_rule(Verdict::Accept)]), &out()), doubt);
        assert_eq!(evaluate(&chain(true, vec![unclear_rule(Verdict::Return)]), &out()), doubt);
        assert_eq!(evaluate(&chain(true, vec![rule(&[], Verdict::Other("payload".to_owned()))]), &out()), doubt);
        assert_eq!(evaluate(&chain(true, vec![unclear_rule(Verdict::Drop)]), &out()), Outcome::Drop);
        assert_eq!(
            evaluate(&chain(false, vec![unclear_rule(Verdict::Drop)]), &out()),
            Outcome::Accept,
            "some are not all"
        );
        let elsewhere = rule(&[iif("docker0"), unclear()], Verdict::Accept);
        assert_eq!(evaluate(&chain(true, vec![elsewhere]), &out()), Outcome::Drop, "another's rule");
    }

    #[test]
    fn interfaces_that_are_not_known_are_a_doubt() {
        let packet = Packet { oif: Vec::new(), ..out() };
        let to_docker = chain(true, vec![rule(&[oif("docker0")], Verdict::Accept)]);
        assert_eq!(evaluate(&to_docker, &out()), Outcome::Drop);
        assert!(matches!(evaluate(&to_docker, &packet), Outcome::Unknown(_)));
        let all = condition(Test::Oif(vec![Name::From(String::new())]));
        assert_eq!(evaluate(&chain(true, vec![rule(&[all], Verdict::Accept)]), &packet), Outcome::Accept);
    }

    #[test]
    fn chains_are_followed() {
        let with = |verdict: Verdict, conditions: &[Condition], end: Vec<FilterRule>| {
            let mut chain = chain(true, vec![rule(conditions, verdict), rule(&[], Verdict::Accept)]);
            chain.others.insert("other".to_owned(), end);
            evaluate(&chain, &out())
        };
        let (jump, goto) = (Verdict::Jump("other".to_owned()), Verdict::Goto("other".to_owned()));
        let drops = || vec![rule(&[], Verdict::Drop)];
        assert_eq!(with(jump.clone(), &[], drops()), Outcome::Drop);
        assert_eq!(with(jump.clone(), &[], Vec::new()), Outcome::Accept, "it comes back");
        assert_eq!(with(goto, &[], Vec::new()), Outcome::Drop, "it comes back to the policy");
        let returns = vec![rule(&[], Verdict::Return), rule(&[], Verdict::Drop)];
        assert_eq!(with(jump.clone(), &[], returns), Outcome::Accept);
        assert_eq!(with(jump.clone(), &[iif("eth0")], drops()), Outcome::Accept);
        assert_eq!(with(jump.clone(), &[unclear()], drops()), Outcome::Accept, "some are not all");
        let mut endless = chain(true, vec![rule(&[], jump.clone())]);
        endless.others.insert("other".to_owned(), vec![rule(&[], jump.clone()), rule(&[], jump)]);
        assert!(matches!(evaluate(&endless, &out()), Outcome::Unknown(_)));
    }

    #[test]
    fn addresses_and_ports_decide_where_they_are_known() {
        let net = |text: &str| text.parse::<IpNet>().expect("a network");
        let range = |net: IpNet| net.network()..=net.broadcast();
        let question = Packet {
            sources: vec![net("10.0.0.0/24")],
            destination: Some("10.0.0.1".parse().expect("an address")),
            destination_type: LOCAL,
            protocol: Some(17),
            port: Some(53),
            ..out()
        };
        let accepted = |test| evaluate(&chain(true, vec![rule(&[condition(test)], Verdict::Accept)]), &question);
        let unclear = |outcome| matches!(outcome, Outcome::Unknown(_));
        for test in [
            Test::Protocol(vec![6..=6, 17..=17]),
            Test::ToPort(vec![22..=22, 50..=60]),
            Test::To(vec![range(net("10.0.0.0/30"))]),
            Test::From(vec![range(net("10.0.0.0/8"))]),
            Test::ToType(LOCAL),
        ] {
            assert_eq!(accepted(test.clone()), Outcome::Accept, "{test:?}");
        }
        for test in [
            Test::Protocol(vec![6..=6]),
            Test::ToPort(vec![54..=60]),
            Test::To(vec![range(net("10.0.0.8/30"))]),
            Test::To(vec![range(net("::/0"))]),
            Test::From(vec![range(net("10.1.0.0/16"))]),
        ] {
            assert_eq!(accepted(test.clone()), Outcome::Drop, "{test:?}");
        }
        assert!(unclear(accepted(Test::From(vec![range(net("10.0.0.4/30"))]))), "some of them");
        let unknown = chain(true, vec![rule(&[condition(Test::ToPort(vec![53..=53]))], Verdict::Accept)]);
        assert!(unclear(evaluate(&unknown, &out())));
        let redirects = chain(false, vec![rule(&[condition(Test::ToPort(vec![53..=53]))], Verdict::Dnat)]);
        assert_eq!(evaluate(&redirects, &question), Outcome::Dnat("rule 1 of FORWARD".to_owned()));
        assert_eq!(evaluate(&redirects, &out()), Outcome::Accept, "some are not all");
        assert_eq!(dnat_rule(&redirects, &question).as_deref(), Some("rule 1 of FORWARD"));
        let some = |tests: &[Test]| {
            let conditions: Vec<_> = tests.iter().cloned().map(condition).chain([super::tests::unclear()]).collect();
            let some = rule(&conditions, Verdict::Dnat);
            let mut other = chain(false, vec![rule(&[], Verdict::Jump("other".to_owned()))]);
            other.others.insert("other".to_owned(), vec![some.clone()]);
            [chain(false, vec![some]), other].map(|chain| dnat_rule(&chain, &question).is_some())
        };
        assert_eq!(some(&[Test::ToPort(vec![53..=53])]), [true; 2], "some packets for this very port");
        assert_eq!(some(&[Test::ToPort(vec![54..=54])]), [false; 2], "another port");
        assert_eq!(some(&[]), [false; 2], "packets of which nothing is known");
    }
}
