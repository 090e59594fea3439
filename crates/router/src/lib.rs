//! The router's process, which is a uWSGI gateway process: one TUN device, one listening socket, many peers, and one thread
//! for them.

mod busy_poll;
mod closer;
mod control;
mod event_loop;
mod events;
mod exported;
mod grant_updates;
mod heartbeat;
mod hosts;
mod http;
mod kernel_path;
mod memory;
mod metrics;
pub mod priority;
mod report;
mod restore;
mod sandbox;
mod script;
mod shell;
mod stats;
mod stats_server;
mod store;
mod token;
mod turn_clock;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use thiserror::Error;

use tuntap_config::{RouterSpec, Sandbox};
use tuntap_core::policy::limits::Limits;
use tuntap_core::router::{self, Settings};
use tuntap_live::{Base, Document};
use tuntap_sys::log::Logger;
use tuntap_sys::socket::bind_udp;
use tuntap_sys::socket_file::SocketFile;
use tuntap_sys::tun::{Tun, TunError};
use tuntap_wire::autoconf::DirectoryId;
use tuntap_wire::credentials::PeerCredentials;

pub use control::{ControlEndpoint, Documents};
pub use exported::{Exported, Kind as ExportedKind};
pub use grant_updates::{GrantUpdates, Newcomers};
pub use heartbeat::{Heartbeat, Pulse, Watchdog};
pub use hosts::{EndpointError, Hosts, KeptRoutes, LeftRoutes, RoutesEndpoint, TrunkEndpoint};
pub use kernel_path::KernelEndpoint;
pub use memory::{Earlier, KeptMemory, Memory};
pub use script::{LIVE_NAME, ScriptFile};
pub use store::Store;

/// The credentials hook: returns the address for a peer's credentials; `None` refuses the peer.
pub type CredentialsHook = Box<dyn Fn(PeerCredentials) -> Option<Ipv4Addr> + Send + Sync>;

/// The credentials that peers have to show before anything else.
pub enum CredentialsCheck {
    /// Peers show no credentials.
    Off,
    /// Peers show their credentials.
    Shown,
    /// Peers show their credentials, and a hook assigns an address to each.
    Hook(CredentialsHook),
}

impl std::fmt::Debug for CredentialsCheck {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Off => "Off",
            Self::Shown => "Shown",
            Self::Hook(_) => "Hook",
        })
    }
}

/// Where clients get documents.
#[derive(Debug)]
pub struct Listening {
    /// The listening socket, non-blocking.
    pub listener: OwnedFd,
    /// True if clients speak HTTP: those of metrics do, those of statistics with `stats-http`.
    pub http: bool,
    /// How long a client may be silent.
    pub timeout: Duration,
}

/// The statistics endpoint.
#[derive(Debug)]
pub struct StatsEndpoint {
    /// Where clients connect.
    pub listening: Listening,
    /// True if the JSON has no white space (`stats-minified`).
    pub minified: bool,
}

/// Everything that a router needs to start: validated values and open descriptors, nothing else. It is made before uWSGI
/// forks the router's process, and used again when that dies and is forked again.
#[derive(Debug)]
pub struct Setup {
    /// The options of the router.
    pub spec: RouterSpec,
    /// The TUN device.
    pub tun: Tun,
    /// The name of the unix socket, for the statistics.
    pub socket_name: Option<String>,
    /// The socket where peers connect, listening and non-blocking. Without one, vassals of this host can't join.
    pub listener: Option<OwnedFd>,
    /// The statistics endpoint.
    pub stats: Option<StatsEndpoint>,
    /// The metrics endpoint.
    pub metrics: Option<Listening>,
    /// Its numbers among uWSGI's own metrics.
    pub exported: Option<Exported>,
    /// The gateway, to which other routers send.
    pub gateway: Option<Gateway>,
    /// What the options say about the policy, with the grants up to now.
    pub base: Base,
    /// The policy of options and rules file, as a document.
    pub initial: Document,
    /// Memory that outlives the router's process.
    pub memory: Memory,
    /// What it tells other hosts, and hears of them.
    pub hosts: Hosts,
    /// What it needs for a path in the kernel, if there may be one.
    pub kernel_path: Option<KernelEndpoint>,
    /// Where requests about the policy come in.
    pub control: Option<ControlEndpoint>,
    /// The script of the options.
    pub script: Option<ScriptFile>,
    /// The names of users, by uid, for scripts.
    pub users: HashMap<u32, String>,
    /// The devices of all routers of the instance. What comes by one of them comes from a peer.
    pub devices: Vec<String>,
    /// What a device's configuration says besides its addresses.
    pub network: NetworkFacts,
    /// The credentials that peers have to show.
    pub credentials: CredentialsCheck,
    /// The limits on what peers may use.
    pub limits: Limits,
    /// How long to look for packets without sleeping after the last ones. Zero disables this.
    pub busy_poll: Duration,
    /// Says which privileges the process gives up after set-up.
    pub sandbox: Sandbox,
    /// The files of its sockets. They are removed when the master ends.
    pub socket_files: Vec<SocketFile>,
    /// A descriptor that becomes readable when the master ends.
    pub master: Option<OwnedFd>,
    /// The store, which outlives the router's process.
    pub store: Store,
    /// The beats by which the master sees that the router does its work.
    pub heartbeat: Arc<Heartbeat>,
    /// The nice value of the router's process. With `None` it keeps the one it was started with.
    pub priority: Option<i8>,
    /// The time without a turn of its event loop after which the router is taken for one that hangs. Zero disables this.
    pub harakiri: Duration,
    /// Grants that the master sends while the router runs.
    pub grant_updates: GrantUpdates,
    /// The version of the uWSGI, for the statistics.
    pub uwsgi_version: String,
    /// Writes to the log.
    pub logger: Logger,
}

impl Setup {
    /// Takes over the networks that could be set up on the host. Vassals get addresses of no others.
    pub fn set_network(&mut self, spec: &RouterSpec) {
        self.network.dns.clone_from(&spec.dns);
        self.spec = spec.clone();
    }

    /// A socket that was made in the router's network namespace, for questions about that.
    fn any_socket(&self) -> BorrowedFd<'_> {
        self.grant_updates.read_end()
    }

    /// Returns the settings for the state machine.
    fn settings(&self, tun: &Tun) -> Settings {
        let gateway = self.gateway.as_ref().map(|gateway| gateway.address);
        Settings {
            tun_queues: u8::try_from(tun.queues().count()).unwrap_or(u8::MAX),
            limits: self.limits,
            credentials: match self.credentials {
                CredentialsCheck::Off => router::CredentialsCheck::Off,
                CredentialsCheck::Shown => router::CredentialsCheck::Shown,
                CredentialsCheck::Hook(_) => router::CredentialsCheck::Hook,
            },
            addresses: self.spec.addresses.iter().map(IpNet::addr).chain(gateway.map(|it| it.ip())).collect(),
            gateway,
            namespace: event_loop::namespace_number(self.any_socket()),
            dns: self.network.dns.clone(),
            router: self.hosts.router,
            trunks: self.hosts.trunks.as_ref().map(|endpoint| endpoint.settings.clone()).unwrap_or_default(),
            host_etc: self.network.host_etc.clone(),
        }
    }
}

/// What the answer to a configuration request says besides what the policy says.
#[derive(Debug, Clone, Default)]
pub struct NetworkFacts {
    /// DNS servers.
    pub dns: Vec<IpAddr>,
    /// Directories of the host into which no device may write its resolv.conf.
    pub host_etc: Vec<DirectoryId>,
}

/// The socket on which routers exchange packets.
#[derive(Debug)]
pub struct Gateway {
    /// Its address.
    pub address: SocketAddr,
    /// Bound, non-blocking.
    pub socket: UdpSocket,
}

impl Gateway {
    /// Binds the socket.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { address, socket: bind_udp(address)? })
    }
}

/// Why a router ended.
#[derive(Debug, Error)]
pub enum RouterError {
    /// Memory that outlives the router can't be used.
    #[error("the memory that outlives the router: {0}")]
    Memory(#[source] io::Error),
    /// The event queue failed.
    #[error("epoll: {0}")]
    Epoll(#[from] nix::errno::Errno),
    /// The TUN device was deleted.
    #[error("the device {0} was deleted")]
    DeviceGone(String),
    /// The TUN device can't be read.
    #[error("reading from {0}: {1}")]
    Device(String, #[source] io::Error),
    /// The master process ended, so that no process would start the router again.
    #[error("the master process is gone")]
    MasterGone,
    /// The TUN device was deleted and can't be made again.
    #[error("making the device again: {0}")]
    Recreate(#[from] TunError),
}

impl Setup {
    /// Removes the socket files. A file that is missing, or that can't be removed without the privileges of the start, is
    /// ignored.
    pub fn remove_socket_files(&self) {
        for file in &self.socket_files {
            let _ = file.remove();
        }
    }
}

/// Runs a router until it fails.
pub fn run(setup: &Setup) -> RouterError {
    let result = event_loop::EventLoop::new(setup).and_then(|mut event_loop| {
        event_loop.confine();
        event_loop.run()
    });
    let error = match result {
        Ok(never) => match never {},
        Err(error) => error,
    };
    if matches!(error, RouterError::MasterGone) {
        setup.remove_socket_files();
    }
    error
}
