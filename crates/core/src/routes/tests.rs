//! A speaker and a daemon that remembers what it is told, without sockets.

mod daemon;
mod exports;
mod hostile;
mod imports;
mod sessions;
mod takeovers;
