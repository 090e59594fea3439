//! The options of the plugin: one table of them, and a configuration made from their values, which is checked once and
//! immutable from then on. Pure: text in, specifications or errors out.

mod control;
mod credentials;
mod device;
mod draft;
mod error;
mod grants;
mod hostnet;
mod hosts;
mod limits;
mod live;
mod live_rule;
mod log;
mod metrics;
mod offload;
mod options;
mod parse;
mod policy;
mod priority;
mod protection;
mod router;
mod rules;
mod sandbox;
mod shape;
mod trunks;

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

pub use control::{AccessSpec, ControlAccess, resolve_access};
pub use credentials::Credentials;
pub use device::DeviceSpec;
pub use error::{ConfigError, ConfigErrors, Problem};
pub use grants::{GrantSpec, resolve_grants};
pub use hostnet::{PortMapping, PortProtocol};
pub use hosts::{HostsSpec, KEY_FOLDER, RoutesSpec};
pub use live::{ControlSocket, LiveSpec};
pub use live_rule::{FILTER_SYNTAX, LiveRule, MAX_NAME_LEN, MAX_RATE, ROUTE_SYNTAX, Target, check_name};
pub use log::LogFormat;
pub use metrics::MetricsSpec;
pub use offload::Offload;
pub use options::{OptionName, OptionSpec, Scope, TABLE};
pub use parse::{absolute_file, set_member};
pub use policy::RuleChains;
pub use protection::{ConnectionRate, HostProtection, HostRule};
pub use router::{Meant, RouterSpec, StatsAddress};
pub use rules::{protocol, protocol_names};
pub use sandbox::Sandbox;
pub use shape::{MAX_SHAPES, SHAPE_SYNTAX, ShapeSpec, resolve_shapes};
pub use trunks::{MAX_TRUNKS, TrunkPeer, TrunksSpec};

use draft::Draft;
use tuntap_core::policy::grant::Uncovered;
use tuntap_core::policy::limits::Limits;
use tuntap_core::policy::pattern::{Action, PolicyRule};
pub use tuntap_core::policy::shape_text::Rate;
use tuntap_core::policy::targets::TargetRange;
pub use tuntap_core::routes::bird_config::{BirdConfig, BirdConfigError, Feed, Neighbour, bird_config};
use tuntap_wire::rule::PeerRule;

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
    /// The credentials that devices show, and what routers do with them.
    pub credentials: Credentials,
    /// Chain for packets towards the peers.
    pub firewall_in: Vec<PolicyRule<Action>>,
    /// Chain for packets from the peers.
    pub firewall_out: Vec<PolicyRule<Action>>,
    /// Routes to other routers.
    pub routes: Vec<PolicyRule<SocketAddr>>,
    /// True if routers deliver packets between their peers themselves.
    pub switch: bool,
    /// How long routers look for packets without sleeping after the last ones.
    pub busy_poll: Duration,
    /// Who may hold which address.
    pub grants: Vec<GrantSpec>,
    /// What becomes of addresses that no lease covers, if the options say so (see [`Config::compile_grants`]).
    pub lease_default: Option<Uncovered>,
    /// Gateways that the rules of devices may name beside the targets of `routes`.
    pub device_routes: Vec<TargetRange>,
    /// Where datagrams of other routers may come from. An empty list is anywhere.
    pub gateway_sources: Vec<IpNet>,
    /// Vassals with these addresses may send datagrams to gateways.
    pub gateway_vassals: Vec<IpNet>,
    /// What the routers' processes give up.
    pub sandbox: Sandbox,
    /// Whether flows may pass in the kernel.
    pub offload: Offload,
    /// The nice value of the routers' processes. `None`: they keep the one that they have.
    pub priority: Option<i8>,
    /// How long a router may hang before it is killed; zero is for ever.
    pub harakiri: Duration,
    /// Limits on the peers of a router.
    pub limits: Limits,
    /// Rules that the devices of this instance send to their router.
    pub device_rules: Vec<PeerRule>,
    /// How long devices wait for their router when the instance starts.
    pub device_timeout: Duration,
    /// True if the instance ends when a device loses its router.
    pub device_required: bool,
    /// How lines of the log are written.
    pub log_format: LogFormat,
    /// False if the devices' packets must not pass in the kernel without the router.
    pub device_offload: bool,
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
            grants: Vec::new(),
            lease_default: None,
            device_routes: Vec::new(),
            gateway_sources: Vec::new(),
            gateway_vassals: Vec::new(),
            sandbox: Sandbox::default(),
            offload: Offload::default(),
            priority: priority::DEFAULT,
            harakiri: DEFAULT_HARAKIRI,
            limits: Limits::default(),
            device_rules: Vec::new(),
            device_timeout: DEFAULT_DEVICE_TIMEOUT,
            device_required: false,
            log_format: LogFormat::default(),
            device_offload: true,
        }
    }
}

impl Config {
    /// Reads all option values, in the order in which they were given. Every value that is wrong is in the error.
    pub fn from_options<'a>(options: impl IntoIterator<Item = (OptionName, &'a str)>) -> Result<Self, ConfigErrors> {
        let mut draft = Draft::default();
        for (option, value) in options {
            draft.read(option, value);
        }
        draft.finish()
    }
}

#[cfg(test)]
mod tests;
