//! Why packets are dropped, and how many were.

/// Why a packet is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum DropReason {
    /// Shorter than an IP header.
    TooShort,
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// Headers that contradict each other or the packet's length.
    Malformed,
    /// A routing header of IPv6, or a source route option of IPv4, with addresses left.
    SourceRoute,
    /// Denied by a chain rule.
    Firewall,
    /// Denied by a peer rule.
    PeerRule,
    /// A first packet whose source is not unicast, or is link-local.
    InvalidSource,
    /// A source other than the peer's own address.
    SpoofedSource,
    /// Another peer holds the source.
    AddressHeld,
    /// No peer holds the destination.
    NoPeer,
    /// The peer reads too slowly.
    QueueFull,
    /// Longer than a frame can carry.
    TooBig,
    /// The TUN device refused it because it is down or has no buffer left.
    TunRefused,
    /// The gateway's socket refused it.
    GatewayRefused,
    /// A peer rule routes it, but this router has no gateway of the needed address family.
    NoGateway,
    /// A frame of an unknown kind.
    UnknownFrame,
    /// The source is not granted to the peer.
    NotGranted,
    /// The peer already holds as many IPv6 addresses as it may.
    TooManyAddresses,
    /// A frame with other peer rules after the peer's first packet.
    RulesFrozen,
    /// A peer rule names a gateway that peers may not name.
    RouteTarget,
    /// A datagram to the gateway from an address where no other router is expected.
    GatewaySource,
    /// A datagram that came to the gateway through a device of one of the instance's routers: a peer has sent it.
    GatewayDevice,
    /// A packet of a peer to the gateway of a router.
    ToGateway,
    /// A packet of a peer to a destination that is not unicast: loopback, multicast, broadcast, link-local of
    /// IPv6.
    Destination,
    /// An ICMP error message of a peer about a packet that the peer has not received.
    ForeignError,
    /// A source that peers may not claim: outside of the router's networks, of the host, or of a gateway.
    NotClaimable,
    /// The peer's account already holds as many addresses as it may.
    AddressShare,
    /// The policy's script has denied its flow, or has failed.
    Script,
    /// Its queue for a limited rate was full.
    ShapedFull,
    /// It had waited too long for a limited rate.
    ShapedLate,
    /// It, or those before it in its flow, had waited too long for a peer that gets more than it takes.
    QueueLate,
    /// A peer of another router holds the source, on another host.
    HeldElsewhere,
    /// It has crossed as many trunks as it may.
    TrunkHops,
    /// It came by a peer's pair, with a source that the peer doesn't hold. The kernel has dropped it.
    PairSpoofed,
    /// It came by a peer's pair without a verdict, or with headers that may not go on. The kernel has dropped it.
    PairUndecided,
}

impl DropReason {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 35] = [
        Self::TooShort,
        Self::NotIp,
        Self::Malformed,
        Self::SourceRoute,
        Self::Firewall,
        Self::PeerRule,
        Self::InvalidSource,
        Self::SpoofedSource,
        Self::AddressHeld,
        Self::NoPeer,
        Self::QueueFull,
        Self::TooBig,
        Self::TunRefused,
        Self::GatewayRefused,
        Self::NoGateway,
        Self::UnknownFrame,
        Self::NotGranted,
        Self::TooManyAddresses,
        Self::RulesFrozen,
        Self::RouteTarget,
        Self::GatewaySource,
        Self::GatewayDevice,
        Self::ToGateway,
        Self::Destination,
        Self::ForeignError,
        Self::NotClaimable,
        Self::AddressShare,
        Self::Script,
        Self::ShapedFull,
        Self::ShapedLate,
        Self::QueueLate,
        Self::HeldElsewhere,
        Self::TrunkHops,
        Self::PairSpoofed,
        Self::PairUndecided,
    ];

    /// The key in the statistics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooShort => "too_short",
            Self::NotIp => "not_ip",
            Self::Malformed => "malformed",
            Self::SourceRoute => "source_route",
            Self::Firewall => "firewall",
            Self::PeerRule => "peer_rule",
            Self::InvalidSource => "invalid_source",
            Self::SpoofedSource => "spoofed_source",
            Self::AddressHeld => "address_held",
            Self::NoPeer => "no_peer",
            Self::QueueFull => "queue_full",
            Self::TooBig => "too_big",
            Self::TunRefused => "tun_refused",
            Self::GatewayRefused => "gateway_refused",
            Self::NoGateway => "no_gateway",
            Self::UnknownFrame => "unknown_frame",
            Self::NotGranted => "not_leased",
            Self::TooManyAddresses => "too_many_addresses",
            Self::RulesFrozen => "rules_frozen",
            Self::RouteTarget => "route_target",
            Self::GatewaySource => "gateway_source",
            Self::GatewayDevice => "gateway_device",
            Self::ToGateway => "to_gateway",
            Self::Destination => "destination",
            Self::ForeignError => "foreign_error",
            Self::NotClaimable => "not_claimable",
            Self::AddressShare => "address_share",
            Self::Script => "script",
            Self::ShapedFull => "shaped_full",
            Self::ShapedLate => "shaped_late",
            Self::QueueLate => "queue_late",
            Self::HeldElsewhere => "held_elsewhere",
            Self::TrunkHops => "trunk_hops",
            Self::PairSpoofed => "pair_spoofed",
            Self::PairUndecided => "pair_undecided",
        }
    }
}

/// One counter for each reason, in packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropCounters([u64; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl DropCounters {
    /// Counts one packet.
    pub const fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    /// Adds what others have counted.
    pub fn add_all(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }

    /// Counts packets.
    pub const fn add(&mut self, reason: DropReason, count: u64) {
        self.0[reason as usize] += count;
    }

    /// Packets dropped for this reason.
    pub const fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{}", reason.name());
        }
    }

    #[test]
    fn counts_by_reason() {
        let mut counters = DropCounters::default();
        counters.count(DropReason::Firewall);
        counters.count(DropReason::Firewall);
        assert_eq!(counters.get(DropReason::Firewall), 2);
        assert_eq!(counters.get(DropReason::Malformed), 0);
        assert_eq!(counters.0.len(), DropReason::ALL.len());
    }
}
