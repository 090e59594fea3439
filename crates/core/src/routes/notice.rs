//! Notices for the operator. Each is one line in the log.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::IpNet;
use tuntap_wire::bgp::PerFamily;

use super::import::Refusal;

/// Why a session has ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The daemon has closed the connection.
    #[error("it has closed the connection")]
    Closed,
    /// The socket failed.
    #[error("{0}")]
    Failed(String),
    /// The daemon says why. The text is escaped.
    #[error("it says {0}")]
    Notified(String),
    /// The daemon has broken the protocol, or was silent.
    #[error("this router has ended it: {0}")]
    Violated(String),
    /// Nothing was taken for too long.
    #[error("it takes nothing any more")]
    Stuck,
    /// A new connection has taken its place.
    #[error("it has made a new connection")]
    Replaced,
    /// The router ends it.
    #[error("this router has ended it")]
    Ours,
}

/// A line for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// Routes are exchanged from now on.
    #[error("routes: a session with {identifier} (AS {asn}) for {}{}", Families(*families), if *is_taken_over {
        ", of the router before this one"
    } else {
        ""
    })]
    Established {
        /// The daemon's identifier.
        identifier: Ipv4Addr,
        /// The daemon's AS.
        asn: u32,
        /// The families.
        families: PerFamily<bool>,
        /// True if it is the session of the router before this one.
        is_taken_over: bool,
    },
    /// A session has ended.
    #[error("routes: no session with the routing daemon any more: {0}")]
    Ended(End),
    /// A connection ended before there was a session.
    #[error("routes: a connection has not become a session: {0}")]
    NotEstablished(End),
    /// A second connection was refused.
    #[error("routes: a second connection was refused, for the first one lives")]
    SecondConnection,
    /// A route was refused, the first one for this reason.
    #[error("routes: {net} was refused: {refusal}. Further ones are only counted")]
    Refused {
        /// The prefix.
        net: IpNet,
        /// Why.
        refusal: Refusal,
    },
}

/// Writes the names of families.
struct Families(PerFamily<bool>);

impl fmt::Display for Families {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match (self.0.ipv4, self.0.ipv6) {
            (true, true) => "IPv4 and IPv6",
            (true, false) => "IPv4",
            (false, true) => "IPv6",
            (false, false) => "no addresses",
        })
    }
}
