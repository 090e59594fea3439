//! The interface between the policy and a script that is asked about new flows.

use std::net::IpAddr;
use std::time::Duration;

use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::rule::Direction;

use super::Policy;
use super::flows::Owner;
use super::pattern::Action;
use super::registry::PeerId;

/// The first packet of a flow, or of a direction of it, that the rules have let pass.
#[derive(Debug, Clone, Copy)]
pub struct ScriptQuery<'a> {
    /// From a peer, or towards one.
    pub direction: Direction,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// The number of the protocol.
    pub protocol: u8,
    /// Source port, if the protocol has ports.
    pub src_port: Option<u16>,
    /// Destination port, if the protocol has ports.
    pub dst_port: Option<u16>,
    /// The peer that sends the packet or would get it.
    pub peer: PeerId,
    /// Who the peer is. One who connects several times is the same.
    pub owner: Owner,
    /// Its credentials.
    pub credentials: PeerCredentials,
    /// The addresses that it holds.
    pub addresses: &'a [IpAddr],
    /// The policy, for its sets and counters.
    pub policy: &'a Policy,
}

/// What a script says about a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScriptVerdict {
    /// What becomes of its packets. A script can only narrow what the rules allow.
    pub action: Action,
    /// For how long. Without it, as long as the flow is known.
    pub ttl: Option<Duration>,
    /// The class that its packets are held back by, see [`Shapes::class`](super::shape::Shapes::class).
    pub class: Option<u16>,
}

impl ScriptVerdict {
    /// Drops the packets of a flow as long as the flow is known.
    pub const DENY: Self = Self { action: Action::Deny, ttl: None, class: None };
}

/// A script, and what only the surroundings know about addresses.
pub trait Script {
    /// Returns what the script says about a flow; `None` if it has no opinion. A script that fails denies the flow.
    fn decide(&mut self, query: &ScriptQuery<'_>) -> Option<ScriptVerdict>;

    /// Returns true if packets to this address leave the host by a `nat` interface. Without surroundings, nobody knows.
    fn is_beyond_nat(&mut self, _address: IpAddr) -> bool {
        false
    }
}

/// No script.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoScript;

impl Script for NoScript {
    fn decide(&mut self, _query: &ScriptQuery<'_>) -> Option<ScriptVerdict> {
        None
    }
}
