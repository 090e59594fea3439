//! What a router sets up on its host, and what is left of it afterwards: nothing. Two outside hosts, one in an IPv4
//! network and one in an IPv6 network, see the other end.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod world;

mod backup;
mod conflicts;
mod end;
mod errors;
mod host;
mod ipv6;
mod leaks;
mod limits;
mod losses;
mod missing;
mod nat;
mod options;
mod others;
mod ports;
mod read_only;
mod reload;
mod rules;
mod stale;
mod strangers;
mod taken;
mod two_routers;
