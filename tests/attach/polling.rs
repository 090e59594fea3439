//! Busy polling: the router looks for packets without sleeping while they follow each other closely, and never for
//! long.

use std::thread::sleep;
use std::time::Duration;

use crate::common::emperor::{EMPEROR, V1};
use crate::common::netns::Net;
use crate::common::processes::{cpu_time, sleeps};
use crate::common::wait;
use crate::world::{emperor, start_attached};

const PINGS: u32 = 3000;

/// One request after the other, each as soon as the last one was answered.
fn ping_pong(net: &Net) {
    let count = PINGS.to_string();
    let seconds = wait::LONG.as_secs().to_string();
    let output = net.output(&["ping", "-q", "-f", "-c", &count, "-w", &seconds, &EMPEROR.to_string()]);
    assert!(output.status.success(), "{output:?}");
}

/// How often the router slept during the same traffic.
fn sleeps_of_router(line: &str) -> u64 {
    let emperor = emperor().line(line).start();
    let net = start_attached(&emperor, "v1", V1);
    let router = emperor.router_pid();
    let before = sleeps(router);
    ping_pong(&net);
    sleeps(router) - before
}

#[test]
fn router_sleeps_less_while_packets_follow_each_other_closely() {
    let without = sleeps_of_router("tuntap-router-busy-poll = 0");
    let with = sleeps_of_router("tuntap-router-busy-poll = 1000");
    // On a busy machine many a look is in vain.
    assert!(with < without, "{with} sleeps while polling, {without} without it");
}

#[test]
fn router_is_idle_as_soon_as_its_peers_are() {
    let emperor = emperor().start();
    let net = start_attached(&emperor, "v1", V1);
    ping_pong(&net);
    let router = emperor.router_pid();
    let before = cpu_time(router);
    sleep(Duration::from_secs(1));
    let used = cpu_time(router) - before;
    assert!(used < Duration::from_millis(200), "{used:?} of a second");
}
