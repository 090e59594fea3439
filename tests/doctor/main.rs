//! `tuntap-doctor` in real namespaces: set-ups in which nothing is wrong, and every fault, made for real.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod world;

mod filter;
mod hosts;
mod live;
mod machine;
mod network;
mod pairs;
mod reading;
mod running;
mod sockets;
mod wellbeing;
