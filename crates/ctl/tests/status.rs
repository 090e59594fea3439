//! `uwsgi-tuntap status` against sockets of the tests, which serve a document as a router does.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

/// The statistics of a router.
const DOCUMENT: &str = include_str!("../../api/tests/statistics.json");
/// What the command prints for them.
const OVERVIEW: &str = include_str!("overview.txt");

fn status(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uwsgi-tuntap"));
    command.arg("status").args(arguments).output().expect("the command starts")
}

#[track_caller]
fn assert_shows(output: &Output, wanted: &str) {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(String::from_utf8_lossy(&output.stdout), wanted);
    assert!(output.status.success());
}

/// Fails with one line that has these words in it, and shows nothing.
#[track_caller]
fn assert_fails(output: &Output, words: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.starts_with("uwsgi-tuntap: ") && error.contains(words), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert_eq!(output.status.code(), Some(4));
}

/// Serves one client.
fn serve(mut client: impl Write, answer: &[u8]) {
    // A client that has read enough goes.
    let _ = client.write_all(answer);
}

/// Serves one client of a TCP port. Returns the port.
fn serve_tcp(answer: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || serve(listener.accept().expect("a client").0, &answer));
    port
}

#[test]
fn overview_comes_over_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("stats.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let path = path.to_str().expect("UTF-8");
    let serving = thread::spawn(move || {
        (0..2).for_each(|_| serve(listener.accept().expect("a client").0, DOCUMENT.as_bytes()));
    });
    assert_shows(&status(&[path]), OVERVIEW);
    assert_shows(&status(&[path, "--json"]), &format!("{DOCUMENT}\n"));
    serving.join().expect("the router");
    assert_fails(&status(&[path]), "can't connect: ");
}

#[test]
fn abstract_name_is_uwsgis() {
    let name = format!("tuntap-status-{}", std::process::id());
    // As uWSGI itself binds them, abstract names end with a zero.
    let address = SocketAddr::from_abstract_name(format!("{name}\0")).expect("a name");
    let listener = UnixListener::bind_addr(&address).expect("a socket");
    thread::spawn(move || serve(listener.accept().expect("a client").0, DOCUMENT.as_bytes()));
    assert_shows(&status(&[&format!("@{name}")]), OVERVIEW);
}

#[test]
fn overview_comes_over_tcp() {
    let port = serve_tcp(DOCUMENT.into());
    assert_shows(&status(&[&format!("127.0.0.1:{port}")]), OVERVIEW);
}

#[test]
fn overview_comes_over_http_asked_for_or_not() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
    let port = listener.local_addr().expect("it is bound").port();
    let serving = thread::spawn(move || {
        for _ in 0..2 {
            let (mut client, _) = listener.accept().expect("a client");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).expect("a request");
                request.push(byte[0]);
            }
            let head = "HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n\r\n";
            serve(client, format!("{head}{DOCUMENT}").as_bytes());
        }
    });
    assert_shows(&status(&[&format!("http://127.0.0.1:{port}/")]), OVERVIEW);
    assert_shows(&status(&[&format!("127.0.0.1:{port}"), "--json"]), &format!("{DOCUMENT}\n"));
    serving.join().expect("the router");
}

#[test]
fn what_is_no_router_is_one_line() {
    assert_fails(&status(&["/run/no-such-folder/stats"]), "/run/no-such-folder/stats: can't connect: ");
    assert_fails(&status(&["127.0.0.1:stats"]), "expected a path, @name, host:port or http://host:port");
    assert_fails(&status(&["http://127.0.0.1"]), "has no port");
    for (answer, words) in [
        (&b""[..], "closed without an answer"),
        (b"220 mail ESMTP\r\n", "isn't the statistics of a router"),
        (br#"{ "version": "2.0.28", "workers": [] }"#, "missing field `peers`"),
        (&DOCUMENT.as_bytes()[..1000], "isn't the statistics of a router"),
        (br#"{ "peers": [{ "tx": -1 }] }"#, "isn't the statistics of a router"),
    ] {
        let port = serve_tcp(answer.to_vec());
        assert_fails(&status(&[&format!("127.0.0.1:{port}")]), words);
    }
}

#[test]
fn silent_router_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
    let address = listener.local_addr().expect("it is bound").to_string();
    let begun = Instant::now();
    assert_fails(&status(&[&address, "--timeout", "1"]), "no complete answer within 1 s");
    assert!((1..20).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[test]
fn endless_router_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
    let address = listener.local_addr().expect("it is bound").to_string();
    let serving = thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        client.set_write_timeout(Some(Duration::from_secs(60))).expect("a time");
        while client.write_all(&[b'['; 1 << 16]).is_ok() {}
    });
    assert_fails(&status(&[&address, "--timeout", "60"]), "the answer is longer than 32 MiB");
    serving.join().expect("the router");
}

#[test]
fn hostile_router_writes_no_escape_sequences() {
    let document = br#"{ "device": "emperor0\u001b[2J\r", "peers": [{ "stream_reason": "\u009b0m\nfaked line" }] }"#;
    let port = serve_tcp(document.to_vec());
    let output = status(&[&format!("127.0.0.1:{port}")]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.starts_with(r"emperor0\u{1b}[2J\u{d}: pid 0"), "{text}");
    assert!(text.contains(r"frames: \u{9b}0m\u{a}faked line"), "{text}");
}

#[test]
fn reader_that_goes_is_no_failure() {
    let port = serve_tcp(DOCUMENT.into());
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_uwsgi-tuntap"));
    command.args(["status", &format!("127.0.0.1:{port}")]).stdout(writer);
    let output = command.output().expect("the command starts");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}
