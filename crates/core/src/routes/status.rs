//! How it stands, for people and statistics.

use std::time::Duration;

pub use super::export::Sent;
pub use super::import::Received;
pub use super::session::Negotiated;

/// How far the session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// There is no connection.
    Idle,
    /// The daemon's OPEN is awaited.
    OpenSent,
    /// The daemon's KEEPALIVE is awaited.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
    /// The last message waits to be sent.
    Closing,
}

/// How a speaker stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// How far the session is.
    pub state: State,
    /// For how long; without a connection, since the speaker was made or the last one has ended.
    pub age: Duration,
    /// What was agreed on with the daemon, if the session is established.
    pub session: Option<Negotiated>,
    /// Sessions that were established or taken over since the speaker was made.
    pub sessions: u64,
    /// Connections that were refused.
    pub refused_connections: u64,
    /// Local claims.
    pub claims: usize,
    /// Changes that the daemon wasn't told of yet.
    pub waiting: usize,
    /// Bytes that its socket didn't take yet.
    pub waiting_bytes: usize,
    /// What was written in this session.
    pub sent: Sent,
    /// Routes of others that are known.
    pub routes: usize,
    /// True if the daemon has announced all that it knows since the session began.
    pub is_complete: bool,
    /// What was received since the speaker was made.
    pub received: Received,
    /// Why the last connection has ended.
    pub last_error: Option<String>,
}
