//! Leases: which address peers of other users and groups and real vassals may hold, and what stays after a reload or a
//! router's death.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod account;
mod world;

mod hostile;
mod missing;
mod options;
mod peers;
mod rules;
mod vassals;
