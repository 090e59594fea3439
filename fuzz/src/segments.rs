//! The header before packets, and the packets that a super-packet is cut into.
//!
//! Input: a byte, whose lowest bit is 0 if header and packet follow as a device gives them, and 1 if the parameters of a
//! super-packet follow, in the order in which `super_packet` reads them; it is of IPv6 if the next bit is 1.

use tuntap_wire::ip::Packet;
use tuntap_wire::segment::for_each_packet;
use tuntap_wire::vnet::{MAX_SEGMENTS, Offload, PartialChecksum, Segmentation, VNET_HEADER_LEN};

use super::input::Input;
use super::ones_complement::{sum, verifies};

/// Reads header and packet, and cuts it.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.byte();
    let (header, bytes) = match flags & 1 {
        0 => (input.array(), input.rest().to_vec()),
        _ => super_packet(input, flags & 2 != 0),
    };
    // A copy of exactly this length, so that the sanitizer sees what reads beyond it.
    let bytes = bytes.into_boxed_slice();
    let Ok(packet) = Packet::parse(&bytes) else { return };
    let Ok(offload) = Offload::parse(header, &packet) else { return };
    assert_eq!(Offload::parse(offload.encode(), &packet), Ok(offload), "what goes on means the same");
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
        }
    }
}

/// Only the checksum changes, outside of the IP header, and what is summed verifies.
fn check_completed(original: &[u8], completed: &[u8], checksum: PartialChecksum, packet: &Packet<'_>) {
    let start = usize::from(checksum.start);
    let at = start + usize::from(checksum.offset);
    assert!(start >= packet.header_len());
    assert_eq!(
        (completed.len(), &completed[..at], &completed[at + 2..]),
        (original.len(), &original[..at], &original[at + 2..])
    );
    let expected = match !sum(&[&original[start..]]) {
        // 0 means that a datagram has no checksum (RFC 768).
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
    let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);

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

        // What differs from the headers of the super-packet, and nothing else does.
        let mut expected = headers.to_vec();
        if is_v4 {
            expected[2..4].copy_from_slice(&u16::try_from(segment.len()).expect("short").to_be_bytes());
            let step = u16::try_from(index).expect("at most 65535");
            expected[4..6].copy_from_slice(&word(headers, 4).wrapping_add(step).to_be_bytes());
            expected[10..12].copy_from_slice(&ip[10..12]);
        } else {
            expected[4..6].copy_from_slice(&u16::try_from(segment.len() - 40).expect("short").to_be_bytes());
        }
        let checksum_at = if is_tcp {
            let sequence = u32::from_be_bytes(headers[ip_len + 4..ip_len + 8].try_into().expect("four bytes"));
            let sequence = sequence.wrapping_add(u32::try_from(reassembled.len()).expect("short"));
            expected[ip_len + 4..ip_len + 8].copy_from_slice(&sequence.to_be_bytes());
            let flags = &mut expected[ip_len + 13];
            *flags &= if is_last { 0xff } else { !(0x01 | 0x08) }; // FIN and PSH: the last one only
            *flags &= if index == 0 { 0xff } else { !0x80 }; // CWR: the first one only
            ip_len + 16
        } else {
            assert_ne!(word(transport, 6), 0, "a datagram without a checksum");
            expected[ip_len + 4..ip_len + 6].copy_from_slice(&len);
            ip_len + 6
        };
        expected[checksum_at..checksum_at + 2].copy_from_slice(&segment[checksum_at..checksum_at + 2]);
        assert_eq!(segment[..headers_len], expected, "headers of segment {index}");
        reassembled.extend_from_slice(part);
    }
    assert_eq!(reassembled, payload);
}

/// A super-packet as a kernel would give it, with a few of its bytes changed.
fn super_packet(mut input: Input<'_>, is_v6: bool) -> ([u8; VNET_HEADER_LEN], Vec<u8>) {
    let is_tcp = input.flag();
    let ecn = input.flag();
    let size = input.word();
    // Options of IPv4, or extension headers of IPv6: up to three, of 8 to 64 bytes.
    let options = input.below(11);
    let extensions =
        if is_v6 { (0..options % 4).map(|_| (input.byte(), 8 + 8 * input.below(8))).collect() } else { vec![] };
    let ip_len = if is_v6 { 40 + extensions.iter().map(|(_, len)| len).sum::<usize>() } else { 20 + 4 * options };
    let transport_len = if is_tcp { 20 + 4 * input.below(11) } else { 8 };
    // Mostly short, and of 64 segments at most, so that many inputs are tried.
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
    let nibble = |len: usize| u8::try_from(len / 4).expect("at most 15");
    let protocol = if is_tcp { 6 } else { 17 };
    if is_v6 {
        bytes[0] = 0x60;
        bytes[4..6].copy_from_slice(&u16::try_from(total_len - 40).expect("limited above").to_be_bytes());
        let (mut next, mut at) = (6, 40);
        for (kind, len) in extensions {
            // Mostly of the kinds that each segment can have.
            bytes[next] = [60, 43, 0, 60, 43, 60, 44, 135][usize::from(kind) % 8];
            bytes[at + 1] = u8::try_from(len / 8 - 1).expect("below 8");
            bytes[at + 3] = 0;
            (next, at) = (at, at + len);
        }
        bytes[next] = protocol;
    } else {
        bytes[0] = 0x40 | nibble(ip_len);
        bytes[2..4].copy_from_slice(&u16::try_from(total_len).expect("limited above").to_be_bytes());
        bytes[6..8].fill(0);
        bytes[9] = protocol;
    }
    if is_tcp {
        bytes[ip_len + 12] = nibble(transport_len) << 4;
    }

    let mut header = [0; VNET_HEADER_LEN];
    header[0] = 1;
    header[1] = if is_tcp { (if is_v6 { 4 } else { 1 }) | u8::from(ecn) << 7 } else { 5 };
    header[4..6].copy_from_slice(&size.to_ne_bytes());
    header[6..8].copy_from_slice(&u16::try_from(ip_len).expect("short").to_ne_bytes());
    header[8..10].copy_from_slice(&(if is_tcp { 16u16 } else { 6 }).to_ne_bytes());
    for (at, difference) in changes {
        let at = usize::from(at) % (VNET_HEADER_LEN + total_len);
        match header.get_mut(at) {
            Some(byte) => *byte ^= difference,
            None => bytes[at - VNET_HEADER_LEN] ^= difference,
        }
    }
    (header, bytes)
}
