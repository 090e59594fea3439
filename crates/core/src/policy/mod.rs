//! What to do with a packet. Pure: bytes and peers in, a verdict out; no descriptors, no clock, no syscalls.

pub mod account;
pub mod admission;
pub mod assignment;
pub mod cache;
pub mod claims;
pub mod drops;
pub mod forward;
pub mod grant;
pub mod guard;
pub mod limits;
pub mod pattern;
pub mod pool;
pub mod prefix_map;
pub mod rate_limit;
pub mod registry;
pub mod shares;
pub mod targets;
