//! Very many connections, very short ones, and more than there are descriptors for.

use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::Duration;

use crate::common::emperor::{EMPEROR, Emperor};
use crate::common::packet;
use crate::common::processes::{cpu_time, descriptors, limit_descriptors};
use crate::common::raw_peer::RawPeer;
use crate::common::wait;
use crate::common::wire;
use crate::hello::{HELLO, hello};
use crate::watch::{A1, MANY_LINES, Watch};
use crate::world::{emperor, total};

const IDLE: usize = 5000;

#[test]
fn thousands_of_idle_connections() {
    let mut watch = Watch::start_with(emperor().line("tuntap-router-max-unclaimed = 10000"));
    watch.endure("idle connections", |watch| {
        let emperor = &watch.emperor;
        let _idle: Vec<RawPeer> = (0..IDLE).map(|_| emperor.connect()).collect();
        wait::until_true("all are accepted", wait::LONG, || {
            emperor.try_stats().is_ok_and(|stats| stats.peers().len() == IDLE + 2)
        });
        watch.assert_conversation("beside idle connections");
        assert!(emperor.peer(A1).echo(A1, EMPEROR, wait::SHORT), "another one comes and goes");
    });
}

#[test]
fn connections_that_come_and_go() {
    const ROUNDS: usize = 5000;
    let mut watch = Watch::start();
    watch.endure("short connections", |watch| {
        let emperor = &watch.emperor;
        let before = total(&emperor.stats(), "accepted");
        let header = wire::header(HELLO, 8);
        // Nothing, half of a header, half of the credentials, a header alone.
        let starts = [&b""[..], &header[..2], &wire::CREDENTIALS[..5], &header[..]];
        for round in 0..ROUNDS {
            let _ = emperor.connect().try_send_bytes(starts[round % starts.len()]);
        }
        let after =
            emperor.wait_for_stats("all have been seen", |stats| total(stats, "accepted") >= before + ROUNDS as u64);
        assert_eq!(total(&after, "turned_away"), 0);
    });
}

#[test]
fn claims_that_come_and_go() {
    const ROUNDS: u64 = 1000;
    let mut watch = Watch::start().allowing_lines(MANY_LINES);
    watch.endure("short claims", |watch| {
        let emperor = &watch.emperor;
        let before = total(&emperor.stats(), "claims");
        let claim = wire::frame(wire::PACKET, &packet::udp(A1, EMPEROR, 9, b"mine"));
        for _ in 0..ROUNDS {
            emperor.connect().send_bytes(&claim);
        }
        // The router may read some of them only after their successors: those claims then belong to dead holders.
        emperor.wait_for_stats("they have been read", |stats| total(stats, "claims") >= before + ROUNDS);
    });
}

/// The process has no descriptor left for connections, for what comes with a hello, and for clients of the statistics.
#[test]
fn descriptors_that_run_out() {
    const SECONDS: u32 = 3;
    let mut watch = Watch::start();
    let router = watch.router();
    watch.endure("no descriptors", |watch| {
        let emperor = &watch.emperor;
        let mut offering = emperor.connect();
        emperor.wait_for_stats("the connection is known", |stats| stats.peers().len() == 3);
        let limit = descriptors(router).len() + 20;
        limit_descriptors(router, limit);
        let connections: Vec<UnixStream> =
            (0..60).map(|_| UnixStream::connect(emperor.socket()).expect("the backlog has room")).collect();
        wait::until_true("no descriptor is left", wait::SHORT, || descriptors(router).len() >= limit);
        let (cpu, logged) = (cpu_time(router), emperor.log.bytes());
        for descriptors in [1, 200] {
            let stranger = tempfile::tempfile().expect("/tmp is writable");
            let stranger = std::os::fd::AsFd::as_fd(&stranger);
            offering.send_with_descriptors(&wire::frame(HELLO, &hello()), &vec![stranger; descriptors]);
        }
        sleep(Duration::from_secs(SECONDS.into()));
        let (cpu, logged) = (cpu_time(router) - cpu, emperor.log.bytes() - logged);
        assert!(cpu < Duration::from_millis(300) * SECONDS, "{cpu:?} of CPU time in {SECONDS} seconds");
        assert!(logged < 5000, "{logged} bytes were logged");
        watch.assert_conversation("without descriptors");
        drop(connections);
        accepts_again(emperor);
    });
}

#[track_caller]
fn accepts_again(emperor: &Emperor) {
    wait::until_true("a new peer is accepted", wait::LONG, || {
        emperor.connect().echo(A1, EMPEROR, Duration::from_secs(1))
    });
}
