//! Packets of IPv6 on every path: whole super-packets, frames, gateways. Who may send what is in tests/ipv6.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod frames;
mod gateways;
mod offloads;
mod world;
