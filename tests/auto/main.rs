//! Vassals whose network is configured by the plugin: addresses that their router chooses, or that they choose themselves.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod world;

mod changes;
mod claims;
mod hostile;
mod jail;
mod names;
mod network;
mod options;
mod pool;
mod ports;
mod stable;
