//! One conversation with a router on its control socket. Whoever answers may be somebody else, or hostile: time and length
//! have bounds.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tuntap_api::control::Request;
use tuntap_survey::control;

use crate::failure::{Failed, Refusal};
use crate::text::{Printable, escaped};

/// Longest answer that is read, in bytes. A set of a million networks has up to 45 MB.
const MAX_ANSWER: usize = 128 << 20;

/// Longest event that is read, in bytes.
const MAX_EVENT: usize = 1 << 20;

/// Pause between two attempts to connect while a router's queue of connections is full.
const PAUSE: Duration = Duration::from_millis(20);

/// The number of the only request that is under way at a time.
const REQUEST_ID: u32 = 1;

/// A connection to a router.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    name: String,
    timeout: Duration,
    /// What was received. The first `taken` bytes are lines that were read.
    buffer: Vec<u8>,
    taken: usize,
    /// Between `taken` and here `buffer` has no end of a line in it.
    searched: usize,
}

#[derive(Serialize)]
struct Envelope<'a> {
    id: u32,
    #[serde(flatten)]
    request: &'a Request,
}

/// A line of the router's. Keys that are unknown are passed over.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    ok: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    error: Option<Refusal>,
}

impl Client {
    /// Goes on with a connection to the socket of that name.
    pub const fn new(stream: UnixStream, name: String, timeout: Duration) -> Self {
        Self { stream, name, timeout, buffer: Vec::new(), taken: 0, searched: 0 }
    }

    /// Connects to a path or `@name`.
    ///
    /// # Errors
    /// There is no listener, or its queue of connections stays full for `timeout`.
    pub fn connect(name: &str, timeout: Duration) -> Result<Self, Failed> {
        let deadline = Instant::now() + timeout;
        loop {
            match control::connect(name) {
                Ok(connection) => return Ok(Self::new(connection.stream, name.to_owned(), timeout)),
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(PAUSE);
                }
                Err(error) => {
                    return Err(Failed::Unreachable(format!("{}: can't connect: {error}", Printable(name))));
                }
            }
        }
    }

    /// The name of the socket.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Another handle of the connection, by which another thread can end it.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn handle(&self) -> Result<UnixStream, Failed> {
        self.stream.try_clone().map_err(|error| self.broken(&error))
    }

    /// Waits for answers so long from now on.
    pub const fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Sends a request and returns its result.
    ///
    /// # Errors
    /// The router refuses, or there is no answer that can be understood.
    pub fn ask(&mut self, request: &Request) -> Result<Box<RawValue>, Failed> {
        let deadline = Instant::now() + self.timeout;
        self.send(request, deadline)?;
        let line = self.read_line(Some(deadline), MAX_ANSWER).map_err(|failed| with_doubt(failed, request))?;
        let line = self.parse(&line)?;
        match (line.ok, line.error) {
            (_, Some(refusal)) => Err(Failed::Refused(refusal)),
            (Some(result), None) => Ok(result.to_owned()),
            (None, None) => Err(self.not_understood("it has neither \"ok\" nor \"error\"")),
        }
    }

    /// Sends a request whose events [`Self::next_event`] returns.
    ///
    /// # Errors
    /// The connection breaks.
    pub fn subscribe(&mut self, request: &Request) -> Result<(), Failed> {
        self.send(request, Instant::now() + self.timeout)
    }

    /// Waits for the next event, without an end.
    ///
    /// # Errors
    /// The router refuses, goes, or sends what can't be understood.
    pub fn next_event(&mut self) -> Result<Box<RawValue>, Failed> {
        loop {
            let line = self.read_line(None, MAX_EVENT)?;
            match self.parse(&line)? {
                Line { error: Some(refusal), .. } => return Err(Failed::Refused(refusal)),
                Line { event: Some(event), .. } => return Ok(event.to_owned()),
                // It may say that it has understood.
                Line { ok: Some(_), .. } => {}
                _ => return Err(self.not_understood("it has neither \"event\" nor \"error\"")),
            }
        }
    }

    /// Returns true if the next event has come already.
    pub fn has_event(&self) -> bool {
        self.buffer[self.searched..].contains(&b'\n')
    }

    fn send(&mut self, request: &Request, deadline: Instant) -> Result<(), Failed> {
        let mut line = serde_json::to_vec(&Envelope { id: REQUEST_ID, request })
            .map_err(|error| Failed::Local(format!("the request can't be written as JSON: {error}")))?;
        line.push(b'\n');
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            let left = self.left(deadline)?;
            self.stream.set_write_timeout(Some(left)).map_err(|error| self.broken(&error))?;
            match self.stream.write(rest) {
                Ok(count) => rest = &rest[count..],
                // A router that has read enough, say of a line that is too long, may have said why.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => break,
                Err(error) if may_go_on(&error) => {}
                Err(error) => return Err(self.broken(&error)),
            }
        }
        Ok(())
    }

    /// Reads to the end of a line.
    fn read_line(&mut self, deadline: Option<Instant>, most: usize) -> Result<Vec<u8>, Failed> {
        let mut part = Vec::new();
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let end = self.searched + end + 1;
                let line = self.buffer[self.taken..end].to_vec();
                (self.taken, self.searched) = (end, end);
                return Ok(line);
            }
            self.buffer.drain(..std::mem::take(&mut self.taken));
            self.searched = self.buffer.len();
            part.resize(1 << 16, 0);
            if self.buffer.len() > most {
                return Err(self.failed(&format!("the answer is longer than {} MiB", most >> 20)));
            }
            let left = deadline.map(|deadline| self.left(deadline)).transpose()?;
            self.stream.set_read_timeout(left).map_err(|error| self.broken(&error))?;
            match self.stream.read(&mut part) {
                Ok(0) if self.buffer.is_empty() => return Err(self.failed("the router closed the connection")),
                Ok(0) => return Err(self.failed("the router closed the connection in the middle of its answer")),
                Ok(count) => self.buffer.extend_from_slice(&part[..count]),
                Err(error) if may_go_on(&error) => {}
                Err(error) => return Err(self.broken(&error)),
            }
        }
    }

    fn parse<'a>(&self, line: &'a [u8]) -> Result<Line<'a>, Failed> {
        serde_json::from_slice(line).map_err(|error| self.not_understood(&error.to_string()))
    }

    /// The time until the deadline, which is not 0.
    fn left(&self, deadline: Instant) -> Result<Duration, Failed> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.failed(&format!("no complete answer within {} s", self.timeout.as_secs_f32())));
        }
        Ok(left)
    }

    fn broken(&self, error: &io::Error) -> Failed {
        self.failed(&format!("the connection broke: {error}"))
    }

    fn not_understood(&self, why: &str) -> Failed {
        self.failed(&not_understood(why))
    }

    fn failed(&self, what: &str) -> Failed {
        Failed::Unreachable(format!("{}: {what}", Printable(&self.name)))
    }
}

/// Reads the result of a request. Keys that are unknown are passed over.
///
/// # Errors
/// A key is missing or has another type.
pub fn read<T: DeserializeOwned>(result: &RawValue) -> Result<T, Failed> {
    serde_json::from_str(result.get()).map_err(|error| Failed::Unreachable(not_understood(&error.to_string())))
}

fn not_understood(why: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "the answer can't be understood ({}): it isn't a router's, or the router has another version than this command, \
         {version}",
        escaped(why)
    )
}

/// A change whose answer is missing may have been made.
fn with_doubt(failed: Failed, request: &Request) -> Failed {
    let changes = match request {
        Request::Commit { dry_run, .. } => !dry_run,
        Request::Confirm { .. } | Request::Rollback {} | Request::FlowsKill { .. } | Request::ScriptLoad { .. } => true,
        _ => false,
    };
    match failed {
        Failed::Unreachable(what) if changes => {
            Failed::Unreachable(format!("{what}; whether the change was made, `uwsgi-tuntap log` says"))
        }
        other => other,
    }
}

/// Returns true if a call was interrupted or has waited long enough, and the deadline decides.
fn may_go_on(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
