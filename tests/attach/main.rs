//! Peers that offer the router their TUN device: honest ones, those whose device can't be attached, and those that
//! offer something else.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod handed;
mod hello;
#[allow(dead_code, reason = "the tests of hostile vassals use more of it")]
mod tun;
mod world;

mod bulk;
mod expense;
mod fairness;
mod gateway;
mod lifecycle;
mod offers;
mod old_kernel;
mod polling;
mod quarantine;
mod streams;
mod switch;
