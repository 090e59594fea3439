//! The vassal's side: TUN devices in the current network namespace, each joined to a router.

mod autoconf;
mod changes;
mod configure;
mod greeting;
mod handover;
mod instance_name;
mod join;
mod link;
mod pump;
mod rejoin;
mod resolv_conf;
mod settings;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, mem};

use ipnet::IpNet;
use nix::errno::Errno;
use thiserror::Error;

pub use changes::{Changes, Need, Stated, changed_option, compare};
pub use greeting::Identity;
pub use handover::{Earlier, Inherited, Lost, LostReason, WithParent};
pub use instance_name::instance_name;
pub use join::unreachable_router;
pub use settings::Settings;

use autoconf::SettleError;
use configure::Network;
use join::Joined;
use link::Link;
use pump::Buffers;
use resolv_conf::{ResolvConf, ResolvConfError};
use tuntap_config::DeviceSpec;
use tuntap_sys::fork;
use tuntap_sys::log::{Event, Logger};
use tuntap_sys::net::{NamespaceCookie, current_namespace, exists};
use tuntap_sys::netlink::NetlinkError;
use tuntap_sys::tun::{Tun, TunError};
use tuntap_wire::autoconf::Configuration;
use tuntap_wire::rule::PeerRule;

/// Most devices of an instance. Each has two descriptors that children must not keep, and a third one while it reconnects to its
/// router.
pub const MAX_DEVICES: usize = fork::MAX_DESCRIPTORS / 3;

/// How long a router may take to release a device that is to be made anew. After that the kernel says that the name is taken.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// Interval at which the instance checks for that.
const RELEASE_POLL: Duration = Duration::from_millis(10);

/// What the devices of an instance have in common.
#[derive(Debug, Clone)]
pub struct Context {
    /// The devices that the instance should have.
    pub specs: Vec<DeviceSpec>,
    /// The rules that each device sends to its router.
    pub rules: Vec<PeerRule>,
    /// The credentials that the devices show, if the options want that.
    pub identity: Option<Identity>,
    /// How long a device waits for its router when the instance starts.
    pub timeout: Duration,
    /// True if the instance ends when a device loses its router.
    pub required: bool,
    /// True if packets must not pass in the kernel without the router.
    pub router_only: bool,
    /// The instance's name ([`instance_name()`]); empty if it has none.
    pub vassal: String,
    /// Where lines go.
    pub logger: Logger,
    /// Keeps uWSGI from closing a descriptor. In a reloaded image it closes those that it doesn't know.
    pub keep_open: fn(BorrowedFd<'_>),
}

/// Why a device can't be made or used.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The device can't be made.
    #[error("{name}: {error}")]
    Tun {
        /// The device.
        name: String,
        /// Why.
        error: TunError,
    },
    /// The device's router can't be reached.
    #[error("{name}: can't reach the router at {socket}: {error}{}", hint(.error))]
    Connect {
        /// The device.
        name: String,
        /// The router's socket.
        socket: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// The device gets no addresses from its router, or can't send it its rules.
    #[error("{name}: no agreement with the router at {socket}: {error}")]
    Settle {
        /// The device.
        name: String,
        /// The router's socket.
        socket: String,
        /// What went wrong.
        error: SettleError,
    },
    /// The kernel refuses the device's configuration.
    #[error("{name}: can't configure it: {error}")]
    Configure {
        /// The device.
        name: String,
        /// What the kernel said.
        error: NetlinkError,
    },
    /// None of the device's addresses can be set.
    #[error("{0}: it has IPv6 addresses only, and no IPv6")]
    NoAddress(String),
    /// The device's DNS servers can't be written.
    #[error(transparent)]
    ResolvConf(#[from] ResolvConfError),
    /// Credentials or rules can't be sent.
    #[error("{name}: can't greet the router: {errno}")]
    Greet {
        /// The device.
        name: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// The thread that moves the device's packets can't be started.
    #[error("{name}: can't start its thread: {error}")]
    Thread {
        /// The device.
        name: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// There are more devices than [`MAX_DEVICES`].
    #[error("{0} devices, an instance can have {MAX_DEVICES}")]
    TooMany(usize),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => " (is the path right, and is it visible in this mount namespace?)",
        io::ErrorKind::ConnectionRefused => {
            " (no router listens there; an @name can only be reached from the router's own network namespace)"
        }
        io::ErrorKind::PermissionDenied => " (the router's chmod-socket and chown-socket say who may connect)",
        io::ErrorKind::WouldBlock => {
            " (its queue of connections stayed full; the router's listen option makes it longer)"
        }
        _ => "",
    }
}

/// One device of this process.
#[derive(Debug)]
struct Device {
    /// Its name in the instance's options. Its name in the kernel may be another one, which a hook has given it.
    name: String,
    namespace: Option<NamespaceCookie>,
    tun: Arc<Tun>,
    link: Option<Link>,
}

/// The devices of this process.
#[derive(Debug, Default)]
pub struct DeviceSet {
    devices: Vec<Device>,
    /// Files that are to be written once the jail is complete.
    resolv_confs: Vec<ResolvConf>,
}

impl DeviceSet {
    /// A set without devices.
    pub const fn new() -> Self {
        Self { devices: Vec::new(), resolv_confs: Vec::new() }
    }

    /// Returns true if there are none.
    pub const fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// Makes those devices that this process should have in its network namespace and doesn't have yet. A second call does
    /// nothing, unless the process has moved to another namespace: then the devices of the old one are closed.
    pub fn ensure(&mut self, context: &Context) -> Result<(), DeviceError> {
        if context.specs.len() > MAX_DEVICES {
            return Err(DeviceError::TooMany(context.specs.len()));
        }
        let here = current_namespace();
        if self.are_others() {
            // A child in its parent's namespace uses the parent's devices. In another namespace it needs its own.
            if self.devices.iter().all(|device| device.namespace == here) {
                return Ok(());
            }
            self.leak();
        }
        self.devices.retain_mut(|device| device.namespace == here || device.close(context.logger));
        for spec in &context.specs {
            if !self.devices.iter().any(|device| device.name == spec.name) {
                let (device, resolv_conf) = Device::create(spec, here, context)?;
                self.devices.push(device);
                self.resolv_confs.extend(resolv_conf);
            }
        }
        Ok(())
    }

    /// Writes the DNS servers of the routers into the files that the devices' options name. The jail has to be complete, and the
    /// privileges must not be dropped yet.
    pub fn write_resolv_confs(&mut self) -> Result<(), DeviceError> {
        for file in self.resolv_confs.drain(..) {
            file.write()?;
        }
        Ok(())
    }

    /// Starts the threads of devices that have none in this process, after a fork by which the instance goes on in this process.
    pub fn resume(&mut self, context: &Context) -> Result<(), DeviceError> {
        if !fork::owns_descriptors() {
            return Ok(());
        }
        for device in &mut self.devices {
            if let Some(link) = &mut device.link {
                link.start(&device.tun, context)?;
            }
        }
        Ok(())
    }

    /// Stops the threads, because the next forks take only the calling thread along. [`DeviceSet::resume`] starts them.
    pub fn pause(&mut self) {
        for link in self.devices.iter_mut().filter_map(|device| device.link.as_mut()) {
            link.pause();
        }
    }

    /// Returns true if the devices belong to another process, which has forked this one.
    pub fn are_others(&self) -> bool {
        !self.devices.is_empty() && !fork::owns_descriptors()
    }

    /// Closes the devices' descriptors, which a child keeps for the next image.
    pub fn close_after_handover(&mut self) {
        for device in self.devices.drain(..) {
            fork::forget(device.tun.as_fd());
            device.link.iter().for_each(|link| fork::forget(link.socket().as_fd()));
        }
    }

    /// Takes over devices of the image before, and starts their threads. Devices that are not configured any more, or have to be
    /// made anew, are closed.
    pub fn take_over(
        &mut self,
        inherited: Vec<Inherited>,
        changes: &Changes,
        context: &Context,
    ) -> Result<(), DeviceError> {
        let here = current_namespace();
        let connects_anew = changes.need(Need::Connection);
        for Inherited { name, tun, connection } in inherited {
            let Some(spec) = context.specs.iter().find(|spec| spec.name == name) else {
                context.logger.line(
                    Event::DeviceClosed,
                    format_args!("[uwsgi-tuntap] {name} is not configured any more, closed"),
                );
                continue;
            };
            if changes.to_remake.contains(&name) {
                context
                    .logger
                    .line(Event::DeviceClosed, format_args!("[uwsgi-tuntap] {name} is closed, to be made anew"));
                let alias = tun.name().to_owned();
                drop((tun, connection));
                wait_until_gone(&alias);
                continue;
            }
            let tun = Arc::new(tun);
            let link = match (connection, &spec.socket) {
                (Some((socket, buffers)), Some(router)) => {
                    let buffers = Buffers { connects_anew, ..buffers };
                    Some(Link::resume((socket, buffers), &name, router, context))
                }
                _ => None,
            };
            close_in_children(tun.as_fd());
            let alias = if tun.name() == name { String::new() } else { format!(", as {}", tun.name()) };
            context
                .logger
                .line(Event::DeviceKept, format_args!("[uwsgi-tuntap] {name} lives on after the reload{alias}"));
            self.devices.push(Device { name, namespace: here, tun, link });
        }
        self.resume(context)
    }

    /// Drops the devices without closing their descriptors, which belong to another process or are closed already.
    fn leak(&mut self) {
        self.devices.drain(..).for_each(mem::forget);
    }
}

impl Device {
    /// Makes the device, joins it to its router and configures its network. Returns the device, and the file with DNS servers
    /// that is to be written later.
    fn create(
        spec: &DeviceSpec,
        here: Option<NamespaceCookie>,
        context: &Context,
    ) -> Result<(Self, Option<ResolvConf>), DeviceError> {
        let tun = Tun::create(&spec.name).map_err(|error| DeviceError::Tun { name: spec.name.clone(), error })?;
        let tun = Arc::new(tun);
        close_in_children(tun.as_fd());
        (context.keep_open)(tun.as_fd());
        context.logger.line(Event::DeviceMade, format_args!("[uwsgi-tuntap] made the device {}", tun.name()));
        let Some(socket) = &spec.socket else {
            configure(&join::network(spec, &Configuration::default(), &context.specs), spec, context)?;
            return Ok((Self { name: spec.name.clone(), namespace: here, tun, link: None }, None));
        };
        let Joined { connection, told } =
            join::join(spec, socket, &tun, context, |network| configure(network, spec, context))?;
        context
            .logger
            .line(Event::RouterJoined, format_args!("[uwsgi-tuntap] {} joined the router at {socket}", tun.name()));
        let link = Some(Link::open(connection, &spec.name, socket, &tun, context)?);
        let resolv_conf = spec.resolv_conf.as_ref().filter(|_| !told.dns.is_empty()).map(|path| ResolvConf {
            device: spec.name.clone(),
            path: path.clone(),
            servers: told.dns,
            host_etc: told.host_etc,
        });
        if spec.resolv_conf.is_some() && resolv_conf.is_none() {
            context.logger.line(Event::DeviceIncomplete, format_args!(
                "[uwsgi-tuntap] {}: the router names no DNS servers (its option tuntap-router-dns); nothing to write",
                spec.name
            ));
        }
        Ok((Self { name: spec.name.clone(), namespace: here, tun, link }, resolv_conf))
    }

    /// Stops the device's thread and closes the device. Returns false, for `retain`.
    fn close(&mut self, logger: Logger) -> bool {
        if let Some(link) = self.link.take() {
            link.close();
        }
        fork::forget(self.tun.as_fd());
        logger.line(
            Event::DeviceClosed,
            format_args!("[uwsgi-tuntap] left the device {} behind in its namespace", self.tun.name()),
        );
        false
    }
}

/// Waits until a device is gone. A router that reads the device itself closes its copy of the descriptor only when it sees the
/// end of the connection, and the name is taken until then.
fn wait_until_gone(device: &str) {
    let deadline = Instant::now() + RELEASE_TIMEOUT;
    while exists(device) && Instant::now() < deadline {
        std::thread::sleep(RELEASE_POLL);
    }
}

/// Configures a device's network. Returns the addresses that the device has then.
fn configure(network: &Network, spec: &DeviceSpec, context: &Context) -> Result<Vec<IpNet>, DeviceError> {
    let set = network
        .apply(&spec.name, context.logger)
        .map_err(|error| DeviceError::Configure { name: spec.name.clone(), error })?;
    if set.is_empty() && spec.has_addresses() {
        return Err(DeviceError::NoAddress(spec.name.clone()));
    }
    Ok(set)
}

/// Registers a descriptor that forked children must close. [`MAX_DEVICES`] keeps the number of descriptors within the bound.
fn close_in_children(descriptor: BorrowedFd<'_>) {
    let registered = fork::close_in_children(descriptor);
    debug_assert!(registered, "MAX_DEVICES bounds the number of descriptors");
}
