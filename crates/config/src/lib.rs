//! Option values, checked once and immutable from then on. Pure: text in, specifications or errors out.

mod credentials;
mod device;
mod error;
mod grants;
mod hostnet;
mod limits;
mod parse;
mod policy;
mod priority;
mod protection;
mod router;
mod rules;
mod sandbox;

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

pub use credentials::Credentials;
pub use device::DeviceSpec;
pub use error::{ConfigError, ConfigErrors, Problem};
pub use grants::{LeaseSpec, resolve_leases};
pub use hostnet::{PortMapping, PortProtocol};
pub use protection::{ConnectionRate, HostProtection, HostRule};
pub use router::{Meant, RouterSpec, StatsAddress};
pub use sandbox::Sandbox;

use tuntap_core::policy::grant::Uncovered;
use tuntap_core::policy::limits::Limits;
use tuntap_core::policy::pattern::{Action, Rule};
use tuntap_core::policy::targets::TargetRange;
use tuntap_wire::rule::PeerRule;

/// The options of the plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionName {
    /// `tuntap-router`
    Router,
    /// `tuntap-device`
    Device,
    /// `tuntap-use-credentials`
    UseCredentials,
    /// `tuntap-router-firewall-in`
    FirewallIn,
    /// `tuntap-router-firewall-out`
    FirewallOut,
    /// `tuntap-router-route`
    Route,
    /// `tuntap-router-stats`
    Stats,
    /// `tuntap-router-switch`
    Switch,
    /// `tuntap-router-busy-poll`
    BusyPoll,
    /// `tuntap-router-lease`
    Grant,
    /// `tuntap-router-lease-default`
    LeaseDefault,
    /// `tuntap-router-device-route`
    DeviceRoute,
    /// `tuntap-router-gateway-allow`
    GatewayAllow,
    /// `tuntap-router-gateway-vassal`
    GatewayVassal,
    /// `tuntap-router-sandbox`
    Sandbox,
    /// `tuntap-router-priority`
    Priority,
    /// `tuntap-router-harakiri`
    Harakiri,
    /// `tuntap-router-max-peers`
    MaxPeers,
    /// `tuntap-router-max-peers-per-uid`
    MaxPeersPerUid,
    /// `tuntap-router-max-addresses-per-uid`
    MaxAddressesPerUid,
    /// `tuntap-router-max-unclaimed`
    MaxUnclaimed,
    /// `tuntap-router-unclaimed-timeout`
    UnclaimedTimeout,
    /// `tuntap-router-max-queue`
    MaxQueue,
    /// `tuntap-router-max-device-rules`
    MaxDeviceRules,
    /// `tuntap-router-address`
    RouterAddress,
    /// `tuntap-router-claims`
    RouterClaims,
    /// `tuntap-router-nat`
    RouterNat,
    /// `tuntap-router-port`
    RouterPort,
    /// `tuntap-router-host`
    RouterHost,
    /// `tuntap-router-max-connections`
    MaxConnections,
    /// `tuntap-router-connection-rate`
    ConnectionRate,
    /// `tuntap-router-fragment-rate`
    FragmentRate,
    /// `tuntap-router-mtu`
    RouterMtu,
    /// `tuntap-router-dns`
    RouterDns,
    /// `tuntap-device-rule`
    DeviceRule,
    /// `tuntap-device-address`
    DeviceAddress,
    /// `tuntap-device-gateway`
    DeviceGateway,
    /// `tuntap-device-mtu`
    DeviceMtu,
    /// `tuntap-device-dns`
    DeviceDns,
    /// `tuntap-device-timeout`
    DeviceTimeout,
    /// `tuntap-device-required`
    DeviceRequired,
}

impl OptionName {
    /// All of them.
    pub const ALL: [Self; 41] = [
        Self::Router,
        Self::Device,
        Self::UseCredentials,
        Self::FirewallIn,
        Self::FirewallOut,
        Self::Route,
        Self::Stats,
        Self::Switch,
        Self::BusyPoll,
        Self::Grant,
        Self::LeaseDefault,
        Self::DeviceRoute,
        Self::GatewayAllow,
        Self::GatewayVassal,
        Self::Sandbox,
        Self::Priority,
        Self::Harakiri,
        Self::MaxPeers,
        Self::MaxPeersPerUid,
        Self::MaxAddressesPerUid,
        Self::MaxUnclaimed,
        Self::UnclaimedTimeout,
        Self::MaxQueue,
        Self::MaxDeviceRules,
        Self::RouterAddress,
        Self::RouterClaims,
        Self::RouterNat,
        Self::RouterPort,
        Self::RouterHost,
        Self::MaxConnections,
        Self::ConnectionRate,
        Self::FragmentRate,
        Self::RouterMtu,
        Self::RouterDns,
        Self::DeviceRule,
        Self::DeviceAddress,
        Self::DeviceGateway,
        Self::DeviceMtu,
        Self::DeviceDns,
        Self::DeviceTimeout,
        Self::DeviceRequired,
    ];

    /// Those of these names of options that look like one of the plugin's and are none: nobody reads what they say. Each with the
    /// option that is most like it. uWSGI takes every name, unless it is told `strict`.
    pub fn misspelt<'a>(names: impl Iterator<Item = &'a str>) -> Vec<(&'a str, &'static str)> {
        let is_known = |name: &str| name == "tuntap-doctor" || Self::ALL.iter().any(|option| option.as_str() == name);
        // Others are placeholders of the operator's own.
        let looks_like_one =
            |name: &str| ["tuntap-router", "tuntap-device", "tuntap-use"].iter().any(|it| name.starts_with(it));
        names.filter(|name| looks_like_one(name) && !is_known(name)).map(|name| (name, Self::most_like(name))).collect()
    }

    /// The option that shares most of its beginning and its end with a name.
    fn most_like(name: &str) -> &'static str {
        let same = |one: &mut dyn Iterator<Item = u8>, other: &mut dyn Iterator<Item = u8>| {
            one.zip(other).take_while(|(one, other)| one == other).count()
        };
        let likeness = |option: &Self| {
            let option = option.as_str();
            let begin = same(&mut option.bytes(), &mut name.bytes());
            let end = same(&mut option.bytes().rev(), &mut name.bytes().rev());
            let common = (begin + end).min(option.len()).min(name.len());
            // What it has beside that makes it less like the name.
            (2 * common).saturating_sub(option.len())
        };
        Self::ALL.iter().max_by_key(|option| likeness(option)).map_or("", |option| option.as_str())
    }

    /// The name in ini files and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Router => "tuntap-router",
            Self::Device => "tuntap-device",
            Self::UseCredentials => "tuntap-use-credentials",
            Self::FirewallIn => "tuntap-router-firewall-in",
            Self::FirewallOut => "tuntap-router-firewall-out",
            Self::Route => "tuntap-router-route",
            Self::Stats => "tuntap-router-stats",
            Self::Switch => "tuntap-router-switch",
            Self::BusyPoll => "tuntap-router-busy-poll",
            Self::Grant => "tuntap-router-lease",
            Self::LeaseDefault => "tuntap-router-lease-default",
            Self::DeviceRoute => "tuntap-router-device-route",
            Self::GatewayAllow => "tuntap-router-gateway-allow",
            Self::GatewayVassal => "tuntap-router-gateway-vassal",
            Self::Sandbox => "tuntap-router-sandbox",
            Self::Priority => "tuntap-router-priority",
            Self::Harakiri => "tuntap-router-harakiri",
            Self::MaxPeers => "tuntap-router-max-peers",
            Self::MaxPeersPerUid => "tuntap-router-max-peers-per-uid",
            Self::MaxAddressesPerUid => "tuntap-router-max-addresses-per-uid",
            Self::MaxUnclaimed => "tuntap-router-max-unclaimed",
            Self::UnclaimedTimeout => "tuntap-router-unclaimed-timeout",
            Self::MaxQueue => "tuntap-router-max-queue",
            Self::MaxDeviceRules => "tuntap-router-max-device-rules",
            Self::RouterAddress => "tuntap-router-address",
            Self::RouterClaims => "tuntap-router-claims",
            Self::RouterNat => "tuntap-router-nat",
            Self::RouterPort => "tuntap-router-port",
            Self::RouterHost => "tuntap-router-host",
            Self::MaxConnections => "tuntap-router-max-connections",
            Self::ConnectionRate => "tuntap-router-connection-rate",
            Self::FragmentRate => "tuntap-router-fragment-rate",
            Self::RouterMtu => "tuntap-router-mtu",
            Self::RouterDns => "tuntap-router-dns",
            Self::DeviceRule => "tuntap-device-rule",
            Self::DeviceAddress => "tuntap-device-address",
            Self::DeviceGateway => "tuntap-device-gateway",
            Self::DeviceMtu => "tuntap-device-mtu",
            Self::DeviceDns => "tuntap-device-dns",
            Self::DeviceTimeout => "tuntap-device-timeout",
            Self::DeviceRequired => "tuntap-device-required",
        }
    }
}

/// About twice the time that it takes to wake a thread: what polling for longer could save is less than what it costs.
const DEFAULT_BUSY_POLL: Duration = Duration::from_micros(50);

/// Longer than any turn of a router's event loop takes on a busy machine, and shorter than most people's patience.
const DEFAULT_HARAKIRI: Duration = Duration::from_secs(6);

/// Long enough for a router that starts at the same time.
const DEFAULT_DEVICE_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything that the options of an instance say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Routers, in order.
    pub routers: Vec<RouterSpec>,
    /// Devices, in order.
    pub devices: Vec<DeviceSpec>,
    /// Whether devices have to show credentials, and what for.
    pub credentials: Credentials,
    /// Chain for packets towards the peers.
    pub firewall_in: Vec<Rule<Action>>,
    /// Chain for packets from the peers.
    pub firewall_out: Vec<Rule<Action>>,
    /// Routes to other routers.
    pub routes: Vec<Rule<SocketAddr>>,
    /// Whether routers deliver packets between their peers themselves.
    pub switch: bool,
    /// How long routers look for packets without sleeping after the last ones.
    pub busy_poll: Duration,
    /// Who may hold which address.
    pub leases: Vec<LeaseSpec>,
    /// What becomes of addresses that no lease covers. `None`: they are denied once there is a lease.
    pub lease_default: Option<Uncovered>,
    /// Gateways that the rules of devices may name beside the targets of `routes`.
    pub device_routes: Vec<TargetRange>,
    /// Where datagrams of other routers may come from; nothing is anywhere.
    pub gateway_sources: Vec<IpNet>,
    /// Vassals with these addresses may send datagrams to gateways.
    pub gateway_vassals: Vec<IpNet>,
    /// What the routers' processes give up.
    pub sandbox: Sandbox,
    /// The nice value that routers take; `None`: they keep what they have.
    pub priority: Option<i8>,
    /// How long a router may hang before it is ended; zero is for ever.
    pub harakiri: Duration,
    /// What peers of a router may take.
    pub limits: Limits,
    /// Rules that the devices of this instance send to their router.
    pub device_rules: Vec<PeerRule>,
    /// How long devices wait for their router when the instance starts.
    pub device_timeout: Duration,
    /// Whether the instance ends when a device loses its router.
    pub device_required: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            routers: Vec::new(),
            devices: Vec::new(),
            credentials: Credentials::Off,
            firewall_in: Vec::new(),
            firewall_out: Vec::new(),
            routes: Vec::new(),
            switch: false,
            busy_poll: DEFAULT_BUSY_POLL,
            leases: Vec::new(),
            lease_default: None,
            device_routes: Vec::new(),
            gateway_sources: Vec::new(),
            gateway_vassals: Vec::new(),
            sandbox: Sandbox::default(),
            priority: priority::DEFAULT,
            harakiri: DEFAULT_HARAKIRI,
            limits: Limits::default(),
            device_rules: Vec::new(),
            device_timeout: DEFAULT_DEVICE_TIMEOUT,
            device_required: false,
        }
    }
}

impl Config {
    /// Reads all option values, in the order in which they were given. Every value that is wrong is in the error.
    pub fn from_options<'a>(options: impl IntoIterator<Item = (OptionName, &'a str)>) -> Result<Self, ConfigErrors> {
        let mut config = Self::default();
        let mut default_stats = None;
        let mut host_settings = Vec::new();
        let mut device_settings = Vec::new();
        let mut errors = Vec::new();
        for (option, value) in options {
            let result = match option {
                OptionName::Router => router::parse(value).map(|spec| config.routers.push(spec)),
                OptionName::Device => device::parse(value).map(|spec| config.devices.push(spec)),
                OptionName::UseCredentials => credentials::parse(value).map(|spec| config.credentials = spec),
                OptionName::FirewallIn => rules::firewall(value).map(|rule| config.firewall_in.push(rule)),
                OptionName::FirewallOut => rules::firewall(value).map(|rule| config.firewall_out.push(rule)),
                OptionName::Route => rules::route(value).map(|rule| config.routes.push(rule)),
                OptionName::Stats => router::parse_stats(value).map(|address| default_stats = Some(address)),
                OptionName::Switch => parse::boolean(value).map(|on| config.switch = on),
                OptionName::BusyPoll => parse::busy_poll(value).map(|limit| config.busy_poll = limit),
                OptionName::Grant => grants::lease(value).map(|lease| config.leases.push(lease)),
                OptionName::LeaseDefault => grants::lease_default(value).map(|it| config.lease_default = Some(it)),
                OptionName::DeviceRoute => {
                    grants::device_route(value).map(|ranges| config.device_routes.extend(ranges))
                }
                OptionName::GatewayAllow => grants::gateway_source(value).map(|net| config.gateway_sources.push(net)),
                OptionName::GatewayVassal => grants::gateway_source(value).map(|net| config.gateway_vassals.push(net)),
                OptionName::Sandbox => sandbox::parse(value).map(|sandbox| config.sandbox = sandbox),
                OptionName::Priority => priority::parse(value).map(|nice| config.priority = nice),
                OptionName::Harakiri => parse::seconds(value).map(|patience| config.harakiri = patience),
                OptionName::MaxPeers => limits::peers(value).map(|limit| config.limits.peers = limit),
                OptionName::MaxPeersPerUid => {
                    limits::peers_per_uid(value).map(|limit| config.limits.peers_per_uid = limit)
                }
                OptionName::MaxAddressesPerUid => {
                    limits::addresses_per_uid(value).map(|limit| config.limits.addresses_per_uid = Some(limit))
                }
                OptionName::MaxUnclaimed => limits::unclaimed(value).map(|limit| config.limits.unclaimed = limit),
                OptionName::UnclaimedTimeout => {
                    limits::unclaimed_timeout(value).map(|limit| config.limits.unclaimed_timeout = limit)
                }
                OptionName::MaxQueue => limits::queued_bytes(value).map(|limit| config.limits.queued_bytes = limit),
                OptionName::MaxDeviceRules => {
                    limits::device_rules(value).map(|limit| config.limits.device_rules = limit)
                }
                OptionName::RouterAddress => hostnet::address(value).map(|it| host_settings.push(it)),
                OptionName::RouterClaims => hostnet::claims(value).map(|it| host_settings.push(it)),
                OptionName::RouterNat => hostnet::nat(value).map(|it| host_settings.push(it)),
                OptionName::RouterPort => hostnet::port(value).map(|it| host_settings.push(it)),
                OptionName::RouterHost => protection::host(value).map(|it| host_settings.push(it)),
                OptionName::MaxConnections => protection::max_connections(value).map(|it| host_settings.push(it)),
                OptionName::ConnectionRate => protection::connection_rate(value).map(|it| host_settings.push(it)),
                OptionName::FragmentRate => protection::fragment_rate(value).map(|it| host_settings.push(it)),
                OptionName::RouterMtu => hostnet::mtu(value).map(|it| host_settings.push(it)),
                OptionName::RouterDns => hostnet::dns(value).map(|it| host_settings.push(it)),
                OptionName::DeviceRule => rules::device_rule(value).map(|rule| config.device_rules.push(rule)),
                OptionName::DeviceAddress => device::address(value).map(|setting| device_settings.push(setting)),
                OptionName::DeviceGateway => device::gateway(value).map(|setting| device_settings.push(setting)),
                OptionName::DeviceMtu => device::mtu(value).map(|setting| device_settings.push(setting)),
                OptionName::DeviceDns => device::dns(value).map(|setting| device_settings.push(setting)),
                OptionName::DeviceTimeout => parse::seconds(value).map(|timeout| config.device_timeout = timeout),
                OptionName::DeviceRequired => parse::boolean(value).map(|on| config.device_required = on),
            };
            if let Err(problem) = result {
                errors.push(ConfigError { option: option.as_str(), value: value.to_owned(), problem });
            }
        }
        errors.extend(rules::too_many_device_rules(&config.device_rules));
        errors.extend(router::duplicates(&config.routers));
        errors.extend(hostnet::apply(&mut config.routers, &host_settings));
        errors.extend(device::apply(&mut config.devices, device_settings));
        if let Some(address) = default_stats {
            router::apply_default_stats(&mut config.routers, address);
        }
        protection::complete(&mut config);
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }
}

#[cfg(test)]
mod tests;
