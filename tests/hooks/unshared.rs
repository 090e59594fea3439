//! Instances that make their own network namespace, without an Emperor.

use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1};
use crate::common::netns::Net;
use crate::common::probe::is_reachable;
use crate::common::processes::{is_alive, send};
use crate::common::wait;
use crate::site::{assert_nothing_died, assert_works, emperor, logged_pid, unshared};

const DROPPED: [&str; 2] = ["uid = 65534", "gid = 65534"];
const MASTER: &str = "uWSGI master process";

/// Starts an instance and waits until the Emperor reaches it and its worker runs.
#[track_caller]
fn start(emperor: &Emperor, ini: EmperorIni) -> Emperor {
    let instance = ini.launch();
    instance.log.wait_for("spawned uWSGI worker 1", wait::LONG);
    wait::until_true("the instance is reachable", wait::LONG, || is_reachable(&emperor.netns, V1));
    instance
}

#[track_caller]
fn assert_instance_works(emperor: &Emperor, instance: &Emperor, pid: i32) {
    let mark = instance.log.mark();
    let net = Net::of_process(pid).expect("the instance runs");
    assert_works(emperor, &net);
    assert_nothing_died(&instance.log, mark);
}

/// An instance with a master works, also after a reload.
#[track_caller]
fn assert_works_through_reload(lines: &[&str]) {
    let emperor = emperor();
    let instance = start(&emperor, unshared(&emperor).line("master = true").lines(lines));
    let pid = logged_pid(&instance.log, MASTER);
    assert_instance_works(&emperor, &instance, pid);
    let mark = instance.log.mark();
    send(pid, Signal::SIGHUP);
    instance.log.wait_for_since(mark, "spawned uWSGI worker 1", wait::LONG);
    assert_instance_works(&emperor, &instance, pid);
}

#[test]
fn drops_its_privileges() {
    assert_works_through_reload(&DROPPED);
}

/// uWSGI makes a new namespace each time that it goes through the hooks, and leaves its own socket in the first one.
#[test]
fn stays_root() {
    let emperor = emperor();
    let instance = start(&emperor, unshared(&emperor).line("master = true"));
    assert_packets_pass(&emperor, instance.master_pid());
    let mark = instance.log.mark();
    send(instance.master_pid(), Signal::SIGHUP);
    instance.log.wait_for_since(mark, "spawned uWSGI worker 1", wait::LONG);
    assert_packets_pass(&emperor, instance.master_pid());
}

#[track_caller]
fn assert_packets_pass(emperor: &Emperor, pid: i32) {
    let net = Net::of_process(pid).expect("the process runs");
    for _ in 0..10 {
        assert!(is_reachable(&net, EMPEROR) && is_reachable(&emperor.netns, V1));
        sleep(Duration::from_millis(150));
    }
    assert_eq!(emperor.stats().peers().len(), 1);
}

/// Each worker would have a namespace of its own, and none after a reload.
#[test]
fn master_as_root_is_refused() {
    let emperor = emperor();
    let ini = unshared(&emperor).lines(&["master = true", "master-as-root = true"]).lines(&DROPPED);
    let mut instance = ini.launch();
    assert_eq!(instance.wait_for_exit().code(), Some(1));
    let log = instance.log.text();
    let reason =
        |line: &str| ["tuntap-device", "unshare = net", "master-as-root"].iter().all(|word| line.contains(word));
    assert_eq!(log.lines().filter(|line| reason(line)).count(), 1, "{log}");
    assert!(emperor.stats().peers().is_empty());
}

#[test]
fn refork_as_root() {
    assert_works_through_reload(&["uid = 65534", "gid = 65534", "refork-as-root = true"]);
}

#[test]
fn without_master() {
    let emperor = emperor();
    let instance = start(&emperor, unshared(&emperor).lines(&DROPPED));
    let pid = logged_pid(&instance.log, "uWSGI worker 1 (and the only)");
    assert_eq!(pid, instance.master_pid(), "no process stands above it");
    assert_instance_works(&emperor, &instance, pid);
}

#[test]
fn goes_into_the_background() {
    let emperor = emperor();
    let mut instance =
        start(&emperor, unshared(&emperor).lines(&["master = true", "daemonize2 = {dir}/log"]).lines(&DROPPED));
    assert!(instance.wait_for_exit().success(), "the process that was started ends");
    let daemon = logged_pid(&instance.log, MASTER);
    assert_ne!(daemon, instance.master_pid());
    assert_instance_works(&emperor, &instance, daemon);
    let mark = instance.log.mark();
    send(daemon, Signal::SIGHUP);
    instance.log.wait_for_since(mark, "spawned uWSGI worker 1", wait::LONG);
    assert_instance_works(&emperor, &instance, daemon);
    send(daemon, Signal::SIGINT);
    wait::until_true("the daemon ends", wait::LONG, || !is_alive(daemon));
    wait::until_true("its address is free", wait::LONG, || emperor.stats().peer(V1).is_none());
}

/// uWSGI goes into the background before it loads the applications, so that nothing is lost.
#[test]
fn goes_into_the_background_early() {
    let emperor = emperor();
    let instance =
        start(&emperor, unshared(&emperor).lines(&["master = true", "daemonize = {dir}/log"]).lines(&DROPPED));
    assert_instance_works(&emperor, &instance, logged_pid(&instance.log, MASTER));
}

#[test]
fn device_exists_when_post_jail_hooks_run() {
    assert_works_through_reload(&[
        "uid = 65534",
        "gid = 65534",
        "exec-post-jail = ip link show dev uwsgi0",
        "hook-post-jail = exec:ip link show dev uwsgi0",
    ]);
}
