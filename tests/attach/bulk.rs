//! An attached vassal: nothing is copied through a socket, and super-packets pass whole.

use std::net::UdpSocket;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::probe::{pings_answered, tcp_round_trip};
use crate::common::vassal::NOBODY;
use crate::common::wait;
use crate::world::{emperor, is_attached, start_attached, total, vassal};

const LENGTH: usize = 50_000_000;
/// As many packets as the transfer takes one way without super-packets.
const WIRE_PACKETS: u64 = LENGTH as u64 / 1448;

#[test]
fn vassal_is_attached_with_all_offloads() {
    let emperor = emperor().start();
    let net = start_attached(&emperor, "v1", V1);
    assert_eq!(pings_answered(&net, EMPEROR, 5, &["-s", "1472"]), 5);
    assert_eq!(pings_answered(&emperor.netns, V1, 5, &["-s", "6000"]), 5, "in fragments");
    let stats = emperor.stats();
    let peer = stats.peer(V1).expect("the vassal has its address");
    for offloads in [&peer["offloads"], &stats.0["offloads"]] {
        let names = offloads.as_array().expect("a list");
        assert!(["csum", "tso4"].iter().all(|name| names.contains(&(*name).into())), "{offloads}");
    }
    assert_eq!(peer["stream_reason"], serde_json::Value::Null);
}

#[test]
fn super_packets_pass_whole() {
    let emperor = emperor().start();
    let net = start_attached(&emperor, "v1", V1);
    let before = emperor.stats();
    assert!(tcp_round_trip(&emperor.netns, EMPEROR, &net, LENGTH).expect("TCP to the Emperor"));
    let after = emperor.stats();
    for key in ["rx_packets", "tx_packets"] {
        let packets = after.of_peer(V1, key) - before.of_peer(V1, key);
        assert!(packets < WIRE_PACKETS / 2, "{key}: {packets}, and {WIRE_PACKETS} without super-packets");
    }
    let bytes = after.of_peer(V1, "rx") - before.of_peer(V1, "rx");
    assert!(bytes >= LENGTH as u64, "{bytes} bytes are counted");
    for reason in ["malformed", "tun_refused", "too_big"] {
        assert_eq!(after.drops(reason), 0, "{reason}");
    }
}

#[test]
fn attached_vassals_reach_each_other() {
    let emperor = emperor().start();
    let first = start_attached(&emperor, "v1", V1);
    let second = start_attached(&emperor, "v2", V2);
    assert!(tcp_round_trip(&second, V2, &first, LENGTH).expect("TCP between vassals"));
    assert!(emperor.stats().of_peer(V2, "tx_packets") < WIRE_PACKETS, "super-packets pass whole");
}

/// Datagrams that the sender leaves to be cut (UDP_SEGMENT of udp(7)) travel in one piece and arrive as what they are.
#[test]
fn udp_super_packets_pass_whole() {
    let emperor = emperor().start();
    let net = start_attached(&emperor, "v1", V1);
    let receiver = emperor.netns.run(|| UdpSocket::bind((EMPEROR, 9999))).expect("the port is free");
    receiver.set_read_timeout(Some(wait::SHORT)).expect("a timeout can be set");
    let sender = net.run(|| UdpSocket::bind((V1, 0))).expect("the vassal has its address");
    setsockopt(&sender, sockopt::UdpGsoSegment, &1000).expect("the kernel has UDP_SEGMENT");
    let before = total(&emperor.stats(), "tun_tx_packets");
    let sent: Vec<u8> = (0..20_u8).flat_map(|number| [number; 1000]).collect();
    assert_eq!(sender.send_to(&sent, (EMPEROR, 9999)).expect("sent"), sent.len());
    for number in 0..20 {
        let mut buffer = [0; 2000];
        let length = receiver.recv(&mut buffer).expect("a datagram comes");
        assert_eq!(buffer[..length], [number; 1000]);
    }
    let packets = total(&emperor.stats(), "tun_tx_packets") - before;
    assert!(packets < 5, "{packets} packets for one super-packet");
    receiver.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout can be set");
    assert!(receiver.recv(&mut [0; 2000]).is_err(), "no datagram comes twice");
}

/// Frames end at 8188 bytes, devices at 65535.
#[test]
fn any_mtu_is_served() {
    let emperor = emperor().mtu(65_535).start();
    let net = emperor.start_vassal(&vassal("v1", V1).mtu(65_535));
    emperor.wait_for_stats("the vassal is attached", |stats| is_attached(stats, V1));
    for payload in ["8160", "8161", "9000", "65507"] {
        assert_eq!(pings_answered(&net, EMPEROR, 2, &["-M", "do", "-s", payload]), 2, "{payload} bytes");
    }
    assert!(tcp_round_trip(&emperor.netns, EMPEROR, &net, LENGTH).expect("TCP to the Emperor"));
}

#[test]
fn vassal_with_credentials_is_attached() {
    let credentials = "tuntap-use-credentials = true";
    let emperor = emperor().line(credentials).start();
    let net = emperor.start_vassal(&vassal("v1", V1).line(credentials));
    emperor.wait_for_stats("the vassal is attached", |stats| is_attached(stats, V1));
    assert_eq!(pings_answered(&net, EMPEROR, 5, &[]), 5);
    assert_eq!(emperor.stats().of_peer(V1, "uid"), u64::from(NOBODY));
}
