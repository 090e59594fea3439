//! Messages by which a device gets its network's configuration from its router: a question, a claim, and the answer to
//! both. A router that doesn't know them drops the question, because it is shorter than an IP packet, and never answers;
//! the longer messages come only once it has answered.
//!
//! All that arrives is checked on both sides. JSON may have keys that this version doesn't know.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::ip::is_unicast;

/// `modifier2` of a device's question.
pub const ASK: u8 = 0x76;

/// `modifier2` of a router's answer to a question or a claim. The payload is JSON.
pub const CONFIGURATION: u8 = 0x77;

/// `modifier2` of a device's claim. The payload is JSON.
pub const CLAIM: u8 = 0x78;

/// The version of these messages that this code speaks.
pub const VERSION: u8 = 1;

/// Bytes of a question: below 20, the least that a C router takes for a packet.
pub const ASK_LEN: usize = 12;

/// Most addresses in a message: what a peer can hold.
pub const MAX_ADDRESSES: usize = 9;

/// Most DNS servers in a message. Resolvers read three (resolv.conf(5), MAXNS).
pub const MAX_DNS_SERVERS: usize = 3;

/// Most wishes that an answer refuses.
pub const MAX_REFUSALS: usize = MAX_ADDRESSES + 2;

/// Most directories in an answer.
pub const MAX_DIRECTORIES: usize = 4;

/// Longest reason of a refusal, in letters. The rest is cut off.
pub const MAX_REASON_LEN: usize = 200;

/// Least MTU of a link with IPv4 (RFC 791: what every host must take) and with IPv6 (RFC 8200, section 5), in bytes.
pub const MIN_MTU_V4: u16 = 576;
/// As above.
pub const MIN_MTU_V6: u16 = 1280;

/// Numbers of [`ConfigurationRequest`]'s flags.
const WANTS_V4: u8 = 1;
const WANTS_V6: u8 = 2;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The word for it in messages.
    pub const fn word(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// Which addresses a device wants its router to choose. Without any it is the question whether the router knows these
/// messages, and what it would tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigurationRequest {
    /// An IPv4 address.
    pub v4: bool,
    /// An IPv6 address.
    pub v6: bool,
    /// Which of its user's devices it is, see [`name_hash`].
    pub name: u64,
}

impl ConfigurationRequest {
    /// The payload.
    pub fn encode(self) -> [u8; ASK_LEN] {
        let flags = u8::from(self.v4) * WANTS_V4 + u8::from(self.v6) * WANTS_V6;
        let mut payload = [0; ASK_LEN];
        payload[0] = VERSION;
        payload[1] = flags;
        payload[4..].copy_from_slice(&self.name.to_le_bytes());
        payload
    }

    /// Reads a payload. `None` for another version or length. Unknown flags, and the two bytes behind them, don't count.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let [VERSION, flags, _, _, name @ ..] = payload else { return None };
        let name = u64::from_le_bytes(name.try_into().ok()?);
        Some(Self { v4: flags & WANTS_V4 != 0, v6: flags & WANTS_V6 != 0, name })
    }
}

/// What tells a device from its user's other devices, so that it gets the same addresses each time: FNV-1a, 64 bits, of
/// the vassal's name (of any length: its configuration's whole path), a NUL byte and the device's name.
pub fn name_hash(vassal: &str, device: &str) -> u64 {
    fnv1a(vassal.bytes().chain([0]).chain(device.bytes()))
}

/// The hash FNV-1a of 64 bits (Fowler, Noll, Vo; draft-eastlake-fnv).
pub fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.into_iter().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// Why a message can't be used.
#[derive(Debug, Error)]
pub enum LeaseError {
    /// It is no JSON, or misses something.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// It, or what a list in it holds, is something else than objects.
    #[error("{0}: no JSON object")]
    NoObject(&'static str),
    /// It is of another version.
    #[error("version {0}, this is {VERSION}")]
    Version(u64),
    /// A list is longer than it may be.
    #[error("more than {1} {0}")]
    TooMany(&'static str, usize),
    /// A word is not what it should be.
    #[error("\"{0}\" is no {1}")]
    Word(String, &'static str),
    /// The MTU is out of bounds.
    #[error("an MTU of {0} bytes")]
    Mtu(u64),
}

/// An address that a device says it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimedAddress {
    /// The address.
    pub address: IpAddr,
    /// Whether a router chose it for this device before; else it is the device's own choice.
    pub leased: bool,
}

/// The addresses that a device says it should have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClaimRequest {
    /// 1 to [`MAX_ADDRESSES`].
    pub addresses: Vec<ClaimedAddress>,
}

#[derive(Serialize, Deserialize)]
struct RawClaim {
    version: u64,
    addresses: Vec<RawClaimedAddress>,
}

#[derive(Serialize, Deserialize)]
struct RawClaimedAddress {
    address: String,
    #[serde(default)]
    leased: bool,
}

impl ClaimRequest {
    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        let address = |claimed: &ClaimedAddress| RawClaimedAddress {
            address: claimed.address.to_string(),
            leased: claimed.leased,
        };
        let raw = RawClaim { version: VERSION.into(), addresses: self.addresses.iter().map(address).collect() };
        serde_json::to_vec(&raw).unwrap_or_default()
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, LeaseError> {
        let raw: RawClaim = json(payload, &["addresses"])?;
        check_version(raw.version)?;
        check_len("addresses", &raw.addresses, MAX_ADDRESSES)?;
        let claimed = |raw: RawClaimedAddress| Ok(ClaimedAddress { address: host(&raw.address)?, leased: raw.leased });
        Ok(Self { addresses: raw.addresses.into_iter().map(claimed).collect::<Result<_, LeaseError>>()? })
    }
}

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
    pub fn decode(payload: &[u8]) -> Result<Self, LeaseError> {
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
            return Err(LeaseError::TooMany("gateways of a family", 1));
        }
        let addresses = raw.addresses.iter().map(|word| host_with_prefix(word)).collect::<Result<Vec<_>, _>>()?;
        let mtu = |mtu: u64| u16::try_from(mtu).ok().filter(|mtu| *mtu >= MIN_MTU_V4).ok_or(LeaseError::Mtu(mtu));
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

/// Whether an address can be a host's beyond its own link. Beside what [`is_unicast`] leaves out, that is 169.254.0.0/16 (RFC
/// 3927), which means something on a link alone, as fe80::/10 does. Nothing else may be claimed.
pub fn is_host(address: IpAddr) -> bool {
    is_unicast(address) && !matches!(address, IpAddr::V4(address) if address.is_link_local())
}

/// Reads a JSON object, in which these keys have lists of objects. Of what serde reads by itself, it passes over the value of a
/// key that it doesn't know by quotes and brackets alone, and takes a list for an object. So the whole is looked at first.
fn json<T: DeserializeOwned>(payload: &[u8], lists_of_objects: &[&'static str]) -> Result<T, LeaseError> {
    let whole: Value = serde_json::from_slice(payload)?;
    if !whole.is_object() {
        return Err(LeaseError::NoObject("the message"));
    }
    for key in lists_of_objects {
        if !whole.get(key).and_then(Value::as_array).is_none_or(|list| list.iter().all(Value::is_object)) {
            return Err(LeaseError::NoObject(key));
        }
    }
    Ok(serde_json::from_slice(payload)?)
}

fn check_version(version: u64) -> Result<(), LeaseError> {
    if version == u64::from(VERSION) { Ok(()) } else { Err(LeaseError::Version(version)) }
}

fn check_len<T>(what: &'static str, list: &[T], most: usize) -> Result<(), LeaseError> {
    if list.len() <= most { Ok(()) } else { Err(LeaseError::TooMany(what, most)) }
}

fn host(word: &str) -> Result<IpAddr, LeaseError> {
    word.parse().ok().filter(|address| is_host(*address)).ok_or_else(|| wrong(word, "unicast address"))
}

/// A DNS server may be on the device's own loopback, too.
fn server(word: &str) -> Result<IpAddr, LeaseError> {
    let is_server = |address: &IpAddr| is_host(*address) || address.is_loopback();
    word.parse().ok().filter(is_server).ok_or_else(|| wrong(word, "address of a DNS server"))
}

/// A prefix of 0 bits would be everything.
fn host_with_prefix(word: &str) -> Result<IpNet, LeaseError> {
    let is_good = |net: &IpNet| is_host(net.addr()) && net.prefix_len() > 0;
    word.parse().ok().filter(is_good).ok_or_else(|| wrong(word, "unicast address with a prefix length"))
}

fn refusal(raw: RawRefusal) -> Result<RefusedWish, LeaseError> {
    let family = Family::ALL.into_iter().find(|family| family.word() == raw.wish);
    let wish = match family {
        Some(family) => Wish::Any(family),
        None => Wish::Address(host(&raw.wish)?),
    };
    Ok(RefusedWish { wish, reason: printable(&raw.reason), for_good: raw.for_good })
}

/// What may go to a log.
fn printable(text: &str) -> String {
    text.chars().take(MAX_REASON_LEN).map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

fn wrong(word: &str, what: &'static str) -> LeaseError {
    LeaseError::Word(printable(word), what)
}

/// Addresses of a network that no host has: IPv4's network and broadcast address (RFC 1122, section 3.2.1.3), except in
/// networks of two (RFC 3021) or one; IPv6's subnet-router anycast address (RFC 4291, section 2.6.1), with the same
/// exceptions (RFC 6164).
pub fn is_reserved(network: IpNet, address: IpAddr) -> bool {
    let has_both = network.max_prefix_len() - network.prefix_len() > 1;
    has_both && (address == network.network() || address.is_ipv4() && address == network.broadcast())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn configuration() -> Configuration {
        Configuration {
            addresses: vec!["10.0.0.7/24".parse().expect("v4"), "fd00:77::7/64".parse().expect("v6")],
            gateways: vec!["10.0.0.1".parse().expect("v4"), "fd00:77::1".parse().expect("v6")],
            mtu: Some(1500),
            dns: vec!["192.0.2.53".parse().expect("v4")],
            refused: vec![RefusedWish {
                wish: Wish::Any(Family::V6),
                reason: "all are taken".to_owned(),
                for_good: true,
            }],
            host_etc: vec![Directory { device: 1, inode: 2 }],
        }
    }

    fn refused(json: &str) -> String {
        Configuration::decode(json.as_bytes()).expect_err(json).to_string()
    }

    #[test]
    fn ask_is_twelve_bytes() {
        let ask = ConfigurationRequest { v4: true, v6: false, name: 0x0102_0304_0506_0708 };
        assert_eq!(ask.encode(), [1, 1, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
        for (v4, v6) in [(false, false), (true, false), (false, true), (true, true)] {
            let ask = ConfigurationRequest { v4, v6, name: 7 };
            assert_eq!(ConfigurationRequest::decode(&ask.encode()), Some(ask));
        }
        assert_eq!(ConfigurationRequest::decode(&[2, 1, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]), None, "another version");
        assert_eq!(ConfigurationRequest::decode(&ask.encode()[..11]), None);
        assert!(
            ConfigurationRequest::decode(&[1, 0xff, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0]).is_some_and(|ask| ask.v4 && ask.v6)
        );
    }

    #[test]
    fn hash_is_the_documented_one() {
        assert_eq!(fnv1a(*b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(*b"foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(name_hash("app.ini", "uwsgi0"), fnv1a(*b"app.ini\0uwsgi0"));
    }

    #[test]
    fn messages_come_back_as_they_were() {
        let told = configuration();
        assert_eq!(Configuration::decode(&told.encode()).expect("valid"), told);
        let claim = ClaimRequest {
            addresses: vec![
                ClaimedAddress { address: "10.0.0.7".parse().expect("v4"), leased: true },
                ClaimedAddress { address: "fd00::7".parse().expect("v6"), leased: false },
            ],
        };
        assert_eq!(ClaimRequest::decode(&claim.encode()).expect("valid"), claim);
    }

    #[test]
    fn unknown_keys_are_passed_over_and_unknown_versions_are_not() {
        let told = Configuration::decode(br#"{"version":1,"addresses":["10.0.0.7/24"],"search":["example"],"x":{}}"#);
        assert_eq!(told.expect("valid").addresses.len(), 1);
        assert_eq!(refused(r#"{"version":2}"#), "version 2, this is 1");
        assert!(refused("{}").contains("version"));
        assert!(ClaimRequest::decode(br#"{"version":3,"addresses":[]}"#).is_err());
    }

    #[test]
    fn what_is_passed_over_is_json_too() {
        let with = |value: &[u8]| [br#"{"version":1,"addresses":[],"mtu":1500,"later":"#, value, b"}"].concat();
        assert!(Configuration::decode(&with(b"[\"\", {}]")).is_ok());
        for value in [&b"\"\x89\""[..], b"\"\\ud800\"", b"1e999", &[b'['; 200]] {
            assert!(Configuration::decode(&with(value)).is_err(), "{value:?}");
        }
    }

    #[test]
    fn lists_are_no_objects() {
        for text in ["[1]", r#"{"version":1,"refused":[["ipv4","why",false]]}"#, r#"{"version":1,"host_etc":[[1,2]]}"#]
        {
            assert!(matches!(Configuration::decode(text.as_bytes()), Err(LeaseError::NoObject(_))), "{text}");
        }
        let claim = br#"{"version":1,"addresses":[["10.0.0.2",true]]}"#;
        assert!(matches!(ClaimRequest::decode(claim), Err(LeaseError::NoObject("addresses"))));
    }

    #[test]
    fn nothing_is_taken_on_trust() {
        for address in [
            "127.0.0.1/8",
            "224.0.0.1/4",
            "0.0.0.0/8",
            "10.0.0.1/33",
            "10.0.0.1/0",
            "10.0.0.1",
            "fe80::1/64",
            "::1/128",
            "::ffff:10.0.0.1/96",
            "255.255.255.255/32",
        ] {
            refused(&format!(r#"{{"version":1,"addresses":["{address}"]}}"#));
        }
        refused(r#"{"version":1,"gateways":["10.0.0.1","10.0.0.2"]}"#);
        refused(r#"{"version":1,"gateways":["ff02::1"]}"#);
        refused(r#"{"version":1,"dns":["10.0.0.1","10.0.0.2","10.0.0.3","10.0.0.4"]}"#);
        refused(r#"{"version":1,"dns":["10.0.0.1\nnameserver 6.6.6.6"]}"#);
        for mtu in [0, 575, 65_536] {
            refused(&format!(r#"{{"version":1,"mtu":{mtu}}}"#));
        }
        assert!(Configuration::decode(br#"{"version":1,"mtu":576,"addresses":["10.0.0.1/24"]}"#).is_ok());
        let many = [r#""10.0.0.7/24""#; MAX_ADDRESSES + 1].join(",");
        refused(&format!(r#"{{"version":1,"addresses":[{many}]}}"#));
    }

    #[test]
    fn reasons_are_fit_for_a_log() {
        let json =
            format!(r#"{{"version":1,"refused":[{{"wish":"ipv4","reason":"a\u001b[2J\n{}"}}]}}"#, "x".repeat(300));
        let told = Configuration::decode(json.as_bytes()).expect("valid");
        assert_eq!(told.refused[0].reason.chars().count(), MAX_REASON_LEN);
        assert!(told.refused[0].reason.starts_with("a?[2J?x"));
    }

    #[test]
    fn longest_message_fits_a_frame() {
        let mut told = configuration();
        told.addresses = vec!["fd00:1111:2222:3333:4444:5555:6666:7777/128".parse().expect("v6"); MAX_ADDRESSES];
        told.dns = vec!["fd00:1111:2222:3333:4444:5555:6666:7777".parse().expect("v6"); MAX_DNS_SERVERS];
        let refusal =
            RefusedWish { wish: Wish::Address(told.dns[0]), reason: "\"".repeat(MAX_REASON_LEN), for_good: false };
        told.refused = vec![refusal; MAX_REFUSALS];
        told.host_etc = vec![Directory { device: u64::MAX, inode: u64::MAX }; MAX_DIRECTORIES];
        assert!(told.encode().len() <= super::super::frame::MAX_PAYLOAD_LEN);
    }

    #[test]
    fn reserved_addresses() {
        let reserved = |net: &str, address: &str| {
            is_reserved(net.parse().expect("a network"), address.parse().expect("an address"))
        };
        assert!(reserved("10.0.0.1/24", "10.0.0.0") && reserved("10.0.0.1/24", "10.0.0.255"));
        assert!(!reserved("10.0.0.0/31", "10.0.0.0") && !reserved("10.0.0.5/32", "10.0.0.5"));
        assert!(reserved("fd00::1/64", "fd00::") && !reserved("fd00::1/64", "fd00::ffff:ffff:ffff:ffff"));
        assert!(!reserved("fd00::/127", "fd00::"));
    }

    proptest! {
        /// Whatever comes is read or refused, and what is read means the same when it is written again.
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ConfigurationRequest::decode(&bytes);
            let _ = ClaimRequest::decode(&bytes);
            if let Ok(told) = Configuration::decode(&bytes) {
                prop_assert_eq!(Configuration::decode(&told.encode()).expect("valid"), told);
            }
        }
    }
}
