//! Routers: everything is bound before the fork, and run in a gateway of the host.

use std::ffi::{c_int, c_void};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::guard::die;
use super::host::{self, HostState};
use super::options::config;
use crate::config::{Credentials, RouterSpec, StatsAddress};
use crate::policy::forward::Policy;
use crate::policy::pattern::RuleList;
use crate::router::{self, CredentialsCheck, Gateway, Setup, StatsEndpoint};
use crate::sys::tun::Tun;

/// A gateway that was up for less than this waits for [`RESPAWN_PAUSE`] before it ends, because the master starts it
/// again at once.
const BRIEF_UPTIME: Duration = Duration::from_secs(5);
const RESPAWN_PAUSE: Duration = Duration::from_secs(1);

/// By the number that a gateway gets as its data. The master keeps them all, for gateways that it has to start again.
static SETUPS: Mutex<Vec<Option<Setup>>> = Mutex::new(Vec::new());

/// Binds everything that the routers need and registers their gateways.
pub fn start(host: &HostState) {
    if config().routers.is_empty() {
        return;
    }
    if host::ensure_master() {
        host::log("[tuntap-router] a router needs a master process to live under: master mode enabled");
    }
    for (index, spec) in config().routers.iter().enumerate() {
        let setup =
            prepare(spec, host).unwrap_or_else(|error| die(format_args!("tuntap-router {}: {error}", spec.device)));
        SETUPS.lock().push(Some(setup));
        // The host's lists take pointers; this one carries the number.
        let data = std::ptr::without_provenance_mut(index);
        if let Err(error) = host::register_gateway(c"uWSGI tuntap router", run_gateway, data) {
            die(format_args!("tuntap-router {}: {error}", spec.device));
        }
    }
}

/// Closes what the routers have open in this process. The next image binds all of it again; the option
/// `close-on-exec2` takes close-on-exec off every descriptor.
pub fn close() {
    SETUPS.lock().clear();
}

fn prepare(spec: &RouterSpec, host: &HostState) -> Result<Setup, String> {
    let text = |error: std::io::Error| error.to_string();
    host::log(&format!("[tuntap-router] {}: listening on {}", spec.device, spec.socket));
    let listener = host::bind_unix(&spec.socket).map_err(text)?;
    let mut tun = Tun::create(&spec.device).map_err(|error| error.to_string())?;
    tun.enable_offloads();
    host::log(&format!("[tuntap-router] made the device {}", tun.name()));
    let stats = spec.stats.as_ref().map(|address| bind_stats(spec, address, host)).transpose().map_err(text)?;
    let gateway = match spec.gateway {
        Some(address) => {
            let gateway = Gateway::bind(address).map_err(|error| format!("gateway {address}: {error}"))?;
            host::log(&format!("[tuntap-router] {}: exchanging packets with other routers on {address}", spec.device));
            Some(gateway)
        }
        None => None,
    };
    // In a reloaded image the host closes what it doesn't know before it forks the gateways.
    let open = [Some(listener.as_fd()), Some(tun.as_fd())].into_iter().chain([
        stats.as_ref().map(|stats| stats.listener.as_fd()),
        gateway.as_ref().map(|gateway| gateway.socket.as_fd()),
    ]);
    open.flatten().for_each(host::keep_open);
    Ok(Setup {
        tun,
        socket_name: spec.socket.clone(),
        listener,
        stats,
        policy: Policy {
            firewall_in: RuleList::new(config().firewall_in.iter().copied()),
            firewall_out: RuleList::new(config().firewall_out.iter().copied()),
            routes: RuleList::new(config().routes.iter().copied()),
            has_gateway: gateway.is_some(),
            switch: config().switch,
        },
        gateway,
        credentials: credentials_check()?,
        busy_poll: config().busy_poll,
        limits: config().limits,
        host_version: host.version(),
        logger: host::LOGGER,
    })
}

fn bind_stats(spec: &RouterSpec, address: &StatsAddress, host: &HostState) -> std::io::Result<StatsEndpoint> {
    host::log(&format!("[tuntap-router] {}: serving statistics on {}", spec.device, address.as_str()));
    Ok(StatsEndpoint {
        listener: match address {
            StatsAddress::Unix(name) => host::bind_unix(name)?,
            StatsAddress::Tcp(name) => host::bind_tcp(name)?,
        },
        http: host.stats_http(),
        minified: host.stats_minified(),
        timeout: host.socket_timeout(),
    })
}

fn credentials_check() -> Result<CredentialsCheck, String> {
    Ok(match &config().credentials {
        Credentials::Off => CredentialsCheck::Off,
        Credentials::Shown => CredentialsCheck::Shown,
        Credentials::Symbol(symbol) => {
            CredentialsCheck::Hook(host::credentials_hook(symbol).ok_or_else(|| {
                format!("tuntap-use-credentials = {symbol}: no plugin and no library has this symbol")
            })?)
        }
    })
}

unsafe extern "C" fn run_gateway(_id: c_int, data: *mut c_void) {
    let started = Instant::now();
    let run = || {
        let setup = SETUPS.lock().get_mut(data.addr()).and_then(Option::take);
        // What belongs to the other routers is not this process's business.
        SETUPS.lock().clear();
        match setup {
            Some(setup) => format!("{}: {}", setup.tun.name().to_owned(), router::run(&setup)),
            None => "its set-up is missing".to_owned(),
        }
    };
    let reason = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| "panic in the gateway callback".to_owned());
    host::log(&format!("[tuntap-router] {reason}; this router ends"));
    if started.elapsed() < BRIEF_UPTIME {
        std::thread::sleep(RESPAWN_PAUSE);
    }
    std::process::exit(1)
}
