//! The kernel: TUN devices, sockets with credentials, namespaces, limits. One of the two homes of unsafe code.
#![allow(unsafe_code)]

pub mod dumpable;
#[cfg(feature = "faults")]
pub mod faults;
pub mod fork;
pub mod handover;
pub mod log;
pub mod net;
pub mod netlink;
pub mod priority;
pub mod process;
pub mod replace;
pub mod sandbox;
pub mod shared;
pub mod socket;
pub mod socket_file;
pub mod sysctl;
pub mod tun;
pub mod uio;
