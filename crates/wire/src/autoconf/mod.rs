//! Messages by which a device gets its configuration from its router: a request for addresses, a claim of addresses,
//! and the configuration that answers both. A router without these messages drops the request, which is shorter than an
//! IP packet, and does not answer. Claims are longer, so they are only sent after a first answer.
//!
//! Both sides check what they receive. JSON objects may have keys that this version doesn't know.

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
pub use self::configuration::{Configuration, DirectoryId, RefusedRequest, Requested};
pub use self::request::{ConfigurationRequest, fnv1a, name_hash};
use super::ip::is_unicast;

/// `modifier2` of a [`ConfigurationRequest`].
pub const REQUEST: u8 = 0x76;

/// `modifier2` of a [`Configuration`]. The payload is JSON.
pub const CONFIGURATION: u8 = 0x77;

/// `modifier2` of a [`ClaimRequest`]. The payload is JSON.
pub const CLAIM: u8 = 0x78;

/// Version of these messages.
pub const VERSION: u8 = 1;

/// Bytes of a [`ConfigurationRequest`]. A C router takes payloads of 20 bytes and more for packets.
pub const REQUEST_LEN: usize = 12;

/// Most addresses in a message: as many as a peer can hold.
pub const MAX_ADDRESSES: usize = 9;

/// Most DNS servers in a message. Resolvers read three (resolv.conf(5), MAXNS).
pub const MAX_DNS_SERVERS: usize = 3;

/// Most refused requests in a configuration.
pub const MAX_REFUSALS: usize = MAX_ADDRESSES + 2;

/// Most directories in a configuration.
pub const MAX_DIRECTORIES: usize = 4;

/// Longest reason of a refusal, in characters. Longer ones are cut.
pub const MAX_REASON_LEN: usize = 200;

/// Least MTU of a link with IPv4, in bytes (RFC 791: what every host must accept).
pub const MIN_MTU_V4: u16 = 576;
/// Least MTU of a link with IPv6, in bytes (RFC 8200, section 5).
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
    /// Both families.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The word for the family in messages.
    pub const fn word(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// Returns true if an address can be claimed: a unicast address of more than link-local scope. It is false for what
/// [`is_unicast`] excludes, and for 169.254.0.0/16 (RFC 3927).
pub fn is_claimable(address: IpAddr) -> bool {
    is_unicast(address) && !matches!(address, IpAddr::V4(address) if address.is_link_local())
}

/// Returns true for addresses of a network that no host can have: the network and broadcast addresses of IPv4 (RFC
/// 1122, section 3.2.1.3), and the subnet-router anycast address of IPv6 (RFC 4291, section 2.6.1). Networks of one or
/// two addresses have neither (RFC 3021, RFC 6164).
pub fn is_reserved(network: IpNet, address: IpAddr) -> bool {
    let has_both = network.max_prefix_len() - network.prefix_len() > 1;
    has_both && (address == network.network() || address.is_ipv4() && address == network.broadcast())
}
