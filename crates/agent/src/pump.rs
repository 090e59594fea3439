//! Carries frames between a router and a TLS connection.
//!
//! One thread does both directions. What one side doesn't take stays where it is, so that the other side becomes full in turn:
//! the router of packets, the neighbour of TCP's window.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use thiserror::Error;
use tuntap_sys::socket::{recv, send};
use tuntap_wire::trunk::{MAX_MESSAGE_LEN, Oversized, message_len};

use crate::stream::{Progress, Stream};
use crate::wait::{Ready, Want, is_to_wait, wait};

/// Bytes of records at which they are written, if there are so many.
const BATCH_LEN: usize = 192 * 1024;

/// Bytes of frames at which they are sealed. Small ones share a record.
const SEAL_LEN: usize = 16 * 1024;

/// How long the last bytes may take at a connection's end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug, Error)]
pub enum End {
    /// The neighbour has closed it.
    #[error("the neighbour has closed the connection")]
    Neighbour,
    /// The router has closed its end.
    #[error("the router has closed the trunk")]
    Router,
    /// This process ends, or another connection has taken the place of this one.
    #[error("the connection was closed on this side")]
    Stopped,
    /// The kernel reports a fault of the connection.
    #[error("the connection failed: {0}")]
    Socket(#[from] io::Error),
    /// The records can't be opened.
    #[error("TLS failed: {0}")]
    Tls(#[from] rustls::Error),
    /// The neighbour sends something else than frames.
    #[error("the neighbour sent {0}")]
    Frame(#[from] Oversized),
}

/// Carries frames until one side ends. `router` is a socket whose messages are whole frames; `stop` is closed at its other end
/// when this process is to end. Both sockets are non-blocking.
pub fn run(tcp: &TcpStream, stream: Stream, router: OwnedFd, stop: BorrowedFd<'_>) -> End {
    let mut pump = Pump { tcp, stream, router, given: 0, message: vec![0; SEAL_LEN + MAX_MESSAGE_LEN] };
    let end = match pump.carry(stop) {
        Ok(never) => match never {},
        Err(end) => end,
    };
    pump.last_words(&end);
    end
}

struct Pump<'a> {
    tcp: &'a TcpStream,
    stream: Stream,
    router: OwnedFd,
    /// Bytes of `stream.received` that the router has.
    given: usize,
    /// Frames from the router.
    message: Vec<u8>,
}

/// What has to happen before there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocked {
    /// The source has nothing.
    Source,
    /// The target has no room.
    Target,
}

impl Blocked {
    /// Returns true if there may be more to do, with what has come on source and target.
    const fn is_over(self, source: Ready, target: Ready) -> bool {
        match self {
            Self::Source => source.readable,
            Self::Target => target.writable || target.hung_up,
        }
    }
}

impl Pump<'_> {
    fn carry(&mut self, stop: BorrowedFd<'_>) -> Result<std::convert::Infallible, End> {
        let (mut inward, mut outward) = (Blocked::Source, Blocked::Source);
        // What was read in the handshake may hold frames.
        let (mut is_inward_due, mut is_outward_due) = (true, true);
        loop {
            if is_inward_due {
                inward = self.inward()?;
            }
            if is_outward_due {
                outward = self.outward()?;
            }
            let wants = [
                Want { fd: stop, read: false, write: false },
                Want { fd: self.tcp.as_fd(), read: inward == Blocked::Source, write: outward == Blocked::Target },
                Want { fd: self.router.as_fd(), read: outward == Blocked::Source, write: inward == Blocked::Target },
            ];
            let [stopped, tcp, router] = wait(wants, None)?;
            if stopped != Ready::default() {
                return Err(End::Stopped);
            }
            // A closed end is found by the next read or write, unless none is due there.
            if tcp.hung_up && inward != Blocked::Source {
                return Err(End::Neighbour);
            }
            if router.hung_up && outward != Blocked::Source {
                return Err(End::Router);
            }
            is_inward_due = inward.is_over(tcp, router);
            is_outward_due = outward.is_over(router, tcp);
        }
    }

    /// From the router to the neighbour: seals what is there, up to a batch, if the connection took what was sealed before.
    fn outward(&mut self) -> Result<Blocked, End> {
        if !self.flush()? {
            return Ok(Blocked::Target);
        }
        let mut len = 0;
        while self.stream.outgoing.len() < BATCH_LEN {
            match recv(self.router.as_fd(), &mut self.message[len..]) {
                Ok(0) => return Err(End::Router),
                Ok(more) => len += more,
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
            // What is large is sealed at once, while it is in the processor's cache.
            if len >= SEAL_LEN {
                self.stream.seal(&self.message[..len])?;
                len = 0;
            }
        }
        if len > 0 {
            self.stream.seal(&self.message[..len])?;
        }
        Ok(if self.flush()? { Blocked::Source } else { Blocked::Target })
    }

    /// Writes records. Returns false if some are left because the connection has no room.
    fn flush(&mut self) -> Result<bool, End> {
        while !self.stream.outgoing.is_empty() {
            match self.tcp.write(self.stream.outgoing.filled()) {
                Ok(0) => return Err(End::Neighbour),
                Ok(len) => self.stream.outgoing.consume(len),
                Err(error) if is_to_wait(&error) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// From the neighbour to the router: opens what is there, as long as the router takes it.
    fn inward(&mut self) -> Result<Blocked, End> {
        // Each turn reads once, so that the other direction has its turn, too.
        let mut has_read = false;
        loop {
            if !self.give()? {
                return Ok(Blocked::Target);
            }
            if has_read {
                return Ok(Blocked::Source);
            }
            match self.tcp.read(self.stream.room()) {
                Ok(0) => return Err(End::Neighbour),
                Ok(len) => self.stream.read(len),
                Err(error) if is_to_wait(&error) => return Ok(Blocked::Source),
                Err(error) => return Err(error.into()),
            }
            has_read = true;
            if self.stream.process()? == Progress::Closed {
                self.give()?;
                return Err(End::Neighbour);
            }
        }
    }

    /// Gives whole frames to the router. Returns false if some are left because it has no room.
    fn give(&mut self) -> Result<bool, End> {
        loop {
            let waiting = &self.stream.received[self.given..];
            let len = message_len(waiting)?;
            if len == 0 {
                break;
            }
            match send(self.router.as_fd(), &waiting[..len]) {
                Ok(_) => self.given += len,
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => return Ok(false),
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(End::Router),
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
        // What is left is less than a frame.
        self.stream.received.drain(..self.given);
        self.given = 0;
        Ok(true)
    }

    /// Tells the neighbour that this is the end, if it still listens.
    fn last_words(&mut self, end: &End) {
        if matches!(end, End::Router | End::Stopped) {
            self.stream.close();
        }
        let deadline = Instant::now() + LAST_WORDS;
        while !self.stream.outgoing.is_empty() && !matches!(end, End::Neighbour | End::Socket(_)) {
            match self.tcp.write(self.stream.outgoing.filled()) {
                Ok(len) if len > 0 => self.stream.outgoing.consume(len),
                Err(error) if is_to_wait(&error) && Instant::now() < deadline => {
                    let want = Want { fd: self.tcp.as_fd(), read: false, write: true };
                    if wait([want], Some(deadline)).is_err() {
                        break;
                    }
                }
                _ => break,
            }
        }
    }
}
