//! Checked views of IP packets (RFC 791, RFC 8200). Nothing here trusts a length.

mod icmp;
pub mod protocol;
mod v4;
mod v6;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

/// Bytes of an IPv4 header without options (RFC 791, section 3.1). Shorter packets are no IP packets.
pub const IPV4_MIN_HEADER_LEN: usize = 20;

/// Bytes of an IPv6 header without extension headers (RFC 8200, section 3).
pub const IPV6_HEADER_LEN: usize = 40;

/// What every link takes, in bytes (RFC 8200, section 5): no IPv6 packet of this length may be called too long.
pub const IPV6_MIN_MTU: u16 = 1280;

/// Why bytes are no IP packet that can be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PacketError {
    /// Fewer bytes than the shortest header of its version.
    #[error("shorter than an IP header")]
    TooShort,
    /// The version is neither 4 nor 6.
    #[error("not an IP packet")]
    NotIp,
    /// The lengths in its headers contradict each other or the packet's, or its first part doesn't reach as far as the
    /// header of the protocol in it (RFC 1858, RFC 7112).
    #[error("malformed IP headers")]
    Malformed,
    /// It asks to be sent on by its receiver, by a routing header (RFC 5095) or an option (RFC 7126): its destination isn't
    /// where it is going.
    #[error("a source route")]
    SourceRoute,
}

/// Which part of a packet this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The part with the first byte of the payload. The others may be empty.
    First,
    /// A part from further behind: nothing tells what it belongs to.
    Later,
}

/// An IP packet whose headers are whole and fit the bytes that carry it.
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

/// Where the addresses are. They are read where they are needed: copied along with the packet, they would cost more than
/// all the rest of its way through the rules.
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

    fn with_ports(
        bytes: &'a [u8],
        header: Header<'a>,
        header_len: usize,
        total_len: usize,
        protocol: u8,
        fragment: Fragment,
    ) -> Result<Self, PacketError> {
        let destination_port = if fragment != Fragment::Later && protocol::has_ports(protocol) {
            // Without ports where there must be some, a rule could not see what it looks for.
            let ports = bytes[header_len..total_len].first_chunk::<4>().ok_or(PacketError::Malformed)?;
            Some(u16::from_be_bytes([ports[2], ports[3]]))
        } else {
            None
        };
        Ok(Self { bytes, header, header_len, total_len, protocol, fragment, destination_port })
    }

    /// The packet as it came, with whatever stands behind its end.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether it is an IPv4 packet; else it is an IPv6 packet.
    pub const fn is_v4(&self) -> bool {
        matches!(self.header, Header::V4(_))
    }

    /// Bytes before the payload: the header with its options, or with the extension headers.
    pub const fn header_len(&self) -> usize {
        self.header_len
    }

    /// Bytes of headers and payload; what stands behind them belongs to no packet.
    pub const fn total_len(&self) -> usize {
        self.total_len
    }

    /// Number of the protocol in the payload. For a later fragment of an IPv6 packet, it may be that of an extension
    /// header.
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Which part of a packet it is.
    pub const fn fragment(&self) -> Fragment {
        self.fragment
    }

    /// Whether it says that it is a part of a packet. An IPv6 packet may say so, and be all of it (RFC 6946).
    pub fn is_fragment(&self) -> bool {
        self.fragment != Fragment::Whole
    }

    /// Whether it may not be cut on its way: RFC 791, "don't fragment", and every IPv6 packet.
    pub const fn must_not_fragment(&self) -> bool {
        !self.is_v4() || self.bytes[6] & 0x40 != 0
    }

    /// Where it wants to go in its destination; none for protocols without ports, and for later fragments.
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

/// An IPv6 address of 16 bytes.
const fn v6_address(bytes: &[u8]) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(bytes);
    IpAddr::V6(Ipv6Addr::from_bits(u128::from_be_bytes(octets)))
}

/// Whether an address can belong to one host, as seen from other links. For IPv4 (RFC 1122, section 3.2.1.3), this leaves out
/// 0.0.0.0/8, loopback, multicast, class E and broadcast; for IPv6 (RFC 4291, section 2.4) the unspecified address,
/// loopback, IPv4-mapped addresses, link-local and multicast.
pub const fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(address) => {
            let segments = address.segments();
            // ::/96 has the unspecified address, loopback, and what used to be IPv4-compatible addresses.
            let is_low = matches!(segments, [0, 0, 0, 0, 0, 0 | 0xffff, _, _]);
            let is_link_local = segments[0] & 0xffc0 == 0xfe80;
            let is_multicast = segments[0] & 0xff00 == 0xff00;
            !is_low && !is_link_local && !is_multicast
        }
    }
}
