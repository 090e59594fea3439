//! Signals, reloads and deaths of a router in its sandbox.

use nix::sys::signal::Signal;

use crate::common::emperor::{EMPEROR, V1};
use crate::common::probe::is_reachable;
use crate::common::processes::{is_alive, send};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;
use crate::world::{assert_confined, emperor, next_router};

const DENIED: &str = "the sandbox denied";

#[test]
fn emperor_reloads_and_its_next_router_is_confined() {
    let emperor = emperor().start();
    emperor.start_vassal(&VassalIni::new(Uwsgi::usual(), Subject::Ours, "v1", V1, EMPEROR));
    let mut router = assert_confined(&emperor);
    for signal in [Signal::SIGHUP, Signal::SIGTERM] {
        let mark = emperor.log.mark();
        emperor.signal(signal);
        router = next_router(&emperor, router);
        emperor.wait_until_ready(mark, "v1");
        let answered = || is_reachable(&emperor.netns, V1);
        wait::until_true(&format!("the vassal is served after {signal}"), wait::LONG, answered);
        assert_eq!(assert_confined(&emperor), router);
    }
    assert!(!emperor.log.text().contains(DENIED));
}

#[test]
fn emperor_stops() {
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let mut emperor = emperor().start();
        let router = assert_confined(&emperor);
        emperor.signal(signal);
        emperor.wait_for_exit();
        wait::until_true("the router is gone", wait::LONG, || !is_alive(router));
        assert!(!emperor.log.text().contains(DENIED), "{signal}");
    }
}

/// The signals on which a uWSGI gateway process ends, and those that it ignores.
#[test]
fn signals_to_the_router_do_what_they_did() {
    let emperor = emperor().start();
    let mut router = assert_confined(&emperor);
    let mut peer = emperor.peer(V1);
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM, Signal::SIGPIPE] {
        send(router, signal);
        send(emperor.master_pid(), Signal::SIGUSR1);
        assert!(peer.echo(V1, EMPEROR, wait::SHORT), "{signal}");
    }
    assert_eq!(emperor.router_pid(), router);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL] {
        send(router, signal);
        router = next_router(&emperor, router);
        assert_eq!(assert_confined(&emperor), router, "after {signal}");
    }
    assert!(!emperor.log.text().contains(DENIED));
}

/// A crash leaves uWSGI's report in the log, and no line about the sandbox.
#[test]
fn crash_is_told_as_before() {
    let emperor = emperor().start();
    let router = assert_confined(&emperor);
    let mark = emperor.log.mark();
    send(router, Signal::SIGSEGV);
    next_router(&emperor, router);
    let text = emperor.log.since(mark);
    assert!(text.contains("got Segmentation Fault") && text.contains("backtrace of"), "{text}");
    assert!(!text.contains(DENIED), "{text}");
    assert_confined(&emperor);
}

#[test]
fn deleted_device_is_made_again_by_the_next_router() {
    let emperor = emperor().start();
    let router = assert_confined(&emperor);
    let mark = emperor.log.mark();
    emperor.netns.sh("ip link del emperor0");
    emperor.log.wait_for_since(mark, "the device emperor0 was deleted", wait::LONG);
    let next = next_router(&emperor, router);
    assert_eq!(assert_confined(&emperor), next);
    assert!(emperor.netns.has_device("emperor0"));
}
