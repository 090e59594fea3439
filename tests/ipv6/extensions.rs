//! Extension headers, fragments and routing headers, from peers that write their packets themselves.

use std::net::{IpAddr, Ipv6Addr};

use crate::common::packet::{self, DESTINATION_OPTIONS, FRAGMENT, ROUTING, TCP, UDP};
use crate::common::raw_peer::RawPeer;
use crate::common::wait;
use crate::service::Service;
use crate::world::{AFAR, EMPEROR_6, V1_6, V2_6, emperor, passed, peer};

/// A packet with one extension header before its payload.
fn behind(kind: u8, header: [u8; 8], payload: &[u8]) -> Vec<u8> {
    packet::ipv6(V1_6, EMPEROR_6, kind, &[&header, payload].concat())
}

/// The first segment of a connection, behind destination options.
fn hidden_syn(port: u16) -> Vec<u8> {
    behind(DESTINATION_OPTIONS, packet::destination_options(TCP), &packet::syn6(V1_6, EMPEROR_6, port))
}

/// A part of a datagram of 24 bytes to this port; the offset counts bytes.
fn fragment(to: Ipv6Addr, port: u16, part: std::ops::Range<u16>) -> Vec<u8> {
    let datagram = packet::datagram6(V1_6, to, port, &[7; 16]);
    let header = packet::fragment(UDP, part.start, usize::from(part.end) < datagram.len());
    let payload = &datagram[usize::from(part.start)..usize::from(part.end)];
    packet::ipv6(V1_6, to, FRAGMENT, &[&header, payload].concat())
}

fn is_from_port(packet: &[u8], port: u16) -> bool {
    packet::is_ipv6(packet) && packet[6] == TCP && packet[40..42] == port.to_be_bytes()
}

#[track_caller]
fn assert_answered(peer: &mut RawPeer, port: u16) {
    let answer = peer.wait_for_packet(wait::SHORT, |packet| is_from_port(packet, port));
    assert_eq!(answer.expect("an answer")[53] & 0x3f, 0x12, "SYN and ACK");
}

/// The kernel takes the connection behind the options, so that the firewall has to look behind them, too.
#[test]
fn ports_are_not_hidden_by_extension_headers() {
    let emperor = emperor().line("tuntap-router-firewall-out = deny any any tcp 8081").start();
    let _services = [8080, 8081].map(|port| Service::start(&emperor.netns, port));
    let mut peer = peer(&emperor, V1_6);
    peer.send_packet(&hidden_syn(8080));
    assert_answered(&mut peer, 8080);
    assert_eq!(passed(&emperor, &mut peer, V1_6, &[hidden_syn(8081)]), [0; 0]);
    assert_eq!(emperor.stats().drops_of(V1_6, "firewall"), 1);
}

/// The router looks behind eight headers. What follows more than that is unknown.
#[test]
fn more_extension_headers_than_anybody_needs_are_refused() {
    let emperor = emperor().line("tuntap-router-firewall-out = deny any any tcp 8081").start();
    let mut peer = peer(&emperor, V1_6);
    let with = |count: usize, port| {
        let mut payload = Vec::new();
        for number in 1..=count {
            let next = if number == count { TCP } else { DESTINATION_OPTIONS };
            payload.extend(packet::destination_options(next));
        }
        payload.extend(packet::syn6(V1_6, EMPEROR_6, port));
        packet::ipv6(V1_6, EMPEROR_6, DESTINATION_OPTIONS, &payload)
    };
    assert_eq!(passed(&emperor, &mut peer, V1_6, &[with(8, 8080), with(8, 8081), with(9, 8080)]), [0]);
    let stats = emperor.stats();
    assert_eq!((stats.drops_of(V1_6, "firewall"), stats.drops_of(V1_6, "malformed")), (1, 1));
}

/// Such a packet would go on from its destination to another one, which no rule has seen.
#[test]
fn packets_with_a_way_to_go_are_refused() {
    let emperor = emperor().start();
    let mut peer = peer(&emperor, V1_6);
    let datagram = packet::datagram6(V1_6, EMPEROR_6, 9, b"x");
    let packets = [1, 255, 0].map(|left| behind(ROUTING, packet::routing(UDP, left), &datagram));
    assert_eq!(passed(&emperor, &mut peer, V1_6, &packets), [2], "one that has arrived is as good as any");
    assert_eq!(emperor.stats().drops_of(V1_6, "source_route"), 2);
    let mut other = emperor.connect();
    other.send_packet(&packet::ipv6(V2_6, EMPEROR_6, ROUTING, &[&packet::routing(UDP, 1)[..], &datagram].concat()));
    assert!(other.echo(V2_6, EMPEROR_6, wait::SHORT), "it has claimed nothing, and harmed nobody");
}

#[test]
fn first_fragments_have_ports_and_later_ones_have_none() {
    let emperor = emperor()
        .lines(&[
            "tuntap-router-firewall-out = deny any any udp 9",
            "tuntap-router-firewall-out = allow fd00:77::2 2001:db8::1 udp 10",
            "tuntap-router-firewall-out = deny any 2001:db8::1",
        ])
        .start();
    let mut peer = peer(&emperor, V1_6);
    let packets = [
        fragment(EMPEROR_6, 9, 0..16),
        fragment(EMPEROR_6, 9, 16..24),
        fragment(EMPEROR_6, 10, 0..16),
        fragment(AFAR, 10, 0..16),
        fragment(AFAR, 10, 16..24),
        // An atomic fragment (RFC 6946) has the whole datagram.
        fragment(EMPEROR_6, 9, 0..24),
    ];
    // No receiver puts together what has no first part.
    assert_eq!(passed(&emperor, &mut peer, V1_6, &packets), [1, 2, 3]);
}

/// A first fragment that ends before its ports could hide them in the second one (RFC 7112).
#[test]
fn first_fragments_without_ports_are_refused() {
    let emperor = emperor().line("tuntap-router-firewall-out = deny any any udp 9").start();
    let mut peer = peer(&emperor, V1_6);
    let options = packet::destination_options(UDP);
    let without_udp = behind(FRAGMENT, packet::fragment(DESTINATION_OPTIONS, 0, true), &options);
    assert_eq!(passed(&emperor, &mut peer, V1_6, &[without_udp]), [0; 0]);
    assert_eq!(emperor.stats().drops_of(V1_6, "malformed"), 1);
    assert_eq!(emperor.stats().addresses(V1_6), [IpAddr::from(V1_6)]);
}
