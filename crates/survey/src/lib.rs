//! The survey: reads the state of this machine, for the doctor and for checks at a start. It leaves nothing changed.

#![allow(unsafe_code)]

pub mod access;
pub mod control;
pub mod filter;
pub mod interface;
pub mod kernel;
pub mod kernel_path;
pub mod listener;
pub mod network;
pub mod peers;
pub mod secret;
pub mod services;
pub mod statistics;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tun;
