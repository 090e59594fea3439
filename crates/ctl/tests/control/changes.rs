//! Commands that change something.

use serde_json::{Value, json};
use tuntap_api::control::{Changed, Difference, Killed, ScriptStatus};

use crate::router::Router;

fn changed(rules: &[u32], confirm_within: Option<u32>) -> Changed {
    let lines = vec![" chain in".to_owned(), "+allow any any tcp 80".to_owned()];
    let difference = Difference { lines, added: 1, deleted: 0, kept: 5 };
    Changed { generation: 8, rules: rules.to_vec(), confirm_within, difference }
}

/// The changes that a command line asks for.
#[track_caller]
fn changes(arguments: &[&str]) -> Vec<Value> {
    let router = Router::with(&changed(&[], None));
    let shown = router.shows(arguments);
    assert_eq!(shown, " chain in\n+allow any any tcp 80\ngeneration 8: 1 rule added, 0 deleted, 5 kept\n");
    let requests = router.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0]["verb"], "commit");
    assert_eq!(requests[0].as_object().map(serde_json::Map::len), Some(2), "no other conditions: {requests:?}");
    requests[0]["changes"].as_array().expect("changes").clone()
}

#[test]
fn rules_are_added_inserted_set_and_deleted() {
    let rule = "allow any any tcp 80";
    assert_eq!(
        changes(&["rules", "add", "in", "allow", "any", "any", "tcp", "80"]),
        [json!({ "change": "rule-add", "chain": "in", "rule": rule })]
    );
    assert_eq!(
        changes(&["rules", "add", "route", rule, "--group", "web"]),
        [json!({ "change": "rule-add", "chain": "route", "rule": rule, "group": "web" })]
    );
    assert_eq!(
        changes(&["rules", "add", "shape", "both", "any", "20M/50M"]),
        [json!({ "change": "rule-add", "chain": "shape", "rule": "both any 20M/50M" })]
    );
    assert_eq!(
        changes(&["rules", "set", "3", "in", "root", "1000k"]),
        [json!({ "change": "rule-replace", "id": 3, "rule": "in 0 1M" })],
        "a router can't look up users"
    );
    assert_eq!(
        changes(&["rules", "insert", "--before", "3", "in @root 1M pps=7"]),
        [json!({ "change": "rule-insert", "at": { "before": 3 }, "rule": "in @0 1M pps=7" })]
    );
    assert_eq!(
        changes(&["rules", "insert", "--before", "3", rule]),
        [json!({ "change": "rule-insert", "at": { "before": 3 }, "rule": rule })]
    );
    assert_eq!(
        changes(&["rules", "insert", "deny", "--after", "3"]),
        [json!({ "change": "rule-insert", "at": { "after": 3 }, "rule": "deny" })]
    );
    assert_eq!(
        changes(&["rules", "set", "3", "deny", "any", "@bad"]),
        [json!({ "change": "rule-replace", "id": 3, "rule": "deny any @bad" })]
    );
    assert_eq!(
        changes(&["rules", "delete", "3", "5"]),
        [json!({ "change": "rule-delete", "id": 3 }), json!({ "change": "rule-delete", "id": 5 })]
    );
    assert_eq!(changes(&["rules", "delete", "--group", "web"]), [json!({ "change": "group-delete", "group": "web" })]);
}

#[test]
fn files_replace_everything_or_a_group() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rules");
    std::fs::write(&path, "chain in\ndeny\n").expect("own folder");
    let file = path.to_str().expect("UTF-8");
    let text = "chain in\ndeny\n";
    assert_eq!(changes(&["rules", "replace", file]), [json!({ "change": "file-replace", "text": text })]);
    assert_eq!(
        changes(&["rules", "replace", file, "--group", "web", "--owner", "1000"]),
        [json!({ "change": "group-replace", "group": "web", "text": text, "owner": 1000 })]
    );
    let members = json!(["10.0.0.1", "chain", "in", "deny"]);
    assert_eq!(
        changes(&["set", "replace", "bad", "10.0.0.1", "--file", file]),
        [json!({ "change": "set-replace", "name": "bad", "members": members })]
    );
}

/// A router can neither open the files of sets nor look up users.
#[test]
fn files_and_users_that_a_rules_file_names_are_sent_with_it() {
    let router = Router::with(&changed(&[], None));
    let members = router.file("members", "10.0.0.1 # one\nfd00::/8\n");
    let rules = |set: &str, owner: &str| format!("set a = {set}\ngroup g owner {owner}\nchain in\ndeny @a any\n");
    let whole =
        format!("\ngroup g owner 0\nchain in\ndeny @a any\nset a = {members} {{\n    10.0.0.1\n    fd00::/8\n}}\n\n");
    let file = router.file("rules", &rules(&members, "root"));
    for verb in ["check", "diff", "replace"] {
        let _ = router.run(&["rules", verb, &file]);
        let request = router.requests().remove(0);
        let text = if verb == "replace" { &request["changes"][0]["text"] } else { &request["text"] };
        assert_eq!(*text, json!(whole), "{verb}");

        let missing = router.file("missing", &rules("/nowhere", "root"));
        let error = router.fails(1, &["rules", verb, &missing]);
        assert!(error.starts_with(&format!("{missing}:1: /nowhere can't be read: ")), "{error}");
        let nobody = router.file("nobody", &rules(&members, "no-such-user"));
        let error = router.fails(1, &["rules", verb, &nobody]);
        assert_eq!(error, format!("{nobody}:2: there is no user \"no-such-user\" on this machine\n"));
        assert_eq!(router.requests(), [] as [Value; 0]);
    }
    router.shows(&["rules", "replace", &file, "--group", "g", "--owner", "root"]);
    assert_eq!(router.requests()[0]["changes"][0]["owner"], 0);
}

#[test]
fn sets_are_changed() {
    for (word, change) in [("add", "set-add"), ("remove", "set-remove"), ("replace", "set-replace")] {
        assert_eq!(
            changes(&["set", word, "bad", "10.0.0.1", "fd00::/8"]),
            [json!({ "change": change, "name": "bad", "members": ["10.0.0.1", "fd00::/8"] })]
        );
    }
    assert_eq!(changes(&["set", "delete", "bad"]), [json!({ "change": "set-delete", "name": "bad" })]);
}

#[test]
fn change_on_probation_says_how_to_keep_it() {
    let router = Router::with(&changed(&[12, 13], Some(30)));
    let socket = router.socket.to_str().expect("UTF-8");
    let arguments = ["rules", "add", "in", "deny", "--confirm", "30", "--expect", "7"];
    let shown = router.shows(&arguments);
    let request = &router.requests()[0];
    assert_eq!((&request["confirm_seconds"], &request["expected_generation"]), (&json!(30), &json!(7)));
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[2..4], ["new rules 12, 13", "generation 8: 1 rule added, 0 deleted, 5 kept"]);
    let until = lines[4]
        .strip_prefix("This change is undone at 20")
        .and_then(|rest| rest.strip_suffix(", unless you confirm it:"));
    assert!(until.is_some_and(|until| until.ends_with(", in 30 s")), "{shown}");
    assert_eq!(lines[5], format!("    uwsgi-tuntap --control {socket} rules confirm --expect 8"));
}

#[test]
fn dry_run_says_that_nothing_was_changed() {
    let router = Router::with(&changed(&[12], None));
    let shown = router.shows(&["rules", "delete", "3", "--dry-run"]);
    assert!(shown.ends_with("\nnothing was changed; it would be: 1 rule added, 0 deleted, 5 kept\n"), "{shown}");
    assert_eq!(router.requests()[0]["dry_run"], true);
    let json = router.shows(&["rules", "delete", "3", "--dry-run", "--json"]);
    assert_eq!(json, format!("{}\n", json!(changed(&[12], None))));
}

#[test]
fn probation_is_ended() {
    let router = Router::with(&changed(&[], None));
    assert!(
        router.shows(&["rules", "confirm", "--expect", "8"]).ends_with("\nconfirmed: the policy has generation 8\n")
    );
    assert!(router.shows(&["rules", "rollback"]).ends_with("\nrolled back: the policy has generation 8\n"));
    let confirm = json!({ "verb": "confirm", "expected_generation": 8 });
    assert_eq!(router.requests(), [confirm, json!({ "verb": "rollback" })]);
}

#[test]
fn flows_are_forgotten() {
    let router = Router::with(&Killed { flows: 1 });
    assert_eq!(router.shows(&["flows", "kill", "--uid", "1000"]), "1 flow forgotten\n");
    assert_eq!(router.requests(), [json!({ "verb": "flows-kill", "filter": { "uid": 1000 } })]);
    assert_eq!(router.shows(&["flows", "kill", "--uid", "1000", "--json"]), "{\"flows\":1}\n");
    assert!(router.fails(2, &["flows", "kill"]).contains("needs a condition"));
    assert!(router.fails(2, &["flows", "kill", "--uid", "1", "--limit", "5"]).contains("--limit"));
    assert_eq!(router.requests().len(), 1, "wrong ones are not sent");
}

#[test]
fn scripts_are_loaded_and_unloaded() {
    let router = Router::with(&ScriptStatus { is_loaded: true, ..ScriptStatus::default() });
    let file = router.file("policy.luau", "return 1");
    assert!(router.shows(&["script", "load", &file]).starts_with("script        loaded by a command\n"));
    router.shows(&["script", "unload"]);
    let load = |text: &str| json!({ "verb": "script-load", "text": text });
    assert_eq!(router.requests(), [load("return 1"), load("")]);
    // An empty file is hardly meant to unload the script.
    let empty = router.file("empty", "\n");
    assert!(router.fails(5, &["script", "load", &empty]).contains("script unload"));
    assert_eq!(router.requests(), [] as [Value; 0]);
}

#[test]
fn what_cannot_be_meant_is_a_usage_error() {
    let router = Router::with(&changed(&[], None));
    for arguments in [
        &["rules", "insert", "deny"][..],
        &["rules", "insert", "--before", "1", "--after", "2", "deny"],
        &["rules", "add", "forward", "deny"],
        &["rules", "add", "in"],
        &["rules", "add", "in", "deny", "--confirm", "0"],
        &["rules", "delete"],
        &["rules", "delete", "1", "--group", "web"],
        &["rules", "replace", "file", "--owner", "1000"],
        &["set", "add", "bad"],
        &["test", "out", "10.0.0.1", "example.org"],
        &["flows", "--verdict", "pass"],
        &["--timeout", "0", "peers"],
        &["--json", "man"],
        &["completions", "bash", "--json"],
        &["save", "--json", "/nowhere/rules"],
    ] {
        assert!(router.fails(2, arguments).starts_with("error: "), "{arguments:?}");
    }
    assert_eq!(router.requests(), [] as [Value; 0]);
}
