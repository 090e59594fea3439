//! Which flows or dropped packets a client asks for.

use std::net::IpAddr;

use ipnet::IpNet;

use tuntap_api::control::{Code, Dropped, Failure, FlowEntry, FlowFilter};
use tuntap_config::protocol;
use tuntap_wire::selector::Protocol;

/// A filter whose values were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    peer: Option<i32>,
    uid: Option<u32>,
    network: Option<IpNet>,
    protocol: Option<Protocol>,
    port: Option<u16>,
    rule: Option<u32>,
    verdict: Option<String>,
}

impl Filter {
    /// Reads a filter.
    pub fn new(filter: &FlowFilter) -> Result<Self, Failure> {
        let network = |text: &String| {
            let found = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            found.ok_or_else(|| invalid(format!("\"{text}\" is no address or network")))
        };
        let protocol = |word: &String| protocol(word).map_err(|problem| invalid(problem.to_string()));
        let verdict = |word: &String| match word.as_str() {
            "allow" | "deny" | "reject" => Ok(word.clone()),
            _ => Err(invalid(format!("\"{word}\" is no verdict, expected allow, deny or reject"))),
        };
        Ok(Self {
            peer: filter.peer,
            uid: filter.uid,
            network: filter.address.as_ref().map(network).transpose()?,
            protocol: filter.protocol.as_ref().map(protocol).transpose()?,
            port: filter.port,
            rule: filter.rule,
            verdict: filter.verdict.as_ref().map(verdict).transpose()?,
        })
    }

    /// Reads a filter of dropped packets, which have no verdict.
    pub fn of_drops(filter: &FlowFilter) -> Result<Self, Failure> {
        if filter.verdict.is_some() {
            return Err(invalid("dropped packets can't be chosen by a verdict".to_owned()));
        }
        Self::new(filter)
    }

    /// Returns true if everything matches.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns true if a flow is what is asked for.
    pub fn matches_flow(&self, flow: &FlowEntry) -> bool {
        let verdicts = [&flow.verdict_out, &flow.verdict_in];
        self.peer.is_none_or(|peer| flow.peer == peer)
            && self.uid.is_none_or(|uid| flow.uid == uid)
            && self.matches_packet([flow.local, flow.remote], flow.protocol)
            && self.port.is_none_or(|port| flow.local_port == port || flow.remote_port == port)
            && self.rule.is_none_or(|rule| [flow.rule_out, flow.rule_in].contains(&Some(rule)))
            && self.verdict.as_ref().is_none_or(|wanted| verdicts.iter().any(|found| found.as_ref() == Some(wanted)))
    }

    /// Returns true if a dropped packet is what is asked for.
    pub fn matches_drop(&self, dropped: &Dropped) -> bool {
        self.peer.is_none_or(|peer| dropped.peer == Some(peer))
            && self.uid.is_none_or(|uid| dropped.uid == Some(uid))
            && self.matches_packet([dropped.src, dropped.dst], dropped.protocol)
            && self.port.is_none_or(|port| [dropped.src_port, dropped.dst_port].contains(&Some(port)))
            && self.rule.is_none_or(|rule| dropped.rule == Some(rule))
    }

    fn matches_packet(&self, ends: [IpAddr; 2], number: u8) -> bool {
        self.network.is_none_or(|network| ends.iter().any(|end| network.contains(end)))
            && self.protocol.is_none_or(|protocol| protocol.number(ends[0].is_ipv4()) == number)
    }
}

fn invalid(message: String) -> Failure {
    Failure { code: Code::Invalid, message, line: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tuntap_api::control::Direction;

    fn dropped() -> Dropped {
        Dropped {
            time: 0,
            millis: 0,
            peer: Some(7),
            uid: Some(1000),
            direction: Direction::Out,
            src: [10, 0, 0, 2].into(),
            src_port: Some(40_000),
            dst: [192, 0, 2, 1].into(),
            dst_port: Some(25),
            protocol: 6,
            len: 60,
            reason: "firewall".to_owned(),
            rule: Some(3),
        }
    }

    fn filter(json: &str) -> Result<Filter, Failure> {
        Filter::of_drops(&serde_json::from_str(json).expect("a filter"))
    }

    #[test]
    fn all_conditions_must_hold() {
        for (json, expected) in [
            ("{}", true),
            (r#"{"peer": 7, "uid": 1000, "address": "192.0.2.0/24", "protocol": "tcp", "port": 25, "rule": 3}"#, true),
            (r#"{"address": "10.0.0.2"}"#, true),
            (r#"{"address": "10.0.0.3"}"#, false),
            (r#"{"address": "::/0"}"#, false),
            (r#"{"protocol": "6", "port": 40000}"#, true),
            (r#"{"protocol": "udp"}"#, false),
            (r#"{"protocol": "tcp", "port": 26}"#, false),
            (r#"{"peer": 8}"#, false),
            (r#"{"uid": 0}"#, false),
            (r#"{"rule": 4}"#, false),
        ] {
            assert_eq!(filter(json).expect("valid").matches_drop(&dropped()), expected, "{json}");
        }
    }

    #[test]
    fn icmp_has_a_number_for_each_version() {
        let icmp = filter(r#"{"protocol": "icmp"}"#).expect("valid");
        let v4 = Dropped { protocol: 1, ..dropped() };
        let v6 = Dropped { src: [1; 16].into(), dst: [2; 16].into(), protocol: 58, ..dropped() };
        assert!(icmp.matches_drop(&v4) && !icmp.matches_drop(&dropped()));
        assert_eq!(icmp.matches_drop(&v6), Protocol::Icmp.number(false) == 58);
    }

    #[test]
    fn values_that_make_no_sense_are_named() {
        for (json, part) in [
            (r#"{"address": "10.0.0.0/33"}"#, "10.0.0.0/33"),
            (r#"{"protocol": "tpc"}"#, "tpc"),
            (r#"{"verdict": "deny"}"#, "verdict"),
        ] {
            assert!(filter(json).expect_err(json).message.contains(part), "{json}");
        }
        let wrong = FlowFilter { verdict: Some("drop".to_owned()), ..FlowFilter::default() };
        assert!(Filter::new(&wrong).expect_err("no such verdict").message.contains("drop"));
        assert!(filter("{}").expect("valid").is_empty());
    }
}
