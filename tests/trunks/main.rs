//! Trunks between the routers of several hosts, which are network namespaces here: real uWSGIs, real vassals.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod failures;
mod floods;
mod hostile;
mod neighbour;
mod options;
mod reach;
mod world;
