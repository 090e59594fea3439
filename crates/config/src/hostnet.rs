//! Options about one router: what it sets up on its host (`tuntap-router-address`, `-nat`, `-port` and `-mtu`), `-claims` and
//! `-dns` and `-script`, and how all these and those of [`protection`](super::protection) are given to their router.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::control::{self, AccessSpec, MAX_ACCESS};
use super::error::{ConfigError, Problem};
use super::hosts::{self, RoutesSpec};
use super::metrics;
use super::protection::{ConnectionRate, HostProtection, HostRule, MAX_HOST_RULES};
use super::shape::{self, ShapeSpec};
use super::trunks::{self, TrunkPeer};
use super::{ControlSocket, OptionName, RouterSpec, StatsAddress, parse};
use tuntap_core::policy::guard::ClaimScope;
use tuntap_wire::autoconf::{MAX_DNS_SERVERS, is_reserved};
use tuntap_wire::frame::MAX_PAYLOAD_LEN;

/// Most addresses of one router.
pub const MAX_ADDRESSES: usize = 16;

/// Most parts of its networks from which one router chooses addresses.
pub const MAX_POOLS: usize = 64;

/// Most addresses of a network that no vassal can have: the network's, the broadcast address and the router's.
const MOST_RESERVED: usize = 3;

/// Most interfaces by which one router's vassals reach other networks.
pub const MAX_NAT_INTERFACES: usize = 16;

/// Most port mappings of one router.
pub const MAX_PORTS: usize = 512;

/// Least that an IPv4 link has to carry, in bytes (RFC 791).
const MIN_MTU: u64 = 576;

/// Least that an IPv6 link has to carry, in bytes (RFC 8200).
const MIN_IPV6_MTU: u16 = 1280;

/// Shortest prefix of a router's network: an address with a mistyped length must not cover half of the world.
const MIN_PREFIX_LEN: u8 = 8;

const ADDRESS_SYNTAX: &str = OptionName::RouterAddress.syntax();
const POOL_SYNTAX: &str = OptionName::RouterPool.syntax();
const CLAIMS_SYNTAX: &str = OptionName::RouterClaims.syntax();
const NAT_SYNTAX: &str = OptionName::RouterNat.syntax();
const PORT_SYNTAX: &str = OptionName::RouterPort.syntax();
const MTU_SYNTAX: &str = OptionName::RouterMtu.syntax();
const DNS_SYNTAX: &str = OptionName::RouterDns.syntax();
const RULES_SYNTAX: &str = OptionName::RouterRules.syntax();
const SCRIPT_SYNTAX: &str = OptionName::Script.syntax();

/// The last word of an address or port that the router takes although the host uses it already.
const ANYWAY: &str = "anyway";

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortProtocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

impl PortProtocol {
    /// The name in options and statistics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of the host that leads to a vassal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortMapping {
    /// Its protocol.
    pub protocol: PortProtocol,
    /// The host's port.
    pub port: u16,
    /// The vassal's address and port. The mapping is for the host's addresses of the same family.
    pub target: SocketAddr,
}

/// One value, and the router that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSetting {
    option: OptionName,
    /// The whole value, for messages.
    value: String,
    /// The router's device. `None`: the only router's.
    device: Option<String>,
    setting: Setting,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Setting {
    Address(IpNet, Certainty),
    Pool(IpNet),
    Claims(ClaimScope),
    Nat(String),
    Port(PortMapping, Certainty),
    Mtu(u16),
    Dns(IpAddr),
    Script(String),
    HostRule(HostRule),
    MaxConnections(u32),
    ConnectionRate(ConnectionRate),
    FragmentRate(u32),
    Control(ControlSocket),
    ControlAccess(AccessSpec),
    Rules(String),
    Shape(ShapeSpec),
    Key(String),
    Routes(RoutesSpec),
    Trunk(SocketAddr),
    TrunkPeer(TrunkPeer),
    Metrics(StatsAddress),
    MetricsPeers(usize),
}

/// Says whether the operator has confirmed an address or port that the host uses already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Certainty {
    Usual,
    Meant,
}

/// Splits a last word `anyway` off a value.
fn certainty(value: &str) -> (&str, Certainty) {
    let value = value.trim_end();
    match value.strip_suffix(ANYWAY) {
        Some(rest) if rest.ends_with(char::is_whitespace) => (rest, Certainty::Meant),
        _ => (value, Certainty::Usual),
    }
}

/// Reads `[<device>] <address>/<prefix length> [anyway]`.
pub fn address(value: &str) -> Result<HostSetting, Problem> {
    let (words, certainty) = certainty(value);
    let (device, [word]) = parse::for_device(words, ADDRESS_SYNTAX)?;
    let setting = Setting::Address(own_address(&word)?, certainty);
    Ok(HostSetting::new(OptionName::RouterAddress, value, device, setting))
}

/// Reads `[<device>] <addr[/len]>`.
pub fn pool(value: &str) -> Result<HostSetting, Problem> {
    let (device, [word]) = parse::for_device(value, POOL_SYNTAX)?;
    Ok(HostSetting::new(OptionName::RouterPool, value, device, Setting::Pool(parse::exact_prefix(&word)?)))
}

/// Reads `[<device>] <own|any>`.
pub fn claims(value: &str) -> Result<HostSetting, Problem> {
    let (device, [word]) = parse::for_device(value, CLAIMS_SYNTAX)?;
    let scope = match word.as_str() {
        "own" => ClaimScope::Own,
        "any" => ClaimScope::Any,
        _ => return Err(Problem::UnknownWord { what: "addresses", word, expected: "own or any" }),
    };
    Ok(HostSetting::new(OptionName::RouterClaims, value, device, Setting::Claims(scope)))
}

/// Reads `[<device>] <interface>`.
pub fn nat(value: &str) -> Result<HostSetting, Problem> {
    let (device, [word]) = parse::for_device(value, NAT_SYNTAX)?;
    let interface = parse::device_name(&word)?;
    // The first two stand for all interfaces among the kernel's settings, and nothing is beyond the third.
    if matches!(interface.as_str(), "all" | "default" | "lo") {
        return Err(Problem::NatInterface(interface));
    }
    Ok(HostSetting::new(OptionName::RouterNat, value, device, Setting::Nat(interface)))
}

/// Reads `[<device>] <tcp|udp> <host port> <address>:<port> [anyway]`.
pub fn port(value: &str) -> Result<HostSetting, Problem> {
    let (words, certainty) = certainty(value);
    let (device, [protocol, port, target]) = parse::for_device(words, PORT_SYNTAX)?;
    let protocol = match protocol.as_str() {
        "tcp" => PortProtocol::Tcp,
        "udp" => PortProtocol::Udp,
        _ => return Err(Problem::UnknownWord { what: "protocol", word: protocol, expected: "tcp or udp" }),
    };
    let port = u16::try_from(parse::number(&port, 1, u16::MAX.into())?).unwrap_or(u16::MAX);
    let wrong = || Problem::PortTarget(target.clone());
    let target: SocketAddr = target.parse().map_err(|_| wrong())?;
    let is_plain = match target {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(target) => target.scope_id() == 0 && target.ip().to_ipv4_mapped().is_none(),
    };
    if !is_plain || target.port() == 0 {
        return Err(wrong());
    }
    let mapping = PortMapping { protocol, port, target };
    Ok(HostSetting::new(OptionName::RouterPort, value, device, Setting::Port(mapping, certainty)))
}

/// Reads `[<device>] <bytes>`.
pub fn mtu(value: &str) -> Result<HostSetting, Problem> {
    let (device, [word]) = parse::for_device(value, MTU_SYNTAX)?;
    let max = u16::try_from(MAX_PAYLOAD_LEN).unwrap_or(u16::MAX);
    let mtu = u16::try_from(parse::number(&word, MIN_MTU, max.into())?).unwrap_or(max);
    Ok(HostSetting::new(OptionName::RouterMtu, value, device, Setting::Mtu(mtu)))
}

/// Reads `[<device>] <address>`.
pub fn dns(value: &str) -> Result<HostSetting, Problem> {
    let (device, [word]) = parse::for_device(value, DNS_SYNTAX)?;
    Ok(HostSetting::new(OptionName::RouterDns, value, device, Setting::Dns(parse::host(&word)?)))
}

/// Reads `[<device>] <file>`.
pub fn rules(value: &str) -> Result<HostSetting, Problem> {
    let (device, [word]) = parse::for_device(value, RULES_SYNTAX)?;
    Ok(HostSetting::new(OptionName::RouterRules, value, device, Setting::Rules(parse::absolute_file(&word)?)))
}

/// Reads `[<device>] <file>`.
pub fn script(value: &str) -> Result<HostSetting, Problem> {
    let (device, [word]) = parse::for_device(value, SCRIPT_SYNTAX)?;
    Ok(HostSetting::new(OptionName::Script, value, device, Setting::Script(parse::absolute_file(&word)?)))
}

/// A router's own address in its network.
fn own_address(word: &str) -> Result<IpNet, Problem> {
    let wrong = || Problem::RouterAddress(word.to_owned());
    let (address, _) = word.split_once('/').ok_or_else(wrong)?;
    // The standard library refuses leading zeros, which are octal in C; ipnet reads them as decimal.
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let net: IpNet = word.parse().map_err(|_| wrong())?;
    let is_special = match address {
        IpAddr::V4(address) => address.is_link_local() || address.octets()[0] == 0 || address.octets()[0] >= 240,
        IpAddr::V6(address) => address.is_unicast_link_local() || address.to_ipv4_mapped().is_some(),
    };
    if is_special || address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return Err(Problem::SpecialAddress(address));
    }
    if net.prefix_len() < MIN_PREFIX_LEN {
        return Err(wrong());
    }
    if is_reserved(net, address) {
        return Err(Problem::NetworkAddress(net));
    }
    Ok(net)
}

impl HostSetting {
    fn new(option: OptionName, value: &str, device: Option<String>, setting: Setting) -> Self {
        Self { option, value: value.to_owned(), device, setting }
    }

    /// A rule of `tuntap-router-host`.
    pub(super) fn host_rule(value: &str, device: Option<String>, rule: HostRule) -> Self {
        Self::new(OptionName::RouterHost, value, device, Setting::HostRule(rule))
    }

    /// A value of `tuntap-router-max-connections`.
    pub(super) fn max_connections(value: &str, device: Option<String>, max: u32) -> Self {
        Self::new(OptionName::MaxConnections, value, device, Setting::MaxConnections(max))
    }

    /// A value of `tuntap-router-connection-rate`.
    pub(super) fn connection_rate(value: &str, device: Option<String>, rate: ConnectionRate) -> Self {
        Self::new(OptionName::ConnectionRate, value, device, Setting::ConnectionRate(rate))
    }

    /// A value of `tuntap-router-fragment-rate`.
    pub(super) fn fragment_rate(value: &str, device: Option<String>, rate: u32) -> Self {
        Self::new(OptionName::FragmentRate, value, device, Setting::FragmentRate(rate))
    }

    /// A value of `tuntap-router-control`.
    pub(super) fn control(value: &str, device: Option<String>, socket: ControlSocket) -> Self {
        Self::new(OptionName::Control, value, device, Setting::Control(socket))
    }

    /// A value of `tuntap-router-control-access`.
    pub(super) fn control_access(value: &str, device: Option<String>, access: AccessSpec) -> Self {
        Self::new(OptionName::ControlAccess, value, device, Setting::ControlAccess(access))
    }

    /// A value of `tuntap-router-shape`.
    pub(super) fn shape(value: &str, device: Option<String>, shape: ShapeSpec) -> Self {
        Self::new(OptionName::Shape, value, device, Setting::Shape(shape))
    }

    /// A value of `tuntap-router-key`.
    pub(super) fn key(value: &str, device: Option<String>, file: String) -> Self {
        Self::new(OptionName::RouterKey, value, device, Setting::Key(file))
    }

    /// A value of `tuntap-router-routes`.
    pub(super) fn routes(value: &str, device: Option<String>, routes: RoutesSpec) -> Self {
        Self::new(OptionName::Routes, value, device, Setting::Routes(routes))
    }

    /// A value of `tuntap-router-trunk`.
    pub(super) fn trunk(value: &str, device: Option<String>, address: SocketAddr) -> Self {
        Self::new(OptionName::Trunk, value, device, Setting::Trunk(address))
    }

    /// A value of `tuntap-router-trunk-peer`.
    pub(super) fn trunk_peer(value: &str, device: Option<String>, peer: TrunkPeer) -> Self {
        Self::new(OptionName::TrunkPeer, value, device, Setting::TrunkPeer(peer))
    }

    /// A value of `tuntap-router-metrics`.
    pub(super) fn metrics(value: &str, device: Option<String>, address: StatsAddress) -> Self {
        Self::new(OptionName::Metrics, value, device, Setting::Metrics(address))
    }

    /// A value of `tuntap-router-metrics-peers`.
    pub(super) fn metrics_peers(value: &str, device: Option<String>, peers: usize) -> Self {
        Self::new(OptionName::MetricsPeers, value, device, Setting::MetricsPeers(peers))
    }

    fn error(&self, problem: Problem) -> ConfigError {
        ConfigError::new(self.option, &self.value, problem)
    }

    /// The place of the router that this is for.
    fn router(&self, routers: &[RouterSpec]) -> Result<usize, Problem> {
        match (&self.device, routers) {
            (Some(device), _) => routers
                .iter()
                .position(|router| router.device == *device)
                .ok_or_else(|| Problem::NoSuchRouter(device.clone())),
            (None, [_]) => Ok(0),
            (None, _) => Err(Problem::WhichRouter),
        }
    }
}

/// Gives the settings to their routers. Without any router they have no effect, like all options of routers.
pub fn apply(routers: &mut [RouterSpec], settings: &[HostSetting]) -> Vec<ConfigError> {
    if routers.is_empty() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    // Addresses come first, wherever they stand: the other settings depend on them.
    let (addresses, others): (Vec<_>, Vec<_>) =
        settings.iter().partition(|setting| matches!(setting.setting, Setting::Address(..)));
    for setting in addresses.into_iter().chain(others) {
        let result = setting.router(routers).and_then(|index| apply_one(routers, index, &setting.setting));
        errors.extend(result.err().map(|problem| setting.error(problem)));
    }
    errors.extend(shape::without_internet(routers));
    errors.extend(routers.iter().flat_map(trunks::check));
    for router in routers {
        let has_ipv6 = router.addresses.iter().any(|net| matches!(net, IpNet::V6(_)));
        if let Some(mtu) = router.mtu.filter(|mtu| has_ipv6 && *mtu < MIN_IPV6_MTU) {
            let value = format!("{} {mtu}", router.device);
            errors.push(ConfigError::new(OptionName::RouterMtu, value, Problem::Ipv6Mtu));
        }
    }
    errors
}

fn apply_one(routers: &mut [RouterSpec], index: usize, setting: &Setting) -> Result<(), Problem> {
    match setting {
        Setting::Address(net, certainty) => add_address(routers, index, *net, *certainty),
        Setting::Pool(pool) => add_pool(&mut routers[index], *pool),
        Setting::Claims(scope) => once(&mut routers[index].claims, *scope),
        Setting::Nat(interface) => add_nat(routers, index, interface),
        Setting::Port(mapping, certainty) => add_port(routers, index, *mapping, *certainty),
        Setting::Dns(server) => push(&mut routers[index].dns, *server, MAX_DNS_SERVERS),
        Setting::Script(path) => once(&mut routers[index].live.script, path.clone()),
        Setting::Shape(shape) => shape::add(&mut routers[index], shape),
        Setting::Mtu(mtu) => once(&mut routers[index].mtu, *mtu),
        Setting::Rules(file) => once(&mut routers[index].live.rules, file.clone()),
        Setting::HostRule(rule) => push(&mut protection(&mut routers[index])?.rules, *rule, MAX_HOST_RULES),
        Setting::MaxConnections(max) => once(&mut protection(&mut routers[index])?.max_connections, *max),
        Setting::ConnectionRate(rate) => once(&mut protection(&mut routers[index])?.connection_rate, *rate),
        Setting::Control(socket) => control::set_socket(&mut routers[index], socket),
        Setting::ControlAccess(access) => push(&mut routers[index].live.access, access.clone(), MAX_ACCESS),
        Setting::Key(file) => once(&mut routers[index].hosts.key, file.clone()),
        Setting::Routes(routes) => hosts::set_routes(routers, index, routes),
        Setting::Trunk(address) => trunks::add_listener(routers, index, *address),
        Setting::TrunkPeer(peer) => trunks::add_peer(&mut routers[index], peer),
        Setting::Metrics(address) => metrics::set_address(&mut routers[index], address),
        Setting::MetricsPeers(peers) => metrics::set_peers(&mut routers[index], *peers),
        Setting::FragmentRate(rate) => once(&mut protection(&mut routers[index])?.fragment_rate, *rate),
    }
}

fn add_address(routers: &mut [RouterSpec], index: usize, net: IpNet, certainty: Certainty) -> Result<(), Problem> {
    for router in routers.iter() {
        if let Some(other) = router.addresses.iter().find(|other| overlap(**other, net)) {
            return Err(Problem::Overlap { device: router.device.clone(), other: *other });
        }
    }
    let router = &mut routers[index];
    if certainty == Certainty::Meant {
        router.meant.addresses.push(net);
    }
    push(&mut router.addresses, net, MAX_ADDRESSES)
}

fn add_pool(router: &mut RouterSpec, pool: IpNet) -> Result<(), Problem> {
    let Some(network) = router.addresses.iter().find(|net| net.contains(&pool)) else {
        return Err(Problem::PoolOutside(pool));
    };
    let mut first = pool.subnets(pool.max_prefix_len()).into_iter().flatten().take(MOST_RESERVED + 1);
    let is_vassals = |address| address != network.addr() && !is_reserved(*network, address);
    if !first.any(|single| is_vassals(single.addr())) {
        return Err(Problem::EmptyPool(pool));
    }
    if let Some(other) = router.pools.iter().find(|other| overlap(**other, pool)) {
        return Err(Problem::Overlap { device: router.device.clone(), other: *other });
    }
    push(&mut router.pools, pool, MAX_POOLS)
}

fn add_nat(routers: &mut [RouterSpec], index: usize, interface: &str) -> Result<(), Problem> {
    if routers.iter().any(|router| router.device == interface) {
        return Err(Problem::NatInterface(interface.to_owned()));
    }
    let router = &mut routers[index];
    if router.addresses.is_empty() {
        return Err(Problem::NatWithoutAddress);
    }
    if router.nat.iter().any(|other| other == interface) {
        return Err(Problem::Repeated);
    }
    push(&mut router.nat, interface.to_owned(), MAX_NAT_INTERFACES)
}

fn add_port(
    routers: &mut [RouterSpec],
    index: usize,
    mapping: PortMapping,
    certainty: Certainty,
) -> Result<(), Problem> {
    check_target(&routers[index], mapping.target.ip())?;
    let takes_the_same = |other: &PortMapping| {
        (other.protocol, other.port) == (mapping.protocol, mapping.port)
            && other.target.is_ipv4() == mapping.target.is_ipv4()
    };
    if routers.iter().flat_map(|router| &router.ports).any(takes_the_same) {
        return Err(Problem::Repeated);
    }
    let router = &mut routers[index];
    if certainty == Certainty::Meant {
        router.meant.ports.push(mapping);
    }
    push(&mut router.ports, mapping, MAX_PORTS)
}

/// The protection of a router's host. It has no effect without an address of the router.
fn protection(router: &mut RouterSpec) -> Result<&mut HostProtection, Problem> {
    if router.addresses.is_empty() { Err(Problem::ProtectionWithoutAddress) } else { Ok(&mut router.protection) }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Problem> {
    match place.replace(value) {
        Some(_) => Err(Problem::Repeated),
        None => Ok(()),
    }
}

fn push<T>(list: &mut Vec<T>, item: T, max: usize) -> Result<(), Problem> {
    if list.len() >= max {
        return Err(Problem::TooMany(max));
    }
    list.push(item);
    Ok(())
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// Refuses a port mapping to an address that no vassal of the router can have.
fn check_target(router: &RouterSpec, address: IpAddr) -> Result<(), Problem> {
    let of_family = router.addresses.iter().filter(|net| net.addr().is_ipv4() == address.is_ipv4());
    if of_family.clone().next().is_none() {
        return Err(Problem::NoAddressOfFamily(if address.is_ipv4() { "IPv4" } else { "IPv6" }));
    }
    match of_family.into_iter().find(|net| net.contains(&address)) {
        None => Err(Problem::OutsideOfRouter(address)),
        Some(net) if net.addr() == address || is_reserved(*net, address) => Err(Problem::NoVassal(address)),
        Some(_) => Ok(()),
    }
}
