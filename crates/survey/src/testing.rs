//! Constructors of values for tests, of this crate and of crates that use it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use crate::filter::{BaseChain, Condition, FilterRule, Hook, Name, Test, Verdict};
use crate::services::Service;

/// A condition that is not negated.
pub fn condition(test: Test) -> Condition {
    Condition { test, is_negated: false }
}

/// A condition on the interface by which a packet came in.
pub fn iif(name: &str) -> Condition {
    condition(Test::Iif(vec![Name::Exactly(name.to_owned())]))
}

/// A condition on the interface by which a packet goes out.
pub fn oif(name: &str) -> Condition {
    condition(Test::Oif(vec![Name::Exactly(name.to_owned())]))
}

/// A condition on the state of a packet's connection.
pub fn state(states: u32) -> Condition {
    condition(Test::State(states))
}

/// The condition that a packet's destination was changed.
pub fn dnat() -> Condition {
    condition(Test::IsDnat)
}

/// A condition that the reader of rules does not understand.
pub fn unclear() -> Condition {
    condition(Test::Other("payload".to_owned()))
}

/// A filter rule.
pub fn rule(conditions: &[Condition], verdict: Verdict) -> FilterRule {
    FilterRule { place: "rule 1".to_owned(), conditions: conditions.to_vec(), verdict }
}

/// A chain with the hook `forward`. `drops`: its policy is to drop.
pub fn chain(drops: bool, rules: Vec<FilterRule>) -> BaseChain {
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

/// A service on an address. A socket for all addresses of IPv6 takes IPv4, too.
pub fn service(protocol: &'static str, address: &str, port: u16) -> Service {
    let address: IpAddr = address.parse().expect("an address");
    let takes_ipv4 = address == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    Service { protocol, address, port, takes_ipv4, may_be_client: false, process: None, inode: 0 }
}
