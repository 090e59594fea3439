//! Frames: whole, split, many at once, and those that are wrong.

use crate::common::capture::Capture;
use crate::common::emperor::{EMPEROR, Emperor, V1, V2};
use crate::common::packet;
use crate::common::wait;
use crate::common::wire::{self, MAX_PAYLOAD};
use crate::pairs::{Router, cases};

cases!(frames_are_read_however_they_are_cut, Router: c ours);
cases!(half_frame_disturbs_nobody, Router: c ours);
cases!(zero_length_frame_ends_that_peer_only, Router: c ours);
cases!(largest_frame_passes, Router: c ours);
// 8,189 to 8,192 bytes are frames to the C router; what it does with them depends on its heap.
cases!(frame_above_the_limit_ends_that_peer_only, Router: ours);
cases!(huge_frame_ends_that_peer_only, Router: c ours);
cases!(packet_below_an_ip_header_is_dropped, Router: c ours);
cases!(packet_that_is_not_ip_is_dropped, Router: c ours);
// The C router passes these on to the kernel, which drops them.
cases!(malformed_packet_is_dropped, Router: ours);
cases!(unknown_frame_is_dropped, Router: c ours);
// The C router dies of the first frame that is too large or not IP, as the cases above show.
cases!(garbage_never_ends_the_router, Router: ours);
cases!(packet_that_the_device_refuses_is_dropped, Router: c ours);

/// The C router exits: others lose their connection, and the master starts another one.
#[track_caller]
fn assert_router_died(emperor: &Emperor) {
    emperor.log.wait_for("respawned uWSGI tuntap router 1", wait::LONG);
}

fn frames_are_read_however_they_are_cut(router: Router) {
    let emperor = router.emperor().start();
    let mut peer = emperor.peer(V1);
    let requests: Vec<Vec<u8>> =
        (100..110).map(|n| packet::echo_request(V1, EMPEROR, n, 60 + usize::from(n))).collect();
    let stream: Vec<u8> = requests.iter().flat_map(|request| wire::frame(wire::PACKET, request)).collect();
    for piece in [1, 3, 7, 100, stream.len()] {
        for bytes in stream.chunks(piece) {
            peer.send_bytes(bytes);
        }
        for sequence in 100..110 {
            let reply = peer.wait_for_packet(wait::SHORT, |reply| packet::echo_reply_sequence(reply) == Some(sequence));
            assert!(reply.is_some(), "reply {sequence} to frames sent in pieces of {piece} bytes");
        }
    }
}

fn half_frame_disturbs_nobody(router: Router) {
    let emperor = router.emperor().start();
    let mut other = emperor.peer(V2);
    let mut peer = emperor.peer(V1);
    let frame = wire::frame(wire::PACKET, &packet::echo_request(V1, EMPEROR, 7, 500));
    peer.send_bytes(&frame[..200]);
    assert!(other.echo(V2, EMPEROR, wait::SHORT));
    peer.send_bytes(&frame[200..]);
    let reply = peer.wait_for_packet(wait::SHORT, |reply| packet::echo_reply_sequence(reply) == Some(7));
    assert!(reply.is_some(), "the frame counts once it is whole");
}

fn zero_length_frame_ends_that_peer_only(router: Router) {
    let emperor = router.emperor().start();
    let mut other = emperor.peer(V2);
    let mut peer = emperor.peer(V1);
    peer.send_bytes(&wire::header(wire::PACKET, 0));
    if !router.is_ours() {
        // The C router notices when the next bytes come.
        peer.send_bytes(&wire::header(wire::PACKET, 20));
    }
    assert!(peer.is_closed(wait::SHORT));
    assert!(other.echo(V2, EMPEROR, wait::SHORT));
}

fn largest_frame_passes(router: Router) {
    let emperor = router.emperor().mtu(9000).start();
    let mut peer = emperor.peer(V1);
    peer.send_packet(&packet::echo_request(V1, EMPEROR, 7, MAX_PAYLOAD));
    let reply = peer.wait_for_packet(wait::SHORT, |reply| packet::echo_reply_sequence(reply) == Some(7));
    assert_eq!(reply.map(|reply| reply.len()), Some(MAX_PAYLOAD));
}

fn frame_above_the_limit_ends_that_peer_only(router: Router) {
    let emperor = router.emperor().mtu(9000).start();
    let mut other = emperor.peer(V2);
    for modifier2 in [wire::PACKET, wire::RULES] {
        let mut peer = emperor.peer(V1);
        let size = u16::try_from(MAX_PAYLOAD + 1).expect("fits");
        peer.send_bytes(&wire::header(modifier2, size));
        assert!(peer.is_closed(wait::SHORT), "{size} bytes are announced in a frame with modifier2 {modifier2}");
        assert!(other.echo(V2, EMPEROR, wait::SHORT));
    }
}

fn huge_frame_ends_that_peer_only(router: Router) {
    let emperor = router.emperor().start();
    let mut other = emperor.peer(V2);
    for size in [9000, 20000, u16::MAX] {
        let mut peer = emperor.connect();
        let mut frame = wire::header(wire::PACKET, size).to_vec();
        frame.resize(wire::HEADER_LEN + usize::from(size), 0x45);
        // A router that hangs up on the header alone does not take the rest.
        let _ = peer.try_send_bytes(&frame);
        if router.is_ours() {
            assert!(peer.is_closed(wait::SHORT));
            assert!(other.echo(V2, EMPEROR, wait::SHORT), "others are served after a frame of {size} bytes");
        }
    }
    if !router.is_ours() {
        // The frame overruns the C router's heap, whose allocator ends the process.
        assert_router_died(&emperor);
        assert!(other.is_closed(wait::SHORT));
    }
}

fn packet_below_an_ip_header_is_dropped(router: Router) {
    let emperor = router.emperor().start();
    let mut peer = emperor.connect();
    for length in [1, 4, 19] {
        peer.send_packet(&packet::echo_request(V1, EMPEROR, 7, 84)[..length]);
    }
    assert!(peer.echo(V1, EMPEROR, wait::SHORT), "the peer stays and claims its address later");
    if router.is_ours() {
        assert_eq!(emperor.stats().drops("too_short"), 3);
    }
}

fn packet_that_is_not_ip_is_dropped(router: Router) {
    let emperor = router.emperor().start();
    let mut other = emperor.peer(V2);
    let mut peer = emperor.peer(V1);
    let mut packet = packet::echo_request(V1, EMPEROR, 7, 84);
    packet[0] = 0xf5;
    peer.send_packet(&packet);
    if router.is_ours() {
        assert!(peer.echo(V1, EMPEROR, wait::SHORT));
        assert!(other.echo(V2, EMPEROR, wait::SHORT));
        assert_eq!(emperor.stats().drops_of(V1, "not_ip"), 1);
    } else {
        // The device refuses it with EINVAL, of which the C router exits.
        assert_router_died(&emperor);
        assert!(other.is_closed(wait::SHORT));
    }
}

fn malformed_packet_is_dropped(router: Router) {
    let emperor = router.emperor().start();
    let mut peer = emperor.peer(V1);
    let mut short_header = packet::udp(V1, EMPEROR, 9, b"x");
    short_header[0] = 0x44;
    let mut long_header = packet::udp(V1, EMPEROR, 9, b"x");
    long_header[0] = 0x4f;
    let mut longer_than_frame = packet::udp(V1, EMPEROR, 9, b"x");
    longer_than_frame[2..4].copy_from_slice(&1000_u16.to_be_bytes());
    let mut shorter_than_header = packet::udp(V1, EMPEROR, 9, b"x");
    shorter_than_header[2..4].copy_from_slice(&19_u16.to_be_bytes());
    let malformed = [short_header, long_header, longer_than_frame, shorter_than_header];
    let capture = Capture::received_on(&emperor.netns, "emperor0");
    for packet in &malformed {
        peer.send_packet(packet);
    }
    peer.send_packet(&packet::udp(V1, EMPEROR, 9, b"sound"));
    assert_eq!(capture.until(wait::SHORT, |packet| packet.ends_with(b"sound")).len(), 0);
    assert_eq!(emperor.stats().drops_of(V1, "malformed"), 4);
}

fn unknown_frame_is_dropped(router: Router) {
    let emperor = router.emperor().start();
    let mut peer = emperor.peer(V1);
    let capture = Capture::received_on(&emperor.netns, "emperor0");
    peer.send_bytes(&wire::frame(200, &packet::udp(V1, EMPEROR, 9, b"unknown")));
    peer.send_packet(&packet::udp(V1, EMPEROR, 9, b"known"));
    let before = capture.until(wait::SHORT, |packet| packet.ends_with(b"\0known"));
    if router.is_ours() {
        assert!(before.is_empty());
        assert_eq!(emperor.stats().drops_of(V1, "unknown_frame"), 1);
    } else {
        assert_eq!(before.len(), 1, "to the C router everything that is no rule block is a packet");
    }
}

fn garbage_never_ends_the_router(router: Router) {
    let emperor = router.emperor().start();
    let mut other = emperor.peer(V2);
    let pid = emperor.router_pid();
    // A fixed linear congruential sequence, so that a failure can be repeated.
    let mut state: u32 = 1;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    for round in 0..200_usize {
        let mut peer = emperor.connect();
        let garbage: Vec<u8> = (0..round * 10 + 1).map(|_| byte()).collect();
        if round % 2 == 0 {
            let _ = peer.try_send_bytes(&garbage);
        } else {
            // Well framed, so that the payload is looked at.
            let _ = peer.try_send_bytes(&wire::frame(byte() % 4, &garbage));
        }
    }
    assert!(other.echo(V2, EMPEROR, wait::SHORT), "others are served");
    assert_eq!(emperor.router_pid(), pid, "the router is still the same process");
    emperor.wait_for_stats("those that hung up are gone", |stats| stats.peers().len() == 1);
}

fn packet_that_the_device_refuses_is_dropped(router: Router) {
    let emperor = router.emperor().start();
    let mut peer = emperor.peer(V1);
    emperor.netns.sh("ip link set emperor0 down");
    peer.send_packet(&packet::udp(V1, EMPEROR, 9, b"refused"));
    if router.is_ours() {
        emperor.wait_for_stats("the refusal is counted", |stats| stats.drops_of(V1, "tun_refused") == 1);
        emperor.netns.sh("ip link set emperor0 up");
        assert!(peer.echo(V1, EMPEROR, wait::SHORT), "traffic goes on when the device is up again");
    } else {
        // EIO, of which the C router exits.
        assert_router_died(&emperor);
    }
}
