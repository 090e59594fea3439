//! Scripts that decide about flows, in Luau. A script can only narrow what the rules allow. Whatever it does, a call of it
//! ends after a while, and takes no more than its memory: see [`limits`]. docs/SCRIPTS.md describes what scripts can do.
//!
//! - [`check()`] compiles a script, and runs its self-test. Any thread may call it.
//! - [`Runtime`] runs a script in the thread that made it.
//! - [`Watchdog`] is the thread that ends calls which take too long.

#![forbid(unsafe_code)]

mod blame;
mod calibration;
mod check;
mod error;
mod guard;
mod host;
pub mod limits;
mod log;
mod names;
mod runtime;
mod vm;
mod watchdog;

pub use check::{Compiled, check};
pub use error::{ErrorKind, ScriptError};
pub use host::{Clock, Host, SystemClock};
pub use runtime::{Runtime, Tried};
pub use watchdog::Watchdog;
