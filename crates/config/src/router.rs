//! `tuntap-router` and `tuntap-router-stats`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

use super::error::{ConfigError, Problem};
use super::hostnet::PortMapping;
use super::hosts::HostsSpec;
use super::live::LiveSpec;
use super::metrics::MetricsSpec;
use super::protection::HostProtection;
use super::shape::ShapeSpec;
use super::trunks::{self, TrunksSpec};
use super::{OptionName, parse};
use tuntap_core::policy::guard::ClaimScope;
use tuntap_core::policy::pool::ranges;

/// One router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterSpec {
    /// Name of its TUN device.
    pub device: String,
    /// Unix socket on which it meets its peers: a path, or `@name`. `None`: vassals of this host can't join it, and it waits for
    /// routers of other hosts alone.
    pub socket: Option<String>,
    /// Where it serves its statistics.
    pub stats: Option<StatsAddress>,
    /// UDP address on which it exchanges packets with other routers.
    pub gateway: Option<SocketAddr>,
    /// Its own addresses, each with the length of its network's prefix. No two networks of an instance overlap.
    pub addresses: Vec<IpNet>,
    /// The parts of its networks from which it chooses addresses (`tuntap-router-pool`). No two overlap.
    pub pools: Vec<IpNet>,
    /// Which addresses peers may claim (`tuntap-router-claims`), if the operator says so.
    pub claims: Option<ClaimScope>,
    /// The host's interfaces by which its vassals reach other networks, masqueraded.
    pub nat: Vec<String>,
    /// Ports of the host that lead to its vassals.
    pub ports: Vec<PortMapping>,
    /// Longest packet, in bytes. `None` is what the kernel gives a TUN device, 1500.
    pub mtu: Option<u16>,
    /// DNS servers that it sends to devices.
    pub dns: Vec<IpAddr>,
    /// How much traffic its peers may have. The traffic of no two is the same.
    pub shapes: Vec<ShapeSpec>,
    /// How it protects its host.
    pub protection: HostProtection,
    /// What it takes although the host uses it already.
    pub meant: Meant,
    /// What can be changed while it runs.
    pub live: LiveSpec,
    /// What it tells other hosts.
    pub hosts: HostsSpec,
    /// How it serves its metrics.
    pub metrics: MetricsSpec,
}

/// Values behind which an operator has put `anyway`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meant {
    /// Addresses of routers.
    pub addresses: Vec<IpNet>,
    /// Mapped ports.
    pub ports: Vec<PortMapping>,
}

impl RouterSpec {
    /// Name of its table of nftables, of the family `inet`.
    pub fn table_name(&self) -> String {
        format!("tuntap-{}", self.device)
    }

    /// Returns true if the router has such a table, on a kernel that has all that it takes.
    pub const fn needs_table(&self) -> bool {
        !(self.nat.is_empty() && self.ports.is_empty() && self.addresses.is_empty())
    }

    /// Returns true if the options say which networks are its vassals'; all others are not.
    pub const fn has_network(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// The networks, or parts of these, from which the router chooses addresses.
    pub fn ranges(&self) -> Vec<IpNet> {
        ranges(&self.addresses, &self.pools)
    }

    /// Path of its control socket.
    pub fn control_path(&self) -> Option<String> {
        self.live.control_path(self.socket.as_deref())
    }

    /// Which addresses peers may claim.
    pub fn claim_scope(&self) -> ClaimScope {
        self.claims.unwrap_or(if self.has_network() { ClaimScope::Own } else { ClaimScope::Any })
    }
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
    /// The address, as it was written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Unix(name) | Self::Tcp(name) => name,
        }
    }
}

const SYNTAX: &str = OptionName::Router.syntax();

/// Reads `<device> <socket> [stats] [gateway]`. `""` for stats leaves them out. An address with a port in place of the socket is
/// where routers of other hosts connect.
pub fn parse(value: &str) -> Result<RouterSpec, Problem> {
    let words = parse::words(value, SYNTAX)?;
    let (device, socket, stats, gateway) = match words.as_slice() {
        [device, socket] => (device, socket, None, None),
        [device, socket, stats] => (device, socket, Some(stats), None),
        [device, socket, stats, gateway] => (device, socket, Some(stats), Some(gateway)),
        _ => return Err(Problem::Syntax(SYNTAX)),
    };
    let (socket, trunks) = if parse::is_tcp_address(socket) {
        (None, TrunksSpec::listening(trunks::address(socket)?))
    } else {
        (Some(parse::unix_socket(socket)?), TrunksSpec::default())
    };
    Ok(RouterSpec {
        device: parse::device_name(device)?,
        socket,
        stats: stats.filter(|word| !word.is_empty()).map(|word| parse_stats(word)).transpose()?,
        gateway: gateway.map(|word| parse::udp_bind(word)).transpose()?,
        addresses: Vec::new(),
        pools: Vec::new(),
        claims: None,
        nat: Vec::new(),
        ports: Vec::new(),
        mtu: None,
        dns: Vec::new(),
        shapes: Vec::new(),
        protection: HostProtection::default(),
        meant: Meant::default(),
        live: LiveSpec::default(),
        hosts: HostsSpec { trunks, ..HostsSpec::default() },
        metrics: MetricsSpec::default(),
    })
}

/// Reads a statistics address: with a colon it is TCP, as everywhere in uWSGI. An address or a port alone is no name of a socket: somebody
/// would wait for an answer on the other half.
pub fn parse_stats(value: &str) -> Result<StatsAddress, Problem> {
    if value.parse::<Ipv4Addr>().is_ok() || (!value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(Problem::TcpHalf(value.to_owned()));
    }
    if value.contains(':') {
        parse::tcp_listener(value)?;
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

/// Errors about routers that would take each other's device or socket.
pub fn duplicates(routers: &[RouterSpec]) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    for (index, router) in routers.iter().enumerate() {
        let name = router.socket.clone().or_else(|| router.hosts.trunks.listeners.first().map(ToString::to_string));
        let value = format!("{} {}", router.device, name.unwrap_or_default());
        let error = |problem| ConfigError::new(OptionName::Router, value.clone(), problem);
        if routers[..index].iter().any(|other| other.device == router.device) {
            errors.push(error(Problem::Duplicate("device")));
        }
        let has_same_socket = |other: &RouterSpec| match router.socket {
            Some(_) => other.socket == router.socket,
            None => other.socket.is_none() && other.hosts.trunks.listeners == router.hosts.trunks.listeners,
        };
        if routers[..index].iter().any(has_same_socket) {
            errors.push(error(Problem::Duplicate("socket")));
        }
    }
    errors
}
