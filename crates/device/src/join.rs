//! A device's first connection to its router, until packets may pass.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::autoconf::{self, ANSWER_TIMEOUT, Holding, SettleError, Talk, Waited};
use super::configure::{DefaultRouter, Network};
use super::greeting::{Introduced, greet, introduce, need_extension, rules_frame};
use super::pump::Buffers;
use super::{Context, DeviceError};
use tuntap_config::DeviceSpec;
use tuntap_sys::log::Event;
use tuntap_sys::socket;
use tuntap_sys::tun::Tun;
use tuntap_wire::autoconf::{Configuration, Family, MIN_MTU_V6};
use tuntap_wire::frame::MAX_PAYLOAD_LEN;

/// Pause before the next attempt when a router has closed the connection before the device was configured.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// A connection on which the router was greeted.
#[derive(Debug)]
pub struct Joined {
    /// The connection, and what its thread starts with.
    pub connection: (OwnedFd, Buffers),
    /// The configuration that the router has sent.
    pub told: Configuration,
}

/// What a device and its router have settled.
#[derive(Debug, Default)]
struct Settled {
    told: Configuration,
    holding: Holding,
    /// The bytes that came after the router's last answer.
    rest: Vec<u8>,
    /// Frames that claim addresses for which no claim request was sent.
    claims: Vec<u8>,
    /// True if the router has answered a question. A router of the C plugin never does.
    router_is_ours: bool,
}

/// Connects to the router, settles the device's network with it, configures the device, and greets the router. Packets pass
/// only after that.
pub fn join(
    spec: &DeviceSpec,
    name: &str,
    tun: &Tun,
    context: &Context,
    configure: impl FnOnce(&Network) -> Result<Vec<IpNet>, DeviceError>,
) -> Result<Joined, DeviceError> {
    let greet_error = |errno| DeviceError::Greet { name: spec.name.clone(), errno };
    let deadline = Instant::now() + context.timeout;
    let (connection, introduced, settled) = loop {
        let connection = connect(name, deadline, tun, context).map_err(|error| DeviceError::Connect {
            name: spec.name.clone(),
            socket: name.to_owned(),
            error,
        })?;
        let introduced = introduce(&connection, context).map_err(greet_error)?;
        match settle(spec, &connection, introduced, deadline, context) {
            Ok(settled) => break (connection, introduced, settled),
            // The router may have been killed in the meantime.
            Err(error) if error.may_pass() && Instant::now() < deadline => sleep(RETRY_PAUSE),
            Err(error) => {
                return Err(DeviceError::Settle { name: spec.name.clone(), socket: name.to_owned(), error });
            }
        }
    };
    let Settled { told, mut holding, rest, claims, router_is_ours } = settled;
    let network = network(spec, &told, &context.specs);
    let wished = if spec.auto { &told.addresses } else { &spec.addresses };
    if network.addresses.len() < wished.len() {
        context.logger.line(Event::DeviceIncomplete, format_args!(
            "[uwsgi-tuntap] {}: the router's device takes no packets of {MIN_MTU_V6} bytes, as IPv6 needs them; this one has \
             no IPv6 address",
            spec.name
        ));
    }
    let set = configure(&network)?;
    for address in &set {
        context
            .logger
            .line(Event::DeviceConfigured, format_args!("[uwsgi-tuntap] {} has the address {address}", spec.name));
    }
    holding.mtu = told.mtu.and(network.mtu);
    holding.retain(|address| set.iter().any(|net| net.addr() == address));
    let frames = [rules_frame(&context.rules), claims].concat();
    let greeted = greet(&connection, tun, introduced, frames, context).map_err(greet_error)?;
    let buffers = Buffers { router_is_ours, ..Buffers::after_greeting(greeted, rest, holding) };
    Ok(Joined { connection: (connection, buffers), told })
}

/// The network configuration that a device should have. The instance's options have precedence over the router's configuration.
/// Of several devices with a default router of their own, the first one gets the default route.
pub fn network(spec: &DeviceSpec, told: &Configuration, all: &[DeviceSpec]) -> Network {
    let default_router = |family| {
        let own = spec.gateway(family);
        let is_first = all.iter().find(|it| it.gateway(family).is_some()).is_none_or(|first| first.name == spec.name);
        let told = told.default_router(family).filter(|_| own.is_none());
        own.map(|address| DefaultRouter { address, is_own_choice: is_first })
            .or_else(|| told.map(|address| DefaultRouter { address, is_own_choice: false }))
    };
    let mtu = mtu(spec, told);
    let mut addresses = if spec.auto { &told.addresses } else { &spec.addresses }.clone();
    addresses.retain(|net| net.addr().is_ipv4() || mtu.is_none_or(|mtu| mtu >= MIN_MTU_V6));
    let is_other =
        |router: &DefaultRouter| router.is_own_choice || addresses.iter().all(|net| net.addr() != router.address);
    Network {
        default_routers: Family::ALL.into_iter().filter_map(default_router).filter(is_other).collect(),
        mtu,
        addresses,
        has_siblings: all.iter().any(|other| other.name != spec.name && other.has_addresses()),
    }
}

/// The MTU that a device should have, in bytes. A packet that is longer than a frame reaches the router only if the router
/// reads the device itself.
pub fn mtu(spec: &DeviceSpec, told: &Configuration) -> Option<u16> {
    let most = u16::try_from(MAX_PAYLOAD_LEN).unwrap_or(u16::MAX);
    spec.mtu.or(told.mtu.map(|mtu| mtu.min(most)))
}

/// Returns why one of the devices can't connect to its router any more. A router that is only away for a while is no reason:
/// the device waits for it.
pub fn unreachable_router(specs: &[DeviceSpec]) -> Option<String> {
    specs.iter().filter_map(|spec| spec.socket.as_ref()).find_map(|name| {
        let error = socket::connect_once(name).err()?;
        let is_for_good = matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound);
        is_for_good.then(|| format!("can't connect to the router at {name} any more: {error}"))
    })
}

fn settle(
    spec: &DeviceSpec,
    connection: &OwnedFd,
    introduced: Introduced,
    deadline: Instant,
    context: &Context,
) -> Result<Settled, SettleError> {
    let has_extended_rules = need_extension(&context.rules);
    if !spec.has_addresses() && !has_extended_rules {
        return Ok(Settled::default());
    }
    let wait = |connection: &OwnedFd, within: Duration| {
        if socket::wait_readable(connection.as_fd(), within) { Waited::Readable } else { Waited::InVain }
    };
    let within = deadline.saturating_duration_since(Instant::now()).max(ANSWER_TIMEOUT);
    let mut talk = Talk::new(connection, (&context.vassal, &spec.name), &wait, within);
    if spec.auto {
        if let Introduced::NotYet(identity) = introduced {
            return Err(SettleError::NoCredentials(identity.uid.as_raw()));
        }
        let v4_only = spec.mtu.is_some_and(|mtu| mtu < MIN_MTU_V6);
        let told = talk.request_assignment(v4_only)?;
        let holding = Holding::assigned(&told, &spec.gateways);
        return Ok(Settled { told, holding, rest: talk.rest(), claims: Vec::new(), router_is_ours: true });
    }
    let holding = Holding { fixed: autoconf::fixed(spec), ..Holding::default() };
    let told = match introduced {
        Introduced::Done if !holding.is_empty() => {
            let told = talk.claim(&holding)?;
            if told.is_none() {
                if has_extended_rules {
                    return Err(SettleError::Rules);
                }
                holding.log_without_answers(&spec.name, context.logger);
            }
            told
        }
        Introduced::Done | Introduced::NotYet(_) => None,
    };
    if has_extended_rules && told.is_none() {
        talk.confirm(introduced)?;
    }
    let claims = if told.is_none() { holding.echo_requests(Family::V4) } else { Vec::new() };
    let router_is_ours = told.is_some() || has_extended_rules;
    Ok(Settled { told: told.unwrap_or_default(), holding, rest: talk.rest(), claims, router_is_ours })
}

fn connect(socket: &str, deadline: Instant, tun: &Tun, context: &Context) -> io::Result<OwnedFd> {
    let seconds = context.timeout.as_secs();
    socket::connect(socket, deadline, |error| {
        context.logger.line(
            Event::RouterAwaited,
            format_args!(
                "[uwsgi-tuntap] {}: can't reach the router at {socket} yet: {error}; waiting up to {seconds} s",
                tun.name()
            ),
        );
    })
}
