//! Prefixes in an UPDATE (RFC 4271, section 4.3; RFC 7911, section 3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Family, take_u32};

/// A prefix, with the number of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nlri {
    /// Tells paths for the same prefix apart; 0 if the session has one path for each prefix.
    pub path: u32,
    /// The prefix. Bits behind its length are 0.
    pub net: IpNet,
}

/// A prefix that is too long, or that its field cuts off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a prefix that can't be read")]
pub struct BadPrefix;

/// Prefixes of one family, which were checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefixes<'a> {
    family: Family,
    has_paths: bool,
    bytes: &'a [u8],
}

impl<'a> Prefixes<'a> {
    /// No prefix.
    pub(super) const fn none(family: Family) -> Self {
        Self { family, has_paths: false, bytes: &[] }
    }

    /// Checks a field. `has_paths` says that each prefix has the number of its path before it.
    pub fn new(family: Family, has_paths: bool, bytes: &'a [u8]) -> Result<Self, BadPrefix> {
        let mut rest = bytes;
        while !rest.is_empty() {
            (_, rest) = split(family, has_paths, rest).ok_or(BadPrefix)?;
        }
        Ok(Self { family, has_paths, bytes })
    }

    /// Returns the family.
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Returns true if there are none.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Iterator for Prefixes<'_> {
    type Item = Nlri;

    fn next(&mut self) -> Option<Nlri> {
        let (nlri, rest) = split(self.family, self.has_paths, self.bytes)?;
        self.bytes = rest;
        Some(nlri)
    }
}

/// Splits a prefix off the front.
fn split(family: Family, has_paths: bool, bytes: &[u8]) -> Option<(Nlri, &[u8])> {
    let (path, bytes) = if has_paths { take_u32(bytes)? } else { (0, bytes) };
    let (&len, bytes) = bytes.split_first()?;
    if len > family.bits() {
        return None;
    }
    let (octets, rest) = bytes.split_at_checked(usize::from(len).div_ceil(8))?;
    let mut padded = [0; 16];
    padded[..octets.len()].copy_from_slice(octets);
    let address: IpAddr = match family {
        Family::Ipv4 => Ipv4Addr::new(padded[0], padded[1], padded[2], padded[3]).into(),
        Family::Ipv6 => Ipv6Addr::from(padded).into(),
    };
    let net = IpNet::new(address, len).ok()?.trunc();
    Some((Nlri { path, net }, rest))
}

/// The number of bytes that a prefix takes, without the number of a path.
pub(super) fn encoded_len(net: &IpNet) -> usize {
    1 + usize::from(net.prefix_len()).div_ceil(8)
}

/// Appends a prefix without the number of a path.
pub(super) fn append(output: &mut Vec<u8>, net: &IpNet) {
    output.push(net.prefix_len());
    let octets = usize::from(net.prefix_len()).div_ceil(8);
    match net.trunc().addr() {
        IpAddr::V4(address) => output.extend_from_slice(&address.octets()[..octets]),
        IpAddr::V6(address) => output.extend_from_slice(&address.octets()[..octets]),
    }
}
