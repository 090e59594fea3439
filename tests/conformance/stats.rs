//! The stats that collectors read.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;
use tuntap_api::Snapshot;

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::packet;
use crate::common::stats::Stats;
use crate::common::wait;
use crate::pairs::{Router, cases};

cases!(keys_and_byte_counts_are_those_of_c also keys_and_byte_counts_are_those_of_c_on_the_other_uwsgi, Router: c ours);
cases!(peer_without_an_address_is_listed, Router: c ours);
cases!(stats_answer_over_tcp, Router: c ours);
cases!(stats_answer_over_an_abstract_socket, Router: c ours);
cases!(stats_answer_over_http, Router: c ours);
cases!(stats_have_an_option_of_their_own, Router: c ours);
// The C plugin counts neither packets nor drops by their reason.
cases!(packets_and_drops_are_counted, Router: ours);
cases!(keys_are_those_of_the_golden_document, Router: ours);

fn keys_and_byte_counts_are_those_of_c(router: Router) {
    let emperor = router.emperor().start();
    let mut peer = emperor.peer(V1);
    peer.send_packet(&packet::udp(V1, EMPEROR, 9, &[0; 72]));
    let refused = peer.wait_for_packet(wait::SHORT, |_| true).expect("the kernel refuses the datagram");
    let stats = emperor.stats();
    assert_eq!(stats.0["version"], router.uwsgi.version());
    assert_eq!(stats.0["uid"], 0);
    assert_eq!(stats.0["gid"], 0);
    let cwd = emperor.path("").canonicalize().expect("the folder exists");
    assert_eq!(stats.0["cwd"].as_str().map(std::path::Path::new), Some(cwd.as_path()));
    let of_peer = |key| stats.of_peer(V1, key);
    assert_eq!(of_peer("addr_32"), u64::from(u32::from_ne_bytes(V1.octets())));
    // From the router's side, with the four bytes of each frame's header.
    assert_eq!(of_peer("rx"), 88 + 104);
    assert_eq!(of_peer("tx"), 88 + 4 + refused.len() as u64);
    assert_eq!(of_peer("dropped"), 0);
    // Without credentials the C router knows no user; ours knows who connected.
    let pid = if router.is_ours() { std::process::id() } else { 0 };
    assert_eq!((of_peer("uid"), of_peer("gid"), of_peer("pid")), (0, 0, u64::from(pid)));
}

fn peer_without_an_address_is_listed(router: Router) {
    let emperor = router.emperor().start();
    let _peer = emperor.connect();
    let stats = emperor.wait_for_stats("the connection is listed", |stats| stats.peers().len() == 1);
    assert_eq!(stats.peers()[0]["addr"], "");
    assert_eq!(stats.peers()[0]["addr_32"], 0);
}

fn stats_answer_over_tcp(router: Router) {
    let emperor = router.emperor().router("emperor0 {dir}/t.sock 127.0.0.1:5002").launch();
    let address = SocketAddr::from(([127, 0, 0, 1], 5002));
    let read = || Stats::read_tcp(&emperor.netns, address);
    wait::until("stats over TCP", wait::LONG, || read().ok());
    let _peer = emperor.peer(V1);
    assert!(read().expect("stats over TCP").peer(V1).is_some());
}

fn stats_answer_over_an_abstract_socket(router: Router) {
    let emperor = router.emperor().router("emperor0 {dir}/t.sock @stats").launch();
    // uWSGI binds and connects abstract names with a zero at their end.
    let read = || Stats::read_abstract(&emperor.netns, b"stats\0");
    wait::until("stats over an abstract socket", wait::LONG, || read().ok());
    let _peer = emperor.peer(V1);
    assert!(read().expect("stats over an abstract socket").peer(V1).is_some());
}

fn stats_answer_over_http(router: Router) {
    let emperor = router.emperor().stats_over_http().start();
    let (head, stats) = Stats::read_http(&emperor.path("stats.sock")).expect("stats over HTTP");
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: application/json"), "{head}");
    assert!(head.contains("Access-Control-Allow-Origin: *"), "{head}");
    assert!(stats.peers().is_empty());
}

fn stats_have_an_option_of_their_own(router: Router) {
    let emperor =
        router.emperor().router("emperor0 {dir}/t.sock").line("tuntap-router-stats = {dir}/stats.sock").start();
    assert!(emperor.stats().peers().is_empty());
}

fn packets_and_drops_are_counted(router: Router) {
    let emperor = router.emperor().start();
    let mut peer = emperor.peer(V1);
    peer.send_packet(&packet::ipv6_router_solicitation());
    peer.send_packet(&packet::udp(V2, EMPEROR, 9, b"spoofed"));
    assert!(peer.echo(V1, EMPEROR, wait::SHORT));
    let stats = emperor.stats();
    assert_eq!(stats.of_peer(V1, "tx_packets"), 2);
    assert!(stats.of_peer(V1, "rx_packets") >= 2);
    assert_eq!((stats.drops_of(V1, "invalid_source"), stats.drops("invalid_source")), (1, 1));
    assert_eq!((stats.drops_of(V1, "spoofed_source"), stats.drops("spoofed_source")), (1, 1));
    // Nobody holds the second address.
    crate::common::probe::send_udp(&emperor.netns, V2, 9, b"lost").expect("the Emperor can send");
    emperor.wait_for_stats("a packet for nobody is counted", |stats| stats.drops("no_peer") == 1);
    drop(peer);
    emperor.wait_for_stats("the router's totals outlive the peer", |stats| {
        stats.peers().is_empty() && stats.drops("invalid_source") == 1
    });
}

/// Collectors depend on each key. What a router says is what the types for readers hold.
fn keys_are_those_of_the_golden_document(router: Router) {
    const GOLDEN: &str = include_str!("../../crates/api/tests/statistics.json");
    let emperor = router
        .emperor()
        .line("tuntap-router-address = emperor0 192.168.77.1/24")
        .line("tuntap-router-port = tcp 8080 192.168.77.2:80")
        .line("tuntap-router-shape = both any 10M")
        .line("tuntap-router-shape = out uplink 50M")
        .start();
    let mut peer = emperor.connect();
    // A peer has queues from its first packet on, in each direction.
    assert!(peer.echo([192, 168, 77, 2], [192, 168, 77, 1], wait::SHORT));
    let stats = emperor.stats();
    let mut golden: Value = serde_json::from_str(GOLDEN).expect("JSON");
    // Only routers that know other hosts, or have a path in the kernel, have these.
    let sections = golden.as_object_mut().expect("an object");
    for name in ["elsewhere", "routes", "trunks", "kernel_path"] {
        sections.remove(name).expect("the document has it");
    }
    let peers = golden["peers"].as_array_mut().expect("a list").iter_mut();
    let verdicts = peers.filter_map(|peer| peer.as_object_mut().expect("an object").remove("verdicts"));
    assert!(verdicts.count() > 0, "the document has them");
    assert_eq!(keys(&stats.0), keys(&golden));
    let read = Snapshot::from_json(stats.0.to_string().as_bytes()).expect("the statistics of a router");
    let written: Value = serde_json::from_slice(&read.to_json(true)).expect("JSON");
    assert_eq!(written, stats.0);
}

/// The paths of all keys, once for all elements of an array.
fn keys(value: &Value) -> BTreeSet<String> {
    let below = |key: &str, value: &Value| -> Vec<String> {
        [key.to_owned()].into_iter().chain(keys(value).into_iter().map(|path| format!("{key}.{path}"))).collect()
    };
    match value {
        Value::Object(map) => map.iter().flat_map(|(key, value)| below(key, value)).collect(),
        Value::Array(list) => list.iter().flat_map(keys).collect(),
        _ => BTreeSet::new(),
    }
}
