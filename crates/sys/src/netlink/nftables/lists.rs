//! Everybody's tables of nf_tables, as they are listed. Their objects stay in the kernel's form, because they may have
//! anything in them: the crate that knows types for some of it refuses a whole list that has one attribute it can't read.

use netlink_packet_core::{DecodeError, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_packet_netfilter::NetfilterHeader;
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::NFTABLES;
use crate::netlink::attributes;
use crate::netlink::connection::Connection;
use crate::netlink::error::NetlinkError;

/// Kinds of objects (`enum nf_tables_msg_types` of linux/netfilter/nf_tables.h), by the messages that request them.
const GET_TABLES: u8 = 1;
const GET_CHAINS: u8 = 4;
const GET_RULES: u8 = 7;
const GET_ELEMENTS: u8 = 13;

/// Attributes that select the elements of a set (NFTA_SET_ELEM_LIST_TABLE and -SET).
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;

/// Length of `struct nfgenmsg`, which comes before the attributes.
const GENERIC_LEN: usize = 4;

/// An object, or the request for objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    kind: u8,
    /// Its address family, `NFPROTO_...` of linux/netfilter.h.
    pub family: u8,
    /// Its attributes, one behind the other, as netlink(7) has them.
    pub attributes: Vec<u8>,
}

impl NetlinkSerializable for Object {
    fn message_type(&self) -> u16 {
        NFTABLES << 8 | u16::from(self.kind)
    }

    fn buffer_len(&self) -> usize {
        GENERIC_LEN + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        NetfilterHeader::new(self.family.into(), 0, 0).emit(buffer);
        buffer[GENERIC_LEN..].copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for Object {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let [_, kind] = header.message_type.to_be_bytes();
        let family = NetfilterHeader::parse(payload)?.family.into();
        Ok(Self { kind, family, attributes: payload.get(GENERIC_LEN..).unwrap_or_default().to_vec() })
    }
}

/// A connection that lists objects of nf_tables in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Lists(Connection<Object>);

impl Lists {
    /// Connects.
    pub fn open() -> Result<Self, NetlinkError> {
        Connection::open(NETLINK_NETFILTER).map(Self).map_err(|error| NetlinkError::new("nftables", error))
    }

    /// The tables of a family (`NFPROTO_...`); of all families if that is 0.
    pub fn tables(&mut self, family: u8) -> Result<Vec<Object>, NetlinkError> {
        self.list(GET_TABLES, family, Vec::new(), "tables")
    }

    /// All chains.
    pub fn chains(&mut self) -> Result<Vec<Object>, NetlinkError> {
        self.list(GET_CHAINS, 0, Vec::new(), "chains")
    }

    /// The rules of all chains.
    pub fn rules(&mut self) -> Result<Vec<Object>, NetlinkError> {
        self.list(GET_RULES, 0, Vec::new(), "rules")
    }

    /// The elements of a set, in one or several lists of them.
    pub fn elements(&mut self, family: u8, table: &str, set: &str) -> Result<Vec<Object>, NetlinkError> {
        let of_set = attributes::of_texts(&[(ELEMENTS_TABLE, table), (ELEMENTS_SET, set)]);
        self.list(GET_ELEMENTS, family, of_set, "elements")
    }

    fn list(&mut self, kind: u8, family: u8, attributes: Vec<u8>, what: &str) -> Result<Vec<Object>, NetlinkError> {
        self.0.list(Object { kind, family, attributes }, || format!("nftables: listing {what}"))
    }
}
