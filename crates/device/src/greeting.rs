//! What a device sends to its router before its packets: credentials, the hello that offers the TUN device, and rules.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{self, Gid, Uid};

use super::Context;
use tuntap_sys::log::Event;
use tuntap_sys::socket;
use tuntap_sys::tun::Tun;
use tuntap_wire::attach::Hello;
use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::frame::{self, FrameKind};
use tuntap_wire::greeting::CREDENTIALS_MAGIC;
use tuntap_wire::rule::{self, MAX_RULES, PeerRule};

/// The user and group whose credentials a device shows: those that the instance has after it has dropped its privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: Uid,
    /// The group.
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

/// Sends credentials to the router, as one message before any frame.
fn show_credentials(socket: &OwnedFd, identity: Identity) -> nix::Result<()> {
    send_all(CREDENTIALS_MAGIC, |bytes| socket::send_with_credentials(socket.as_fd(), bytes, identity.credentials()))
}

/// Sends this process's own credentials.
pub fn show_current_credentials(socket: &OwnedFd) -> nix::Result<()> {
    show_credentials(socket, Identity::current())
}

/// How far a greeting has come.
#[derive(Debug)]
pub enum Greeted {
    /// Everything was sent.
    Done,
    /// These frames have to wait until the privileges are dropped: before that the kernel doesn't let the process show the
    /// credentials that it will have.
    Waiting(Vec<u8>),
}

/// How far a device came with its credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Introduced {
    /// The credentials were sent, or are not wanted.
    Done,
    /// The credentials can't be sent until the privileges are dropped.
    NotYet(Identity),
}

/// Sends the device's credentials, if the options want that. This comes first on a connection.
pub fn introduce(socket: &OwnedFd, context: &Context) -> nix::Result<Introduced> {
    match context.identity.map(|identity| (identity, show_credentials(socket, identity))) {
        None | Some((_, Ok(()))) => Ok(Introduced::Done),
        Some((identity, Err(Errno::EPERM | Errno::EINVAL))) => Ok(Introduced::NotYet(identity)),
        Some((_, Err(errno))) => Err(errno),
    }
}

/// Offers the device to the router, and sends the frames that follow: its rules, and packets that claim its addresses.
pub fn greet(
    socket: &OwnedFd,
    tun: &Tun,
    introduced: Introduced,
    frames: Vec<u8>,
    context: &Context,
) -> nix::Result<Greeted> {
    match introduced {
        Introduced::Done => {
            say_hello(socket, tun, &frames, context)?;
            Ok(Greeted::Done)
        }
        Introduced::NotYet(identity) => {
            context.logger.line(
                Event::DeviceIncomplete,
                format_args!(
                    "[uwsgi-tuntap] {}: the kernel lets nobody speak for uid {} before the privileges are dropped; no \
                 packet passes until then",
                    tun.name(),
                    identity.uid
                ),
            );
            Ok(Greeted::Waiting(frames))
        }
    }
}

/// Offers the device to the router in the first frame, and sends the frames that must reach the router before any packet. A
/// device without a header before its packets can't be attached, and is not offered. A router of the C plugin drops the offer.
///
/// All of it is one message: the router may read the device as soon as it has the hello, and takes no rules after the first
/// packet.
pub fn say_hello(socket: &OwnedFd, tun: &Tun, frames: &[u8], context: &Context) -> nix::Result<()> {
    if !tun.has_header() {
        return send_all(frames, |bytes| socket::send(socket.as_fd(), bytes));
    }
    // Turning the offloads on shows which of them the kernel has. They stay off until the router has accepted them.
    let hello = Hello { offloads: tun.best_offloads().bits(), router_only: context.router_only };
    tun.disable_offloads();
    offer(socket, tun, hello, frames)
}

/// Offers the device again to a router that had it before. Its offloads stay on.
pub fn renew_hello(socket: &OwnedFd, tun: &Tun, context: &Context) -> nix::Result<()> {
    offer(socket, tun, Hello { offloads: tun.best_offloads().bits(), router_only: context.router_only }, &[])
}

fn offer(socket: &OwnedFd, tun: &Tun, hello: Hello, frames: &[u8]) -> nix::Result<()> {
    let mut bytes = Vec::new();
    let _it_fits = frame::append(&mut bytes, FrameKind::Hello, &hello.encode());
    bytes.extend_from_slice(frames);
    send_all(&bytes, |bytes| socket::send_with_descriptor(socket.as_fd(), bytes, tun.as_fd()))
}

/// Sends bytes in one message. A new connection has room for them.
fn send_all(bytes: &[u8], send: impl FnOnce(&[u8]) -> nix::Result<usize>) -> nix::Result<()> {
    if bytes.is_empty() || send(bytes)? == bytes.len() { Ok(()) } else { Err(Errno::EMSGSIZE) }
}

/// Returns true if the rules don't fit the C plugin's form.
pub fn need_extension(rules: &[PeerRule]) -> bool {
    matches!(rule::encode_all(rules.iter()), Some((FrameKind::ExtendedRules, _)))
}

/// The frame that carries the rules. Empty if there are no rules.
pub fn rules_frame(rules: &[PeerRule]) -> Vec<u8> {
    debug_assert!(rules.len() <= MAX_RULES, "the configuration was checked");
    let mut bytes = Vec::new();
    if let Some((kind, payload)) = rule::encode_all(rules.iter()) {
        let _nothing_to_send = frame::append(&mut bytes, kind, &payload);
    }
    bytes
}
