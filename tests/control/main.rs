//! The control socket of real routers: who may use it and for what, clients that mean harm, and what outlives routers.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod client;
mod world;

mod commits;
mod flows;
mod hostile;
mod levels;
mod log_lines;
mod socket;
mod survival;
mod swaps;
