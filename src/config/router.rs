//! `tuntap-router` and `tuntap-router-stats`.

use std::net::{IpAddr, SocketAddrV4};

use ipnet::IpNet;

use super::error::{ConfigError, Problem};
use super::{OptionName, parse};
use crate::wire::lease::MAX_DNS_SERVERS;

/// One router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterSpec {
    /// Name of its TUN device.
    pub device: String,
    /// Unix socket on which it meets its peers: a path, or `@name`.
    pub socket: String,
    /// Where it tells its statistics.
    pub stats: Option<StatsAddress>,
    /// UDP address on which it exchanges packets with other routers.
    pub gateway: Option<SocketAddrV4>,
    /// Its own addresses, with the lengths of the prefixes of the networks that its peers get addresses from.
    pub addresses: Vec<IpNet>,
    /// DNS servers that it tells devices of.
    pub dns: Vec<IpAddr>,
}

/// Where statistics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatsAddress {
    /// A unix socket: a path, or `@name`.
    Unix(String),
    /// `host:port`, `:port` or `*:port`, resolved by uWSGI.
    Tcp(String),
}

impl StatsAddress {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Unix(name) | Self::Tcp(name) => name,
        }
    }
}

const SYNTAX: &str = "<device> <socket> [stats] [gateway]";

/// Reads `<device> <socket> [stats] [gateway]`. `""` for stats leaves them out.
pub fn parse(value: &str) -> Result<RouterSpec, Problem> {
    let words = parse::words(value, SYNTAX)?;
    let (device, socket, stats, gateway) = match words.as_slice() {
        [device, socket] => (device, socket, None, None),
        [device, socket, stats] => (device, socket, Some(stats), None),
        [device, socket, stats, gateway] => (device, socket, Some(stats), Some(gateway)),
        _ => return Err(Problem::Syntax(SYNTAX)),
    };
    Ok(RouterSpec {
        device: parse::device_name(device)?,
        socket: parse::unix_socket(socket)?,
        stats: stats.filter(|word| !word.is_empty()).map(|word| parse_stats(word)).transpose()?,
        gateway: gateway.map(|word| parse::udp_bind(word)).transpose()?,
        addresses: Vec::new(),
        dns: Vec::new(),
    })
}

/// Reads a statistics address: with a colon it is TCP, as everywhere in uWSGI.
pub fn parse_stats(value: &str) -> Result<StatsAddress, Problem> {
    if value.contains(':') {
        parse::tcp_port(value)?;
        return Ok(StatsAddress::Tcp(value.to_owned()));
    }
    parse::unix_socket(value).map(StatsAddress::Unix)
}

/// Gives `tuntap-router-stats` to the last router that has no address of its own: one socket can't serve two.
pub fn apply_default_stats(routers: &mut [RouterSpec], address: StatsAddress) {
    if let Some(router) = routers.iter_mut().rev().find(|router| router.stats.is_none()) {
        router.stats = Some(address);
    }
}

/// What an option says about one router: its device, if it is named, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    option: OptionName,
    /// The whole value, for messages.
    value: String,
    device: Option<String>,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Address(IpNet),
    Dns(IpAddr),
}

/// Reads `[<device>] <address/prefix>`.
pub fn address(value: &str) -> Result<Setting, Problem> {
    let (device, word) = parse::for_device(value, "[<device>] <address/prefix>")?;
    let what = What::Address(parse::host_with_prefix(&word)?);
    Ok(Setting { option: OptionName::RouterAddress, value: value.to_owned(), device, what })
}

/// Reads `[<device>] <address>`.
pub fn dns(value: &str) -> Result<Setting, Problem> {
    let (device, word) = parse::for_device(value, "[<device>] <address>")?;
    let what = What::Dns(parse::host(&word)?);
    Ok(Setting { option: OptionName::RouterDns, value: value.to_owned(), device, what })
}

/// Gives each setting to its router.
pub fn apply(routers: &mut [RouterSpec], settings: Vec<Setting>) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    for setting in settings {
        let router = parse::named(routers, setting.device.as_deref(), |router| &router.device, "tuntap-router");
        let problem = match (router, setting.what) {
            (Err(problem), _) => problem,
            (Ok(router), What::Dns(_)) if router.dns.len() >= MAX_DNS_SERVERS => {
                Problem::Syntax("no more than 3 DNS servers of a router: resolvers read no more")
            }
            (Ok(router), What::Address(address)) => {
                router.addresses.push(address);
                continue;
            }
            (Ok(router), What::Dns(address)) => {
                router.dns.push(address);
                continue;
            }
        };
        errors.push(ConfigError { option: setting.option.as_str(), value: setting.value, problem });
    }
    errors
}

/// Routers that would take each other's device or socket.
pub fn duplicates(routers: &[RouterSpec]) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    for (index, router) in routers.iter().enumerate() {
        let error = |problem| ConfigError {
            option: OptionName::Router.as_str(),
            value: format!("{} {}", router.device, router.socket),
            problem,
        };
        if routers[..index].iter().any(|other| other.device == router.device) {
            errors.push(error(Problem::Duplicate("device")));
        }
        if routers[..index].iter().any(|other| other.socket == router.socket) {
            errors.push(error(Problem::Duplicate("socket")));
        }
    }
    errors
}
