//! What an instance leaves behind when it ends: nothing.

use std::os::unix::net::UnixListener;

use nix::sys::signal::Signal;

use crate::common::emperor::V1;
use crate::common::wait;
use crate::world::{emperor, start_attached};

#[test]
fn stopped_emperor_takes_its_socket_files_away() {
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let mut emperor = emperor().start();
        start_attached(&emperor, "v1", V1);
        emperor.signal(signal);
        emperor.wait_for_exit();
        for name in ["t.sock", "stats.sock"] {
            assert!(!emperor.path(name).exists(), "{name} after {signal}");
        }
        wait::until_true("all processes are gone", wait::LONG, || emperor.family().members().is_empty());
        wait::until_true("its device is gone", wait::LONG, || !emperor.netns.has_device("emperor0"));
    }
}

#[test]
fn killed_emperor_takes_its_socket_files_away() {
    let emperor = emperor().start();
    start_attached(&emperor, "v1", V1);
    emperor.signal(Signal::SIGKILL);
    wait::until_true("all processes are gone", wait::LONG, || emperor.family().members().is_empty());
    for name in ["t.sock", "stats.sock"] {
        assert!(!emperor.path(name).exists(), "{name}");
    }
    wait::until_true("its device is gone", wait::LONG, || !emperor.netns.has_device("emperor0"));
}

#[test]
fn file_of_somebody_else_stays() {
    let mut emperor = emperor().start();
    std::fs::remove_file(emperor.socket()).expect("it is there");
    let _other = UnixListener::bind(emperor.socket()).expect("the place is free");
    emperor.signal(Signal::SIGINT);
    emperor.wait_for_exit();
    assert!(emperor.socket().exists());
}

#[test]
fn reloaded_emperor_has_its_sockets_again() {
    let emperor = emperor().start();
    start_attached(&emperor, "v1", V1);
    for _ in 0..2 {
        let mark = emperor.log.mark();
        emperor.signal(Signal::SIGHUP);
        emperor.wait_until_ready(mark, "v1");
        assert!(emperor.socket().exists() && emperor.path("stats.sock").exists());
        emperor.wait_for_stats("the vassal is there", |stats| stats.peer(V1).is_some());
    }
}
