//! Deaths of routers, vassals without a router, and stops.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod world;

mod hangs;
mod panics;
mod rejoin;
mod respawn;
mod start;
mod stop;
