//! Flows that pass in the kernel, with real routers and vassals.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod world;

mod captures;
mod commits;
mod counters;
mod faults;
mod kernels;
mod passes;
