//! Checked views of IP packets (RFC 791, RFC 8200). Nothing here trusts a length.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

/// Bytes of an IPv4 header without options (RFC 791, section 3.1). Shorter packets are no IP packets.
pub const IPV4_MIN_HEADER_LEN: usize = 20;

/// Bytes of an IPv6 header without extension headers (RFC 8200, section 3).
pub const IPV6_HEADER_LEN: usize = 40;

/// What every link takes, in bytes (RFC 8200, section 5): no IPv6 packet of this length may be called too long.
pub const IPV6_MIN_MTU: u16 = 1280;

/// Most extension headers of a packet. More than a handful never occur (RFC 8504, section 5.3, lets nodes set a limit).
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// Numbers of protocols and extension headers (RFC 790, RFC 8200, section 4; the registry is IANA's "Protocol Numbers").
pub mod protocol {
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
    /// Authentication (RFC 4302), an extension header with lengths of its own.
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

    /// Whether a protocol's header begins with a source port and a destination port.
    pub const fn has_ports(protocol: u8) -> bool {
        matches!(protocol, TCP | UDP | DCCP | SCTP | UDPLITE)
    }
}

/// Options of IPv4 (RFC 791, section 3.1).
mod option {
    /// The end of the list.
    pub const END: u8 = 0;
    /// A byte between options.
    pub const NO_OPERATION: u8 = 1;
    /// Loose source and record route.
    pub const LOOSE_ROUTE: u8 = 131;
    /// Strict source and record route.
    pub const STRICT_ROUTE: u8 = 137;
}

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

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, PacketError> {
        let Some(header) = bytes.first_chunk::<IPV4_MIN_HEADER_LEN>() else { return Err(PacketError::TooShort) };
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_len < IPV4_MIN_HEADER_LEN || total_len < header_len || total_len > bytes.len() {
            return Err(PacketError::Malformed);
        }
        check_options(&bytes[IPV4_MIN_HEADER_LEN..header_len])?;
        let fragment_field = u16::from_be_bytes([header[6], header[7]]);
        let fragment = match fragment_field & 0x3fff {
            0 => Fragment::Whole,
            field if field & 0x1fff == 0 => Fragment::First,
            _ => Fragment::Later,
        };
        Self::with_ports(bytes, Header::V4(header), header_len, total_len, header[9], fragment)
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, PacketError> {
        let Some(header) = bytes.first_chunk::<IPV6_HEADER_LEN>() else { return Err(PacketError::TooShort) };
        let total_len = IPV6_HEADER_LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let Some(whole) = bytes.get(..total_len) else { return Err(PacketError::Malformed) };
        let extensions = Extensions::walk(whole, header[6])?;
        Self::with_ports(bytes, Header::V6(header), extensions.end, total_len, extensions.protocol, extensions.fragment)
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

    /// Whether it is an error message of ICMP (RFC 792) or ICMPv6 (RFC 4443, section 2.1: types below 128) that no
    /// packet to one of `receivers` can be the reason of. Such a message quotes the packet that it is about, and only who got
    /// that has something to say about it. Later fragments are nothing without the first one.
    pub fn is_error_about_others(&self, mut is_receiver: impl FnMut(IpAddr) -> bool) -> bool {
        /// Bytes before the quoted packet, in both versions.
        const HEADER_LEN: usize = 8;
        let is_icmp = self.protocol == if self.is_v4() { protocol::ICMP } else { protocol::ICMPV6 };
        if !is_icmp || self.fragment == Fragment::Later {
            return false;
        }
        let message = &self.bytes[self.header_len..self.total_len];
        let is_error = message.first().is_some_and(|kind| match self.header {
            // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
            Header::V4(_) => matches!(kind, 3 | 4 | 5 | 11 | 12),
            Header::V6(_) => *kind < 128,
        });
        let quoted = || {
            let quoted = message.get(HEADER_LEN..)?;
            Some(match self.header {
                Header::V4(_) => IpAddr::V4(Ipv4Addr::from(*quoted.get(16..)?.first_chunk::<4>()?)),
                Header::V6(_) => v6(quoted.get(24..40)?),
            })
        };
        is_error && !quoted().is_some_and(&mut is_receiver)
    }

    /// Source address.
    pub const fn src(&self) -> IpAddr {
        match self.header {
            Header::V4([.., a, b, c, d, _, _, _, _]) => IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d)),
            Header::V6([_, _, _, _, _, _, _, _, addresses @ ..]) => v6(addresses.split_at(16).0),
        }
    }

    /// Destination address.
    pub const fn dst(&self) -> IpAddr {
        match self.header {
            Header::V4([.., a, b, c, d]) => IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d)),
            Header::V6([_, _, _, _, _, _, _, _, addresses @ ..]) => v6(addresses.split_at(16).1),
        }
    }
}

/// IPv4's options (RFC 791, section 3.1): their lengths fit, and none sends the packet on from its destination.
fn check_options(mut options: &[u8]) -> Result<(), PacketError> {
    loop {
        match options {
            [] | [option::END, ..] => return Ok(()),
            [option::NO_OPERATION, rest @ ..] => options = rest,
            [kind, len, rest @ ..] => {
                // Kind and length count, too.
                let data_len = usize::from(*len).checked_sub(2).ok_or(PacketError::Malformed)?;
                let (data, rest) = rest.split_at_checked(data_len).ok_or(PacketError::Malformed)?;
                if matches!(*kind, option::LOOSE_ROUTE | option::STRICT_ROUTE) {
                    let [pointer, ..] = data else { return Err(PacketError::Malformed) };
                    // Beyond its end there is no way left to go.
                    if pointer <= len {
                        return Err(PacketError::SourceRoute);
                    }
                }
                options = rest;
            }
            [_] => return Err(PacketError::Malformed),
        }
    }
}

/// An IPv6 address of 16 bytes.
const fn v6(bytes: &[u8]) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(bytes);
    IpAddr::V6(Ipv6Addr::from_bits(u128::from_be_bytes(octets)))
}

/// What the extension headers of an IPv6 packet lead to.
struct Extensions {
    /// Bytes from the packet's start to its payload.
    end: usize,
    protocol: u8,
    fragment: Fragment,
}

impl Extensions {
    /// Follows the chain from the header's `next` (RFC 8200, section 4) to the end of the packet, `whole`, at most.
    fn walk(whole: &[u8], next: u8) -> Result<Self, PacketError> {
        let mut found = Self { end: IPV6_HEADER_LEN, protocol: next, fragment: Fragment::Whole };
        for _ in 0..MAX_EXTENSION_HEADERS {
            if !is_extension(found.protocol) {
                return Ok(found);
            }
            let rest = whole.get(found.end..).unwrap_or_default();
            let Some(&[next, len, third, fourth]) = rest.first_chunk() else { return Err(PacketError::Malformed) };
            let bytes = match found.protocol {
                protocol::FRAGMENT => 8,
                protocol::AUTHENTICATION => (usize::from(len) + 2) * 4,
                _ => (usize::from(len) + 1) * 8,
            };
            if rest.len() < bytes {
                return Err(PacketError::Malformed);
            }
            match found.protocol {
                protocol::ROUTING if fourth != 0 => return Err(PacketError::SourceRoute),
                // It may stand right behind the header only.
                protocol::HOP_BY_HOP if found.end != IPV6_HEADER_LEN => return Err(PacketError::Malformed),
                protocol::FRAGMENT => {
                    let is_later = u16::from_be_bytes([third, fourth]) & 0xfff8 != 0;
                    found.fragment = if is_later { Fragment::Later } else { Fragment::First };
                }
                _ => {}
            }
            found.end += bytes;
            found.protocol = next;
            if found.fragment == Fragment::Later {
                return Ok(found);
            }
        }
        if is_extension(found.protocol) { Err(PacketError::Malformed) } else { Ok(found) }
    }
}

/// Whether a number is that of an extension header of IPv6, behind which there is a protocol. In IPv4 all are protocols.
pub const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
            | protocol::DESTINATION_OPTIONS
            | protocol::MOBILITY
            | protocol::HOST_IDENTITY
            | protocol::SHIM6
    )
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

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn udp(src: [u8; 4], dst: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4(src, dst, 64).udp(1000, 2000).write(&mut packet, payload).expect("a valid packet");
        packet
    }

    const SRC6: [u8; 16] = [0xfd, 0, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    const DST6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

    /// An IPv6 packet with this behind its header.
    fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
        let len = u16::try_from(payload.len()).expect("short").to_be_bytes();
        [&[0x60, 0, 0, 0, len[0], len[1], next, 64], SRC6.as_slice(), DST6.as_slice(), payload].concat()
    }

    const UDP_HEADER: [u8; 8] = [0x03, 0xe8, 0x07, 0xd0, 0, 8, 0, 0];

    /// An extension header of 8 bytes or more, without anything in it.
    fn extension(next: u8, more_words: u8) -> Vec<u8> {
        let mut bytes = vec![next, more_words];
        bytes.resize((usize::from(more_words) + 1) * 8, 0);
        bytes
    }

    fn error(bytes: &[u8]) -> PacketError {
        Packet::parse(bytes).expect_err("must be refused")
    }

    #[test]
    fn reads_ipv4() {
        let bytes = udp([192, 168, 0, 2], [10, 1, 2, 3], b"hello");
        let packet = Packet::parse(&bytes).expect("valid");
        assert_eq!(packet.src(), IpAddr::from([192, 168, 0, 2]));
        assert_eq!(packet.dst(), IpAddr::from([10, 1, 2, 3]));
        assert_eq!((packet.protocol(), packet.destination_port()), (protocol::UDP, Some(2000)));
        assert_eq!((packet.header_len(), packet.total_len(), packet.is_v4()), (20, 33, true));
    }

    #[test]
    fn refuses_what_is_no_ipv4_packet() {
        let good = udp([1, 2, 3, 4], [5, 6, 7, 8], b"");
        let with = |index: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[index] = value;
            bytes
        };
        assert_eq!(error(&good[..19]), PacketError::TooShort);
        assert_eq!(error(&[]), PacketError::TooShort);
        assert_eq!(error(&with(0, 0x55)), PacketError::NotIp);
        assert_eq!(error(&with(0, 0x44)), PacketError::Malformed); // header of 16 bytes
        assert_eq!(error(&with(0, 0x4f)), PacketError::Malformed); // header longer than the packet
        assert_eq!(error(&with(3, 29)), PacketError::Malformed); // total length beyond the packet
        assert_eq!(error(&with(3, 19)), PacketError::Malformed); // total length below the header
        assert_eq!(error(&with(3, 23)), PacketError::Malformed); // ports beyond the end
    }

    #[test]
    fn errors_are_about_what_they_quote() {
        let (own, other) = ([192, 168, 0, 2], [10, 1, 2, 3]);
        let to = |receiver: [u8; 4]| udp(other, receiver, b"");
        let v4 = |kind: u8, quoted: &[u8], fragment: u8| {
            let len = u8::try_from(28 + quoted.len()).expect("short");
            let header = [0x45, 0, 0, len, 0, 1, fragment, 0, 64, protocol::ICMP, 0, 0];
            [&header[..], &own, &other, &[kind, 0, 0, 0, 0, 0, 0, 0], quoted].concat()
        };
        let is_foreign = |bytes: &[u8]| {
            let packet = Packet::parse(bytes).expect("valid");
            packet.is_error_about_others(|it| it == IpAddr::from(own) || it == IpAddr::from(SRC6))
        };
        for kind in [3, 4, 5, 11, 12] {
            assert!(is_foreign(&v4(kind, &to([10, 1, 2, 4]), 0)) && !is_foreign(&v4(kind, &to(own), 0)), "{kind}");
            assert!(is_foreign(&v4(kind, &to(own)[..19], 0)), "too short to tell");
            assert!(is_foreign(&v4(kind, &[], 0x20)), "the first fragment has nothing of it");
        }
        for kind in [0, 8, 13] {
            assert!(!is_foreign(&v4(kind, &to([10, 1, 2, 4]), 0)), "{kind}: no error");
        }
        let mut later = v4(3, &to([10, 1, 2, 4]), 0);
        later[7] = 1;
        assert!(!is_foreign(&later));
        let quoted = |receiver: [u8; 16]| [&[0x60, 0, 0, 0, 0, 0, 17, 64], DST6.as_slice(), &receiver].concat();
        let v6 = |kind: u8, quoted: &[u8]| ipv6(protocol::ICMPV6, &[&[kind, 0, 0, 0, 0, 0, 0, 0], quoted].concat());
        for kind in [1, 2, 3, 4, 127] {
            assert!(is_foreign(&v6(kind, &quoted(DST6))) && !is_foreign(&v6(kind, &quoted(SRC6))), "{kind}");
            assert!(is_foreign(&v6(kind, &quoted(SRC6)[..39])), "too short to tell");
        }
        assert!(!is_foreign(&v6(128, &quoted(DST6))) && !is_foreign(&udp(own, other, b"")));
    }

    #[test]
    fn reads_ipv6() {
        let bytes = [ipv6(protocol::UDP, &UDP_HEADER), vec![7; 3]].concat();
        let packet = Packet::parse(&bytes).expect("valid");
        assert_eq!((packet.src(), packet.dst()), (IpAddr::from(SRC6), IpAddr::from(DST6)));
        assert_eq!((packet.protocol(), packet.destination_port()), (protocol::UDP, Some(2000)));
        assert_eq!((packet.header_len(), packet.total_len(), packet.is_v4()), (40, 48, false));
        assert!(packet.must_not_fragment() && packet.fragment() == Fragment::Whole);
    }

    #[test]
    fn refuses_what_is_no_ipv6_packet() {
        assert_eq!(error(&ipv6(59, &[])[..39]), PacketError::TooShort);
        assert_eq!(error(&[0x60; 19]), PacketError::TooShort);
        assert_eq!(error(&ipv6(59, &[1])[..40]), PacketError::Malformed);
        assert!(Packet::parse(&ipv6(59, &[])).is_ok());
        assert_eq!(error(&ipv6(protocol::UDP, &[0; 3])), PacketError::Malformed); // ports beyond the end
    }

    #[test]
    fn extension_headers_hide_nothing() {
        let options = |next| extension(next, 1);
        let chain = [
            extension(protocol::DESTINATION_OPTIONS, 0),
            options(protocol::ROUTING),
            extension(protocol::AUTHENTICATION, 0),
            extension(protocol::UDP, 2)[..16].to_vec(),
            UDP_HEADER.to_vec(),
        ]
        .concat();
        let bytes = ipv6(protocol::HOP_BY_HOP, &chain);
        let packet = Packet::parse(&bytes).expect("valid");
        assert_eq!((packet.protocol(), packet.destination_port()), (protocol::UDP, Some(2000)));
        assert_eq!(packet.header_len(), 40 + 8 + 16 + 8 + 16);
    }

    #[test]
    fn chains_that_do_not_end_are_refused() {
        let many = |count: usize| {
            let mut chain = extension(protocol::DESTINATION_OPTIONS, 0).repeat(count - 1);
            chain.extend(extension(59, 0));
            ipv6(protocol::DESTINATION_OPTIONS, &chain)
        };
        assert!(Packet::parse(&many(MAX_EXTENSION_HEADERS)).is_ok());
        assert_eq!(error(&many(MAX_EXTENSION_HEADERS + 1)), PacketError::Malformed);
        assert_eq!(error(&ipv6(protocol::DESTINATION_OPTIONS, &[])), PacketError::Malformed);
        assert_eq!(error(&ipv6(protocol::DESTINATION_OPTIONS, &extension(59, 1)[..15])), PacketError::Malformed);
        let late_hop_by_hop = [extension(protocol::HOP_BY_HOP, 0), extension(59, 0)].concat();
        assert_eq!(error(&ipv6(protocol::DESTINATION_OPTIONS, &late_hop_by_hop)), PacketError::Malformed);
    }

    #[test]
    fn routing_headers_with_something_left_are_refused() {
        let mut routing = extension(protocol::UDP, 0);
        routing.extend(UDP_HEADER);
        assert!(Packet::parse(&ipv6(protocol::ROUTING, &routing)).is_ok());
        routing[3] = 1;
        assert_eq!(error(&ipv6(protocol::ROUTING, &routing)), PacketError::SourceRoute);
    }

    fn with_options(options: &[u8]) -> Vec<u8> {
        let mut bytes = udp([1, 2, 3, 4], [5, 6, 7, 8], b"");
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4), 0);
        bytes[0] += u8::try_from(options.len() / 4).expect("short");
        bytes[3] += u8::try_from(options.len()).expect("short");
        bytes.splice(20..20, options);
        bytes
    }

    #[test]
    fn source_routes_of_ipv4_with_something_left_are_refused() {
        let route = |kind, pointer| [1, kind, 11, pointer, 9, 9, 9, 9, 8, 8, 8, 8];
        for kind in [131, 137] {
            for pointer in [0, 4, 8, 11] {
                assert_eq!(error(&with_options(&route(kind, pointer))), PacketError::SourceRoute, "{kind} {pointer}");
            }
            assert!(Packet::parse(&with_options(&route(kind, 12))).is_ok(), "it is used up");
            assert_eq!(error(&with_options(&[kind, 2])), PacketError::Malformed);
            let behind_another = [&[148, 4, 0, 0][..], &route(kind, 4)].concat();
            assert_eq!(error(&with_options(&behind_another)), PacketError::SourceRoute);
            let behind_the_end = [&[0][..], &route(kind, 4)].concat();
            assert!(Packet::parse(&with_options(&behind_the_end)).is_ok());
        }
        // Recorded, and nothing more.
        assert!(Packet::parse(&with_options(&route(7, 4))).is_ok());
    }

    #[test]
    fn options_whose_lengths_make_no_sense_are_refused() {
        for options in [&[7, 0, 4, 0][..], &[7, 1, 4, 0], &[7, 5, 4, 0], &[1, 1, 1, 7]] {
            assert_eq!(error(&with_options(options)), PacketError::Malformed, "{options:?}");
        }
        assert_eq!(Packet::parse(&with_options(&[7, 4, 4, 0])).map(|packet| packet.destination_port()), Ok(Some(2000)));
    }

    #[test]
    fn first_fragments_show_their_ports_and_later_ones_need_not() {
        let v6 = |field: u16, payload: &[u8]| {
            let [high, low] = field.to_be_bytes();
            ipv6(protocol::FRAGMENT, &[&[protocol::UDP, 0, high, low, 0, 0, 0, 1], payload].concat())
        };
        let v4 = |field: u16, payload: &[u8]| {
            let mut bytes = udp([1, 2, 3, 4], [5, 6, 7, 8], b"")[..20].to_vec();
            bytes[2..4].copy_from_slice(&u16::try_from(20 + payload.len()).expect("short").to_be_bytes());
            bytes[6..8].copy_from_slice(&field.to_be_bytes());
            [&bytes, payload].concat()
        };
        let seen = |bytes: &[u8]| Packet::parse(bytes).map(|it| (it.fragment(), it.destination_port()));
        let (first, later) = (Ok((Fragment::First, Some(2000))), Ok((Fragment::Later, None)));
        assert_eq!(seen(&v6(1, &UDP_HEADER)), first);
        assert_eq!(seen(&v6(0, &UDP_HEADER)), first, "an atomic fragment");
        assert_eq!(seen(&v6(1, &UDP_HEADER[..3])), Err(PacketError::Malformed));
        assert_eq!(seen(&v6(8, &[1])), later);
        assert_eq!(seen(&v4(0x2000, &UDP_HEADER)), first);
        assert_eq!(seen(&v4(0x2000, &UDP_HEADER[..3])), Err(PacketError::Malformed));
        assert_eq!(seen(&v4(1, &[1])), later);
    }

    #[test]
    fn unicast_addresses() {
        for (address, expected) in [
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("10.0.0.1", true),
            ("127.0.0.1", false),
            ("223.255.255.255", true),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("::10.0.0.1", false),
            ("::ffff:10.0.0.1", false),
            ("64:ff9b::10.0.0.1", true),
            ("2001:db8::1", true),
            ("fd00:77::1", true),
            ("fe7f::1", true),
            ("fe80::1", false),
            ("febf::1", false),
            ("fec0::1", true),
            ("ff02::1", false),
        ] {
            assert_eq!(is_unicast(address.parse().expect("an address")), expected, "{address}");
        }
    }

    proptest! {
        /// Everything that the oracle calls an IP packet is one here, with the same addresses.
        #[test]
        fn agrees_with_etherparse(
            (src, dst) in any::<([u8; 4], [u8; 4])>(),
            (src6, dst6) in any::<([u8; 16], [u8; 16])>(),
            payload in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let bytes = udp(src, dst, &payload);
            let packet = Packet::parse(&bytes).expect("the builder makes valid packets");
            let oracle = etherparse::Ipv4Slice::from_slice(&bytes).expect("the builder makes valid packets");
            prop_assert_eq!(packet.src(), IpAddr::V4(oracle.header().source_addr()));
            prop_assert_eq!(packet.dst(), IpAddr::V4(oracle.header().destination_addr()));

            let mut bytes = Vec::new();
            PacketBuilder::ipv6(src6, dst6, 64).tcp(1, 2, 3, 4).write(&mut bytes, &payload).expect("a valid packet");
            let packet = Packet::parse(&bytes).expect("the builder makes valid packets");
            prop_assert_eq!((packet.src(), packet.dst()), (IpAddr::from(src6), IpAddr::from(dst6)));
            prop_assert_eq!((packet.protocol(), packet.destination_port()), (protocol::TCP, Some(2)));
        }

        /// What passes here has headers that the oracle accepts, too.
        #[test]
        fn accepts_nothing_that_etherparse_refuses(mut bytes in prop::collection::vec(any::<u8>(), 0..120), first: u8) {
            if let Some(byte) = bytes.first_mut() {
                *byte = if first & 0x10 == 0 { 0x40 } else { 0x60 } | (first & 0x0f);
            }
            if let Some(next) = bytes.get_mut(6) {
                *next &= 0x3f; // half of the extension headers are below
            }
            if let Ok(packet) = Packet::parse(&bytes) {
                prop_assert!(packet.header_len() <= packet.total_len() && packet.total_len() <= bytes.len());
                if packet.is_v4() {
                    prop_assert!(etherparse::Ipv4HeaderSlice::from_slice(&bytes).is_ok());
                } else {
                    prop_assert!(etherparse::Ipv6Slice::from_slice(&bytes).is_ok());
                }
            }
        }
    }
}
