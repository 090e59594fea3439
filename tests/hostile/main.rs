//! Hostile vassals, with honest ones beside them that must not notice anything. Single cases are in the tests of
//! conformance and attach, too; here each case ends with a look at all that a router must not lose.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

#[path = "../attach/handed.rs"]
#[allow(dead_code, reason = "the tests of attach use more of it")]
mod handed;
#[path = "../attach/hello.rs"]
#[allow(dead_code, reason = "the tests of attach use more of it")]
mod hello;
#[path = "../attach/tun.rs"]
#[allow(dead_code, reason = "the tests of attach use more of it")]
mod tun;
#[path = "../attach/world.rs"]
#[allow(dead_code, reason = "the tests of attach use more of it")]
mod world;

mod conversation;
mod watch;

mod addresses;
mod connections;
mod descriptors;
mod devices;
mod floods;
mod frames;
mod gateways;
mod limits;
mod priority;
mod rules;
