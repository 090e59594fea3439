use std::net::{Ipv4Addr, SocketAddrV4};

use crate::common::http;
use crate::common::netns::Netns;
use crate::common::stats::Stats;
use crate::example::{Example, wait_for_answer};

const APP: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
const ENDPOINT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5002);

#[test]
fn counters_over_http() {
    let (host, example) = (Netns::new(), Example::copy("stats"));
    let emperor = example.start(&host, "emperor.ini");
    wait_for_answer(&host, APP, 20001);
    emperor.assert_all_mapped(&example.plugin());
    let response = http::get(&host, ENDPOINT).expect("the endpoint answers");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.0 200 "), "{head}");
    assert_has_the_vassal(&Stats(serde_json::from_str(body).expect("JSON")));
}

#[test]
fn counters_over_bare_tcp() {
    let (host, example) = (Netns::new(), Example::copy("stats"));
    example.replace("emperor.ini", "stats-http = true", "");
    let _emperor = example.start(&host, "emperor.ini");
    wait_for_answer(&host, APP, 20001);
    assert_has_the_vassal(&Stats::read_tcp(&host, ENDPOINT.into()).expect("the endpoint answers"));
}

#[track_caller]
fn assert_has_the_vassal(stats: &Stats) {
    assert_eq!(stats.peers().len(), 1);
    assert!(stats.of_peer(APP, "rx") > 0 && stats.of_peer(APP, "tx") > 0, "{}", stats.0);
}
