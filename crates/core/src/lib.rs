//! The router as a state machine: events, bytes and the time go in, effects come out. This crate has no descriptors, no
//! clock and no system calls, so that a whole router with hundreds of peers can run in a test, without root.
//!
//! [`policy`] decides about packets and addresses; [`router`] is the machine around it: connections, transports, queues,
//! limits, timers; [`elsewhere`] knows what peers of other routers hold; [`kernel_path`] is what the kernel does alone.
//! [`router::Shell`] is the router's only connection to its surroundings.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod elsewhere;
pub mod kernel_path;
mod nanos;
pub mod peers;
pub mod policy;
pub mod router;
pub mod routes;
pub mod shaper;
pub mod trunk;
