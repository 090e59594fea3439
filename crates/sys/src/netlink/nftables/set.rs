//! Sets of addresses that rules fill. Each address has a state of its own.

use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_netfilter::nftables::{SetAttribute, SetDescription, SetFlags, SetMessage};

use super::rule::{IPV4_SOURCE, IPV6_SOURCE};

/// A version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4
    Ipv4,
    /// IPv6
    Ipv6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family of an address.
    pub(super) const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// NFPROTO_IPV4 and NFPROTO_IPV6 of linux/netfilter.h.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }

    /// Length of an address, in bytes.
    pub(super) const fn address_len(self) -> usize {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 => 16,
        }
    }

    /// Offset of the source address in the header, in bytes.
    pub(super) const fn source_offset(self) -> u32 {
        match self {
            Self::Ipv4 => IPV4_SOURCE,
            Self::Ipv6 => IPV6_SOURCE,
        }
    }

    /// nft(8)'s number of the type of an address (`enum datatypes` of its source), with which it lists the set.
    const fn key_type(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
        }
    }
}

/// The keys of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Source addresses.
    Source,
    /// Pairs of source and destination address, which are side by side in headers of both versions.
    SourceAndDestination,
}

/// A set of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: &'static str,
    /// The version of IP.
    pub family: Family,
    /// Its keys.
    pub key: Key,
    /// Most keys. One that finds no room is not counted.
    pub size: u32,
    /// How long a key stays after it was last updated. Without a timeout, it stays as long as it has connections.
    pub timeout: Option<Duration>,
}

impl Set {
    /// Length of a key, in bytes.
    pub(super) const fn key_len(&self) -> usize {
        match self.key {
            Key::Source => self.family.address_len(),
            Key::SourceAndDestination => 2 * self.family.address_len(),
        }
    }

    /// nft(8)'s number of the key's type. In a concatenation, each type has 6 bits (`TYPE_BITS` of its source).
    const fn key_type(&self) -> u32 {
        let address = self.family.key_type();
        match self.key {
            Key::Source => address,
            Key::SourceAndDestination => address << 6 | address,
        }
    }
}

/// The message that makes a set. `id` is different for each set of a batch.
pub(super) fn message(table: &str, set: &Set, id: u32) -> SetMessage {
    let mut flags = SetFlags::Eval;
    let mut attributes = vec![
        SetAttribute::Table(table.to_owned()),
        SetAttribute::Name(set.name.to_owned()),
        SetAttribute::KeyType(set.key_type()),
        SetAttribute::KeyLen(u32::try_from(set.key_len()).unwrap_or(u32::MAX)),
        SetAttribute::Id(id),
        SetAttribute::Description(vec![SetDescription::Size(set.size)]),
    ];
    if let Some(timeout) = set.timeout {
        flags |= SetFlags::Timeout;
        attributes.push(SetAttribute::Timeout(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)));
    }
    attributes.push(SetAttribute::Flags(flags));
    SetMessage { attributes }
}
