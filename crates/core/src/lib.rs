//! What a router decides: no descriptors, no clock, no system calls.

#![forbid(unsafe_code)]

pub mod policy;
