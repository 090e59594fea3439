//! Trunks: connections with the routers of other hosts, by which addresses are announced and packets travel.
//!
//! [`Trunks`] is told of connections, messages and the time. It answers through [`Shell`]. Each neighbour is configured: its
//! router id, which its key has proved before, and its networks, which are what it may announce and where its packets may come
//! from. What one trunk has told is told to another one only if `relay` stands for that one.
//!
//! A connection carries messages of whole frames ([`tuntap_wire::trunk`]). Nothing that a neighbour sends can do more than end
//! its own connection.

mod notice;
mod output;
mod queue;
mod reading;
mod session;
mod statistics;
mod table;
mod trunks;

#[cfg(test)]
mod tests;

use std::time::Duration;

use tuntap_wire::holding::ClaimTime;

pub use self::notice::{EndReason, Notice, Refusal};
pub use self::reading::{Input, TrunkPacket};
pub use self::session::State;
pub use self::statistics::{Statistics, Traffic};
pub use self::trunks::{Neighbour, SendOutcome, Sent, Shell, TrunkView, Trunks};

/// Since when a router's own addresses are its own, for others: always, so that no vassal's claim is older.
pub const ALWAYS: ClaimTime = ClaimTime(1);

/// How often each side asks the other one for a sign of life.
pub const PING_INTERVAL: Duration = Duration::from_secs(1);

/// How long a neighbour may be silent before its trunk is closed.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(3);

/// How long announcements of before are kept after a neighbour's new hello, while it announces them again.
pub const STALE_LIMIT: Duration = Duration::from_secs(10);

/// Most addresses that one neighbour may announce, and that one is told.
pub const MAX_ANNOUNCED: usize = 65_536;

/// Most addresses that one call forgets, or tells a neighbour of, because of something else than a message about each.
pub const SWEEP: usize = 1024;

/// Most hellos of one neighbour in [`HELLO_PERIOD`]. Each makes work: everything is told again.
pub const MAX_HELLOS: u32 = 8;

/// See [`MAX_HELLOS`].
pub const HELLO_PERIOD: Duration = Duration::from_secs(10);

/// Most bytes of packets that wait for one trunk's connection: some dozens of the longest ones.
pub const MAX_QUEUED_LEN: usize = 2 * 1024 * 1024;

/// How long notices of one kind about one neighbour are left out after one of them.
pub const NOTICE_PERIOD: Duration = Duration::from_secs(600);

/// A neighbour: its place in the list that [`Trunks::new`] was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrunkId(pub u32);

impl TrunkId {
    /// Its place.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}
