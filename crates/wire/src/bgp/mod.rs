//! BGP-4 as a router and its host's routing daemon speak it (RFC 4271): IPv4 and IPv6 unicast (RFC 4760), AS numbers of 4
//! octets (RFC 6793), route refresh with its markers (RFC 2918, RFC 7313), several paths for a prefix (RFC 7911, received
//! only), large communities (RFC 8092), and errors that don't end a session (RFC 7606).
//!
//! [`message`] cuts a stream into messages. [`update::Update`] reads routes, [`mod@write`] writes them. Nothing here keeps
//! anything, and no message costs more than one walk over its at most 4,096 bytes.

mod attribute;
pub mod capability;
pub mod claim;
pub mod error;
pub mod message;
pub mod notification;
pub mod open;
pub mod prefix;
pub mod refresh;
#[cfg(test)]
mod tests;
pub mod update;
pub mod write;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The port that is BGP's (RFC 4271, section 4).
pub const PORT: u16 = 179;

/// A family of addresses, with unicast routes. Other families aren't spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4 unicast.
    Ipv4,
    /// IPv6 unicast.
    Ipv6,
}

/// The subsequent address family identifier of unicast routes (RFC 4760, section 6).
const UNICAST: u8 = 1;

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// Returns the family of an address.
    pub const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// Returns the family with these identifiers; `None` if it is not spoken.
    pub const fn from_identifiers(afi: u16, safi: u8) -> Option<Self> {
        match (afi, safi) {
            (1, UNICAST) => Some(Self::Ipv4),
            (2, UNICAST) => Some(Self::Ipv6),
            _ => None,
        }
    }

    /// The address family identifier (IANA, "Address Family Numbers").
    pub const fn afi(self) -> u16 {
        match self {
            Self::Ipv4 => 1,
            Self::Ipv6 => 2,
        }
    }

    /// The length of the longest prefix in bits.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }
}

/// One value for each family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerFamily<T> {
    /// Of IPv4.
    pub ipv4: T,
    /// Of IPv6.
    pub ipv6: T,
}

impl<T> PerFamily<T> {
    /// Makes the value of each family.
    pub fn new(mut value: impl FnMut(Family) -> T) -> Self {
        Self { ipv4: value(Family::Ipv4), ipv6: value(Family::Ipv6) }
    }

    /// Returns a family's value.
    pub const fn get(&self, family: Family) -> &T {
        match family {
            Family::Ipv4 => &self.ipv4,
            Family::Ipv6 => &self.ipv6,
        }
    }

    /// Returns a family's value.
    pub const fn get_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::Ipv4 => &mut self.ipv4,
            Family::Ipv6 => &mut self.ipv6,
        }
    }
}

/// Splits a number of two octets, in network order, off the front.
fn take_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*number), rest))
}

/// Splits a number of four octets, in network order, off the front.
fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), rest))
}
