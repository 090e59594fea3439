//! Messages by which a device gets its network's configuration from its router: a question, a claim, and the answer to
//! both. A router that doesn't know them drops the question, because it is shorter than an IP packet, and never answers;
//! the longer messages come only once it has answered.
//!
//! All that arrives is checked on both sides. JSON may have keys that this version doesn't know.

mod check;
mod claim;
mod configuration;
mod request;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::IpNet;

pub use self::check::MessageError;
pub use self::claim::{ClaimRequest, ClaimedAddress};
pub use self::configuration::{Configuration, Directory, RefusedWish, Wish};
pub use self::request::{ConfigurationRequest, fnv1a, name_hash};
use super::ip::is_unicast;

/// `modifier2` of a device's question.
pub const ASK: u8 = 0x76;

/// `modifier2` of a router's answer to a question or a claim. The payload is JSON.
pub const CONFIGURATION: u8 = 0x77;

/// `modifier2` of a device's claim. The payload is JSON.
pub const CLAIM: u8 = 0x78;

/// The version of these messages that this code speaks.
pub const VERSION: u8 = 1;

/// Bytes of a question: below 20, the least that a C router takes for a packet.
pub const ASK_LEN: usize = 12;

/// Most addresses in a message: what a peer can hold.
pub const MAX_ADDRESSES: usize = 9;

/// Most DNS servers in a message. Resolvers read three (resolv.conf(5), MAXNS).
pub const MAX_DNS_SERVERS: usize = 3;

/// Most wishes that an answer refuses.
pub const MAX_REFUSALS: usize = MAX_ADDRESSES + 2;

/// Most directories in an answer.
pub const MAX_DIRECTORIES: usize = 4;

/// Longest reason of a refusal, in letters. The rest is cut off.
pub const MAX_REASON_LEN: usize = 200;

/// Least MTU of a link with IPv4 (RFC 791: what every host must take) and with IPv6 (RFC 8200, section 5), in bytes.
pub const MIN_MTU_V4: u16 = 576;
/// As above.
pub const MIN_MTU_V6: u16 = 1280;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The word for it in messages.
    pub const fn word(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// Whether an address can be a host's beyond its own link. Beside what [`is_unicast`] leaves out, that is 169.254.0.0/16 (RFC
/// 3927), which means something on a link alone, as fe80::/10 does. Nothing else may be claimed.
pub fn is_host(address: IpAddr) -> bool {
    is_unicast(address) && !matches!(address, IpAddr::V4(address) if address.is_link_local())
}

/// Addresses of a network that no host has: IPv4's network and broadcast address (RFC 1122, section 3.2.1.3), except in
/// networks of two (RFC 3021) or one; IPv6's subnet-router anycast address (RFC 4291, section 2.6.1), with the same
/// exceptions (RFC 6164).
pub fn is_reserved(network: IpNet, address: IpAddr) -> bool {
    let has_both = network.max_prefix_len() - network.prefix_len() > 1;
    has_both && (address == network.network() || address.is_ipv4() && address == network.broadcast())
}
