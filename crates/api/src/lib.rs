//! What a router and its readers say to each other: the statistics, one [`Snapshot`] as JSON, which the router fills and
//! writes, and the command and the doctor read; and the [`control`] socket's requests and answers. docs/PROTOCOL.md describes the document for readers in other languages.
//!
//! A router may be of another version than its reader. Reading ignores unknown keys, and takes the default of the type for
//! missing ones: 0, false, an empty string or list.

#![forbid(unsafe_code)]

pub mod control;
mod drops;
pub mod metrics;
mod routes;
mod shape;
mod snapshot;
pub mod text;
mod trunks;

use std::borrow::Cow;

pub use drops::DropCounts;
pub use routes::{RoutesRefused, RoutesSession, RoutesStats};
pub use shape::{ShapeStats, Shaped};
pub use snapshot::{
    Confinement, ElsewhereStats, FlowStats, KernelPathStats, LimitsReached, PeerStats, PolicyStats, PortStats,
    Priority, Snapshot, SourceStats, Totals,
};

pub use trunks::{TrunkDropped, TrunkRefused, TrunkStats};

/// A word from a list that the router's code holds: borrowed in the router, owned where a document was read.
pub type Word = Cow<'static, str>;
