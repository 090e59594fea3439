//! The ways to ask for a reload, beyond the operator's touch of the vassal's file.

use std::fs::File;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::common::emperor::Emperor;
use crate::common::processes::{catches, is_alive, send};
use crate::common::vassal::VassalIni;
use crate::common::wait;
use crate::site::{NAME, assert_works, devices_made, emperor, emperor_ini, new_vassal_net, vassal, with_app};

#[track_caller]
fn assert_survives(vassal: impl Fn(&Emperor) -> VassalIni, ask: impl Fn(&Emperor)) {
    let emperor = emperor();
    File::create(emperor.path("reload")).expect("own folder");
    let net = emperor.start_vassal(&vassal(&emperor));
    let pid = emperor.vassal_pid(NAME);
    for _ in 0..2 {
        wait_for_workers(&emperor);
        let mark = emperor.log.mark();
        ask(&emperor);
        emperor.wait_until_ready(mark, NAME);
        assert_works(&emperor, &net);
    }
    assert_eq!(emperor.vassal_pid(NAME), pid, "it was a reload, not a new start");
    assert_eq!(devices_made(&emperor.log), 1);
}

/// Waits until the workers have started. Until then uWSGI loses the signal by which it tells them to end. A worker
/// catches SIGUSR2 when it has started; the master doesn't.
#[track_caller]
fn wait_for_workers(emperor: &Emperor) {
    wait::until_true("all workers have started", wait::LONG, || {
        let workers = emperor.vassal_pid(NAME).map_or_else(Vec::new, |pid| emperor.family().children_of(pid));
        !workers.is_empty() && workers.iter().all(|worker| catches(worker.pid, Signal::SIGUSR2))
    });
}

fn signal(signal: Signal) -> impl Fn(&Emperor) {
    move |emperor| send(emperor.vassal_pid(NAME).expect("the vassal runs"), signal)
}

/// uWSGI compares whole seconds.
fn touch(emperor: &Emperor) {
    sleep(Duration::from_millis(1100));
    std::fs::write(emperor.path("reload"), "again").expect("own file");
}

fn root(emperor: &Emperor) -> VassalIni {
    vassal(emperor).stays_root()
}

fn with_root_master(emperor: &Emperor) -> VassalIni {
    vassal(emperor).line("master-as-root = true").line("workers = 2")
}

#[test]
fn signal_to_a_dropped_vassal() {
    assert_survives(vassal, signal(Signal::SIGHUP));
}

#[test]
fn brutal_signal_to_a_dropped_vassal() {
    assert_survives(vassal, signal(Signal::SIGTERM));
}

#[test]
fn signal_to_a_root_vassal() {
    assert_survives(root, signal(Signal::SIGHUP));
}

#[test]
fn signal_to_a_vassal_with_a_root_master() {
    assert_survives(with_root_master, signal(Signal::SIGHUP));
}

#[test]
fn touched_file_of_a_dropped_vassal() {
    assert_survives(|emperor| vassal(emperor).line("touch-reload = {dir}/reload"), touch);
}

#[test]
fn touched_file_of_a_root_vassal() {
    assert_survives(|emperor| root(emperor).line("touch-reload = {dir}/reload"), touch);
}

#[test]
fn touched_file_of_a_vassal_with_a_root_master() {
    assert_survives(|emperor| with_root_master(emperor).line("touch-reload = {dir}/reload"), touch);
}

#[test]
fn vassal_with_close_on_exec2() {
    assert_survives(|emperor| vassal(emperor).line("close-on-exec2 = true"), signal(Signal::SIGHUP));
}

/// The option takes close-on-exec off every descriptor, also off those of the old image's device.
#[test]
fn emperor_with_close_on_exec2() {
    let emperor = with_app(emperor_ini().line("close-on-exec2 = true").start());
    emperor.start_vassal(&vassal(&emperor));
    let master = emperor.master_pid();
    for _ in 0..3 {
        let mark = emperor.log.mark();
        emperor.signal(Signal::SIGHUP);
        emperor.log.wait_for_since(mark, "spawned uWSGI tuntap router 1", wait::LONG);
        emperor.wait_until_ready(mark, NAME);
        let net = new_vassal_net(&emperor);
        assert_works(&emperor, &net);
        let text = emperor.log.since(mark);
        assert!(!text.contains("respawned uWSGI tuntap router"), "the router does not die:\n{text}");
    }
    assert!(is_alive(master));
}
