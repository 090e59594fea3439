//! What a device tells its router before its packets: who it is, and its rules.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{self, Gid, Uid};

use super::Context;
use tuntap_sys::socket;
use tuntap_sys::tun::Tun;
use tuntap_wire::attach::Hello;
use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::frame::{self, FrameKind};
use tuntap_wire::greeting::CREDENTIALS_MAGIC;
use tuntap_wire::rule::{self, MAX_RULES, PeerRule};

/// Whose credentials a device shows: those that the instance will have once it has dropped its privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: Uid,
    /// Group.
    pub gid: Gid,
}

impl Identity {
    fn credentials(self) -> PeerCredentials {
        PeerCredentials { pid: unistd::getpid().as_raw(), uid: self.uid.as_raw(), gid: self.gid.as_raw() }
    }

    fn current() -> Self {
        Self { uid: unistd::getuid(), gid: unistd::getgid() }
    }
}

/// Shows credentials to the router. They travel as one message, before any frame.
fn show_credentials(socket: &OwnedFd, identity: Identity) -> nix::Result<()> {
    send_all(CREDENTIALS_MAGIC, |bytes| socket::send_with_credentials(socket.as_fd(), bytes, identity.credentials()))
}

/// Shows this process's own credentials.
pub fn show_current_credentials(socket: &OwnedFd) -> nix::Result<()> {
    show_credentials(socket, Identity::current())
}

/// How far a device came with its greeting.
#[derive(Debug)]
pub enum Greeted {
    /// All was said.
    Done,
    /// The kernel lets nobody but the process that has dropped its privileges say that it has. Until then these frames
    /// have to wait.
    Waiting(Vec<u8>),
}

/// Whether a router knows who a device belongs to, if it has to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Introduced {
    /// It knows, or doesn't ask.
    Done,
    /// The kernel lets nobody but the process that has dropped its privileges say that it has.
    NotYet(Identity),
}

/// Says who the device belongs to, if it has to. That is the first thing on a connection.
pub fn introduce(socket: &OwnedFd, context: &Context) -> nix::Result<Introduced> {
    match context.identity.map(|identity| (identity, show_credentials(socket, identity))) {
        None | Some((_, Ok(()))) => Ok(Introduced::Done),
        Some((identity, Err(Errno::EPERM | Errno::EINVAL))) => Ok(Introduced::NotYet(identity)),
        Some((_, Err(errno))) => Err(errno),
    }
}

/// Offers the device, and sends the frames that have to follow: its rules, and packets that claim its addresses.
pub fn greet(
    socket: &OwnedFd,
    tun: &Tun,
    introduced: Introduced,
    frames: Vec<u8>,
    context: &Context,
) -> nix::Result<Greeted> {
    match introduced {
        Introduced::Done => {
            say_hello(socket, tun, &frames)?;
            Ok(Greeted::Done)
        }
        Introduced::NotYet(identity) => {
            context.logger.line(format_args!(
                "[uwsgi-tuntap] {}: the kernel lets nobody speak for uid {} before the privileges are dropped; no \
                 packet passes until then",
                tun.name(),
                identity.uid
            ));
            Ok(Greeted::Waiting(frames))
        }
    }
}

/// Offers the device to the router, in the first frame, and sends the frames that must reach the router before any
/// packet. A device without header before packets stays with frames, and a router that knows nothing of this drops the
/// frame.
///
/// All of it is one message: the router may read the device as soon as it has the hello, and takes no rules any more
/// after the first packet.
pub fn say_hello(socket: &OwnedFd, tun: &Tun, frames: &[u8]) -> nix::Result<()> {
    if !tun.has_header() {
        return send_all(frames, |bytes| socket::send(socket.as_fd(), bytes));
    }
    // Which offloads there are shows when they are turned on. They are off until the router has said that it knows them.
    let hello = Hello { offloads: tun.best_offloads().bits() };
    tun.disable_offloads();
    offer(socket, tun, hello, frames)
}

/// Offers a device again that the router had before, and whose offloads are on.
pub fn renew_hello(socket: &OwnedFd, tun: &Tun) -> nix::Result<()> {
    offer(socket, tun, Hello { offloads: tun.best_offloads().bits() }, &[])
}

fn offer(socket: &OwnedFd, tun: &Tun, hello: Hello, frames: &[u8]) -> nix::Result<()> {
    let mut bytes = Vec::new();
    let _it_fits = frame::append(&mut bytes, FrameKind::Hello, &hello.encode());
    bytes.extend_from_slice(frames);
    send_all(&bytes, |bytes| socket::send_with_descriptor(socket.as_fd(), bytes, tun.as_fd()))
}

/// Sends what a new connection has room for.
fn send_all(bytes: &[u8], send: impl FnOnce(&[u8]) -> nix::Result<usize>) -> nix::Result<()> {
    if bytes.is_empty() || send(bytes)? == bytes.len() { Ok(()) } else { Err(Errno::EMSGSIZE) }
}

/// Whether rules can't be told a router of the C plugin.
pub fn need_extension(rules: &[PeerRule]) -> bool {
    matches!(rule::encode_all(rules.iter()), Some((FrameKind::ExtendedRules, _)))
}

/// The frame that carries the rules; nothing if there are none.
pub fn rules_frame(rules: &[PeerRule]) -> Vec<u8> {
    debug_assert!(rules.len() <= MAX_RULES, "the configuration was checked");
    let mut bytes = Vec::new();
    if let Some((kind, payload)) = rule::encode_all(rules.iter()) {
        let _nothing_to_send = frame::append(&mut bytes, kind, &payload);
    }
    bytes
}
