//! Peers whose TUN device the router reads and writes itself: honest ones, those that can't, and those that offer
//! something else.
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
mod polling;
mod spoiled;
mod streams;
mod switch;
