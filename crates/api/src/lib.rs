//! What a router says on its statistics socket: one [`Snapshot`], as JSON. The router fills and writes it; the command and
//! the doctor read it. docs/PROTOCOL.md describes the document for readers in other languages.
//!
//! A reader meets routers of other versions. It ignores keys that it doesn't know, and takes the default of the type for
//! keys that are missing: 0, false, nothing.

#![forbid(unsafe_code)]

mod drops;
mod snapshot;

use std::borrow::Cow;

pub use drops::DropCounts;
pub use snapshot::{Confinement, LimitsReached, PeerStats, PortStats, Priority, Snapshot, Totals};

/// A word from a list that the router's code holds: borrowed in the router, owned where a document was read.
pub type Word = Cow<'static, str>;
