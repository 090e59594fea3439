//! uWSGI's C ABI: the plugin table, its callbacks, and uWSGI's functions. One of the two homes of unsafe code.
//!
//! uWSGI calls everything here from the main thread of a process.
#![allow(unsafe_code)]

mod abi;
mod accounts;
mod agents;
mod bindings;
mod companions;
mod devices;
mod doctor;
mod ending;
mod guard;
mod handover;
mod hostnet;
mod options;
mod pairs;
mod plugin;
mod reload;
mod router_control;
mod router_hosts;
mod router_memory;
mod router_metrics;
mod router_processes;
mod routers;
mod rules_file;
mod uwsgi;
