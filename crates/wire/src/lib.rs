//! What travels between a device and its router, and what is inside an IP packet. Pure: bytes in, values out.
//!
//! `docs/PROTOCOL.md` is the same in prose; `include/uwsgi_tuntap.h` gives it to C.

pub mod answer;
pub mod attach;
pub mod echo;
pub mod frame;
pub mod greeting;
pub mod ip;
pub mod lease;
pub mod rule;
pub mod segment;
pub mod selector;
pub mod vnet;
