//! Trunks between the routers of several hosts, which are network namespaces here: real uWSGIs, real vassals.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod alone;
mod failures;
mod floods;
mod hostile;
mod ipv6;
mod loops;
mod neighbour;
mod options;
mod process;
mod reach;
mod reloads;
mod versions;
mod world;
