//! What a script may take.

use std::time::Duration;

/// Bytes of a script's source text. The compiler can't be interrupted.
pub const MAX_SOURCE: usize = 64 * 1024;

/// Bytes of memory that a script's virtual machine may have, garbage included.
pub const MAX_MEMORY: usize = 16 * 1024 * 1024;

/// The processor time of a call is limited to that of so many runs of a reference loop, so that slower machines grant more.
pub const TIME_FACTOR: u32 = 16;

/// The limit of processor time lies between these.
pub const TIME_BOUNDS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(50)];

/// Calls and rounds of loops in one call of the script: it ends even if no clock tells that it should.
pub const MAX_STEPS: u32 = 1_000_000;

/// Bytes of a string that the functions of `string` take or make. They run without interruption.
pub const MAX_TEXT: usize = 16 * 1024;

/// Bytes of a pattern or separator.
pub const MAX_PATTERN: usize = 256;

/// Elements of a table that are sorted, joined, moved or unpacked at once.
pub const MAX_ITEMS: usize = 4096;

/// Names of sets, and as many names of counters, that a script may use.
pub const MAX_NAMES: usize = 256;

/// Peers whose tables are kept for their next flows.
pub const MAX_PEERS: usize = 1024;

/// Addresses of a peer that a script sees.
pub const MAX_ADDRESSES: usize = 64;

/// Characters of an error that are kept.
pub const MAX_ERROR: usize = 300;

/// Characters of a note of a verdict.
pub const MAX_NOTE: usize = 120;

/// Characters of a line that a script logs.
pub const MAX_LINE: usize = 200;

/// Lines that a script may log in [`LOG_PERIOD`]. Others are counted, and left out.
pub const MAX_LINES: u32 = 10;

/// See [`MAX_LINES`].
pub const LOG_PERIOD: Duration = Duration::from_secs(10);

/// Failures in a row after which the script before comes back, unless they are all about the flows of one user and the script
/// has decided about those of others.
pub const MAX_FAILURES: u32 = 8;

/// Users about whose flows it is known that they take too long.
pub const MAX_OWNERS: usize = 1024;

/// For how long a flow is denied because the script has failed. Then it is asked again.
pub const FAILURE_TTL: Duration = Duration::from_secs(10);

/// After a call that took too long the script isn't asked about the same user's flows in the same direction for so many times
/// as long: so a user who knows which flows take a script long can't take all of the router's time, by however many
/// connections.
pub const REST_FACTOR: u32 = 20;

/// Least and most time for which a verdict of a script holds. Others are taken for the nearest of these.
pub const TTL_BOUNDS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(365 * 86400)];
