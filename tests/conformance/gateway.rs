//! Routes to other routers over UDP.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use crate::common::emperor::{EMPEROR, Emperor, V1, V2};
use crate::common::netns::Netns;
use crate::common::packet;
use crate::common::probe::{pings_answered, tcp_round_trip};
use crate::common::raw_peer::RawPeer;
use crate::common::uwsgi::Subject;
use crate::common::vassal::VassalIni;
use crate::common::wait;
use crate::common::wire::{ANY, Action, Direction, MAX_PAYLOAD, Rule};
use crate::pairs::{Pair, Router, cases};

// A pair is two routers here; each has a vassal of its own kind.
cases!(vassals_of_two_emperors_reach_each_other, Pair: c_c c_ours ours_c ours_ours);
cases!(device_rule_sends_to_a_gateway_that_the_operator_names, Router: c ours);
cases!(device_rule_to_another_gateway_passes_nothing, Router: c ours);
cases!(device_rule_without_a_gateway_passes_nothing, Router: c ours);
cases!(gateway_input_passes_the_firewall, Router: c ours);
// The C router hands peers whatever bears their address, of any length.
cases!(gateway_input_that_is_no_packet_is_dropped, Router: ours);
cases!(empty_datagrams_disturb_nothing, Router: c ours);
cases!(gateway_takes_datagrams_of_other_routers_only, Router: c ours);
cases!(gateway_takes_datagrams_of_anybody_by_default, Router: c ours);

const HERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const PORT: u16 = 4000;
const GATEWAY: &str = "emperor0 {dir}/t.sock {dir}/stats.sock 10.77.0.1:4000";

fn vassals_of_two_emperors_reach_each_other(pair: Pair) {
    let (first, second) = (Netns::new(), Netns::new());
    first.join("10.77.0.1/24", &second, "10.77.0.2/24");
    let there_gateway = Ipv4Addr::new(192, 168, 1, 1);
    let there_vassal = Ipv4Addr::new(192, 168, 1, 2);
    let here = pair
        .emperor()
        .router(GATEWAY)
        .line("tuntap-router-route = 192.168.0.0/24 192.168.1.0/24 10.77.0.2:4000")
        .start_in(first);
    let there = Router { uwsgi: pair.uwsgi, subject: pair.vassal }
        .emperor()
        .router("emperor0 {dir}/t.sock {dir}/stats.sock 10.77.0.2:4000")
        .address(there_gateway)
        .line("tuntap-router-route = 192.168.1.0/24 192.168.0.0/24 10.77.0.1:4000")
        .start_in(second);
    let near = here.start_vassal(&VassalIni::new(pair.uwsgi, pair.router, "v1", V1, EMPEROR));
    let far = there.start_vassal(&VassalIni::new(pair.uwsgi, pair.vassal, "v1", there_vassal, there_gateway));
    assert_eq!(pings_answered(&near, there_vassal, 5, &[]), 5);
    assert_eq!(pings_answered(&far, V1, 5, &["-M", "dont", "-s", "1472"]), 5, "whole MTUs, in UDP fragments");
    if pair.vassal == Subject::Ours {
        // 1500 bytes and 28 of headers don't fit the way between the routers; 1472 and 28 do.
        assert_eq!(pings_answered(&far, V1, 3, &["-M", "do", "-s", "1472", "-W", "1"]), 0, "must not be fragmented");
        assert!(far.sh("ip route get 192.168.0.2").contains("mtu 1472"), "the vassal was told how long packets may be");
        assert_eq!(pings_answered(&far, V1, 3, &["-M", "do", "-s", "1444"]), 3, "what fits arrives");
    }
    assert!(tcp_round_trip(&far, there_vassal, &near, 50_000).expect("TCP between the vassals"));
}

/// A router whose gateway listens on the namespace's own address, and a UDP socket beside it.
#[track_caller]
fn with_gateway(router: Router, lines: &[&str]) -> (Emperor, UdpSocket) {
    let netns = Netns::new();
    netns.sh("ip addr add 10.77.0.1/32 dev lo");
    netns.sh("ip addr add 10.77.0.2/32 dev lo");
    let emperor = router.emperor().router(GATEWAY).lines(lines).start_in(netns);
    let socket = emperor.netns.run(|| UdpSocket::bind((THERE, PORT))).expect("the other side's address is free");
    socket.set_read_timeout(Some(wait::SHORT)).expect("a timeout can be set");
    (emperor, socket)
}

#[track_caller]
fn next_datagram(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 9000];
    let (length, from) = socket.recv_from(&mut buffer).expect("a datagram comes from the router");
    assert_eq!(from, (HERE, PORT).into(), "it comes from the gateway's address");
    buffer.truncate(length);
    buffer
}

/// A peer whose rule sends what is for another network to `there`, and a packet for it.
fn peer_with_a_gateway_of_its_own(emperor: &Emperor) -> (RawPeer, Vec<u8>) {
    let mut peer = emperor.connect();
    let far_net = (Ipv4Addr::new(192, 168, 7, 0), 24);
    let action = Action::Gateway(SocketAddrV4::new(THERE, PORT));
    peer.send_rules(&[Rule { direction: Direction::Out, source: ANY, destination: far_net, action }]);
    (peer, packet::udp(V1, Ipv4Addr::new(192, 168, 7, 7), 9, b"through the gateway"))
}

/// The C plugin doesn't know the option, and needs none.
fn device_rule_sends_to_a_gateway_that_the_operator_names(router: Router) {
    for line in [
        "tuntap-router-device-route = any",
        "tuntap-router-device-route = 10.77.0.0/24:4000",
        "tuntap-router-route = 192.168.0.0/24 192.168.1.0/24 10.77.0.2:4000",
    ] {
        let (emperor, there) = with_gateway(router, &[line]);
        let (mut peer, packet) = peer_with_a_gateway_of_its_own(&emperor);
        peer.send_packet(&packet);
        assert_eq!(next_datagram(&there), packet, "the datagram is the packet as it is, with `{line}`");
        assert!(peer.echo(V1, EMPEROR, wait::SHORT), "what the rule does not match goes to the device");
    }
}

fn device_rule_to_another_gateway_passes_nothing(router: Router) {
    let (emperor, there) = with_gateway(router, &["tuntap-router-device-route = 10.77.0.2:4001"]);
    let (mut peer, packet) = peer_with_a_gateway_of_its_own(&emperor);
    let capture = crate::common::capture::Capture::received_on(&emperor.netns, "emperor0");
    peer.send_packet(&packet);
    assert!(peer.echo(V1, EMPEROR, wait::SHORT), "the peer lives on");
    peer.send_packet(&packet::udp(V1, EMPEROR, 9, b"last"));
    let to_the_device = capture.until(wait::SHORT, |packet| packet.ends_with(b"last"));
    assert!(!to_the_device.contains(&packet), "it doesn't go to the device instead");
    if router.is_ours() {
        there.set_nonblocking(true).expect("a socket can be made non-blocking");
        let nothing = there.recv_from(&mut [0; 100]).expect_err("nothing was sent");
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
        assert_eq!(emperor.stats().drops_of(V1, "route_target"), 1);
        let log = emperor.log.text();
        let told: Vec<_> = log.lines().filter(|line| line.contains("routes to 10.77.0.2:4000")).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("tuntap-router-device-route = 10.77.0.2:4000"), "it says what to do: {told:?}");
    } else {
        assert_eq!(next_datagram(&there), packet);
    }
}

fn device_rule_without_a_gateway_passes_nothing(router: Router) {
    let emperor = router.emperor().start();
    let mut peer = emperor.connect();
    let action = Action::Gateway(SocketAddrV4::new(THERE, PORT));
    peer.send_rules(&[Rule { direction: Direction::Out, source: ANY, destination: (V2, 32), action }]);
    let capture = crate::common::capture::Capture::received_on(&emperor.netns, "emperor0");
    peer.send_packet(&packet::udp(V1, V2, 9, b"nowhere"));
    peer.send_packet(&packet::udp(V1, EMPEROR, 9, b"last"));
    assert!(capture.until(wait::SHORT, |packet| packet.ends_with(b"last")).is_empty());
    if router.is_ours() {
        assert_eq!(emperor.stats().drops_of(V1, "no_gateway"), 1);
    }
}

fn gateway_input_passes_the_firewall(router: Router) {
    let lines = [
        "tuntap-router-route = 192.168.0.0/24 192.168.1.0/24 10.77.0.2:4000",
        "tuntap-router-firewall-in = deny 192.168.1.66 0.0.0.0",
    ];
    let (emperor, there) = with_gateway(router, &lines);
    let mut peer = emperor.peer(V1);
    let (denied, allowed) = (Ipv4Addr::new(192, 168, 1, 66), Ipv4Addr::new(192, 168, 1, 2));
    for source in [denied, allowed] {
        there.send_to(&packet::udp(source, V1, 9, b"from afar"), (HERE, PORT)).expect("UDP to the gateway");
    }
    let seen = first_from_afar(&mut peer);
    assert_eq!(packet::source(&seen), allowed);
}

fn gateway_input_that_is_no_packet_is_dropped(router: Router) {
    let lines = ["tuntap-router-route = 192.168.0.0/24 192.168.1.0/24 10.77.0.2:4000"];
    let (emperor, there) = with_gateway(router, &lines);
    let mut peer = emperor.peer(V1);
    let afar = Ipv4Addr::new(192, 168, 1, 2);
    let sound = packet::udp(afar, V1, 9, b"from afar");
    let mut malformed = sound.clone();
    malformed[0] = 0x4f;
    let mut not_ip = sound.clone();
    not_ip[0] = 0x15;
    let too_big = packet::udp(afar, V1, 9, &[0; MAX_PAYLOAD]);
    let to_all_routers = packet::ipv6_router_solicitation();
    let to_nobody = packet::udp(afar, V2, 9, b"lost");
    for datagram in [&malformed, &not_ip, &too_big, &to_all_routers, &to_nobody, &sound[..19].to_vec(), &sound] {
        there.send_to(datagram, (HERE, PORT)).expect("UDP to the gateway");
    }
    let seen = peer.wait_for_packet(wait::SHORT, |packet| packet::source(packet) == afar);
    assert_eq!(seen.as_ref(), Some(&sound), "only the last datagram arrives");
    let stats = emperor.stats();
    for (reason, count) in [("malformed", 1), ("not_ip", 1), ("too_big", 1), ("no_peer", 2), ("too_short", 1)] {
        assert_eq!(stats.drops(reason), count, "`{reason}` in {}", stats.0);
    }
}

fn empty_datagrams_disturb_nothing(router: Router) {
    let lines = ["tuntap-router-route = 192.168.0.0/24 192.168.1.0/24 10.77.0.2:4000"];
    let (emperor, there) = with_gateway(router, &lines);
    let mut peer = emperor.peer(V1);
    let logged_before = emperor.log.bytes();
    for _ in 0..100 {
        there.send_to(b"", (HERE, PORT)).expect("UDP to the gateway");
    }
    there.send_to(b"short", (HERE, PORT)).expect("UDP to the gateway");
    let packet = packet::udp(Ipv4Addr::new(192, 168, 1, 2), V1, 9, b"from afar");
    there.send_to(&packet, (HERE, PORT)).expect("UDP to the gateway");
    assert_eq!(first_from_afar(&mut peer), packet);
    let logged = emperor.log.bytes() - logged_before;
    if router.is_ours() {
        assert!(logged < 1000, "packets are not logged; {logged} bytes are");
    } else {
        assert!(logged > 1000, "the C router logs a line for each");
    }
}

/// Sends from a stranger's address, then from the other router's, and returns the source of the packet that arrives
/// first.
#[track_caller]
fn first_source_that_arrives(router: Router, lines: &[&str]) -> (Emperor, Ipv4Addr) {
    let (emperor, there) = with_gateway(router, &[&["tuntap-router-firewall-in = allow"], lines].concat());
    emperor.netns.sh("ip addr add 10.77.0.3/32 dev lo");
    let stranger = emperor.netns.run(|| UdpSocket::bind((STRANGER, PORT))).expect("an address of its own");
    let mut peer = emperor.peer(V1);
    for (socket, host) in [(&stranger, 3), (&there, 2)] {
        let packet = packet::udp(Ipv4Addr::new(192, 168, 1, host), V1, 9, b"from afar");
        socket.send_to(&packet, (HERE, PORT)).expect("UDP to the gateway");
    }
    let source = packet::source(&first_from_afar(&mut peer));
    (emperor, source)
}

const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);

fn gateway_takes_datagrams_of_other_routers_only(router: Router) {
    let lines = ["tuntap-router-gateway-allow = 10.77.0.2", "tuntap-router-gateway-allow = 10.78.0.0/16"];
    let (emperor, source) = first_source_that_arrives(router, &lines);
    if router.is_ours() {
        assert_eq!(source, Ipv4Addr::new(192, 168, 1, 2));
        let stats = emperor.stats();
        assert_eq!((stats.drops("gateway_source"), &stats.0["totals"]["gateway_rx_packets"]), (1, &1.into()));
    } else {
        assert_eq!(source, Ipv4Addr::new(192, 168, 1, 3), "the C router takes them from anybody");
    }
}

fn gateway_takes_datagrams_of_anybody_by_default(router: Router) {
    let (_emperor, source) = first_source_that_arrives(router, &[]);
    assert_eq!(source, Ipv4Addr::new(192, 168, 1, 3));
}

#[track_caller]
fn first_from_afar(peer: &mut RawPeer) -> Vec<u8> {
    peer.wait_for_packet(wait::SHORT, |packet| packet.ends_with(b"from afar")).expect("a packet comes from the gateway")
}
