//! The answer to a question or a claim.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::check::{MessageError, check_len, check_version, host, json, printable, wrong};
use super::{Family, MAX_ADDRESSES, MAX_DIRECTORIES, MAX_DNS_SERVERS, MAX_REFUSALS, MIN_MTU_V4, VERSION, is_host};

/// What a device wished for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Any address of this family.
    Any(Family),
    /// This address.
    Address(IpAddr),
}

impl std::fmt::Display for Wish {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any(family) => formatter.write_str(family.word()),
            Self::Address(address) => address.fmt(formatter),
        }
    }
}

/// A wish that did not come true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedWish {
    /// The wish.
    pub wish: Wish,
    /// Why, for people; no longer than [`MAX_REASON_LEN`] and without control characters.
    pub reason: String,
    /// Whether it will be refused for as long as the router is what it is, rather than until somebody else leaves.
    pub for_good: bool,
}

/// A directory, the same in all mount namespaces of a machine (stat(2): `st_dev`, `st_ino`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Its file system's device.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
}

/// What a router tells a device about its network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Configuration {
    /// Those addresses of the device that were asked for or claimed, and that it holds now, with the length of their
    /// networks' prefixes.
    pub addresses: Vec<IpNet>,
    /// The router's own addresses, one for each family at most.
    pub gateways: Vec<IpAddr>,
    /// Of the router's device, in bytes.
    pub mtu: Option<u16>,
    /// DNS servers.
    pub dns: Vec<IpAddr>,
    /// What it didn't get.
    pub refused: Vec<RefusedWish>,
    /// The host's folders with its resolv.conf, which no device may write into.
    pub host_etc: Vec<Directory>,
}

#[derive(Serialize, Deserialize)]
struct RawConfiguration {
    version: u64,
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    gateways: Vec<String>,
    #[serde(default)]
    mtu: Option<u64>,
    #[serde(default)]
    dns: Vec<String>,
    #[serde(default)]
    refused: Vec<RawRefusal>,
    #[serde(default)]
    host_etc: Vec<Directory>,
}

#[derive(Serialize, Deserialize)]
struct RawRefusal {
    wish: String,
    reason: String,
    #[serde(default)]
    for_good: bool,
}

impl Configuration {
    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        let refusal = |refusal: &RefusedWish| RawRefusal {
            wish: refusal.wish.to_string(),
            reason: printable(&refusal.reason),
            for_good: refusal.for_good,
        };
        let raw = RawConfiguration {
            version: VERSION.into(),
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            gateways: self.gateways.iter().map(ToString::to_string).collect(),
            mtu: self.mtu.map(u64::from),
            dns: self.dns.iter().map(ToString::to_string).collect(),
            refused: self.refused.iter().map(refusal).collect(),
            host_etc: self.host_etc.clone(),
        };
        serde_json::to_vec(&raw).unwrap_or_default()
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, MessageError> {
        let raw: RawConfiguration = json(payload, &["refused", "host_etc"])?;
        check_version(raw.version)?;
        check_len("addresses", &raw.addresses, MAX_ADDRESSES)?;
        check_len("gateways", &raw.gateways, Family::ALL.len())?;
        check_len("DNS servers", &raw.dns, MAX_DNS_SERVERS)?;
        check_len("refusals", &raw.refused, MAX_REFUSALS)?;
        check_len("directories", &raw.host_etc, MAX_DIRECTORIES)?;
        let hosts = |words: &[String]| words.iter().map(|word| host(word)).collect::<Result<Vec<_>, _>>();
        let gateways = hosts(&raw.gateways)?;
        if let [first, second] = gateways[..]
            && Family::of(first) == Family::of(second)
        {
            return Err(MessageError::TooMany("gateways of a family", 1));
        }
        let addresses = raw.addresses.iter().map(|word| host_with_prefix(word)).collect::<Result<Vec<_>, _>>()?;
        let mtu = |mtu: u64| u16::try_from(mtu).ok().filter(|mtu| *mtu >= MIN_MTU_V4).ok_or(MessageError::Mtu(mtu));
        Ok(Self {
            addresses,
            gateways,
            mtu: raw.mtu.map(mtu).transpose()?,
            dns: raw.dns.iter().map(|word| server(word)).collect::<Result<_, _>>()?,
            refused: raw.refused.into_iter().map(refusal).collect::<Result<_, _>>()?,
            host_etc: raw.host_etc,
        })
    }

    /// The gateway of a family.
    pub fn gateway(&self, family: Family) -> Option<IpAddr> {
        self.gateways.iter().copied().find(|gateway| Family::of(*gateway) == family)
    }
}

fn refusal(raw: RawRefusal) -> Result<RefusedWish, MessageError> {
    let family = Family::ALL.into_iter().find(|family| family.word() == raw.wish);
    let wish = match family {
        Some(family) => Wish::Any(family),
        None => Wish::Address(host(&raw.wish)?),
    };
    Ok(RefusedWish { wish, reason: printable(&raw.reason), for_good: raw.for_good })
}

/// A DNS server may be on the device's own loopback, too.
fn server(word: &str) -> Result<IpAddr, MessageError> {
    let is_server = |address: &IpAddr| is_host(*address) || address.is_loopback();
    word.parse().ok().filter(is_server).ok_or_else(|| wrong(word, "address of a DNS server"))
}

/// A prefix of 0 bits would be everything.
fn host_with_prefix(word: &str) -> Result<IpNet, MessageError> {
    let is_good = |net: &IpNet| is_host(net.addr()) && net.prefix_len() > 0;
    word.parse().ok().filter(is_good).ok_or_else(|| wrong(word, "unicast address with a prefix length"))
}
