//! The speaker and Debian's BIRD 2, each test in a network namespace of its own.

#[allow(dead_code, reason = "others use the rest")]
#[path = "../../../../tests/common/machine.rs"]
mod machine;
#[allow(dead_code, reason = "others use the rest")]
#[path = "../../../../tests/common/netns.rs"]
mod netns;

mod claims;
mod config;
mod daemon;
mod elsewhere;
mod shell;
mod takeover;
