//! What every integration test stands on: real uWSGIs, namespaces, Emperors and vassals, and a peer that
//! speaks the wire itself.
#![allow(dead_code, reason = "each test crate uses its own part of this")]

pub mod bird;
pub mod capture;
pub mod command;
pub mod control;
pub mod emperor;
pub mod fake_router;
pub mod hosts;
pub mod http;
pub mod instance;
pub mod link;
pub mod log;
pub mod machine;
pub mod netns;
pub mod packet;
pub mod probe;
pub mod processes;
pub mod raw_peer;
pub mod series;
pub mod starter;
pub mod stats;
pub mod stream;
pub mod two_emperors;
pub mod user;
pub mod uwsgi;
pub mod vassal;
pub mod wait;
pub mod wire;
