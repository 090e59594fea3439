//! Packet filters of the current network namespace: the chains that see forwarded packets, with their rules as far as a
//! reader of single rules can understand them.

mod expression;
mod legacy;
pub(in crate::sys) mod netlink;
mod nftables;

use std::collections::BTreeMap;

/// A chain at which forwarded packets begin their way through a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForwardChain {
    /// Its family and table, such as `ip filter`, or `iptables-legacy filter`.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Of which family its packets are; `None` for both.
    pub is_ipv6: Option<bool>,
    /// Whether it drops what none of its rules decides.
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
    /// Whether it must not be so.
    pub is_negated: bool,
}

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// It came by one of these interfaces.
    CameBy(Vec<Name>),
    /// It leaves by one of these interfaces.
    LeavesBy(Vec<Name>),
    /// Its connection is in one of these states: [`NEW`], [`ESTABLISHED`] and others.
    State(u32),
    /// A port mapping has given its connection another destination.
    IsDiverted,
    /// It is of IPv6, else of IPv4.
    IsIpv6(bool),
    /// Something else, by a word for it.
    Other(String),
}

/// States of a connection (`NF_CT_STATE_BIT` of linux/netfilter/nf_conntrack_common.h), which those of iptables equal.
pub const ESTABLISHED: u32 = 1 << 1;
/// The state of a connection's first packet.
pub const NEW: u32 = 1 << 3;

/// Names of interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// This one.
    Exactly(String),
    /// All that begin so.
    From(String),
}

impl Name {
    /// Whether an interface has such a name.
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
    pub chains: Vec<ForwardChain>,
    /// What was read.
    pub read: Vec<&'static str>,
    /// What couldn't be read, and why.
    pub unread: Vec<String>,
    /// Whether that of nf_tables is among it.
    pub lacks_nftables: bool,
}

/// What the kernel calls the filter of nft and of today's iptables.
const NFTABLES: &str = "nf_tables";

/// Reads all of them: those of nf_tables, which nft and today's iptables make, and those of the older iptables and
/// ip6tables.
pub fn filters() -> Filters {
    let mut found = Filters::default();
    match nftables::chains() {
        Ok(chains) => {
            found.chains = chains;
            found.read.push(NFTABLES);
        }
        Err(errno) => {
            found.unread.push(format!("{NFTABLES}: {errno}"));
            found.lacks_nftables = true;
        }
    }
    for family in [legacy::IPV4, legacy::IPV6] {
        match legacy::chain(&family) {
            Ok(chain) => {
                found.chains.extend(chain);
                found.read.push(family.program);
            }
            Err(errno) => found.unread.push(format!("{}: {errno}", family.program)),
        }
    }
    found
}
