//! Instances that are killed, and those that can't have a device.

use std::os::unix::fs::chown;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::common::emperor::{EmperorIni, V1};
use crate::common::host::{Host, Subject};
use crate::common::processes::{is_alive, send};
use crate::common::vassal::NOBODY;
use crate::common::wait;
use crate::site::{
    NAME, NO_DEVICE, assert_works, emperor, emperor_ini, logged_pid, unshared, vassal, with_app, write_app,
};
use crate::tunnel::neighbours;

const SOON: Duration = Duration::from_secs(1);

/// A child that outlives master and workers.
const APP_WITH_CHILD: &str = r#"
import os
import time

if os.fork() == 0:
    time.sleep(600)
    os._exit(0)

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"uid %d" % os.getuid()]
"#;

#[test]
fn peer_ends_with_its_vassals_master() {
    let emperor = emperor();
    let net = emperor.start_vassal(&vassal(&emperor));
    assert_works(&emperor, &net);
    send(emperor.vassal_pid(NAME).expect("the vassal runs"), Signal::SIGKILL);
    wait::until_true("the peer is gone", SOON, || emperor.stats().peers().is_empty());
}

/// What the application left behind does not hold the peer's address.
#[test]
fn peer_ends_though_children_live_on() {
    let emperor = emperor();
    write_app(&emperor, APP_WITH_CHILD);
    let ini = unshared(&emperor).lines(&["master = true", "uid = 65534", "gid = 65534"]);
    let instance = ini.launch();
    let master = logged_pid(&instance.log, "uWSGI master process");
    emperor.wait_for_stats("the peer is there", |stats| stats.peer(V1).is_some());
    let worker = logged_pid(&instance.log, "uWSGI worker 1");
    let children: Vec<i32> = neighbours(instance.family(), master)
        .iter()
        .map(|process| process.pid)
        .filter(|pid| ![master, worker].contains(pid))
        .collect();
    assert!(!children.is_empty(), "the application has forked");
    send(master, Signal::SIGKILL);
    wait::until_true("the peer is gone", SOON, || emperor.stats().peers().is_empty());
    assert!(children.iter().all(|child| is_alive(*child)));
}

/// Without a namespace of its own an instance would make the device on the host.
#[test]
fn instance_without_jail_runs_without_device() {
    let emperor = emperor();
    let ini = EmperorIni::bare(Host::usual(), Subject::Ours)
        .lines(&["master = true", "socket = 127.0.0.1:3031", "uid = 65534", "gid = 65534"])
        .line(format!("tuntap-device = uwsgi0 {}", emperor.socket().display()));
    let instance = ini.launch();
    instance.log.wait_for("spawned uWSGI worker 1", wait::LONG);
    assert_eq!(instance.log.text().matches(NO_DEVICE).count(), 1);
    assert!(!instance.netns.has_device("uwsgi0"));
    assert!(emperor.stats().peers().is_empty());
    assert!(is_alive(instance.master_pid()));
}

/// A tyrannical Emperor starts a vassal as the owner of its file, so no hook ever sees root.
#[test]
fn vassal_that_never_was_root_runs_without_device() {
    let emperor = with_app(emperor_ini().line("emperor-tyrant = true").start());
    let mark = emperor.log.mark();
    let vassal = vassal(&emperor).stays_root();
    let (draft, ini) = (emperor.path("tyrant"), emperor.path("vassals/v1.ini"));
    // The lines that only root can run are not reached either.
    std::fs::write(&draft, emperor.in_dir(&vassal.render())).expect("own folder");
    chown(&draft, Some(NOBODY), Some(NOBODY)).expect("root may give files away");
    std::fs::rename(&draft, &ini).expect("own folder");
    emperor.wait_until_ready(mark, NAME);
    assert_eq!(emperor.log.since(mark).matches(NO_DEVICE).count(), 1);
    assert!(!emperor.vassal_net(NAME).has_device("uwsgi0"));
    assert!(emperor.stats().peers().is_empty());
}

/// The connection moves on to the next router in the process that owns the tunnel, which is not the one that serves
/// where uWSGI forked again.
#[track_caller]
fn assert_outlives_the_router(lines: &[&str]) {
    let emperor = emperor();
    let vassal = lines.iter().fold(vassal(&emperor), |vassal, line| vassal.line(*line));
    let net = emperor.start_vassal(&vassal);
    assert_works(&emperor, &net);
    let processes = neighbours(emperor.family(), emperor.vassal_pid(NAME).expect("the vassal runs"));
    let router = emperor.router_pid();
    send(router, Signal::SIGKILL);
    wait::until_true("there is a new router", wait::LONG, || {
        emperor.try_stats().is_ok_and(|stats| stats.router_pid() != router)
    });
    assert_works(&emperor, &net);
    assert!(processes.iter().all(|process| is_alive(process.pid)));
}

#[test]
fn vassal_outlives_the_router() {
    assert_outlives_the_router(&[]);
}

#[test]
fn root_master_outlives_the_router() {
    assert_outlives_the_router(&["master-as-root = true", "workers = 2"]);
}

#[test]
fn reforked_vassal_outlives_the_router() {
    assert_outlives_the_router(&["refork = true"]);
}

#[test]
fn vassal_reforked_in_its_jail_outlives_the_router() {
    assert_outlives_the_router(&["refork-post-jail = true"]);
}
