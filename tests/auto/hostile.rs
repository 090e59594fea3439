//! Peers that send hostile configuration and claim requests.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::emperor::{EMPEROR, Emperor, V1, V2};
use crate::common::packet;
use crate::common::raw_peer::RawPeer;
use crate::common::wait;
use crate::common::wire::{self, ASK, CONFIGURATION};
use crate::world::{Vassal, emperor, pings};

const HELLO: u8 = 0x74;
const CLAIM: u8 = 0x78;

const V4: u8 = 1;
const NOTHING: u8 = 0;

fn ask(flags: u8, name: u64) -> Vec<u8> {
    [&[1, flags, 0, 0][..], &name.to_le_bytes()].concat()
}

fn send(peer: &mut RawPeer, kind: u8, payload: &[u8]) {
    peer.send_bytes(&wire::frame(kind, payload));
}

fn claim(peer: &mut RawPeer, claim: &Value) {
    send(peer, CLAIM, claim.to_string().as_bytes());
}

/// The router's next answer.
fn told(peer: &mut RawPeer) -> Option<Value> {
    let frame = peer.next_frame(wait::SHORT)?;
    assert_eq!(frame.modifier2, CONFIGURATION);
    Some(serde_json::from_slice(&frame.payload).expect("JSON"))
}

fn asked(emperor: &Emperor, name: u64) -> (RawPeer, Value) {
    let mut peer = emperor.connect();
    send(&mut peer, ASK, &ask(V4, name));
    let answer = told(&mut peer).expect("an answer");
    (peer, answer)
}

fn address(answer: &Value) -> Ipv4Addr {
    let word = answer["addresses"][0].as_str().unwrap_or_else(|| panic!("{answer}"));
    word.strip_suffix("/24").and_then(|word| word.parse().ok()).expect("an address")
}

#[track_caller]
fn assert_dropped(emperor: &Emperor, count: u64) {
    emperor.wait_for_stats("frames are dropped", |stats| stats.drops("unknown_frame") == count);
}

#[test]
fn answer_is_what_the_protocol_says() {
    let emperor = emperor().line("tuntap-router-dns = 192.0.2.53").start();
    let (mut peer, answer) = asked(&emperor, 1);
    let own = address(&answer);
    let mut expected = answer.clone();
    expected["host_etc"] = json!([]);
    let wanted = json!({
        "version": 1, "addresses": [format!("{own}/24")], "gateways": ["192.168.0.1"], "mtu": 1500,
        "dns": ["192.0.2.53"], "refused": [], "host_etc": [],
    });
    assert_eq!(expected, wanted);
    assert!(!answer["host_etc"].as_array().expect("a list").is_empty());
    assert!(peer.echo(own, EMPEROR, wait::SHORT));
    assert!(!peer.echo(V1, EMPEROR, Duration::from_millis(300)), "it has its lease and no other address");
    assert_eq!(emperor.stats().drops("spoofed_source"), 1);
    let totals = &emperor.stats().0["totals"];
    assert_eq!(totals["claims"], 1);
}

#[test]
fn who_asks_again_gets_the_same_and_nothing_else() {
    let emperor = emperor().start();
    let (mut peer, first) = asked(&emperor, 1);
    for name in [1, 2] {
        send(&mut peer, ASK, &ask(V4, name));
        assert_eq!(told(&mut peer).expect("an answer"), first);
    }
    assert_eq!(emperor.stats().peers().len(), 1);
    assert_eq!(emperor.stats().0["totals"]["claims"], 1);
}

#[test]
fn flood_of_questions_is_dropped() {
    let emperor = emperor().start();
    let mut peer = emperor.connect();
    let flood: Vec<u8> = (0..5000).flat_map(|name| wire::frame(ASK, &ask(V4, name))).collect();
    peer.send_bytes(&flood);
    assert_dropped(&emperor, 5000 - 8);
    let answers = std::iter::from_fn(|| peer.next_frame(Duration::from_millis(300))).count();
    assert_eq!(answers, 8);
    assert!(asked(&emperor, 77).1["addresses"][0].is_string(), "others are served");
}

#[test]
fn garbage_is_dropped_and_disturbs_nobody() {
    let emperor = emperor().start();
    let net = Vassal::auto(&emperor, "app").start(&emperor);
    let mut peer = emperor.connect();
    let other_version = [&[2, V4, 0, 0][..], &[0; 8]].concat();
    for payload in [&b"\x01"[..], &[0xff; 19], &[0; 8000], &other_version] {
        send(&mut peer, ASK, payload);
    }
    assert_dropped(&emperor, 4);
    send(&mut peer, CLAIM, br#"{"version":1,"addresses":[{"address":"192.168.0.9"}]}"#);
    assert_dropped(&emperor, 5);
    let (mut peer, answer) = asked(&emperor, 5);
    for text in [
        "",
        "{",
        "[]",
        "null",
        "{\"version\":2,\"addresses\":[]}",
        "{\"version\":1}",
        "{\"version\":1,\"addresses\":[{\"address\":\"127.0.0.1\"}]}",
    ] {
        if !text.is_empty() {
            send(&mut peer, CLAIM, text.as_bytes());
        }
    }
    assert_dropped(&emperor, 11);
    // JSON that is nested deeper than a stack could take.
    send(&mut peer, CLAIM, "[".repeat(8000).as_bytes());
    assert_dropped(&emperor, 12);
    assert!(peer.echo(address(&answer), EMPEROR, wait::SHORT), "the peer itself lives");
    assert!(pings(&net, EMPEROR));
}

#[test]
fn nobody_claims_what_is_not_his() {
    let emperor = emperor().line("tuntap-router-lease = 192.168.0.77 30001").start();
    let (mut holder, held) = asked(&emperor, 1);
    let held = address(&held);
    let mut thief = emperor.connect();
    send(&mut thief, ASK, &ask(NOTHING, 1));
    assert_eq!(told(&mut thief).expect("an answer")["addresses"], json!([]));
    let wishes = [
        (held.to_string(), true, "another peer holds it"),
        (held.to_string(), false, "it is not leased to this peer"),
        ("192.168.0.77".to_owned(), true, "it is not leased to this peer"),
        ("192.168.0.1".to_owned(), true, "it is the router's own"),
        ("192.168.0.255".to_owned(), true, "it is not leased to this peer"),
        ("8.8.8.8".to_owned(), true, "it is not leased to this peer"),
    ];
    let list: Vec<_> =
        wishes.iter().map(|(address, leased, _)| json!({"address": address, "leased": leased})).collect();
    claim(&mut thief, &json!({"version": 1, "addresses": list, "of": "a later version"}));
    let answer = told(&mut thief).expect("an answer");
    assert_eq!(answer["addresses"], json!([]));
    let refused = answer["refused"].as_array().expect("a list");
    for ((address, _, reason), refusal) in wishes.iter().zip(refused) {
        assert_eq!(refusal["wish"], *address);
        assert!(refusal["reason"].as_str().expect("text").starts_with(reason), "{refusal}");
    }
    assert!(holder.echo(held, EMPEROR, wait::SHORT));
    assert!(!thief.echo(V2, EMPEROR, Duration::from_millis(300)));
}

/// A router that assigns addresses still obeys its own chain: an address that packets could not claim can't be claimed
/// by a message either.
#[test]
fn chain_holds_for_claims_by_name() {
    let emperor = emperor()
        .lines(&[
            "tuntap-router-firewall-out = deny 192.168.0.2 192.168.0.1",
            "tuntap-router-firewall-out = allow 192.168.0.0/24 0.0.0.0",
            "tuntap-router-firewall-out = deny",
        ])
        .start();
    let mut peer = emperor.connect();
    send(&mut peer, ASK, &ask(NOTHING, 1));
    told(&mut peer).expect("an answer");
    claim(&mut peer, &json!({"version": 1, "addresses": [{"address": "203.0.113.10"}]}));
    let answer = told(&mut peer).expect("an answer");
    assert_eq!(answer["refused"][0]["reason"], "the router lets nothing pass from it (tuntap-router-firewall-out)");
    claim(&mut peer, &json!({"version": 1, "addresses": [{"address": "192.168.0.2"}]}));
    assert_eq!(told(&mut peer).expect("an answer")["addresses"], json!(["192.168.0.2/24"]), "some of it passes");
}

#[test]
fn question_after_packets_or_hello_comes_too_late() {
    let emperor = emperor().start();
    let mut sender = emperor.peer(V1);
    send(&mut sender, ASK, &ask(V4, 1));
    assert_dropped(&emperor, 1);
    let mut greeter = emperor.connect();
    send(&mut greeter, HELLO, &[1, 10, 0, 0, 0, 0, 0, 0]);
    greeter.next_frame(wait::SHORT).expect("an answer");
    send(&mut greeter, ASK, &ask(V4, 1));
    claim(&mut greeter, &json!({"version": 1, "addresses": [{"address": "192.168.0.9"}]}));
    assert_dropped(&emperor, 3);
    assert!(sender.echo(V1, EMPEROR, wait::SHORT) && greeter.echo(V2, EMPEROR, wait::SHORT));
}

#[test]
fn address_of_a_peer_that_left_is_kept_for_it() {
    let emperor = emperor().start();
    let (first, answer) = asked(&emperor, 1);
    drop(first);
    emperor.wait_for_stats("it has left", |stats| stats.peers().is_empty());
    // A vassal that chooses its own name could aim at an address, if the router did not remember whose it was.
    let others: Vec<_> = (2..245).map(|name| asked(&emperor, name)).collect();
    assert!(others.iter().all(|(_, other)| address(other) != address(&answer)));
    assert_eq!(asked(&emperor, 1).1, answer);
}

#[test]
fn packets_still_claim_without_a_question() {
    let emperor = emperor().start();
    let mut peer = emperor.connect();
    peer.send_packet(&packet::echo_request(V1, EMPEROR, 1, 84));
    emperor.wait_for_stats("it has its address", |stats| stats.peer(V1).is_some());
    assert!(peer.echo(V1, EMPEROR, wait::SHORT));
}
