//! What people want to see of single packets: those that rules log, and those that are dropped.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use tuntap_wire::ip::{FlowPart, Packet};
use tuntap_wire::rule::Direction;

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
            FlowPart::Flow(ports) if ports.are_ports => Some((ports.first, ports.second)),
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
}

impl Router {
    /// Starts or stops telling the shell about each dropped packet, see [`Shell::dropped`].
    pub const fn set_watch(&mut self, is_wanted: bool) {
        self.is_watched = is_wanted;
    }

    pub(super) fn report_drop(
        &mut self,
        shell: &mut impl Shell,
        direction: Direction,
        peer: Option<PeerId>,
        packet: &Packet<'_>,
        reason: DropReason,
        rule: Option<RuleRef>,
    ) {
        shell.dropped(&DropRecord { direction, peer, packet: PacketFacts::of(packet), reason, rule });
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
            let line = self.rule_log.take(self.now, account);
            write(shell, line, &Notice::RuleLog { rule, direction, packet: PacketFacts::of(packet) });
        }
    }
}
