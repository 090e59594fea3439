//! Claims of real vassals become routes of a real BIRD, and those of other hosts are heard by BGP.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod neighbour;
mod world;

mod bird;
mod elsewhere;
mod flaps;
mod frr;
mod hostile;
mod start;
