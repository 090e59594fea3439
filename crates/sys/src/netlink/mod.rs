//! Netlink: what the kernel is asked and told about the network namespace that the calling thread is in. One connection type
//! serves all of it.

pub mod attributes;
mod clsact;
mod connection;
pub mod conntrack;
mod error;
pub mod nftables;
mod notices;
mod queueing;
mod route;
mod veth;
mod watch;

pub use error::NetlinkError;
pub use notices::{Notices, Subject};
pub use queueing::Queueing;
pub use route::{InterfaceAddress, Link, LinkChange, Netlink, Route};
pub use veth::Veth;
pub use watch::AddressWatch;
