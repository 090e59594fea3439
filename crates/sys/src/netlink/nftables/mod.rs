//! nftables: this instance's own tables, which belong to the socket that made them and end with it, and lists of
//! everybody's.

mod counters;
mod expression;
mod ingress;
pub mod lists;
mod rule;
mod set;

use std::hash::{DefaultHasher, Hasher};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NetlinkSerializable};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook as HookAttribute, HookNumber, InetHookNumber, NfTablesMessage, RuleAttribute,
    RuleMessage, TableAttribute, TableFlags, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

pub use ingress::{IngressDrops, PAIR_GUARDS};
pub use rule::{NftRule, Rate, Rejection, Transport, Unit};
pub use set::{Family, Key, Set};

use super::connection::Connection;
use super::error::NetlinkError;
use crate::socket::is_netlink;

/// NFNL_SUBSYS_NFTABLES of linux/netfilter/nfnetlink.h: the subsystem that messages and batches are for.
const NFTABLES: u16 = 10;

/// The type of comments in the user data that nft(8) keeps with a table or a rule (NFTNL_UDATA_TABLE_COMMENT and
/// NFTNL_UDATA_RULE_COMMENT of libnftnl/udata.h).
const COMMENT: u8 = 0;

/// A table of the family `inet`, which sees IPv4 and IPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its sets.
    pub sets: Vec<Set>,
    /// Its chains. A rule can only jump to a chain that comes before its own.
    pub chains: Vec<Chain>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// Where packets enter it. `None` for a chain that only jumps lead to.
    pub hook: Option<Hook>,
    /// Its rules.
    pub rules: Vec<NftRule>,
}

/// A hook and a priority at which packets enter a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Changes destinations of what comes in.
    PreroutingNat,
    /// Changes destinations of what this machine sends.
    OutputNat,
    /// Changes sources of what goes out.
    PostroutingNat,
    /// Sees what is forwarded, before the machine's own packet filter.
    ForwardMangle,
    /// Sees what comes in, before fragments are reassembled.
    PreroutingBeforeDefrag,
    /// Sees what comes in with its connection, before its destination is changed.
    PreroutingMangle,
    /// Sees what is for this machine itself, before the machine's own packet filter.
    InputMangle,
    /// Sees what goes out, after its source was changed.
    PostroutingLast,
}

impl Hook {
    /// The type of the chain, its hook, and its priority (linux/netfilter_ipv4.h).
    const fn place(self) -> (&'static str, InetHookNumber, i32) {
        match self {
            Self::PreroutingNat => ("nat", InetHookNumber::PreRouting, -100),
            Self::OutputNat => ("nat", InetHookNumber::LocalOut, -100),
            Self::PostroutingNat => ("nat", InetHookNumber::PostRouting, 100),
            Self::ForwardMangle => ("filter", InetHookNumber::Forward, -150),
            Self::PreroutingBeforeDefrag => ("filter", InetHookNumber::PreRouting, -450),
            Self::PreroutingMangle => ("filter", InetHookNumber::PreRouting, -150),
            Self::InputMangle => ("filter", InetHookNumber::LocalIn, -150),
            Self::PostroutingLast => ("filter", InetHookNumber::PostRouting, 200),
        }
    }
}

/// A table that exists.
struct Existing {
    name: String,
    owner: Option<u32>,
    user_data: Vec<u8>,
}

/// The kernel modules that tables need.
pub const MODULES: [&str; 9] = [
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nft_ct",
    "nft_fib_inet",
    "nft_reject_inet",
    "nft_limit",
    "nft_connlimit",
];

/// A connection to nf_tables in the network namespace of the thread that opened it. It owns its tables: they vanish when
/// the last copy of its descriptor is closed, and nobody else can change them (NFT_TABLE_F_OWNER, Linux 5.12; older
/// kernels refuse such tables).
#[derive(Debug)]
pub struct Nftables(Connection<NetfilterMessage>);

impl Nftables {
    /// Connects.
    pub fn open() -> Result<Self, NetlinkError> {
        Connection::open(NETLINK_NETFILTER).map(Self).map_err(|error| NetlinkError::new("nftables", error).or_missing())
    }

    /// Takes over the descriptor of an earlier image of this process. Returns it as the error if it is no netfilter socket.
    pub fn adopt(socket: OwnedFd) -> Result<Self, OwnedFd> {
        if is_netlink(socket.as_fd(), NETLINK_NETFILTER) { Ok(Self(Connection::adopt(socket))) } else { Err(socket) }
    }

    /// Replaces all tables that this connection has made before, atomically. A table that exists already with the same
    /// contents stays, with its counters. If a table of one of the names belongs to somebody else, that is an error, and
    /// nothing changes.
    pub fn replace(&mut self, tables: &[Table]) -> Result<(), NetlinkError> {
        let own = self.0.port().map_err(|error| NetlinkError::new("nftables", error))?;
        let existing = self.tables()?;
        let is_ours = |table: &Existing| table.owner == Some(own);
        let wanted = |table: &Existing| tables.iter().any(|it| it.name == table.name);
        if let Some(taken) = existing.iter().find(|table| wanted(table) && !is_ours(table)) {
            return Err(NetlinkError::new(
                format!("nftables: table inet {} is somebody else's", taken.name),
                Errno::EEXIST,
            ));
        }
        let ended = existing.iter().filter(|table| is_ours(table) && !tables.iter().any(|it| is_made_as(it, table)));
        let missing = tables.iter().filter(|it| !existing.iter().any(|table| is_ours(table) && is_made_as(it, table)));
        let mut messages = vec![control(ControlMessage::BatchBegin)];
        messages.extend(ended.map(|table| delete(&table.name)));
        messages.extend(missing.flat_map(create));
        if messages.len() == 1 {
            return Ok(());
        }
        messages.push(control(ControlMessage::BatchEnd));
        let names = || tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>().join(", ");
        self.0
            .batch(messages, || format!("nftables: making the table inet {}", names()))
            .map_err(NetlinkError::or_missing)
    }

    /// Returns true if this connection owns tables of all these names.
    pub fn has(&mut self, names: &[String]) -> Result<bool, NetlinkError> {
        let own = self.0.port().map_err(|error| NetlinkError::new("nftables", error))?;
        let existing = self.tables()?;
        Ok(names.iter().all(|name| existing.iter().any(|table| table.name == *name && table.owner == Some(own))))
    }

    /// Returns true if there is a table of this name. Only its owner can [`Self::replace`] it.
    pub fn is_taken(&mut self, name: &str) -> Result<bool, NetlinkError> {
        Ok(self.tables()?.iter().any(|table| table.name == name))
    }

    /// All tables of the family `inet`.
    fn tables(&mut self) -> Result<Vec<Existing>, NetlinkError> {
        let message = inet(NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() }));
        let answers = self.0.list(message, || "nftables: listing tables".to_owned());
        let answers = answers.map_err(NetlinkError::or_missing)?;
        Ok(answers.into_iter().filter_map(existing).collect())
    }
}

impl NetlinkError {
    /// Returns true if the error can mean that the kernel lacks something that tables need.
    pub fn may_be_missing(&self) -> bool {
        let may_lack = [Errno::EINVAL, Errno::ENOENT, Errno::EOPNOTSUPP, Errno::EAFNOSUPPORT, Errno::EPROTONOSUPPORT];
        self.errno().is_some_and(|errno| may_lack.contains(&errno))
    }

    /// Adds the hint what the kernel might lack, if the error can mean that.
    fn or_missing(self) -> Self {
        if self.may_be_missing() {
            self.with_hint(format!("needed are Linux 5.12 and its modules {}", MODULES.join(", ")))
        } else {
            self
        }
    }
}

impl AsFd for Nftables {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn existing(answer: NetfilterMessage) -> Option<Existing> {
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(table)) = answer.inner else { return None };
    let mut found = Existing { name: String::new(), owner: None, user_data: Vec::new() };
    for attribute in table.attributes {
        match attribute {
            TableAttribute::Name(name) => found.name = name,
            TableAttribute::Owner(port) => found.owner = Some(port),
            TableAttribute::UserData(bytes) => found.user_data = bytes,
            _ => {}
        }
    }
    Some(found)
}

fn inet(message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0), message)
}

fn control(message: ControlMessage) -> (NetfilterMessage, u16) {
    (NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFTABLES), message), 0)
}

fn delete(name: &str) -> (NetfilterMessage, u16) {
    let attributes = vec![TableAttribute::Name(name.to_owned())];
    (inet(NfTablesMessage::DeleteTable(TableMessage { attributes })), 0)
}

/// Returns true if an existing table has the name and the contents that this one would get now.
fn is_made_as(table: &Table, existing: &Existing) -> bool {
    table.name == existing.name && user_data(&contents(table)) == existing.user_data
}

/// A comment in nft(8)'s form: type, length, text with its NUL.
fn comment(text: &str) -> Vec<u8> {
    let len = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    [&[COMMENT, len], text.as_bytes(), &[0]].concat()
}

/// The user data of a table: whose it is, and a digest of its contents, by which the next image of this process recognizes
/// them.
fn user_data(contents: &[(NetfilterMessage, u16)]) -> Vec<u8> {
    let mut digest = DefaultHasher::new();
    for (message, _) in contents {
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        digest.write(&bytes);
    }
    comment(&format!("uwsgi-tuntap {:016x}", digest.finish()))
}

fn create(table: &Table) -> Vec<(NetfilterMessage, u16)> {
    let contents = contents(table);
    let attributes = vec![
        TableAttribute::Name(table.name.clone()),
        TableAttribute::Flags(TableFlags::Owner),
        TableAttribute::UserData(user_data(&contents)),
    ];
    let mut messages = vec![(inet(NfTablesMessage::NewTable(TableMessage { attributes })), NLM_F_CREATE | NLM_F_EXCL)];
    messages.extend(contents);
    messages
}

/// The messages that make what is in a table, in the order that the kernel wants.
fn contents(table: &Table) -> Vec<(NetfilterMessage, u16)> {
    let mut messages = Vec::new();
    for (set, id) in table.sets.iter().zip(1..) {
        messages.push((inet(NfTablesMessage::NewSet(set::message(&table.name, set, id))), NLM_F_CREATE | NLM_F_EXCL));
    }
    for chain in &table.chains {
        messages.push((inet(NfTablesMessage::NewChain(chain_message(table, chain))), NLM_F_CREATE | NLM_F_EXCL));
        for rule in &chain.rules {
            let (expressions, comment) = rule.clone().into_parts();
            let mut attributes = vec![
                RuleAttribute::Table(table.name.clone()),
                RuleAttribute::Chain(chain.name.to_owned()),
                RuleAttribute::Expressions(expressions.into_iter().map(Into::into).collect()),
            ];
            attributes.extend(comment.map(|text| RuleAttribute::UserData(self::comment(text))));
            messages.push((inet(NfTablesMessage::NewRule(RuleMessage { attributes })), NLM_F_CREATE | NLM_F_APPEND));
        }
    }
    messages
}

fn chain_message(table: &Table, chain: &Chain) -> ChainMessage {
    let mut attributes = vec![ChainAttribute::Table(table.name.clone()), ChainAttribute::Name(chain.name.to_owned())];
    if let Some((kind, hook, priority)) = chain.hook.map(Hook::place) {
        attributes.push(ChainAttribute::Type(kind.to_owned()));
        attributes.push(ChainAttribute::Hook(vec![
            HookAttribute::Number(HookNumber::Inet(hook)),
            HookAttribute::Priority(priority.cast_unsigned()),
        ]));
    }
    ChainMessage { attributes }
}

#[cfg(test)]
mod tests;
