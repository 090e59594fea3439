//! The router as a state machine: events, bytes and the time go in, effects come out. There are no descriptors, no clock
//! and no system calls in here, so that a whole router with hundreds of peers runs in a test, without root.
//!
//! [`policy`] decides about packets and addresses; [`router`] is the machine around it: connections, transports, queues,
//! limits, timers. [`router::Shell`] is all that it knows of the world.

#![forbid(unsafe_code)]

pub mod peers;
pub mod policy;
pub mod router;
