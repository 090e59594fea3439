//! Rules with memory, and rules, sets and scripts that change while the router runs.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod world;

mod changes;
mod counters;
mod established;
mod file;
mod flows;
mod lockout;
mod script;
mod what_if;
