//! Limits on the number of answers.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::common::emperor::{EMPEROR, Emperor, V2};
use crate::common::packet;
use crate::common::raw_peer::RawPeer;
use crate::common::uwsgi::Uwsgi;
use crate::common::wait;
use crate::world::{assert_refused, start};

/// Answers for one peer: a burst of 10, and 20 a second.
const BURST: u64 = 10;
const PER_SECOND: u64 = 20;

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// A chain that says nothing about IPv6 would deny it.
const RULES: [&str; 2] =
    ["tuntap-router-firewall-out = reject any 203.0.113.0/24", "tuntap-router-firewall-out = allow any ::/0"];

fn flood(peer: &mut RawPeer, count: usize) {
    for _ in 0..count {
        peer.send_packet(&packet::udp(V2, OUTSIDE, 9, b"flood"));
    }
}

fn rejections(emperor: &Emperor) -> u64 {
    emperor.stats().0["totals"]["rejections"].as_u64().expect("a number")
}

#[test]
fn flood_gets_few_answers_and_others_get_theirs() {
    let (emperor, vassal) = start(Uwsgi::usual(), &RULES);
    let mut peer = emperor.peer(V2);
    let started = Instant::now();
    flood(&mut peer, 5000);
    emperor.wait_for_stats("all are counted", |stats| stats.drops_of(V2, "firewall") == 5000);
    let seconds = started.elapsed().as_secs() + 1;
    let answers = rejections(&emperor);
    assert!((BURST..=BURST + PER_SECOND * seconds).contains(&answers), "{answers} answers in {seconds} s");
    assert_refused(&vassal, OUTSIDE, 80);
    assert!(peer.echo(V2, EMPEROR, wait::SHORT), "and what is allowed passes");
}

/// Packets to addresses that nobody holds get as few answers, although they come back from the kernel.
#[test]
fn flood_to_nobody_gets_few_answers_and_others_get_theirs() {
    let rules = [
        "tuntap-router-address = 192.168.0.1/24",
        "tuntap-router-address = fd00:77::1/64",
        "tuntap-router-firewall-in = reject any 192.168.0.128/25",
        "tuntap-router-firewall-in = allow",
    ];
    let (emperor, vassal) = start(Uwsgi::usual(), &rules);
    let nobody = Ipv4Addr::new(192, 168, 0, 200);
    let mut peer = emperor.peer(V2);
    let started = Instant::now();
    for _ in 0..2000 {
        peer.send_packet(&packet::udp(V2, nobody, 9, b"flood"));
    }
    emperor.wait_for_stats("they come back", |stats| stats.drops("firewall") >= 1000);
    let seconds = started.elapsed().as_secs() + 1;
    let answers = rejections(&emperor);
    assert!((BURST..=BURST + PER_SECOND * seconds).contains(&answers), "{answers} answers in {seconds} s");
    assert_refused(&vassal, nobody, 80);
    assert_refused(&emperor.netns, nobody, 80);
}

#[test]
fn answers_come_again_after_a_pause() {
    let (emperor, _vassal) = start(Uwsgi::usual(), &RULES);
    let mut peer = emperor.peer(V2);
    flood(&mut peer, 1000);
    emperor.wait_for_stats("all are counted", |stats| stats.drops_of(V2, "firewall") == 1000);
    let before = rejections(&emperor);
    std::thread::sleep(Duration::from_millis(500));
    flood(&mut peer, 1);
    emperor.wait_for_stats("the last one is answered", |_| rejections(&emperor) == before + 1);
}

#[test]
fn nothing_is_said_about_resets_and_errors() {
    let (emperor, _vassal) = start(Uwsgi::usual(), &RULES);
    let mut peer = emperor.peer(V2);
    let mut reset = vec![0, 1, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x04, 0, 0, 0, 0, 0, 0];
    peer.send_packet(&packet::ipv4(V2, OUTSIDE, 6, &reset));
    peer.send_packet(&packet::ipv4(V2, OUTSIDE, packet::ICMP, &[3, 1, 0, 0, 0, 0, 0, 0]));
    emperor.wait_for_stats("both are dropped", |stats| stats.drops_of(V2, "firewall") == 2);
    assert_eq!(rejections(&emperor), 0);
    reset[13] = 0x02;
    peer.send_packet(&packet::ipv4(V2, OUTSIDE, 6, &reset));
    emperor.wait_for_stats("a SYN is answered", |_| rejections(&emperor) == 1);
}
