//! Option values, checked once and immutable from then on. Pure: text in, specifications or errors out.

mod credentials;
mod device;
mod error;
mod parse;
mod router;
mod rules;

use std::net::SocketAddrV4;
use std::time::Duration;

pub use credentials::Credentials;
pub use device::DeviceSpec;
pub use error::{ConfigError, ConfigErrors};
pub use router::{RouterSpec, StatsAddress};

use crate::policy::pattern::{Action, Rule};
use crate::wire::rule::PeerRule;

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
    /// `tuntap-device-rule`
    DeviceRule,
}

impl OptionName {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Router,
        Self::Device,
        Self::UseCredentials,
        Self::FirewallIn,
        Self::FirewallOut,
        Self::Route,
        Self::Stats,
        Self::Switch,
        Self::BusyPoll,
        Self::DeviceRule,
    ];

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
            Self::DeviceRule => "tuntap-device-rule",
        }
    }
}

/// About twice the time that it takes to wake a thread: what polling for longer could save is less than what it costs.
const DEFAULT_BUSY_POLL: Duration = Duration::from_micros(50);

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
    pub routes: Vec<Rule<SocketAddrV4>>,
    /// Whether routers deliver packets between their peers themselves.
    pub switch: bool,
    /// How long routers look for packets without sleeping after the last ones.
    pub busy_poll: Duration,
    /// Rules that the devices of this instance send to their router.
    pub device_rules: Vec<PeerRule>,
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
            device_rules: Vec::new(),
        }
    }
}

impl Config {
    /// Reads all option values, in the order in which they were given. Every value that is wrong is in the error.
    pub fn from_options<'a>(options: impl IntoIterator<Item = (OptionName, &'a str)>) -> Result<Self, ConfigErrors> {
        let mut config = Self::default();
        let mut default_stats = None;
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
                OptionName::DeviceRule => rules::device_rule(value).map(|rule| config.device_rules.push(rule)),
            };
            if let Err(problem) = result {
                errors.push(ConfigError { option: option.as_str(), value: value.to_owned(), problem });
            }
        }
        errors.extend(rules::too_many_device_rules(&config.device_rules));
        errors.extend(router::duplicates(&config.routers));
        if let Some(address) = default_stats {
            router::apply_default_stats(&mut config.routers, address);
        }
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }
}

#[cfg(test)]
mod tests;
