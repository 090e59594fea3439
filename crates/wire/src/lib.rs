//! What travels between a device and its router, and what is inside an IP packet. Pure: bytes in, values out.
//!
//! `docs/PROTOCOL.md` is the same in prose; `include/uwsgi_tuntap.h` gives it to C.

pub mod attach;
pub mod autoconf;
pub mod credentials;
pub mod echo;
pub mod frame;
pub mod greeting;
pub mod gso;
pub mod ip;
pub mod offloads;
pub mod reply;
pub mod rule;
pub mod segment;
pub mod selector;
pub mod vnet;
