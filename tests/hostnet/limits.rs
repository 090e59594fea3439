//! One vassal that opens as many connections as it can: others, and the host, go on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::common::emperor::{V1, V2};
use crate::common::netns::Net;
use crate::common::packet;
use crate::common::probe::{is_reachable, pings_answered};
use crate::common::wait;
use crate::world::{
    HOST_IPV4, HOST_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6, TABLE, V1_IPV6, V2_IPV6, World, any_ipv4, ip, start, vassal,
    vassal_at,
};

const DNS: u16 = 53;
/// Ports of the host's address that masquerading may use.
const PORTS: std::ops::RangeInclusive<u16> = 1024..=65535;

/// A resolver that answers all but the attackers' datagrams.
fn resolver(net: &Net) {
    let socket = net.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, DNS)).or_else(|_| UdpSocket::bind(any_ipv4(DNS))));
    let socket = socket.expect("the port is free");
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((count, sender)) = socket.recv_from(&mut buffer) {
            if &buffer[..count] == b"question" {
                let _ = socket.send_to(b"answer", sender);
            }
        }
    });
}

/// Returns true if a resolver answers one of several questions, each from a port that the kernel chooses.
fn resolves(from: &Net, resolver: IpAddr) -> bool {
    let local: SocketAddr = if resolver.is_ipv4() { any_ipv4(0) } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    (0..3).any(|_| {
        let socket = from.run(|| UdpSocket::bind(local)).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout can be set");
        let sent = socket.send_to(b"question", (resolver, DNS));
        sent.is_ok() && socket.recv(&mut [0; 64]).is_ok()
    })
}

/// A datagram of one byte from each port.
fn spray(from: &Net, to: SocketAddr) {
    let local: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    from.run(|| {
        for port in PORTS {
            // Some of these ports may be in use.
            let _ = UdpSocket::bind((local, port)).and_then(|socket| socket.send_to(b"x", to));
        }
    });
}

/// How many connections the host's kernel tracks.
fn tracked(world: &World) -> u32 {
    world.netns.sh("sysctl -n net.netfilter.nf_conntrack_count").trim().parse().expect("a number")
}

fn list(world: &World, kind: &str, name: &str) -> String {
    world.netns.sh(&format!("nft list {kind} inet {TABLE} {name}"))
}

fn two_vassals(lines: &[&str]) -> (World, Net, Net) {
    let world = start(lines);
    resolver(&world.site.outside4);
    resolver(&world.site.outside6);
    let attacker = world.start_vassal(&vassal("v1"));
    let honest = world.start_vassal(&vassal_at("v2", V2, V2_IPV6));
    (world, attacker, honest)
}

#[track_caller]
fn assert_others_resolve(world: &World, honest: &Net) {
    for resolver in [OUTSIDE_IPV4, OUTSIDE_IPV6] {
        assert!(resolves(honest, ip(resolver)), "the honest vassal, {resolver}");
        assert!(resolves(&world.netns, ip(resolver)), "the host, {resolver}");
    }
}

/// Without a limit, the vassal would take all ports of the host's address that lead to a resolver, and nobody else
/// could ask it for as long as connection tracking remembers.
#[test]
fn vassal_that_sends_from_all_ports_takes_a_resolver_from_nobody() {
    let (world, attacker, honest) = two_vassals(&[]);
    let earlier = tracked(&world);
    spray(&attacker, (ip(OUTSIDE_IPV4), DNS).into());
    spray(&attacker, (ip(OUTSIDE_IPV6), DNS).into());
    let taken = tracked(&world).saturating_sub(earlier);
    assert_others_resolve(&world, &honest);
    assert!(taken < 20_000, "{taken}");
    let offenders = list(&world, "set", "offenders4") + &list(&world, "set", "offenders6");
    assert!(offenders.contains(&V1.to_string()) && offenders.contains(V1_IPV6), "{offenders}");
    assert!(!offenders.contains(&V2.to_string()) && !offenders.contains(V2_IPV6), "{offenders}");
    world.log.wait_for("connections above tuntap-router-connection-rate", wait::LONG);
}

/// The same attack without a limit on the rate: the number of connections has a limit of its own.
#[test]
fn connections_of_one_address_are_limited() {
    let (world, attacker, honest) = two_vassals(&["tuntap-router-connection-rate = 0"]);
    let earlier = tracked(&world);
    spray(&attacker, (ip(OUTSIDE_IPV4), DNS).into());
    spray(&attacker, (ip(OUTSIDE_IPV6), DNS).into());
    let taken = tracked(&world).saturating_sub(earlier);
    // The limits are 4096 for IPv4 and 2048 for IPv6; some connections are of others.
    assert!((4096..6400).contains(&taken), "{taken}");
    assert_others_resolve(&world, &honest);
    let listed = list(&world, "chain", "connections");
    assert!(listed.contains("ct count over 4096") && listed.contains("ct count over 2048"), "{listed}");
    world.log.wait_for("connections above tuntap-router-max-connections", wait::LONG);
    assert!(!world.log.text().contains("tuntap-router-connection-rate);"), "{}", world.log.text());
}

/// Other destinations, ports and protocols are connections as well, and so are those to the host itself.
#[test]
fn whatever_an_address_sends_counts() {
    let (world, _attacker, honest) = two_vassals(&[
        "tuntap-router-connection-rate = 0",
        "tuntap-router-max-connections = 500",
        "tuntap-router-host = allow udp",
    ]);
    let outside: Ipv4Addr = OUTSIDE_IPV4.parse().expect("an address");
    let attacker = Ipv4Addr::new(192, 168, 0, 66);
    let mut peer = world.peer(attacker);
    let earlier = tracked(&world);
    for id in 0..3000_u16 {
        let mut echo = [&[8, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1]].concat();
        packet::complete(&mut echo, 2, attacker, outside, packet::ICMP);
        peer.send_packet(&packet::ipv4(attacker, outside, packet::ICMP, &echo));
        let [high, low] = id.to_be_bytes();
        peer.send_packet(&packet::udp(attacker, Ipv4Addr::new(203, 0, 113, high ^ low), 1000 + id, b"x"));
        peer.send_packet(&packet::udp(attacker, Ipv4Addr::new(192, 168, 0, 1), 1000 + id, b"x"));
        // Protocols without ports are one connection each.
        peer.send_packet(&packet::ipv4(attacker, outside, 150 + low % 100, b"x"));
    }
    // Packets keep their order, and an echo is a connection, too: another peer says when all have been seen.
    assert!(is_reachable(&honest, ip(OUTSIDE_IPV4)));
    wait::until_true("they have come", wait::LONG, || list(&world, "set", "offenders4").contains("192.168.0.66"));
    let taken = tracked(&world).saturating_sub(earlier);
    assert!((400..700).contains(&taken), "{taken}");
    assert_others_resolve(&world, &honest);
}

/// A vassal may have eight addresses of IPv6. All of them together leave enough to others.
#[test]
fn eight_addresses_take_no_resolver_from_others() {
    let (world, _attacker, honest) = two_vassals(&["tuntap-router-connection-rate = 0"]);
    let outside: Ipv6Addr = OUTSIDE_IPV6.parse().expect("an address");
    let mut peer = world.connect();
    for index in 0..8 {
        let address = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0x100 + index);
        for port in 1024..9216_u16 {
            let mut datagram =
                [(1024 + (port - 1024) * 7 + index).to_be_bytes(), DNS.to_be_bytes(), [0, 9], [0, 0]].concat();
            datagram.push(b'x');
            packet::complete(&mut datagram, 6, address, outside, packet::UDP);
            peer.send_packet(&packet::ipv6(address, outside, packet::UDP, &datagram));
        }
    }
    wait::until_true("all have come", wait::LONG, || list(&world, "set", "offenders6").contains("fd00:77::107"));
    assert_others_resolve(&world, &honest);
    let taken = tracked(&world);
    assert!((8 * 2048..9 * 2048).contains(&taken), "{taken}");
}

/// The kernel keeps fragments in one place for everybody, and when that is full it takes no others.
#[test]
fn fragments_of_one_vassal_leave_room_for_those_of_others() {
    let (world, _attacker, honest) = two_vassals(&[]);
    let outside: Ipv4Addr = OUTSIDE_IPV4.parse().expect("an address");
    let outside6: Ipv6Addr = OUTSIDE_IPV6.parse().expect("an address");
    let (attacker, attacker6) = (Ipv4Addr::new(192, 168, 0, 66), Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0x66));
    let mut peer = world.peer(attacker);
    // This is fewer than a queue of the kernel holds.
    for id in 0..6000_u16 {
        peer.send_packet(&packet::first_fragment(attacker, outside, id, 1400));
        let fragment = [&packet::fragment(packet::UDP, 0, true)[..], &[0xa5; 1352]].concat();
        let mut fragment = packet::ipv6(attacker6, outside6, packet::FRAGMENT, &fragment);
        fragment[46..48].copy_from_slice(&id.to_be_bytes());
        peer.send_packet(&fragment);
    }
    wait::until_true("they have come", wait::LONG, || {
        let offenders = list(&world, "set", "offenders4") + &list(&world, "set", "offenders6");
        offenders.contains("192.168.0.66") && offenders.contains("fd00:77::66")
    });
    for (to, from_outside, host) in
        [(OUTSIDE_IPV4, &world.site.outside4, HOST_IPV4), (OUTSIDE_IPV6, &world.site.outside6, HOST_IPV6)]
    {
        let long = ["-s", "4000"];
        assert!(pings_answered(&honest, ip(to), 5, &long) > 0, "the honest vassal to {to}");
        assert!(pings_answered(from_outside, ip(host), 5, &long) > 0, "somebody outside to {host}");
    }
    world.log.wait_for("fragments above tuntap-router-fragment-rate", wait::LONG);
}

/// Somebody outside who floods a mapped port takes no more of connection tracking than the vassal behind it may have.
#[test]
fn flood_of_a_mapped_port_is_limited() {
    let (world, first, second) = two_vassals(&[
        "tuntap-router-max-connections = 300",
        "tuntap-router-port = udp 5353 192.168.0.2:53",
        "tuntap-router-port = udp 5354 192.168.0.3:53",
    ]);
    resolver(&first);
    resolver(&second);
    let earlier = tracked(&world);
    spray(&world.site.outside4, (ip(HOST_IPV4), 5353).into());
    let taken = tracked(&world).saturating_sub(earlier);
    assert!((250..500).contains(&taken), "{taken}");
    // Neither the other vassal nor other clients of the flooded one notice.
    world.site.outside4.sh("ip addr add 203.0.113.77/24 dev veth0");
    for (from, port) in [(OUTSIDE_IPV4, 5354), ("203.0.113.77", 5353)] {
        let client = world.site.outside4.run(|| UdpSocket::bind((ip(from), 0))).expect("a socket");
        client.set_read_timeout(Some(wait::SHORT)).expect("a timeout can be set");
        client.send_to(b"question", (ip(HOST_IPV4), port)).expect("there is a way");
        client.recv(&mut [0; 16]).unwrap_or_else(|error| panic!("{from}, port {port}: {error}"));
    }
    let listed = list(&world, "table", "");
    assert!(listed.contains("ct count over 300"), "{listed}");
}

/// Connections that are open count, those that have ended don't, and one that sends without an answer is one.
#[test]
fn honest_use_is_not_limited() {
    let (world, net, _other) = two_vassals(&["tuntap-router-max-connections = 50"]);
    let listener = world.site.outside4.run(|| std::net::TcpListener::bind(any_ipv4(7071))).expect("the port is free");
    thread::spawn(move || while listener.accept().is_ok() {});
    let target = SocketAddr::from((ip(OUTSIDE_IPV4), 7071));
    for _ in 0..200 {
        net.run(|| std::net::TcpStream::connect_timeout(&target, wait::SHORT)).expect("the earlier ones have ended");
        // The kernel forgets some that have ended each time that its clock ticks.
        thread::sleep(Duration::from_millis(5));
    }
    let socket = net.run(|| UdpSocket::bind(any_ipv4(0))).expect("a socket");
    for _ in 0..2000 {
        socket.send_to(b"x", (ip(OUTSIDE_IPV4), DNS)).expect("there is a way");
    }
    assert!(resolves(&net, ip(OUTSIDE_IPV4)));
    let offenders = list(&world, "set", "offenders4");
    assert!(!offenders.contains(&V1.to_string()), "{offenders}");
}

/// A reload that changes nothing about the table leaves what it has counted; the limits go on counting.
#[test]
fn counts_stay_through_a_reload() {
    let (world, attacker, _honest) = two_vassals(&["tuntap-router-max-connections = 100"]);
    spray(&attacker, (ip(OUTSIDE_IPV4), DNS).into());
    assert!(list(&world, "set", "offenders4").contains(&V1.to_string()));
    let handle = |world: &World| world.netns.sh("nft -a list tables");
    let before = handle(&world);
    crate::reload::reload(&world);
    assert_eq!(handle(&world), before);
    assert!(list(&world, "set", "offenders4").contains(&V1.to_string()));
}
