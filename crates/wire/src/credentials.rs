//! The credentials of the process at the other end of a unix socket.

use serde::{Deserialize, Serialize};

/// The process at the other end of a unix socket (`struct ucred` of unix(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerCredentials {
    /// Process, as numbered in the reader's PID namespace.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}
