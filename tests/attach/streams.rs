//! Peers that are not attached: super-packets are cut for them, and checksums completed.

use std::net::UdpSocket;

use nix::sys::socket::{setsockopt, sockopt};

use crate::common::emperor::{EMPEROR, EmperorIni, V1, V2};
use crate::common::netns::Net;
use crate::common::packet;
use crate::common::probe::{pings_answered, tcp_round_trip};
use crate::common::processes::descriptors;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::world::{c_vassal, emperor, start_attached, stream_reason, total, vassal};

/// The amount is small, because a C router or vassal now and then ends a connection under a full TCP stream.
const LENGTH: usize = 200_000;
const PORT: u16 = 9999;

#[test]
fn c_vassal_streams() {
    let emperor = emperor().start();
    let vassal = emperor.start_vassal(&c_vassal("v1", V1));
    assert_eq!(stream_reason(&emperor.stats(), V1), "it said no hello");
    let before = emperor.stats();
    assert!(tcp_round_trip(&vassal, V1, &emperor.netns, LENGTH).expect("TCP to the C vassal"));
    let after = emperor.stats();
    let read = total(&after, "tun_rx_packets") - total(&before, "tun_rx_packets");
    let sent = after.of_peer(V1, "tx_packets") - before.of_peer(V1, "tx_packets");
    assert!(sent > read, "{read} packets of the device became {sent}: super-packets were among them");
}

#[test]
fn attached_vassal_and_c_vassal_reach_each_other() {
    let emperor = emperor().start();
    let ours = start_attached(&emperor, "v1", V1);
    let other = emperor.start_vassal(&c_vassal("v2", V2));
    assert!(tcp_round_trip(&other, V2, &ours, LENGTH).expect("TCP to the C vassal"));
    assert!(tcp_round_trip(&ours, V1, &other, LENGTH).expect("TCP from the C vassal"));
}

#[test]
fn datagrams_reach_a_c_vassal() {
    let emperor = emperor().start();
    let vassal = emperor.start_vassal(&c_vassal("v1", V1));
    let receiver = vassal.run(|| UdpSocket::bind((V1, PORT))).expect("the port is free");
    receiver.set_read_timeout(Some(wait::SHORT)).expect("a timeout can be set");
    let sender = bound(&emperor.netns);
    for length in [0, 1, 999, 1472, 5001] {
        sender.send_to(&vec![0x5a; length], (V1, PORT)).expect("sent");
        let mut buffer = [0; 6000];
        let received = receiver.recv(&mut buffer).unwrap_or_else(|error| panic!("{length} bytes: {error}"));
        assert_eq!(buffer[..received], vec![0x5a; length]);
    }
}

/// The packets that a peer gets have lengths and checksums that could travel on a wire.
#[test]
fn cut_datagrams_bear_their_checksums() {
    let emperor = emperor().start();
    let mut peer = emperor.peer(V1);
    let sender = bound(&emperor.netns);
    setsockopt(&sender, sockopt::UdpGsoSegment, &501).expect("the kernel has UDP_SEGMENT");
    sender.send_to(&[0x5a; 501 * 9 + 7], (V1, PORT)).expect("sent");
    for number in 0..10 {
        let packet = peer.wait_for_packet(wait::SHORT, |packet| packet[9] == packet::UDP).expect("a datagram comes");
        assert_eq!(packet.len(), 28 + if number < 9 { 501 } else { 7 });
        assert_eq!(sum(&packet[..20]), 0xffff, "the IP header's checksum: {packet:02x?}");
        assert_ne!(packet[26..28], [0, 0], "there is a checksum");
        let length = u16::try_from(packet.len() - 20).expect("short");
        let pseudo = [&packet[12..20], &[0, packet::UDP], &length.to_be_bytes()].concat();
        assert_eq!(sum(&[&pseudo, &packet[20..]].concat()), 0xffff, "the UDP checksum: {packet:02x?}");
    }
}

#[test]
fn our_vassal_streams_to_a_c_router() {
    let emperor = EmperorIni::new(Uwsgi::usual(), Subject::C).start();
    let net = emperor.start_vassal(&vassal("v1", V1));
    assert_eq!(pings_answered(&net, EMPEROR, 5, &["-s", "1472"]), 5);
    assert!(tcp_round_trip(&emperor.netns, EMPEROR, &net, LENGTH / 2).expect("TCP to the Emperor"));
    let devices = descriptors(emperor.router_pid()).iter().filter(|name| name.contains("net/tun")).count();
    assert_eq!(devices, 1, "the C router has its own device alone");
}

fn bound(net: &Net) -> UdpSocket {
    net.run(|| UdpSocket::bind((EMPEROR, 0))).expect("the Emperor has its address")
}

/// The sum of RFC 1071 without the complement: it is all ones over data with a correct checksum in it.
fn sum(bytes: &[u8]) -> u32 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}
