//! A client of the control socket.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::emperor::Emperor;
use crate::common::netns::Net;
use crate::common::user::as_user;
use crate::common::wait;

/// A connection.
pub struct Client {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Client {
    /// Connects as root.
    #[track_caller]
    pub fn root(emperor: &Emperor) -> Self {
        Self::of(emperor, 0)
    }

    /// Connects as a user.
    #[track_caller]
    pub fn of(emperor: &Emperor, uid: u32) -> Self {
        let path = socket(emperor);
        Self::over(wait::until("a connection", wait::LONG, || connect(&emperor.netns, &path, uid).ok()))
    }

    pub fn over(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(wait::LONG)).expect("a socket");
        stream.set_write_timeout(Some(wait::LONG)).expect("a socket");
        let lines = BufReader::new(stream.try_clone().expect("a descriptor"));
        Self { stream, lines }
    }

    #[track_caller]
    pub fn send(&mut self, text: &str) {
        self.try_send(text).expect("the router takes it");
    }

    pub fn try_send(&mut self, text: &str) -> std::io::Result<()> {
        self.stream.write_all(text.as_bytes())
    }

    /// Sends nothing more.
    pub fn end(&self) {
        self.stream.shutdown(Shutdown::Write).expect("it is open");
    }

    /// The next line; `None` at the end.
    #[track_caller]
    pub fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// The next line, if it comes soon.
    pub fn try_line(&mut self, within: Duration) -> Option<Value> {
        self.set_timeout(within);
        let mut line = String::new();
        let result = self.lines.read_line(&mut line);
        self.set_timeout(wait::LONG);
        result.ok().filter(|count| *count > 0).map(|_| serde_json::from_str(&line).expect("JSON"))
    }

    /// Everything up to the end.
    pub fn rest(&mut self) -> String {
        let mut rest = String::new();
        let _ = self.lines.read_to_string(&mut rest);
        rest
    }

    /// Sends a request and returns the whole answer.
    #[track_caller]
    pub fn ask(&mut self, request: &Value) -> Value {
        self.send(&format!("{request}\n"));
        self.line().unwrap_or_else(|| panic!("no answer to {request}"))
    }

    /// The result of a request that succeeds.
    #[track_caller]
    pub fn ok(&mut self, request: &Value) -> Value {
        let answer = self.ask(request);
        assert!(answer["error"].is_null(), "{request}: {answer}");
        answer["ok"].clone()
    }

    /// The code of a request that fails.
    #[track_caller]
    pub fn code(&mut self, request: &Value) -> String {
        let answer = self.ask(request);
        answer["error"]["code"].as_str().unwrap_or_else(|| panic!("{request}: {answer}")).to_owned()
    }

    #[track_caller]
    pub fn generation(&mut self) -> u64 {
        self.ok(&json!({"verb": "status"}))["generation"].as_u64().expect("a number")
    }

    /// The texts of the rules of a group, without counters.
    #[track_caller]
    pub fn rules(&mut self, group: &str) -> Vec<String> {
        let list = self.ok(&json!({"verb": "rules-list"}));
        let groups = list["groups"].as_array().expect("groups");
        let found = groups.iter().find(|entry| entry["name"] == group);
        let rules = found.map(|entry| entry["rules"].as_array().expect("rules").clone()).unwrap_or_default();
        rules.iter().map(|rule| rule["rule"].as_str().expect("a text").to_owned()).collect()
    }

    pub fn set_timeout(&self, timeout: Duration) {
        self.stream.set_read_timeout(Some(timeout)).expect("a socket");
    }
}

/// Where a router of these tests takes requests.
pub fn socket(emperor: &Emperor) -> std::path::PathBuf {
    emperor.path("t.sock.control")
}

/// Connects as a user, in a network namespace.
pub fn connect(net: &Net, path: &Path, uid: u32) -> std::io::Result<UnixStream> {
    net.run(|| if uid == 0 { UnixStream::connect(path) } else { as_user(uid, || UnixStream::connect(path)) })
}

/// A commit that adds a rule to the group `live`.
pub fn add(chain: &str, rule: &str) -> Value {
    json!({"verb": "commit", "changes": [{"change": "rule-add", "chain": chain, "rule": rule}]})
}

/// The same, undone after so many seconds.
pub fn add_for(chain: &str, rule: &str, seconds: u32) -> Value {
    let mut request = add(chain, rule);
    request["confirm_seconds"] = seconds.into();
    request
}
