//! Rules of vassals that the C plugin's form has no place for.

use std::net::TcpListener;
use std::time::Duration;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1};
use crate::common::stats::is_attached;
use crate::common::uwsgi::{Subject, UWSGIS, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;
use crate::world::{EMPEROR6, V1_6, assert_refused, start_with};

const RULES: [&str; 3] = [
    "tuntap-device-rule = in any any reject tcp 8080",
    "tuntap-device-rule = out any any reject tcp 8081",
    "tuntap-device-rule = out any fd00:78::/32 deny",
];

#[test]
fn vassals_own_rules_reject_both_ways() {
    for uwsgi in UWSGIS {
        let (emperor, vassal) = start_with(uwsgi, &[], &RULES);
        let _rejected_in = vassal.run(|| TcpListener::bind(("::", 8080))).expect("the port is free");
        let _rejected_out = emperor.netns.run(|| TcpListener::bind(("::", 8081))).expect("the port is free");
        assert_refused(&emperor.netns, V1, 8080);
        assert_refused(&emperor.netns, V1_6, 8080);
        assert_refused(&vassal, EMPEROR, 8081);
        assert_refused(&vassal, EMPEROR6, 8081);
        let stats = emperor.stats();
        assert_eq!((stats.of_peer(V1, "rules"), stats.drops_of(V1, "peer_rule")), (3, 4));
        assert!(is_attached(&stats, V1));
    }
}

#[test]
fn rules_outlive_the_router_and_reloads() {
    let (emperor, vassal) = start_with(Uwsgi::usual(), &[], &RULES);
    emperor.wait_for_stats("the vassal is attached", |stats| is_attached(stats, V1));
    let before = emperor.router_pid();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(before), nix::sys::signal::Signal::SIGKILL).expect("it lives");
    wait::until("another router", wait::LONG, || {
        emperor.try_stats().ok().filter(|stats| stats.router_pid() != before && is_attached(stats, V1))
    });
    let _listener = vassal.run(|| TcpListener::bind(("::", 8080))).expect("the port is free");
    assert_refused(&emperor.netns, V1, 8080);
    let mark = emperor.log.mark();
    emperor.touch("v");
    emperor.wait_until_ready(mark, "v");
    assert_refused(&emperor.netns, V1_6, 8080);
    assert_eq!(emperor.stats().of_peer(V1, "rules"), 3);
}

/// The C router would take the rules for a packet, and let everything pass.
#[test]
fn router_of_the_c_plugin_stops_a_vassal_with_such_rules() {
    let emperor = EmperorIni::new(Uwsgi::usual(), Subject::C).start();
    assert_stopped(&emperor, RULES[0]);
    // Rules that fit the C plugin's form don't need a router that knows more.
    let fine = VassalIni::new(Uwsgi::usual(), Subject::Ours, "fine", V1, EMPEROR)
        .line("tuntap-device-rule = out 192.168.0.2 10.0.0.0/8 deny");
    emperor.start_vassal(&fine);
}

#[track_caller]
fn assert_stopped(emperor: &Emperor, rule: &str) {
    let mark = emperor.log.mark();
    emperor.add(&VassalIni::new(Uwsgi::usual(), Subject::Ours, "v", V1, EMPEROR).line(rule));
    let line = "it is a router of the C plugin, which knows no tuntap-device-rule with IPv6, a protocol or reject";
    emperor.log.wait_for_since(mark, line, Duration::from_secs(20));
    std::fs::remove_file(emperor.path("vassals/v.ini")).expect("it was added");
}
