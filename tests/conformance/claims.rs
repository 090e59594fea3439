//! Claims: who may use an address.

use std::net::Ipv4Addr;

use crate::common::capture::Capture;
use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::packet;
use crate::common::probe::{is_cut_off, is_reachable, pings_answered};
use crate::common::processes::{descriptors, freeze, is_alive, thaw};
use crate::common::uwsgi::Subject;
use crate::common::wait;
use crate::pairs::{Pair, Router, cases};

cases!(address_belongs_to_its_first_holder, Router: c ours);
cases!(dead_holder_does_not_block_its_successor, Router: c ours);
cases!(spoofed_source_does_not_pass, Router: c ours);
cases!(source_zero_claims_nothing, Router: c ours);
cases!(vassal_is_not_driven_out_by_one_with_its_address, Pair: c_c c_ours ours_c ours_ours);
cases!(address_is_free_when_its_holder_hangs_up, Router: c ours);

fn address_belongs_to_its_first_holder(router: Router) {
    let emperor = router.emperor().start();
    let mut holder = emperor.peer(V1);
    let mut newcomer = emperor.connect();
    let newcomer_is_served = newcomer.echo(V1, EMPEROR, wait::SHORT);
    if router.is_ours() {
        assert!(!newcomer_is_served, "the address is taken");
        assert!(holder.echo(V1, EMPEROR, wait::SHORT), "the holder keeps it");
        assert!(emperor.stats().drops("address_held") >= 1, "refused packets are counted: {}", emperor.stats().0);
        drop(holder);
        assert!(newcomer.echo(V1, EMPEROR, wait::SHORT), "the newcomer's next packet takes the free address");
    } else {
        // The C router gives the address to whoever asked last and ends the holder.
        assert!(newcomer_is_served);
        assert!(holder.is_closed(wait::SHORT));
    }
}

fn dead_holder_does_not_block_its_successor(router: Router) {
    let emperor = router.emperor().start();
    let holder = emperor.peer(V1);
    let mut successor = emperor.connect();
    assert!(emperor.stats().peers().len() == 2, "both are known before the router stands still");
    let pid = emperor.router_pid();
    freeze(pid);
    // The successor's packet is ready before the holder's end, so the router sees it first.
    successor.send_packet(&packet::echo_request(V1, EMPEROR, 900, 84));
    drop(holder);
    thaw(pid);
    let reply = successor.wait_for_packet(wait::SHORT, |reply| packet::echo_reply_sequence(reply) == Some(900));
    assert!(reply.is_some(), "the very first packet of the successor passes");
}

fn spoofed_source_does_not_pass(router: Router) {
    let stranger = Ipv4Addr::new(10, 9, 9, 9);
    let emperor = router.emperor().start();
    let mut other = emperor.peer(V2);
    let mut spoofer = emperor.peer(V1);
    let capture = Capture::received_on(&emperor.netns, "emperor0");
    for source in [stranger, V2, Ipv4Addr::new(192, 168, 0, 77)] {
        spoofer.send_packet(&packet::udp(source, EMPEROR, 9, b"spoofed"));
    }
    spoofer.send_packet(&packet::udp(V1, EMPEROR, 9, b"honest"));
    let before = capture.until(wait::SHORT, |packet| packet.ends_with(b"honest"));
    if router.is_ours() {
        assert!(before.is_empty(), "nothing passes under a foreign address: {before:x?}");
        assert_eq!(emperor.stats().drops_of(V1, "spoofed_source"), 3);
    } else {
        // The C router checks the source of the first packet only.
        assert_eq!(before.len(), 3);
    }
    assert!(other.echo(V2, EMPEROR, wait::SHORT), "the owner of the borrowed address is not disturbed");
}

fn source_zero_claims_nothing(router: Router) {
    let emperor = router.emperor().start();
    let mut peer = emperor.connect();
    peer.send_packet(&packet::udp(Ipv4Addr::UNSPECIFIED, EMPEROR, 9, b"nobody"));
    if router.is_ours() {
        assert!(peer.echo(V1, EMPEROR, wait::SHORT), "the peer still gets an address of its own");
        assert_eq!(emperor.stats().drops("invalid_source"), 1);
    } else {
        assert!(peer.is_closed(wait::SHORT), "the C router ends the peer");
    }
}

fn vassal_is_not_driven_out_by_one_with_its_address(pair: Pair) {
    let emperor = pair.emperor().start();
    let holder = emperor.start_vassal(&pair.vassal("v1", V1));
    let pid = emperor.vassal_pid("v1").expect("the vassal runs");
    let rival = pair.vassal("v2", V1).without_ping();
    if pair.router == Subject::C {
        let net = emperor.start_vassal(&rival);
        is_reachable(&net, EMPEROR);
        wait::until_true("the holder ends with its connection", wait::LONG, || !is_alive(pid));
        return;
    }
    let rival = emperor.start_vassal(&rival);
    assert!(is_cut_off(&rival, EMPEROR));
    assert_eq!(pings_answered(&holder, EMPEROR, 5, &[]), 5);
    std::fs::remove_file(emperor.path("vassals/v1.ini")).expect("own folder");
    wait::until_true("the rival has the address once it is free", wait::LONG, || is_reachable(&rival, EMPEROR));
}

fn address_is_free_when_its_holder_hangs_up(router: Router) {
    let emperor = router.emperor().start();
    let pid = emperor.router_pid();
    let before = descriptors(pid).len();
    for _ in 0..200 {
        drop(emperor.peer(V1));
    }
    emperor.wait_for_stats("the last holder leaves the stats", |stats| stats.peers().is_empty());
    assert_eq!(descriptors(pid).len(), before);
}
