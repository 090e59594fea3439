//! The first config of the documentation, which names no master.

use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::common::emperor::{Emperor, EmperorIni};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::site::{NAME, assert_works, new_vassal_net, vassal, with_app};

/// uWSGI takes a second to end an instance that has nothing to serve.
const LASTS: Duration = Duration::from_secs(4);

fn ini() -> EmperorIni {
    EmperorIni::bare(Uwsgi::usual(), Subject::Ours).lines(&[
        "emperor = {dir}/vassals",
        "emperor-use-clone = fs,net,ipc,pid,uts",
        "tuntap-router = emperor0 {dir}/t.sock {dir}/stats.sock",
        "exec-as-root = ip addr replace 192.168.0.1/24 dev emperor0",
        "exec-as-root = ip link set emperor0 up",
    ])
}

#[track_caller]
fn assert_lasts(emperor: &mut Emperor) {
    let net = emperor.start_vassal(&vassal(emperor));
    sleep(LASTS);
    assert_eq!(emperor.exit_status(), None);
    assert_works(emperor, &net);
}

fn lines_about_the_master(emperor: &Emperor) -> Vec<String> {
    let text = emperor.log.text();
    text.lines().filter(|line| line.contains("tuntap") && line.contains("master mode")).map(str::to_owned).collect()
}

#[test]
fn stays_up_and_says_why() {
    let mut emperor = with_app(ini().start());
    assert_lasts(&mut emperor);
    let lines = lines_about_the_master(&emperor);
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn survives_a_reload() {
    let mut emperor = with_app(ini().start());
    emperor.start_vassal(&vassal(&emperor));
    let mark = emperor.log.mark();
    emperor.signal(Signal::SIGHUP);
    emperor.log.wait_for_since(mark, "spawned uWSGI tuntap router 1", wait::LONG);
    emperor.wait_until_ready(mark, NAME);
    sleep(LASTS);
    assert_eq!(emperor.exit_status(), None);
    let net = new_vassal_net(&emperor);
    assert_works(&emperor, &net);
}

/// With this option the Emperor runs before the first hook of a plugin.
#[test]
fn stays_up_with_an_early_emperor() {
    let mut emperor = with_app(ini().line("early-emperor = true").start());
    assert_lasts(&mut emperor);
    let lines = lines_about_the_master(&emperor);
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn nothing_is_said_when_the_master_was_asked_for() {
    let emperor = with_app(ini().line("master = true").start());
    assert!(lines_about_the_master(&emperor).is_empty());
}
