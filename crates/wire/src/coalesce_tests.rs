use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;
use crate::gso::GsoPacket;
use crate::ip::Packet;
use crate::segment::for_each_packet;
use crate::vnet::VNET_HEADER_LEN;

const V4: ([u8; 4], [u8; 4]) = ([192, 168, 0, 2], [10, 1, 2, 3]);
const V6: ([u8; 16], [u8; 16]) = ([0xfd; 16], [0x20; 16]);
const SIZE: usize = 100;

/// A segment of TCP with the given flags, and with timestamps.
fn segment(is_v6: bool, sequence: u32, id: u16, is_last: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let ip = if is_v6 { PacketBuilder::ipv6(V6.0, V6.1, 64) } else { PacketBuilder::ipv4(V4.0, V4.1, 64) };
    let options = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let tcp = ip.tcp(4000, 80, sequence, 1000).ack(77).options_raw(&options).expect("12 bytes of options");
    let tcp = if is_last { tcp.psh() } else { tcp };
    tcp.write(&mut bytes, payload).expect("a valid packet");
    if !is_v6 {
        put(&mut bytes, V4_IDENTIFICATION, id);
    }
    restore_checksums(&mut bytes);
    bytes
}

/// Makes the checksums right again after a change.
fn restore_checksums(bytes: &mut [u8]) {
    let Ok(packet) = Packet::parse(bytes) else { return };
    let (is_v4, len) = (packet.is_v4(), packet.header_len());
    if is_v4 {
        put(bytes, V4_CHECKSUM, 0);
        let checksum = !fold(sum(0, &bytes[..len]));
        put(bytes, V4_CHECKSUM, checksum);
    }
    if bytes.len() >= len + TCP_MIN_HEADER_LEN {
        let addresses = if is_v4 { V4_ADDRESSES } else { V6_ADDRESSES };
        let pseudo = sum(u64::from(protocol::TCP) + (bytes.len() - len) as u64, &bytes[addresses]);
        put(bytes, len + TCP_CHECKSUM_OFFSET, 0);
        let checksum = !fold(sum(pseudo, &bytes[len..]));
        put(bytes, len + TCP_CHECKSUM_OFFSET, checksum);
    }
}

/// So many segments in a row. The last one has `last_len` bytes.
fn stream(is_v6: bool, count: usize, sequence: u32, id: u16, last_len: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|index| {
            let is_last = index + 1 == count;
            let len = if is_last { last_len } else { SIZE };
            let payload: Vec<u8> =
                (0..len).map(|at| u8::try_from((index * 7 + at) % 251).expect("below 251")).collect();
            let sequence = sequence.wrapping_add(u32::try_from(index * SIZE).expect("short"));
            segment(is_v6, sequence, id.wrapping_add(u16::try_from(index).expect("few")), is_last, &payload)
        })
        .collect()
}

/// The lengths of the runs, and the packets that come of cutting them again.
fn runs(datagrams: &[Vec<u8>]) -> (Vec<usize>, Vec<Vec<u8>>) {
    let len = datagrams.first().map_or(0, Vec::len);
    let bytes = datagrams.concat();
    let mut batch = Datagrams::new(&bytes, Some(len));
    assert_eq!(batch.count(), datagrams.len());
    let (mut counts, mut packets, mut built) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(run) = batch.next_run(&mut built) {
        match run {
            Run::Single(bytes) => {
                counts.push(1);
                packets.push(bytes.to_vec());
            }
            Run::Coalesced(count) => {
                counts.push(count);
                let packet = GsoPacket::parse(&built).expect("a GSO packet that the router would take from a device");
                assert_eq!((packet.segments(), packet.whole()), (count, Some(built.as_slice())));
                assert!(built.len() - VNET_HEADER_LEN <= MAX_COALESCED_LEN);
                for_each_packet(packet.offload(), packet.packet(), &mut Vec::new(), |bytes| {
                    packets.push(bytes.to_vec())
                });
            }
        }
    }
    (counts, packets)
}

#[test]
fn stream_is_one_packet_again() {
    for is_v6 in [false, true] {
        for last_len in [1, SIZE - 1, SIZE] {
            let datagrams = stream(is_v6, 5, u32::MAX - 150, u16::MAX - 1, last_len);
            assert_eq!(runs(&datagrams), (vec![5], datagrams), "{is_v6}, {last_len}");
        }
    }
}

#[test]
fn lone_datagrams_stay_as_they_are() {
    let one = stream(false, 1, 1, 1, SIZE);
    assert_eq!(runs(&one), (vec![1], one));
    for bytes in [&[][..], &[0x45], &[0x60; 40]] {
        let mut batch = Datagrams::new(bytes, None);
        assert_eq!(batch.count(), 1);
        assert_eq!(batch.next_run(&mut Vec::new()), Some(Run::Single(bytes)));
        assert_eq!((batch.count(), batch.next_run(&mut Vec::new())), (0, None));
    }
}

#[test]
fn pushed_data_ends_a_packet() {
    let mut datagrams = stream(false, 3, 1, 1, SIZE);
    datagrams.extend(stream(false, 3, 301, 4, SIZE));
    assert_eq!(runs(&datagrams), (vec![3, 3], datagrams));
}

#[test]
fn flows_side_by_side_are_told_apart() {
    let one = stream(true, 4, 1, 1, SIZE);
    let mut other = stream(true, 4, 1, 1, SIZE);
    for bytes in &mut other {
        put(bytes, IPV6_HEADER_LEN, 4001);
        restore_checksums(bytes);
    }
    let after_each_other = [one.clone(), other.clone()].concat();
    assert_eq!(runs(&after_each_other), (vec![4, 4], after_each_other));
    let in_turn: Vec<_> = one.into_iter().zip(other).flat_map(|(one, other)| [one, other]).collect();
    assert_eq!(runs(&in_turn), (vec![1; 8], in_turn));
}

#[test]
fn no_packet_is_longer_than_a_packet_may_be() {
    let payload = [7; 1400];
    let datagrams: Vec<_> =
        (0..64_u16).map(|index| segment(false, 1 + u32::from(index) * 1400, index, false, &payload)).collect();
    assert_eq!(runs(&datagrams), (vec![46, 18], datagrams));
}

/// A fault in any bit of a segment keeps it from being part of a packet, with the checksums as they were or right again, unless
/// the packet with it is cut into just that segment.
#[test]
fn single_faults_survive() {
    for is_v6 in [false, true] {
        let sound = stream(is_v6, 3, 1, 1, SIZE);
        let headers_len = sound[0].len() - SIZE;
        for number in 0..3 {
            for bit in 0..(headers_len + 2) * 8 {
                for is_restored in [false, true] {
                    let mut datagrams = sound.clone();
                    datagrams[number][bit / 8] ^= 1 << (bit % 8);
                    if is_restored {
                        restore_checksums(&mut datagrams[number]);
                    }
                    let (counts, packets) = runs(&datagrams);
                    assert_eq!(packets, datagrams, "bit {bit} of {number}");
                    assert!(is_restored || counts.len() > 1, "a wrong checksum was accepted: bit {bit} of {number}");
                }
            }
        }
    }
}

#[test]
fn other_flags_stand_alone() {
    for flags in 0..=u8::MAX {
        let mut datagrams = stream(false, 3, 1, 1, SIZE);
        for bytes in &mut datagrams {
            bytes[20 + TCP_FLAGS] = flags;
            restore_checksums(bytes);
        }
        let (counts, packets) = runs(&datagrams);
        assert_eq!(packets, datagrams, "{flags:#x}");
        assert_eq!(counts == [3], [TCP_ACK, TCP_ACK | TCP_ECE].contains(&flags), "{flags:#x}");
    }
}

proptest! {
    /// Whatever comes, the same packets come out in the same order.
    #[test]
    fn nothing_changes(
        is_v6: bool,
        count in 1usize..12,
        last_len in 1usize..=SIZE,
        sequence: u32,
        id: u16,
        faults in prop::collection::vec((0usize..12, 0usize..160, any::<u8>(), any::<bool>()), 0..6),
    ) {
        let mut datagrams = stream(is_v6, count, sequence, id, last_len);
        for (number, at, value, is_restored) in faults {
            let number = number % count;
            let at = at % datagrams[number].len();
            datagrams[number][at] = value;
            if is_restored {
                restore_checksums(&mut datagrams[number]);
            }
        }
        prop_assert_eq!(runs(&datagrams).1, datagrams);
    }

    #[test]
    fn anything_is_taken(bytes in prop::collection::vec(any::<u8>(), 0..400), len in 0usize..200) {
        let mut batch = Datagrams::new(&bytes, Some(len));
        let (count, mut built, mut seen) = (batch.count(), Vec::new(), 0);
        while let Some(run) = batch.next_run(&mut built) {
            seen += match run {
                Run::Single(_) => 1,
                Run::Coalesced(count) => count,
            };
        }
        prop_assert_eq!(seen, count);
    }
}
