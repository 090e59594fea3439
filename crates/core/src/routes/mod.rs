//! Routes: who holds which address, told to the host's own routing daemon by BGP, and what it tells of other hosts.
//!
//! [`speaker::Speaker`] is one side of one session, without a socket and a clock. The daemon connects. What it is told of local
//! claims goes out, each as a route for one address, with who holds it since when in large communities
//! ([`tuntap_wire::bgp::claim`]) and the time, in seconds, as MULTI_EXIT_DISC. What the daemon announces comes out through
//! [`Listener`].
//!
//! Nothing that the daemon sends ends more than the session. Tables and buffers have bounds: [`import::Imports::MAX_ROUTES`],
//! [`import::Imports::MAX_PATHS`], [`output::Output::MAX_LEN`]. Local claims are queued as a set of addresses, which is never
//! larger than the number of claims and announced routes.

pub mod bird_config;
mod export;
pub mod import;
pub mod notice;
pub mod output;
mod session;
pub mod settings;
pub mod speaker;
pub mod status;
pub mod takeover;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use tuntap_wire::holding::Holding;

/// Who is told what the daemon has announced.
pub trait Listener {
    /// Another router holds an address. This replaces what was said of the address before.
    fn held(&mut self, address: IpAddr, holding: Holding);

    /// No other router holds an address any more.
    fn released(&mut self, address: IpAddr);

    /// A line for the log.
    fn notice(&mut self, notice: notice::Notice);
}
