//! Clients that mean harm, or know no better. Meanwhile the router forwards, and answers others.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Client, connect, socket};
use crate::common::emperor::{EMPEROR, Emperor, V1};
use crate::common::link::Connection;
use crate::common::probe::pings_answered;
use crate::common::wait;
use crate::world::{VIEWER, emperor, start_vassal, with_access};

/// More connections than one user may have, and than all may have.
const MANY: usize = 100;

#[test]
fn requests_are_answered_in_order_and_with_their_ids() {
    let emperor = emperor().start();
    let mut client = Client::root(&emperor);
    let ids = [json!(1), json!("two"), json!(null), json!({"a": [1.5, true]}), json!([])];
    let status = |id: &Value| format!("{}\n", json!({"id": id, "verb": "status"}));
    client.send(&ids.iter().map(status).collect::<String>());
    for id in &ids {
        let answer = client.line().expect("an answer");
        assert_eq!((&answer["id"], &answer["ok"]["device"]), (id, &json!("emperor0")));
    }
    client.send("\n  \n{\"verb\": \"status\", \"id\": 123456789012345678901234567890}\n");
    let mut text = String::new();
    client.end();
    text.push_str(&client.rest());
    assert!(text.starts_with("{\"id\":123456789012345678901234567890,\"ok\":"), "{text}");
}

/// As `echo … | nc -N -U` does, with or without the end of the last line.
#[test]
fn client_that_says_no_more_gets_its_answers() {
    let emperor = emperor().start();
    let mut client = Client::root(&emperor);
    client.send("{\"verb\":\"peers\",\"id\":1}\n{\"verb\":\"status\",\"id\":2}");
    client.end();
    assert_eq!(client.line().expect("an answer")["id"], 1);
    assert_eq!(client.line().expect("an answer")["id"], 2);
    assert!(client.line().is_none(), "then the router hangs up");
}

#[test]
fn wrong_requests_are_named_and_garbage_ends_the_connection() {
    let emperor = emperor().start();
    let mut client = Client::root(&emperor);
    for (request, part) in [
        (json!({"verb": "statsu", "id": 1}), "statsu"),
        (json!({"verb": "status", "id": 2, "colour": "blue"}), "colour"),
        (json!({"id": 3}), "verb"),
        (json!({"verb": "rules-list", "id": 4, "chain": "sideways"}), "sideways"),
    ] {
        let answer = client.ask(&request);
        assert_eq!((&answer["id"], answer["error"]["code"].as_str()), (&request["id"], Some("invalid")), "{answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains(part)), "{answer}");
    }
    client.ok(&json!({"verb": "status"}));
    for garbage in ["GET / HTTP/1.0\r\n\r\n", "[1]\n", "7\n", "\u{0}\n", "{\"verb\":\n"] {
        let mut client = Client::root(&emperor);
        client.send(garbage);
        let answer = client.line().expect("a reason");
        assert_eq!(answer["error"]["code"], "invalid", "{garbage:?}: {answer}");
        assert!(client.line().is_none(), "{garbage:?}: and the end");
    }
}

/// Does `harm` while a connection of a vassal works, pings are answered, and root is answered.
#[track_caller]
fn assert_harmless(emperor: &Emperor, harm: impl FnOnce()) {
    let vassal = start_vassal(emperor, "v1", V1);
    let mut connection = Connection::open(&vassal, &emperor.netns, EMPEROR);
    let router = emperor.router_pid();
    harm();
    connection.assert_passes();
    assert_eq!(pings_answered(&vassal, EMPEROR, 3, &[]), 3);
    let mut root = Client::root(emperor);
    assert_eq!(root.ok(&json!({"verb": "status"}))["device"], "emperor0");
    assert_eq!(emperor.router_pid(), router, "the same router");
}

#[test]
fn many_connections_of_one_user_keep_nobody_out() {
    let emperor = with_access().start();
    let mut held = Vec::new();
    assert_harmless(&emperor, || {
        for _ in 0..MANY {
            held.push(connect(&emperor.netns, &socket(&emperor), VIEWER));
        }
    });
    let mut refused = 0;
    for stream in held.into_iter().flatten() {
        let mut client = Client::over(stream);
        client.set_timeout(Duration::from_millis(20));
        refused += usize::from(client.rest().contains("busy"));
    }
    assert!(refused > 0, "most of them were turned away");
}

/// Each sends a line without an end, as long as the router takes it.
#[test]
fn endless_lines_end() {
    let emperor = with_access().start();
    assert_harmless(&emperor, || {
        let floods: Vec<_> = (0..8).map(|_| Client::of(&emperor, VIEWER)).collect();
        let floods: Vec<_> = floods
            .into_iter()
            .map(|mut client| {
                thread::spawn(move || {
                    let chunk = "x".repeat(1 << 16);
                    let mut sent = 0;
                    while sent < 64 << 20 && client.try_send(&chunk).is_ok() {
                        sent += chunk.len();
                    }
                    (sent, client.rest())
                })
            })
            .collect();
        for flood in floods {
            let (sent, answer) = flood.join().expect("no panic");
            assert!(sent < 64 << 20 && answer.contains("too-much"), "{sent} bytes, then {answer:?}");
        }
    });
}

/// Each asks again and again, and reads nothing.
#[test]
fn clients_that_read_nothing_wait_for_themselves() {
    let emperor = with_access().start();
    let mut root = Client::root(&emperor);
    let rules: String =
        (0..2000).map(|number| format!("deny 10.{}.{}.0/24 any\n", number / 250, number % 250)).collect();
    let text = format!("chain in\n{rules}");
    root.ok(&json!({"verb": "commit", "changes": [{"change": "group-replace", "group": "big", "text": text}]}));
    let mut deaf: Vec<UnixStream> = Vec::new();
    assert_harmless(&emperor, || {
        for _ in 0..8 {
            let mut stream = connect(&emperor.netns, &socket(&emperor), VIEWER).expect("room");
            stream.set_nonblocking(true).expect("a socket");
            while stream.write(b"{\"verb\":\"rules-list\"}\n").is_ok() {}
            deaf.push(stream);
        }
    });
    // One of them begins to read at last, and gets what it has asked for.
    let mut stream = deaf.swap_remove(0);
    stream.set_nonblocking(false).expect("a socket");
    stream.set_read_timeout(Some(wait::LONG)).expect("a socket");
    let mut bytes = vec![0; 1 << 20];
    stream.read_exact(&mut bytes).expect("many answers");
}

/// Clients that come and go in the middle of everything.
#[test]
fn clients_that_leave_early_leave_nothing_behind() {
    let emperor = with_access().start();
    let count = || crate::common::processes::descriptors(emperor.router_pid()).len();
    let before = count();
    assert_harmless(&emperor, || {
        for number in 0..MANY {
            let Ok(mut stream) = connect(&emperor.netns, &socket(&emperor), if number % 2 == 0 { 0 } else { VIEWER })
            else {
                continue;
            };
            let text = ["", "{\"verb\":\"watch\"}\n", "{\"verb\":\"rules-list\"}\n{\"ve", "{\"verb\":\"status\"}\n"];
            let _ = stream.write_all(text[number % text.len()].as_bytes());
        }
    });
    // The vassal has added its connection and its device.
    wait::until_true("nothing stays open", wait::LONG, || count() <= before + 2);
}
