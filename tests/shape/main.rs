//! Limits on traffic: rates in both directions, for vassals, users and all together, and limits that change while the router runs.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod flood;
mod world;

mod internet;
mod live;
mod rates;
mod shown;
mod users;
