//! Every way in which uWSGI drives the plugin's hooks. Each ends with packets in both directions, a request over TCP
//! and the router's own account of its peers.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod site;
mod thief;
mod tunnel;

mod credentials;
mod deaths;
mod descriptors;
mod first_config;
mod handover;
mod reloads;
mod router_device;
mod thieves;
mod unshared;
mod vassals;
