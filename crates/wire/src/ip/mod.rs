//! Checked views of IP packets (RFC 791, RFC 8200). No length in a packet is trusted.

mod build;
mod ecn;
mod flow;
pub mod protocol;
mod v4;
mod v6;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

pub use build::header;
pub use ecn::mark_ce;
pub use flow::{FlowPart, FlowPorts, Quoted, Roles, TcpFlags};

/// Bytes of an IPv4 header without options (RFC 791, section 3.1). Nothing shorter is an IP packet.
pub const IPV4_MIN_HEADER_LEN: usize = 20;

/// Bytes of an IPv6 header without extension headers (RFC 8200, section 3).
pub const IPV6_HEADER_LEN: usize = 40;

/// Least MTU of a link with IPv6, in bytes (RFC 8200, section 5). An IPv6 packet of this length must never be called
/// too long.
pub const IPV6_MIN_MTU: u16 = 1280;

/// Why bytes are not an IP packet that can be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PacketError {
    /// Fewer bytes than the shortest header of its version.
    #[error("shorter than an IP header")]
    TooShort,
    /// The version is neither 4 nor 6.
    #[error("not an IP packet")]
    NotIp,
    /// The lengths in its headers contradict each other or the packet's length, or its first fragment ends before the
    /// header of the transport protocol (RFC 1858, RFC 7112).
    #[error("malformed IP headers")]
    Malformed,
    /// A routing header (RFC 5095) or an option (RFC 7126) asks the receiver to send it on: its destination is not
    /// where it is going.
    #[error("a source route")]
    SourceRoute,
}

/// Which part of a datagram a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// The whole datagram.
    Whole,
    /// The part with the first byte of the payload. It may be the only one (RFC 6946).
    First,
    /// A later part. It does not show which transport protocol header it belongs to.
    Later,
}

/// An IP packet whose headers are complete and fit the bytes that carry it.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    bytes: &'a [u8],
    header: Header<'a>,
    header_len: usize,
    total_len: usize,
    protocol: u8,
    fragment: Fragment,
    destination_port: Option<u16>,
}

/// The fixed header. Addresses are read from it where they are needed: to copy them along with the packet costs more
/// than the evaluation of all rules.
#[derive(Debug, Clone, Copy)]
enum Header<'a> {
    V4(&'a [u8; IPV4_MIN_HEADER_LEN]),
    V6(&'a [u8; IPV6_HEADER_LEN]),
}

impl<'a> Packet<'a> {
    /// Checks version, lengths and extension headers. Checksums are left to the kernels at both ends.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        match bytes.first().map(|first| first >> 4) {
            None => Err(PacketError::TooShort),
            _ if bytes.len() < IPV4_MIN_HEADER_LEN => Err(PacketError::TooShort),
            Some(4) => Self::parse_v4(bytes),
            Some(6) => Self::parse_v6(bytes),
            Some(_) => Err(PacketError::NotIp),
        }
    }

    /// Reads the destination port, if the packet must have one.
    fn with_ports(
        bytes: &'a [u8],
        header: Header<'a>,
        header_len: usize,
        total_len: usize,
        protocol: u8,
        fragment: Fragment,
    ) -> Result<Self, PacketError> {
        let destination_port = if fragment != Fragment::Later && protocol::has_ports(protocol) {
            // A rule about ports could not be applied to a packet that ends before them.
            let ports = bytes[header_len..total_len].first_chunk::<4>().ok_or(PacketError::Malformed)?;
            Some(u16::from_be_bytes([ports[2], ports[3]]))
        } else {
            None
        };
        Ok(Self { bytes, header, header_len, total_len, protocol, fragment, destination_port })
    }

    /// The bytes that were parsed, with those behind the packet's end.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns true for an IPv4 packet, false for an IPv6 packet.
    pub const fn is_v4(&self) -> bool {
        matches!(self.header, Header::V4(_))
    }

    /// Length of the header with its options or extension headers, in bytes.
    pub const fn header_len(&self) -> usize {
        self.header_len
    }

    /// Length of headers and payload, in bytes. Bytes behind them do not belong to the packet.
    pub const fn total_len(&self) -> usize {
        self.total_len
    }

    /// Number of the protocol in the payload. For a later fragment of IPv6, it may be the number of an extension
    /// header.
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Which part of a datagram it carries.
    pub const fn fragment(&self) -> Fragment {
        self.fragment
    }

    /// Returns true if it is marked as a fragment. An IPv6 packet may be marked so and be the whole datagram (RFC
    /// 6946).
    pub fn is_fragment(&self) -> bool {
        self.fragment != Fragment::Whole
    }

    /// Returns true if routers must not fragment it: "don't fragment" of RFC 791 is set, or it is an IPv6 packet.
    pub const fn must_not_fragment(&self) -> bool {
        !self.is_v4() || self.bytes[6] & 0x40 != 0
    }

    /// The destination port. `None` for protocols without ports, and for later fragments.
    pub const fn destination_port(&self) -> Option<u16> {
        self.destination_port
    }

    /// Source address.
    pub const fn src(&self) -> IpAddr {
        match self.header {
            Header::V4([.., a, b, c, d, _, _, _, _]) => IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d)),
            Header::V6([_, _, _, _, _, _, _, _, addresses @ ..]) => v6_address(addresses.split_at(16).0),
        }
    }

    /// Destination address.
    pub const fn dst(&self) -> IpAddr {
        match self.header {
            Header::V4([.., a, b, c, d]) => IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d)),
            Header::V6([_, _, _, _, _, _, _, _, addresses @ ..]) => v6_address(addresses.split_at(16).1),
        }
    }
}

/// The IPv4 address in a slice of 4 bytes.
const fn v4_address(bytes: &[u8]) -> IpAddr {
    let mut octets = [0; 4];
    octets.copy_from_slice(bytes);
    IpAddr::V4(Ipv4Addr::from_bits(u32::from_be_bytes(octets)))
}

/// The IPv6 address in a slice of 16 bytes.
const fn v6_address(bytes: &[u8]) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(bytes);
    IpAddr::V6(Ipv6Addr::from_bits(u128::from_be_bytes(octets)))
}

/// Returns true for a unicast address that can be seen from other links. False for IPv4 (RFC 1122, section 3.2.1.3):
/// 0.0.0.0/8, loopback, multicast, class E and broadcast; for IPv6 (RFC 4291, section 2.4): the unspecified address,
/// loopback, IPv4-compatible and IPv4-mapped addresses, link-local and multicast.
pub const fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(address) => {
            let segments = address.segments();
            // ::/96 is the unspecified address, loopback, and the former IPv4-compatible addresses.
            let is_low = matches!(segments, [0, 0, 0, 0, 0, 0 | 0xffff, _, _]);
            let is_link_local = segments[0] & 0xffc0 == 0xfe80;
            let is_multicast = segments[0] & 0xff00 == 0xff00;
            !is_low && !is_link_local && !is_multicast
        }
    }
}
