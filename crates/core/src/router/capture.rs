//! Captures: each packet that somebody wants to see is shown to the shell, once, as soon as it is known what becomes of it, at each
//! peer that it belongs to: where it leaves its sender, and where it comes to its receiver. While there is no capture, a packet
//! costs a comparison.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tuntap_wire::gso::GsoPacket;
use tuntap_wire::holding::RouterId;
use tuntap_wire::ip::{FlowPart, Packet};
use tuntap_wire::rule::Direction;
use tuntap_wire::selector::{Protocol, Selector};

use super::Router;
use super::held::Way;
use super::shell::Shell;
use super::watch::PacketFacts;
use crate::policy::Policy;
use crate::policy::drops::DropReason;
use crate::policy::flows::FlowKey;
use crate::policy::pattern::RuleId;
use crate::policy::registry::PeerId;
use crate::policy::verdict::RuleRef;
use crate::trunk::TrunkId;

/// The most captures at a time. A record has a bit for each.
pub const MAX_CAPTURES: usize = 8;

/// Which packets a capture is for. All conditions that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaptureFilter {
    /// Those from or to the peers of this process.
    pub pid: Option<i32>,
    /// Those from or to the peers of this user.
    pub uid: Option<u32>,
    /// An address at either end is in this network.
    pub network: Option<IpNet>,
    /// Their protocol.
    pub protocol: Option<Protocol>,
    /// A port at either end.
    pub port: Option<u16>,
    /// The rule of the policy that has decided.
    pub rule: Option<u32>,
    /// What has become of them.
    pub verdict: Option<CaptureVerdict>,
    /// What a rule would say, of the packet or of an answer to it.
    pub selection: Option<Selection>,
}

/// What the selector of a rule says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Which packets, as far as no set is named.
    pub selector: Selector,
    /// The name of the set that the source must be in.
    pub src_set: Option<String>,
    /// The name of the set that the destination must be in.
    pub dst_set: Option<String>,
}

/// What has become of a packet, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureVerdict {
    /// It was passed on.
    Allow,
    /// It was dropped.
    Deny,
    /// It was dropped, and its sender may get a reply.
    Reject,
}

/// Where a packet was passed on to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassedTo {
    /// The router's TUN device.
    Tun,
    /// A peer.
    Peer,
    /// Another router, as a UDP datagram.
    Gateway(SocketAddr),
    /// The router of another host.
    Trunk(RouterId),
}

/// What has become of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureFate {
    /// It was passed on.
    Passed(PassedTo),
    /// It was dropped.
    Dropped(DropReason),
    /// It was dropped, and its sender may get a reply.
    Rejected(DropReason),
}

impl CaptureFate {
    /// Returns it in a word.
    pub const fn verdict(self) -> CaptureVerdict {
        match self {
            Self::Passed(_) => CaptureVerdict::Allow,
            Self::Dropped(_) => CaptureVerdict::Deny,
            Self::Rejected(_) => CaptureVerdict::Reject,
        }
    }
}

/// A peer, as far as whoever reads a capture has to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapturedPeer {
    /// Its id.
    pub id: PeerId,
    /// Its process.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// The first address that it holds.
    pub address: Option<IpAddr>,
}

/// A packet that somebody wants to see, with its bytes as whoever has it keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptureRecord<B> {
    /// The captures that want it: a bit for each, by its number.
    pub wanted: u8,
    /// Its way, as its peer sees it.
    pub direction: Direction,
    /// The peer that has sent it, or that it is for.
    pub peer: Option<CapturedPeer>,
    /// What has become of it.
    pub fate: CaptureFate,
    /// The rule that decided, if one did and it is known.
    pub rule: Option<RuleRef>,
    /// How many packets it stands for.
    pub segments: usize,
    /// What its headers say; `None` if they can't be read.
    pub facts: Option<PacketFacts>,
    /// The IP packet.
    pub bytes: B,
}

impl<B> CaptureRecord<B> {
    /// The same packet with its bytes, or some of them, kept otherwise.
    pub fn with_bytes<C>(self, bytes: C) -> CaptureRecord<C> {
        let Self { wanted, direction, peer, fate, rule, segments, facts, bytes: _ } = self;
        CaptureRecord { wanted, direction, peer, fate, rule, segments, facts, bytes }
    }
}

/// All captures.
#[derive(Debug, Default)]
pub(super) struct Captures {
    /// By number.
    filters: [Option<CaptureFilter>; MAX_CAPTURES],
    is_on: bool,
}

impl Captures {
    /// Returns true if there is a capture.
    #[inline]
    pub(super) const fn is_on(&self) -> bool {
        self.is_on
    }

    fn set(&mut self, number: usize, filter: Option<CaptureFilter>) {
        if let Some(place) = self.filters.get_mut(number) {
            *place = filter;
        }
        self.is_on = self.filters.iter().any(Option::is_some);
    }

    /// Returns a bit for each capture that wants something, by its number.
    fn wanted(&self, wants: impl Fn(&CaptureFilter) -> bool) -> u8 {
        let bits = self.filters.iter().enumerate();
        bits.filter(|(_, filter)| filter.as_ref().is_some_and(&wants)).fold(0, |bits, (number, _)| bits | 1 << number)
    }
}

/// What a filter looks at besides the verdict.
#[derive(Clone, Copy)]
struct Subject<'a> {
    peer: Option<CapturedPeer>,
    /// Of a packet that can be read.
    packet: Option<&'a PacketFacts>,
    sets: Sets<'a>,
}

/// The sets of a policy, by name.
#[derive(Clone, Copy)]
struct Sets<'a>(&'a Policy);

impl Sets<'_> {
    fn has(self, name: &str, address: IpAddr) -> bool {
        self.0.sets.iter().find(|(known, _)| known == name).is_some_and(|(_, set)| set.contains(address))
    }
}

impl CaptureFilter {
    /// Returns true if packets like this one may be wanted, whatever becomes of them.
    fn may_want(&self, subject: &Subject<'_>) -> bool {
        self.pid.is_none_or(|pid| subject.peer.is_some_and(|peer| peer.pid == pid))
            && self.uid.is_none_or(|uid| subject.peer.is_some_and(|peer| peer.uid == uid))
            && match subject.packet {
                Some(packet) => self.fits(packet, subject.sets),
                None => self.takes_unreadable(),
            }
    }

    /// Returns true if nothing is asked of a packet's headers.
    const fn takes_unreadable(&self) -> bool {
        self.network.is_none() && self.protocol.is_none() && self.port.is_none() && self.selection.is_none()
    }

    fn fits(&self, packet: &PacketFacts, sets: Sets<'_>) -> bool {
        let PacketFacts { src, dst, protocol, ports, .. } = *packet;
        self.network.is_none_or(|network| network.contains(&src) || network.contains(&dst))
            && self.protocol.is_none_or(|wanted| wanted.number(src.is_ipv4()) == protocol)
            && self.port.is_none_or(|port| ports.is_some_and(|(from, to)| from == port || to == port))
            && self.selection.as_ref().is_none_or(|it| it.selects(packet, sets))
    }

    fn wants(&self, fate: CaptureFate, rule: Option<RuleRef>) -> bool {
        self.verdict.is_none_or(|verdict| verdict == fate.verdict())
            && self.rule.is_none_or(|wanted| policy_rule(rule) == Some(wanted))
    }
}

impl Selection {
    /// Returns true if a rule with this selector would match the packet, or an answer to it.
    fn selects(&self, packet: &PacketFacts, sets: Sets<'_>) -> bool {
        let PacketFacts { src, dst, protocol, ports, .. } = *packet;
        let is_in = |set: &Option<String>, address| set.as_ref().is_none_or(|name| sets.has(name, address));
        let matches = |src, dst, port| {
            self.selector.matches_headers(src, dst, protocol, port)
                && is_in(&self.src_set, src)
                && is_in(&self.dst_set, dst)
        };
        matches(src, dst, ports.map(|(_, to)| to)) || matches(dst, src, ports.map(|(from, _)| from))
    }
}

/// The number of a rule of the policy; `None` for rules of peers, which have numbers of their own.
fn policy_rule(rule: Option<RuleRef>) -> Option<u32> {
    match rule? {
        RuleRef::FirewallIn(id) | RuleRef::FirewallOut(id) | RuleRef::Route(id) if id != RuleId::IMPLIED => Some(id.0),
        _ => None,
    }
}

impl Router {
    /// Begins the capture of this number, changes which packets it wants, or ends it. There are [`MAX_CAPTURES`].
    pub fn set_capture(&mut self, shell: &mut impl Shell, number: usize, filter: Option<CaptureFilter>) {
        let may_begin = filter.is_some();
        self.captures.set(number, filter);
        self.update_observed();
        if may_begin {
            // Flows that no capture wants are given to the kernel again.
            self.revoke_all(shell);
        }
    }

    /// Returns true if a capture may want packets of a flow between these ends of this peer: the kernel must not pass them on
    /// then, unseen. `ports` are those of the first and the second end.
    pub fn may_be_captured(
        &self,
        peer: Option<PeerId>,
        ends: [IpAddr; 2],
        protocol: u8,
        ports: Option<(u16, u16)>,
    ) -> bool {
        if !self.captures.is_on() {
            return false;
        }
        let packet = PacketFacts { src: ends[0], dst: ends[1], protocol, ports, len: 0 };
        self.wanted_by(peer.and_then(|id| self.captured_peer(id)), Some(&packet)) != 0
    }

    fn captured_peer(&self, id: PeerId) -> Option<CapturedPeer> {
        let peer = self.forwarder.peers.get(id)?;
        let credentials = peer.session.credentials;
        Some(CapturedPeer { id, pid: credentials.pid, uid: credentials.uid, address: peer.address() })
    }

    /// The captures that may want packets like this one.
    fn wanted_by(&self, peer: Option<CapturedPeer>, packet: Option<&PacketFacts>) -> u8 {
        let subject = Subject { peer, packet, sets: Sets(self.forwarder.policy()) };
        self.captures.wanted(|filter| filter.may_want(&subject))
    }

    /// The rule that has decided about the packets of a packet's flow.
    fn rule_of_flow(&self, direction: Direction, packet: &Packet<'_>) -> Option<RuleRef> {
        let FlowPart::Flow(ports) = packet.flow_part() else { return None };
        let flow = self.flow(self.forwarder.flows.find(&FlowKey::of(packet, ports, direction))?)?;
        match direction {
            Direction::Out => flow.out().rule,
            Direction::In => flow.inbound().rule,
        }
    }

    /// Shows a packet to the captures that want it. Without a rule, that of the packet's flow is looked up.
    #[cold]
    pub(super) fn capture(
        &self,
        shell: &mut impl Shell,
        direction: Direction,
        peer: Option<PeerId>,
        packet: &GsoPacket<'_>,
        fate: CaptureFate,
        rule: Option<RuleRef>,
    ) {
        let ip = packet.packet();
        let peer = peer.and_then(|id| self.captured_peer(id));
        let facts = PacketFacts::of(ip);
        let mut wanted = self.wanted_by(peer, Some(&facts));
        if wanted == 0 {
            return;
        }
        let rule = rule.or_else(|| self.rule_of_flow(direction, ip));
        wanted &= self.captures.wanted(|filter| filter.wants(fate, rule));
        if wanted != 0 {
            let (segments, bytes) = (packet.segments().max(1), &ip.bytes()[..ip.total_len()]);
            let facts = Some(facts);
            shell.captured(&CaptureRecord { wanted, direction, peer, fate, rule, segments, facts, bytes });
        }
    }

    /// The same for what was dropped because it can't be read as a packet.
    pub(super) fn capture_unreadable(
        &self,
        shell: &mut impl Shell,
        direction: Direction,
        peer: Option<PeerId>,
        bytes: &[u8],
        reason: DropReason,
    ) {
        if !self.captures.is_on() {
            return;
        }
        let (peer, fate) = (peer.and_then(|id| self.captured_peer(id)), CaptureFate::Dropped(reason));
        let wanted = self.wanted_by(peer, None) & self.captures.wanted(|filter| filter.wants(fate, None));
        if wanted != 0 {
            let (rule, segments, facts) = (None, 1, None);
            shell.captured(&CaptureRecord { wanted, direction, peer, fate, rule, segments, facts, bytes });
        }
    }

    fn passed_to_trunk(&self, id: TrunkId) -> PassedTo {
        // A packet goes to a trunk only where there are some.
        self.trunks.as_ref().map_or(PassedTo::Tun, |trunks| PassedTo::Trunk(trunks.view(id).router))
    }

    /// Shows a packet for no peer of this router that was passed on, by a trunk or to the host.
    pub(super) fn capture_passed_by(&self, shell: &mut impl Shell, trunk: Option<TrunkId>, packet: &GsoPacket<'_>) {
        let to = trunk.map_or(PassedTo::Tun, |trunk| self.passed_to_trunk(trunk));
        self.capture(shell, Direction::In, None, packet, CaptureFate::Passed(to), None);
    }

    /// Shows a packet that a peer has sent and that is passed on.
    #[inline]
    pub(super) fn capture_sent(&self, shell: &mut impl Shell, from: PeerId, way: &Way, packet: &GsoPacket<'_>) {
        if !self.captures.is_on() {
            return;
        }
        let to = match *way {
            Way::Tun => PassedTo::Tun,
            Way::Gateway(target) => PassedTo::Gateway(target),
            Way::Trunk(trunk, _) => self.passed_to_trunk(trunk),
            Way::Peer(..) => PassedTo::Peer,
        };
        self.capture(shell, Direction::Out, Some(from), packet, CaptureFate::Passed(to), None);
    }
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
