//! Vassals that lose their router, with or without another one at the same place.

use std::time::Duration;

use crate::common::emperor::{EMPEROR, V1};
use crate::common::packet;
use crate::common::processes::is_alive;
use crate::common::wait;
use crate::world::{HELLO, emperor, open_to_all, vassal_of_fake};

#[test]
fn vassal_comes_back_to_a_router_that_was_away() {
    let emperor = emperor().start();
    let socket = emperor.path("fake.sock");
    let router = open_to_all(&socket);
    let rule = "tuntap-device-rule = out 192.168.0.2 203.0.113.0/24 deny";
    emperor.add(&vassal_of_fake(V1).line(rule));
    let mut peer = router.accept(wait::LONG);
    emperor.log.wait_for("vassal v1.ini is ready to accept requests", wait::LONG);
    let pid = emperor.vassal_pid("v1").expect("the vassal runs");
    for round in 0..3 {
        let mark = emperor.log.mark();
        drop((peer, router_gone(&socket)));
        emperor.log.wait_for_since(mark, "the router has closed the connection; looking for it", wait::SHORT);
        emperor.log.wait_for_since(mark, "can't reach the router at", wait::SHORT);
        let router = open_to_all(&socket);
        peer = router.accept(wait::LONG);
        let hello = peer.next_frame(wait::SHORT).expect("a first frame");
        assert_eq!(hello.modifier2, HELLO, "round {round}");
        let rules = peer.next_frame(wait::SHORT).expect("a second frame");
        assert_eq!(rules.payload.len(), 24, "it tells its rules again");
        peer.send_packet(&packet::echo_request(EMPEROR, V1, 7, 84));
        let reply = peer.wait_for_packet(wait::SHORT, |reply| packet::echo_reply_sequence(reply) == Some(7));
        assert!(reply.is_some(), "packets pass again");
        emperor.log.wait_for_since(mark, "joined the router at", wait::SHORT);
        drop(router);
    }
    assert!(is_alive(pid), "the vassal never ended");
}

fn router_gone(socket: &std::path::Path) {
    std::fs::remove_file(socket).expect("own file");
}

#[test]
fn attempts_are_spaced_out() {
    let emperor = emperor().start();
    let router = open_to_all(&emperor.path("fake.sock"));
    emperor.add(&vassal_of_fake(V1));
    let begin = std::time::Instant::now();
    let mut connections = 0;
    while begin.elapsed() < Duration::from_secs(6) {
        // A router that ends each connection at once.
        drop(router.accept(wait::LONG));
        connections += 1;
    }
    assert!(connections < 15, "{connections} connections in six seconds");
}

/// Only a fresh start gives the vassal back the privileges that it connected with.
#[test]
fn vassal_that_may_not_connect_any_more_is_started_anew() {
    let emperor = emperor().start();
    let socket = emperor.path("fake.sock");
    let router = crate::common::fake_router::FakeRouter::bind(&socket);
    emperor.add(&vassal_of_fake(V1));
    let peer = router.accept(wait::LONG);
    emperor.log.wait_for("vassal v1.ini is ready to accept requests", wait::LONG);
    let pid = emperor.vassal_pid("v1").expect("the vassal runs");
    drop(peer);
    emperor.log.wait_for("may not connect to", wait::LONG);
    wait::until_true("the vassal ended", wait::LONG, || !is_alive(pid));
    assert_eq!(router.accept(wait::LONG).next_frame(wait::SHORT).expect("a first frame").modifier2, HELLO);
}

#[test]
fn vassal_that_needs_its_router_ends_with_it() {
    let emperor = emperor().start();
    let router = open_to_all(&emperor.path("fake.sock"));
    emperor.add(&vassal_of_fake(V1).line("tuntap-device-required = true"));
    let peer = router.accept(wait::LONG);
    emperor.log.wait_for("vassal v1.ini is ready to accept requests", wait::LONG);
    let pid = emperor.vassal_pid("v1").expect("the vassal runs");
    drop(peer);
    emperor.log.wait_for("the router has closed the connection; this instance ends", wait::LONG);
    wait::until_true("the vassal ended", wait::LONG, || !is_alive(pid));
}

/// Behind a chroot(2) the socket has no name any more.
#[test]
fn vassal_whose_jail_hides_the_router_is_started_anew() {
    let emperor = emperor().start();
    let router = open_to_all(&emperor.path("fake.sock"));
    let jail = emperor.path("jail");
    std::fs::create_dir(&jail).expect("own folder");
    // The same files but for the test's folder. The mounts end with the Emperor's mount namespace.
    let hidden = "exec-pre-jail = mount --rbind / {dir}/jail && mount -t tmpfs none {dir}/jail{dir}";
    emperor.add(&vassal_of_fake(V1).line(hidden).line("chroot = {dir}/jail"));
    let peer = router.accept(wait::LONG);
    emperor.log.wait_for("vassal v1.ini is ready to accept requests", wait::LONG);
    let pid = emperor.vassal_pid("v1").expect("the vassal runs");
    drop(peer);
    emperor.log.wait_for("is not visible from this jail; this instance ends", wait::LONG);
    wait::until_true("the vassal ended", wait::LONG, || !is_alive(pid));
}

/// The vassal's reload finds its device without a router, and goes on looking for one.
#[test]
fn vassal_reloads_while_its_router_is_away() {
    let emperor = emperor().start();
    let socket = emperor.path("fake.sock");
    let router = open_to_all(&socket);
    emperor.add(&vassal_of_fake(V1));
    let peer = router.accept(wait::LONG);
    emperor.log.wait_for("vassal v1.ini is ready to accept requests", wait::LONG);
    let pid = emperor.vassal_pid("v1");
    router_gone(&socket);
    drop((peer, router));
    emperor.log.wait_for("looking for it", wait::SHORT);
    let mark = emperor.log.mark();
    emperor.touch("v1");
    emperor.wait_until_ready(mark, "v1");
    let router = open_to_all(&socket);
    assert_eq!(router.accept(wait::LONG).next_frame(wait::SHORT).expect("a first frame").modifier2, HELLO);
    assert_eq!(emperor.vassal_pid("v1"), pid, "it was a reload, not a new start");
}
