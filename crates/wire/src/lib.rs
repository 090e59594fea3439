//! What travels between a device and its router, and what is inside an IP packet. Everything here is pure: bytes go in,
//! values come out.
//!
//! `docs/PROTOCOL.md` describes the format in prose, `include/uwsgi_tuntap.h` declares it for C.

pub mod attach;
pub mod autoconf;
pub mod bgp;
pub mod coalesce;
pub mod credentials;
pub mod echo;
pub mod frame;
pub mod greeting;
pub mod gso;
pub mod holding;
pub mod ip;
pub mod offloads;
pub mod reply;
pub mod rule;
pub mod segment;
pub mod selector;
pub mod trunk;
pub mod vnet;
