//! What there is on this machine, for the doctor. Nothing here changes anything that lasts.

#![allow(unsafe_code)]

pub mod access;
pub mod filter;
pub mod interface;
pub mod kernel;
pub mod listener;
pub mod network;
pub mod peers;
pub mod services;
pub mod statistics;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tun;
