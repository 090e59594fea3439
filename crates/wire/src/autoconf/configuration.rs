//! The router's answer to a request or a claim.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::check::{MessageError, check_len, check_version, claimable, json, printable, wrong};
use super::{Family, MAX_ADDRESSES, MAX_DIRECTORIES, MAX_DNS_SERVERS, MAX_REFUSALS, MIN_MTU_V4, VERSION, is_claimable};

/// What a device has requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requested {
    /// Any address of this family.
    Any(Family),
    /// This address.
    Address(IpAddr),
}

impl std::fmt::Display for Requested {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any(family) => formatter.write_str(family.word()),
            Self::Address(address) => address.fmt(formatter),
        }
    }
}

/// A request that the router refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRequest {
    /// What was requested.
    pub requested: Requested,
    /// Why, for people. No longer than [`super::MAX_REASON_LEN`] and without control characters.
    pub reason: String,
    /// True if the refusal lasts until the router's options change, false if it may end when another peer leaves.
    pub for_good: bool,
}

/// Identifies a directory across the mount namespaces of a machine (`st_dev` and `st_ino` of stat(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryId {
    /// Device of its file system.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
}

/// The configuration of a device's network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Configuration {
    /// The requested or claimed addresses that the device holds now, with the prefix lengths of their networks.
    pub addresses: Vec<IpNet>,
    /// Default routers (next hops): the router's own addresses, at most one of each family.
    pub routers: Vec<IpAddr>,
    /// MTU of the router's device, in bytes.
    pub mtu: Option<u16>,
    /// DNS servers.
    pub dns: Vec<IpAddr>,
    /// Requests that the router refuses.
    pub refused: Vec<RefusedRequest>,
    /// The host's directories with its resolv.conf, which no device may write into.
    pub host_etc: Vec<DirectoryId>,
}

#[derive(Serialize, Deserialize)]
struct RawConfiguration {
    version: u64,
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default, rename = "gateways")]
    routers: Vec<String>,
    #[serde(default)]
    mtu: Option<u64>,
    #[serde(default)]
    dns: Vec<String>,
    #[serde(default)]
    refused: Vec<RawRefusal>,
    #[serde(default)]
    host_etc: Vec<DirectoryId>,
}

#[derive(Serialize, Deserialize)]
struct RawRefusal {
    #[serde(rename = "wish")]
    requested: String,
    reason: String,
    #[serde(default)]
    for_good: bool,
}

impl Configuration {
    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        let refusal = |refusal: &RefusedRequest| RawRefusal {
            requested: refusal.requested.to_string(),
            reason: printable(&refusal.reason),
            for_good: refusal.for_good,
        };
        let raw = RawConfiguration {
            version: VERSION.into(),
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            routers: self.routers.iter().map(ToString::to_string).collect(),
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
        check_len("gateways", &raw.routers, Family::ALL.len())?;
        check_len("DNS servers", &raw.dns, MAX_DNS_SERVERS)?;
        check_len("refusals", &raw.refused, MAX_REFUSALS)?;
        check_len("directories", &raw.host_etc, MAX_DIRECTORIES)?;
        let all_claimable = |words: &[String]| words.iter().map(|word| claimable(word)).collect::<Result<Vec<_>, _>>();
        let routers = all_claimable(&raw.routers)?;
        if let [first, second] = routers[..]
            && Family::of(first) == Family::of(second)
        {
            return Err(MessageError::TooMany("gateways of a family", 1));
        }
        let addresses = raw.addresses.iter().map(|word| claimable_with_prefix(word)).collect::<Result<Vec<_>, _>>()?;
        let mtu = |mtu: u64| u16::try_from(mtu).ok().filter(|mtu| *mtu >= MIN_MTU_V4).ok_or(MessageError::Mtu(mtu));
        Ok(Self {
            addresses,
            routers,
            mtu: raw.mtu.map(mtu).transpose()?,
            dns: raw.dns.iter().map(|word| server(word)).collect::<Result<_, _>>()?,
            refused: raw.refused.into_iter().map(refusal).collect::<Result<_, _>>()?,
            host_etc: raw.host_etc,
        })
    }

    /// The default router of a family.
    pub fn default_router(&self, family: Family) -> Option<IpAddr> {
        self.routers.iter().copied().find(|router| Family::of(*router) == family)
    }
}

fn refusal(raw: RawRefusal) -> Result<RefusedRequest, MessageError> {
    let family = Family::ALL.into_iter().find(|family| family.word() == raw.requested);
    let requested = match family {
        Some(family) => Requested::Any(family),
        None => Requested::Address(claimable(&raw.requested)?),
    };
    Ok(RefusedRequest { requested, reason: printable(&raw.reason), for_good: raw.for_good })
}

/// The address of a DNS server, which may also be on the device's loopback.
fn server(word: &str) -> Result<IpAddr, MessageError> {
    let is_server = |address: &IpAddr| is_claimable(*address) || address.is_loopback();
    word.parse().ok().filter(is_server).ok_or_else(|| wrong(word, "address of a DNS server"))
}

/// An address with the prefix length of its network, which must not be 0.
fn claimable_with_prefix(word: &str) -> Result<IpNet, MessageError> {
    let is_good = |net: &IpNet| is_claimable(net.addr()) && net.prefix_len() > 0;
    word.parse().ok().filter(is_good).ok_or_else(|| wrong(word, "unicast address with a prefix length"))
}
