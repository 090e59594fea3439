//! One client of the control socket: the lines that it has sent, and the answers that wait for it. Everything is bounded, and
//! nothing ever blocks.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde::Serialize;
use serde_json::value::RawValue;

use super::filter::Filter;
use tuntap_api::control::{Failure, Level};
use tuntap_live::Caller;
use tuntap_sys::socket;

/// Longest line of a client that may change something, in bytes.
pub const MAX_LINE_LEN: usize = 8 * 1024 * 1024;

/// Longest line of a client that may only look, in bytes.
pub const MAX_VIEW_LINE_LEN: usize = 1024 * 1024;

/// Bytes that are read from a client in one turn.
const READ_LEN: usize = 64 * 1024;

/// A client whose answers have so many bytes waiting gets no further one until it has read some.
const OUTPUT_PAUSE: usize = 64 * 1024;

/// Longest answer in bytes.
const MAX_ANSWER_LEN: usize = 128 * 1024 * 1024;

/// A client that watches or captures.
#[derive(Debug)]
pub struct Watch {
    /// What its request had as `id`.
    pub id: Option<Box<RawValue>>,
    /// What it wants to see.
    pub what: Watched,
    /// Events that didn't fit what waits for it.
    pub left_out: u64,
}

/// What a client wants to see.
#[derive(Debug)]
pub enum Watched {
    /// Dropped packets.
    Drops(Filter),
    /// The packets of the capture of this number, and so many bytes of each.
    Capture(usize, usize),
}

impl Watch {
    /// Returns the number of its capture.
    pub const fn capture(&self) -> Option<usize> {
        match self.what {
            Watched::Capture(number, _) => Some(number),
            Watched::Drops(_) => None,
        }
    }
}

/// A client.
#[derive(Debug)]
pub struct Client {
    fd: OwnedFd,
    /// Who it is.
    pub caller: Caller,
    /// What it watches.
    pub watch: Option<Watch>,
    /// What has come and isn't answered.
    input: Vec<u8>,
    /// So many of these bytes have no end of a line among them.
    searched: usize,
    /// What is to be sent, and how much of it is sent.
    output: Vec<u8>,
    sent: usize,
    /// Nothing more comes.
    has_ended: bool,
    /// It is closed when everything is sent.
    is_leaving: bool,
    /// It can't be reached any more.
    is_gone: bool,
    /// When bytes came or were taken.
    moved_at: Instant,
}

/// What a client is sent.
#[derive(Debug, Serialize)]
struct Line<'a, T> {
    id: Option<&'a RawValue>,
    #[serde(flatten)]
    content: T,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Content<T> {
    Ok(T),
    Event(T),
    Error(T),
}

impl Client {
    /// A client that has just been accepted.
    pub const fn new(fd: OwnedFd, caller: Caller, now: Instant) -> Self {
        Self {
            fd,
            caller,
            watch: None,
            input: Vec::new(),
            searched: 0,
            output: Vec::new(),
            sent: 0,
            has_ended: false,
            is_leaving: false,
            is_gone: false,
            moved_at: now,
        }
    }

    /// Its connection.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Returns true if it is to be read.
    pub fn wants_input(&self) -> bool {
        !self.has_ended && !self.is_leaving && !self.has_line() && !self.is_paused()
    }

    /// Returns true if something is to be sent.
    pub const fn has_output(&self) -> bool {
        self.sent < self.output.len()
    }

    /// Returns true if a line is there that can be answered.
    pub fn is_ready(&self) -> bool {
        !self.is_leaving && !self.is_paused() && self.has_line()
    }

    /// Returns true if it is done with, or has gone.
    pub fn is_over(&self) -> bool {
        let has_nothing_to_wait_for = self.has_ended && self.input.is_empty() && self.watch.is_none();
        self.is_gone || ((self.is_leaving || has_nothing_to_wait_for) && !self.has_output())
    }

    /// Returns true if it takes nothing of what waits for it, or hasn't said anything, for so long.
    pub fn is_stuck(&self, for_at_least: Duration, now: Instant) -> bool {
        (self.has_output() || self.watch.is_none()) && now.saturating_duration_since(self.moved_at) >= for_at_least
    }

    /// Bytes that wait: those that it has sent.
    pub const fn input_len(&self) -> usize {
        self.input.len()
    }

    /// Bytes that wait: those that it is sent.
    pub const fn output_len(&self) -> usize {
        self.output.len() - self.sent
    }

    const fn is_paused(&self) -> bool {
        self.output_len() >= OUTPUT_PAUSE
    }

    /// At the end of the input the rest is a line, too.
    fn has_line(&self) -> bool {
        self.searched < self.input.len() || (self.has_ended && !self.input.is_empty())
    }

    const fn max_line_len(&self) -> usize {
        if matches!(self.caller.level, Level::View) { MAX_VIEW_LINE_LEN } else { MAX_LINE_LEN }
    }

    /// The other end of the connection is closed.
    pub const fn leave(&mut self) {
        self.is_gone = true;
    }

    /// Reads some of what has come.
    pub fn read(&mut self, now: Instant) {
        let before = self.input.len();
        self.input.resize(before + READ_LEN, 0);
        let result = socket::recv(self.fd.as_fd(), &mut self.input[before..]);
        self.input.truncate(before + result.unwrap_or(0));
        match result {
            Ok(0) => self.has_ended = true,
            Ok(_) => {
                self.moved_at = now;
                self.search();
                if self.searched > self.max_line_len() {
                    let message = format!("a line may have {} bytes at most", self.max_line_len());
                    self.refuse(Failure::too_much(message));
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.is_gone = true,
        }
    }

    /// Finds the end of the first line.
    fn search(&mut self) {
        let rest = &self.input[self.searched..];
        self.searched += rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }

    /// Takes the first line, without its end.
    pub fn take_line(&mut self) -> Option<Vec<u8>> {
        if !self.has_line() {
            return None;
        }
        let rest = self.input.split_off((self.searched + 1).min(self.input.len()));
        let mut line = std::mem::replace(&mut self.input, rest);
        line.truncate(self.searched);
        self.searched = 0;
        self.search();
        Some(line)
    }

    /// Sends the result of a request.
    pub fn answer(&mut self, id: Option<&RawValue>, result: Result<Box<RawValue>, Failure>) {
        match result {
            Ok(result) if result.get().len() > MAX_ANSWER_LEN => {
                let message = format!("the answer has {} bytes, which is too much", result.get().len());
                self.put(id, &Content::Error(Failure::too_much(message)));
            }
            Ok(result) => self.put(id, &Content::Ok(result)),
            Err(failure) => self.put(id, &Content::Error(failure)),
        }
    }

    /// Sends an event to a client that watches. One that doesn't read them fast enough is told how many were left out.
    pub fn tell<T: Serialize>(&mut self, event: &T) -> bool {
        if self.is_paused() {
            return false;
        }
        let id = self.watch.as_ref().and_then(|watch| watch.id.clone());
        self.put(id.as_deref(), &Content::Event(event));
        true
    }

    /// Says why nothing more is taken from this client, and closes it.
    pub fn refuse(&mut self, failure: Failure) {
        self.input = Vec::new();
        self.searched = 0;
        self.is_leaving = true;
        self.put(None, &Content::Error(failure));
    }

    fn put<T: Serialize>(&mut self, id: Option<&RawValue>, content: &T) {
        self.output.drain(..self.sent);
        self.sent = 0;
        // Writing plain values to memory doesn't fail.
        if serde_json::to_writer(&mut self.output, &Line { id, content }).is_ok() {
            self.output.push(b'\n');
        }
    }

    /// Sends what the connection takes.
    pub fn send(&mut self, now: Instant) {
        while self.has_output() {
            match socket::send(self.fd.as_fd(), &self.output[self.sent..]) {
                Ok(count) => {
                    self.sent += count;
                    self.moved_at = now;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => {
                    self.is_gone = true;
                    return;
                }
            }
        }
        self.output = Vec::new();
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn client(level: Level) -> (UnixStream, Client) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        (ours, Client::new(theirs.into(), Caller { uid: 0, pid: 1, level }, Instant::now()))
    }

    fn lines(client: &mut Client) -> Vec<String> {
        std::iter::from_fn(|| client.take_line()).map(|line| String::from_utf8(line).expect("UTF-8")).collect()
    }

    fn text(value: &str) -> Box<RawValue> {
        RawValue::from_string(value.to_owned()).expect("JSON")
    }

    #[test]
    fn lines_come_in_any_pieces() {
        let (mut ours, mut client) = client(Level::Admin);
        for (sent, expected) in [
            ("one\ntwo\nth", &["one", "two"][..]),
            ("re", &[]),
            ("e", &[]),
            ("\n\n\nfour\n", &["three", "", "", "four"]),
            ("the rest", &[]),
        ] {
            ours.write_all(sent.as_bytes()).expect("room");
            client.read(Instant::now());
            assert_eq!(lines(&mut client), expected, "after {sent:?}");
        }
        ours.shutdown(Shutdown::Write).expect("it is open");
        client.read(Instant::now());
        assert!(client.is_ready() && !client.is_over(), "the last line needs no end");
        assert_eq!(lines(&mut client), ["the rest"]);
        assert!(client.is_over() && !client.wants_input());
    }

    #[test]
    fn id_comes_back_as_it_was() {
        let (mut ours, mut client) = client(Level::View);
        let big = text("123456789012345678901234567890");
        client.answer(Some(&big), Ok(text("{\"a\":1}")));
        client.answer(None, Err(Failure::not_found("m".to_owned())));
        client.watch = Some(Watch { id: Some(text("[null]")), what: Watched::Drops(Filter::default()), left_out: 0 });
        assert!(client.tell(&7));
        client.send(Instant::now());
        let mut buffer = [0; 1000];
        let count = ours.read(&mut buffer).expect("answers");
        assert_eq!(
            String::from_utf8_lossy(&buffer[..count]),
            "{\"id\":123456789012345678901234567890,\"ok\":{\"a\":1}}\n\
             {\"id\":null,\"error\":{\"code\":\"not-found\",\"message\":\"m\"}}\n\
             {\"id\":[null],\"event\":7}\n"
        );
    }

    #[test]
    fn line_that_never_ends_is_refused() {
        let (mut ours, mut client) = client(Level::View);
        ours.set_nonblocking(true).expect("a socket");
        let chunk = [b'x'; 4096];
        let mut written = 0;
        while !client.is_leaving {
            while let Ok(count) = ours.write(&chunk) {
                written += count;
            }
            client.read(Instant::now());
            assert!(client.input_len() <= MAX_VIEW_LINE_LEN + READ_LEN);
        }
        assert!(written > MAX_VIEW_LINE_LEN);
        assert_eq!(client.input_len(), 0);
        client.send(Instant::now());
        assert!(client.is_over());
    }

    /// A client that doesn't read gets one answer, and is asked for no further request.
    #[test]
    fn answers_that_nobody_reads_stop_the_requests() {
        let (mut ours, mut client) = client(Level::View);
        ours.write_all(b"a\nb\n").expect("room");
        client.read(Instant::now());
        assert!(client.is_ready());
        client.answer(None, Ok(text(&format!("\"{}\"", "y".repeat(4 << 20)))));
        client.send(Instant::now());
        assert!(client.has_output() && !client.is_ready() && !client.wants_input());
        assert!(!client.tell(&1), "no event finds room");
        let now = Instant::now();
        assert!(!client.is_stuck(Duration::from_secs(9), now));
        assert!(client.is_stuck(Duration::from_secs(9), now + Duration::from_secs(10)));
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            ours.read_to_end(&mut all).expect("an end");
            all.len()
        });
        while client.has_output() {
            client.send(Instant::now());
        }
        assert!(client.is_ready());
        drop(client);
        assert!(reader.join().expect("no panic") > 4 << 20);
    }
}
