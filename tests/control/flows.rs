//! Flows, packets to test, and packets that were dropped.

use std::io::ErrorKind;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Client, add};
use crate::common::emperor::{EMPEROR, V1};
use crate::common::link::Connection;
use crate::common::probe::{is_cut_off, is_reachable, send_udp};
use crate::common::wait;
use crate::world::{emperor, reload, start_vassal};

fn flows(client: &mut Client, filter: &Value) -> Vec<Value> {
    let list = client.ok(&json!({"verb": "flows-list", "filter": filter}));
    let flows = list["flows"].as_array().expect("flows").clone();
    assert_eq!(list["matching"], flows.len());
    flows
}

#[test]
fn flows_are_listed_outlive_a_router_and_are_forgotten() {
    let emperor = emperor().start();
    let vassal = start_vassal(&emperor, "v1", V1);
    let mut root = Client::root(&emperor);
    root.ok(&json!({"verb": "commit", "changes": [
        {"change": "group-replace", "group": "live", "text": "chain in\nallow any any established\ndeny any any\n"}]}));
    let mut connection = Connection::open(&vassal, &emperor.netns, EMPEROR);
    connection.assert_passes();
    let tcp = json!({"protocol": "tcp", "address": EMPEROR});
    let found = flows(&mut root, &tcp);
    assert_eq!(found.len(), 1, "{found:?}");
    let flow = &found[0];
    assert_eq!((&flow["local"], &flow["state"]), (&json!(V1), &json!("established")), "{flow}");
    assert_eq!(flow["peer"], emperor.vassal_pid("v1").expect("it runs"), "{flow}");
    assert!(flow["packets_out"].as_u64() > Some(1) && flow["bytes_in"].as_u64() >= Some(5000), "{flow}");
    for (filter, count) in [
        (json!({"peer": flow["peer"], "protocol": "tcp"}), 1),
        (json!({"peer": 1}), 0),
        (json!({"port": flow["local_port"], "verdict": "allow"}), 1),
        (json!({"port": flow["local_port"], "verdict": "deny"}), 0),
    ] {
        assert_eq!(flows(&mut root, &filter).len(), count, "{filter}");
    }

    // What is established is so for the next router.
    emperor.kill_router();
    connection.assert_passes();
    let mut root = Client::root(&emperor);
    assert_eq!(flows(&mut root, &tcp).len(), 1);
    assert_eq!(root.ok(&json!({"verb": "flows-list", "limit": 0}))["flows"], json!([]));

    assert_eq!(root.code(&json!({"verb": "flows-kill", "filter": {}})), "invalid");
    assert_eq!(root.ok(&json!({"verb": "flows-kill", "filter": tcp}))["flows"], 1);
    assert_eq!(flows(&mut root, &tcp).len(), 0);
    let counts = emperor.stats().0["flows"].clone();
    assert!(counts["max"].as_u64() > counts["count"].as_u64(), "{counts}");
}

/// A reload of the Emperor ends neither the vassal's flows nor what is known of them.
#[test]
fn flows_outlive_a_reload() {
    let emperor = emperor().start();
    let vassal = start_vassal(&emperor, "v1", V1);
    assert!(is_reachable(&vassal, EMPEROR));
    send_udp(&vassal, EMPEROR, 4321, b"x").expect("sent");
    let udp = json!({"protocol": "udp", "port": 4321});
    wait::until_true("there is a flow", wait::SHORT, || flows(&mut Client::root(&emperor), &udp).len() == 1);
    let before = flows(&mut Client::root(&emperor), &udp).remove(0);
    reload(&emperor);
    let after = flows(&mut Client::root(&emperor), &udp);
    assert_eq!(after.len(), 1);
    assert_eq!((&after[0]["local_port"], &after[0]["packets_out"]), (&before["local_port"], &before["packets_out"]));
}

#[test]
fn test_tells_the_way_of_a_packet() {
    let emperor = emperor().line("tuntap-router-switch = true").start();
    start_vassal(&emperor, "v1", V1);
    let mut root = Client::root(&emperor);
    let id = root.ok(&add("out", "reject any 192.0.2.0/24 tcp 25"))["rules"][0].clone();
    let packet = |dst: &str, port: u16| json!({"verb": "test", "packet": {"direction": "out", "src": V1, "dst": dst, "dst_port": port}});
    let rejected = root.ok(&packet("192.0.2.7", 25));
    assert_eq!(rejected["verdict"], "reject", "{rejected}");
    let steps = rejected["steps"].as_array().expect("steps");
    let chain = steps.iter().find(|step| step["stage"] == "chain-out").expect("that chain");
    assert_eq!((&chain["rule"], &chain["note"]), (&id, &json!("reject any 192.0.2.0/24 tcp 25")), "{rejected}");
    let passed = root.ok(&packet("192.0.2.7", 26));
    assert_eq!((&passed["verdict"], &passed["to"]), (&json!("allow"), &json!("tun")), "{passed}");
    let inward = json!({"verb": "test", "packet": {"direction": "in", "src": EMPEROR, "dst": V1}});
    let inward = root.ok(&inward);
    assert!(
        inward["to"].as_str().is_some_and(|to| to.starts_with("peer ") && to.contains(&V1.to_string())),
        "{inward}"
    );
    let strange = json!({"verb": "test", "packet": {"direction": "out", "src": "192.0.2.200", "dst": "192.0.2.1"}});
    assert_eq!(root.code(&strange), "not-found");
    assert_eq!(emperor.stats().drops("firewall"), 0, "nothing was counted");
}

#[test]
fn watch_tells_drops_with_their_rule() {
    let emperor = emperor().start();
    let vassal = start_vassal(&emperor, "v1", V1);
    let mut root = Client::root(&emperor);
    let id = root.ok(&add("out", "deny any any icmp"))["rules"][0].clone();
    root.ok(&add("out", "deny any any udp 53"));
    let mut watcher = Client::root(&emperor);
    watcher.send("{\"verb\":\"watch\",\"id\":\"w\",\"filter\":{\"protocol\":\"icmp\"}}\n");
    // A client may end its side, as `echo … | nc -N -U` does, and goes on watching.
    watcher.end();
    assert_eq!(watcher.line(), Some(json!({ "id": "w", "ok": {} })), "it watches from now on");
    let event = wait::until("an event", wait::LONG, || {
        send_udp(&vassal, EMPEROR, 53, b"x").expect("sent");
        assert!(is_cut_off(&vassal, EMPEROR));
        watcher.try_line(Duration::from_millis(500))
    });
    assert_eq!(event["id"], "w");
    let event = &event["event"];
    assert_eq!(
        (&event["type"], &event["rule"], &event["reason"]),
        (&json!("drop"), &id, &json!("firewall")),
        "{event}"
    );
    assert_eq!((&event["src"], &event["dst"], &event["protocol"]), (&json!(V1), &json!(EMPEROR), &json!(1)), "{event}");
    assert_eq!(event["peer"], emperor.vassal_pid("v1").expect("it runs"), "{event}");
}

/// A flood of drops is told in part, and the rest is counted.
#[test]
fn flood_of_drops_is_counted() {
    let emperor = emperor().start();
    let vassal = start_vassal(&emperor, "v1", V1);
    Client::root(&emperor).ok(&add("out", "deny any any udp"));
    let mut watcher = Client::root(&emperor);
    assert_eq!(watcher.ok(&json!({ "verb": "watch" })), json!({}));
    let (mut told, mut left_out) = (0, 0);
    wait::until_true("some are left out", wait::LONG, || {
        for port in 1000..2000 {
            match send_udp(&vassal, EMPEROR, port, b"x") {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => _ = result.expect("sent"),
            }
        }
        while let Some(event) = watcher.try_line(Duration::from_millis(300)) {
            match event["event"]["type"].as_str() {
                Some("drop") => told += 1,
                _ => left_out += event["event"]["count"].as_u64().expect("a number"),
            }
        }
        left_out > 0
    });
    assert!(told > 0, "some were told");
    assert!(is_reachable(&vassal, EMPEROR));
}
