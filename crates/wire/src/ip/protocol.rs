//! Numbers of protocols and extension headers (RFC 790, RFC 8200, section 4; the registry is IANA's "Protocol
//! Numbers").

/// Hop-by-hop options, an extension header.
pub const HOP_BY_HOP: u8 = 0;
/// Internet Control Message Protocol.
pub const ICMP: u8 = 1;
/// Transmission Control Protocol.
pub const TCP: u8 = 6;
/// User Datagram Protocol.
pub const UDP: u8 = 17;
/// Datagram Congestion Control Protocol.
pub const DCCP: u8 = 33;
/// Routing, an extension header.
pub const ROUTING: u8 = 43;
/// Fragment, an extension header.
pub const FRAGMENT: u8 = 44;
/// Authentication (RFC 4302), an extension header whose length is counted in units of 4 bytes.
pub const AUTHENTICATION: u8 = 51;
/// Internet Control Message Protocol for IPv6.
pub const ICMPV6: u8 = 58;
/// Destination options, an extension header.
pub const DESTINATION_OPTIONS: u8 = 60;
/// Stream Control Transmission Protocol.
pub const SCTP: u8 = 132;
/// Mobility (RFC 6275), an extension header.
pub const MOBILITY: u8 = 135;
/// Lightweight UDP (RFC 3828).
pub const UDPLITE: u8 = 136;
/// Host identity (RFC 7401), an extension header.
pub const HOST_IDENTITY: u8 = 139;
/// Shim6 (RFC 5533), an extension header.
pub const SHIM6: u8 = 140;

/// Returns true if the protocol's header begins with a source port and a destination port.
pub const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | DCCP | SCTP | UDPLITE)
}

/// Returns true for the number of an extension header of IPv6. In IPv4, the same numbers are protocols.
pub const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS | MOBILITY | HOST_IDENTITY | SHIM6
    )
}
