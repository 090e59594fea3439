//! What would happen to a packet that a client describes.

use std::net::IpAddr;

use crate::event_loop::EventLoop;
use tuntap_api::control::{Direction, Failure, State, Step, TestPacket, Tested};
use tuntap_config::protocol;
use tuntap_core::policy::explain::{Explanation, Outcome, Probe, ProbeSource};
use tuntap_core::policy::registry::PeerId;
use tuntap_core::policy::verdict::{Outbound, PacketSource};
use tuntap_wire::ip::protocol::TCP;
use tuntap_wire::ip::{Packet, header};
use tuntap_wire::rule::Direction as Way;
use tuntap_wire::selector::{ConnectionState, Protocol};

use super::flows::policy_rule;

/// Long enough for the header of each protocol that the router looks at.
const PAYLOAD_LEN: usize = 20;

/// ICMP echo request (RFC 792) and ICMPv6 echo request (RFC 4443).
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

/// The offset of TCP's data in words of 4 bytes, and the flag that opens a connection (RFC 9293).
const TCP_OFFSET: u8 = 5 << 4;
const TCP_SYN: u8 = 2;

/// A packet that a client describes, as bytes.
#[derive(Debug)]
pub struct Described {
    bytes: Vec<u8>,
    direction: Direction,
    src: IpAddr,
    peer: Option<i32>,
    state: Option<ConnectionState>,
}

impl Described {
    /// Makes the packet.
    pub fn new(packet: &TestPacket) -> Result<Self, Failure> {
        let has_port = packet.src_port.or(packet.dst_port).is_some();
        let is_v4 = packet.src.is_ipv4();
        let number = match &packet.protocol {
            Some(word) => protocol(word).map_err(|problem| Failure::invalid(problem.to_string()))?.number(is_v4),
            None if has_port => TCP,
            None => Protocol::Icmp.number(is_v4),
        };
        let ports = [packet.src_port, packet.dst_port].map(Option::unwrap_or_default);
        let state = packet.state.map(|state| match state {
            State::New => ConnectionState::New,
            State::Established => ConnectionState::Established,
        });
        let mut bytes = header(packet.src, packet.dst, number, PAYLOAD_LEN).ok_or_else(|| {
            Failure::invalid(format!("{} and {} are of different IP versions", packet.src, packet.dst))
        })?;
        bytes.extend(payload(is_v4, number, ports));
        Ok(Self { bytes, direction: packet.direction, src: packet.src, peer: packet.peer, state })
    }
}

/// The payload of a packet. Nobody looks at its checksums.
fn payload(is_v4: bool, number: u8, [src_port, dst_port]: [u16; 2]) -> [u8; PAYLOAD_LEN] {
    let mut payload = [0; PAYLOAD_LEN];
    if number == Protocol::Icmp.number(is_v4) {
        payload[0] = if is_v4 { ECHO_REQUEST } else { ECHO_REQUEST_V6 };
    } else {
        payload[..2].copy_from_slice(&src_port.to_be_bytes());
        payload[2..4].copy_from_slice(&dst_port.to_be_bytes());
        (payload[12], payload[13]) = (TCP_OFFSET, TCP_SYN);
    }
    payload
}

impl EventLoop<'_> {
    /// Says what would happen to a packet.
    pub(super) fn test(&mut self, described: &Described) -> Result<Tested, Failure> {
        let packet = Packet::parse(&described.bytes)
            .map_err(|_| Failure::invalid("there is no such packet: its protocol is an extension header".to_owned()))?;
        let from = match described.direction {
            Direction::In => ProbeSource::Outside(PacketSource::Tun),
            Direction::Out => ProbeSource::Peer(self.sender(described)?),
        };
        let probe = Probe { from, packet: &packet, state: described.state };
        let explanation = self.router.explain(&probe, &mut self.io.dry_run());
        let path = self.path(&explanation, described.direction);
        let tested = self.tested(&explanation);
        Ok(Tested { steps: tested.steps.into_iter().chain(path).collect(), ..tested })
    }

    /// The peer that would send it.
    fn sender(&self, described: &Described) -> Result<PeerId, Failure> {
        let not_found = |message| Failure::not_found(message);
        match described.peer {
            Some(pid) => {
                let found = self.router.peers().find(|peer| peer.credentials().pid == pid);
                found.map(|peer| peer.id()).ok_or_else(|| not_found(format!("no vassal is process {pid}")))
            }
            None => self.router.forwarder().holder(described.src).ok_or_else(|| {
                not_found(format!("no vassal holds {}: name the process of the one that is meant", described.src))
            }),
        }
    }

    /// Who would pass the packet on, if that can be the kernel, and the router if it passes at all.
    fn path(&mut self, explanation: &Explanation, direction: Direction) -> Option<Step> {
        let passes = !matches!(explanation.to, Outbound::Drop(_) | Outbound::Reject(_) | Outbound::Contested { .. });
        if !passes || !self.router.has_kernel_path() {
            return None;
        }
        let known = explanation.steps.iter().find_map(|step| match step.outcome {
            Outcome::Known(number, _) => Some(number),
            _ => None,
        });
        let way = if direction == Direction::In { Way::In } else { Way::Out };
        let why_not = match known {
            Some(number) => self.router.path_of(number, way).err().map(|why_not| why_not.to_string()),
            None => Some("its flow is not known".to_owned()),
        };
        let result = if why_not.is_none() { "kernel" } else { "router" };
        Some(Step { stage: "path".to_owned(), result: result.to_owned(), rule: None, note: why_not })
    }

    fn tested(&self, explanation: &Explanation) -> Tested {
        let (verdict, to, reason) = match explanation.to {
            Outbound::Drop(reason) => ("deny", None, Some(reason.name().to_owned())),
            Outbound::Reject(reason) => ("reject", None, Some(reason.name().to_owned())),
            to => ("allow", self.place(to), None),
        };
        let has_end = to.is_some();
        let steps = explanation.steps.iter().map(|step| {
            let (result, note) = self.outcome(step.outcome);
            let own = step.rule.filter(|rule| policy_rule(*rule).is_none()).map(|rule| rule.to_string());
            Step {
                stage: step.stage.name().to_owned(),
                result,
                rule: step.rule.and_then(policy_rule),
                note: note.or(own),
            }
        });
        let limits = explanation.queues.iter().filter(|_| has_end).filter_map(|(id, direction, class)| {
            let whose = self.router.limited_by(*id, *direction, *class)?;
            let stage = if *direction == Way::Out { "limit-out" } else { "limit-in" };
            Some(Step { stage: stage.to_owned(), result: whose.to_string(), rule: None, note: None })
        });
        Tested { verdict: verdict.to_owned(), to, reason, steps: steps.chain(limits).collect() }
    }

    /// The result of a step, and what explains it.
    fn outcome(&self, outcome: Outcome) -> (String, Option<String>) {
        let state = |state: Option<ConnectionState>| match state {
            Some(ConnectionState::New) => ", its state is new",
            Some(ConnectionState::Established) => ", its state is established",
            None => "",
        };
        match outcome {
            Outcome::Unknown(found) => ("pass".to_owned(), Some(format!("its flow is not known{}", state(found)))),
            Outcome::Known(_, found) => ("pass".to_owned(), Some(format!("its flow is known{}", state(found)))),
            Outcome::Pass => ("pass".to_owned(), None),
            Outcome::Claim(address) => ("pass".to_owned(), Some(format!("the vassal would get {address}"))),
            Outcome::Drop(reason) => ("deny".to_owned(), Some(reason.name().to_owned())),
            Outcome::Reject(reason) => ("reject".to_owned(), Some(reason.name().to_owned())),
            Outcome::HeldBy(peer) => {
                let holder = self.place(Outbound::Peer(peer)).unwrap_or_default();
                ("deny".to_owned(), Some(format!("{holder} holds the address")))
            }
            Outcome::To(to) => (self.place(to).unwrap_or_else(|| "pass".to_owned()), None),
        }
    }

    /// The words for where a packet goes; `None` if it is dropped.
    fn place(&self, to: Outbound) -> Option<String> {
        match to {
            Outbound::Tun => Some("tun".to_owned()),
            Outbound::Gateway(address) => Some(format!("gateway {address}")),
            Outbound::Trunk(id) => Some(
                self.router.trunks().map_or_else(String::new, |trunks| format!("trunk {}", trunks.view(id).router)),
            ),
            Outbound::Peer(id) => self.router.peer(id).map(|peer| {
                let address = peer.addresses().next().map(|address| format!(" ({address})")).unwrap_or_default();
                format!("peer {}{address}", peer.credentials().pid)
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tuntap_api::control::Code;
    use tuntap_wire::ip::FlowPart;

    fn described(json: &str) -> Result<Described, Failure> {
        Described::new(&serde_json::from_str(json).expect("a packet"))
    }

    #[test]
    fn packet_is_the_one_that_was_described() {
        for (json, protocol, ports) in [
            (r#"{"direction": "out", "src": "10.0.0.2", "dst": "192.0.2.1"}"#, 1, None),
            (r#"{"direction": "in", "src": "10.0.0.2", "dst": "192.0.2.1", "dst_port": 80}"#, 6, Some((0, 80))),
            (r#"{"direction": "in", "src": "fd00::2", "dst": "fd00::1"}"#, 58, None),
            (
                r#"{"direction": "in", "src": "fd00::2", "dst": "fd00::1", "protocol": "udp", "src_port": 53, "dst_port": 9}"#,
                17,
                Some((53, 9)),
            ),
            (r#"{"direction": "in", "src": "10.0.0.2", "dst": "10.0.0.3", "protocol": "gre"}"#, 47, None),
        ] {
            let described = described(json).expect("valid");
            let packet = Packet::parse(&described.bytes).expect("a packet");
            assert_eq!(packet.protocol(), protocol, "{json}");
            let text = format!("{} {}", packet.src(), packet.dst());
            assert!(text.split(' ').all(|address| json.contains(address)), "{text}");
            if let Some(ports) = ports {
                let FlowPart::Flow(found) = packet.flow_part() else { panic!("{json}: it has ports") };
                assert_eq!((found.first, found.second), ports, "{json}");
            }
        }
    }

    #[test]
    fn packets_that_cannot_be_are_named() {
        for (json, part) in [
            (r#"{"direction": "out", "src": "10.0.0.2", "dst": "fd00::1"}"#, "different IP versions"),
            (r#"{"direction": "out", "src": "10.0.0.2", "dst": "10.0.0.3", "protocol": "tpc"}"#, "tpc"),
        ] {
            let failure = described(json).expect_err(json);
            assert!(failure.code == Code::Invalid && failure.message.contains(part), "{failure:?}");
        }
    }
}
