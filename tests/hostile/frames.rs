//! Frames that lie, end in the middle, or are no frames.

use crate::common::emperor::EMPEROR;
use crate::common::packet;
use crate::common::wait;
use crate::common::wire::{self, HEADER_LEN, MAX_PAYLOAD};
use crate::watch::{A1, MANY_LINES, Watch};

/// A frame whose packet says another length than the frame, or than itself.
fn lying_packets() -> Vec<Vec<u8>> {
    let sound = packet::udp(A1, EMPEROR, 9, &[0; 100]);
    let with = |at: usize, bytes: &[u8]| {
        let mut packet = sound.clone();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    let mut packets: Vec<Vec<u8>> = (0..=15).map(|words| with(0, &[0x40 | words])).collect();
    packets.extend([0, 1, 19, 20, 127, 129, u16::MAX].map(|len: u16| with(2, &len.to_be_bytes())));
    // The datagram's own length, a fragment that begins beyond the end of any packet, and options up to the end.
    packets.extend([0, 7, u16::MAX].map(|len: u16| with(24, &len.to_be_bytes())));
    packets.push(with(6, &[0x3f, 0xff]));
    packets.push([&with(0, &[0x4f])[..60], &[0xff; 40]].concat());
    packets
}

#[test]
fn lying_frames_cost_their_sender_alone() {
    let mut watch = Watch::start();
    watch.endure("lying packets", |watch| {
        let emperor = &watch.emperor;
        let mut peer = emperor.peer(A1);
        for packet in lying_packets() {
            peer.send_packet(&packet);
        }
        assert!(peer.echo(A1, EMPEROR, wait::SHORT), "the frames are sound, so that the peer stays");
    });
    watch.endure("lying headers", |watch| {
        let emperor = &watch.emperor;
        for size in [0, 8189, 8192, 8196, 9000, 20_000, u16::MAX] {
            for modifier2 in [wire::PACKET, wire::RULES, 0x74, 200] {
                let mut peer = emperor.peer(A1);
                peer.send_bytes(&wire::header(modifier2, size));
                assert!(peer.is_closed(wait::SHORT), "a frame of {size} bytes with modifier2 {modifier2}");
                drop(peer);
                emperor.wait_for_stats("its address is free", |stats| stats.peer(A1).is_none());
            }
        }
    });
}

#[test]
fn frames_of_every_kind_and_little_length() {
    let mut watch = Watch::start().allowing_lines(MANY_LINES);
    watch.endure("short frames", |watch| {
        let emperor = &watch.emperor;
        // A frame that has no valid rules ends its peer.
        for modifier2 in (0..=u8::MAX).filter(|kind| ![wire::RULES, wire::EXTENDED_RULES].contains(kind)) {
            let mut peer = emperor.connect();
            for length in (1..=40).chain([100, 1500, MAX_PAYLOAD]) {
                peer.send_bytes(&wire::frame(modifier2, &vec![modifier2; length]));
            }
            // `modifier1` has no meaning.
            let mut frame = wire::frame(modifier2, &[0; 30]);
            frame[0] = modifier2.wrapping_add(1);
            peer.send_bytes(&frame);
            assert!(peer.echo(A1, EMPEROR, wait::SHORT), "kind {modifier2}: the peer stays");
        }
    });
}

/// Each holds as much of the router's memory as a peer can before a frame is whole, and a descriptor beside.
#[test]
fn half_frames_that_are_held() {
    const PEERS: usize = 500;
    let mut watch = Watch::start();
    watch.endure("half frames", |watch| {
        let emperor = &watch.emperor;
        let stranger = std::fs::File::open("/dev/null").expect("every machine has it");
        let frame = wire::frame(wire::PACKET, &[0x45; MAX_PAYLOAD]);
        let mut peers: Vec<_> = (0..PEERS).map(|_| emperor.connect()).collect();
        for peer in &mut peers {
            peer.send_with_descriptor(&frame[..frame.len() - 1], std::os::fd::AsFd::as_fd(&stranger));
        }
        emperor.wait_for_stats("all are read", |stats| {
            let whole = HEADER_LEN + MAX_PAYLOAD - 1;
            stats.peers().iter().filter(|peer| peer["rx"] == whole).count() == PEERS
        });
        // Pieces of a frame, each in a message of its own.
        let mut slow = emperor.connect();
        for byte in &frame[..2000] {
            slow.send_bytes(&[*byte]);
        }
        assert!(emperor.peer(A1).echo(A1, EMPEROR, wait::SHORT), "others come and go meanwhile");
    });
}

#[test]
fn garbage() {
    let mut watch = Watch::start().allowing_lines(MANY_LINES);
    watch.endure("garbage", |watch| {
        let emperor = &watch.emperor;
        // A fixed linear congruential sequence, so that a failure can be repeated.
        let mut state: u64 = 1;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        for round in 0..300_usize {
            let mut peer = emperor.connect();
            let length = round * 37 % 9000 + 1;
            let garbage: Vec<u8> = (0..length).map(|_| byte()).collect();
            let bytes = match round % 3 {
                0 => garbage,
                // Behind a header that says the truth, and as a packet up to its addresses.
                1 => wire::frame(byte() % 4, &garbage[..length.min(MAX_PAYLOAD)]),
                _ => wire::frame(
                    wire::PACKET,
                    &[&packet::udp(A1, EMPEROR, 9, &[])[..20], &garbage[..length / 2]].concat(),
                ),
            };
            let _ = peer.try_send_bytes(&bytes);
        }
    });
}
