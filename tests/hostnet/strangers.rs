//! Packets that must not pass: from outside to a vassal without a mapped port, and from sources that are not
//! masqueraded.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::common::capture::Capture;
use crate::common::emperor::V2;
use crate::common::netns::{Net, Netns};
use crate::common::packet;
use crate::common::wait;
use crate::world::{
    EMPEROR_IPV6, HOST_IPV4, HOST_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6, V1_IPV6, V2_IPV6, any_ipv4, client_as_seen, ip,
    start, vassal,
};

/// Sends to the vassal itself, and then by the mapped port; what the vassal gets first. Packets keep their order.
#[track_caller]
fn first_that_arrives(outside: &Net, vassal: &Net, direct: SocketAddr, mapped: SocketAddr) -> String {
    let any: SocketAddr = if direct.is_ipv4() { any_ipv4(0) } else { "[::]:0".parse().expect("an address") };
    let server = vassal.run(|| UdpSocket::bind(direct)).expect("the address is there");
    server.set_read_timeout(Some(wait::SHORT)).expect("a timeout can be set");
    let client = outside.run(|| UdpSocket::bind(any)).expect("a socket");
    client.send_to(b"direct", direct).expect("there is a way");
    client.send_to(b"mapped", mapped).expect("there is a way");
    let mut buffer = [0; 16];
    let count = server.recv(&mut buffer).expect("one arrives");
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

#[test]
fn nobody_outside_reaches_a_vassal_but_by_a_mapped_port() {
    let world =
        start(&["tuntap-router-port = udp 5353 192.168.0.2:53", "tuntap-router-port = udp 5353 [fd00:77::2]:53"]);
    let net = world.start_vassal(&vassal("v1"));
    let (outside4, outside6) = (&world.site.outside4, &world.site.outside6);
    outside4.sh(&format!("ip route add 192.168.0.0/24 via {HOST_IPV4}"));
    outside6.sh(&format!("ip route add fd00:77::/64 via {HOST_IPV6}"));
    let at = |address, port| SocketAddr::from((ip(address), port));
    assert_eq!(first_that_arrives(outside4, &net, at("192.168.0.2", 53), at(HOST_IPV4, 5353)), "mapped");
    assert_eq!(first_that_arrives(outside6, &net, at(V1_IPV6, 53), at(HOST_IPV6, 5353)), "mapped");
}

/// Packets to the outside from a source that is not masqueraded are dropped; those to the host still arrive.
#[test]
fn sources_outside_of_the_routers_networks_do_not_leave() {
    let world = start(&["tuntap-router-claims = any"]);
    let stranger4 = Ipv4Addr::new(10, 66, 0, 2);
    let stranger6 = "fd00:66::2".parse().expect("an address");
    let outside4 = OUTSIDE_IPV4.parse().expect("an address");
    let outside6 = OUTSIDE_IPV6.parse().expect("an address");
    let v2: Ipv6Addr = V2_IPV6.parse().expect("an address");
    let captures =
        [Capture::received_on(&world.site.outside4, "veth0"), Capture::received_on(&world.site.outside6, "veth0")];

    let mut stranger = world.connect();
    stranger.send_packet(&packet::udp(stranger4, outside4, 7, b"stranger"));
    stranger.send_packet(&packet::udp6(stranger6, outside6, 7, b"stranger"));
    world.wait_for_stats("it has claimed both", |stats| {
        stats.peer(stranger4).is_some_and(|peer| peer["addresses"].as_array().is_some_and(|all| all.len() == 2))
    });
    let mut honest = world.peer(V2);
    assert!(honest.echo(v2, ip(EMPEROR_IPV6), wait::SHORT));
    honest.send_packet(&packet::udp(V2, outside4, 7, b"honest"));
    honest.send_packet(&packet::udp6(v2, outside6, 7, b"honest"));
    for capture in captures {
        let earlier = capture.until(wait::SHORT, |packet| packet.ends_with(b"honest"));
        assert!(earlier.iter().all(|packet| !packet.ends_with(b"stranger")), "{earlier:?}");
    }
}

/// The remedy of the documentation for a host that should not forward for its neighbours.
#[test]
fn neighbours_pass_the_host_unless_its_own_packet_filter_says_no() {
    const NEAR: &str = "198.51.100.1";
    const THIRD: &str = "198.51.100.2";
    let world = start(&[]);
    let net = world.start_vassal(&vassal("v1"));
    let outside = &world.site.outside4;
    let third = Netns::new();
    world.netns.join(&format!("{NEAR}/24"), &third, &format!("{THIRD}/24"));
    outside.sh(&format!("ip route add 198.51.100.0/24 via {HOST_IPV4}"));
    let server = third.run(|| UdpSocket::bind(any_ipv4(9))).expect("the port is free");
    server.set_read_timeout(Some(wait::SHORT)).expect("a timeout can be set");
    // The neighbour first, then the host itself.
    let first_that_arrives = || {
        for (from, text) in [(outside as &Net, "neighbour"), (&world.netns, "host")] {
            let client = from.run(|| UdpSocket::bind(any_ipv4(0))).expect("a socket");
            client.send_to(text.as_bytes(), (ip(THIRD), 9)).expect("there is a way");
        }
        let mut buffer = [0; 16];
        let count = server.recv(&mut buffer).expect("one arrives");
        let first = String::from_utf8_lossy(&buffer[..count]).into_owned();
        if first == "neighbour" {
            server.recv(&mut buffer).expect("the other one, too");
        }
        first
    };
    assert_eq!(first_that_arrives(), "neighbour");
    world.netns.sh("nft add table inet filter");
    world.netns.sh("nft add chain inet filter forward { type filter hook forward priority 0 ; }");
    world.netns.sh("nft add rule inet filter forward iifname up4 oifname != emperor0 drop");
    assert_eq!(first_that_arrives(), "host");
    let target = SocketAddr::from((ip(OUTSIDE_IPV4), 7030));
    assert_eq!(client_as_seen(&net, target, outside, target), ip(HOST_IPV4));
}
