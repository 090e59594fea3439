//! Changes: several at once, those that wait for their confirmation, and what they do to traffic.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::client::{Client, add, add_for};
use crate::common::emperor::{EMPEROR, V1};
use crate::common::link::Connection;
use crate::common::probe::{is_cut_off, is_reachable, pings_answered};
use crate::common::wait;
use crate::world::{emperor, start_vassal, wait_until_settled};

#[test]
fn rule_holds_when_the_answer_comes() {
    let emperor = emperor().start();
    let vassal = start_vassal(&emperor, "v1", V1);
    let mut root = Client::root(&emperor);
    for _ in 0..3 {
        assert!(is_reachable(&vassal, EMPEROR));
        let id = root.ok(&add("out", "deny any any icmp"))["rules"][0].clone();
        assert!(is_cut_off(&vassal, EMPEROR));
        root.ok(&json!({"verb": "commit", "changes": [{"change": "rule-delete", "id": id}]}));
    }
    assert!(is_reachable(&vassal, EMPEROR));
    let stats = emperor.stats();
    assert_eq!(stats.0["policy"]["generation"], root.generation());
}

/// One of two admins who change the same generation comes late.
#[test]
fn of_two_admins_one_is_told_to_look_again() {
    let emperor = emperor().start();
    let generation = Client::root(&emperor).generation();
    let results: Vec<_> = thread::scope(|scope| {
        let start = |number: u8| {
            let emperor = &emperor;
            scope.spawn(move || {
                let mut request = add("in", &format!("deny 192.0.2.{number} any"));
                request["expected_generation"] = generation.into();
                Client::root(emperor).ask(&request)
            })
        };
        [1, 2, 3, 4].map(start).map(|admin| admin.join().expect("no panic")).to_vec()
    });
    let done = results.iter().filter(|answer| answer["error"].is_null()).count();
    assert_eq!(done, 1, "{results:?}");
    assert!(results.iter().all(|answer| answer["error"].is_null() || answer["error"]["code"] == "generation"));
    assert_eq!(Client::root(&emperor).rules("live").len(), 1);
}

#[test]
fn change_that_nobody_confirms_is_undone() {
    let emperor = emperor().start();
    let vassal = start_vassal(&emperor, "v1", V1);
    let mut root = Client::root(&emperor);
    root.ok(&add_for("out", "deny any any icmp", 5));
    assert!(is_cut_off(&vassal, EMPEROR));
    assert_eq!(root.ok(&json!({"verb": "status"}))["pending"]["uid"], 0);
    assert_eq!(emperor.stats().0["policy"]["pending"], true);
    assert_eq!(root.code(&add("in", "deny")), "pending");
    // Nobody asks anything meanwhile.
    wait_until_settled(&emperor);
    assert!(is_reachable(&vassal, EMPEROR));
    assert_eq!(root.rules("live").len(), 0);
    assert!(emperor.log.text().contains("not confirmed"), "{}", emperor.log.tail());
}

#[test]
fn change_that_is_confirmed_stays() {
    let emperor = emperor().start();
    let mut root = Client::root(&emperor);
    root.ok(&add_for("out", "deny any 192.0.2.1", 2));
    root.ok(&json!({"verb": "confirm"}));
    assert_eq!(emperor.stats().0["policy"]["pending"], false);
    thread::sleep(Duration::from_secs(3));
    assert_eq!(root.rules("live").len(), 1);
    root.ok(&add_for("out", "deny any 192.0.2.2", 3600));
    assert_eq!(root.rules("live").len(), 2);
    root.ok(&json!({"verb": "rollback"}));
    assert_eq!(root.rules("live").len(), 1);
}

#[test]
fn traffic_goes_on_through_commits() {
    let emperor = emperor().start();
    let vassal = start_vassal(&emperor, "v1", V1);
    let mut connection = Connection::open(&vassal, &emperor.netns, EMPEROR);
    let mut root = Client::root(&emperor);
    thread::scope(|scope| {
        let pings = scope.spawn(|| pings_answered(&vassal, EMPEROR, 50, &["-i", "0.02"]));
        for number in 0..50 {
            root.ok(&add("out", &format!("deny any 192.0.2.{number}")));
            connection.assert_passes();
        }
        assert_eq!(pings.join().expect("no panic"), 50);
    });
    assert_eq!(root.rules("live").len(), 50);
    wait::until_true("all are counted", wait::LONG, || emperor.stats().0["policy"]["rules"] == 50);
}
