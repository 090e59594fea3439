//! Sets of addresses that rules fill, each address with a state of its own.

use std::time::Duration;

use netlink_packet_netfilter::nftables::{SetAttribute, SetDescription, SetFlags, SetMessage};

use super::rule::{IPV4_DESTINATION, IPV4_SOURCE, IPV6_DESTINATION, IPV6_SOURCE};

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

    pub(super) const fn source_offset(self) -> u32 {
        match self {
            Self::Ipv4 => IPV4_SOURCE,
            Self::Ipv6 => IPV6_SOURCE,
        }
    }

    pub(super) const fn destination_offset(self) -> u32 {
        match self {
            Self::Ipv4 => IPV4_DESTINATION,
            Self::Ipv6 => IPV6_DESTINATION,
        }
    }

    /// nft(8)'s number of the type of an address (`enum datatypes` of its source): it lists the set with it.
    const fn key_type(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
        }
    }
}

/// A set of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: &'static str,
    /// What is in it.
    pub family: Family,
    /// Most addresses. What finds no room is as if it had not been put in.
    pub size: u32,
    /// How long an address stays after it was put in last. Without it, as long as it has connections.
    pub timeout: Option<Duration>,
}

/// The message that makes a set. `id` tells it from the others of its batch.
pub(super) fn message(table: &str, set: &Set, id: u32) -> SetMessage {
    let mut flags = SetFlags::Eval;
    let mut attributes = vec![
        SetAttribute::Table(table.to_owned()),
        SetAttribute::Name(set.name.to_owned()),
        SetAttribute::KeyType(set.family.key_type()),
        SetAttribute::KeyLen(u32::try_from(set.family.address_len()).unwrap_or(u32::MAX)),
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
