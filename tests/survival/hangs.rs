//! Routers that hang end as if they had crashed; those that only seem to don't.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1};
use crate::common::link::Connection;
use crate::common::probe::pings_answered;
use crate::common::processes::{freeze, is_alive, sleeps, thaw};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;
use crate::world::{emperor, is_attached, start_attached};

const HANGS: &str = "hangs: its event loop made no turn in";

fn timeout(seconds: u32) -> String {
    format!("tuntap-router-harakiri = {seconds}")
}

/// Waits for the router that comes after one that hangs.
#[track_caller]
fn wait_for_the_next(emperor: &Emperor, hung: i32) {
    let line = format!("[tuntap-router] emperor0: the router (pid {hung}) {HANGS}");
    emperor.log.wait_for(&line, wait::LONG);
    wait::until_true("the router ended", wait::LONG, || !is_alive(hung));
    assert_ne!(emperor.router_pid(), hung);
}

#[track_caller]
fn assert_stopped_router_is_replaced(uwsgi: Uwsgi) {
    let emperor = EmperorIni::new(uwsgi, Subject::Ours).start();
    let net = emperor.start_vassal(&VassalIni::new(uwsgi, Subject::Ours, "v1", V1, EMPEROR));
    emperor.wait_for_stats("the vassal is attached", |stats| is_attached(stats, V1));
    let mut connection = Connection::open(&emperor.netns, &net, V1);
    let (router, vassal) = (emperor.router_pid(), emperor.vassal_pid("v1"));
    freeze(router);
    wait_for_the_next(&emperor, router);
    connection.assert_passes();
    emperor.wait_for_stats("it is attached again", |stats| is_attached(stats, V1));
    assert_eq!(emperor.vassal_pid("v1"), vassal, "the vassal was not started anew");
}

#[test]
fn stopped_router_is_replaced() {
    assert_stopped_router_is_replaced(Uwsgi::usual());
}

#[test]
fn stopped_router_is_replaced_by_the_other_uwsgi() {
    assert_stopped_router_is_replaced(Uwsgi::usual().other());
}

/// The router hangs again and again, with a master that looks at its processes once in an hour.
#[test]
fn stopped_routers_are_replaced_however_seldom_the_master_looks() {
    let emperor = emperor().line("check-interval = 3600").line(timeout(2)).start();
    let net = start_attached(&emperor, "v1", V1);
    for _ in 0..2 {
        let router = emperor.router_pid();
        freeze(router);
        wait_for_the_next(&emperor, router);
        assert_eq!(pings_answered(&net, EMPEROR, 3, &[]), 3);
    }
}

#[test]
fn router_in_an_endless_loop_is_replaced() {
    let ini = EmperorIni::new(Uwsgi::Distribution, Subject::Faulty).line("env = UWSGI_TUNTAP_FAULT=router:{dir}/fault");
    let emperor = ini.line(timeout(2)).start();
    let vassal = VassalIni::new(Uwsgi::Distribution, Subject::Faulty, "v1", V1, EMPEROR);
    let net = emperor.start_vassal(&vassal);
    let mut connection = Connection::open(&net, &emperor.netns, EMPEROR);
    let router = emperor.router_pid();
    std::fs::write(emperor.path("fault"), "loop").expect("own folder");
    connection.assert_passes();
    wait_for_the_next(&emperor, router);
    connection.assert_passes();
}

/// A machine that sleeps, or a frozen group of processes, lets the deadline pass although nobody hangs.
#[test]
fn router_that_was_stopped_with_its_master_lives_on() {
    let emperor = emperor().line(timeout(4)).start();
    let net = start_attached(&emperor, "v1", V1);
    let (router, master) = (emperor.router_pid(), emperor.master_pid());
    for _ in 0..3 {
        freeze(master);
        freeze(router);
        sleep(Duration::from_secs(6));
        thaw(master);
        thaw(router);
        sleep(Duration::from_secs(2));
    }
    assert_eq!(pings_answered(&net, EMPEROR, 3, &[]), 3);
    assert_eq!(emperor.router_pid(), router);
    assert!(!emperor.log.text().contains(HANGS), "{}", emperor.log.tail());
}

/// Two routers hang on the same machine. One ends after a second, which shows that the other one would have, too.
#[test]
fn without_harakiri_a_router_may_hang() {
    let (endless, bounded) = (emperor().line(timeout(0)).start(), emperor().line(timeout(1)).start());
    let routers = [endless.router_pid(), bounded.router_pid()];
    routers.into_iter().for_each(freeze);
    wait_for_the_next(&bounded, routers[1]);
    let second = bounded.router_pid();
    freeze(second);
    wait_for_the_next(&bounded, second);
    thaw(routers[0]);
    assert_eq!(endless.router_pid(), routers[0]);
}

/// The pause before a router whose predecessors died does not count as silence, however long it is.
#[test]
fn slow_start_is_no_hang() {
    let emperor = emperor().line(timeout(1)).start();
    let mark = emperor.log.mark();
    for _ in 0..5 {
        emperor.kill_router();
    }
    emperor.log.wait_for_since(mark, "5 routers in a row ended soon after their start, waiting 8 s", wait::LONG);
    emperor.router_pid();
    assert!(!emperor.log.since(mark).contains(HANGS), "{}", emperor.log.tail());
}

/// An idle router wakes up to show that it lives, twice within the timeout.
#[test]
fn idle_router_sleeps() {
    let emperor = emperor().line(timeout(6)).start();
    let router = emperor.router_pid();
    sleep(Duration::from_secs(1));
    let (before, start) = (sleeps(router), Instant::now());
    sleep(Duration::from_secs(7));
    let (woken, seconds) = (sleeps(router) - before, start.elapsed().as_secs());
    assert!((1..=seconds.div_ceil(3) + 1).contains(&woken), "{woken} times in {seconds} s");
}
