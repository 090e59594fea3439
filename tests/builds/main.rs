//! Every way to build the plugin, each ending with packets between an Emperor and a vassal.
#![allow(clippy::print_stderr, reason = "a failed test reports the end of its logs")]

#[path = "../common/mod.rs"]
mod common;

mod repository;
mod routing;
mod sources;

mod abi;
mod embedded;
mod lua;
mod make;
mod plugin_builder;
mod refused;
