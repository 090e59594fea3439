//! Reads the statistics of a running router. Whoever answers may be somebody else, or hostile: time and length have bounds.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use tuntap_api::Snapshot;
use tuntap_sys::socket::connect_once;

/// Longest document that is read, in bytes. A router with 10,000 peers writes about 10 MB.
const MAX_LEN: usize = 32 << 20;

/// How long a router that wants no request may take for its first byte. One that wants a request waits as long as its client.
const FIRST_BYTE: Duration = Duration::from_secs(1);

const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// Where the statistics are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'a> {
    /// A unix socket, by path or `@name`.
    Unix(&'a str),
    /// A TCP port.
    Tcp(SocketAddr),
}

/// How a router serves its statistics (uWSGI's `stats-http`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// It writes the document as soon as a client connects.
    Plain,
    /// It waits for an HTTP request.
    Http,
    /// Not known: a request is sent if nothing comes for a second.
    Either,
}

/// A document, as text and as values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The JSON text, without the head of an HTTP response.
    pub json: Vec<u8>,
    /// The values.
    pub snapshot: Snapshot,
}

/// Why there are no statistics.
#[derive(Debug, thiserror::Error)]
pub enum StatisticsError {
    /// The connection isn't accepted.
    #[error("can't connect: {0}")]
    Connect(#[source] io::Error),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Connection(#[source] io::Error),
    /// The connection was accepted, and the answer didn't end in time.
    #[error("no complete answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// The answer is longer than any that is read.
    #[error("the answer is longer than {} MiB", MAX_LEN >> 20)]
    TooLong,
    /// The connection was closed without a byte.
    #[error(
        "the connection was closed without an answer: this is not where the statistics are, or this client may be a vassal"
    )]
    Nothing,
    /// An HTTP response without success.
    #[error("the answer to the HTTP request is {0:?}")]
    Status(String),
    /// An answer that is no router's.
    #[error("the answer isn't the statistics of a router: {0}")]
    Document(#[source] serde_json::Error),
}

/// Reads a router's statistics. The whole exchange may take as long as `timeout`.
///
/// # Errors
/// See [`StatisticsError`].
pub fn read(source: Source<'_>, transport: Transport, timeout: Duration) -> Result<Document, StatisticsError> {
    let deadline = Instant::now() + timeout;
    let answer = match ask(source, transport, deadline, timeout) {
        // A router that wants no request, and was late, closes the connection with the request unread. That resets a TCP
        // connection, and what the router has written may be lost.
        Err(StatisticsError::Connection(error))
            if transport == Transport::Either && error.kind() == io::ErrorKind::ConnectionReset =>
        {
            ask(source, Transport::Plain, deadline, timeout)
        }
        result => result,
    };
    let json = body(answer?)?;
    let snapshot = Snapshot::from_json(&json).map_err(StatisticsError::Document)?;
    Ok(Document { json, snapshot })
}

/// Connects, and reads the answer.
fn ask(
    source: Source<'_>,
    transport: Transport,
    deadline: Instant,
    timeout: Duration,
) -> Result<Vec<u8>, StatisticsError> {
    match source {
        Source::Unix(name) => {
            let stream = UnixStream::from(connect_once(name).map_err(StatisticsError::Connect)?);
            stream.set_nonblocking(false).map_err(StatisticsError::Connection)?;
            exchange(stream, transport, deadline, timeout)
        }
        Source::Tcp(address) => {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StatisticsError::Timeout(timeout));
            }
            let stream = TcpStream::connect_timeout(&address, left).map_err(StatisticsError::Connect)?;
            exchange(stream, transport, deadline, timeout)
        }
    }
}

/// A stream socket whose calls end in time.
trait Connection: Read + Write {
    /// Sets how long one call may take; `time` is not 0.
    fn limit(&self, time: Duration) -> io::Result<()>;
}

impl Connection for UnixStream {
    fn limit(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))?;
        self.set_write_timeout(Some(time))
    }
}

impl Connection for TcpStream {
    fn limit(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))?;
        self.set_write_timeout(Some(time))
    }
}

/// Sends a request if one is wanted, and reads to the end.
fn exchange(
    mut stream: impl Connection,
    transport: Transport,
    deadline: Instant,
    timeout: Duration,
) -> Result<Vec<u8>, StatisticsError> {
    let mut answer = Vec::new();
    let mut part = vec![0; 1 << 16];
    let mut is_undecided = transport == Transport::Either;
    let mut is_due = transport == Transport::Http;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(StatisticsError::Timeout(timeout));
        }
        stream.limit(if is_undecided { left.min(FIRST_BYTE) } else { left }).map_err(StatisticsError::Connection)?;
        let result = if is_due { stream.write_all(REQUEST).map(|()| None) } else { stream.read(&mut part).map(Some) };
        match result {
            Ok(None) => is_due = false,
            Ok(Some(0)) if answer.is_empty() => return Err(StatisticsError::Nothing),
            Ok(Some(0)) => return Ok(answer),
            Ok(Some(count)) => {
                is_undecided = false;
                answer.extend_from_slice(&part[..count]);
                if answer.len() > MAX_LEN {
                    return Err(StatisticsError::TooLong);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                is_due = std::mem::take(&mut is_undecided);
            }
            Err(error) => return Err(StatisticsError::Connection(error)),
        }
    }
}

/// Takes the head of an HTTP response off, if there is one.
fn body(mut answer: Vec<u8>) -> Result<Vec<u8>, StatisticsError> {
    if !answer.starts_with(b"HTTP/") {
        return Ok(answer);
    }
    let first_line = answer.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let status = String::from_utf8_lossy(&first_line[..first_line.len().min(MAX_STATUS_LEN)]).into_owned();
    let end = answer.windows(HEAD_END.len()).position(|bytes| bytes == HEAD_END);
    match end {
        Some(end) if status.split(' ').nth(1) == Some("200") => Ok(answer.split_off(end + HEAD_END.len())),
        _ => Err(StatisticsError::Status(status)),
    }
}

/// What ends the head of an HTTP response.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// Longest part of a status line that an error quotes, in bytes.
const MAX_STATUS_LEN: usize = 80;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::thread::{self, JoinHandle};

    use super::*;

    const DOCUMENT: &[u8] = br#"{"device":"emperor0","peers":[]}"#;
    const SHORT: Duration = Duration::from_millis(1500);
    const LONG: Duration = Duration::from_secs(20);

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
        let address = listener.local_addr().expect("it is bound");
        (listener, address)
    }

    /// Serves one client with this answer, after its request if `is_http`.
    fn serve(is_http: bool, answer: Vec<u8>) -> (SocketAddr, JoinHandle<()>) {
        let (listener, address) = listener();
        let serving = thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            if is_http {
                let mut request = [0; REQUEST.len()];
                client.read_exact(&mut request).expect("a request");
                assert_eq!(request, REQUEST);
            }
            // A client that has read enough goes.
            let _ = client.write_all(&answer);
        });
        (address, serving)
    }

    fn read_from(is_http: bool, transport: Transport, answer: &[u8]) -> Result<Document, StatisticsError> {
        let (address, serving) = serve(is_http, answer.to_vec());
        let result = read(Source::Tcp(address), transport, LONG);
        serving.join().expect("the router");
        result
    }

    fn error(answer: &[u8]) -> String {
        read_from(false, Transport::Plain, answer).expect_err("no statistics").to_string()
    }

    #[test]
    fn document_comes_with_and_without_a_request() {
        let response = [b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n", DOCUMENT].concat();
        for (is_http, transport, answer) in [
            (false, Transport::Plain, DOCUMENT),
            (false, Transport::Either, DOCUMENT),
            (true, Transport::Http, &response),
            (true, Transport::Either, &response),
        ] {
            let document = read_from(is_http, transport, answer).expect("statistics");
            assert_eq!((document.json.as_slice(), document.snapshot.device.as_str()), (DOCUMENT, "emperor0"));
        }
    }

    #[test]
    fn late_router_that_wants_no_request_is_understood() {
        let (listener, address) = listener();
        thread::spawn(move || {
            let (mut late, _) = listener.accept().expect("a client");
            thread::sleep(2 * FIRST_BYTE);
            late.write_all(DOCUMENT).expect("the client waits");
            drop(late);
            let (mut client, _) = listener.accept().expect("the client comes again");
            client.write_all(DOCUMENT).expect("the client reads");
        });
        let document = read(Source::Tcp(address), Transport::Either, LONG).expect("statistics");
        assert_eq!(document.snapshot.device, "emperor0");
    }

    #[test]
    fn other_answers_have_their_errors() {
        assert!(error(b"").contains("closed without an answer"));
        assert!(error(b"220 mail ESMTP\r\n").contains("isn't the statistics of a router"));
        assert!(error(&[0xff; 100]).contains("isn't the statistics of a router"));
        assert!(error(br#"{"pid":7,"workers":[]}"#).contains("missing field `peers`"));
        assert!(error(b"HTTP/1.0 404 \x1b[2JNo\r\n\r\n{}").contains(r#""HTTP/1.0 404 \u{1b}[2JNo""#));
        assert!(error(b"HTTP/1.0 200 OK\r\n").contains("HTTP/1.0 200 OK"), "a head without an end");
        assert!(error(&[&DOCUMENT[..DOCUMENT.len() - 1]].concat()).contains("EOF"), "a part of a document");
    }

    #[test]
    fn endless_answer_is_cut_off() {
        let (listener, address) = listener();
        let serving = thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            let part = vec![b' '; 1 << 20];
            let sent = (0..=2 * (MAX_LEN >> 20)).take_while(|_| client.write_all(&part).is_ok()).count();
            assert!(sent <= 2 * (MAX_LEN >> 20), "the client goes before the end");
        });
        assert!(matches!(read(Source::Tcp(address), Transport::Plain, LONG), Err(StatisticsError::TooLong)));
        serving.join().expect("the router");
    }

    #[test]
    fn silent_and_slow_routers_end_in_time() {
        let (listener, address) = listener();
        let begun = Instant::now();
        let silent = read(Source::Tcp(address), Transport::Plain, SHORT);
        assert!(matches!(silent, Err(StatisticsError::Timeout(_))), "{silent:?}");
        let dripping = thread::spawn(move || {
            // The first is the connection of before.
            let (_first, mut client) = (listener.accept(), listener.accept().expect("a client").0);
            while client.write_all(b" ").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let slow = read(Source::Tcp(address), Transport::Plain, SHORT);
        assert!(matches!(slow, Err(StatisticsError::Timeout(_))), "{slow:?}");
        assert!(begun.elapsed() < 2 * SHORT + LONG / 2, "{:?}", begun.elapsed());
        dripping.join().expect("the router");
    }

    #[test]
    fn full_queue_of_a_unix_socket_is_an_error_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("stats");
        let name = path.to_str().expect("UTF-8");
        let missing = read(Source::Unix(name), Transport::Plain, SHORT);
        assert!(matches!(missing, Err(StatisticsError::Connect(error)) if error.kind() == io::ErrorKind::NotFound));
        let _listener = UnixListener::bind(&path).expect("a socket");
        let mut waiting = Vec::new();
        while let Ok(client) = connect_once(name) {
            waiting.push(client);
            assert!(waiting.len() < 10_000, "a queue has an end");
        }
        let begun = Instant::now();
        assert!(matches!(read(Source::Unix(name), Transport::Plain, LONG), Err(StatisticsError::Connect(_))));
        assert!(begun.elapsed() < LONG / 2);
    }
}
