//! Packet filters of the current network namespace: the chains with a hook, and their filter rules, as far as this reader
//! understands them.

pub mod evaluate;
mod expression;
mod legacy;
mod nftables;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// A hook, where packets enter a chain (`NF_INET_...` of linux/netfilter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// All packets that come in, before they are routed.
    Prerouting,
    /// Packets for this host.
    Input,
    /// Packets that this host forwards.
    Forward,
    /// Packets that this host sends.
    Output,
}

impl Hook {
    /// All hooks, in the order of the kernel's numbers.
    pub const ALL: [Self; 4] = [Self::Prerouting, Self::Input, Self::Forward, Self::Output];

    /// The name of the chain of iptables with this hook.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
        }
    }
}

/// A chain with a hook: packets enter a table there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// Its family and table, such as `ip filter`, or `iptables-legacy filter`.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Its hook.
    pub hook: Hook,
    /// True for chains of type nat, which change addresses and only see the first packet of a connection.
    pub is_nat: bool,
    /// True if it sees IPv6, false if it sees IPv4; `None` if it sees both.
    pub is_ipv6: Option<bool>,
    /// True if its policy is to drop.
    pub drops: bool,
    /// Its rules, in order.
    pub rules: Vec<FilterRule>,
    /// The other chains of the table, by name.
    pub others: BTreeMap<String, Vec<FilterRule>>,
}

/// A filter rule. Its verdict is for packets that meet all of its conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterRule {
    /// Its number or handle in its chain, for people.
    pub place: String,
    /// The conditions.
    pub conditions: Vec<Condition>,
    /// The verdict.
    pub verdict: Verdict,
}

/// A condition of a filter rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The test.
    pub test: Test,
    /// True if packets meet the condition for which the test is false.
    pub is_negated: bool,
}

/// A test of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// It came in by one of these interfaces.
    Iif(Vec<Name>),
    /// It goes out by one of these interfaces.
    Oif(Vec<Name>),
    /// Its connection is in one of these states: [`NEW`], [`ESTABLISHED`] and others.
    State(u32),
    /// The destination of its connection was changed.
    IsDnat,
    /// It is IPv6 (true) or IPv4 (false).
    IsIpv6(bool),
    /// Its transport protocol is one of these.
    Protocol(Vec<RangeInclusive<u8>>),
    /// Its destination port is one of these.
    ToPort(Vec<RangeInclusive<u16>>),
    /// Its source is one of these addresses.
    From(Vec<RangeInclusive<IpAddr>>),
    /// Its destination is one of these addresses.
    To(Vec<RangeInclusive<IpAddr>>),
    /// Its destination is of one of these types, as bits of [`UNICAST`] and others.
    ToType(u32),
    /// Something that this reader doesn't understand, in a word for people.
    Other(String),
}

/// The bit of connections in which both ends have sent something. nf_tables and iptables have the same bits
/// (`NF_CT_STATE_BIT` of linux/netfilter/nf_conntrack_common.h).
pub const ESTABLISHED: u32 = 1 << 1;
/// The bit of connections that begin.
pub const NEW: u32 = 1 << 3;

/// The bit of destinations on other hosts, at the number of the type of address (`RTN_UNICAST` of linux/rtnetlink.h).
pub const UNICAST: u32 = 1 << 1;
/// The bit of destinations that are addresses of this host (`RTN_LOCAL`).
pub const LOCAL: u32 = 1 << 2;

/// A name of interfaces in a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// The interface with this name.
    Exactly(String),
    /// All interfaces whose names begin with this.
    From(String),
}

impl Name {
    /// Returns true if it is the name of an interface.
    pub fn fits(&self, interface: &str) -> bool {
        match self {
            Self::Exactly(name) => name == interface,
            Self::From(start) => interface.starts_with(start.as_str()),
        }
    }
}

/// What a filter rule does with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Accepts it.
    Accept,
    /// Drops it, with or without an answer to its sender.
    Drop,
    /// Changes its destination.
    Dnat,
    /// Goes on in another chain, and then behind this rule.
    Jump(String),
    /// Goes on in another chain, and then where this chain returns to.
    Goto(String),
    /// Goes back to behind the rule that led to this chain.
    Return,
    /// Goes on with the next rule.
    Continue,
    /// Something that this reader doesn't understand, in a word for people.
    Other(String),
}

/// The packet filters, as far as this process may read them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    /// The chains.
    pub chains: Vec<BaseChain>,
    /// Tables of the family `inet`, with the number of rules of each of their chains.
    pub inet_tables: BTreeMap<String, BTreeMap<String, usize>>,
    /// Chains with hooks outside of IP, such as `netdev t, chain c`. Their rules are not read.
    pub foreign: Vec<String>,
    /// The filters that were read.
    pub read: Vec<&'static str>,
    /// The filters that couldn't be read, each with the reason.
    pub unread: Vec<String>,
    /// True if nf_tables couldn't be read.
    pub lacks_nftables: bool,
}

/// The kernel's name for the filter of nft and of today's iptables.
const NFTABLES: &str = "nf_tables";

/// Reads the rules of nf_tables, which nft and today's iptables make, and those of the older iptables and ip6tables.
pub fn filters() -> Filters {
    let mut found = Filters::default();
    match nftables::read() {
        Ok(all) => {
            found.chains = all.chains;
            found.inet_tables = all.inet_tables;
            found.foreign = all.foreign;
            found.read.push(NFTABLES);
        }
        Err(error) => {
            let reason = error.errno().map_or_else(|| error.to_string(), |errno| errno.to_string());
            found.unread.push(format!("{NFTABLES}: {reason}"));
            found.lacks_nftables = true;
        }
    }
    for family in [legacy::IPV4, legacy::IPV6] {
        match legacy::chains(&family) {
            Ok(chains) => {
                found.chains.extend(chains);
                found.read.push(family.program);
            }
            Err(errno) => found.unread.push(format!("{}: {errno}", family.program)),
        }
    }
    found
}

/// The range of addresses that begin with these bytes under a mask. `len` is the length of a whole address, in bytes. `None`
/// for masks with gaps.
fn address_range(bytes: &[u8], mask: Option<&[u8]>, len: usize) -> Option<RangeInclusive<IpAddr>> {
    let mask_at = |index: usize| match mask {
        Some(mask) => mask.get(index).copied().unwrap_or(0),
        None if index < bytes.len() => u8::MAX,
        None => 0,
    };
    let ones = (0..len).map(|index| mask_at(index).leading_ones()).take_while(|ones| *ones == 8).count();
    if (ones + 1..len).any(|index| mask_at(index) != 0)
        || (ones < len && mask_at(ones).leading_ones() != mask_at(ones).count_ones())
    {
        return None;
    }
    let at = |index: usize| bytes.get(index).copied().unwrap_or(0) & mask_at(index);
    let low: Vec<u8> = (0..len).map(at).collect();
    let high: Vec<u8> = (0..len).map(|index| at(index) | !mask_at(index)).collect();
    Some(address(&low)?..=address(&high)?)
}

/// Four bytes at an offset, as a number in this machine's byte order.
fn native_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(size_of::<u32>())?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// An address of 4 or 16 bytes.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_ranges_of_addresses() {
        let range = |bytes: &[u8], mask: Option<&[u8]>| {
            address_range(bytes, mask, 4).map(|range| format!("{}-{}", range.start(), range.end()))
        };
        assert_eq!(range(&[10, 1, 2, 3], None).as_deref(), Some("10.1.2.3-10.1.2.3"));
        assert_eq!(range(&[10, 1], None).as_deref(), Some("10.1.0.0-10.1.255.255"));
        assert_eq!(range(&[10, 1, 2, 3], Some(&[255, 240, 0, 0])).as_deref(), Some("10.0.0.0-10.15.255.255"));
        assert_eq!(range(&[10, 1, 2, 3], Some(&[255, 0, 255, 0])), None, "a gap");
        assert_eq!(range(&[10, 1, 2, 3], Some(&[0xa0, 0, 0, 0])), None, "a gap");
        assert_eq!(range(&[0; 4], Some(&[0; 4])).as_deref(), Some("0.0.0.0-255.255.255.255"));
    }
}
