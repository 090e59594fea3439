//! Later packets of a flow: one look-up, and a check that nothing has changed that the verdict depends on.

use super::decide::{Asked, Walk};
use super::flows::entry::{Entry, OutSide};
use super::flows::{Fate, FlowKey, Way};
use super::forward::Forwarder;
use super::registry::PeerId;
use super::verdict::{Class, Inbound, InboundVerdict, Lane, Outbound, OutboundVerdict, PacketSource};
use tuntap_wire::ip::{FlowPart, Packet};
use tuntap_wire::rule::Direction;
use tuntap_wire::selector::ConnectionState;

/// What is known of the flow that a packet belongs to, or of the one that an ICMP error is about.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    /// The number of the flow.
    pub(super) at: Option<u32>,
    /// The state of the packet. `None` if it shows no flow.
    pub(super) state: Option<ConnectionState>,
}

impl Forwarder {
    /// Returns the verdict on a packet from a peer if its flow has one that may be used.
    #[inline]
    pub(super) fn repeat_outbound(&mut self, id: PeerId, packet: &Packet<'_>) -> Option<OutboundVerdict> {
        let at = self.flows.find(&FlowKey::of(packet, packet.flow_ports()?, Direction::Out))?;
        let entry = self.flows.get(at);
        if entry.peer != id || !self.peers.has(id) {
            return None;
        }
        let flags = packet.tcp_flags();
        let side = &entry.out;
        if entry.is_reopened_by(flags) || !side.holds(self.epoch, self.flows.now, entry.state(Direction::Out)) {
            return None;
        }
        let (to, receiver, twin) = match side.way {
            Way::Peer(receiver) => {
                let twin = self.flows.twin(at).filter(|_| self.peers.has(receiver))?;
                let other = self.flows.get(twin);
                let has_changed = side.looks_at_state && side.twin_state != Some(other.state(Direction::In));
                if has_changed || other.is_reopened_by(flags) {
                    return None;
                }
                (Outbound::Peer(receiver), Some(receiver), Some(twin))
            }
            Way::Tun | Way::Trunk(_) if entry.claims != self.claims && self.goes_otherwise_now(side, packet) => {
                return None;
            }
            Way::Trunk(trunk) => (Outbound::Trunk(trunk), None, None),
            Way::Tun => (Outbound::Tun, None, None),
            Way::Gateway(target) => (Outbound::Gateway(target), None, None),
        };
        let to = match side.fate {
            Fate::Pass => to,
            Fate::Drop(reason) => Outbound::Drop(reason),
            Fate::Reject(reason) => Outbound::Reject(reason),
            Fate::Undecided => return None,
        };
        let lane = self.lane(at, Direction::Out);
        let receiver_lane = self.receiver_lane(twin);
        let rule = side.rule(id, receiver);
        let verdict = OutboundVerdict { to, claimed: None, is_first: false, rule, lane, receiver_lane };
        let passes = side.fate == Fate::Pass;
        self.count(side.slots.iter(), packet);
        if entry.claims != self.claims {
            self.flows.get_mut(at).claims = self.claims;
        }
        self.flows.record(at, Direction::Out, packet, flags, passes);
        if let Some(twin) = twin {
            self.flows.record(twin, Direction::In, packet, flags, passes);
        }
        Some(verdict)
    }

    /// Returns where a packet waits that the router itself passes on; `twin` is its flow, seen from the receiver.
    pub(super) fn receiver_lane(&self, twin: Option<u32>) -> Lane {
        twin.map_or_else(Lane::default, |twin| self.lane(twin, Direction::In))
    }

    /// Returns where the packets of a flow wait. The entry's last cache line is read only if there may be classes.
    #[inline]
    fn lane(&self, flow: u32, direction: Direction) -> Lane {
        let class = if self.policy.shapes.is_empty() { Class::OWN } else { self.flows.get(flow).class(direction) };
        Lane { flow, class }
    }

    /// Returns true if the destination's holder is another one since the verdict: a peer of this router has got it, or one of
    /// another router has got or lost it.
    fn goes_otherwise_now(&self, side: &OutSide, packet: &Packet<'_>) -> bool {
        if side.fate != Fate::Pass {
            return false;
        }
        let trunk = match side.way {
            Way::Trunk(trunk) => Some(trunk),
            Way::Tun | Way::Gateway(_) | Way::Peer(_) => None,
        };
        match self.registry.holder(packet.dst()) {
            Some(_) => self.policy.switch || trunk.is_some(),
            None => self.trunk_to(packet.dst()) != trunk,
        }
    }

    /// Returns the verdict on a packet towards a peer if its flow has one that may be used.
    #[inline]
    pub(super) fn repeat_inbound(&mut self, from: PacketSource, packet: &Packet<'_>) -> Option<InboundVerdict> {
        let at = self.flows.find(&FlowKey::of(packet, packet.flow_ports()?, Direction::In))?;
        let entry = self.flows.get(at);
        // A peer that is there holds its address: if a claim elsewhere takes it, all is decided anew.
        let holder = entry.peer;
        if !self.peers.has(holder) {
            return None;
        }
        let flags = packet.tcp_flags();
        let side = &entry.inn;
        let holds = side.way == from && side.holds(self.epoch, self.flows.now, entry.state(Direction::In));
        if entry.is_reopened_by(flags) || !holds {
            return None;
        }
        let to = match side.fate {
            Fate::Pass => Inbound::Peer(holder),
            Fate::Drop(reason) => Inbound::Drop(reason, Some(holder)),
            Fate::Reject(reason) => Inbound::Reject(reason, Some(holder)),
            Fate::Undecided => return None,
        };
        let lane = self.lane(at, Direction::In);
        let verdict = InboundVerdict { to, rule: side.rule(holder, None), lane };
        let passes = side.fate == Fate::Pass;
        self.count(side.slots.iter(), packet);
        self.flows.record(at, Direction::In, packet, flags, passes);
        Some(verdict)
    }

    /// Returns what is known of a packet's flow. `peer` is the one that sends it, or that holds the destination.
    pub(super) fn known(&self, walk: &Walk<'_>, direction: Direction, peer: Option<PeerId>) -> Known {
        let key = match walk.part {
            FlowPart::Fragment => return Known::default(),
            FlowPart::Flow(ports) => FlowKey::of(walk.packet, ports, direction),
            // An error goes back to the source of the packet that it quotes, and that packet went the opposite way.
            FlowPart::Error(Some(quoted)) if quoted.src == walk.packet.dst() => {
                let opposite = match direction {
                    Direction::Out => Direction::In,
                    Direction::In => Direction::Out,
                };
                FlowKey::of_quoted(&quoted, opposite)
            }
            FlowPart::Error(_) => return Known { at: None, state: Some(ConnectionState::New) },
        };
        let flags = if let FlowPart::Flow(_) = walk.part { walk.packet.tcp_flags() } else { None };
        let at = self.flows.find(&key).filter(|at| {
            let entry = self.flows.get(*at);
            self.belongs_to(entry, peer) && !entry.is_reopened_by(flags)
        });
        let state = at.map_or(ConnectionState::New, |at| self.flows.get(at).state(direction));
        Known { at, state: Some(state) }
    }

    /// Returns true if a flow is that of a peer: of this connection, or of an earlier one of the same user. Without a peer, true
    /// for the flows of those who have left.
    fn belongs_to(&self, entry: &Entry, peer: Option<PeerId>) -> bool {
        peer == Some(entry.peer)
            || !self.peers.has(entry.peer)
                && peer.is_none_or(|peer| self.owner(peer).is_some_and(|owner| owner == entry.owner))
    }

    /// Returns what the script has said about a direction of a flow.
    pub(super) fn kept(&self, known: Known, direction: Direction, peer: PeerId) -> Option<Asked> {
        let entry = self.flows.known(known.at?).filter(|entry| entry.peer == peer)?;
        let (epoch, now) = (self.epoch, self.flows.now);
        let (said, until) = match direction {
            Direction::Out => (entry.out.kept_script(epoch, now)?, entry.out.script_until),
            Direction::In => (entry.inn.kept_script(epoch, now)?, entry.inn.script_until),
        };
        Some(Asked { said, until, class: entry.class(direction).number() })
    }
}
