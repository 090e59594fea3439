//! What a network card would do: complete a checksum, cut a super-packet into packets. Needed where a packet leaves for
//! a peer that gets frames, or for another router.

use super::ip::Packet;
use super::vnet::{Offload, PartialChecksum, Segmentation, TCP_CHECKSUM_OFFSET, UDP_CHECKSUM_OFFSET};

/// Offsets in an IPv4 header (RFC 791, section 3.1).
const IP_TOTAL_LEN: usize = 2;
const IP_IDENTIFICATION: usize = 4;
const IP_CHECKSUM: usize = 10;
const IP_ADDRESSES: std::ops::Range<usize> = 12..20;

/// Offsets in a TCP header (RFC 9293, section 3.1).
const TCP_SEQUENCE: usize = 4;
const TCP_FLAGS: usize = 13;
const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// Offset of the length in a UDP header (RFC 768).
const UDP_LEN: usize = 4;

/// Hands the packets that `packet` stands for to `emit`, ready for the wire, in order. `offload` must have been checked
/// against this packet; `scratch` is where they are put together.
pub fn for_each_packet(offload: &Offload, packet: &Packet<'_>, scratch: &mut Vec<u8>, mut emit: impl FnMut(&[u8])) {
    let bytes = &packet.bytes()[..packet.total_len()];
    match (offload.segmentation, offload.checksum) {
        (None, None) => emit(bytes),
        (None, Some(checksum)) => {
            scratch.clear();
            scratch.extend_from_slice(bytes);
            complete_checksum(scratch, checksum, packet.protocol());
            emit(scratch);
        }
        (Some(kind), _) => {
            let (headers, payload) = bytes.split_at(offload.headers_len());
            let size = match kind {
                Segmentation::Tcp { size, .. } | Segmentation::Udp { size } => usize::from(size),
            };
            let count = offload.segments(packet);
            for (index, part) in payload.chunks(size).enumerate() {
                scratch.clear();
                scratch.extend_from_slice(headers);
                scratch.extend_from_slice(part);
                finish_segment(scratch, packet.header_len(), kind, index, index + 1 == count);
                emit(scratch);
            }
        }
    }
}

/// Makes the copy of the headers before a part of the payload those of a packet of its own.
fn finish_segment(bytes: &mut [u8], ip_len: usize, kind: Segmentation, index: usize, last: bool) {
    // The segments of one super-packet never exceed its 65535 bytes, so that all of these fit their fields.
    let total_len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    let step = u16::try_from(index).unwrap_or(u16::MAX);
    put(bytes, IP_TOTAL_LEN, total_len);
    put(bytes, IP_IDENTIFICATION, get(bytes, IP_IDENTIFICATION).wrapping_add(step));
    put(bytes, IP_CHECKSUM, 0);
    put(bytes, IP_CHECKSUM, !fold(sum(0, &bytes[..ip_len])));

    let (ip, transport) = bytes.split_at_mut(ip_len);
    let transport_len = total_len.saturating_sub(u16::try_from(ip_len).unwrap_or(u16::MAX));
    let (protocol, checksum_at) = match kind {
        Segmentation::Tcp { size, .. } => {
            let sequence = [0, 1, 2, 3].map(|at| transport[TCP_SEQUENCE + at]);
            let sequence = u32::from_be_bytes(sequence).wrapping_add(u32::from(step) * u32::from(size));
            transport[TCP_SEQUENCE..TCP_SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
            if !last {
                transport[TCP_FLAGS] &= !(TCP_FIN | TCP_PSH);
            }
            if index > 0 {
                transport[TCP_FLAGS] &= !TCP_CWR;
            }
            (super::vnet::IPPROTO_TCP, TCP_CHECKSUM_OFFSET)
        }
        Segmentation::Udp { .. } => {
            put(transport, UDP_LEN, transport_len);
            (super::vnet::IPPROTO_UDP, UDP_CHECKSUM_OFFSET)
        }
    };
    put(transport, checksum_at, 0);
    let pseudo = sum(u64::from(protocol) + u64::from(transport_len), &ip[IP_ADDRESSES]);
    put(transport, checksum_at, not_zero(!fold(sum(pseudo, transport)), protocol));
}

/// Writes the checksum of which the sender left the pseudo header's part.
fn complete_checksum(bytes: &mut [u8], checksum: PartialChecksum, protocol: u8) {
    let start = usize::from(checksum.start);
    let value = not_zero(!fold(sum(0, &bytes[start..])), protocol);
    put(bytes, start + usize::from(checksum.offset), value);
}

/// A UDP checksum of 0 means that there is none (RFC 768).
const fn not_zero(checksum: u16, protocol: u8) -> u16 {
    if checksum == 0 && protocol == super::vnet::IPPROTO_UDP { u16::MAX } else { checksum }
}

/// Adds bytes to a sum of 16-bit words (RFC 1071). Words of four bytes give the same once folded.
pub fn sum(start: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total = start;
    for word in words {
        total += u64::from(u32::from_be_bytes(*word));
    }
    let (pairs, odd) = rest.as_chunks::<2>();
    for pair in pairs {
        total += u64::from(u16::from_be_bytes(*pair));
    }
    if let [byte] = odd {
        total += u64::from(*byte) << 8;
    }
    total
}

/// Folds a sum into 16 bits, with the carries added (RFC 1071).
pub const fn fold(sum: u64) -> u16 {
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    #[allow(clippy::cast_possible_truncation)] // the loop has just made sure
    {
        sum as u16
    }
}

fn get(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::vnet::VNET_HEADER_LEN;
    use etherparse::{Ipv4Header, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    /// A header as a kernel would write it for this packet.
    fn header(kind: u8, size: u16, checksum_offset: u16) -> [u8; VNET_HEADER_LEN] {
        let mut header = [0; VNET_HEADER_LEN];
        header[0] = 1;
        header[1] = kind;
        header[4..6].copy_from_slice(&size.to_ne_bytes());
        header[6..8].copy_from_slice(&20u16.to_ne_bytes());
        header[8..10].copy_from_slice(&checksum_offset.to_ne_bytes());
        header
    }

    fn packets(header: [u8; VNET_HEADER_LEN], bytes: &[u8]) -> Vec<Vec<u8>> {
        let packet = Packet::parse(bytes).expect("valid");
        let offload = Offload::parse(header, &packet).expect("valid");
        let mut seen = Vec::new();
        for_each_packet(&offload, &packet, &mut Vec::new(), |packet| seen.push(packet.to_vec()));
        seen
    }

    /// Leaves only the pseudo header's part in a checksum, as a kernel does that expects the rest to be done later.
    fn make_partial(bytes: &mut [u8], at: usize, protocol: u8) {
        let transport_len = bytes.len() - 20;
        let pseudo = sum(u64::from(protocol) + transport_len as u64, &bytes[IP_ADDRESSES]);
        put(bytes, 20 + at, fold(pseudo));
    }

    fn tcp(payload: &[u8], sequence: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4([192, 168, 0, 2], [10, 1, 2, 3], 64)
            .tcp(4000, 80, sequence, 1000)
            .fin()
            .psh()
            .ack(77)
            .options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])
            .expect("12 bytes of options")
            .write(&mut bytes, payload)
            .expect("a valid packet");
        bytes
    }

    fn checked(bytes: &[u8]) -> (Ipv4Header, SlicedPacket<'_>) {
        let sliced = SlicedPacket::from_ip(bytes).expect("an IP packet");
        let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4") };
        let ip = ip.header().to_header();
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        (ip, sliced)
    }

    proptest! {
        /// Put together again, the segments are the payload; each is a packet that the oracle accepts.
        #[test]
        fn tcp_segments(payload in prop::collection::vec(any::<u8>(), 1..5000), size in 3u16..1500, sequence: u32) {
            let bytes = tcp(&payload, sequence);
            let segments = packets(header(1, size, 16), &bytes);
            let mut reassembled = Vec::new();
            for (index, segment) in segments.iter().enumerate() {
                let (ip, sliced) = checked(segment);
                let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
                let header = tcp.to_header();
                prop_assert_eq!(tcp.checksum(), header.calc_checksum_ipv4(&ip, tcp.payload()).expect("fits"));
                prop_assert_eq!(header.sequence_number, sequence.wrapping_add(u32::try_from(reassembled.len()).expect("short")));
                let last = index + 1 == segments.len();
                prop_assert_eq!((header.fin, header.psh, header.ack), (last, last, true));
                prop_assert_eq!(header.options.len(), 12);
                prop_assert!(tcp.payload().len() <= usize::from(size));
                reassembled.extend_from_slice(tcp.payload());
            }
            prop_assert_eq!(reassembled, payload);
        }

        #[test]
        fn udp_datagrams(payload in prop::collection::vec(any::<u8>(), 1..5000), size in 3u16..1500) {
            let mut bytes = Vec::new();
            PacketBuilder::ipv4([192, 168, 0, 2], [10, 1, 2, 3], 64).udp(1, 2).write(&mut bytes, &payload).expect("valid");
            let mut reassembled = Vec::new();
            for datagram in packets(header(5, size, 6), &bytes) {
                let (ip, sliced) = checked(&datagram);
                let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
                let expected = udp.to_header().calc_checksum_ipv4(&ip, udp.payload()).expect("fits");
                prop_assert_eq!(udp.checksum(), expected);
                prop_assert_eq!(usize::from(udp.length()), 8 + udp.payload().len());
                reassembled.extend_from_slice(udp.payload());
            }
            prop_assert_eq!(reassembled, payload);
        }

        /// A completed checksum is the one that the builder computed.
        #[test]
        fn partial_checksums(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let whole = tcp(&payload, 1);
            let mut partial = whole.clone();
            make_partial(&mut partial, 16, 6);
            let mut header = header(0, 0, 16);
            header[1] = 0;
            prop_assert_eq!(packets(header, &partial), vec![whole]);
        }

        /// The fast sum is the obvious one.
        #[test]
        fn sum_agrees_with_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let obvious: u64 = bytes
                .chunks(2)
                .map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0)))
                .sum();
            prop_assert_eq!(fold(sum(0, &bytes)), fold(obvious));
        }
    }
}
