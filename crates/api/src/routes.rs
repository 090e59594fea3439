//! What the statistics say of the session with the host's routing daemon.

use serde::{Deserialize, Serialize};

use super::Word;

/// How a router stands with the host's routing daemon. Counters began with the router's process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoutesStats {
    /// Where the router listens.
    pub address: String,
    /// True if connections are signed (TCP-MD5).
    pub signed: bool,
    /// The router's AS.
    pub asn: u32,
    /// `idle`, `opensent`, `openconfirm`, `established` or `closing`.
    pub state: Word,
    /// Seconds since then.
    pub state_seconds: u64,
    /// What was agreed on. There is nothing without an established session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<RoutesSession>,
    /// Sessions that were established or taken over.
    pub sessions: u64,
    /// Connections that were refused because there was one already.
    pub refused_connections: u64,
    /// Connections that were refused because they came from another address.
    pub strangers: u64,
    /// Why the last connection has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Claims of vassals.
    pub claims: u64,
    /// Changes of claims that the daemon wasn't told of yet.
    pub waiting: u64,
    /// Bytes that its socket didn't take yet.
    pub waiting_bytes: u64,
    /// Routes of other hosts that are known, all paths counted.
    pub routes: u64,
    /// True if the daemon has told all that it knows since the session began.
    pub complete: bool,
    /// Routes that it has announced, those that were refused included.
    pub received: u64,
    /// Routes that it has withdrawn.
    pub received_withdrawn: u64,
    /// Routes of the router itself that came back.
    pub reflected: u64,
    /// Routes that were refused.
    pub refused: RoutesRefused,
}

/// What was agreed on with the routing daemon, and what it was told since.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoutesSession {
    /// The daemon's identifier.
    pub identifier: String,
    /// The daemon's AS.
    pub asn: u32,
    /// `ipv4`, `ipv6`.
    pub families: Vec<Word>,
    /// The families in which the daemon tells several paths for an address.
    pub paths: Vec<Word>,
    /// Seconds without a message after which either side counts as dead.
    pub hold_time: u16,
    /// True if the session outlives the router's process, for which the daemon has to know RFC 7313.
    pub survives: bool,
    /// Routes that were announced.
    pub announced: u64,
    /// Routes that were withdrawn.
    pub withdrawn: u64,
}

/// Routes that were refused, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoutesRefused {
    /// They are not for a single address.
    pub not_one_address: u64,
    /// They are outside the router's networks.
    pub outside: u64,
    /// They don't say who holds the address.
    pub no_holder: u64,
    /// There were too many.
    pub too_many_routes: u64,
    /// There were too many for their address.
    pub too_many_paths: u64,
    /// Their attributes were malformed.
    pub malformed: u64,
}
