//! The router's sandbox: what it forbids, that every feature works inside, and what happens to a call that is denied.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod world;

mod denied;
mod features;
mod lifecycle;
mod state;
