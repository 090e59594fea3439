//! What a device tells its router before its packets: who it is, and its rules.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{self, Gid, Uid};

use crate::sys::socket::{self, PeerCredentials};
use crate::wire::frame::{self, FrameKind};
use crate::wire::greeting::CREDENTIALS_MAGIC;
use crate::wire::rule::{MAX_RULES, PeerRule};

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
pub fn show_credentials(socket: &OwnedFd, identity: Identity) -> nix::Result<()> {
    let sent = socket::send_with_credentials(socket.as_fd(), CREDENTIALS_MAGIC, identity.credentials())?;
    if sent == CREDENTIALS_MAGIC.len() { Ok(()) } else { Err(Errno::EMSGSIZE) }
}

/// Shows this process's own credentials.
pub fn show_current_credentials(socket: &OwnedFd) -> nix::Result<()> {
    show_credentials(socket, Identity::current())
}

/// The frame that carries the rules; nothing if there are none.
pub fn rules_frame(rules: &[PeerRule]) -> Vec<u8> {
    debug_assert!(rules.len() <= MAX_RULES, "the configuration was checked");
    let payload: Vec<u8> = rules.iter().flat_map(PeerRule::encode).collect();
    let mut bytes = Vec::new();
    let _nothing_to_send = frame::append(&mut bytes, FrameKind::Rules, &payload);
    bytes
}
