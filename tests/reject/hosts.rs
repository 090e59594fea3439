//! Rejections that pass the host's own kernel: of a router with an address of its own, by ports of the host that lead
//! to a vassal, and between vassals.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1, V2};
use crate::common::netns::{Net, Netns};
use crate::common::packet;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;
use crate::world::{EMPEROR6, V1_6, assert_datagram_is_refused};

const V2_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 3);

/// The host's addresses towards the outside.
const HOST: [&str; 2] = ["203.0.113.1", "2001:db8:1::1"];
const SET_UP: [&str; 5] = [
    "tuntap-router = emperor0 {dir}/t.sock {dir}/stats.sock",
    "tuntap-router-address = 192.168.0.1/24",
    "tuntap-router-address = fd00:77::1/64",
    "tuntap-router-nat = veth0",
    "chmod-socket = 666",
];

const PORTS: [&str; 4] = [
    "tuntap-router-port = tcp 8080 192.168.0.2:80",
    "tuntap-router-port = tcp 8080 [fd00:77::2]:80",
    "tuntap-router-port = udp 5353 192.168.0.2:53",
    "tuntap-router-port = udp 5353 [fd00:77::2]:53",
];
const WEB: u16 = 80;
const MAPPED_WEB: u16 = 8080;
const DNS: u16 = 53;
const MAPPED_DNS: u16 = 5353;

/// Long enough for an answer that should not come.
const NOT_TOLD: Duration = Duration::from_millis(500);

const NO_SERVICE: [&str; 2] =
    ["tuntap-router-firewall-in = reject any any tcp 80", "tuntap-router-firewall-in = reject any any udp 53"];
const NO_NEIGHBOURS: [&str; 3] = [
    "tuntap-router-firewall-in = reject 192.168.0.2/31 192.168.0.2/31",
    "tuntap-router-firewall-in = reject fd00:77::2/127 fd00:77::2/127",
    "tuntap-router-firewall-in = allow",
];

/// The Emperor's host, and one outside.
#[track_caller]
fn start(lines: &[&str]) -> (Emperor, Netns) {
    let (host, outside) = (Netns::new().with_ipv6(), Netns::new().with_ipv6());
    host.join("203.0.113.1/24", &outside, "203.0.113.2/24");
    for (netns, address) in [(&host, "2001:db8:1::1/64"), (&outside, "2001:db8:1::2/64")] {
        netns.sh(&format!("ip addr add {address} dev veth0 nodad"));
    }
    let ini = EmperorIni::new(Uwsgi::usual(), Subject::Ours).router("").lines(&SET_UP).lines(lines);
    (ini.start_in(host), outside)
}

#[track_caller]
fn start_vassal(emperor: &Emperor, name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Net {
    let vassal = VassalIni::new(Uwsgi::usual(), Subject::Ours, name, v4, EMPEROR)
        .with_ipv6()
        .line(format!("exec-as-root = ip addr replace {v6}/64 dev uwsgi0 nodad"))
        .line(format!("exec-as-root = ip route replace default via {EMPEROR6} dev uwsgi0"))
        .line(format!("exec-as-root = ping -q -c 1 -W 5 {EMPEROR6}"));
    emperor.start_vassal(&vassal)
}

/// Addresses as text, with a port.
fn at(addresses: [&str; 2], port: u16) -> [SocketAddr; 2] {
    addresses.map(|address| (address.parse::<IpAddr>().expect("an address"), port).into())
}

fn vassals(v4: Ipv4Addr, v6: Ipv6Addr, port: u16) -> [SocketAddr; 2] {
    [(v4, port).into(), (v6, port).into()]
}

#[track_caller]
fn assert_connection_is_refused(client: &Net, target: SocketAddr) {
    let error = client.run(|| TcpStream::connect_timeout(&target, wait::SHORT)).expect_err("nobody may connect");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{target}: {error}");
}

/// The host's kernel would drop an answer that comes from one of the host's own addresses.
#[test]
fn host_is_told_by_a_router_with_addresses() {
    let (emperor, _outside) = start(&NO_SERVICE);
    let vassal = start_vassal(&emperor, "v", V1, V1_6);
    let _listeners = vassal.run(|| (TcpListener::bind(("::", WEB)), UdpSocket::bind(("::", DNS))));
    for target in vassals(V1, V1_6, WEB) {
        assert_connection_is_refused(&emperor.netns, target);
    }
    for target in vassals(V1, V1_6, DNS) {
        assert_datagram_is_refused(&emperor.netns, target);
    }
    assert_eq!(emperor.stats().0["totals"]["rejections"], 4);
}

/// The host's kernel puts the address that was asked into the answers.
#[test]
fn clients_of_a_port_of_the_host_are_told() {
    let lines = [&PORTS[..], &NO_SERVICE].concat();
    let (emperor, outside) = start(&lines);
    let _vassal = start_vassal(&emperor, "v", V1, V1_6);
    for client in [&*emperor.netns, &*outside] {
        for target in at(HOST, MAPPED_WEB) {
            assert_connection_is_refused(client, target);
        }
        for target in at(HOST, MAPPED_DNS) {
            assert_datagram_is_refused(client, target);
        }
    }
}

/// The answer would be refused by the same rule as the request.
#[test]
fn vassals_that_may_not_reach_each_other_are_told() {
    for lines in [&NO_NEIGHBOURS[..], &[&["tuntap-router-switch = true"], &NO_NEIGHBOURS[..]].concat()] {
        let (emperor, _outside) = start(lines);
        let first = start_vassal(&emperor, "v1", V1, V1_6);
        let second = start_vassal(&emperor, "v2", V2, V2_6);
        let _listener = second.run(|| TcpListener::bind(("::", WEB)));
        for target in vassals(V2, V2_6, WEB) {
            assert_connection_is_refused(&first, target);
        }
        for target in vassals(V2, V2_6, DNS) {
            assert_datagram_is_refused(&first, target);
        }
        // The rule also holds for an address that nobody holds.
        let unheld = [SocketAddr::from((V1, WEB)), (V1_6, WEB).into()];
        std::fs::remove_file(emperor.path("vassals/v1.ini")).expect("it was added");
        emperor.wait_for_stats("the first one is gone", |stats| stats.peer(V1).is_none());
        for target in unheld {
            assert_connection_is_refused(&second, target);
        }
        let stats = emperor.stats();
        assert_eq!(
            (stats.drops("firewall"), &stats.0["totals"]["rejections"]),
            (6, &6.into()),
            "no answer was refused"
        );
    }
}

#[test]
fn vassal_that_asks_another_one_by_a_port_of_the_host_is_told() {
    let lines = [&PORTS[..], &NO_SERVICE].concat();
    let (emperor, _outside) = start(&lines);
    let _first = start_vassal(&emperor, "v1", V1, V1_6);
    let second = start_vassal(&emperor, "v2", V2, V2_6);
    for target in at(HOST, MAPPED_WEB) {
        assert_connection_is_refused(&second, target);
    }
    for target in at(HOST, MAPPED_DNS) {
        assert_datagram_is_refused(&second, target);
    }
    for target in vassals(V1, V1_6, WEB) {
        assert_connection_is_refused(&second, target);
    }
}

/// A peer that has claimed the address of an outside host gets none of the answers to that host.
#[test]
fn answers_go_to_the_host_that_has_asked() {
    let lines = [&PORTS[..], &NO_SERVICE, &["tuntap-router-claims = any"]].concat();
    let (emperor, outside) = start(&lines);
    let _vassal = start_vassal(&emperor, "v", V1, V1_6);
    let mut thief = emperor.connect();
    for (claimed, target) in ["203.0.113.2", "2001:db8:1::2"].into_iter().zip(at(HOST, MAPPED_DNS)) {
        let claimed: IpAddr = claimed.parse().expect("an address");
        match claimed {
            IpAddr::V4(claimed) => thief.send_packet(&packet::udp(claimed, EMPEROR, 9, b"mine")),
            IpAddr::V6(claimed) => thief.send_packet(&packet::udp6(claimed, EMPEROR6, 9, b"mine")),
        }
        emperor.wait_for_stats("it is claimed", |stats| stats.peer(claimed).is_some());
        assert_datagram_is_refused(&outside, target);
    }
    assert_eq!(thief.wait_for_packet(NOT_TOLD, |_| true), None);
}

#[test]
fn nothing_is_said_about_packets_to_a_whole_network() {
    let (emperor, _outside) = start(&["tuntap-router-firewall-out = reject any any udp 9"]);
    let mut peer = emperor.peer(V2);
    for (last, rejections) in [(255, 0), (0, 0), (254, 1)] {
        let before = emperor.stats().drops("firewall");
        peer.send_packet(&packet::udp(V2, Ipv4Addr::new(192, 168, 0, last), 9, b"to whom?"));
        let stats = emperor.wait_for_stats("it is refused", |stats| stats.drops("firewall") > before);
        assert_eq!(stats.0["totals"]["rejections"], rejections, "{last}");
    }
}
