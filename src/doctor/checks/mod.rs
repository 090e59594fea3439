//! The checks: facts in, findings out. They look at nothing themselves.

pub mod access;
pub mod credentials;
pub mod filter;
pub mod kernel;
pub mod network;
mod passage;
pub mod placement;
pub mod plugin;
pub mod sockets;
pub mod tun;
pub mod values;
