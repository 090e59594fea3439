//! Packet filters of the current network namespace: the chains at which packets enter them, with their rules as far as a
//! reader of single rules can understand them.

pub mod evaluate;
mod expression;
mod legacy;
mod nftables;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Where packets enter a chain (`NF_INET_...` of linux/netfilter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// All that come in, before anybody knows where they go.
    Prerouting,
    /// Those for this host.
    Input,
    /// Those that it passes on.
    Forward,
    /// Those that it sends.
    Output,
}

impl Hook {
    /// All of them, each at the kernel's number for it.
    pub const ALL: [Self; 4] = [Self::Prerouting, Self::Input, Self::Forward, Self::Output];

    /// The name that iptables gives the chain.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
        }
    }
}

/// A chain at which packets begin their way through a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// Its family and table, such as `ip filter`, or `iptables-legacy filter`.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Which packets it sees.
    pub hook: Hook,
    /// True if it changes addresses, and sees the first packet of a connection only.
    pub is_nat: bool,
    /// Of which family its packets are; `None` for both.
    pub is_ipv6: Option<bool>,
    /// True if it drops what none of its rules decides.
    pub drops: bool,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
    /// The table's other chains, by name.
    pub others: BTreeMap<String, Vec<Rule>>,
}

/// A rule: its verdict is for packets that meet all of its conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What tells it from the others of its chain.
    pub place: String,
    /// The conditions.
    pub conditions: Vec<Condition>,
    /// What becomes of the packet.
    pub verdict: Verdict,
}

/// What a packet must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What is looked at.
    pub test: Test,
    /// True if it must not be so.
    pub is_negated: bool,
}

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// It came by one of these interfaces.
    Iif(Vec<Name>),
    /// It leaves by one of these interfaces.
    Oif(Vec<Name>),
    /// Its connection is in one of these states: [`NEW`], [`ESTABLISHED`] and others.
    State(u32),
    /// A port mapping has given its connection another destination.
    IsDnat,
    /// It is of IPv6, else of IPv4.
    IsIpv6(bool),
    /// Its payload is of one of these protocols.
    Protocol(Vec<RangeInclusive<u8>>),
    /// It is for one of these ports.
    ToPort(Vec<RangeInclusive<u16>>),
    /// It comes from one of these addresses.
    From(Vec<RangeInclusive<IpAddr>>),
    /// It is for one of these addresses.
    To(Vec<RangeInclusive<IpAddr>>),
    /// Its destination is of one of these types, as bits of [`UNICAST`] and others.
    ToType(u32),
    /// Something else, by a word for it.
    Other(String),
}

/// States of a connection (`NF_CT_STATE_BIT` of linux/netfilter/nf_conntrack_common.h), which those of iptables equal.
pub const ESTABLISHED: u32 = 1 << 1;
/// The state of a connection's first packet.
pub const NEW: u32 = 1 << 3;

/// Types of destinations, by the numbers of linux/rtnetlink.h (`RTN_UNICAST`): elsewhere.
pub const UNICAST: u32 = 1 << 1;
/// An address of this host (`RTN_LOCAL`).
pub const LOCAL: u32 = 1 << 2;

/// Names of interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// This one.
    Exactly(String),
    /// All that begin so.
    From(String),
}

impl Name {
    /// Returns true if an interface has such a name.
    pub fn fits(&self, interface: &str) -> bool {
        match self {
            Self::Exactly(name) => name == interface,
            Self::From(start) => interface.starts_with(start.as_str()),
        }
    }
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Lets the packet pass.
    Accept,
    /// Drops it, with an answer or without.
    Drop,
    /// Gives it another destination.
    Dnat,
    /// Goes on in another chain, and comes back.
    Jump(String),
    /// Goes on in another chain, and comes back to where this one was called.
    Goto(String),
    /// Goes back to where the chain was called.
    Return,
    /// Goes on with the next rule.
    Continue,
    /// Something else, by a word for it.
    Other(String),
}

/// What there is, as far as this process may see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    /// The chains.
    pub chains: Vec<BaseChain>,
    /// Tables of the family `inet`, with the number of rules of each of their chains.
    pub inet_tables: BTreeMap<String, BTreeMap<String, usize>>,
    /// Chains that see packets elsewhere than IP's hooks, which nobody has understood: `netdev t, chain c`.
    pub foreign: Vec<String>,
    /// What was read.
    pub read: Vec<&'static str>,
    /// What couldn't be read, and why.
    pub unread: Vec<String>,
    /// True if that of nf_tables is among it.
    pub lacks_nftables: bool,
}

/// What the kernel calls the filter of nft and of today's iptables.
const NFTABLES: &str = "nf_tables";

/// Reads all of them: those of nf_tables, which nft and today's iptables make, and those of the older iptables and
/// ip6tables.
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

/// The addresses that begin with these bytes, as far as the mask reaches; `len` is that of a whole address. `None` for masks
/// with gaps.
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
