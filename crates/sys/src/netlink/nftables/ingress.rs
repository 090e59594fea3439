//! Chains that drop whatever a device receives, unless something before them has taken it: programs at the ingress of traffic control, or
//! of XDP.

use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DevHookNumber, Hook, HookNumber, NfTablesMessage, TableAttribute, TableFlags,
    TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{comment, control};
use crate::netlink::connection::Connection;
use crate::netlink::error::NetlinkError;

/// How the names of tables begin that guard pairs of devices: they see no packets but those that nobody should send.
pub const PAIR_GUARDS: &str = "uwsgi-tuntap-pairs-";

/// Verdicts as a chain's policy (NF_DROP and NF_ACCEPT of linux/netfilter.h).
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// A device that each namespace has.
const LOOPBACK: &str = "lo";

/// A table of the family `netdev`, with a chain for each of some devices. It belongs to its socket, as [`super::Nftables`] says of others,
/// and so to all processes that have the socket open; one of them at a time may use it.
///
/// The family `inet` has such chains, too, but kernels before Linux 6.8 forget to take them off a device that goes.
#[derive(Debug)]
pub struct IngressDrops {
    connection: Connection<NetfilterMessage>,
    table: String,
}

impl IngressDrops {
    /// Makes the table in the network namespace of the calling thread, without chains. Fails if the kernel has no chains of this kind,
    /// or if there is a table of this name.
    pub fn open(table: &str) -> Result<Self, NetlinkError> {
        let connection = Connection::open(NETLINK_NETFILTER).map_err(|error| NetlinkError::new("nftables", error))?;
        let mut drops = Self { connection, table: table.to_owned() };
        // What the kernel lacks, it says of a chain only.
        let probe = drops.chain("probe", Some((LOOPBACK, ACCEPT)));
        let messages = vec![drops.make_table(), (probe, NLM_F_CREATE | NLM_F_EXCL), drops.delete_chain("probe")];
        drops.batch(messages, "making the table")?;
        Ok(drops)
    }

    /// Drops what a device receives. `chain` names the chain, which has to be a new one.
    pub fn add(&mut self, chain: &str, device: &str) -> Result<(), NetlinkError> {
        let message = self.chain(chain, Some((device, DROP)));
        self.batch(vec![(message, NLM_F_CREATE | NLM_F_EXCL)], "dropping what comes in, in the table")
    }

    /// Removes chains. With its device a chain goes by itself, or stays for the next device of the same name, as the kernel likes: so
    /// it may be there or not.
    pub fn remove(&mut self, chains: &[String]) -> Result<(), NetlinkError> {
        // The first message changes nothing of a chain that is there.
        let both = |chain: &String| [(self.chain(chain, None), NLM_F_CREATE), self.delete_chain(chain)];
        let messages: Vec<_> = chains.iter().flat_map(both).collect();
        if messages.is_empty() { Ok(()) } else { self.batch(messages, "removing chains of the table") }
    }

    /// Removes all chains.
    pub fn clear(&mut self) -> Result<(), NetlinkError> {
        let attributes = vec![TableAttribute::Name(self.table.clone())];
        let delete = netdev(NfTablesMessage::DeleteTable(TableMessage { attributes }));
        let messages = vec![(delete, 0), self.make_table()];
        self.batch(messages, "emptying the table")
    }

    fn make_table(&self) -> (NetfilterMessage, u16) {
        let attributes = vec![
            TableAttribute::Name(self.table.clone()),
            TableAttribute::Flags(TableFlags::Owner),
            TableAttribute::UserData(comment("uwsgi-tuntap: what no program has let in")),
        ];
        (netdev(NfTablesMessage::NewTable(TableMessage { attributes })), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// The message about a chain, which makes it one of a device, with its policy.
    fn chain(&self, name: &str, device: Option<(&str, u32)>) -> NetfilterMessage {
        let mut attributes = vec![ChainAttribute::Table(self.table.clone()), ChainAttribute::Name(name.to_owned())];
        if let Some((device, policy)) = device {
            attributes.extend([
                ChainAttribute::Hook(vec![
                    Hook::Number(HookNumber::Dev(DevHookNumber::Ingress)),
                    Hook::Priority(0),
                    Hook::NetDeviceName(device.to_owned()),
                ]),
                ChainAttribute::Policy(policy),
                ChainAttribute::Type("filter".to_owned()),
            ]);
        }
        netdev(NfTablesMessage::NewChain(ChainMessage { attributes }))
    }

    fn delete_chain(&self, name: &str) -> (NetfilterMessage, u16) {
        let attributes = vec![ChainAttribute::Table(self.table.clone()), ChainAttribute::Name(name.to_owned())];
        (netdev(NfTablesMessage::DeleteChain(ChainMessage { attributes })), 0)
    }

    /// Does all of it, or nothing.
    fn batch(&mut self, messages: Vec<(NetfilterMessage, u16)>, what: &str) -> Result<(), NetlinkError> {
        let mut batch = vec![control(ControlMessage::BatchBegin)];
        batch.extend(messages);
        batch.push(control(ControlMessage::BatchEnd));
        self.connection.batch(batch, || format!("nftables: {what} netdev {}", self.table))
    }
}

impl AsFd for IngressDrops {
    /// The descriptor that keeps the table.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

fn netdev(message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::NetDev, 0, 0), message)
}
