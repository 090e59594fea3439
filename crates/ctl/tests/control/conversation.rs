//! Answers that are wrong, late, endless or missing.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::router::{Router, command, line, ok, text};

#[test]
fn refusal_is_told_and_is_exit_code_1() {
    // A code of a later version.
    let router = Router::refusing(json!({ "code": "asleep", "message": "no rule 99\u{1b}[2J\nfaked line", "hint": 1 }));
    let error = router.fails(1, &["rules", "delete", "99"]);
    assert_eq!(error, "uwsgi-tuntap: the router refuses: no rule 99\\u{1b}[2J\\u{a}faked line\n");
    let error = router.fails(1, &["rules", "delete", "99", "--json"]);
    assert!(error.starts_with(r#"{"error":{"code":"asleep","message":"no rule 99\u001b[2J\n"#), "{error}");
    let error = router.fails(1, &["watch"]);
    assert!(error.starts_with("uwsgi-tuntap: the router refuses: no rule 99"), "{error}");
}

#[test]
fn router_that_dies_leaves_a_doubt_about_changes_only() {
    for answer in [&b""[..], b"{\"id\":1,\"ok\":{\"generation\""] {
        let router = Router::new(move |_| answer.to_vec());
        let error = router.fails(4, &["rules", "list"]);
        assert!(error.contains("closed the connection") && !error.contains("uwsgi-tuntap log"), "{error}");
        for change in [&["rules", "delete", "1"][..], &["rules", "confirm"], &["script", "unload"]] {
            let error = router.fails(4, change);
            assert!(error.contains("closed the connection"), "{error}");
            assert!(error.contains("whether the change was made, `uwsgi-tuntap log` says"), "{error}");
        }
        assert!(!router.fails(4, &["rules", "delete", "1", "--dry-run"]).contains("uwsgi-tuntap log"));
    }
}

#[test]
fn answers_of_others_are_not_understood() {
    for (answer, words) in [
        ("220 mail ESMTP\n", "can't be understood"),
        ("[]\n", "can't be understood"),
        ("{\"id\":1}\n", "neither \"ok\" nor \"error\""),
        ("{\"id\":1,\"ok\":{\"generation\":-1,\"groups\":[]}}\n", "another version than this command"),
        ("{\"id\":1,\"ok\":{\"generation\":1}}\n", "missing field `groups`"),
        ("{\"id\":1,\"ok\":{\"generation\":\"\u{9b}2J\"}}\n", "\\u{9b}2J"),
    ] {
        let router = Router::new(move |_| answer.as_bytes().to_vec());
        let error = router.fails(4, &["rules", "list"]);
        assert!(error.contains(words) && error.lines().count() == 1, "{error}");
    }
    let router = Router::new(|_| b"{\"id\":1}\n".to_vec());
    assert!(router.fails(4, &["watch"]).contains("neither \"event\" nor \"error\""));
}

#[test]
fn keys_of_a_later_version_are_passed_over() {
    let list =
        json!({ "generation": 1, "groups": [{ "name": "live", "owner": null, "rules": [], "colour": 1 }], "x": {} });
    let router = Router::with(&list);
    assert!(router.shows(&["rules", "list"]).contains("group live: no rules"));
    assert_eq!(router.shows(&["rules", "list", "--json"]), format!("{list}\n"), "programs get them");
}

#[test]
fn silent_router_is_not_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("router.control");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let arguments = ["rules", "list", "--timeout", "1", "--control", socket.to_str().expect("UTF-8")];
    let output = command().args(arguments).output().expect("the command starts");
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains("no complete answer within 1 s"), "{}", text(&output.stderr));
}

#[test]
fn endless_answer_is_cut_off() {
    let router = Router::new(|_| vec![b'['; 129 << 20]);
    assert!(router.fails(4, &["rules", "list", "--timeout", "60"]).contains("longer than 128 MiB"));
    assert!(router.fails(4, &["watch"]).contains("longer than 1 MiB"));
}

#[test]
fn large_answer_is_read_whole() {
    let members: Vec<String> = (0..100_000_u32).map(|number| std::net::Ipv4Addr::from(number).to_string()).collect();
    let set = json!({ "name": "bad", "members": 100_000, "file": null, "rules": [], "list": members });
    let router = Router::with(&json!({ "sets": [set] }));
    assert_eq!(router.shows(&["set", "show", "bad"]).lines().count(), 100_000);
}

#[test]
fn large_text_is_sent_whole_and_a_larger_one_not_at_all() {
    let router = Router::with(&json!({ "rules": 1, "groups": 1, "sets": 0, "warnings": [] }));
    let rules = "# comment\n".repeat(1 << 18);
    let file = router.file("rules", &rules);
    router.shows(&["rules", "check", &file]);
    assert_eq!(router.requests()[0]["text"], rules.as_str());
    let file = router.file("rules", &"# comment\n".repeat(1 << 21));
    assert!(router.fails(5, &["rules", "check", &file]).contains("longer than 16 MiB"));
}

/// A router that reads only the beginning of a line that is too long for it, says so and goes.
#[test]
fn refusal_before_the_end_of_a_request_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("router.control");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let file = folder.path().join("rules");
    std::fs::write(&file, "# comment\n".repeat(1 << 18)).expect("own folder");
    let serving = thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        client.read_exact(&mut [0; 4096]).expect("a beginning");
        let answer = line(&json!({ "id": null, "error": { "code": "too-much", "message": "the line is too long" } }));
        std::io::Write::write_all(&mut client, &answer).expect("it waits");
    });
    let (socket, file) = (socket.to_str().expect("UTF-8"), file.to_str().expect("UTF-8"));
    let output = command().args(["rules", "check", file, "--control", socket]).output().expect("the command starts");
    serving.join().expect("the router");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), format!("{file}: the line is too long\n"));
}

#[test]
fn reader_that_goes_is_no_failure() {
    let event = json!({ "type": "left-out", "count": 1 });
    let router = Router::new(move |request| {
        if request["verb"] == "watch" {
            line(&json!({ "event": event })).repeat(1000)
        } else {
            ok(request, &json!({ "generation": 1, "groups": [] }))
        }
    });
    for arguments in [&["rules", "list"][..], &["watch"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = command();
        command.args(arguments).env("UWSGI_TUNTAP_CONTROL", &router.socket).stdout(writer);
        let output = command.output().expect("the command starts");
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn full_disk_is_exit_code_5() {
    let router = Router::with(&json!({ "generation": 1, "groups": [] }));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("each Linux has it");
    let mut command = command();
    command.args(["rules", "list"]).env("UWSGI_TUNTAP_CONTROL", &router.socket).stdout(full);
    let output = command.output().expect("the command starts");
    assert_eq!(output.status.code(), Some(5));
    assert!(text(&output.stderr).contains("the output can't be written: No space left"), "{}", text(&output.stderr));
}

#[test]
fn watch_shows_each_event_at_once_and_ends_by_a_signal() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::os::unix::process::ExitStatusExt;

    let router = Router::new(|_| line(&json!({ "event": { "type": "left-out", "count": 1 } })));
    let mut command = command();
    command.args(["watch"]).env("UWSGI_TUNTAP_CONTROL", &router.socket).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = command.spawn().expect("the command starts");
    let mut shown = [0; "(1 drop left out)\n".len()];
    watch.stdout.as_mut().expect("a pipe").read_exact(&mut shown).expect("an event");
    assert_eq!(&shown, b"(1 drop left out)\n");
    kill(Pid::from_raw(watch.id().try_into().expect("a pid")), Signal::SIGINT).expect("it runs");
    let output = watch.wait_with_output().expect("it ends");
    assert_eq!((output.status.signal(), text(&output.stderr).as_str()), (Some(2), ""));
}

#[test]
fn full_queue_is_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("router.control");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let mut waiting = Vec::new();
    while let Ok(connection) = tuntap_survey::control::connect(socket.to_str().expect("UTF-8")) {
        waiting.push(connection);
        assert!(waiting.len() < 10_000, "a queue has an end");
    }
    let serving = thread::spawn(move || {
        thread::sleep(Duration::from_millis(200));
        drop(waiting);
        for client in listener.incoming() {
            let mut client = client.expect("a client");
            let mut request = String::new();
            if std::io::BufRead::read_line(&mut std::io::BufReader::new(&client), &mut request).expect("a request") > 0
            {
                let answer = ok(&json!({}), &json!({ "generation": 1, "groups": [] }));
                return std::io::Write::write_all(&mut client, &answer).expect("it waits");
            }
        }
    });
    let arguments = ["rules", "list", "--control", socket.to_str().expect("UTF-8"), "--timeout", "60"];
    let output = command().args(arguments).output().expect("the command starts");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serving.join().expect("the router");
}
