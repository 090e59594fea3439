//! Packets whose addresses the kernel doesn't translate: none of them leaves with an inside address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::common::capture::Capture;
use crate::common::emperor::V2;
use crate::common::netns::Netns;
use crate::common::packet;
use crate::common::raw_peer::RawPeer;
use crate::common::wait;
use crate::reload::reload;
use crate::world::{EMPEROR_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6, SET_UP, Site, V2_IPV6, World, ini, ip, start};

const SCTP: u8 = 132;
const MARK: &[u8] = b"the last one";

fn v4(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

/// A TCP segment of no connection.
fn segment(source: IpAddr, destination: IpAddr, port: u16, flags: u8) -> Vec<u8> {
    let ports = [port.to_be_bytes(), 80_u16.to_be_bytes()].concat();
    let mut segment = [&ports[..], &[0, 0, 0x30, 0x39, 0, 0, 0xd4, 0x31, 0x50, flags, 3, 0xe8, 0, 0, 0, 0]].concat();
    packet::complete(&mut segment, 16, source, destination, packet::TCP);
    segment
}

/// Packets of all kinds that conntrack calls invalid, from a source of the inside.
fn invalid(source: IpAddr, destination: IpAddr) -> Vec<Vec<u8>> {
    // SYN and FIN, none, ACK, RST, FIN and ACK, all.
    let flags = [0x03, 0x00, 0x10, 0x04, 0x11, 0x3f];
    let segments = (40_000..).zip(flags).map(|(port, flags)| segment(source, destination, port, flags));
    let mut payloads: Vec<_> = segments.map(|segment| (packet::TCP, segment)).collect();
    let mut wrong = segment(source, destination, 41_000, 0x02);
    wrong[16] ^= 1;
    payloads.push((packet::TCP, wrong));
    // A data chunk of no association, without a checksum.
    payloads.push((SCTP, [&[0x9c, 0x40, 0, 80][..], &[0; 8], &[0, 3, 0, 20], &[0; 16]].concat()));
    // An ICMP error about a packet that nobody has sent, and an answer that nobody has asked for.
    let quoted = packet::udp(v4(OUTSIDE_IPV4), V2, 7, b"x");
    let (kinds, protocol) = if source.is_ipv4() { ([3, 0], packet::ICMP) } else { ([1, 129], packet::ICMPV6) };
    for kind in kinds {
        let mut message = [&[kind, 1, 0, 0, 0, 0, 0, 0][..], &quoted].concat();
        packet::complete(&mut message, 2, source, destination, protocol);
        payloads.push((protocol, message));
    }
    payloads.into_iter().map(|(protocol, payload)| within(source, destination, protocol, &payload)).collect()
}

fn within(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => packet::ipv4(source, destination, protocol, payload),
        (IpAddr::V6(source), IpAddr::V6(destination)) => packet::ipv6(source, destination, protocol, payload),
        _ => panic!("one version"),
    }
}

/// Sends these packets and then one that passes. None with an inside source may have come out by then.
#[track_caller]
fn assert_nothing_leaks(world: &World, send: impl FnOnce(&mut RawPeer)) {
    let captures =
        [Capture::received_on(&world.site.outside4, "veth0"), Capture::received_on(&world.site.outside6, "veth0")];
    let mut peer = world.peer(V2);
    assert!(peer.echo(v6(V2_IPV6), ip(EMPEROR_IPV6), wait::SHORT));
    send(&mut peer);
    peer.send_packet(&packet::udp(V2, v4(OUTSIDE_IPV4), 77, MARK));
    peer.send_packet(&packet::udp6(v6(V2_IPV6), v6(OUTSIDE_IPV6), 77, MARK));
    for capture in captures {
        let earlier = capture.until(wait::SHORT, |packet| packet.ends_with(MARK));
        let inside = [IpAddr::from(V2), ip(V2_IPV6)];
        let leaks: Vec<_> =
            earlier.iter().filter(|it| packet::ends(it).is_some_and(|(source, _)| inside.contains(&source))).collect();
        assert!(leaks.is_empty(), "{leaks:?}");
    }
}

#[test]
fn packets_of_no_connection_do_not_leave_with_an_inside_address() {
    for loose in ["1", "0"] {
        let world = start(&[]);
        world.netns.sh(&format!("sysctl -qw net.netfilter.nf_conntrack_tcp_loose={loose}"));
        assert_nothing_leaks(&world, |peer| {
            for packet in invalid(V2.into(), ip(OUTSIDE_IPV4)).iter().chain(&invalid(ip(V2_IPV6), ip(OUTSIDE_IPV6))) {
                peer.send_packet(packet);
            }
        });
    }
}

/// The host's own rules may keep packets out of connection tracking.
#[test]
fn untracked_packets_do_not_leave_with_an_inside_address() {
    let world = start(&[]);
    world.netns.sh("nft add table inet raw");
    world.netns.sh("nft add chain inet raw prerouting { type filter hook prerouting priority raw ; }");
    world.netns.sh("nft add rule inet raw prerouting udp dport 78 notrack");
    assert_nothing_leaks(&world, |peer| {
        peer.send_packet(&packet::udp(V2, v4(OUTSIDE_IPV4), 78, b"untracked"));
        peer.send_packet(&packet::udp6(v6(V2_IPV6), v6(OUTSIDE_IPV6), 78, b"untracked"));
    });
}

/// The kernel decides once for a connection whether its source is masqueraded. A connection that is older than
/// `tuntap-router-nat` would go on as it was.
#[test]
fn connections_from_before_nat_do_not_leave_with_an_inside_address() {
    let host = Netns::new();
    let site = Site::around(&host);
    let without_nat: Vec<_> = SET_UP.into_iter().filter(|line| !line.contains("-nat")).collect();
    let world = World { emperor: ini().lines(&without_nat).start_in(host), site };
    world.netns.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    // Connection tracking begins with the first table that needs it.
    world.netns.sh("nft add table inet tracking");
    world.netns.sh("nft add chain inet tracking forward { type filter hook forward priority 0 ; }");
    world.netns.sh("nft add rule inet tracking forward ct state new accept");
    let send = |peer: &mut RawPeer| {
        peer.send_packet(&packet::udp(V2, v4(OUTSIDE_IPV4), 79, b"old"));
        peer.send_packet(&packet::udp6(v6(V2_IPV6), v6(OUTSIDE_IPV6), 79, b"old"));
    };
    let outside = Capture::received_on(&world.site.outside6, "veth0");
    let mut peer = world.peer(V2);
    send(&mut peer);
    // Until now nothing is masqueraded, as the set-up says.
    outside.until(wait::SHORT, |packet| packet.ends_with(b"old"));
    let path = world.path("emperor.ini");
    let text = std::fs::read_to_string(&path).expect("own file");
    std::fs::write(&path, format!("{text}\ntuntap-router-nat = up4\ntuntap-router-nat = up6\n")).expect("own file");
    reload(&world);
    assert_nothing_leaks(&world, send);
}
