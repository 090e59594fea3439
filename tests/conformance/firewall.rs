//! `tuntap-router-firewall-in` and `-out`.

use std::net::Ipv4Addr;

use crate::common::capture::Capture;
use crate::common::emperor::{EMPEROR, Emperor, V1, V2};
use crate::common::packet;
use crate::common::probe::send_udp;
use crate::common::raw_peer::RawPeer;
use crate::common::uwsgi::Uwsgi;
use crate::common::wait;
use crate::pairs::{Router, cases};

cases!(documented_rules_separate_vassals, Router: c ours);
cases!(first_match_wins_and_no_match_allows, Router: c ours);
cases!(lone_action_matches_everything, Router: c ours);
cases!(prefixes_match_their_networks, Router: c ours);
// A shift by 32 is undefined in C: what `/0` does there is up to the compiler.
cases!(prefix_of_zero_matches_everything, Router: ours);

/// The destinations that packets from `peer` reach past the router.
#[track_caller]
fn passed_out(emperor: &Emperor, peer: &mut RawPeer, source: Ipv4Addr, destinations: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
    let capture = Capture::received_on(&emperor.netns, "emperor0");
    for destination in destinations {
        peer.send_packet(&packet::udp(source, *destination, 9, b"probe"));
    }
    // A last packet shows that nothing is under way any more: what has not arrived before it was stopped.
    peer.send_packet(&packet::udp(source, LAST, 9, b"last"));
    let packets = capture.until(wait::SHORT, |packet| packet.ends_with(b"last"));
    packets.iter().filter(|packet| packet.ends_with(b"probe")).map(|packet| packet::destination(packet)).collect()
}

/// Every rule set of these tests lets this destination through.
const LAST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

fn documented_rules_separate_vassals(router: Router) {
    let emperor = router
        .emperor()
        .lines(&[
            "tuntap-router-firewall-out = allow 192.168.0.0/24 192.168.0.1",
            "tuntap-router-firewall-out = deny 192.168.0.0/24 192.168.0.0/24",
            "tuntap-router-firewall-out = allow 192.168.0.0/24 0.0.0.0",
            "tuntap-router-firewall-out = deny",
            "tuntap-router-firewall-in = allow 192.168.0.1 192.168.0.0/24",
            "tuntap-router-firewall-in = deny 192.168.0.0/24 192.168.0.0/24",
            "tuntap-router-firewall-in = allow 0.0.0.0 192.168.0.0/24",
            "tuntap-router-firewall-in = deny",
        ])
        .start();
    let mut first = emperor.peer(V1);
    let mut second = emperor.peer(V2);
    let internet = Ipv4Addr::new(8, 8, 8, 8);
    assert_eq!(passed_out(&emperor, &mut first, V1, &[EMPEROR, V2, internet]), [EMPEROR, internet]);
    assert!(!first.echo(V1, V2, std::time::Duration::from_millis(300)), "vassals don't reach each other");
    assert!(second.echo(V2, EMPEROR, wait::SHORT));
    if router.is_ours() {
        assert_eq!(emperor.stats().drops_of(V1, "firewall"), 2);
    }
}

fn first_match_wins_and_no_match_allows(router: Router) {
    let emperor = router
        .emperor()
        .lines(&[
            "tuntap-router-firewall-out = allow 192.168.0.2 10.0.0.1",
            "tuntap-router-firewall-out = deny 192.168.0.2 10.0.0.0/24",
            "tuntap-router-firewall-out = allow 192.168.0.2 10.0.0.2",
            "tuntap-router-firewall-in = deny 192.168.0.1 192.168.0.2",
        ])
        .start();
    let mut peer = emperor.connect();
    let [allowed, denied, other] = [[10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 1, 1]].map(Ipv4Addr::from);
    assert_eq!(passed_out(&emperor, &mut peer, V1, &[allowed, denied, other]), [allowed, other]);
    // Packets towards peers have a chain of their own.
    let mut second = emperor.peer(V2);
    assert!(second.echo(V2, EMPEROR, wait::SHORT));
    send_udp(&emperor.netns, V1, 9, b"denied").expect("the Emperor can send");
    emperor.netns.sh("ip addr add 192.168.0.9/24 dev emperor0");
    peer.send_packet(&packet::echo_request(V1, Ipv4Addr::new(192, 168, 0, 9), 5, 84));
    let seen = peer.next_frame(wait::SHORT).expect("another source than the denied one gets in");
    assert_eq!(packet::source(&seen.payload), Ipv4Addr::new(192, 168, 0, 9), "the denied one was sent before");
}

fn lone_action_matches_everything(router: Router) {
    let emperor = router
        .emperor()
        .lines(&[
            "tuntap-router-firewall-out = allow 0.0.0.0 203.0.113.0/24",
            "tuntap-router-firewall-out = deny",
            "tuntap-router-firewall-out = allow",
        ])
        .start();
    let mut peer = emperor.connect();
    assert!(passed_out(&emperor, &mut peer, V1, &[EMPEROR, V2, Ipv4Addr::new(8, 8, 8, 8)]).is_empty());
}

fn prefixes_match_their_networks(router: Router) {
    let emperor = router
        .emperor()
        .lines(&[
            "tuntap-router-firewall-out = deny 0.0.0.0 10.1.0.0/8",
            "tuntap-router-firewall-out = deny 0.0.0.0 172.16.0.0/12",
            "tuntap-router-firewall-out = deny 0.0.0.0 198.51.100.128/25",
            "tuntap-router-firewall-out = deny 0.0.0.0 198.51.100.4/31",
            "tuntap-router-firewall-out = deny 0.0.0.0 198.51.100.9/32",
            "tuntap-router-firewall-out = deny 192.168.0.0/16 192.0.2.1",
        ])
        .start();
    let mut peer = emperor.connect();
    let denied = [
        [10, 0, 0, 0],
        [10, 255, 255, 255],
        [172, 16, 0, 0],
        [172, 31, 255, 255],
        [198, 51, 100, 128],
        [198, 51, 100, 255],
        [198, 51, 100, 4],
        [198, 51, 100, 5],
        [198, 51, 100, 9],
        [192, 0, 2, 1],
    ];
    let allowed = [
        [11, 0, 0, 0],
        [9, 255, 255, 255],
        [172, 15, 255, 255],
        [172, 32, 0, 0],
        [198, 51, 100, 127],
        [198, 51, 100, 3],
        [198, 51, 100, 6],
        [198, 51, 100, 8],
        [198, 51, 100, 10],
        [192, 0, 2, 2],
    ];
    let all: Vec<Ipv4Addr> = denied.iter().chain(&allowed).map(|octets| Ipv4Addr::from(*octets)).collect();
    assert_eq!(passed_out(&emperor, &mut peer, V1, &all), allowed.map(Ipv4Addr::from));
}

fn prefix_of_zero_matches_everything(router: Router) {
    let emperor = router
        .emperor()
        .lines(&[
            "tuntap-router-firewall-out = allow 0.0.0.0/0 203.0.113.0/24",
            "tuntap-router-firewall-out = deny 0.0.0.0/0 10.1.2.3/0",
        ])
        .start();
    let mut peer = emperor.connect();
    assert!(passed_out(&emperor, &mut peer, V1, &[EMPEROR, Ipv4Addr::new(8, 8, 8, 8)]).is_empty());
}

/// Options that do not parse, with what must stand in the log beside the option's name.
const WRONG: [(&str, &str); 22] = [
    ("tuntap-router-firewall-out", "deyn"),
    ("tuntap-router-firewall-out", "deyn 192.168.0.0/24 0.0.0.0"),
    ("tuntap-router-firewall-out", "deny 192.168.0.0/24"),
    ("tuntap-router-firewall-out", "deny 192.168.0.0/33 0.0.0.0"),
    ("tuntap-router-firewall-out", "deny 192.168.0.0/ 0.0.0.0"),
    ("tuntap-router-firewall-out", "deny 192.168.0.0/x 0.0.0.0"),
    ("tuntap-router-firewall-out", "deny 192.168.0 0.0.0.0"),
    ("tuntap-router-firewall-in", "drop 192.168.0.0/24 0.0.0.0"),
    ("tuntap-router-firewall-in", "deny 0.0.0.0 192.168.0.0/24 tpc"),
    ("tuntap-router-firewall-in", "deny 0.0.0.0 192.168.0.0/24 tcp 0"),
    ("tuntap-router-firewall-in", "deny 0.0.0.0 192.168.0.0/24 tcp 80-79"),
    ("tuntap-router-firewall-in", "deny 0.0.0.0 192.168.0.0/24 icmp 80"),
    ("tuntap-router-firewall-in", "deny 0.0.0.0 192.168.0.0/24 tcp 80 443"),
    ("tuntap-router-firewall-in", "deny 192.168.0.0/24 fd00:77::/64"),
    ("tuntap-router-route", "192.168.0.0/24 192.168.1.0/24"),
    ("tuntap-router-route", "192.168.0.0/24 192.168.1.0/24 10.0.0.1"),
    ("tuntap-router-route", "192.168.0.0/24 192.168.1.0/24 10.0.0.1:99999"),
    ("tuntap-device-rule", "out 0.0.0.0 10.0.0.0/8 deyn"),
    ("tuntap-device-rule", "up 0.0.0.0 10.0.0.0/8 deny"),
    ("tuntap-device-rule", "out 0.0.0.0 10.0.0.0/8"),
    ("tuntap-device-rule", "out 0.0.0.0 10.0.0.0/8 gateway"),
    ("tuntap-router", "emperor1"),
];

#[test]
fn value_that_does_not_parse_stops_the_start() {
    for (option, value) in WRONG {
        let mut emperor = Router::ours(Uwsgi::usual()).emperor().line(format!("{option} = {value}")).launch();
        let status = emperor.wait_for_exit();
        assert!(!status.success(), "`{option} = {value}`: {status}");
        let log = emperor.log.text();
        let report = log.lines().find(|line| line.contains(option) && line.contains(value));
        assert!(report.is_some(), "`{option} = {value}` is named in the log:\n{log}");
    }
}

/// The C plugin takes what it does not know for `allow`.
#[test]
fn unknown_action_is_allow_to_the_c_plugin() {
    let emperor = Router::c(Uwsgi::usual())
        .emperor()
        .line("tuntap-router-firewall-out = deyn 192.168.0.0/24 192.168.0.0/24")
        .start();
    let mut peer = emperor.connect();
    assert_eq!(passed_out(&emperor, &mut peer, V1, &[V2]), [V2]);
}
