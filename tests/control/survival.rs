//! What outlives a router, and what a reload ends.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::client::{Client, add, add_for};
use crate::common::emperor::{EMPEROR, V1};
use crate::common::probe::{is_cut_off, is_reachable};
use crate::common::processes::send;
use crate::common::wait;
use crate::world::{emperor, reload, start_vassal, wait_until_settled};

#[test]
fn live_rules_their_counters_and_the_log_outlive_a_router() {
    let emperor = emperor().start();
    let vassal = start_vassal(&emperor, "v1", V1);
    let mut root = Client::root(&emperor);
    root.ok(&add("out", "deny any any icmp"));
    assert!(is_cut_off(&vassal, EMPEROR));
    let list = root.ok(&json!({"verb": "rules-list"}));
    let packets = |list: &serde_json::Value| list["groups"][0]["rules"][0]["packets"].as_u64().expect("a number");
    assert!(packets(&list) > 0, "{list}");
    let log = root.ok(&json!({"verb": "log"}));
    let generation = root.generation();
    for _ in 0..2 {
        emperor.kill_router();
        let mut root = Client::root(&emperor);
        assert_eq!(root.generation(), generation);
        assert_eq!(root.ok(&json!({"verb": "log"})), log);
        let after = root.ok(&json!({"verb": "rules-list"}));
        assert!(packets(&after) >= packets(&list), "{after}");
        assert!(is_cut_off(&vassal, EMPEROR));
    }
}

#[test]
fn next_router_undoes_what_nobody_confirms() {
    let emperor = emperor().start();
    let vassal = start_vassal(&emperor, "v1", V1);
    Client::root(&emperor).ok(&add_for("out", "deny any any icmp", 8));
    emperor.kill_router();
    let stats = emperor.stats();
    assert_eq!(stats.0["policy"]["pending"], true, "there is time left: {}", stats.0["policy"]);
    assert!(is_cut_off(&vassal, EMPEROR));
    wait_until_settled(&emperor);
    assert!(is_reachable(&vassal, EMPEROR));
    assert_eq!(Client::root(&emperor).rules("live").len(), 0);
}

/// The time runs out while the master is stopped, and no router is there.
#[test]
fn time_that_runs_out_without_a_router_counts() {
    let emperor = emperor().start();
    Client::root(&emperor).ok(&add_for("out", "deny any any icmp", 1));
    let router = emperor.router_pid();
    send(emperor.master_pid(), Signal::SIGSTOP);
    send(router, Signal::SIGKILL);
    thread::sleep(Duration::from_secs(2));
    send(emperor.master_pid(), Signal::SIGCONT);
    wait::until_true("there is a new router", wait::LONG, || {
        emperor.try_stats().is_ok_and(|stats| stats.router_pid() != router)
    });
    assert_eq!(emperor.stats().0["policy"]["pending"], false, "it was undone before the first packet");
    assert_eq!(Client::root(&emperor).rules("live").len(), 0);
}

#[test]
fn reload_loses_live_rules_and_says_so() {
    let emperor = emperor().line("tuntap-router-firewall-in = allow 192.0.2.7 any").start();
    Client::root(&emperor).ok(&add("out", "deny any 192.0.2.1"));
    let mark = emperor.log.mark();
    reload(&emperor);
    let lost = "emperor0: the group live loses 1 rule that came while the router ran: chain out: deny any 192.0.2.1";
    emperor.log.wait_for_since(mark, lost, wait::LONG);
    let mut root = Client::root(&emperor);
    assert_eq!((root.rules("live").len(), root.rules("ini").len()), (0, 1));
    // A second reload has nothing to lose.
    let mark = emperor.log.mark();
    reload(&emperor);
    assert!(!emperor.log.since(mark).contains("loses"));
}
