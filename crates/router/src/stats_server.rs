//! The endpoints of statistics and metrics: a client connects, gets one document and is disconnected. No client, however slow,
//! holds the router up.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::Listening;
use super::http::{self, Status};
use super::token::Token;
use tuntap_sys::socket;

/// The maximum number of clients at a time. A further one replaces the one with the earliest deadline.
const MAX_CLIENTS: usize = 16;

/// The maximum length of an HTTP request's head in bytes.
const MAX_REQUEST_LEN: usize = 4096;

/// The most reads of what nobody wants.
const MAX_DISCARDS: usize = 16;

/// Connections that are accepted in one turn. Each gets a document, which takes long to make if there are many peers.
/// Packets are handled in between.
pub const ACCEPT_BUDGET: usize = 1;

/// Makes a whole response. Its argument is the head of an HTTP request, or `None` if clients send none.
pub type Respond<'a> = &'a dyn Fn(Option<&[u8]>) -> Vec<u8>;

/// Which documents an endpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Documents {
    /// The statistics.
    Stats,
    /// The metrics.
    Metrics,
}

impl Documents {
    const fn client(self, serial: u32) -> Token {
        match self {
            Self::Stats => Token::StatsClient(serial),
            Self::Metrics => Token::MetricsClient(serial),
        }
    }
}

/// An endpoint and its clients.
#[derive(Debug)]
pub struct StatsServer<'a> {
    endpoint: &'a Listening,
    documents: Documents,
    clients: Vec<Client>,
    next_serial: u32,
}

#[derive(Debug)]
struct Client {
    serial: u32,
    fd: OwnedFd,
    deadline: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The client sends its HTTP request, of which this has come.
    Request(Vec<u8>),
    /// The router sends the response: its bytes, and how many of them are written.
    Response(Vec<u8>, usize),
}

/// What happens to a client after an event.
enum Next {
    Wait(EpollFlags),
    Close,
}

impl<'a> StatsServer<'a> {
    /// Registers the listener.
    pub fn new(endpoint: &'a Listening, documents: Documents, epoll: &Epoll) -> nix::Result<Self> {
        let token = match documents {
            Documents::Stats => Token::StatsListener,
            Documents::Metrics => Token::MetricsListener,
        };
        epoll.add(&endpoint.listener, EpollEvent::new(EpollFlags::EPOLLIN, token.encode()))?;
        Ok(Self { endpoint, documents, clients: Vec::new(), next_serial: 0 })
    }

    /// Accepts a new client, if there is one. An error means that the listener stays readable although nothing can be
    /// accepted.
    pub fn accept(&self) -> nix::Result<Option<OwnedFd>> {
        loop {
            match socket::accept(self.endpoint.listener.as_fd()) {
                Ok(fd) => return Ok(Some(fd)),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Adds a client, and begins to serve it.
    pub fn add(&mut self, fd: OwnedFd, epoll: &Epoll, now: Instant, respond: Respond<'_>) {
        if self.clients.len() >= MAX_CLIENTS {
            self.close_first_due();
        }
        let state = if self.endpoint.http { State::Request(Vec::new()) } else { State::Response(respond(None), 0) };
        self.next_serial = self.next_serial.wrapping_add(1);
        let serial = self.next_serial;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, self.documents.client(serial).encode());
        if epoll.add(&fd, event).is_ok() {
            self.clients.push(Client { serial, fd, deadline: now + self.endpoint.timeout, state });
            self.progress(serial, epoll, now, respond);
        }
    }

    /// Continues with a client that can be read or written.
    pub fn progress(&mut self, serial: u32, epoll: &Epoll, now: Instant, respond: Respond<'_>) {
        let Some(index) = self.clients.iter().position(|client| client.serial == serial) else { return };
        match self.clients[index].advance(now + self.endpoint.timeout, respond) {
            Next::Wait(flags) => {
                let mut event = EpollEvent::new(flags, self.documents.client(serial).encode());
                if epoll.modify(&self.clients[index].fd, &mut event).is_err() {
                    self.clients.swap_remove(index);
                }
            }
            Next::Close => drop(self.clients.swap_remove(index)),
        }
    }

    /// Returns true if a client's response is still to be made.
    pub fn awaits_response(&self, serial: u32) -> bool {
        self.clients.iter().any(|client| client.serial == serial && matches!(client.state, State::Request(_)))
    }

    /// Disconnects clients whose deadlines have passed.
    pub fn expire(&mut self, now: Instant) {
        self.clients.retain(|client| client.deadline > now);
    }

    /// Returns the time at which [`StatsServer::expire`] has to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.clients.iter().map(|client| client.deadline).min()
    }

    fn close_first_due(&mut self) {
        if let Some(index) = (0..self.clients.len()).min_by_key(|&index| self.clients[index].deadline) {
            self.clients.swap_remove(index);
        }
    }
}

impl Client {
    fn advance(&mut self, deadline: Instant, respond: Respond<'_>) -> Next {
        if let State::Request(request) = &mut self.state {
            match read_request(self.fd.as_fd(), request) {
                Read::Complete => {
                    let response = respond(Some(request.as_slice()));
                    self.state = State::Response(response, 0);
                }
                Read::TooLong => {
                    let told = format!("The head of the request is longer than {MAX_REQUEST_LEN} bytes.\n");
                    self.state = State::Response(http::response(Status::HeadTooLong, http::PLAIN, &told, false), 0);
                }
                Read::Part => return Next::Wait(EpollFlags::EPOLLIN),
                Read::Failed => return Next::Close,
            }
        }
        let State::Response(response, written) = &mut self.state else { return Next::Close };
        while *written < response.len() {
            match socket::send(self.fd.as_fd(), &response[*written..]) {
                Ok(count) => {
                    *written += count;
                    self.deadline = deadline;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Next::Wait(EpollFlags::EPOLLOUT),
                Err(_) => return Next::Close,
            }
        }
        discard(self.fd.as_fd());
        Next::Close
    }
}

/// Reads what has come beyond a request's head, up to a length: a connection that is closed before is reset, and the client may
/// lose its response (RFC 9112, section 9.6).
fn discard(fd: BorrowedFd<'_>) {
    let mut buffer = [0; MAX_REQUEST_LEN];
    for _ in 0..MAX_DISCARDS {
        match socket::recv(fd, &mut buffer) {
            Ok(0) => return,
            Err(error) if error != Errno::EINTR => return,
            _ => {}
        }
    }
}

/// What has come of a request.
enum Read {
    /// Its whole head.
    Complete,
    /// More than a head may have.
    TooLong,
    /// A part of its head.
    Part,
    /// The client is gone.
    Failed,
}

/// Reads more of a request.
fn read_request(fd: BorrowedFd<'_>, request: &mut Vec<u8>) -> Read {
    let mut buffer = [0; MAX_REQUEST_LEN];
    loop {
        match socket::recv(fd, &mut buffer) {
            Ok(0) => return Read::Failed,
            Ok(count) => {
                request.extend_from_slice(&buffer[..count]);
                let complete = request.windows(4).any(|bytes| bytes == b"\r\n\r\n")
                    || request.windows(2).any(|bytes| bytes == b"\n\n");
                if complete {
                    return Read::Complete;
                }
                if request.len() > MAX_REQUEST_LEN {
                    return Read::TooLong;
                }
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Read::Part,
            Err(_) => return Read::Failed,
        }
    }
}
