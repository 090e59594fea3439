//! The header before each packet on a TUN device with IFF_VNET_HDR (`struct virtio_net_hdr` of linux/virtio_net.h). It
//! says what is left to do to the packet before it can travel on a wire.

use thiserror::Error;

use super::ip::{IPV6_HEADER_LEN, Packet, protocol};

/// Bytes of the header.
pub const VNET_HEADER_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// UDP over IPv4 and over IPv6.
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// Most segments of a GSO packet. With an MTU of 576, 64 KiB make 123 segments; Linux makes no segments below 36 bytes
/// (tcp_min_snd_mss, less timestamps) and at most 128 datagrams. A packet with more segments is made to cause work.
pub const MAX_SEGMENTS: usize = 2048;

/// Most bytes of headers that are written when a GSO packet is cut: as many as [`MAX_SEGMENTS`] of the longest IPv4 and
/// TCP headers. The limit matters for extension headers of IPv6, which can be as long as a packet.
const MAX_REPEATED_LEN: usize = MAX_SEGMENTS * (60 + 60);

/// Bytes of the ports at the start of a transport header.
const PORTS_LEN: usize = 4;

/// Offset of the checksum in a TCP header (RFC 9293, section 3.1).
pub const TCP_CHECKSUM_OFFSET: usize = 16;
/// Offset of the checksum in a UDP header (RFC 768).
pub const UDP_CHECKSUM_OFFSET: usize = 6;

/// Bytes of a TCP header without options (RFC 9293, section 3.1).
pub(crate) const TCP_MIN_HEADER_LEN: usize = 20;
const UDP_HEADER_LEN: usize = 8;

/// How a GSO packet is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segmentation {
    /// TCP.
    Tcp {
        /// Bytes of payload in each segment.
        size: u16,
        /// The first segment may carry CWR, the others must not (RFC 3168).
        ecn: bool,
    },
    /// UDP.
    Udp {
        /// Bytes of payload in each datagram.
        size: u16,
    },
}

/// A checksum that is still to be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Offset of the first byte that is summed, from the start of the packet.
    pub start: u16,
    /// Offset of the checksum from `start`. It already holds the sum of the pseudo header.
    pub offset: u16,
}

/// What is left to do to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// The checksum, if it is to be computed.
    pub checksum: Option<PartialChecksum>,
    /// The segmentation, if it is a GSO packet.
    pub segmentation: Option<Segmentation>,
    /// The kernel has verified its checksum.
    pub data_valid: bool,
    /// Length of the headers that each segment repeats, in bytes.
    headers_len: u16,
    /// True for a GSO packet of IPv6.
    is_v6: bool,
}

/// Why a header is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VnetError {
    /// Unknown flags or kind of segmentation.
    #[error("unknown flags or segmentation")]
    Unknown,
    /// The checksum would be written outside of the packet, into its IP headers, or into its ports.
    #[error("a checksum outside of the packet's payload")]
    Checksum,
    /// The packet is not of the kind that the segmentation needs.
    #[error("a segmentation that does not fit the packet")]
    Segmentation,
}

impl Offload {
    /// Nothing is left to do.
    pub const NONE: Self = Self { checksum: None, segmentation: None, data_valid: false, headers_len: 0, is_v6: false };

    /// What is left to do to a GSO packet of TCP whose headers have these lengths, in segments with `size` bytes of payload.
    pub(crate) fn of_tcp(ip_len: usize, headers_len: usize, size: usize) -> Self {
        // Neither is longer than a packet.
        let short = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
        Self {
            checksum: Some(PartialChecksum { start: short(ip_len), offset: short(TCP_CHECKSUM_OFFSET) }),
            segmentation: Some(Segmentation::Tcp { size: short(size), ecn: false }),
            data_valid: false,
            headers_len: short(headers_len),
            is_v6: ip_len == IPV6_HEADER_LEN,
        }
    }

    /// Reads a header and checks that it fits its packet. The length of the headers is taken from the packet: the
    /// kernel's `hdr_len` is not reliable for packets that it forwards.
    ///
    /// A kernel writes the checksum wherever the header says. The checks keep a peer from having IP headers and ports
    /// changed after the rules have been evaluated. The checksum need not be that of the outermost transport protocol,
    /// because packets of tunnels contain others.
    pub fn parse(header: [u8; VNET_HEADER_LEN], packet: &Packet<'_>) -> Result<Self, VnetError> {
        let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let (flags, kind, size, start, offset) = (header[0], header[1], word(4), word(6), word(8));
        if flags & !(NEEDS_CSUM | DATA_VALID) != 0 {
            return Err(VnetError::Unknown);
        }
        let checksum = (flags & NEEDS_CSUM != 0).then_some(PartialChecksum { start, offset });
        if checksum.is_some() {
            let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
            let free = packet.header_len() + if packet.destination_port().is_some() { PORTS_LEN } else { 0 };
            if start < packet.header_len() || at < free || at + 2 > packet.total_len() {
                return Err(VnetError::Checksum);
            }
        }
        let segmentation = match kind & !GSO_ECN {
            GSO_NONE if kind == GSO_NONE => None,
            GSO_TCPV4 | GSO_TCPV6 if packet.is_v4() != (kind & !GSO_ECN == GSO_TCPV4) => {
                return Err(VnetError::Segmentation);
            }
            GSO_TCPV4 | GSO_TCPV6 => Some(Segmentation::Tcp { size, ecn: kind & GSO_ECN != 0 }),
            GSO_UDP_L4 if kind == GSO_UDP_L4 => Some(Segmentation::Udp { size }),
            _ => return Err(VnetError::Unknown),
        };
        let headers_len = match segmentation {
            None => 0,
            Some(kind) => segment_headers_len(kind, checksum, packet).ok_or(VnetError::Segmentation)?,
        };
        let is_v6 = segmentation.is_some() && !packet.is_v4();
        Ok(Self { checksum, segmentation, data_valid: flags & DATA_VALID != 0, headers_len, is_v6 })
    }

    /// The header for a TUN device.
    pub fn encode(&self) -> [u8; VNET_HEADER_LEN] {
        let mut header = [0; VNET_HEADER_LEN];
        header[0] = (u8::from(self.checksum.is_some()) * NEEDS_CSUM) | (u8::from(self.data_valid) * DATA_VALID);
        let (kind, size) = match self.segmentation {
            None => (GSO_NONE, 0),
            Some(Segmentation::Tcp { size, ecn }) => {
                (if self.is_v6 { GSO_TCPV6 } else { GSO_TCPV4 } | (u8::from(ecn) * GSO_ECN), size)
            }
            Some(Segmentation::Udp { size }) => (GSO_UDP_L4, size),
        };
        header[1] = kind;
        header[2..4].copy_from_slice(&self.headers_len.to_ne_bytes());
        header[4..6].copy_from_slice(&size.to_ne_bytes());
        if let Some(checksum) = self.checksum {
            header[6..8].copy_from_slice(&checksum.start.to_ne_bytes());
            header[8..10].copy_from_slice(&checksum.offset.to_ne_bytes());
        }
        header
    }

    /// Number of segments that the packet is cut into; 0 if it is not a GSO packet.
    pub fn segments(&self, packet: &Packet<'_>) -> usize {
        self.segment_len().map_or(0, |len| packet.total_len().saturating_sub(self.headers_len()).div_ceil(len.max(1)))
    }

    /// Length of a segment's payload in bytes, but for the last one; `None` if it is not a GSO packet.
    pub fn segment_len(&self) -> Option<usize> {
        self.segmentation.map(|(Segmentation::Tcp { size, .. } | Segmentation::Udp { size })| usize::from(size))
    }

    /// Length of the IP and TCP or UDP headers that each segment repeats, in bytes; 0 if it is not a GSO packet.
    pub const fn headers_len(&self) -> usize {
        self.headers_len as usize
    }
}

/// Length of the headers of a GSO packet, in bytes. `None` if the packet can't be segmented so.
fn segment_headers_len(kind: Segmentation, checksum: Option<PartialChecksum>, packet: &Packet<'_>) -> Option<u16> {
    let (protocol, checksum_offset, size) = match kind {
        Segmentation::Tcp { size, .. } => (protocol::TCP, TCP_CHECKSUM_OFFSET, size),
        Segmentation::Udp { size } => (protocol::UDP, UDP_CHECKSUM_OFFSET, size),
    };
    let checksum = checksum?;
    let transport = packet.bytes().get(packet.header_len()..packet.total_len())?;
    let (transport_len, min_len) = match kind {
        Segmentation::Tcp { .. } => (usize::from(transport.get(12)? >> 4) * 4, TCP_MIN_HEADER_LEN),
        Segmentation::Udp { .. } => (UDP_HEADER_LEN, UDP_HEADER_LEN),
    };
    let payload_len = transport.len().checked_sub(transport_len)?;
    let headers_len = packet.header_len() + transport_len;
    let count = payload_len.div_ceil(usize::from(size).max(1));
    let fits = packet.protocol() == protocol
        && !packet.is_fragment()
        && size > 0
        && usize::from(checksum.start) == packet.header_len()
        && usize::from(checksum.offset) == checksum_offset
        && transport_len >= min_len
        && (1..=MAX_SEGMENTS).contains(&count)
        && count * headers_len <= MAX_REPEATED_LEN
        && (packet.is_v4() || may_repeat_extensions(packet));
    if fits { u16::try_from(headers_len).ok() } else { None }
}

/// Returns true if all extension headers may be repeated in each segment. Linux segments packets with these only.
fn may_repeat_extensions(packet: &Packet<'_>) -> bool {
    let headers = &packet.bytes()[..packet.header_len()];
    let mut next = headers[6];
    let mut at = IPV6_HEADER_LEN;
    while let Some(&[following, words]) = headers.get(at..).and_then(<[u8]>::first_chunk) {
        if !matches!(next, protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS) {
            return false;
        }
        next = following;
        at += (usize::from(words) + 1) * 8;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn tcp(payload_len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1, 2, 3, 4)
            .write(&mut bytes, &vec![7; payload_len])
            .expect("a valid packet");
        bytes
    }

    const V6: ([u8; 16], [u8; 16]) = ([0xfd; 16], [0x20; 16]);

    fn tcp6(payload_len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv6(V6.0, V6.1, 64)
            .tcp(1, 2, 3, 4)
            .write(&mut bytes, &vec![7; payload_len])
            .expect("a valid packet");
        bytes
    }

    /// The packet with extension headers of this kind and these lengths, in units of 8 bytes.
    fn with_extensions(mut packet: Vec<u8>, kind: u8, lengths: &[u8]) -> Vec<u8> {
        for words in lengths {
            let next = std::mem::replace(&mut packet[6], kind);
            let mut extension = vec![0; usize::from(*words) * 8];
            (extension[0], extension[1]) = (next, words - 1);
            let payload_len = packet.len() - 40 + extension.len();
            packet[4..6].copy_from_slice(&u16::try_from(payload_len).expect("short").to_be_bytes());
            packet.splice(40..40, extension);
        }
        packet
    }

    fn header(flags: u8, kind: u8, size: u16, start: u16, offset: u16) -> [u8; VNET_HEADER_LEN] {
        let mut header = [0; VNET_HEADER_LEN];
        header[0] = flags;
        header[1] = kind;
        header[4..6].copy_from_slice(&size.to_ne_bytes());
        header[6..8].copy_from_slice(&start.to_ne_bytes());
        header[8..10].copy_from_slice(&offset.to_ne_bytes());
        header
    }

    fn parse(header: [u8; VNET_HEADER_LEN], packet: &[u8]) -> Result<Offload, VnetError> {
        Offload::parse(header, &Packet::parse(packet).expect("valid"))
    }

    #[test]
    fn gso_packet_of_tcp_survives() {
        let packet = tcp(5000);
        let offload = parse(header(NEEDS_CSUM, GSO_TCPV4 | GSO_ECN, 1448, 20, 16), &packet).expect("valid");
        assert_eq!(offload.segmentation, Some(Segmentation::Tcp { size: 1448, ecn: true }));
        assert_eq!(offload.headers_len(), 40);
        assert_eq!(parse(offload.encode(), &packet), Ok(offload));
    }

    #[test]
    fn gso_packets_of_ipv6_survive() {
        let packet = tcp6(5000);
        let offload = parse(header(NEEDS_CSUM, GSO_TCPV6 | GSO_ECN, 1428, 40, 16), &packet).expect("valid");
        assert_eq!(offload.segmentation, Some(Segmentation::Tcp { size: 1428, ecn: true }));
        assert_eq!((offload.headers_len(), offload.encode()[1]), (60, GSO_TCPV6 | GSO_ECN));
        assert_eq!(parse(offload.encode(), &packet), Ok(offload));
        let mut packet = Vec::new();
        PacketBuilder::ipv6(V6.0, V6.1, 64).udp(1, 2).write(&mut packet, &[7; 5000]).expect("a valid packet");
        let offload = parse(header(NEEDS_CSUM, GSO_UDP_L4, 1200, 40, 6), &packet).expect("valid");
        assert_eq!((offload.segmentation, offload.headers_len()), (Some(Segmentation::Udp { size: 1200 }), 48));
        assert_eq!(parse(offload.encode(), &packet), Ok(offload));
    }

    #[test]
    fn segmentation_is_of_the_packets_version() {
        let (wrong, right) = (header(NEEDS_CSUM, GSO_TCPV4, 50, 40, 16), header(NEEDS_CSUM, GSO_TCPV6, 50, 40, 16));
        assert_eq!(parse(wrong, &tcp6(100)), Err(VnetError::Segmentation));
        assert!(parse(right, &tcp6(100)).is_ok());
        assert_eq!(parse(header(NEEDS_CSUM, GSO_TCPV6, 50, 20, 16), &tcp(100)), Err(VnetError::Segmentation));
    }

    #[test]
    fn extension_headers_are_repeated_where_that_is_right() {
        let parse_with = |kind, lengths: &[u8], start| {
            parse(header(NEEDS_CSUM, GSO_TCPV6, 50, start, 16), &with_extensions(tcp6(100), kind, lengths))
        };
        for kind in [protocol::HOP_BY_HOP, protocol::ROUTING, protocol::DESTINATION_OPTIONS] {
            assert_eq!(parse_with(kind, &[1], 48).map(|offload| offload.headers_len()), Ok(68), "{kind}");
            assert_eq!(parse_with(kind, &[1], 40), Err(VnetError::Checksum), "into the extension header");
        }
        assert_eq!(
            parse_with(protocol::DESTINATION_OPTIONS, &[2, 3], 80).map(|offload| offload.headers_len()),
            Ok(100)
        );
        // A fragment can't be segmented; the others sign the packet or are about a single packet.
        for kind in
            [protocol::FRAGMENT, protocol::AUTHENTICATION, protocol::MOBILITY, protocol::HOST_IDENTITY, protocol::SHIM6]
        {
            assert_eq!(parse_with(kind, &[1], 48), Err(VnetError::Segmentation), "{kind}");
        }
    }

    #[test]
    fn checksum_never_reaches_the_ports() {
        for at in 0..4 {
            assert_eq!(parse(header(NEEDS_CSUM, 0, 0, 20, at), &tcp(10)), Err(VnetError::Checksum), "{at}");
            assert_eq!(parse(header(NEEDS_CSUM, 0, 0, 40, at), &tcp6(10)), Err(VnetError::Checksum), "{at}");
        }
        assert!(parse(header(NEEDS_CSUM, 0, 0, 40, 4), &tcp6(10)).is_ok());
        let mut ping = Vec::new();
        PacketBuilder::ipv6(V6.0, V6.1, 64).icmpv6_echo_request(1, 2).write(&mut ping, b"").expect("a valid packet");
        assert!(parse(header(NEEDS_CSUM, 0, 0, 40, 2), &ping).is_ok(), "a ping has no ports to protect");
        assert_eq!(parse(header(NEEDS_CSUM, 0, 0, 39, 3), &ping), Err(VnetError::Checksum));
    }

    #[test]
    fn checksum_never_reaches_the_ip_header() {
        let packet = tcp(10);
        assert!(parse(header(NEEDS_CSUM, 0, 0, 20, 16), &packet).is_ok());
        // would overwrite the source address
        assert_eq!(parse(header(NEEDS_CSUM, 0, 0, 0, 12), &packet), Err(VnetError::Checksum));
        assert_eq!(parse(header(NEEDS_CSUM, 0, 0, 19, 16), &packet), Err(VnetError::Checksum));
        assert_eq!(parse(header(NEEDS_CSUM, 0, 0, 20, 29), &packet), Err(VnetError::Checksum));
        assert_eq!(parse(header(NEEDS_CSUM, 0, 0, 65535, 65535), &packet), Err(VnetError::Checksum));
    }

    #[test]
    fn segmentation_must_fit() {
        let packet = tcp(100);
        for wrong in [
            header(0, GSO_TCPV4, 50, 20, 16),
            header(NEEDS_CSUM, GSO_TCPV4, 0, 20, 16),
            header(NEEDS_CSUM, GSO_TCPV4, 50, 24, 16),
            header(NEEDS_CSUM, GSO_TCPV4, 50, 20, 6),
            header(NEEDS_CSUM, GSO_UDP_L4, 50, 20, 6),
        ] {
            assert_eq!(parse(wrong, &packet), Err(VnetError::Segmentation));
        }
        assert_eq!(parse(header(4, 0, 0, 0, 0), &packet), Err(VnetError::Unknown));
        assert_eq!(parse(header(NEEDS_CSUM, 2, 50, 20, 16), &packet), Err(VnetError::Unknown));
        assert_eq!(parse(header(NEEDS_CSUM, 3, 50, 20, 16), &packet), Err(VnetError::Unknown));
        assert_eq!(
            parse(header(NEEDS_CSUM, GSO_TCPV4, 50, 20, 16), &tcp(0)),
            Err(VnetError::Segmentation),
            "nothing to segment"
        );
    }

    #[test]
    fn segments_are_counted_as_they_are_cut() {
        for (payload_len, count) in [(1, 1), (1448, 1), (1449, 2), (1448 * 20, 20), (1448 * 20 + 1, 21)] {
            let bytes = tcp(payload_len);
            let packet = Packet::parse(&bytes).expect("valid");
            let offload = parse(header(NEEDS_CSUM, GSO_TCPV4, 1448, 20, 16), &bytes).expect("valid");
            assert_eq!(offload.segments(&packet), count, "{payload_len}");
        }
        let bytes = tcp(3000);
        assert_eq!(Offload::NONE.segments(&Packet::parse(&bytes).expect("valid")), 0);
    }

    #[test]
    fn cost_of_cutting_is_bounded() {
        let cut = |payload_len| parse(header(NEEDS_CSUM, GSO_TCPV4, 2, 20, 16), &tcp(payload_len));
        assert!(cut(2 * MAX_SEGMENTS).is_ok());
        assert_eq!(cut(2 * MAX_SEGMENTS + 1), Err(VnetError::Segmentation));
        // Headers of 16 KB before segments of 200 bytes.
        let lengths = [255; 8];
        let bytes = |payload_len| with_extensions(tcp6(payload_len), protocol::DESTINATION_OPTIONS, &lengths);
        let start = 40 + 8 * 255 * 8;
        let cut = |payload_len| parse(header(NEEDS_CSUM, GSO_TCPV6, 200, start, 16), &bytes(payload_len));
        assert!(cut(200 * 15).is_ok());
        assert_eq!(cut(200 * 16), Err(VnetError::Segmentation));
    }

    proptest! {
        #[test]
        fn any_header_is_checked(bytes: [u8; VNET_HEADER_LEN], payload_len in 0usize..3000, v6: bool) {
            let (packet, free) = if v6 { (tcp6(payload_len), 44) } else { (tcp(payload_len), 24) };
            if let Ok(offload) = parse(bytes, &packet) {
                prop_assert_eq!(parse(offload.encode(), &packet), Ok(offload));
                if let Some(checksum) = offload.checksum {
                    prop_assert!(usize::from(checksum.start) + usize::from(checksum.offset) >= free);
                    prop_assert!(usize::from(checksum.start) + usize::from(checksum.offset) + 2 <= packet.len());
                }
            }
        }
    }
}
