//! Reloads and deaths of attached vassals and their router.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::link::Connection;
use crate::common::probe::{pings_answered, tcp_round_trip};
use crate::common::processes::{assert_descriptors, descriptors, send};
use crate::common::wait;
use crate::world::{emperor, is_attached, start_attached};

#[test]
fn connection_survives_reloads() {
    let emperor = emperor().start();
    let vassal = start_attached(&emperor, "v1", V1);
    let (pid, open) = (emperor.vassal_pid("v1"), descriptors(emperor.router_pid()).len());
    let mut connection = Connection::open(&emperor.netns, &vassal, V1);
    for round in 1..=3 {
        let mark = emperor.log.mark();
        emperor.touch("v1");
        emperor.wait_until_ready(mark, "v1");
        connection.assert_passes();
        assert!(is_attached(&emperor.stats(), V1), "after reload {round}");
    }
    assert_eq!(emperor.vassal_pid("v1"), pid, "it was a reload, not a new start");
    assert_descriptors(emperor.router_pid(), open, "after reloads");
}

#[test]
fn full_stream_survives_a_reload() {
    let emperor = emperor().start();
    let vassal = start_attached(&emperor, "v1", V1);
    let mark = emperor.log.mark();
    thread::scope(|scope| {
        let transfers = scope.spawn(|| {
            (0..6).all(|_| tcp_round_trip(&emperor.netns, EMPEROR, &vassal, 50_000_000).expect("TCP to the Emperor"))
        });
        thread::sleep(Duration::from_millis(200));
        emperor.touch("v1");
        emperor.wait_until_ready(mark, "v1");
        assert!(transfers.join().expect("no panic"));
    });
    assert!(is_attached(&emperor.stats(), V1));
}

#[test]
fn vassals_come_back_attached_after_the_router_was_killed() {
    let emperor = emperor().start();
    start_attached(&emperor, "v1", V1);
    start_attached(&emperor, "v2", V2);
    let router = emperor.router_pid();
    send(router, Signal::SIGKILL);
    wait::until("a new router has both vassals attached", wait::LONG, || {
        let stats = emperor.try_stats().ok()?;
        (stats.router_pid() != router && is_attached(&stats, V1) && is_attached(&stats, V2)).then_some(())
    });
    for address in [V1, V2] {
        assert_eq!(pings_answered(&emperor.netns, address, 5, &[]), 5);
    }
}

#[test]
fn killed_vassal_comes_back_attached() {
    let emperor = emperor().start();
    start_attached(&emperor, "v1", V1);
    let open = descriptors(emperor.router_pid()).len();
    let mark = emperor.log.mark();
    send(emperor.vassal_pid("v1").expect("the vassal runs"), Signal::SIGKILL);
    emperor.wait_until_ready(mark, "v1");
    emperor.wait_for_stats("it is attached again", |stats| stats.peers().len() == 1 && is_attached(stats, V1));
    assert_eq!(pings_answered(&emperor.netns, V1, 5, &[]), 5);
    assert_descriptors(emperor.router_pid(), open, "the dead vassal's device is closed");
}
