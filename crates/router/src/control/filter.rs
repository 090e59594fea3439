//! Which flows, dropped or captured packets a client asks for.

use std::net::IpAddr;

use ipnet::IpNet;

use tuntap_api::control::{Dropped, Failure, FlowFilter};
use tuntap_config::protocol;
use tuntap_core::router::capture::{CaptureFilter, CaptureVerdict, Selection};
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

/// What a filter looks at in a flow.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// The user of the vassal.
    pub uid: u32,
    /// The addresses.
    pub ends: [IpAddr; 2],
    /// The number of the protocol.
    pub protocol: u8,
    /// The ports.
    pub ports: [u16; 2],
    /// The rules that have decided.
    pub rules: [Option<u32>; 2],
    /// What they have decided.
    pub verdicts: [Option<&'static str>; 2],
}

impl Filter {
    /// Reads a filter.
    pub fn new(filter: &FlowFilter) -> Result<Self, Failure> {
        let network = |text: &String| {
            let found = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            found.ok_or_else(|| Failure::invalid(format!("\"{text}\" is no address or network")))
        };
        let protocol = |word: &String| protocol(word).map_err(|problem| Failure::invalid(problem.to_string()));
        let verdict = |word: &String| match word.as_str() {
            "allow" | "deny" | "reject" => Ok(word.clone()),
            _ => Err(Failure::invalid(format!("\"{word}\" is no verdict, expected allow, deny or reject"))),
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
            return Err(Failure::invalid("dropped packets can't be chosen by a verdict".to_owned()));
        }
        Self::new(filter)
    }

    /// Which packets a capture is for, by this filter and what a rule would say.
    pub fn of_capture(&self, selection: Option<Selection>) -> CaptureFilter {
        let verdict = self.verdict.as_deref().and_then(|word| match word {
            "allow" => Some(CaptureVerdict::Allow),
            "deny" => Some(CaptureVerdict::Deny),
            "reject" => Some(CaptureVerdict::Reject),
            _ => None,
        });
        let Self { peer, uid, network, protocol, port, rule, .. } = *self;
        CaptureFilter { pid: peer, uid, network, protocol, port, rule, verdict, selection }
    }

    /// Returns true if everything matches.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The process whose flows are asked for.
    pub const fn peer(&self) -> Option<i32> {
        self.peer
    }

    /// Returns true if a flow is what is asked for. `is_of_peer` says if it belongs to the process of [`Self::peer`].
    pub fn matches_flow(&self, flow: &Subject, is_of_peer: bool) -> bool {
        let verdict = self.verdict.as_deref();
        is_of_peer
            && self.uid.is_none_or(|uid| flow.uid == uid)
            && self.matches_packet(flow.ends, flow.protocol)
            && self.port.is_none_or(|port| flow.ports.contains(&port))
            && self.rule.is_none_or(|rule| flow.rules.contains(&Some(rule)))
            && (verdict.is_none() || flow.verdicts.contains(&verdict))
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
    fn flows_match_by_either_end_and_either_verdict() {
        let flow = Subject {
            uid: 7,
            ends: [[10, 0, 0, 2].into(), [192, 0, 2, 1].into()],
            protocol: 17,
            ports: [5000, 53],
            rules: [None, Some(4)],
            verdicts: [Some("allow"), Some("reject")],
        };
        let matches = |json: &str, is_of_peer| {
            let filter = Filter::new(&serde_json::from_str(json).expect("a filter")).expect("valid");
            filter.matches_flow(&flow, is_of_peer)
        };
        assert!(matches(r#"{"uid": 7, "address": "192.0.2.1", "protocol": "udp", "port": 53}"#, true));
        assert!(matches(r#"{"verdict": "reject", "rule": 4}"#, true) && matches(r#"{"verdict": "allow"}"#, true));
        for json in [r#"{"verdict": "deny"}"#, r#"{"rule": 3}"#, r#"{"port": 80}"#, r#"{"uid": 8}"#] {
            assert!(!matches(json, true), "{json}");
        }
        assert!(!matches("{}", false), "it is another peer's");
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
