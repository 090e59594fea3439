//! The router as a state machine: events, bytes and the time go in, effects come out. This crate has no descriptors, no
//! clock and no system calls, so that a whole router with hundreds of peers can run in a test, without root.
//!
//! [`policy`] decides about packets and addresses; [`router`] is the machine around it: connections, transports, queues,
//! limits, timers. [`router::Shell`] is its only connection to its surroundings.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod nanos;
pub mod peers;
pub mod policy;
pub mod router;
pub mod routes;
pub mod shaper;
