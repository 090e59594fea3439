//! From a TCP connection to one whose other end is known.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use thiserror::Error;
use tuntap_wire::trunk::PublicKey;

use crate::stream::{Progress, Stream};
use crate::tls::PROTOCOL;
use crate::wait::{Ready, Want, is_to_wait, wait};

/// The word with which a server begins: the connection is accepted.
const ACCEPTED: u8 = b'A';
/// The same, but another connection with this neighbour stays.
const NOT_NEEDED: u8 = b'N';

/// Why there is no connection with a neighbour.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// It took too long.
    #[error("the other end didn't answer in time")]
    TimedOut,
    /// The connection was closed before.
    #[error("the other end has closed the connection")]
    Closed,
    /// This process ends.
    #[error("the connection was closed on this side")]
    Stopped,
    /// The kernel reports a fault of the connection.
    #[error("the connection failed: {0}")]
    Socket(#[from] io::Error),
    /// No TLS, or a key that isn't pinned on one side.
    #[error("{}", said(.0))]
    Tls(#[from] rustls::Error),
    /// A fault in this process, which its standard error tells more about.
    #[error("a fault of this process")]
    Panicked,
    /// Another protocol is spoken within TLS.
    #[error("the other end speaks another protocol within TLS")]
    Protocol,
}

/// What a fault of TLS means here.
fn said(error: &rustls::Error) -> String {
    use rustls::{AlertDescription, CertificateError, Error};
    match error {
        Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
            "the other end's key is not one of the configured ones".to_owned()
        }
        Error::AlertReceived(
            AlertDescription::AccessDenied | AlertDescription::BadCertificate | AlertDescription::CertificateUnknown,
        ) => "the other end doesn't know this router's key".to_owned(),
        Error::InvalidMessage(_) => format!("the other end doesn't speak TLS ({error})"),
        error => format!("TLS failed: {error}"),
    }
}

/// Shakes hands until `deadline`, and returns the key of the other end. The socket is non-blocking.
pub fn shake(
    tcp: &TcpStream,
    stream: &mut Stream,
    deadline: Instant,
    stop: BorrowedFd<'_>,
) -> Result<PublicKey, HandshakeError> {
    loop {
        let progress = stream.process();
        // An alert goes out even if this is the end.
        flush(tcp, stream, deadline, stop)?;
        match progress? {
            Progress::Handshaking => read(tcp, stream, deadline, stop)?,
            Progress::Closed => return Err(HandshakeError::Closed),
            Progress::Open if stream.protocol() == Some(PROTOCOL) => {
                return stream.neighbour().ok_or(HandshakeError::Protocol);
            }
            Progress::Open => return Err(HandshakeError::Protocol),
        }
    }
}

/// The server says whether it accepts the connection.
pub fn answer(
    tcp: &TcpStream,
    stream: &mut Stream,
    is_accepted: bool,
    deadline: Instant,
    stop: BorrowedFd<'_>,
) -> Result<(), HandshakeError> {
    stream.seal(&[if is_accepted { ACCEPTED } else { NOT_NEEDED }])?;
    flush(tcp, stream, deadline, stop)
}

/// The client hears whether its connection is accepted. Only then has the server checked its key.
pub fn hear(
    tcp: &TcpStream,
    stream: &mut Stream,
    deadline: Instant,
    stop: BorrowedFd<'_>,
) -> Result<bool, HandshakeError> {
    loop {
        if let Some(&word) = stream.received.first() {
            stream.received.remove(0);
            return match word {
                ACCEPTED => Ok(true),
                NOT_NEEDED => Ok(false),
                _ => Err(HandshakeError::Protocol),
            };
        }
        read(tcp, stream, deadline, stop)?;
        let progress = stream.process();
        flush(tcp, stream, deadline, stop)?;
        if progress? == Progress::Closed && stream.received.is_empty() {
            return Err(HandshakeError::Closed);
        }
    }
}

fn flush(
    mut tcp: &TcpStream,
    stream: &mut Stream,
    deadline: Instant,
    stop: BorrowedFd<'_>,
) -> Result<(), HandshakeError> {
    while !stream.outgoing.is_empty() {
        match tcp.write(stream.outgoing.filled()) {
            Ok(0) => return Err(HandshakeError::Closed),
            Ok(len) => stream.outgoing.consume(len),
            Err(error) if is_to_wait(&error) => pause(tcp, true, deadline, stop)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn read(
    mut tcp: &TcpStream,
    stream: &mut Stream,
    deadline: Instant,
    stop: BorrowedFd<'_>,
) -> Result<(), HandshakeError> {
    loop {
        match tcp.read(stream.room()) {
            Ok(0) => return Err(HandshakeError::Closed),
            Ok(len) => {
                stream.read(len);
                return Ok(());
            }
            Err(error) if is_to_wait(&error) => pause(tcp, false, deadline, stop)?,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for room to write, or for something to read.
fn pause(tcp: &TcpStream, is_write: bool, deadline: Instant, stop: BorrowedFd<'_>) -> Result<(), HandshakeError> {
    let wants =
        [Want { fd: stop, read: false, write: false }, Want { fd: tcp.as_fd(), read: !is_write, write: is_write }];
    let [stopped, ready] = wait(wants, Some(deadline))?;
    if stopped != Ready::default() {
        return Err(HandshakeError::Stopped);
    }
    if Instant::now() >= deadline && ready == Ready::default() { Err(HandshakeError::TimedOut) } else { Ok(()) }
}
