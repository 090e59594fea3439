//! Properties that must hold for any bytes from outside. Each module is one target; its `check` panics if a property is
//! violated. The fuzzer calls these functions, and so does `cargo test` with the seeds (tests/fuzz.rs).
//!
//! The results of the crates are compared with an oracle, which is written from the documents in the most obvious way.

pub mod bgp_messages;
pub mod bgp_speaker;
pub mod flows;
pub mod forward;
pub mod frames;
pub mod greeting;
mod input;
pub mod ip;
pub mod leases;
mod ones_complement;
pub mod options;
mod probe;
pub mod rules;
pub mod rules_file;
pub mod segments;
pub mod trunk;
