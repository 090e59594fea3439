//! A peer that speaks the wire straight from the test: honest, careless or hostile.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixCredentials, sendmsg};

use super::packet;
use super::wait;
use super::wire::{self, Frame};

const READ_SIZE: usize = 64 * 1024;
/// A write to a router that reads nothing fails after this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct RawPeer {
    stream: UnixStream,
    unparsed: Vec<u8>,
    sequence: u16,
}

impl RawPeer {
    /// Connects, and waits if the backlog is full.
    pub fn connect(socket: &Path) -> Self {
        wait::until("room in the router's backlog", wait::LONG, || UnixStream::connect(socket).ok().map(Self::over))
    }

    /// A peer whose packets from `address` the router passes on.
    #[track_caller]
    pub fn registered(socket: &Path, address: Ipv4Addr, gateway: Ipv4Addr) -> Self {
        let mut peer = Self::connect(socket);
        assert!(peer.echo(address, gateway, wait::SHORT), "a peer at {address} gets an echo from {gateway}");
        peer
    }

    pub fn over(stream: UnixStream) -> Self {
        stream.set_write_timeout(Some(WRITE_TIMEOUT)).expect("a timeout can be set");
        Self { stream, unparsed: Vec::new(), sequence: 0 }
    }

    pub fn send_packet(&mut self, packet: &[u8]) {
        self.send_bytes(&wire::frame(wire::PACKET, packet));
    }

    pub fn send_rules(&mut self, rules: &[wire::Rule]) {
        self.send_bytes(&wire::frame(wire::RULES, &wire::rules(rules)));
    }

    #[track_caller]
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.try_send_bytes(bytes).expect("the router takes bytes");
    }

    /// Sends to a router that may have hung up already.
    pub fn try_send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The 12 bytes that carry the credentials. Root may claim to be anybody.
    pub fn send_credentials(&mut self, uid: u32, gid: u32) {
        let pid = libc::pid_t::try_from(std::process::id()).expect("a pid fits its type");
        let credentials = UnixCredentials::from(libc::ucred { pid, uid, gid });
        let message = [IoSlice::new(wire::CREDENTIALS)];
        let control = [ControlMessage::ScmCredentials(&credentials)];
        let sent = sendmsg::<()>(self.stream.as_raw_fd(), &message, &control, MsgFlags::empty(), None);
        assert_eq!(sent.expect("credentials can be sent"), wire::CREDENTIALS.len());
    }

    /// Sends bytes with a descriptor beside them.
    pub fn send_with_descriptor(&mut self, bytes: &[u8], descriptor: BorrowedFd<'_>) {
        self.send_with_descriptors(bytes, &[descriptor]);
    }

    /// Sends bytes with any number of descriptors beside them.
    pub fn send_with_descriptors(&mut self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let descriptors: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let control = if descriptors.is_empty() { &[][..] } else { &rights };
        let send =
            |control| sendmsg::<()>(self.stream.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::empty(), None);
        let sent = match send(control) {
            // The router lets none come any more (SO_PASSRIGHTS): the bytes alone are what an older kernel would bring.
            Err(Errno::EPERM) => send(&[]),
            result => result,
        };
        assert_eq!(sent.expect("the stream takes it"), bytes.len());
    }

    /// The next frame; none if time runs out or the router hangs up.
    pub fn next_frame(&mut self, within: Duration) -> Option<Frame> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(frame) = wire::take_frame(&mut self.unparsed) {
                return Some(frame);
            }
            if !self.read_more(deadline).ok()? {
                return None;
            }
        }
    }

    /// The next packet that `wanted` accepts; others are passed over.
    pub fn wait_for_packet(&mut self, within: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + within;
        loop {
            let frame = self.next_frame(deadline.saturating_duration_since(Instant::now()))?;
            if frame.modifier2 == wire::PACKET && wanted(&frame.payload) {
                return Some(frame.payload);
            }
        }
    }

    /// The next bytes as they are, outside of any frame.
    pub fn next_bytes(&mut self, count: usize, within: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + within;
        while self.unparsed.len() < count {
            if !self.read_more(deadline).ok()? {
                return None;
            }
        }
        Some(self.unparsed.drain(..count).collect())
    }

    /// What one read gives: never more than one message that has a descriptor beside it.
    pub fn next_read(&mut self, within: Duration) -> Option<Vec<u8>> {
        assert!(self.unparsed.is_empty(), "earlier bytes were not looked at");
        self.read_more(Instant::now() + within).ok()?.then(|| std::mem::take(&mut self.unparsed))
    }

    /// Returns true if an echo request through the router is answered.
    pub fn echo(&mut self, from: impl Into<IpAddr>, to: impl Into<IpAddr>, within: Duration) -> bool {
        self.sequence += 1;
        let sequence = self.sequence;
        let request = match (from.into(), to.into()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => packet::echo_request(from, to, sequence, 84),
            (IpAddr::V6(from), IpAddr::V6(to)) => packet::echo_request6(from, to, sequence, 84),
            (from, to) => panic!("{from} and {to} are of different versions"),
        };
        self.try_send_bytes(&wire::frame(wire::PACKET, &request)).is_ok()
            && self.wait_for_packet(within, |reply| packet::echo_reply_sequence(reply) == Some(sequence)).is_some()
    }

    /// Returns true if the router ends the connection in time. What it still sends is thrown away.
    pub fn is_closed(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            match self.read_more(deadline) {
                Ok(true) => self.unparsed.clear(),
                Ok(false) => return false,
                Err(_) => return true,
            }
        }
    }

    /// `Ok(false)`: nothing came in time. `Err`: the connection is over.
    fn read_more(&mut self, deadline: Instant) -> std::io::Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left))?;
        let mut buffer = [0; READ_SIZE];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                self.unparsed.extend(&buffer[..length]);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl Drop for RawPeer {
    /// Hangs up at once. Closing alone would not, while another test's child is between fork and exec and has a copy
    /// of the descriptor.
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
