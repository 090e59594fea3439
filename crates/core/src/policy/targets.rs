//! The gateways of other routers that peers may name in their rules.

use std::collections::HashSet;
use std::net::SocketAddr;

use ipnet::IpNet;

/// A range of gateways that peers may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetRange {
    /// Their addresses.
    pub prefix: IpNet,
    /// Their port. `None` allows every port.
    pub port: Option<u16>,
}

/// All gateways that peers may name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedTargets {
    exact: HashSet<SocketAddr>,
    ranges: Vec<TargetRange>,
}

impl AllowedTargets {
    /// Allows single gateways and ranges of them.
    pub fn new(exact: impl IntoIterator<Item = SocketAddr>, ranges: impl IntoIterator<Item = TargetRange>) -> Self {
        Self { exact: exact.into_iter().collect(), ranges: ranges.into_iter().collect() }
    }

    /// Returns true if peers may name this gateway. Called once for each rule, not for each packet.
    pub fn allow(&self, target: SocketAddr) -> bool {
        let in_range = |range: &TargetRange| {
            range.prefix.contains(&target.ip()) && range.port.is_none_or(|port| port == target.port())
        };
        self.exact.contains(&target) || self.ranges.iter().any(in_range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_addresses_count() {
        let target = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let range = |prefix: &str, port| TargetRange { prefix: prefix.parse().expect("a prefix"), port };
        let allowed = AllowedTargets::new(
            [target("192.0.2.1:4000")],
            [range("10.0.0.0/8", Some(999)), range("203.0.113.7/32", None), range("2001:db8::/32", Some(999))],
        );
        for (text, expected) in [
            ("192.0.2.1:4000", true),
            ("192.0.2.1:4001", false),
            ("192.0.2.2:4000", false),
            ("10.1.2.3:999", true),
            ("10.1.2.3:998", false),
            ("203.0.113.7:1", true),
            ("203.0.113.8:1", false),
            ("[2001:db8::7]:999", true),
            ("[2001:db8::7]:998", false),
            ("[2001:db9::7]:999", false),
            ("[::ffff:10.1.2.3]:999", false),
        ] {
            assert_eq!(allowed.allow(target(text)), expected, "{text}");
        }
        assert!(!AllowedTargets::default().allow(target("192.0.2.1:4000")));
    }
}
