//! What the operator is told.

use std::net::SocketAddr;

use thiserror::Error;
use tuntap_wire::holding::RouterId;

use crate::handshake::HandshakeError;
use crate::pump::End;

/// A line for the log.
#[derive(Debug, Error)]
pub enum Notice {
    /// A connection with a neighbour is there.
    #[error("trunk: connected with router {router} ({address}, {})", if *has_dialled { "dialled" } else { "accepted" })]
    Connected {
        /// The neighbour.
        router: RouterId,
        /// Its address.
        address: SocketAddr,
        /// This side has dialled.
        has_dialled: bool,
    },
    /// It has ended.
    #[error("trunk: connection with router {router} ended: {end}")]
    Ended {
        /// The neighbour.
        router: RouterId,
        /// Why.
        end: End,
    },
    /// A neighbour can't be dialled. Later attempts that fail alike are not told.
    #[error("trunk: can't connect with router {router} at {address}: {error}; trying again")]
    DialFailed {
        /// The neighbour.
        router: RouterId,
        /// Its address.
        address: SocketAddr,
        /// Why.
        error: HandshakeError,
    },
    /// Somebody connected who is no neighbour.
    #[error("trunk: refused a connection from {address}: {error} ({others} others since the last line like this)")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: HandshakeError,
        /// How many more there were.
        others: u64,
    },
    /// Connections of which nobody is known yet were closed to make room.
    #[error("trunk: too many connections at once that say nothing, the oldest are closed")]
    TooManyHalfOpen,
    /// A neighbour connects again and again. It is told once, until there are few for a while.
    #[error("trunk: too many connections with router {router} that end at once, others have to wait")]
    TooManyConnections {
        /// The neighbour.
        router: RouterId,
    },
    /// No connection can be accepted.
    #[error("trunk: can't accept connections: {0}; trying again")]
    CannotAccept(std::io::Error),
    /// The kernel has the better congestion control, but doesn't give it.
    #[error(
        "trunk: can't use congestion control {name}: {error}; with lost packets the trunk will be slow \
         (net.ipv4.tcp_allowed_congestion_control)"
    )]
    CongestionControl {
        /// Its name.
        name: &'static str,
        /// What the kernel says.
        error: std::io::Error,
    },
    /// A connection can't be given to the router.
    #[error("trunk: can't give a connection to the router: {0}")]
    Handing(std::io::Error),
}
