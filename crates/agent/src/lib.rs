//! The process beside the router that has its key.
//!
//! It dials neighbours and is dialled by them, speaks TLS 1.3 with pinned raw public keys (RFC 7250), and gives the router for
//! each neighbour a socket with plain frames ([`tuntap_wire::trunk`]). It seals and opens for as long as the connection lasts: so
//! the key never enters the router, which reads packets of strangers; the sealing runs on another core; and a router that dies
//! loses no connection, for the socket lies in the store.

mod backoff;
mod connections;
mod handshake;
mod key;
mod notice;
mod pump;
mod run;
mod sandbox;
mod stream;
mod tls;
mod wait;

pub use connections::{CONNECTION_INTERVAL, MAX_CONNECTIONS_AT_ONCE, MAX_HALF_OPEN};
pub use handshake::HandshakeError;
pub use key::{KeyFile, KeyFileError, PrivateKey};
pub use notice::Notice;
pub use pump::End;
pub use run::{Config, Peer, RunError, run};
pub use sandbox::SYSCALLS;
pub use tls::PROTOCOL;
