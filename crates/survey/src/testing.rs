//! Makers of values for tests, here and in crates above this one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use crate::filter::{BaseChain, Condition, Hook, Name, Rule, Test, Verdict};
use crate::services::Service;

/// A condition that is not negated.
pub fn condition(test: Test) -> Condition {
    Condition { test, is_negated: false }
}

/// On the interface by which a packet came.
pub fn iif(name: &str) -> Condition {
    condition(Test::Iif(vec![Name::Exactly(name.to_owned())]))
}

/// On the interface by which a packet leaves.
pub fn oif(name: &str) -> Condition {
    condition(Test::Oif(vec![Name::Exactly(name.to_owned())]))
}

/// On the state of its connection.
pub fn state(states: u32) -> Condition {
    condition(Test::State(states))
}

/// On whether its destination was changed.
pub fn dnat() -> Condition {
    condition(Test::IsDnat)
}

/// One that the reader of rules does not understand.
pub fn unclear() -> Condition {
    condition(Test::Other("payload".to_owned()))
}

/// A rule.
pub fn rule(conditions: &[Condition], verdict: Verdict) -> Rule {
    Rule { place: "rule 1".to_owned(), conditions: conditions.to_vec(), verdict }
}

/// A chain of the hook `forward`.
pub fn chain(drops: bool, rules: Vec<Rule>) -> BaseChain {
    BaseChain {
        table: "ip filter".to_owned(),
        name: "FORWARD".to_owned(),
        hook: Hook::Forward,
        is_nat: false,
        is_ipv6: Some(false),
        drops,
        rules,
        others: BTreeMap::new(),
    }
}

/// One that is what its address says.
pub fn service(protocol: &'static str, address: &str, port: u16) -> Service {
    let address: IpAddr = address.parse().expect("an address");
    let takes_ipv4 = address == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    Service { protocol, address, port, takes_ipv4, may_be_client: false, process: None, inode: 0 }
}
