//! Everything that is asked of the kernel: TUN devices, sockets, netlink, namespaces, limits, the sandbox. Unsafe code
//! towards the kernel has its home here; that towards uWSGI is in the plugin.
#![allow(unsafe_code)]

pub mod alarm;
pub mod aside;
pub mod bpf;
pub mod dumpable;
#[cfg(feature = "faults")]
pub mod faults;
pub mod fork;
pub mod handover;
pub mod log;
pub mod memory;
pub mod net;
pub mod netlink;
pub mod priority;
pub mod process;
pub mod replace;
pub mod sandbox;
pub mod secret_file;
pub mod shared;
pub mod socket;
pub mod socket_file;
pub mod sysctl;
pub mod thread_clock;
pub mod tun;
pub mod uio;
