//! The way of a packet through the rules of a chain, as far as they can be understood without one.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::{BaseChain, Condition, Name, Rule, Test, Verdict};

/// So many rules are looked at, those of a chain that is entered twice counted twice.
const MAX_RULES: usize = 100_000;

/// How deep chains may call each other; in the kernel it is 16.
const MAX_DEPTH: usize = 16;

/// A packet, as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct Packet<'a> {
    /// Interfaces that it may have come by; none if that isn't known.
    pub came_by: Vec<&'a str>,
    /// Interfaces that it may leave by; none if that isn't known.
    pub leaves_by: Vec<&'a str>,
    /// Its version.
    pub is_ipv6: bool,
    /// The state of its connection.
    pub state: u32,
    /// Whether a port mapping gave it its destination.
    pub is_diverted: bool,
    /// The protocol of its payload.
    pub protocol: Option<u8>,
    /// The port that it is for.
    pub port: Option<u16>,
    /// Networks that it may come from; none if that isn't known.
    pub sources: Vec<IpNet>,
    /// Whom it is for.
    pub destination: Option<IpAddr>,
    /// Of which type that is, as a bit of the survey's; 0 if that isn't known.
    pub destination_type: u32,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passage {
    /// It passes.
    Open,
    /// It is dropped.
    Closed,
    /// This rule gives it another destination.
    Diverted(String),
    /// That depends on what this rule means.
    Unknown(String),
}

/// The rule by which a chain gives packets for a port another destination: all of them, or some, if the rule names that port.
pub fn diversion(chain: &BaseChain, packet: &Packet<'_>) -> Option<String> {
    let mut walk = Walk::new(chain, packet);
    match walk.rules(&chain.name, &chain.rules, MAX_DEPTH) {
        End::Diverted(diversion) => Some(diversion.place),
        End::Accepted | End::Dropped | End::Through => walk.may_divert,
    }
}

/// What becomes of a packet in a chain.
pub fn passage(chain: &BaseChain, packet: &Packet<'_>) -> Passage {
    let mut walk = Walk::new(chain, packet);
    let is_accepted = match walk.rules(&chain.name, &chain.rules, MAX_DEPTH) {
        End::Diverted(diversion) => return Passage::Diverted(diversion.place),
        End::Accepted => true,
        End::Dropped => false,
        End::Through => !chain.drops,
    };
    match walk.doubt {
        _ if is_accepted => Passage::Open,
        Some(doubt) => Passage::Unknown(doubt),
        None => Passage::Closed,
    }
}

/// How a chain ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Accepted,
    Dropped,
    Diverted(Diversion),
    /// No rule has decided.
    Through,
}

/// A rule that gives packets another destination.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Diversion {
    place: String,
    /// Whether it asks for the packet's port.
    names_port: bool,
}

struct Walk<'a> {
    chain: &'a BaseChain,
    packet: &'a Packet<'a>,
    /// The first rule that may let the packet pass, or past a rule that drops it.
    doubt: Option<String>,
    /// The first rule that gives some packets for the port another destination.
    may_divert: Option<String>,
    rules_left: usize,
}

impl<'a> Walk<'a> {
    const fn new(chain: &'a BaseChain, packet: &'a Packet<'a>) -> Self {
        Self { chain, packet, doubt: None, may_divert: None, rules_left: MAX_RULES }
    }

    fn rules(&mut self, name: &str, rules: &[Rule], depth: usize) -> End {
        for rule in rules {
            let place = || format!("{} of {name}", rule.place);
            let Some(left) = self.rules_left.checked_sub(1) else {
                self.doubt.get_or_insert_with(|| format!("{}, and more rules than are looked at", place()));
                return End::Dropped;
            };
            self.rules_left = left;
            let names_port = rule.conditions.iter().any(|it| !it.is_negated && matches!(it.test, Test::ToPort(_)));
            let diversion = || Diversion { place: place(), names_port };
            let is_met = match meets(self.packet, &rule.conditions) {
                Answer::No => continue,
                Answer::Yes => None,
                Answer::Perhaps(word) => Some(format!("{} ({word})", place())),
            };
            match (&rule.verdict, is_met) {
                (Verdict::Accept, None) => return End::Accepted,
                (Verdict::Drop, None) => return End::Dropped,
                (Verdict::Divert, None) => return End::Diverted(diversion()),
                (Verdict::Return, None) => return End::Through,
                // A rule that drops some packets only is there on purpose.
                (Verdict::Drop, Some(_)) | (Verdict::Continue, _) => {}
                (Verdict::Divert, Some(_)) => self.may_divert(diversion()),
                (Verdict::Accept | Verdict::Return, Some(doubt)) => self.doubts(doubt),
                (Verdict::Other(word), met) => self.doubts(met.unwrap_or_else(|| format!("{} ({word})", place()))),
                (Verdict::Jump(other) | Verdict::Goto(other), met) => {
                    let is_goto = matches!(rule.verdict, Verdict::Goto(_));
                    match (self.other(other, depth), met) {
                        (End::Through, None) if is_goto => return End::Through,
                        (End::Through | End::Dropped, Some(_)) | (End::Through, None) => {}
                        (End::Diverted(diversion), Some(_)) => self.may_divert(diversion),
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

    fn may_divert(&mut self, diversion: Diversion) {
        if diversion.names_port {
            self.may_divert.get_or_insert(diversion.place);
        }
    }

    fn doubts(&mut self, doubt: String) {
        self.doubt.get_or_insert(doubt);
    }
}

/// Whether a packet meets conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
    /// It depends on this.
    Perhaps(String),
}

fn meets(packet: &Packet<'_>, conditions: &[Condition]) -> Answer {
    let mut all = Answer::Yes;
    for condition in conditions {
        match (fits(packet, &condition.test), condition.is_negated) {
            (Answer::No, false) | (Answer::Yes, true) => return Answer::No,
            (Answer::Perhaps(word), _) if all == Answer::Yes => all = Answer::Perhaps(word),
            _ => {}
        }
    }
    all
}

fn fits(packet: &Packet<'_>, test: &Test) -> Answer {
    let known = |yes| if yes { Answer::Yes } else { Answer::No };
    match test {
        Test::CameBy(names) => one_of(&packet.came_by, names, &packet.leaves_by),
        Test::LeavesBy(names) => one_of(&packet.leaves_by, names, &packet.came_by),
        Test::State(states) => known(states & packet.state != 0),
        Test::IsDiverted => known(packet.is_diverted),
        Test::IsIpv6(is_ipv6) => known(*is_ipv6 == packet.is_ipv6),
        Test::Protocol(ranges) => within(packet.protocol.as_ref(), ranges, "a protocol"),
        Test::ToPort(ranges) => within(packet.port.as_ref(), ranges, "a port"),
        Test::To(ranges) => within(packet.destination.as_ref(), ranges, "an address"),
        Test::From(ranges) => comes_from(&packet.sources, ranges),
        Test::ToType(_) if packet.destination_type == 0 => Answer::Perhaps("a type of address".to_owned()),
        Test::ToType(types) => known(types & packet.destination_type != 0),
        Test::Other(word) => Answer::Perhaps(word.clone()),
    }
}

fn within<T: PartialOrd>(value: Option<&T>, ranges: &[RangeInclusive<T>], word: &str) -> Answer {
    match value {
        Some(value) if ranges.iter().any(|range| range.contains(value)) => Answer::Yes,
        Some(_) => Answer::No,
        None => Answer::Perhaps(word.to_owned()),
    }
}

/// Whether any of the networks that a packet may come from is within one of the ranges.
fn comes_from(sources: &[IpNet], ranges: &[RangeInclusive<IpAddr>]) -> Answer {
    let ends = |net: &IpNet| (net.network(), net.broadcast());
    let is_inside = |net: &IpNet| {
        let (first, last) = ends(net);
        ranges.iter().any(|range| range.contains(&first) && range.contains(&last))
    };
    let is_outside = |net: &IpNet| {
        let (first, last) = ends(net);
        // Of two ranges that meet, one has the other's first address in it.
        !ranges.iter().any(|range| range.contains(&first) || (first..=last).contains(range.start()))
    };
    match sources {
        [] => Answer::Perhaps("an address".to_owned()),
        all if all.iter().all(is_inside) => Answer::Yes,
        all if all.iter().all(is_outside) => Answer::No,
        _ => Answer::Perhaps("an address".to_owned()),
    }
}

/// Whether one of the interfaces has one of the names. Where none is known, it is none of those on the other side.
fn one_of(interfaces: &[&str], names: &[Name], other_side: &[&str]) -> Answer {
    let is_of_other_side = |name: &Name| matches!(name, Name::Exactly(name) if other_side.contains(&name.as_str()));
    let fitting = interfaces.iter().filter(|interface| names.iter().any(|name| name.fits(interface))).count();
    match fitting {
        // Every name begins with nothing.
        _ if names.contains(&Name::From(String::new())) => Answer::Yes,
        _ if interfaces.is_empty() && names.iter().all(is_of_other_side) => Answer::No,
        _ if interfaces.is_empty() => Answer::Perhaps("an interface".to_owned()),
        0 => Answer::No,
        all if all == interfaces.len() => Answer::Yes,
        _ => Answer::Perhaps("an interface".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{ESTABLISHED, LOCAL, NEW};
    use crate::testing::{came_by, chain, condition, leaves_by, rule, state, unclear};

    fn out() -> Packet<'static> {
        Packet { came_by: vec!["emperor0"], leaves_by: vec!["eth0"], state: NEW, ..Packet::default() }
    }

    fn back() -> Packet<'static> {
        Packet { came_by: vec!["eth0"], leaves_by: vec!["emperor0"], state: ESTABLISHED, ..out() }
    }

    fn not(condition: Condition) -> Condition {
        Condition { is_negated: true, ..condition }
    }

    #[test]
    fn first_rule_that_fits_decides() {
        let accept = || rule(&[came_by("emperor0")], Verdict::Accept);
        let both = chain(true, vec![accept(), rule(&[state(ESTABLISHED)], Verdict::Accept)]);
        assert_eq!((passage(&both, &out()), passage(&both, &back())), (Passage::Open, Passage::Open));
        let one = chain(true, vec![accept()]);
        assert_eq!((passage(&one, &out()), passage(&one, &back())), (Passage::Open, Passage::Closed));
        let drop = || rule(&[came_by("emperor0")], Verdict::Drop);
        assert_eq!(passage(&chain(true, vec![drop(), accept()]), &out()), Passage::Closed, "its name is not enough");
        assert_eq!(
            passage(&chain(false, vec![rule(&[], Verdict::Drop)]), &out()),
            Passage::Closed,
            "as good as a policy"
        );
        assert_eq!(passage(&chain(false, Vec::new()), &out()), Passage::Open);
        let others = rule(&[not(came_by("eth0"))], Verdict::Accept);
        let others = chain(true, vec![others]);
        assert_eq!((passage(&others, &out()), passage(&others, &back())), (Passage::Open, Passage::Closed));
    }

    #[test]
    fn what_is_not_understood_is_a_doubt_where_it_could_let_pass() {
        let doubt = Passage::Unknown("rule 1 of FORWARD (payload)".to_owned());
        let perhaps = |verdict| rule(&[unclear()], verdict);
        assert_eq!(passage(&chain(true, vec![perhaps(Verdict::Accept)]), &out()), doubt);
        assert_eq!(passage(&chain(true, vec![perhaps(Verdict::Return)]), &out()), doubt);
        assert_eq!(passage(&chain(true, vec![rule(&[], Verdict::Other("payload".to_owned()))]), &out()), doubt);
        assert_eq!(passage(&chain(true, vec![perhaps(Verdict::Drop)]), &out()), Passage::Closed);
        assert_eq!(passage(&chain(false, vec![perhaps(Verdict::Drop)]), &out()), Passage::Open, "some are not all");
        let elsewhere = rule(&[came_by("docker0"), unclear()], Verdict::Accept);
        assert_eq!(passage(&chain(true, vec![elsewhere]), &out()), Passage::Closed, "another's rule");
    }

    #[test]
    fn interfaces_that_are_not_known_are_a_doubt() {
        let packet = Packet { leaves_by: Vec::new(), ..out() };
        let to_docker = chain(true, vec![rule(&[leaves_by("docker0")], Verdict::Accept)]);
        assert_eq!(passage(&to_docker, &out()), Passage::Closed);
        assert!(matches!(passage(&to_docker, &packet), Passage::Unknown(_)));
        let all = condition(Test::LeavesBy(vec![Name::From(String::new())]));
        assert_eq!(passage(&chain(true, vec![rule(&[all], Verdict::Accept)]), &packet), Passage::Open);
    }

    #[test]
    fn chains_are_followed() {
        let with = |verdict: Verdict, conditions: &[Condition], end: Vec<Rule>| {
            let mut chain = chain(true, vec![rule(conditions, verdict), rule(&[], Verdict::Accept)]);
            chain.others.insert("other".to_owned(), end);
            passage(&chain, &out())
        };
        let (jump, goto) = (Verdict::Jump("other".to_owned()), Verdict::Goto("other".to_owned()));
        let drops = || vec![rule(&[], Verdict::Drop)];
        assert_eq!(with(jump.clone(), &[], drops()), Passage::Closed);
        assert_eq!(with(jump.clone(), &[], Vec::new()), Passage::Open, "it comes back");
        assert_eq!(with(goto, &[], Vec::new()), Passage::Closed, "it comes back to the policy");
        let returns = vec![rule(&[], Verdict::Return), rule(&[], Verdict::Drop)];
        assert_eq!(with(jump.clone(), &[], returns), Passage::Open);
        assert_eq!(with(jump.clone(), &[came_by("eth0")], drops()), Passage::Open);
        assert_eq!(with(jump.clone(), &[unclear()], drops()), Passage::Open, "some are not all");
        let mut endless = chain(true, vec![rule(&[], jump.clone())]);
        endless.others.insert("other".to_owned(), vec![rule(&[], jump.clone()), rule(&[], jump)]);
        assert!(matches!(passage(&endless, &out()), Passage::Unknown(_)));
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
        let accepted = |test| passage(&chain(true, vec![rule(&[condition(test)], Verdict::Accept)]), &question);
        let unclear = |passage| matches!(passage, Passage::Unknown(_));
        for test in [
            Test::Protocol(vec![6..=6, 17..=17]),
            Test::ToPort(vec![22..=22, 50..=60]),
            Test::To(vec![range(net("10.0.0.0/30"))]),
            Test::From(vec![range(net("10.0.0.0/8"))]),
            Test::ToType(LOCAL),
        ] {
            assert_eq!(accepted(test.clone()), Passage::Open, "{test:?}");
        }
        for test in [
            Test::Protocol(vec![6..=6]),
            Test::ToPort(vec![54..=60]),
            Test::To(vec![range(net("10.0.0.8/30"))]),
            Test::To(vec![range(net("::/0"))]),
            Test::From(vec![range(net("10.1.0.0/16"))]),
        ] {
            assert_eq!(accepted(test.clone()), Passage::Closed, "{test:?}");
        }
        assert!(unclear(accepted(Test::From(vec![range(net("10.0.0.4/30"))]))), "some of them");
        let unknown = chain(true, vec![rule(&[condition(Test::ToPort(vec![53..=53]))], Verdict::Accept)]);
        assert!(unclear(passage(&unknown, &out())));
        let diverts = chain(false, vec![rule(&[condition(Test::ToPort(vec![53..=53]))], Verdict::Divert)]);
        assert_eq!(passage(&diverts, &question), Passage::Diverted("rule 1 of FORWARD".to_owned()));
        assert_eq!(passage(&diverts, &out()), Passage::Open, "some are not all");
        assert_eq!(diversion(&diverts, &question).as_deref(), Some("rule 1 of FORWARD"));
        let some = |tests: &[Test]| {
            let conditions: Vec<_> = tests.iter().cloned().map(condition).chain([super::tests::unclear()]).collect();
            let some = rule(&conditions, Verdict::Divert);
            let mut other = chain(false, vec![rule(&[], Verdict::Jump("other".to_owned()))]);
            other.others.insert("other".to_owned(), vec![some.clone()]);
            [chain(false, vec![some]), other].map(|chain| diversion(&chain, &question).is_some())
        };
        assert_eq!(some(&[Test::ToPort(vec![53..=53])]), [true; 2], "some packets for this very port");
        assert_eq!(some(&[Test::ToPort(vec![54..=54])]), [false; 2], "another port");
        assert_eq!(some(&[]), [false; 2], "packets of which nothing is known");
    }
}
