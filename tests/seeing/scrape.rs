//! Reads metrics as a scraper does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::common::emperor::Emperor;
use crate::common::netns::Net;
use crate::common::wait;

/// A response: its head and its body.
#[derive(Debug, Clone)]
pub struct Response {
    pub head: String,
    pub body: String,
}

impl Response {
    /// Reads a connection to its end. It must not end before the length that its head tells.
    #[track_caller]
    fn of(mut stream: impl Read + Write, request: &str) -> std::io::Result<Self> {
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
        Ok(Self { head: head.to_owned(), body: body.to_owned() })
    }

    /// The value of a sample, which is named with all its labels.
    #[track_caller]
    pub fn value(&self, sample: &str) -> f64 {
        self.find(sample).unwrap_or_else(|| panic!("no {sample} in {}", self.body))
    }

    pub fn find(&self, sample: &str) -> Option<f64> {
        let line = self.body.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.map(|value| value.parse().expect("a number"))
    }
}

/// Sends a request to a unix socket.
pub fn ask_unix(path: &std::path::Path, request: &str) -> std::io::Result<Response> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(wait::SHORT))?;
    Response::of(stream, request)
}

/// Sends a request to a TCP address from inside a namespace.
pub fn ask_tcp(net: &Net, address: SocketAddr, request: &str) -> std::io::Result<Response> {
    let stream = net.run(|| TcpStream::connect_timeout(&address, wait::SHORT))?;
    stream.set_read_timeout(Some(wait::SHORT))?;
    Response::of(stream, request)
}

/// The metrics of a router that serves them at `metrics.sock`.
#[track_caller]
pub fn metrics(emperor: &Emperor) -> Response {
    ask_unix(&emperor.path("metrics.sock"), "GET /metrics HTTP/1.1\r\nHost: router\r\n\r\n").expect("metrics")
}

/// Has promtool check a text.
#[track_caller]
pub fn check(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool (scripts/setup test)");
    promtool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{told}\n{text}");
}
