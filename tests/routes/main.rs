//! Claims of real vassals become routes of a real BIRD, and those of other hosts are heard by BGP.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "others use the rest")]
#[path = "../../crates/router/tests/bird/daemon.rs"]
mod daemon;

mod neighbour;
mod world;

mod bird;
mod elsewhere;
mod flaps;
mod frr;
mod hostile;
mod start;
