//! Several hosts with an Emperor each: their vassals reach each other, whatever happens to a host or between them.
#![allow(clippy::print_stderr, reason = "a failed test reports the end of its logs")]

#[path = "../common/mod.rs"]
mod common;

mod monitor;

mod faults;
mod forged;
mod gateways;
mod routes;
mod splits;
mod trunks;
mod upgrades;
