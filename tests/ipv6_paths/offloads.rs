//! Attached vassals: super-packets of IPv6 pass whole.

use std::net::UdpSocket;

use nix::sys::socket::{setsockopt, sockopt};

use crate::common::probe::{pings_answered, tcp_round_trip};
use crate::common::wait;
use crate::world::{FIRST, HERE, SECOND, start, start_attached, wire_packets};

const LENGTH: usize = 20_000_000;

#[test]
fn tcp_super_packets_pass_whole_between_vassals() {
    let emperor = start();
    let first = start_attached(&emperor, "v1", FIRST, HERE);
    let second = start_attached(&emperor, "v2", SECOND, HERE);
    let stats = emperor.stats();
    let peer = stats.peer(FIRST.v4).expect("the vassal has its address");
    for offloads in [&peer["offloads"], &stats.0["offloads"]] {
        let names = offloads.as_array().expect("a list");
        assert!(["csum", "tso4", "tso6"].iter().all(|name| names.contains(&(*name).into())), "{offloads}");
    }
    assert_eq!(pings_answered(&first, SECOND.v6, 5, &["-s", "6000"]), 5, "in fragments");
    assert!(tcp_round_trip(&second, SECOND.v6, &first, LENGTH).expect("TCP between vassals"));
    let after = emperor.stats();
    for (address, key) in [(FIRST.v4, "rx_packets"), (FIRST.v4, "tx_packets"), (SECOND.v4, "tx_packets")] {
        let packets = after.of_peer(address, key) - stats.of_peer(address, key);
        let without = wire_packets(LENGTH);
        assert!(packets < without / 2, "{key}: {packets}, and {without} without super-packets");
    }
    for reason in ["malformed", "tun_refused", "too_big"] {
        assert_eq!(after.drops(reason), 0, "{reason}");
    }
}

/// Datagrams that the sender leaves to be cut (UDP_SEGMENT of udp(7)) arrive as what they are.
#[test]
fn udp_super_packets_pass_whole() {
    let emperor = start();
    let net = start_attached(&emperor, "v1", FIRST, HERE);
    let receiver = emperor.netns.run(|| UdpSocket::bind((HERE.v6, 9999))).expect("the port is free");
    receiver.set_read_timeout(Some(wait::SHORT)).expect("a timeout can be set");
    let sender = net.run(|| UdpSocket::bind((FIRST.v6, 0))).expect("the vassal has its address");
    setsockopt(&sender, sockopt::UdpGsoSegment, &1000).expect("the kernel has UDP_SEGMENT");
    let before = emperor.stats();
    let sent: Vec<u8> = (0..20_u8).flat_map(|number| [number; 1000]).collect();
    assert_eq!(sender.send_to(&sent, (HERE.v6, 9999)).expect("sent"), sent.len());
    for number in 0..20 {
        let mut buffer = [0; 2000];
        let length = receiver.recv(&mut buffer).expect("a datagram comes");
        assert_eq!(buffer[..length], [number; 1000]);
    }
    let packets = emperor.stats().of_peer(FIRST.v4, "rx_packets") - before.of_peer(FIRST.v4, "rx_packets");
    assert!(packets < 5, "{packets} packets for one super-packet");
}
