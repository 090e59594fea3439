//! Options that protect a host and its other vassals from a vassal: `tuntap-router-host`, `tuntap-router-max-connections`,
//! `tuntap-router-connection-rate` and `tuntap-router-fragment-rate`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

use super::error::Problem;
use super::hostnet::HostSetting;
use super::{Config, GrantSpec, OptionName, parse, rules};
use tuntap_core::policy::guard::ClaimScope;
use tuntap_core::policy::targets::TargetRange;
use tuntap_wire::ip::protocol::is_extension;
use tuntap_wire::selector::{Protocol, Service};

/// Most rules of one router about its host.
pub const MAX_HOST_RULES: usize = 256;

/// Highest limit on the connections of one address. The kernel goes through all of them for each new one.
const MAX_CONNECTIONS: u64 = 65_536;

/// Highest limit on new connections, in a second and at once, and on fragments in a second.
const MAX_RATE: u64 = 1_000_000;

const HOST_SYNTAX: &str = OptionName::RouterHost.syntax();
const MAX_CONNECTIONS_SYNTAX: &str = OptionName::MaxConnections.syntax();
const RATE_SYNTAX: &str = OptionName::ConnectionRate.syntax();
const FRAGMENT_RATE_SYNTAX: &str = OptionName::FragmentRate.syntax();

/// How a router's table of nftables protects its host. It takes effect with `tuntap-router-address`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostProtection {
    /// What vassals may reach of their host: the first rule that matches decides, what matches none is refused.
    pub rules: Vec<HostRule>,
    /// Most connections of one address; 0 is no limit. `None`: the options don't say.
    pub max_connections: Option<u32>,
    /// How fast one address may open connections. `None`: the options don't say.
    pub connection_rate: Option<ConnectionRate>,
    /// Most fragments of one address in a second; 0 is no limit. `None`: the options don't say.
    pub fragment_rate: Option<u32>,
    /// Where gateways of other routers are.
    pub gateways: Vec<TargetRange>,
    /// The gateways of this instance.
    pub own_gateways: Vec<SocketAddr>,
    /// Vassals that may send datagrams to gateways.
    pub gateway_vassals: Vec<IpNet>,
    /// Networks beside the router's own from which its vassals may have addresses: those of leases.
    pub leased: Vec<IpNet>,
    /// True if vassals may have any other address, too (see [`RouterSpec::claim_scope`](super::RouterSpec::claim_scope)).
    pub any_source: bool,
}

impl HostProtection {
    /// Most connections of one address by default. Masquerading has 64,512 ports of the host's address for one port
    /// elsewhere, so that fifteen addresses leave some for others.
    pub const DEFAULT_MAX_CONNECTIONS: u32 = 4096;

    /// New connections of one address by default. A closed connection keeps its port for two minutes, and isn't counted: at
    /// this rate one address takes less than half of the ports in that time.
    pub const DEFAULT_CONNECTION_RATE: ConnectionRate = ConnectionRate { per_second: 200, burst: 1000 };

    /// Most fragments of one address in a second by default: less than half of what the kernel keeps of fragments for
    /// everybody.
    pub const DEFAULT_FRAGMENT_RATE: u32 = 20;

    /// The limit on connections. `None` is no limit.
    pub fn max_connections(&self) -> Option<u32> {
        Some(self.max_connections.unwrap_or(Self::DEFAULT_MAX_CONNECTIONS)).filter(|max| *max > 0)
    }

    /// The limit on new connections. `None` is no limit.
    pub fn connection_rate(&self) -> Option<ConnectionRate> {
        Some(self.connection_rate.unwrap_or(Self::DEFAULT_CONNECTION_RATE)).filter(|rate| rate.per_second > 0)
    }

    /// The limit on fragments in a second. `None` is no limit.
    pub fn fragment_rate(&self) -> Option<u32> {
        Some(self.fragment_rate.unwrap_or(Self::DEFAULT_FRAGMENT_RATE)).filter(|rate| *rate > 0)
    }

    /// Returns true if the options ask for protection, so that the router must not run without it.
    pub fn was_asked_for(&self) -> bool {
        !self.rules.is_empty() || self.asks_for_limits()
    }

    /// Returns true if the options ask for limits.
    pub fn asks_for_limits(&self) -> bool {
        let numbers = [self.max_connections, self.fragment_rate, self.connection_rate.map(|rate| rate.per_second)];
        numbers.into_iter().flatten().any(|limit| limit > 0)
    }
}

/// A rule about what vassals may reach (`tuntap-router-host`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostRule {
    /// True if vassals may reach it.
    pub allow: bool,
    /// The destination. `None` is any address of the host itself.
    pub to: Option<IpNet>,
    /// The service. `None` is everything.
    pub service: Option<Service>,
}

/// A limit on new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionRate {
    /// Connections in a second; 0 is no limit.
    pub per_second: u32,
    /// Connections at once.
    pub burst: u32,
}

/// Reads `[<device>] <deny|allow> [<addr[/len]>] [<protocol> [port[-port]]]`.
pub fn host(value: &str) -> Result<HostSetting, Problem> {
    let words = parse::words(value, HOST_SYNTAX)?;
    let is_action = |word: &String| matches!(word.as_str(), "deny" | "allow");
    // No protocol and no address has the name of an action.
    let (device, words) = match words.as_slice() {
        [device, words @ ..] if words.first().is_some_and(is_action) => (Some(parse::device_name(device)?), words),
        words => (None, words),
    };
    let [action, words @ ..] = words else { return Err(Problem::Syntax(HOST_SYNTAX)) };
    if !is_action(action) {
        return Err(if words.is_empty() {
            Problem::UnknownWord { what: "action", word: action.clone(), expected: "deny or allow" }
        } else {
            Problem::Syntax(HOST_SYNTAX)
        });
    }
    let original_words = words;
    // Every address has a dot or a colon, and no protocol has.
    let (to, words) = match words {
        [address, words @ ..] if address.contains(['.', ':']) => (Some(parse::exact_prefix(address)?), words),
        words => (None, words),
    };
    let allow = action == "allow";
    if to.is_some_and(|to| is_out_of_reach(to, allow)) {
        return Err(Problem::OutOfReach(original_words[0].clone()));
    }
    let service = rules::service(words, HOST_SYNTAX)?;
    if let Some(Service { protocol: Protocol::Number(number), .. }) = service
        && is_extension(number)
        && !matches!(to, Some(IpNet::V4(_)))
    {
        return Err(Problem::ExtensionHeader(words[0].clone()));
    }
    Ok(HostSetting::host_rule(value, device, HostRule { allow, to, service }))
}

/// Returns true if a rule about a network has no effect: no vassal reaches an address of it, whatever the rule says, or no
/// packet is for it.
fn is_out_of_reach(net: IpNet, allow: bool) -> bool {
    let first = net.network();
    let is_single = net.prefix_len() == net.max_prefix_len();
    let is_nobody = first.is_unspecified() && is_single;
    let is_broadcast = first == IpAddr::from(Ipv4Addr::BROADCAST);
    // The prefixes of loopback and multicast addresses (RFC 6890, RFC 5771, RFC 4291).
    let shortest = match first {
        IpAddr::V4(first) if first.is_loopback() => 8,
        IpAddr::V4(first) if first.is_multicast() => 4,
        IpAddr::V4(_) => 33,
        IpAddr::V6(first) if first.is_multicast() => 8,
        IpAddr::V6(first) if first.is_loopback() => 128,
        IpAddr::V6(_) => 129,
    };
    is_nobody || (allow && (is_broadcast || net.prefix_len() >= shortest))
}

/// Reads `[<device>] <connections>`.
pub fn max_connections(value: &str) -> Result<HostSetting, Problem> {
    let (device, [word]) = parse::for_device(value, MAX_CONNECTIONS_SYNTAX)?;
    let max = parse::number(&word, 0, MAX_CONNECTIONS)?;
    Ok(HostSetting::max_connections(value, device, u32::try_from(max).unwrap_or(u32::MAX)))
}

/// Reads `[<device>] <connections per second> [<burst>]`. Without a burst it is what comes in five seconds.
pub fn connection_rate(value: &str) -> Result<HostSetting, Problem> {
    const SECONDS_OF_BURST: u32 = 5;
    let words = parse::words(value, RATE_SYNTAX)?;
    let is_number = |word: &String| word.bytes().all(|byte| byte.is_ascii_digit());
    let (device, words) = match words.as_slice() {
        [device, words @ ..] if !is_number(device) || words.len() == 2 => (Some(parse::device_name(device)?), words),
        words => (None, words),
    };
    let number = |word: &String, min| -> Result<u32, Problem> {
        Ok(u32::try_from(parse::number(word, min, MAX_RATE)?).unwrap_or(u32::MAX))
    };
    let (per_second, burst) = match words {
        [rate] => {
            let rate = number(rate, 0)?;
            (rate, rate.saturating_mul(SECONDS_OF_BURST))
        }
        [rate, burst] => (number(rate, 0)?, number(burst, 1)?),
        _ => return Err(Problem::Syntax(RATE_SYNTAX)),
    };
    Ok(HostSetting::connection_rate(value, device, ConnectionRate { per_second, burst }))
}

/// Reads `[<device>] <fragments per second>`.
pub fn fragment_rate(value: &str) -> Result<HostSetting, Problem> {
    let (device, [word]) = parse::for_device(value, FRAGMENT_RATE_SYNTAX)?;
    let rate = parse::number(&word, 0, MAX_RATE)?;
    Ok(HostSetting::fragment_rate(value, device, u32::try_from(rate).unwrap_or(u32::MAX)))
}

/// Gives each router what the options of the whole instance say: where gateways are, and which addresses vassals may have.
pub fn complete(config: &mut Config) {
    let routes = config
        .routes
        .iter()
        .map(|route| TargetRange { prefix: IpNet::from(route.target.ip()), port: Some(route.target.port()) });
    let own_gateways: Vec<_> = config.routers.iter().filter_map(|router| router.gateway).collect();
    let mut gateways: Vec<_> = routes.collect();
    // A value without a port is about all ports that the options name. A value without an address says nothing about where
    // gateways are.
    let mut ports: Vec<u16> = own_gateways.iter().map(SocketAddr::port).collect();
    ports.extend(gateways.iter().filter_map(|gateway| gateway.port));
    ports.sort_unstable();
    ports.dedup();
    let sources = config.gateway_sources.iter().map(|prefix| TargetRange { prefix: *prefix, port: None });
    let ranges = config.device_routes.iter().copied().chain(sources);
    for TargetRange { prefix, port } in ranges.filter(|range| range.prefix.prefix_len() > 0) {
        match port {
            Some(_) => gateways.push(TargetRange { prefix, port }),
            None => gateways.extend(ports.iter().map(|port| TargetRange { prefix, port: Some(*port) })),
        }
    }
    let mut distinct: Vec<TargetRange> = Vec::new();
    for gateway in gateways {
        if !distinct.contains(&gateway) {
            distinct.push(gateway);
        }
    }
    let leased: Vec<_> = config.grants.iter().map(GrantSpec::prefix).collect();
    for router in &mut config.routers {
        let claims_any = router.claim_scope() == ClaimScope::Any;
        let protection = &mut router.protection;
        protection.gateways.clone_from(&distinct);
        protection.own_gateways.clone_from(&own_gateways);
        protection.leased.clone_from(&leased);
        protection.gateway_vassals.clone_from(&config.gateway_vassals);
        protection.any_source = claims_any;
    }
}
