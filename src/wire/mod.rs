//! What travels between a device and its router, and what is inside an IP packet. Pure: bytes in, values out.
//!
//! `docs/PROTOCOL.md` is the same in prose; `include/uwsgi_tuntap.h` gives it to C.

pub mod frame;
pub mod ip;
pub mod rule;

/// First bytes of a device that sends its credentials. They stand before any frame, without a header, and carry
/// SCM_CREDENTIALS.
pub const CREDENTIALS_MAGIC: &[u8; 12] = b"uwsgi-tuntap";
