//! What people want to see of single packets: those that rules log, and those that are dropped.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use tuntap_wire::gso::GsoPacket;
use tuntap_wire::ip::{FlowPart, Packet, Roles};
use tuntap_wire::rule::Direction;

use super::capture::CaptureFate;
use super::log::Cause;
use super::notice::Notice;
use super::shell::Shell;
use super::{Router, write};
use crate::policy::drops::DropReason;
use crate::policy::registry::PeerId;
use crate::policy::script::{Script, ScriptQuery, ScriptVerdict};
use crate::policy::verdict::RuleRef;

/// What is told about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketFacts {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// The number of its protocol.
    pub protocol: u8,
    /// Source and destination port, if it has them.
    pub ports: Option<(u16, u16)>,
    /// Its length in bytes.
    pub len: usize,
}

impl PacketFacts {
    pub(super) fn of(packet: &Packet<'_>) -> Self {
        let ports = match packet.flow_part() {
            FlowPart::Flow(ports) if ports.roles == Roles::Ports => Some((ports.first, ports.second)),
            FlowPart::Flow(_) | FlowPart::Error(_) | FlowPart::Fragment => None,
        };
        let (src, dst) = (packet.src(), packet.dst());
        Self { src, dst, protocol: packet.protocol(), ports, len: packet.total_len() }
    }
}

impl fmt::Display for PacketFacts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { src, dst, protocol, ports, len } = *self;
        match ports {
            Some((from, to)) => {
                let (src, dst) = (SocketAddr::new(src, from), SocketAddr::new(dst, to));
                write!(formatter, "{src} to {dst}, protocol {protocol}, {len} bytes")
            }
            None => write!(formatter, "{src} to {dst}, protocol {protocol}, {len} bytes"),
        }
    }
}

/// A dropped packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropRecord {
    /// The way of the packet.
    pub direction: Direction,
    /// The peer that has sent it or would have got it.
    pub peer: Option<PeerId>,
    /// The packet.
    pub packet: PacketFacts,
    /// Why it was dropped.
    pub reason: DropReason,
    /// The rule that decided.
    pub rule: Option<RuleRef>,
}

/// The script of the shell.
pub(super) struct ByShell<'a, S>(pub(super) &'a mut S);

impl<S: Shell> Script for ByShell<'_, S> {
    fn decide(&mut self, query: &ScriptQuery<'_>) -> Option<ScriptVerdict> {
        self.0.script(query)
    }

    fn is_beyond_nat(&mut self, address: IpAddr) -> bool {
        self.0.is_beyond_nat(address)
    }
}

impl Router {
    /// Starts or stops telling the shell about each dropped packet, see [`Shell::dropped`].
    pub const fn set_watch(&mut self, is_wanted: bool) {
        self.is_watched = is_wanted;
        self.update_observed();
    }

    pub(super) const fn update_observed(&mut self) {
        self.is_observed = self.is_watched || self.captures.is_on();
    }

    /// Tells those who watch or capture that a packet was dropped. `is_rejected`: its sender may get a reply.
    pub(super) fn report_drop(
        &self,
        shell: &mut impl Shell,
        (direction, peer): (Direction, Option<PeerId>),
        packet: &GsoPacket<'_>,
        (reason, is_rejected): (DropReason, bool),
        rule: Option<RuleRef>,
    ) {
        if self.is_watched {
            shell.dropped(&DropRecord { direction, peer, packet: PacketFacts::of(packet.packet()), reason, rule });
        }
        if self.captures.is_on() {
            let fate = if is_rejected { CaptureFate::Rejected(reason) } else { CaptureFate::Dropped(reason) };
            self.capture(shell, direction, peer, packet, fate, rule);
        }
    }

    /// Logs the rules that want it and that the latest packet has matched, unless the lines of the peer's account are used up.
    pub(super) fn note_logged_rules(
        &mut self,
        shell: &mut impl Shell,
        direction: Direction,
        peer: Option<PeerId>,
        packet: &Packet<'_>,
    ) {
        let to_log = self.forwarder.take_to_log();
        if to_log.is_empty() {
            return;
        }
        let cause = match direction {
            Direction::Out => peer,
            Direction::In => self.forwarder.sender(packet.src()).or(peer),
        };
        let account = cause.and_then(|cause| self.forwarder.account(cause));
        for rule in to_log.iter() {
            let line = self.rule_log.take(self.now, account.map(Cause::Account));
            write(shell, line, &Notice::RuleLog { rule, direction, packet: PacketFacts::of(packet) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use etherparse::PacketBuilder;
    use tuntap_wire::credentials::PeerCredentials;
    use tuntap_wire::selector::Selector;

    use super::super::Settings;
    use super::super::testing::{self, TestShell};
    use super::*;
    use crate::policy::Policy;
    use crate::policy::explain::{Outcome, Probe, ProbeSource, Stage};
    use crate::policy::flows::{Fate, Phase};
    use crate::policy::forward::Forwarder;
    use crate::policy::pattern::{Action, PolicyRules, RuleId, RuleSpec};
    use crate::policy::script::NoScript;
    use crate::policy::verdict::{Outbound, PacketSource};

    const VASSAL: [u8; 4] = [10, 0, 0, 2];
    const OUTSIDE: [u8; 4] = [192, 0, 2, 1];

    /// A packet as a device gives it: behind its header.
    fn packet(src: [u8; 4], dst: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
        let mut bytes = vec![0; 10];
        PacketBuilder::ipv4(src, dst, 64).udp(ports[0], ports[1]).write(&mut bytes, b"").expect("a valid packet");
        bytes
    }

    /// A router that lets nothing in and logs that, with a peer that has sent a packet.
    fn router(shell: &mut TestShell, now: Instant) -> (Router, PeerId) {
        let deny = RuleSpec { log: true, ..RuleSpec::new(RuleId(7), Selector::ALL, Action::Deny) };
        let policy = Policy { firewall_in: PolicyRules::of([deny]), ..Policy::default() };
        let mut router = Router::new(Forwarder::new(policy, 1), Settings::default(), now);
        let credentials = PeerCredentials { pid: 1, uid: 1000, gid: 1000 };
        let id = testing::connect_in_frames(&mut router, shell, credentials, now);
        router.device_packet(shell, id, &packet(VASSAL, OUTSIDE, [5, 53]), None);
        (router, id)
    }

    #[test]
    fn drops_are_told_with_their_rule_while_somebody_watches() {
        let (mut shell, now) = (TestShell::default(), Instant::now());
        let (mut router, id) = router(&mut shell, now);
        let answer = packet(OUTSIDE, VASSAL, [53, 5]);
        for is_wanted in [false, true, false] {
            router.set_watch(is_wanted);
            router.tun_packet(&mut shell, &answer, now, now);
        }
        let [record] = shell.dropped[..] else { panic!("{:?}", shell.dropped) };
        assert_eq!((record.direction, record.peer), (Direction::In, Some(id)));
        assert_eq!((record.reason, record.rule), (DropReason::Firewall, Some(RuleRef::FirewallIn(RuleId(7)))));
        assert_eq!((record.packet.ports, record.packet.len), (Some((53, 5)), 28));
    }

    #[test]
    fn rule_is_logged_once_for_a_flow_and_not_without_end() {
        let (mut shell, now) = (TestShell::default(), Instant::now());
        let (mut router, _) = router(&mut shell, now);
        shell.lines.clear();
        for _ in 0..3 {
            router.tun_packet(&mut shell, &packet(OUTSIDE, VASSAL, [53, 5]), now, now);
        }
        let lines: Vec<_> = shell.lines.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "rule 7 of the chain in has matched a packet towards a peer: 192.0.2.1:53 to 10.0.0.2:5, protocol 17, 28 bytes"
            ]
        );
        for port in 1000..3000 {
            router.tun_packet(&mut shell, &packet(OUTSIDE, VASSAL, [53, port]), now, now);
        }
        assert_eq!(shell.lines.len(), 60, "a quarter of the lines");
    }

    #[test]
    fn flows_are_listed_explained_and_forgotten() {
        let (mut shell, now) = (TestShell::default(), Instant::now());
        let (mut router, id) = router(&mut shell, now);
        let answer = packet(OUTSIDE, VASSAL, [53, 5]);
        let open = Policy { generation: 3, ..Policy::default() };
        router.tun_packet(&mut shell, &answer, now, now);
        router.set_policy(&mut shell, Arc::new(open));
        router.tun_packet(&mut shell, &answer, now, now);
        let (number, flow) = router.flows().next().expect("a flow");
        assert_eq!((flow.peer(), flow.phase(), flow.generation()), (Some(id), Phase::Established, 3));
        assert_eq!((flow.inbound().packets, flow.inbound().fate, flow.out().bytes), (2, Fate::Pass, 28));
        assert_eq!((flow.key().local_port, flow.key().remote_port(), flow.owner().uid()), (5, 53, 1000));
        let explain = |router: &Router| {
            let packet = Packet::parse(&answer[10..]).expect("valid");
            let from = ProbeSource::Outside(PacketSource::Tun);
            router.explain(&Probe { from, packet: &packet, state: None }, &mut NoScript)
        };
        let explained = explain(&router);
        assert_eq!(explained.to, Outbound::Peer(id));
        assert_eq!(
            explained.steps.iter().map(|step| step.stage).collect::<Vec<_>>(),
            [Stage::Flow, Stage::ChainIn, Stage::PeerRulesIn]
        );
        assert!(matches!(explained.steps[0].outcome, Outcome::Known(at, _) if at == number));
        assert_eq!(router.kill_flows(&mut shell, 0..router.flow_numbers(), |flow| flow.key().remote_port() == 54), 0);
        assert_eq!(router.kill_flows(&mut shell, 0..router.flow_numbers(), |flow| flow.key().remote_port() == 53), 1);
        assert_eq!((router.flow_counts().0, router.flows().count()), (0, 0));
        assert!(matches!(explain(&router).steps[0].outcome, Outcome::Unknown(_)));
    }
}
