//! Who may do what.

use serde_json::{Value, json};

use crate::client::{Client, add, connect, socket};
use crate::common::emperor::V1;
use crate::common::wait;
use crate::world::{OPERATOR, STRANGER, VIEWER, emperor, start_vassal, with_access};

#[test]
fn level_follows_from_the_user() {
    let emperor = with_access().start();
    for (uid, level) in [(0, "admin"), (VIEWER, "view"), (OPERATOR, "operate")] {
        assert_eq!(Client::of(&emperor, uid).ok(&json!({"verb": "status"}))["level"], level);
    }
    let mut stranger = Client::of(&emperor, STRANGER);
    let refusal = stranger.line().expect("a reason");
    assert_eq!(refusal["error"]["code"], "denied");
    assert!(refusal["error"]["message"].as_str().is_some_and(|text| text.contains("30003")), "{refusal}");
    assert!(stranger.line().is_none(), "and the end");
}

#[test]
fn viewer_looks_at_everything_and_changes_nothing() {
    let emperor = with_access().start();
    let mut root = Client::root(&emperor);
    root.ok(&add("in", "deny 192.0.2.1 any"));
    let generation = root.generation();
    let mut viewer = Client::of(&emperor, VIEWER);
    assert_eq!(viewer.rules("live"), root.rules("live"));
    assert_eq!(viewer.ok(&json!({"verb": "peers"})), json!([]));
    let statistics = viewer.ok(&json!({"verb": "statistics"}));
    assert_eq!(keys(&statistics), keys(&emperor.stats().0), "all that the statistics socket tells");
    assert_eq!(statistics["pid"], emperor.stats().router_pid());
    for request in [
        add("in", "deny"),
        json!({"verb": "confirm"}),
        json!({"verb": "rollback"}),
        json!({"verb": "flows-kill", "filter": {"port": 1}}),
        json!({"verb": "script-load", "text": ""}),
    ] {
        let answer = viewer.ask(&request);
        assert_eq!(answer["error"]["code"], "denied", "{request}: {answer}");
        let needed = if request["verb"] == "script-load" { "admin" } else { "operate" };
        assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains(needed)), "{answer}");
    }
    assert_eq!((root.generation(), root.rules("live").len()), (generation, 1));
}

fn keys(object: &Value) -> Vec<String> {
    object.as_object().expect("an object").keys().cloned().collect()
}

#[test]
fn statistics_have_the_peers() {
    let emperor = with_access().start();
    let _vassal = start_vassal(&emperor, "app", V1);
    let statistics = Client::of(&emperor, VIEWER).ok(&json!({"verb": "statistics"}));
    let own = &emperor.stats().0;
    for key in ["pid", "uid", "addresses", "attached", "rules"] {
        assert_eq!(statistics["peers"][0][key], own["peers"][0][key], "{key}");
    }
}

#[test]
fn operator_changes_what_it_owns() {
    let emperor = with_access().start();
    let replace = |owner: Option<u32>| {
        let mut change = json!({"change": "group-replace", "group": "web", "text": "chain out\ndeny any 192.0.2.1\n"});
        if let Some(owner) = owner {
            change["owner"] = owner.into();
        }
        json!({"verb": "commit", "changes": [change]})
    };
    let mut operator = Client::of(&emperor, OPERATOR);
    assert_eq!(operator.code(&replace(None)), "denied", "there is no such group yet");
    Client::root(&emperor).ok(&replace(Some(OPERATOR)));
    operator.ok(&replace(None));
    assert_eq!(operator.code(&add("in", "deny")), "denied", "the group live isn't his");
    let log = operator.ok(&json!({"verb": "log"}));
    let uids: Vec<_> = log["entries"].as_array().expect("a list").iter().map(|entry| entry["uid"].clone()).collect();
    assert!(uids.contains(&json!(0)) && uids.contains(&json!(OPERATOR)), "{log}");
}

/// A vassal's root is root, but no operator.
#[test]
fn client_of_another_namespace_is_refused() {
    let emperor = emperor().start();
    let vassal = start_vassal(&emperor, "v1", V1);
    let mut inside = Client::over(connect(&vassal, &socket(&emperor), 0).expect("the file can be reached"));
    let refusal = inside.line().expect("a reason");
    assert_eq!(refusal["error"]["code"], "denied");
    assert!(refusal["error"]["message"].as_str().is_some_and(|text| text.contains("namespace")), "{refusal}");
    assert!(inside.line().is_none());
    assert_eq!(Client::root(&emperor).ok(&json!({"verb": "status"}))["level"], "admin");
}

#[test]
fn account_that_is_missing_is_one_line() {
    let emperor = emperor().line("tuntap-router-control-access = view tt-nobody").start();
    emperor.log.wait_for(
        "tuntap-router-control-access = view tt-nobody: there is no user \"tt-nobody\" on this machine",
        wait::SHORT,
    );
    assert_eq!(Client::root(&emperor).ok(&json!({"verb": "status"}))["level"], "admin");
}
