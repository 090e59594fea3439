//! Instances that are killed, and those that can't have a device.

use std::os::unix::fs::chown;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::common::emperor::{Emperor, EmperorIni, V1};
use crate::common::processes::{is_alive, send};
use crate::common::uwsgi::{Subject, Uwsgi};
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

/// A process that the application left behind does not hold the peer's address.
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
    let ini = EmperorIni::bare(Uwsgi::usual(), Subject::Ours)
        .lines(&["master = true", "socket = 127.0.0.1:3031", "uid = 65534", "gid = 65534"])
        .line(format!("tuntap-device = uwsgi0 {}", emperor.socket().display()));
    let instance = ini.launch();
    instance.log.wait_for("spawned uWSGI worker 1", wait::LONG);
    assert_eq!(instance.log.text().matches(NO_DEVICE).count(), 1);
    assert!(!instance.netns.has_device("uwsgi0"));
    assert!(emperor.stats().peers().is_empty());
    assert!(is_alive(instance.master_pid()));
}

/// The text of the log up to where the first hook fails, which must be there.
#[track_caller]
fn before_the_hooks_fail(emperor: &Emperor) -> String {
    const FAILED: &str = "exited with non-zero code";
    emperor.log.wait_for(FAILED, wait::LONG);
    let log = emperor.log.text();
    log.split(FAILED).next().unwrap_or_default().to_owned()
}

#[test]
fn vassal_without_jail_is_told_before_its_hooks_fail() {
    for uwsgi in [Uwsgi::usual(), Uwsgi::usual().other()] {
        let emperor = with_app(EmperorIni::new(uwsgi, Subject::Ours).start());
        let text = vassal(&emperor).render();
        assert!(text.contains("jailed = true\n"));
        let draft = emperor.path("draft");
        std::fs::write(&draft, emperor.in_dir(&text.replace("jailed = true\n", ""))).expect("own folder");
        std::fs::rename(&draft, emperor.path("vassals/v1.ini")).expect("own folder");
        let log = before_the_hooks_fail(&emperor);
        assert!(
            log.contains("[uwsgi-tuntap] uwsgi0: it is not made") && log.contains("jailed = true is missing"),
            "{log}"
        );
    }
}

#[test]
fn instance_without_namespace_is_told_before_its_hooks_fail() {
    let emperor = emperor();
    let ini = EmperorIni::bare(Uwsgi::usual(), Subject::Ours)
        .lines(&["master = true", "exec-as-root = ip link show dev uwsgi0"])
        .line(format!("tuntap-device = uwsgi0 {}", emperor.socket().display()));
    let instance = ini.launch();
    let log = before_the_hooks_fail(&instance);
    assert!(log.contains("[uwsgi-tuntap] uwsgi0: it is not made") && log.contains("unshare = net is missing"), "{log}");
}

/// The vassal's device is made in its Emperor's namespace, as the C plugin does it.
#[test]
fn vassal_in_its_emperors_namespace_is_told_before_its_hooks_fail() {
    let lines = ["master = true", "emperor = {dir}/vassals", "emperor-freq = 1"];
    let ini =
        EmperorIni::bare(Uwsgi::usual(), Subject::Ours).router("emperor0 {dir}/t.sock {dir}/stats.sock").lines(&lines);
    let emperor = with_app(ini.start());
    emperor.add(&vassal(&emperor).line("exec-as-root = false"));
    let log = before_the_hooks_fail(&emperor);
    assert!(
        log.contains("uwsgi0: it is made in the Emperor's own") && log.contains("emperor-use-clone = net is"),
        "{log}"
    );
}

/// A vassal that gets a namespace by other means is not warned.
#[test]
fn vassals_with_a_namespace_are_told_nothing() {
    for clone in ["net", "net,pid", "pid,net,fs"] {
        let lines = ["master = true", "emperor = {dir}/vassals", "emperor-freq = 1"];
        let ini = EmperorIni::bare(Uwsgi::usual(), Subject::Ours)
            .router("emperor0 {dir}/t.sock {dir}/stats.sock")
            .lines(&lines);
        let emperor = with_app(ini.line(format!("emperor-use-clone = {clone}")).start());
        let mark = emperor.log.mark();
        emperor.add(&vassal(&emperor));
        emperor.wait_until_ready(mark, NAME);
        assert!(!emperor.log.text().contains("uwsgi0: it is"), "{clone}");
    }
}

/// Lines about errors begin as the router's other lines do.
#[test]
fn routers_that_cannot_start_say_so_in_their_own_lines() {
    for (lines, reason) in [
        (vec!["tuntap-router = lo {dir}/t.sock"], "[tuntap-router] lo: can't make the TUN device lo: EINVAL"),
        (
            vec!["tuntap-router = emperor0 {dir}/t.sock x y z"],
            "[tuntap-router] tuntap-router = emperor0 {dir}/t.sock x y z: ",
        ),
        (
            vec!["tuntap-router = emperor0 {dir}/t.sock", "tuntap-router-mtu = 1"],
            "[tuntap-router] tuntap-router-mtu = 1: ",
        ),
        (
            vec!["tuntap-router = emperor0 {dir}/missing/t.sock"],
            "[tuntap-router] emperor0: socket {dir}/missing/t.sock: ",
        ),
        (vec!["tuntap-device = uwsgi0", "tuntap-device-mtu = 1"], "[uwsgi-tuntap] tuntap-device-mtu = 1: "),
    ] {
        let mut instance = EmperorIni::bare(Uwsgi::usual(), Subject::Ours).line("master = true").lines(&lines).launch();
        assert_eq!(instance.wait_for_exit().code(), Some(1), "{lines:?}");
        let (log, reason) = (instance.log.text(), instance.in_dir(reason));
        assert!(log.lines().any(|line| line.starts_with(&reason)), "{reason}\n{log}");
    }
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

/// The process that owns the tunnel moves its connection to the next router. Where uWSGI has forked again, that is not
/// the process that serves.
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
