//! Clients on both sides of the router.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use crate::common::emperor::{EMPEROR, V1};
use crate::common::netns::Net;
use crate::common::uwsgi::{UWSGIS, Uwsgi};
use crate::common::{wait, wire};
use crate::world::{
    EMPEROR6, V1_6, assert_datagram_is_refused, assert_not_answered, assert_refused, curl, ping, start,
};

/// The Emperor's own services, so that nothing but a rule can refuse a client.
fn listen(net: &Net, port: u16) -> TcpListener {
    net.run(|| TcpListener::bind(("::", port))).expect("the port is free")
}

#[test]
fn vassals_curl_fails_at_once() {
    for uwsgi in UWSGIS {
        let (emperor, vassal) = start(uwsgi, &["tuntap-router-firewall-out = reject any any tcp 8080-8089"]);
        let _rejected = listen(&emperor.netns, 8080);
        let _allowed = listen(&emperor.netns, 8090);
        assert_refused(&vassal, EMPEROR, 8080);
        assert_refused(&vassal, EMPEROR6, 8089);
        // Another port, which no rule refuses, has a listener.
        assert_connects(&vassal, 8090);
        assert_eq!(emperor.stats().0["totals"]["rejections"], 2);
        assert_eq!(emperor.stats().drops("firewall"), 2);
    }
}

/// curl gets as far as to wait for an answer: the connection is there.
#[track_caller]
fn assert_connects(vassal: &Net, port: u16) {
    const TIMED_OUT: i32 = 28;
    for address in [IpAddr::V4(EMPEROR), IpAddr::V6(EMPEROR6)] {
        let output = curl(vassal, address, port).0;
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(TIMED_OUT), "{text}");
        assert!(text.contains("0 bytes received"), "{text}");
    }
}

#[test]
fn hosts_curl_fails_at_once() {
    let (emperor, vassal) = start(Uwsgi::usual(), &["tuntap-router-firewall-in = reject any any tcp 8080"]);
    let _rejected = listen(&vassal, 8080);
    assert_refused(&emperor.netns, V1, 8080);
    assert_refused(&emperor.netns, V1_6, 8080);
}

#[test]
fn deny_tells_nobody() {
    let (emperor, vassal) = start(Uwsgi::usual(), &["tuntap-router-firewall-out = deny any any tcp 8080"]);
    let _denied = listen(&emperor.netns, 8080);
    assert_not_answered(&vassal, EMPEROR, 8080);
    assert_eq!(emperor.stats().0["totals"]["rejections"], 0);
}

#[test]
fn ping_says_that_packets_are_filtered() {
    let (_emperor, vassal) = start(
        Uwsgi::usual(),
        &[
            "tuntap-router-firewall-out = reject any 203.0.113.0/24 icmp",
            "tuntap-router-firewall-out = reject any 2001:db8::/32 icmp",
        ],
    );
    let v4 = ping(&vassal, Ipv4Addr::new(203, 0, 113, 9));
    assert!(v4.contains("Packet filtered"), "{v4}");
    let v6 = ping(&vassal, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9));
    assert!(v6.contains("Destination unreachable: Administratively prohibited"), "{v6}");
}

#[test]
fn datagrams_sender_is_told() {
    let (_emperor, vassal) = start(Uwsgi::usual(), &["tuntap-router-firewall-out = reject any any udp 9999"]);
    for target in [SocketAddr::from((EMPEROR, 9999)), (EMPEROR6, 9999).into()] {
        assert_datagram_is_refused(&vassal, target);
    }
}

#[test]
fn rule_of_a_peer_rejects_what_comes_in() {
    let (emperor, _vassal) = start(Uwsgi::usual(), &[]);
    let address = Ipv4Addr::new(192, 168, 0, 9);
    let mut peer = emperor.connect();
    peer.send_bytes(&wire::frame(wire::EXTENDED_RULES, &reject_in_tcp_8080()));
    assert!(peer.echo(address, EMPEROR, wait::SHORT), "other packets pass");
    assert_refused(&emperor.netns, address, 8080);
    assert_eq!(emperor.stats().drops_of(address, "peer_rule"), 1);
}

/// The record is that of docs/PROTOCOL.md.
fn reject_in_tcp_8080() -> Vec<u8> {
    let mut record = vec![0, 3, 0, 0, 0, 0, 1 | 2, 6];
    record.extend([8080u16.to_be_bytes(), 8080u16.to_be_bytes()].concat());
    record.resize(64, 0);
    record
}
