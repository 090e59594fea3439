//! Packets of IPv6 on every path: whole super-packets, frames, gateways.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod frames;
mod gateways;
mod offloads;
mod world;
