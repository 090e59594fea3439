//! A read-only view of a flow, for those who list flows.

use super::entry::{Entry, Fate, Owner, Phase};
use super::key::FlowKey;
use crate::policy::registry::PeerId;
use crate::policy::verdict::{Class, RuleRef};
use crate::trunk::TrunkId;
use tuntap_wire::rule::Direction;

/// A read-only view of a flow.
#[derive(Debug, Clone, Copy)]
pub struct FlowView<'a> {
    entry: &'a Entry,
    now: u32,
    peer: Option<PeerId>,
}

/// What is known of one direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SideView {
    /// What becomes of its packets.
    pub fate: Fate,
    /// The rule that decided.
    pub rule: Option<RuleRef>,
    /// Packets, dropped ones included. A GSO packet is one.
    pub packets: u64,
    /// Bytes of the IP packets.
    pub bytes: u64,
}

impl<'a> FlowView<'a> {
    /// `peer` is the peer that the flow belongs to, if it is there.
    pub(crate) const fn new(entry: &'a Entry, now: u32, peer: Option<PeerId>) -> Self {
        Self { entry, now, peer }
    }

    /// Returns addresses, ports and protocol.
    pub const fn key(&self) -> &'a FlowKey {
        &self.entry.key
    }

    /// Returns the peer that it belongs to. `None` if that peer has left, or has lost the address.
    pub const fn peer(&self) -> Option<PeerId> {
        self.peer
    }

    /// Returns who the peer is, or was.
    pub const fn owner(&self) -> Owner {
        self.entry.owner
    }

    /// Returns how far the connection has come.
    pub const fn phase(&self) -> Phase {
        self.entry.phase()
    }

    /// Returns what is known of packets from the peer.
    pub fn out(&self) -> SideView {
        let side = &self.entry.out;
        let receiver = match side.way {
            super::Way::Peer(receiver) => Some(receiver),
            super::Way::Tun | super::Way::Gateway(_) | super::Way::Trunk(_) => None,
        };
        let rule = side.rule(self.entry.peer, receiver);
        SideView { fate: side.fate, rule, packets: side.packets, bytes: side.bytes }
    }

    /// Returns what is known of packets towards the peer.
    pub fn inbound(&self) -> SideView {
        let side = &self.entry.inn;
        SideView { fate: side.fate, rule: side.rule(self.entry.peer, None), packets: side.packets, bytes: side.bytes }
    }

    /// Returns the trunk by which packets from the peer go.
    pub const fn trunk(&self) -> Option<TrunkId> {
        match self.entry.out.way {
            super::Way::Trunk(trunk) => Some(trunk),
            super::Way::Tun | super::Way::Gateway(_) | super::Way::Peer(_) => None,
        }
    }

    /// Returns where the packets in one direction wait.
    pub const fn class(&self, direction: Direction) -> Class {
        self.entry.class(direction)
    }

    /// Returns the number of the policy that decided last.
    pub fn generation(&self) -> u64 {
        self.entry.generation.into()
    }

    /// Returns the seconds since its last packet.
    pub const fn idle(&self) -> u32 {
        self.now.saturating_sub(self.entry.last_seen)
    }

    /// Returns the seconds since its first packet.
    pub const fn age(&self) -> u32 {
        self.now.saturating_sub(self.entry.first_seen)
    }
}
