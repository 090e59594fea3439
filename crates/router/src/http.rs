//! The little of HTTP (RFC 9112) that collectors of statistics speak: one request, one response, and the connection's end.

use std::str;

/// The type of what is told besides documents.
pub const PLAIN: &str = "text/plain; charset=utf-8";

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// With a document.
    Ok,
    /// The request can't be read.
    BadRequest,
    /// There is no such document.
    NotFound,
    /// Documents can only be read.
    MethodNotAllowed,
    /// The request's head is longer than anybody needs (RFC 6585, section 5).
    HeadTooLong,
}

impl Status {
    const fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed\r\nAllow: GET, HEAD",
            Self::HeadTooLong => "431 Request Header Fields Too Large",
        }
    }
}

/// A request to read a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// The path, without a query.
    pub path: &'a str,
    /// True if the client wants the response's head alone.
    pub is_head: bool,
    /// The media types that the client takes, all header fields Accept joined. Empty if it says none.
    pub accept: String,
}

impl<'a> Request<'a> {
    /// Reads the head of a request.
    ///
    /// # Errors
    /// Says how it is to be answered if it is none, or no request to read something.
    pub fn read(head: &'a [u8]) -> Result<Self, Status> {
        let head = str::from_utf8(head).map_err(|_| Status::BadRequest)?;
        let mut lines = head.lines();
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Status::BadRequest);
        };
        if !version.starts_with("HTTP/1.") {
            return Err(Status::BadRequest);
        }
        let is_head = match method {
            "GET" => false,
            "HEAD" => true,
            _ => return Err(Status::MethodNotAllowed),
        };
        let fields = lines.filter_map(|line| line.split_once(':'));
        let accepted: Vec<_> =
            fields.filter(|(name, _)| name.eq_ignore_ascii_case("accept")).map(|(_, value)| value.trim()).collect();
        Ok(Self { path: path_of(target), is_head, accept: accepted.join(",") })
    }
}

/// The path of a request's target, which may be a whole URL.
fn path_of(target: &str) -> &str {
    let target = target.split(['?', '#']).next().unwrap_or_default();
    match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    }
}

/// Makes a response. Nobody may keep it: the next one says something else.
pub fn response(status: Status, content_type: &str, body: &str, is_head: bool) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 {}\r\nConnection: close\r\nCache-Control: no-store\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        status.line(),
        body.len()
    )
    .into_bytes();
    if !is_head {
        bytes.extend_from_slice(body.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<(String, bool, String), Status> {
        Request::read(head.as_bytes()).map(|request| (request.path.to_owned(), request.is_head, request.accept))
    }

    #[test]
    fn requests_to_read_are_understood() {
        for (head, path, is_head, accept) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: a/b;q=0.5\r\n\r\n", "/metrics", false, "a/b;q=0.5"),
            ("GET /metrics?x=/y HTTP/1.0\n\n", "/metrics", false, ""),
            ("HEAD / HTTP/1.1\r\naccept:a\r\nACCEPT: b\r\n\r\n", "/", true, "a,b"),
            ("GET http://host:9/metrics?a HTTP/1.1\r\n\r\n", "/metrics", false, ""),
            ("GET http://host HTTP/1.1\r\n\r\n", "/", false, ""),
        ] {
            assert_eq!(read(head), Ok((path.to_owned(), is_head, accept.to_owned())), "{head}");
        }
    }

    #[test]
    fn others_are_refused() {
        for (head, status) in [
            ("POST /metrics HTTP/1.1\r\n\r\n", Status::MethodNotAllowed),
            ("GET /metrics\r\n\r\n", Status::BadRequest),
            ("GET /metrics HTTP/2.0\r\n\r\n", Status::BadRequest),
            ("GET /a b HTTP/1.1\r\n\r\n", Status::BadRequest),
            ("\r\n\r\n", Status::BadRequest),
        ] {
            assert_eq!(read(head), Err(status), "{head}");
        }
        assert_eq!(Request::read(b"GET /\xff HTTP/1.1\r\n\r\n"), Err(Status::BadRequest));
    }

    #[test]
    fn response_tells_its_length() {
        let text = |status, is_head| String::from_utf8(response(status, "text/plain", "four", is_head)).expect("text");
        let whole = text(Status::Ok, false);
        assert!(
            whole.starts_with("HTTP/1.1 200 OK\r\n") && whole.ends_with("Content-Length: 4\r\n\r\nfour"),
            "{whole}"
        );
        assert!(text(Status::MethodNotAllowed, false).contains("\r\nAllow: GET, HEAD\r\n"));
        assert!(text(Status::Ok, true).ends_with("Content-Length: 4\r\n\r\n"));
    }
}
