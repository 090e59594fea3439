//! The virtio_net header, the packets that a GSO packet is cut into, and those that become one again.
//!
//! Input: a byte of flags. If its lowest bit is 0, header and packet follow as they are read from a device. If it is 1,
//! the parameters of a GSO packet follow in the order in which `gso_packet` reads them; the next bit is 1 for IPv6.

use tuntap_wire::coalesce::{Datagrams, Run};
use tuntap_wire::gso::GsoPacket;
use tuntap_wire::ip::Packet;
use tuntap_wire::segment::for_each_packet;
use tuntap_wire::vnet::{MAX_SEGMENTS, Offload, PartialChecksum, Segmentation, VNET_HEADER_LEN};

use super::input::Input;
use super::ones_complement::{sum, verifies};

/// Reads header and packet, and cuts the packet.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.byte();
    let (header, bytes) = match flags & 1 {
        0 => (input.array(), input.rest().to_vec()),
        _ => gso_packet(input, flags & 2 != 0),
    };
    // A copy of exactly this length, so that the sanitizer finds reads beyond its end.
    let bytes = bytes.into_boxed_slice();
    let Ok(packet) = Packet::parse(&bytes) else { return };
    let Ok(offload) = Offload::parse(header, &packet) else { return };
    assert_eq!(Offload::parse(offload.encode(), &packet), Ok(offload), "the encoded header means the same");
    if let Some(checksum) = offload.checksum {
        // Rules look at the IP headers and at the ports.
        let looked_at = packet.header_len() + if packet.destination_port().is_some() { 4 } else { 0 };
        assert!(usize::from(checksum.start) >= packet.header_len());
        assert!(usize::from(checksum.start) + usize::from(checksum.offset) >= looked_at);
    }
    if offload.segmentation.is_some() {
        let kind = offload.encode()[1] & 0x7f;
        assert!(if packet.is_v4() { [1, 5].contains(&kind) } else { [4, 5].contains(&kind) }, "its version");
    }

    let mut packets = Vec::new();
    for_each_packet(&offload, &packet, &mut vec![0xaa; 100], |packet| packets.push(packet.to_vec()));
    let original = &bytes[..packet.total_len()];
    match (offload.segmentation, offload.checksum) {
        (None, None) => assert_eq!(packets, [original]),
        (None, Some(checksum)) => {
            let [completed] = packets.as_slice() else { panic!("{} packets", packets.len()) };
            check_completed(original, completed, checksum, &packet);
        }
        (Some(kind), checksum) => {
            assert!(checksum.is_some(), "a segmentation without a checksum to complete");
            assert!(!packet.is_fragment(), "it is a part of a packet already");
            assert!(packets.len() <= MAX_SEGMENTS, "{} segments", packets.len());
            let written: usize = packets.iter().map(|segment| segment.len() - packet.header_len()).sum();
            let headers: usize = packets.len() * packet.header_len();
            assert!(written + headers <= original.len() + MAX_SEGMENTS * 120, "{} bytes of headers", headers);
            check_segments(original, &packets, kind, &packet);
            check_coalesced(&packets);
        }
    }
}

/// As datagrams that come with one read, the packets become packets again which are cut into the same ones.
fn check_coalesced(packets: &[Vec<u8>]) {
    let bytes = packets.concat().into_boxed_slice();
    let mut datagrams = Datagrams::new(&bytes, packets.first().map(Vec::len));
    let (mut built, mut again) = (vec![0xaa; 100], Vec::new());
    while let Some(run) = datagrams.next_run(&mut built) {
        match run {
            Run::Single(bytes) => again.push(bytes.to_vec()),
            Run::Coalesced(count) => {
                let packet = GsoPacket::parse(&built).expect("the router would take it from a device");
                assert_eq!(packet.segments(), count);
                for_each_packet(packet.offload(), packet.packet(), &mut Vec::new(), |bytes| again.push(bytes.to_vec()));
            }
        }
    }
    assert_eq!(again, packets);
}

/// Only the checksum may change, which is outside of the IP header, and it must be right.
fn check_completed(original: &[u8], completed: &[u8], checksum: PartialChecksum, packet: &Packet<'_>) {
    let start = usize::from(checksum.start);
    let at = start + usize::from(checksum.offset);
    assert!(start >= packet.header_len());
    assert_eq!(
        (completed.len(), &completed[..at], &completed[at + 2..]),
        (original.len(), &original[..at], &original[at + 2..])
    );
    let expected = match !sum(&[&original[start..]]) {
        // A checksum of 0 means that a datagram has none (RFC 768).
        0 if packet.protocol() == 17 => 0xffff,
        value => value,
    };
    assert_eq!(completed[at..at + 2], expected.to_be_bytes());
}

fn check_segments(original: &[u8], segments: &[Vec<u8>], kind: Segmentation, packet: &Packet<'_>) {
    let (is_v4, ip_len) = (packet.is_v4(), packet.header_len());
    let (size, is_tcp, transport_len) = match kind {
        Segmentation::Tcp { size, .. } => (usize::from(size), true, usize::from(original[ip_len + 12] >> 4) * 4),
        Segmentation::Udp { size } => (usize::from(size), false, 8),
    };
    assert_eq!(packet.protocol(), if is_tcp { 6 } else { 17 });
    let headers_len = ip_len + transport_len;
    let (headers, payload) = original.split_at(headers_len);

    let mut reassembled = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let packet = Packet::parse(segment).expect("a packet");
        assert_eq!((packet.header_len(), packet.total_len()), (ip_len, segment.len()));
        let (ip, transport) = segment.split_at(ip_len);
        let part = &segment[headers_len..];
        let is_last = index + 1 == segments.len();
        assert!(if is_last { (1..=size).contains(&part.len()) } else { part.len() == size });

        assert!(!is_v4 || verifies(&[ip]), "IP checksum of segment {index}");
        let protocol = [0, if is_tcp { 6 } else { 17 }];
        let len = u16::try_from(transport.len()).expect("short").to_be_bytes();
        let addresses = if is_v4 { &ip[12..20] } else { &ip[8..40] };
        assert!(verifies(&[addresses, &protocol, &len, transport]), "checksum of segment {index}");

        let expected = expected_headers(headers, segment, ip_len, is_tcp, index, reassembled.len(), is_last);
        assert_eq!(segment[..headers_len], expected, "headers of segment {index}");
        reassembled.extend_from_slice(part);
    }
    assert_eq!(reassembled, payload);
}

/// The headers that a segment must have: those of the GSO packet, of which only some fields change. Checksums are those
/// of the segment. `offset` is where its payload begins in that of the GSO packet.
fn expected_headers(
    headers: &[u8],
    segment: &[u8],
    ip_len: usize,
    is_tcp: bool,
    index: usize,
    offset: usize,
    is_last: bool,
) -> Vec<u8> {
    let short = |len: usize| u16::try_from(len).expect("short").to_be_bytes();
    let word = |at: usize| u16::from_be_bytes([headers[at], headers[at + 1]]);
    let is_v4 = headers[0] >> 4 == 4;
    let mut expected = headers.to_vec();
    if is_v4 {
        expected[2..4].copy_from_slice(&short(segment.len()));
        let step = u16::try_from(index).expect("at most 65535");
        expected[4..6].copy_from_slice(&word(4).wrapping_add(step).to_be_bytes());
        expected[10..12].copy_from_slice(&segment[10..12]);
    } else {
        expected[4..6].copy_from_slice(&short(segment.len() - 40));
    }
    let checksum_at = if is_tcp {
        let sequence = u32::from_be_bytes(headers[ip_len + 4..ip_len + 8].try_into().expect("four bytes"));
        let sequence = sequence.wrapping_add(u32::try_from(offset).expect("short"));
        expected[ip_len + 4..ip_len + 8].copy_from_slice(&sequence.to_be_bytes());
        let flags = &mut expected[ip_len + 13];
        *flags &= if is_last { 0xff } else { !(0x01 | 0x08) }; // FIN and PSH: the last one only
        *flags &= if index == 0 { 0xff } else { !0x80 }; // CWR: the first one only
        ip_len + 16
    } else {
        assert_ne!(segment[ip_len + 6..ip_len + 8], [0; 2], "a datagram without a checksum");
        expected[ip_len + 4..ip_len + 6].copy_from_slice(&short(segment.len() - ip_len));
        ip_len + 6
    };
    expected[checksum_at..checksum_at + 2].copy_from_slice(&segment[checksum_at..checksum_at + 2]);
    expected
}

/// A GSO packet as a kernel would write it, with a few changed bytes.
fn gso_packet(mut input: Input<'_>, is_v6: bool) -> ([u8; VNET_HEADER_LEN], Vec<u8>) {
    let is_tcp = input.flag();
    let ecn = input.flag();
    let size = input.word();
    // Options of IPv4, or up to three extension headers of IPv6 of 8 to 64 bytes.
    let options = input.below(11);
    let extensions =
        if is_v6 { (0..options % 4).map(|_| (input.byte(), 8 + 8 * input.below(8))).collect() } else { vec![] };
    let ip_len = if is_v6 { 40 + extensions.iter().map(|(_, len)| len).sum::<usize>() } else { 20 + 4 * options };
    let transport_len = if is_tcp { 20 + 4 * input.below(11) } else { 8 };
    // Mostly short, and at most 64 segments, so that many inputs are tried.
    let payload_len = usize::from(input.word() >> input.below(12))
        .min(64 * usize::from(size.max(1)))
        .min(65535 - ip_len - transport_len);
    let trailer_len = input.below(256);
    let changes: Vec<(u16, u8)> = (0..input.below(4)).map(|_| (input.word(), input.byte())).collect();
    let filling = input.rest();

    let total_len = ip_len + transport_len + payload_len;
    let mut bytes = vec![7; total_len + trailer_len];
    for (byte, filler) in bytes.iter_mut().zip(filling) {
        *byte = *filler;
    }
    let protocol = if is_tcp { 6 } else { 17 };
    if is_v6 {
        write_v6(&mut bytes, total_len, protocol, &extensions);
    } else {
        write_v4(&mut bytes, ip_len, total_len, protocol);
    }
    if is_tcp {
        bytes[ip_len + 12] = words(transport_len) << 4;
    }

    let kind = if is_tcp { (if is_v6 { 4 } else { 1 }) | u8::from(ecn) << 7 } else { 5 };
    let mut header = vnet_header(kind, size, ip_len, if is_tcp { 16 } else { 6 });
    for (at, difference) in changes {
        let at = usize::from(at) % (VNET_HEADER_LEN + total_len);
        match header.get_mut(at) {
            Some(byte) => *byte ^= difference,
            None => bytes[at - VNET_HEADER_LEN] ^= difference,
        }
    }
    (header, bytes)
}

/// A header's length in units of four bytes.
fn words(len: usize) -> u8 {
    u8::try_from(len / 4).expect("at most 15")
}

fn write_v4(bytes: &mut [u8], header_len: usize, total_len: usize, protocol: u8) {
    bytes[0] = 0x40 | words(header_len);
    bytes[2..4].copy_from_slice(&u16::try_from(total_len).expect("limited by the caller").to_be_bytes());
    bytes[6..8].fill(0);
    bytes[9] = protocol;
}

/// Writes the header, and the extension headers of these kinds and lengths.
fn write_v6(bytes: &mut [u8], total_len: usize, protocol: u8, extensions: &[(u8, usize)]) {
    bytes[0] = 0x60;
    bytes[4..6].copy_from_slice(&u16::try_from(total_len - 40).expect("limited by the caller").to_be_bytes());
    let (mut next, mut at) = (6, 40);
    for (kind, len) in extensions {
        // Mostly of kinds that may be repeated in each segment.
        bytes[next] = [60, 43, 0, 60, 43, 60, 44, 135][usize::from(*kind) % 8];
        bytes[at + 1] = u8::try_from(len / 8 - 1).expect("below 8");
        bytes[at + 3] = 0;
        (next, at) = (at, at + len);
    }
    bytes[next] = protocol;
}

/// The header of a GSO packet.
fn vnet_header(kind: u8, size: u16, ip_len: usize, checksum_offset: u16) -> [u8; VNET_HEADER_LEN] {
    let mut header = [0; VNET_HEADER_LEN];
    (header[0], header[1]) = (1, kind);
    header[4..6].copy_from_slice(&size.to_ne_bytes());
    header[6..8].copy_from_slice(&u16::try_from(ip_len).expect("short").to_ne_bytes());
    header[8..10].copy_from_slice(&checksum_offset.to_ne_bytes());
    header
}
