//! Segmentation and checksums in software, as a network card does them. They are needed where a packet leaves in frames
//! or for another router.

use std::ops::Range;

use super::ip::{IPV6_HEADER_LEN, Packet, protocol};
use super::vnet::{Offload, PartialChecksum, Segmentation, TCP_CHECKSUM_OFFSET, UDP_CHECKSUM_OFFSET};

/// Offsets in an IPv4 header (RFC 791, section 3.1).
pub(crate) const V4_TOTAL_LEN: usize = 2;
pub(crate) const V4_IDENTIFICATION: usize = 4;
pub(crate) const V4_CHECKSUM: usize = 10;
pub(crate) const V4_ADDRESSES: Range<usize> = 12..20;

/// Offsets in an IPv6 header (RFC 8200, section 3).
pub(crate) const V6_PAYLOAD_LEN: usize = 4;
pub(crate) const V6_ADDRESSES: Range<usize> = 8..40;

/// Offsets in a TCP header (RFC 9293, section 3.1).
pub(crate) const TCP_SEQUENCE: usize = 4;
pub(crate) const TCP_FLAGS: usize = 13;
const TCP_FIN: u8 = 0x01;
pub(crate) const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// Offset of the length in a UDP header (RFC 768).
const UDP_LEN: usize = 4;

/// Calls `emit` for each segment of `packet` in order, or once for the packet itself, with checksums completed.
/// `offload` must have been checked against this packet; segments are built in `scratch`.
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
            let cut = Cut::new(offload, packet, kind);
            for index in 0..cut.count {
                scratch.clear();
                cut.append(index, scratch);
                emit(scratch);
            }
        }
    }
}

/// How much is laid end to end by [`for_each_batch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchBounds {
    /// The most packets of a batch.
    pub packets: usize,
    /// The most bytes of a batch. A single packet may be longer.
    pub bytes: usize,
}

/// Does the same as [`for_each_packet`], with several packets at a time: they lie end to end, and all of a batch are as long as
/// `emit` is told, but for its last one, which may be shorter.
pub fn for_each_batch(
    offload: &Offload,
    packet: &Packet<'_>,
    bounds: BatchBounds,
    scratch: &mut Vec<u8>,
    mut emit: impl FnMut(&[u8], usize),
) {
    let Some(kind) = offload.segmentation else {
        return for_each_packet(offload, packet, scratch, |bytes| emit(bytes, bytes.len()));
    };
    let cut = Cut::new(offload, packet, kind);
    let len = cut.headers.len() + cut.size.min(cut.payload.len());
    let most = bounds.packets.min(bounds.bytes / len).max(1);
    for first in (0..cut.count).step_by(most) {
        scratch.clear();
        for index in first..cut.count.min(first + most) {
            cut.append(index, scratch);
        }
        emit(scratch, len);
    }
}

/// A GSO packet that is cut.
struct Cut<'a> {
    packet: &'a Packet<'a>,
    kind: Segmentation,
    headers: &'a [u8],
    payload: &'a [u8],
    /// Bytes of payload in each segment but the last one.
    size: usize,
    /// The number of segments.
    count: usize,
    pseudo: u64,
}

impl<'a> Cut<'a> {
    fn new(offload: &Offload, packet: &'a Packet<'a>, kind: Segmentation) -> Self {
        let (headers, payload) = packet.bytes()[..packet.total_len()].split_at(offload.headers_len());
        let size = match kind {
            Segmentation::Tcp { size, .. } | Segmentation::Udp { size } => usize::from(size),
        };
        let (count, pseudo) = (offload.segments(packet), pseudo_header_sum(packet));
        Self { packet, kind, headers, payload, size, count, pseudo }
    }

    /// Appends a segment.
    fn append(&self, index: usize, out: &mut Vec<u8>) {
        let start = out.len();
        let part = &self.payload[index * self.size..];
        out.extend_from_slice(self.headers);
        out.extend_from_slice(&part[..part.len().min(self.size)]);
        let (ip, transport) = out[start..].split_at_mut(self.packet.header_len());
        if self.packet.is_v4() {
            finish_v4(ip, transport.len(), index);
        } else {
            finish_v6(ip, transport.len());
        }
        finish_transport(self.pseudo, transport, self.kind, index, index + 1 == self.count);
    }
}

/// The sum of addresses and protocol, which the pseudo headers of all segments share. With the transport length added,
/// it is the pseudo header's sum for both versions (RFC 9293, section 3.1; RFC 8200, section 8.1).
fn pseudo_header_sum(packet: &Packet<'_>) -> u64 {
    let addresses = if packet.is_v4() { V4_ADDRESSES } else { V6_ADDRESSES };
    sum(u64::from(packet.protocol()), &packet.bytes()[addresses])
}

/// Adapts the copy of an IPv4 header to its segment.
fn finish_v4(header: &mut [u8], transport_len: usize, index: usize) {
    put(header, V4_TOTAL_LEN, length(header.len() + transport_len));
    put(header, V4_IDENTIFICATION, get(header, V4_IDENTIFICATION).wrapping_add(length(index)));
    put(header, V4_CHECKSUM, 0);
    put(header, V4_CHECKSUM, !fold(sum(0, header)));
}

/// Adapts the copy of an IPv6 header to its segment. Extension headers stay as they are.
fn finish_v6(headers: &mut [u8], transport_len: usize) {
    put(headers, V6_PAYLOAD_LEN, length(headers.len() - IPV6_HEADER_LEN + transport_len));
}

/// Adapts the copy of a TCP or UDP header to its segment, which follows it in `transport`.
fn finish_transport(pseudo: u64, transport: &mut [u8], kind: Segmentation, index: usize, last: bool) {
    let transport_len = length(transport.len());
    let (protocol, checksum_at) = match kind {
        Segmentation::Tcp { size, .. } => {
            let sequence = [0, 1, 2, 3].map(|at| transport[TCP_SEQUENCE + at]);
            let sequence = u32::from_be_bytes(sequence).wrapping_add(u32::from(length(index)) * u32::from(size));
            transport[TCP_SEQUENCE..TCP_SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
            if !last {
                transport[TCP_FLAGS] &= !(TCP_FIN | TCP_PSH);
            }
            if index > 0 {
                transport[TCP_FLAGS] &= !TCP_CWR;
            }
            (protocol::TCP, TCP_CHECKSUM_OFFSET)
        }
        Segmentation::Udp { .. } => {
            put(transport, UDP_LEN, transport_len);
            (protocol::UDP, UDP_CHECKSUM_OFFSET)
        }
    };
    put(transport, checksum_at, 0);
    let total = sum(pseudo + u64::from(transport_len), transport);
    put(transport, checksum_at, not_zero(!fold(total), protocol));
}

/// A length as it is written into a header. No segment is longer than the packet that it is cut from, so it always
/// fits.
fn length(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

/// Completes a checksum that holds the sum of the pseudo header only.
fn complete_checksum(bytes: &mut [u8], checksum: PartialChecksum, protocol: u8) {
    let start = usize::from(checksum.start);
    let value = not_zero(!fold(sum(0, &bytes[start..])), protocol);
    put(bytes, start + usize::from(checksum.offset), value);
}

/// A UDP checksum of 0 means that there is none (RFC 768), which IPv6 forbids (RFC 8200, section 8.1).
const fn not_zero(checksum: u16, protocol: u8) -> u16 {
    if checksum == 0 && protocol == protocol::UDP { u16::MAX } else { checksum }
}

/// Adds bytes to a sum of 16-bit words (RFC 1071). Sums of 32-bit words are the same once they are folded.
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
    #[allow(clippy::cast_possible_truncation)] // the loop ends below 0x10000
    {
        sum as u16
    }
}

pub(crate) fn get(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vnet::VNET_HEADER_LEN;
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    const V4: ([u8; 4], [u8; 4]) = ([192, 168, 0, 2], [10, 1, 2, 3]);
    const V6: ([u8; 16], [u8; 16]) = ([0xfd; 16], [0x20; 16]);

    /// A header as a kernel would write it for this packet.
    fn header(kind: u8, size: u16, ip_len: u16, checksum_offset: u16) -> [u8; VNET_HEADER_LEN] {
        let mut header = [0; VNET_HEADER_LEN];
        header[0] = 1;
        header[1] = kind;
        header[4..6].copy_from_slice(&size.to_ne_bytes());
        header[6..8].copy_from_slice(&ip_len.to_ne_bytes());
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
    fn make_partial(bytes: &mut [u8], addresses: Range<usize>, at: usize, protocol: u8) {
        let transport_len = bytes.len() - addresses.end;
        let pseudo = sum(u64::from(protocol) + transport_len as u64, &bytes[addresses.clone()]);
        put(bytes, addresses.end + at, fold(pseudo));
    }

    fn tcp(is_v6: bool, payload: &[u8], sequence: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let ip = if is_v6 { PacketBuilder::ipv6(V6.0, V6.1, 64) } else { PacketBuilder::ipv4(V4.0, V4.1, 64) };
        ip.tcp(4000, 80, sequence, 1000)
            .fin()
            .psh()
            .ack(77)
            .options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])
            .expect("12 bytes of options")
            .write(&mut bytes, payload)
            .expect("a valid packet");
        bytes
    }

    fn udp(is_v6: bool, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let ip = if is_v6 { PacketBuilder::ipv6(V6.0, V6.1, 64) } else { PacketBuilder::ipv4(V4.0, V4.1, 64) };
        ip.udp(1, 2).write(&mut bytes, payload).expect("a valid packet");
        bytes
    }

    /// Slices a packet, and checks its IP header with the oracle.
    fn checked(bytes: &[u8]) -> SlicedPacket<'_> {
        let sliced = SlicedPacket::from_ip(bytes).expect("an IP packet");
        match &sliced.net {
            Some(NetSlice::Ipv4(ip)) => {
                let ip = ip.header().to_header();
                assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                assert_eq!(usize::from(ip.total_len), bytes.len());
            }
            Some(NetSlice::Ipv6(ip)) => assert_eq!(usize::from(ip.header().payload_length()) + 40, bytes.len()),
            _ => panic!("no IP packet"),
        }
        sliced
    }

    /// The oracle's checksum of the transport protocol.
    fn expected_checksum(sliced: &SlicedPacket<'_>) -> u16 {
        let transport = sliced.transport.as_ref().expect("a payload");
        match (&sliced.net, transport) {
            (Some(NetSlice::Ipv4(ip)), TransportSlice::Tcp(tcp)) => {
                tcp.to_header().calc_checksum_ipv4(&ip.header().to_header(), tcp.payload()).expect("fits")
            }
            (Some(NetSlice::Ipv6(ip)), TransportSlice::Tcp(tcp)) => {
                tcp.to_header().calc_checksum_ipv6(&ip.header().to_header(), tcp.payload()).expect("fits")
            }
            (Some(NetSlice::Ipv4(ip)), TransportSlice::Udp(udp)) => {
                udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).expect("fits")
            }
            (Some(NetSlice::Ipv6(ip)), TransportSlice::Udp(udp)) => {
                udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).expect("fits")
            }
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        /// Batches are the same packets in the same order, within their bounds.
        #[test]
        fn batches(
            payload in prop::collection::vec(any::<u8>(), 1..5000),
            size in 3u16..1500,
            most in 1usize..80,
            most_bytes in 1usize..9000,
            is_v6: bool,
        ) {
            let bytes = tcp(is_v6, &payload, 7);
            let (kind, ip_len) = if is_v6 { (4, 40) } else { (1, 20) };
            let header = header(kind, size, ip_len, 16);
            let packet = Packet::parse(&bytes).expect("valid");
            let offload = Offload::parse(header, &packet).expect("valid");
            let mut seen = Vec::new();
            let mut last_was_full = true;
            for_each_batch(&offload, &packet, BatchBounds { packets: most, bytes: most_bytes }, &mut Vec::new(), |batch, len| {
                assert!(last_was_full, "a short packet within a batch");
                let count = batch.len().div_ceil(len);
                assert!(count <= most && (batch.len() <= most_bytes || count == 1), "{count} packets, {} bytes", batch.len());
                last_was_full = batch.len() % len == 0;
                seen.extend(batch.chunks(len).map(<[u8]>::to_vec));
            });
            prop_assert_eq!(seen, packets(header, &bytes));
        }

        /// The segments make the payload when they are put together, and the oracle accepts each as a packet.
        #[test]
        fn tcp_segments(
            payload in prop::collection::vec(any::<u8>(), 1..5000),
            size in 3u16..1500,
            sequence: u32,
            is_v6: bool,
        ) {
            let bytes = tcp(is_v6, &payload, sequence);
            let (kind, ip_len) = if is_v6 { (4, 40) } else { (1, 20) };
            let segments = packets(header(kind, size, ip_len, 16), &bytes);
            let mut reassembled = Vec::new();
            for (index, segment) in segments.iter().enumerate() {
                let sliced = checked(segment);
                let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP") };
                let header = tcp.to_header();
                prop_assert_eq!(tcp.checksum(), expected_checksum(&sliced));
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
        fn udp_datagrams(payload in prop::collection::vec(any::<u8>(), 1..5000), size in 3u16..1500, is_v6: bool) {
            let mut reassembled = Vec::new();
            for datagram in packets(header(5, size, if is_v6 { 40 } else { 20 }, 6), &udp(is_v6, &payload)) {
                let sliced = checked(&datagram);
                let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("no UDP") };
                prop_assert_eq!(udp.checksum(), expected_checksum(&sliced));
                prop_assert!(udp.checksum() != 0);
                prop_assert_eq!(usize::from(udp.length()), 8 + udp.payload().len());
                reassembled.extend_from_slice(udp.payload());
            }
            prop_assert_eq!(reassembled, payload);
        }

        /// A completed checksum is the one that the builder computed.
        #[test]
        fn partial_checksums(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut ping = Vec::new();
            PacketBuilder::ipv6(V6.0, V6.1, 64).icmpv6_echo_request(1, 2).write(&mut ping, &payload).expect("valid");
            for (whole, addresses, at, protocol) in [
                (tcp(false, &payload, 1), V4_ADDRESSES, 16, protocol::TCP),
                (tcp(true, &payload, 1), V6_ADDRESSES, 16, protocol::TCP),
                (udp(false, &payload), V4_ADDRESSES, 6, protocol::UDP),
                (udp(true, &payload), V6_ADDRESSES, 6, protocol::UDP),
                (ping, V6_ADDRESSES, 2, protocol::ICMPV6),
            ] {
                let mut partial = whole.clone();
                let start = u16::try_from(addresses.end).expect("short");
                make_partial(&mut partial, addresses, usize::from(at), protocol);
                prop_assert_eq!(packets(header(0, 0, start, at), &partial), vec![whole]);
            }
        }

        /// Each segment repeats the extension headers and counts them in its length.
        #[test]
        fn segments_with_extension_headers(payload in prop::collection::vec(any::<u8>(), 1..3000), words in 0u8..8) {
            let plain = tcp(true, &payload, 7);
            let mut extension = vec![0; usize::from(words + 1) * 8];
            (extension[0], extension[1]) = (protocol::TCP, words);
            let mut bytes = [&plain[..40], &extension, &plain[40..]].concat();
            bytes[6] = protocol::DESTINATION_OPTIONS;
            let payload_len = bytes.len() - 40;
            put(&mut bytes, V6_PAYLOAD_LEN, length(payload_len));
            let ip_len = length(40 + extension.len());
            let without = packets(header(4, 1000, 40, 16), &plain);
            let with = packets(header(4, 1000, ip_len, 16), &bytes);
            prop_assert_eq!(with.len(), without.len());
            for (with, without) in with.iter().zip(&without) {
                prop_assert_eq!(Packet::parse(with).expect("valid").total_len(), with.len());
                prop_assert_eq!(&with[40..40 + extension.len()], extension.as_slice());
                prop_assert_eq!(&with[40 + extension.len()..], &without[40..]);
            }
        }

        /// The fast sum agrees with the definition.
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
