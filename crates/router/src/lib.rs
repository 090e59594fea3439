//! The gateway process: one TUN device, one listening socket, many peers, one thread.

mod busy_poll;
mod closer;
mod event_loop;
mod heartbeat;
mod news;
mod priority;
mod report;
mod restore;
mod sandbox;
mod shell;
mod stats;
mod stats_server;
mod store;
mod token;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use thiserror::Error;

use tuntap_config::{RouterSpec, Sandbox};
use tuntap_core::policy::Policy;
use tuntap_core::policy::limits::Limits;
use tuntap_core::router::{self, Settings};
use tuntap_sys::log::Logger;
use tuntap_sys::socket::bind_udp;
use tuntap_sys::socket_file::SocketFile;
use tuntap_sys::tun::{Tun, TunError};
use tuntap_wire::autoconf::DirectoryId;
use tuntap_wire::credentials::PeerCredentials;

pub use heartbeat::{Heartbeat, Watchdog};
pub use news::News;
pub use store::Store;

/// Turns a peer's credentials into its address; `None` refuses the peer.
pub type CredentialsHook = Box<dyn Fn(PeerCredentials) -> Option<Ipv4Addr> + Send + Sync>;

/// Whether peers have to show their credentials before anything else.
pub enum CredentialsCheck {
    /// They don't.
    Off,
    /// They do.
    Shown,
    /// They do, and get their address from them.
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

/// The statistics endpoint.
#[derive(Debug)]
pub struct StatsEndpoint {
    /// Listening, non-blocking.
    pub listener: OwnedFd,
    /// Clients speak HTTP (`stats-http`).
    pub http: bool,
    /// No white space in the JSON (`stats-minified`).
    pub minified: bool,
    /// How long a client may keep still.
    pub timeout: Duration,
}

/// Everything that a router needs. Made before uWSGI forks the gateway, and again its start when the gateway died:
/// validated values and open descriptors, nothing else.
#[derive(Debug)]
pub struct Setup {
    /// What the operator said about it.
    pub spec: RouterSpec,
    /// The TUN device.
    pub tun: Tun,
    /// Name of the unix socket, for people.
    pub socket_name: String,
    /// Where peers connect, non-blocking.
    pub listener: OwnedFd,
    /// The statistics endpoint.
    pub stats: Option<StatsEndpoint>,
    /// Other routers send to this address.
    pub gateway: Option<Gateway>,
    /// What the operator configured.
    pub policy: Policy,
    /// The devices of all routers of the instance: what comes by them comes from peers.
    pub devices: Vec<String>,
    /// What devices are told beside their addresses.
    pub network: NetworkFacts,
    /// What peers have to show.
    pub credentials: CredentialsCheck,
    /// What peers may take.
    pub limits: Limits,
    /// How long to look for packets without sleeping after the last ones; zero is not at all.
    pub busy_poll: Duration,
    /// What the process gives up after set-up.
    pub sandbox: Sandbox,
    /// The files of its sockets, which go with it.
    pub socket_files: Vec<SocketFile>,
    /// Readable when the process ends that would start this one again.
    pub master: Option<OwnedFd>,
    /// What outlives this process.
    pub store: Store,
    /// How the master sees that the router does its work.
    pub heartbeat: Arc<Heartbeat>,
    /// The nice value that the router's process takes. `None`: it keeps that of whoever started the instance.
    pub priority: Option<i8>,
    /// After how long without a turn of its event loop the router is taken for one that hangs; zero is never.
    pub harakiri: Duration,
    /// What the master tells it meanwhile.
    pub news: News,
    /// The host's version, for the statistics.
    pub host_version: String,
    /// Where lines go.
    pub logger: Logger,
}

impl Setup {
    /// Takes over what the host can have of the router's networks: nothing else is given to vassals.
    pub fn have_network(&mut self, spec: &RouterSpec) {
        self.policy.networks.clone_from(&spec.addresses);
        self.network.dns.clone_from(&spec.dns);
        self.spec = spec.clone();
    }

    /// What the router is told at its start.
    fn settings(&self) -> Settings {
        let gateway = self.gateway.as_ref().map(|gateway| gateway.address);
        Settings {
            limits: self.limits,
            credentials: match self.credentials {
                CredentialsCheck::Off => router::CredentialsCheck::Off,
                CredentialsCheck::Shown => router::CredentialsCheck::Shown,
                CredentialsCheck::Hook(_) => router::CredentialsCheck::Hook,
            },
            addresses: self.spec.addresses.iter().map(IpNet::addr).chain(gateway.map(|it| it.ip())).collect(),
            gateway,
            namespace: event_loop::namespace_number(self.listener.as_fd()),
            dns: self.network.dns.clone(),
            host_etc: self.network.host_etc.clone(),
        }
    }
}

/// What a router tells devices that ask for their configuration, beside what it knows by itself.
#[derive(Debug, Clone, Default)]
pub struct NetworkFacts {
    /// DNS servers.
    pub dns: Vec<IpAddr>,
    /// Folders of the host that no device may write its resolv.conf into.
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

/// Why a router had to end.
#[derive(Debug, Error)]
pub enum RouterError {
    /// The event queue failed.
    #[error("epoll: {0}")]
    Epoll(#[from] nix::errno::Errno),
    /// Somebody deleted the TUN device.
    #[error("the device {0} was deleted")]
    DeviceGone(String),
    /// The TUN device can't be read.
    #[error("reading from {0}: {1}")]
    Device(String, #[source] io::Error),
    /// There is nobody left who would start a router again.
    #[error("the master process is gone")]
    MasterGone,
    /// A deleted device can't be made again.
    #[error("making the device again: {0}")]
    Recreate(#[from] TunError),
}

impl Setup {
    /// Takes the socket files away. Those that are gone, or can't be removed without the privileges that were there at
    /// the start, are left as they are.
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
