//! A router of the tests: a control socket with answers that the test gives.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A router that answers every request in the same way.
pub struct Router {
    pub socket: PathBuf,
    requests: Arc<Mutex<Vec<Value>>>,
    folder: TempDir,
}

impl Router {
    /// Answers with the lines that `answer` makes of a request; the connection is closed if there is none.
    pub fn new(answer: impl Fn(&Value) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("router.control");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        thread::spawn(move || {
            for client in listener.incoming() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                thread::spawn(move || serve(&client.expect("a client"), &seen, answer.as_ref()));
            }
        });
        Self { socket, requests, folder }
    }

    /// Answers every request with this result.
    pub fn with(result: &impl Serialize) -> Self {
        let result = json!(result);
        Self::new(move |request| ok(request, &result))
    }

    /// Refuses every request.
    pub fn refusing(failure: Value) -> Self {
        Self::new(move |request| line(&json!({ "id": request["id"], "error": failure })))
    }

    /// A folder of the test's own, in which the socket is, too.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file in that folder.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder().join(name);
        std::fs::write(&path, text).expect("own folder");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// Runs the command for this router.
    pub fn run(&self, arguments: &[&str]) -> Output {
        command().args(arguments).env("UWSGI_TUNTAP_CONTROL", &self.socket).output().expect("the command starts")
    }

    /// What standard output gets, of a command that succeeds.
    #[track_caller]
    pub fn shows(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!((text(&output.stderr).as_str(), output.status.code()), ("", Some(0)), "{}", text(&output.stdout));
        text(&output.stdout)
    }

    /// What standard error gets, of a command that fails with this exit code and shows nothing.
    #[track_caller]
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        fails(&self.run(arguments), code)
    }

    /// The requests until now without their numbers, which are forgotten.
    pub fn requests(&self) -> Vec<Value> {
        std::mem::take(&mut *self.requests.lock().expect("no panic"))
    }
}

/// The command, which knows no router, time zone or screen of the outer world.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uwsgi-tuntap"));
    command.env("TZ", "UTC").env_remove("COLUMNS").env_remove("UWSGI_TUNTAP_CONTROL");
    command
}

#[track_caller]
pub fn fails(output: &Output, code: i32) -> String {
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("", Some(code)), "{}", text(&output.stderr));
    text(&output.stderr)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// The answer to a request with this result.
pub fn ok(request: &Value, result: &Value) -> Vec<u8> {
    line(&json!({ "id": request["id"], "ok": result, "key_of_a_later_version": 1 }))
}

/// A document in a line.
pub fn line(document: &Value) -> Vec<u8> {
    format!("{document}\n").into_bytes()
}

fn serve(client: &UnixStream, seen: &Mutex<Vec<Value>>, answer: &dyn Fn(&Value) -> Vec<u8>) {
    for request in BufReader::new(client).lines() {
        // A client may go at any time.
        let Ok(request) = request else { return };
        let request: Value = serde_json::from_str(&request).expect("JSON");
        let answer = answer(&request);
        let mut request = request;
        request.as_object_mut().expect("an object").remove("id").expect("a number");
        seen.lock().expect("no panic").push(request);
        let mut client = client;
        if answer.is_empty() || client.write_all(&answer).is_err() || !answer.ends_with(b"\n") {
            return;
        }
    }
}

/// Copies a program, or writes a script, by install(1): a process that this one starts meanwhile must not inherit a
/// descriptor to write it, or it can't be executed ("Text file busy").
pub fn install(path: &Path, content: impl Into<Stdio>) {
    let status = Command::new("install").args(["-m", "755", "/dev/stdin"]).arg(path).stdin(content).status();
    assert!(status.expect("install(1)").success(), "{}", path.display());
}

/// What `content` of [`install`] may be: an open file.
pub fn content(text: &str) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(text.as_bytes()).and_then(|()| file.rewind()).expect("own file");
    file
}
