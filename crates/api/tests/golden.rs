//! The JSON document is an interface: collectors depend on its keys. `statistics.json` has them all.

use serde_json::{Value, json};
use tuntap_api::Snapshot;

const GOLDEN: &str = include_str!("statistics.json");

fn golden() -> Snapshot {
    Snapshot::from_json(GOLDEN.as_bytes()).expect("the statistics of a router")
}

/// Each value's path with the value, in the order of the document.
fn flatten(path: &str, value: &Value, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| flatten(&format!("{path}.{key}"), value, found)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, value)| flatten(&format!("{path}[{index}]"), value, found));
        }
        value => found.push((path.to_owned(), value.clone())),
    }
}

fn flattened(json: &[u8]) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    flatten("", &serde_json::from_slice(json).expect("JSON"), &mut found);
    found
}

#[test]
fn document_is_the_same_key_by_key() {
    let written = golden().to_json(false);
    let (wanted, found) = (flattened(GOLDEN.as_bytes()), flattened(&written));
    assert!(wanted.len() > 150, "a whole document: {} values", wanted.len());
    for (wanted, found) in wanted.iter().zip(&found) {
        assert_eq!(wanted, found);
    }
    assert_eq!(wanted.len(), found.len());
    // A reader of text, such as a shell script, sees the order and the indentation.
    assert_eq!(String::from_utf8_lossy(&written), GOLDEN);
}

#[test]
fn minified_document_is_one_line_with_the_same_values() {
    let written = golden().to_json(true);
    assert_eq!(flattened(&written), flattened(GOLDEN.as_bytes()));
    assert!(!written.contains(&b'\n') && !written.contains(&b'\t'));
}

#[test]
fn golden_values_are_where_they_belong() {
    let golden = golden();
    assert_eq!((golden.device.as_str(), golden.uptime), ("emperor0", 93784));
    assert_eq!((golden.peers[0].tx, golden.peers[0].rx, golden.peers[0].queued), (123_456, 654_321, 4096));
    assert_eq!((golden.totals.tun_rx_packets, golden.totals.rejections), (1, 18));
    assert_eq!((golden.limits_reached.max_peers, golden.limits_reached.max_device_rules), (1, 6));
    assert_eq!((golden.ports[0].peer, golden.ports[1].peer), (Some(4242), None));
    assert_eq!((golden.policy.generation, golden.policy.rules, golden.policy.pending), (7, 12, true));
    assert_eq!((golden.flows.count, golden.flows.max, golden.flows.evicted), (4000, 65536, 3));
    assert_eq!((golden.priority.nice, golden.sandbox.landlock), (Some(-11), Some(6)));
    let shaped = golden.peers[0].shape.out.as_ref().expect("a limit");
    assert_eq!((shaped.rate, shaped.ceil, shaped.delay_us, shaped.held), (20_000_000, 50_000_000, 3100, 99));
    assert_eq!(golden.peers[0].shape.inn.as_ref().expect("a limit").dropped_late, 1);
    assert!(golden.peers[1].shape.is_none() && golden.uplink.inn.is_none());
    assert_eq!(golden.uplink.out.as_ref().expect("a limit").waiting_packets, 40);
    let elsewhere = golden.elsewhere.as_ref().expect("other hosts");
    assert_eq!((elsewhere.sources[1].holdings, elsewhere.refused, elsewhere.own_id), (3, 21, 25));
    let routes = golden.routes.as_ref().expect("a routing daemon");
    assert_eq!((routes.refused.malformed, routes.session.as_ref().map(|it| it.withdrawn)), (48, Some(32)));
    let [trunk] = &golden.trunks[..] else { panic!("a trunk: {:?}", golden.trunks) };
    assert_eq!((trunk.dropped.hops, trunk.refused.looped, trunk.unknown_frames), (67, 70, 76));
    assert_eq!((golden.totals.trunk_rx_packets, golden.totals.trunk_tx_bytes), (49, 52));
    let path = golden.kernel_path.as_ref().expect("a path in the kernel");
    assert_eq!((path.pairs, path.watched, path.bytes, golden.peers[0].verdicts), (101, 106, 108, Some(109)));
    assert!(golden.drops.iter().any(|count| count == ("firewall", 3)));
}

#[test]
fn newer_router_may_say_more() {
    fn add_everywhere(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.values_mut().for_each(add_everywhere);
                let holds_counts_only = map.contains_key("too_short");
                map.insert(
                    "of_tomorrow".to_owned(),
                    if holds_counts_only { json!(7) } else { json!({ "a": [1, null] }) },
                );
            }
            Value::Array(list) => list.iter_mut().for_each(add_everywhere),
            _ => {}
        }
    }
    let mut document: Value = serde_json::from_str(GOLDEN).expect("JSON");
    add_everywhere(&mut document);
    let mut read = Snapshot::from_json(document.to_string().as_bytes()).expect("unknown keys are ignored");
    assert!(read.drops.iter().any(|count| count == ("of_tomorrow", 7)), "a new reason is no unknown key");
    let golden = golden();
    read.drops = golden.drops.clone();
    read.peers.iter_mut().zip(&golden.peers).for_each(|(read, golden)| read.drops = golden.drops.clone());
    assert_eq!(read, golden);
}

#[test]
fn nesting_of_unknown_values_costs_no_stack() {
    let deep = format!("{{\"peers\":[],\"x\":{}1{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    assert_eq!(Snapshot::from_json(deep.as_bytes()).expect("unknown keys are ignored"), Snapshot::default());
}

#[test]
fn older_router_may_say_less() {
    // What the C plugin says.
    let text = r#"{ "version": "2.0.28", "pid": 7, "uid": 0, "gid": 0, "cwd": "/", "peers":
        [{ "addr": "10.0.0.2", "addr_32": 33554442, "uid": 0, "gid": 0, "pid": 0, "tx": 1, "rx": 2, "dropped": 3 }] }"#;
    let read = Snapshot::from_json(text.as_bytes()).expect("missing keys have defaults");
    assert_eq!((read.peers[0].addr.as_str(), read.peers[0].rx, read.peers[0].dropped), ("10.0.0.2", 2, 3));
    assert_eq!((read.policy.generation, read.policy.pending, read.flows.max), (0, false, 0));
    assert!(read.peers[0].shape.is_none() && read.uplink.is_none());
    assert_eq!((read.device.as_str(), read.totals.accepted, read.drops.iter().count()), ("", 0, 0));
}

#[test]
fn other_documents_are_refused() {
    let twice = format!("{GOLDEN}{GOLDEN}");
    for text in [
        "",
        "{",
        "null",
        "[]",
        // uWSGI's own statistics.
        r#"{ "version": "2.0.28", "listen_queue": 0, "pid": 7, "uid": 0, "gid": 0, "cwd": "/", "workers": [] }"#,
        r#"{ "peers": 7 }"#,
        r#"{ "peers": [{ "tx": -1 }] }"#,
        r#"{ "peers": [{ "addresses": ["here"] }] }"#,
        &twice,
    ] {
        assert!(Snapshot::from_json(text.as_bytes()).is_err(), "{}", &text[..text.len().min(80)]);
    }
}
