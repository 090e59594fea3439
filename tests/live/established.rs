//! `established` and `new` as last words of rules: a chain that lets answers pass, and nothing else.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use tuntap_api::control::Chain;

use crate::common::emperor::{EMPEROR, Emperor, V1, V2};
use crate::common::link::Connection;
use crate::common::netns::Net;
use crate::common::probe::{is_cut_off, is_reachable};
use crate::common::wait;
use crate::world::{
    Control, Datagrams, EMPEROR_6, V1_6, V2_6, assert_connects, closed_emperor, connects, emperor, vassal,
};

/// Both versions: the Emperor's address, and the vassal's.
const PAIRS: [(IpAddr, IpAddr); 2] = [(IpAddr::V4(EMPEROR), IpAddr::V4(V1)), (IpAddr::V6(EMPEROR_6), IpAddr::V6(V1_6))];

#[track_caller]
fn assert_only_answers_pass(emperor: &Emperor, net: &Net) {
    for (host, own) in PAIRS {
        assert!(is_reachable(net, host), "the vassal reaches {host}");
        assert!(is_cut_off(&emperor.netns, own), "nobody reaches {own}");
        assert_connects(net, &emperor.netns, host, 7001);
        assert!(!connects(&emperor.netns, net, own, 7002), "no connection to {own}");
        let datagrams = Datagrams::new(net, own, &emperor.netns, host);
        assert!(!datagrams.pass_in(), "no datagram to {own} comes first");
        assert!(datagrams.pass_out(), "a datagram from {own}");
        assert!(datagrams.pass_in(), "its answer");
    }
}

#[test]
fn answers_pass_and_nothing_else() {
    let emperor = closed_emperor().start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    assert_only_answers_pass(&emperor, &net);
}

/// ICMP errors about what the vassal has sent belong to its connections.
#[test]
fn errors_about_what_was_sent_pass() {
    let emperor = closed_emperor().start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    for (host, own) in PAIRS {
        let socket = net.run(|| UdpSocket::bind((own, 0))).expect("own address");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout can be set");
        socket.connect((host, 9)).expect("a target");
        wait::until_true("port unreachable", wait::LONG, || {
            let sent = socket.send(b"x");
            let error = sent.err().or_else(|| socket.recv(&mut [0; 8]).err());
            error.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        });
    }
}

/// Connections outlive the router's process, its policy, and the vassal's image.
#[test]
fn connections_go_on_over_deaths_swaps_and_reloads() {
    let emperor = closed_emperor().start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut streams: Vec<_> = PAIRS.iter().map(|(host, _)| Connection::open(&net, &emperor.netns, *host)).collect();
    let datagrams: Vec<_> = PAIRS.iter().map(|(host, own)| Datagrams::new(&net, *own, &emperor.netns, *host)).collect();
    assert!(datagrams.iter().all(Datagrams::pass_out));
    let mut go_on = |what: &str| {
        // What comes from the host alone would not pass as a new connection.
        for datagrams in &datagrams {
            assert!(datagrams.pass_in(), "{what}");
        }
        streams.iter_mut().for_each(Connection::assert_passes);
        assert!(!connects(&emperor.netns, &net, V1, 7003), "{what}: the chain is closed as before");
    };
    go_on("at first");
    emperor.kill_router();
    go_on("after a router's death");
    let mut control = Control::open(&emperor);
    control.add(Chain::In, "deny any any tcp 9999");
    go_on("after a change");
    let mark = emperor.log.mark();
    emperor.touch("v1");
    emperor.wait_until_ready(mark, "v1");
    go_on("after a vassal's reload");
    emperor.kill_router();
    go_on("after another death");
}

/// What a rule lets pass, `new` stops for those that come later, and not for those that are there.
#[test]
fn new_rules_are_for_connections_to_come() {
    let emperor = emperor().start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut stream = Connection::open(&emperor.netns, &net, V1);
    stream.assert_passes();
    let mut control = Control::open(&emperor);
    let id = control.add(Chain::In, "deny any any tcp new");
    stream.assert_passes();
    assert!(!connects(&emperor.netns, &net, V1, 7004));
    assert!(!connects(&emperor.netns, &net, V1_6, 7004));
    assert_connects(&net, &emperor.netns, EMPEROR, 7005);
    assert!(control.rule(id).packets > 0);
}

/// A vassal's own rules have memory, too.
#[test]
fn device_rules_have_memory() {
    let emperor = emperor().start();
    let closed = vassal("v1", V1, V1_6)
        .line("tuntap-device-rule = in any any allow established")
        .line("tuntap-device-rule = in any any deny");
    let net = emperor.start_attached(&closed);
    assert_only_answers_pass(&emperor, &net);
    emperor.kill_router();
    assert_only_answers_pass(&emperor, &net);
}

/// Packets that the router switches between two vassals pass both chains, and both vassals' connections.
#[test]
fn switched_connections_have_memory() {
    let emperor = closed_emperor().line("tuntap-router-switch = true").start();
    let first = emperor.start_attached(&vassal("v1", V1, V1_6));
    let second = emperor.start_attached(&vassal("v2", V2, V2_6));
    let mut control = Control::open(&emperor);
    control.add(Chain::In, &format!("allow {V1} {V2} tcp 7006 new"));
    control.add(Chain::In, &format!("allow {V1_6} {V2_6} tcp 7006 new"));
    assert_connects(&first, &second, V2, 7006);
    assert_connects(&first, &second, V2_6, 7006);
    assert!(!connects(&second, &first, V1, 7006));
    assert!(!connects(&second, &first, V1_6, 7006));
    assert!(!connects(&first, &second, V2, 7008));
}
