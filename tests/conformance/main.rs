//! The C plugin and ours, side by side: each case is one body that runs on both, and what differs on purpose is
//! asserted for both.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod pairs;

mod claims;
mod credentials;
mod device;
mod device_rules;
mod firewall;
mod frames;
mod gateway;
mod ipv6;
mod lifecycle;
mod options;
mod pressure;
mod setups;
mod stats;
mod traffic;
