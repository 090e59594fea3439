//! `reject`: packets that a rule refuses are answered, so that clients fail at once, as curl and ping see it.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod devices;
mod gateways;
mod hosts;
mod limits;
mod world;
