//! The limits on peers, as options.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use crate::common::emperor::{EMPEROR, V1};
use crate::common::probe::pings_answered;
use crate::common::raw_peer::RawPeer;
use crate::common::stats::Stats;
use crate::common::wait;
use crate::common::wire::{ANY, Action, Direction, Rule};
use crate::watch::{A1, A2};
use crate::world::{emperor, start_attached, total};

const USER: u32 = 20_001;

fn reached(stats: &Stats, limit: &str) -> u64 {
    stats.0["limits_reached"][limit].as_u64().unwrap_or_else(|| panic!("no limit `{limit}` in {}", stats.0))
}

fn address(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 0, 100 + index)
}

#[test]
fn peers_in_all() {
    let emperor = emperor().line("tuntap-router-max-peers = 3").start();
    let honest = start_attached(&emperor, "v1", V1);
    let mut second = emperor.peer(address(2));
    let _third = emperor.peer(address(3));
    for turned_away in 1..=5 {
        assert!(emperor.connect().is_closed(wait::SHORT), "there is no room");
        let stats = emperor.stats();
        assert_eq!((reached(&stats, "max_peers"), total(&stats, "turned_away")), (turned_away, turned_away));
    }
    emperor.log.wait_for("there are 3 peers already (tuntap-router-max-peers)", wait::SHORT);
    assert!(second.echo(address(2), EMPEROR, wait::SHORT), "those who are there stay");
    drop(second);
    emperor.wait_for_stats("there is room again", |stats| stats.peers().len() == 2);
    assert!(emperor.peer(address(4)).echo(address(4), EMPEROR, wait::SHORT));
    assert_eq!(pings_answered(&honest, EMPEROR, 5, &[]), 5);
    assert_eq!(total(&emperor.stats(), "faults"), 0);
}

#[test]
fn peers_of_a_user() {
    let emperor = emperor().lines(&["tuntap-router-max-peers-per-uid = 2", "chmod-socket = 666"]).start();
    let of_user = |user: u32, index: u8| {
        let mut peer = emperor.connect_as(user);
        peer.echo(address(index), EMPEROR, wait::SHORT).then_some(peer)
    };
    let first = of_user(USER, 1).expect("the first of two");
    let _second = of_user(USER, 2).expect("the second of two");
    assert!(emperor.connect_as(USER).is_closed(wait::SHORT), "the third of two");
    assert_eq!(reached(&emperor.stats(), "max_peers_per_uid"), 1);
    emperor.log.wait_for("this user has 2 peers already (tuntap-router-max-peers-per-uid)", wait::SHORT);
    let _other = of_user(USER + 1, 3).expect("another user has his own places");
    let _of_root: Vec<RawPeer> = (4..9).map(|index| of_user(0, index).expect("root has no limit")).collect();
    drop(first);
    emperor.wait_for_stats("the first is gone", |stats| stats.peer(address(1)).is_none());
    let _third = of_user(USER, 1).expect("there is a place again");
    assert!(emperor.connect_as(USER).is_closed(wait::SHORT));
    assert_eq!(reached(&emperor.stats(), "max_peers_per_uid"), 2);
}

#[test]
fn peers_of_a_user_who_is_shown_later() {
    let emperor = emperor()
        .lines(&["tuntap-router-max-peers-per-uid = 2", "tuntap-use-credentials = true", "chmod-socket = 666"])
        .start();
    let shown = |index: u8| {
        let mut peer = emperor.connect();
        peer.send_credentials(USER, USER);
        peer.echo(address(index), EMPEROR, wait::SHORT).then_some(peer)
    };
    let first = shown(1).expect("the first of two");
    let _second = shown(2).expect("the second of two");
    let mut third = emperor.connect();
    third.send_credentials(USER, USER);
    assert!(third.is_closed(wait::SHORT), "the third of two");
    assert!(emperor.connect_as(USER).is_closed(wait::SHORT), "nor without credentials");
    assert_eq!(reached(&emperor.stats(), "max_peers_per_uid"), 2);
    emperor.log.wait_for("it showed the credentials of uid 20001: this user has 2 peers already", wait::SHORT);
    drop(first);
    emperor.wait_for_stats("the first is gone", |stats| stats.peer(address(1)).is_none());
    let _third = shown(1).expect("there is a place again");
}

#[test]
fn peers_of_a_user_without_a_limit() {
    let emperor = emperor().lines(&["tuntap-router-max-peers-per-uid = 0", "chmod-socket = 666"]).start();
    let _peers: Vec<RawPeer> = (0..100).map(|_| emperor.connect_as(USER)).collect();
    let stats = emperor.wait_for_stats("all are accepted", |stats| stats.peers().len() == 100);
    assert_eq!(reached(&stats, "max_peers_per_uid"), 0);
}

/// No connection is closed without need. Where there is need, the oldest one is closed, and only if it is old enough.
#[test]
fn connections_without_an_address() {
    const TIMEOUT: Duration = Duration::from_secs(5);
    let emperor = emperor().lines(&["tuntap-router-max-unclaimed = 3", "tuntap-router-unclaimed-timeout = 5"]).start();
    let idle = || {
        let peers = emperor.stats().peers().len();
        let peer = emperor.connect();
        emperor.wait_for_stats("it is accepted", |stats| stats.peers().len() == peers + 1);
        peer
    };
    let (mut first, mut second, mut third) = (idle(), idle(), idle());
    assert!(emperor.connect().is_closed(wait::SHORT), "none of them is old enough");
    let stats = emperor.stats();
    assert_eq!((reached(&stats, "max_unclaimed"), reached(&stats, "unclaimed_timeout")), (1, 0));
    emperor.log.wait_for("3 peers have no address yet (tuntap-router-max-unclaimed)", wait::SHORT);
    sleep(TIMEOUT);
    for peer in [&mut first, &mut second, &mut third] {
        assert!(!peer.is_closed(Duration::from_millis(100)), "nobody needs their room");
    }
    let mut fourth = emperor.peer(address(4));
    assert!(first.is_closed(wait::SHORT), "the oldest made room");
    assert!(!second.is_closed(Duration::from_millis(100)), "and no other");
    let stats = emperor.stats();
    assert_eq!((reached(&stats, "max_unclaimed"), reached(&stats, "unclaimed_timeout")), (1, 1));
    assert_eq!(total(&stats, "faults"), 0, "it did nothing wrong");
    emperor.log.wait_for("it made room for another connection", wait::SHORT);
    assert!(second.echo(address(2), EMPEROR, wait::SHORT), "however late, one may claim");
    for index in 5..30 {
        assert!(emperor.peer(address(index)).echo(address(index), EMPEROR, wait::SHORT), "others come and go");
    }
    assert!(!third.is_closed(Duration::from_millis(100)));
    assert!(fourth.echo(address(4), EMPEROR, wait::SHORT));
}

/// A few idle connections don't keep everybody else out for ever.
#[test]
fn idle_connections_make_room_among_all_peers() {
    let emperor = emperor().lines(&["tuntap-router-max-peers = 3", "tuntap-router-unclaimed-timeout = 1"]).start();
    let mut idle: Vec<RawPeer> = (0..3).map(|_| emperor.connect()).collect();
    emperor.wait_for_stats("they are accepted", |stats| stats.peers().len() == 3);
    let mut late = wait::until("an idle one makes room", wait::LONG, || {
        let mut late = emperor.connect();
        late.echo(A1, EMPEROR, wait::SHORT).then_some(late)
    });
    assert!(idle[0].is_closed(wait::SHORT));
    assert!(late.echo(A1, EMPEROR, wait::SHORT));
}

#[test]
fn queue_takes_as_much_as_it_may() {
    for limit in [131_072, 1_000_000] {
        let emperor = emperor().line(format!("tuntap-router-max-queue = {limit}")).start();
        let _deaf = emperor.peer(A1);
        let sender = emperor.netns.run(|| UdpSocket::bind((EMPEROR, 0))).expect("the Emperor has its address");
        wait::until("the queue is full", wait::LONG, || {
            for _ in 0..100 {
                sender.send_to(&[0x5a; 1000], (A1, 9)).expect("the Emperor can send");
            }
            let stats = emperor.stats();
            let queued = stats.of_peer(A1, "queued");
            assert!(queued <= limit, "{queued} bytes are queued, {limit} may be");
            (queued + 1032 > limit && stats.drops_of(A1, "queue_full") > 0).then_some(())
        });
        let mut other = emperor.peer(A2);
        assert!(other.echo(A2, EMPEROR, wait::SHORT));
    }
}

#[test]
fn peer_with_too_many_rules_is_ended() {
    let rule = Rule { direction: Direction::Out, source: ANY, destination: ANY, action: Action::Allow };
    for (line, limit) in [("tuntap-router-max-device-rules = 10", 10), ("tuntap-router-max-device-rules = 340", 340)] {
        let emperor = emperor().line(line).start();
        let mut peer = emperor.connect();
        peer.send_rules(&vec![rule; limit]);
        assert!(peer.echo(A1, EMPEROR, wait::SHORT), "{limit} rules are allowed");
        peer.send_rules(&vec![rule; limit + 1]);
        assert!(peer.is_closed(wait::SHORT), "one more is not");
        let text = format!("it sent {} rules, {limit} are allowed (tuntap-router-max-device-rules)", limit + 1);
        emperor.log.wait_for(&text, wait::SHORT);
        let stats = emperor.stats();
        assert_eq!((reached(&stats, "max_device_rules"), total(&stats, "faults")), (1, 1));
    }
}

#[test]
fn values_out_of_bounds_stop_the_start() {
    let mut emperor = emperor().lines(&["tuntap-router-max-queue = 1k", "tuntap-router-max-peers = 0"]).launch();
    assert!(!emperor.wait_for_exit().success());
    for line in [
        "tuntap-router-max-queue = 1k: \"1k\" is no number from 131072 to 16777216",
        "tuntap-router-max-peers = 0: \"0\" is no number from 1 to 65536",
    ] {
        assert!(emperor.log.text().contains(line), "{}", emperor.log.text());
    }
}
