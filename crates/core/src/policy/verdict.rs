//! Verdicts on packets.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::drops::DropReason;
use super::grant::Identity;
use super::pattern::RuleId;
use super::registry::PeerId;
use crate::trunk::TrunkId;
use tuntap_wire::holding::ClaimTime;
use tuntap_wire::rule::PeerRule;

/// A rule and the list that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuleRef {
    /// In the chain for packets towards the peers.
    FirewallIn(RuleId),
    /// In the chain for packets from the peers.
    FirewallOut(RuleId),
    /// Among the routes.
    Route(RuleId),
    /// Among the rules that this peer sent.
    Peer(PeerId, RuleId),
}

impl fmt::Display for RuleRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, list) = match self {
            Self::FirewallIn(id) => (id, "chain in"),
            Self::FirewallOut(id) => (id, "chain out"),
            Self::Route(id) => (id, "chain route"),
            Self::Peer(_, id) => (id, "peer's own rules"),
        };
        match *id {
            RuleId::IMPLIED => write!(formatter, "the last rule of the {list}, which denies IPv6"),
            RuleId(id) => write!(formatter, "rule {id} of the {list}"),
        }
    }
}

/// Where a packet from a peer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outbound {
    /// To the router's TUN device.
    Tun,
    /// To another router, as a UDP datagram.
    Gateway(SocketAddr),
    /// To another peer of this router.
    Peer(PeerId),
    /// By a trunk, to a peer of another router.
    Trunk(TrunkId),
    /// The packet is dropped.
    Drop(DropReason),
    /// The packet is dropped, and its sender gets a reply.
    Reject(DropReason),
    /// Another peer holds the packet's source. If that peer is dead, the caller removes it and asks again; if not, the
    /// packet is dropped with [`DropReason::AddressHeld`].
    Contested {
        /// The packet's source.
        address: IpAddr,
        /// Who holds it.
        holder: PeerId,
    },
}

/// The class of packets that wait together, if those of a peer don't all wait in one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class(u16);

impl Class {
    /// None: the peer's own queue.
    pub const OWN: Self = Self(u16::MAX);

    /// Flows with hosts beyond a `nat` interface.
    pub const INTERNET: Self = Self(u16::MAX - 1);

    /// The class with this number, see [`Shapes::class`](super::shape::Shapes::class).
    pub const fn named(number: u16) -> Self {
        if number < Self::INTERNET.0 { Self(number) } else { Self::OWN }
    }

    /// Returns the number of a class that has a name.
    pub const fn number(self) -> Option<u16> {
        if self.0 < Self::INTERNET.0 { Some(self.0) } else { None }
    }
}

impl Default for Class {
    fn default() -> Self {
        Self::OWN
    }
}

/// The flow that a packet belongs to, and where its packets wait if they have to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// The number of the flow; [`Lane::NO_FLOW`] for packets without one.
    pub flow: u32,
    /// The class.
    pub class: Class,
}

impl Lane {
    /// See [`Lane::flow`].
    pub const NO_FLOW: u32 = u32::MAX;
}

impl Default for Lane {
    fn default() -> Self {
        Self { flow: Self::NO_FLOW, class: Class::OWN }
    }
}

/// A verdict on a packet from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboundVerdict {
    /// Where it goes.
    pub to: Outbound,
    /// The address that the peer got with this packet.
    pub claimed: Option<IpAddr>,
    /// True if it is the peer's first accepted packet. From now on the peer's rules are fixed.
    pub is_first: bool,
    /// The rule that decided; `None` if no rule matched, or no list was searched.
    pub rule: Option<RuleRef>,
    /// Where it waits on its way from the sender.
    pub lane: Lane,
    /// Where it waits on its way to the receiver, if the router itself passes it on.
    pub receiver_lane: Lane,
}

/// Where a packet towards the peers comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PacketSource {
    /// The router's TUN device.
    #[default]
    Tun,
    /// Another router. The peers' own rules don't apply, as in the C plugin.
    Gateway,
    /// A router of another host, by a trunk.
    Trunk,
}

/// A verdict on a packet towards the peers, with the rule that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboundVerdict {
    /// Where it goes.
    pub to: Inbound,
    /// The rule that decided; `None` if no rule matched, or no list was searched.
    pub rule: Option<RuleRef>,
    /// Where it waits.
    pub lane: Lane,
}

/// Where a packet towards the peers goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inbound {
    /// To this peer.
    Peer(PeerId),
    /// By a trunk: a peer of another router holds the destination.
    Trunk(TrunkId),
    /// To the router's TUN device: the destination is an address of this router itself.
    Tun,
    /// The packet is dropped. The peer is the holder of the destination, if there is one.
    Drop(DropReason, Option<PeerId>),
    /// The packet is dropped, and its sender gets a reply.
    Reject(DropReason, Option<PeerId>),
}

impl From<Inbound> for Outbound {
    fn from(to: Inbound) -> Self {
        match to {
            Inbound::Peer(id) => Self::Peer(id),
            Inbound::Trunk(trunk) => Self::Trunk(trunk),
            Inbound::Tun => Self::Tun,
            Inbound::Drop(reason, _) => Self::Drop(reason),
            Inbound::Reject(reason, _) => Self::Reject(reason),
        }
    }
}

/// The state of a peer of an earlier router.
#[derive(Debug)]
pub struct RestoredPeer<'a> {
    /// Its identity.
    pub identity: Identity,
    /// The network namespace from which it connected, if it isn't the router's own.
    pub namespace: Option<u64>,
    /// Its own rules.
    pub rules: Vec<PeerRule>,
    /// The addresses that it held.
    pub addresses: &'a [IpAddr],
    /// Since when, in the same order. Those behind the end are held from now on.
    pub since: &'a [ClaimTime],
    /// The addresses that newer claims on other hosts had taken from it, and that it may claim again.
    pub lost: &'a [IpAddr],
    /// True if it could choose no address by itself.
    pub is_bound: bool,
}

/// The verdict on rules that a peer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RulesVerdict {
    /// They apply from now on. If they name a gateway that peers may not name, packets for it are dropped.
    Applied {
        /// The first such gateway.
        refused_target: Option<SocketAddr>,
    },
    /// They are the same as those that apply already.
    Unchanged,
    /// They came after the peer's first accepted packet, and have no effect.
    Frozen,
}
