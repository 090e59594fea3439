//! The checks: facts in, findings out. They are pure and gather no facts themselves.

pub mod access;
pub mod credentials;
pub mod filter;
pub mod host;
pub mod kernel;
pub mod kernel_path;
pub mod live;
pub mod network;
pub mod placement;
pub mod plugin;
pub mod ports;
pub mod routes;
pub mod rules;
pub mod secrets;
pub mod shapes;
pub mod sockets;
pub mod trunks;
pub mod tun;
pub mod values;
