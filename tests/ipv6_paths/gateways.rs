//! Routes to other routers, over either version of IP, for packets of both.

use std::net::{Ipv6Addr, UdpSocket};

use crate::common::emperor::Emperor;
use crate::common::netns::{Net, Netns};
use crate::common::packet;
use crate::common::probe::{pings_answered, tcp_round_trip};
use crate::common::uwsgi::Subject;
use crate::common::wait;
use crate::world::{FAR, FIRST, HERE, THERE, emperor, start_attached, vassal};

const LENGTH: usize = 2_000_000;

/// Two Emperors whose gateways are at these addresses; each has a vassal. The way between them is as wide as this.
#[track_caller]
fn start(here_gateway: &str, there_gateway: &str, mtu: u32) -> (Emperor, Emperor, Net, Net) {
    let (first, second) = (Netns::new().with_ipv6(), Netns::new().with_ipv6());
    first.join("10.77.0.1/24", &second, "10.77.0.2/24");
    for (netns, address) in [(&first, "2001:db8::1/64"), (&second, "2001:db8::2/64")] {
        netns.sh(&format!("ip addr add {address} dev veth0 nodad"));
        netns.sh(&format!("ip link set veth0 mtu {mtu}"));
    }
    let here = emperor(HERE)
        .router(&format!("emperor0 {{dir}}/t.sock {{dir}}/stats.sock {here_gateway}"))
        .line(format!("tuntap-router-route = 192.168.0.0/24 192.168.1.0/24 {there_gateway}"))
        .line(format!("tuntap-router-route = fd00:77::/64 fd00:78::/64 {there_gateway}"))
        .start_in(first);
    let there = emperor(THERE)
        .router(&format!("emperor0 {{dir}}/t.sock {{dir}}/stats.sock {there_gateway}"))
        .line(format!("tuntap-router-route = 192.168.1.0/24 192.168.0.0/24 {here_gateway}"))
        .line(format!("tuntap-router-route = fd00:78::/64 fd00:77::/64 {here_gateway}"))
        .start_in(second);
    let near = start_attached(&here, "v1", FIRST, HERE);
    let far = start_attached(&there, "v1", FAR, THERE);
    (here, there, near, far)
}

/// Packets of both versions pass, and their senders learn how long they may be.
#[track_caller]
fn assert_both_pass(near: &Net, far: &Net, mtu: u32) {
    wait::until_true("IPv4 passes", wait::LONG, || pings_answered(near, FAR.v4, 1, &[]) == 1);
    wait::until_true("IPv6 passes", wait::LONG, || pings_answered(near, FAR.v6, 1, &[]) == 1);
    assert_eq!(pings_answered(near, FAR.v4, 1, &["-M", "do", "-s", "1472", "-W", "1"]), 0, "must not be fragmented");
    assert_eq!(pings_answered(near, FAR.v6, 1, &["-M", "do", "-s", "1452", "-W", "1"]), 0, "must not be fragmented");
    for destination in [FAR.v4.to_string(), FAR.v6.to_string()] {
        let route = near.sh(&format!("ip route get {destination}"));
        assert!(route.contains(&format!("mtu {mtu} ")), "{mtu}: {route}");
    }
    assert_eq!(pings_answered(near, FAR.v6, 3, &["-M", "do", "-s", &(mtu - 48).to_string()]), 3, "what fits arrives");
    assert_eq!(pings_answered(near, FAR.v6, 3, &["-s", "1452"]), 3, "in fragments of its sender");
    assert!(tcp_round_trip(far, FAR.v6, near, LENGTH).expect("TCP over IPv6"));
    assert!(tcp_round_trip(far, FAR.v4, near, LENGTH).expect("TCP over IPv4"));
}

#[test]
fn packets_of_both_versions_travel_over_ipv6() {
    let (here, there, near, far) = start("[2001:db8::1]:4000", "[2001:db8::2]:4000", 1500);
    assert_eq!(here.stats().0["gateway"], "[2001:db8::1]:4000");
    assert_both_pass(&near, &far, 1452);
    for emperor in [&here, &there] {
        let stats = emperor.stats();
        assert!(stats.drops("too_big") > 0);
        assert_eq!(stats.drops("gateway_refused"), 0);
        assert!(!emperor.log.text().contains("the sandbox denied"), "{}", emperor.log.text());
    }
}

#[test]
fn packets_of_ipv6_travel_over_ipv4() {
    let (_here, _there, near, far) = start("10.77.0.1:4000", "10.77.0.2:4000", 1500);
    assert_both_pass(&near, &far, 1472);
}

/// IPv6 packets of 1280 bytes have to pass: the datagram around them travels in fragments.
#[test]
fn narrow_way_takes_the_least_that_ipv6_asks_for() {
    let (_here, _there, near, far) = start("10.77.0.1:4000", "10.77.0.2:4000", 1280);
    assert_eq!(pings_answered(&near, FAR.v6, 1, &["-M", "do", "-s", "1452", "-W", "1"]), 0);
    assert!(near.sh(&format!("ip route get {}", FAR.v6)).contains("mtu 1280 "));
    assert_eq!(pings_answered(&near, FAR.v6, 3, &["-M", "do", "-s", "1232"]), 3);
    assert!(tcp_round_trip(&far, FAR.v6, &near, LENGTH / 10).expect("TCP over IPv6"));
}

/// One socket takes datagrams of both versions, and the router sees their sources.
#[test]
fn gateway_for_all_addresses_takes_datagrams_of_both_versions() {
    let netns = Netns::new().with_ipv6();
    for address in ["10.77.0.2/32", "10.77.0.3/32"] {
        netns.sh(&format!("ip addr add {address} dev lo"));
    }
    for address in ["2001:db8::2/128", "2001:db8::3/128"] {
        netns.sh(&format!("ip addr add {address} dev lo nodad"));
    }
    let emperor = emperor(HERE)
        .router("emperor0 {dir}/t.sock {dir}/stats.sock [::]:4000")
        .lines(&["tuntap-router-gateway-allow = 10.77.0.2", "tuntap-router-gateway-allow = 2001:db8::2"])
        .line("tuntap-router-route = any 192.168.7.0/24 10.77.0.2:4001")
        .start_in(netns);
    let mut peer = emperor.peer(FIRST.v4);
    let payload = |from: &str| from.as_bytes().to_vec();
    for from in ["10.77.0.3:0", "[2001:db8::3]:0", "10.77.0.2:0", "[2001:db8::2]:0"] {
        let socket = emperor.netns.run(|| UdpSocket::bind(from)).expect("an address of its own");
        let to = if from.starts_with('[') { "[::1]:4000" } else { "127.0.0.1:4000" };
        let datagram = packet::udp(HERE.v4, FIRST.v4, 9, &payload(from));
        socket.send_to(&datagram, to).expect("UDP to the gateway");
    }
    for expected in ["10.77.0.2:0", "[2001:db8::2]:0"] {
        let packet = peer.wait_for_packet(wait::SHORT, |packet| packet[0] == 0x45 && packet[9] == packet::UDP);
        assert!(packet.expect("a packet comes from the gateway").ends_with(&payload(expected)), "{expected}");
    }
    assert_eq!(emperor.stats().drops("gateway_source"), 2);
    let there = emperor.netns.run(|| UdpSocket::bind("10.77.0.2:4001")).expect("an address of its own");
    there.set_read_timeout(Some(wait::SHORT)).expect("a timeout can be set");
    let sent = packet::udp(FIRST.v4, [192, 168, 7, 1].into(), 9, b"over IPv4");
    peer.send_packet(&sent);
    let mut buffer = [0; 100];
    let length = there.recv(&mut buffer).expect("a datagram comes from the router");
    assert_eq!(buffer[..length], sent);
}

#[test]
fn vassals_name_gateways_of_ipv6() {
    let netns = Netns::new().with_ipv6();
    netns.sh("ip addr add 2001:db8::2/128 dev lo nodad");
    let emperor = emperor(HERE)
        .router("emperor0 {dir}/t.sock {dir}/stats.sock [::1]:4000")
        .line("tuntap-router-device-route = [2001:db8::/32]:4001")
        .start_in(netns);
    let there = emperor.netns.run(|| UdpSocket::bind("[2001:db8::2]:4001")).expect("an address of its own");
    there.set_read_timeout(Some(wait::SHORT)).expect("a timeout can be set");
    let far = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 1);
    let rule = "tuntap-device-rule = out any fd00:99::/64 route [2001:db8::2]:4001";
    let net = emperor.start_vassal(&vassal(Subject::Ours, "v1", FIRST, HERE).line(rule));
    pings_answered(&net, far, 1, &["-W", "0.2"]);
    let mut buffer = [0; 200];
    let length = there.recv(&mut buffer).expect("a datagram comes from the router");
    assert_eq!((buffer[0] >> 4, &buffer[24..40], length), (6, far.octets().as_slice(), 104));
}
