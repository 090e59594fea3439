//! Both versions of IP side by side: who holds which address, what the chains and the vassals' rules say to IPv6, and
//! what real vassals get through.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod service;
mod world;

mod claims;
mod extensions;
mod firewall;
mod link;
mod rules;
mod traffic;
