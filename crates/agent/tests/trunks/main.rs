//! Trunk processes on loopback, with real TLS. The tests are their routers.
#![allow(missing_docs)]

mod confined;
mod host;
mod keys;
mod strangers;
mod traffic;
