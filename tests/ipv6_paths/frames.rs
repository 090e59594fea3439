//! Peers in frames: super-packets of IPv6 are cut for them, and a device sends IPv6 only to a router that has answered.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::common::emperor::EmperorIni;
use crate::common::fake_router::FakeRouter;
use crate::common::netns::Netns;
use crate::common::probe::pings_answered;
use crate::common::raw_peer::RawPeer;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::{wait, wire};
use crate::world::{FIRST, HERE, SECOND, emperor, is_attached, start, vassal};

const PORT: u16 = 9999;
const ECHO_REQUEST_6: u8 = 128;
const UDP: u8 = 17;

/// The answer of a router that leaves the device to the vassal. Only our routers send it.
const ANSWER: u8 = 0x75;
const REFUSED: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn device_sends_ipv6_once_its_router_has_answered() {
    let emperor = start();
    let router = FakeRouter::bind(&emperor.path("fake.sock"));
    let mark = emperor.log.mark();
    emperor.add(&vassal(Subject::Ours, "v1", FIRST, HERE).devices(&["uwsgi0 {dir}/fake.sock"]).without_ping());
    let mut peer = router.accept(wait::LONG);
    emperor.wait_until_ready(mark, "v1");
    let net = emperor.vassal_net("v1");
    // Packets of both versions leave the device, in this order.
    let next = |peer: &mut RawPeer| {
        for to in [IpAddr::from(HERE.v6), HERE.v4.into()] {
            pings_answered(&net, to, 1, &["-W", "0.1"]);
        }
        let is_ping = |packet: &[u8]| packet[0] >> 4 == 6 && packet[40] == ECHO_REQUEST_6 || packet[0] >> 4 == 4;
        peer.wait_for_packet(wait::SHORT, is_ping).expect("a packet comes")[0] >> 4
    };
    assert_eq!(next(&mut peer), 4);
    peer.send_bytes(&wire::frame(ANSWER, &REFUSED));
    wait::until_true("IPv6 comes", wait::SHORT, || next(&mut peer) == 6);
    let mark = emperor.log.mark();
    emperor.touch("v1");
    emperor.wait_until_ready(mark, "v1");
    while peer.next_frame(Duration::from_millis(300)).is_some() {}
    assert_eq!(next(&mut peer), 6, "the reloaded vassal knows");
}

#[test]
fn c_router_gets_no_ipv6() {
    let emperor = EmperorIni::new(Uwsgi::usual(), Subject::C)
        .line(format!("exec-as-root = ip -6 addr replace {}/64 dev emperor0 nodad", HERE.v6))
        .start_in(Netns::new().with_ipv6());
    let net = emperor.start_vassal(&vassal(Subject::Ours, "v1", FIRST, HERE));
    assert_eq!(pings_answered(&net, HERE.v6, 2, &["-W", "1"]), 0);
    assert_eq!(pings_answered(&net, HERE.v4, 3, &[]), 3);
    assert_eq!(emperor.stats().peers().len(), 1, "the C router would have registered another address");
}

/// The packets that a peer gets have lengths and checksums that could travel on a wire.
#[test]
fn cut_datagrams_bear_their_checksums() {
    let emperor = start();
    let mut peer = emperor.connect();
    peer.send_packet(&echo_request());
    emperor.wait_for_stats("the peer has its address", |stats| stats.peers().len() == 1);
    let sender = emperor.netns.run(|| UdpSocket::bind((HERE.v6, 0))).expect("the Emperor has its address");
    setsockopt(&sender, sockopt::UdpGsoSegment, &501).expect("the kernel has UDP_SEGMENT");
    sender.send_to(&[0x5a; 501 * 9 + 7], (FIRST.v6, PORT)).expect("sent");
    for number in 0..10 {
        let packet = peer
            .wait_for_packet(wait::SHORT, |packet| packet[0] >> 4 == 6 && packet[6] == UDP)
            .expect("a datagram comes");
        assert_eq!(packet.len(), 48 + if number < 9 { 501 } else { 7 });
        assert_ne!(packet[46..48], [0, 0], "there is a checksum");
        assert_eq!(payload_sum(&packet), 0xffff, "the UDP checksum: {packet:02x?}");
    }
}

/// From the first vassal's address to the Emperor.
fn echo_request() -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 8, 58, 64];
    packet.extend(FIRST.v6.octets());
    packet.extend(HERE.v6.octets());
    packet.extend([128, 0, 0, 0, 0, 1, 0, 1]);
    let checksum = !payload_sum(&packet);
    packet[42..44].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// The sum of RFC 1071 over payload and pseudo header (RFC 8200, section 8.1).
fn payload_sum(packet: &[u8]) -> u16 {
    let length = u16::try_from(packet.len() - 40).expect("short").to_be_bytes();
    let summed = [&packet[8..40], &[0, packet[6]], &length, &packet[40..]].concat();
    let mut sum: u32 =
        summed.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |byte| u32::from(*byte))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

/// Vassals that reach a peer by the switch, and the host by the router's device, learn how long packets to a peer in
/// frames may be.
#[test]
fn senders_of_packets_above_the_longest_frame_are_told() {
    let emperor = emperor(HERE).mtu(9000).line("tuntap-router-switch = true").start_in(Netns::new().with_ipv6());
    let net = emperor.start_vassal(&vassal(Subject::Ours, "v1", FIRST, HERE).mtu(9000));
    emperor.wait_for_stats("the vassal is attached", |stats| is_attached(stats, FIRST.v4));
    let mut peer = emperor.peer(SECOND.v4);
    assert!(peer.echo(SECOND.v6, HERE.v6, wait::SHORT));
    for sender in [&net, &*emperor.netns] {
        for destination in [IpAddr::from(SECOND.v4), SECOND.v6.into()] {
            assert_eq!(pings_answered(sender, destination, 1, &["-M", "do", "-s", "8500", "-W", "1"]), 0);
            let route = sender.sh(&format!("ip route get {destination}"));
            assert!(route.contains("mtu 8188 "), "{route}");
        }
    }
    assert_eq!(emperor.stats().drops_of(SECOND.v4, "too_big"), 4);
}
