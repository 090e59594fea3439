//! Routers: everything is bound before the fork, and run in a gateway of the host.

use std::ffi::{c_int, c_void};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::timerfd::TimerFd;
use nix::unistd::{Group, User};
use parking_lot::Mutex;

use super::guard::die;
use super::host::{self, HostGateway, HostState};
use super::hostnet;
use super::options::config;
use crate::config::{ConfigErrors, Credentials, OptionName, RouterSpec, StatsAddress, resolve_leases};
use crate::policy::forward::Policy;
use crate::policy::guard::{ClaimScope, Gateways, GuardPolicy};
use crate::policy::lease::{Leases, Uncovered};
use crate::policy::pattern::{Rules, are_for_v4_only};
use crate::policy::targets::AllowedTargets;
use crate::router::{self, CredentialsCheck, Gateway, Heartbeat, NetworkFacts, Setup, StatsEndpoint, Store, Watchdog};
use crate::sys::replace::directory;
use crate::sys::socket::tell_arrivals;
use crate::sys::socket_file::SocketFile;
use crate::sys::tun::Tun;
use crate::sys::{dumpable, process, socket};
use crate::wire::lease::Directory;

/// By the number that a gateway gets as its data. The master keeps them all, for gateways that it has to start again.
static SETUPS: Mutex<Vec<Option<Setup>>> = Mutex::new(Vec::new());

/// The routers' processes, as the master sees them.
static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());

struct Watched {
    gateway: HostGateway,
    /// Name of its device.
    name: String,
    /// Its process, and what becomes readable when that ends.
    process: Option<(libc::pid_t, OwnedFd)>,
    heartbeat: Arc<Heartbeat>,
    watchdog: Watchdog,
}

/// Has the master look at the routers' heartbeats however long its `check-interval` is.
static LOOK_AGAIN: Mutex<Option<TimerFd>> = Mutex::new(None);

/// Binds everything that the routers need and registers their gateways.
pub fn start(host: &HostState) {
    if config().routers.is_empty() {
        // An earlier image may have had one.
        return hostnet::set_up(&mut []);
    }
    if host::ensure_master() {
        host::log("[tuntap-router] a router needs a master process to live under: master mode enabled");
    }
    // Emperor, gateways and workers inherit what is bound here.
    dumpable::close_with_children();
    let leases = leases().unwrap_or_else(|errors| die(errors));
    let is_any_open = config().routers.iter().any(|router| router.claim_scope() == ClaimScope::Any);
    if config().switch && config().firewall_out.is_empty() && !leases.bind_addresses() && is_any_open {
        host::log(
            "[tuntap-router] tuntap-router-switch without tuntap-router-lease, tuntap-router-claims = own or \
             tuntap-router-firewall-out: a vassal can claim any address that is free, the host's too, and gets what the others send there",
        );
    }
    for (option, rules) in
        [(OptionName::FirewallOut, &config().firewall_out), (OptionName::FirewallIn, &config().firewall_in)]
    {
        if are_for_v4_only(rules) {
            let option = option.as_str();
            host::log(&format!("[tuntap-router] no {option} is about IPv6: this chain denies all IPv6 packets"));
        }
    }
    for spec in &config().routers {
        let setup = prepare(spec, host, &leases)
            .unwrap_or_else(|error| die(format_args!("tuntap-router {}: {error}", spec.device)));
        SETUPS.lock().push(Some(setup));
    }
    let mut specs = config().routers.clone();
    hostnet::set_up(&mut specs);
    for (setup, spec) in SETUPS.lock().iter_mut().flatten().zip(&specs) {
        setup.have_network(spec);
    }
    for (index, spec) in specs.iter().enumerate() {
        // The host's lists take pointers; this one carries the number.
        let data = std::ptr::without_provenance_mut(index);
        let gateway = host::register_gateway(c"uWSGI tuntap router", run_gateway, data)
            .unwrap_or_else(|error| die(format_args!("tuntap-router {}: {error}", spec.device)));
        let heartbeat = SETUPS.lock()[index].as_ref().map(|setup| Arc::clone(&setup.heartbeat));
        WATCHED.lock().extend(heartbeat.map(|heartbeat| Watched {
            gateway,
            name: spec.device.clone(),
            process: None,
            heartbeat,
            watchdog: Watchdog::new(config().harakiri),
        }));
    }
}

/// In the master: has it see the end of a router at once, not only when it looks around; and ends routers that hang.
pub fn watch() {
    let mut watched = WATCHED.lock();
    if !watched.is_empty() {
        dumpable::close_with_children();
    }
    look_again(&watched);
    for watched in watched.iter_mut() {
        watched.follow_process();
        watched.end_if_it_hangs();
    }
}

/// Whether this instance has any.
pub fn are_there() -> bool {
    !SETUPS.lock().is_empty()
}

/// Starts the timer, or takes note that it has run out.
fn look_again(watched: &[Watched]) {
    let Some(interval) = watched.iter().find_map(|watched| watched.watchdog.interval()) else { return };
    let mut timer = LOOK_AGAIN.lock();
    match &*timer {
        // It has run out, or hasn't; either way it goes on.
        Some(timer) => _ = nix::unistd::read(timer, &mut [0; 8]),
        // Without it the master looks as often as its `check-interval` says, every second mostly.
        None => *timer = process::periodic_timer(interval).ok().filter(|timer| host::master_watch(timer.as_fd())),
    }
}

impl Watched {
    fn follow_process(&mut self) {
        let pid = self.gateway.pid();
        if self.process.as_ref().map(|(pid, _)| *pid) == pid {
            return;
        }
        if let Some((_, ended)) = self.process.take() {
            host::master_unwatch(ended.as_fd());
        }
        // Without it the master finds out all the same, a little later.
        let process = pid.and_then(|pid| Some((pid, process::watch_process(pid).ok()?)));
        self.process = process.filter(|(_, descriptor)| host::master_watch(descriptor.as_fd()));
    }

    fn end_if_it_hangs(&mut self) {
        let Some(pid) = self.gateway.pid() else { return };
        // While the instance reloads, its routers are dead and not started again.
        let has_ended = match &self.process {
            Some((_, ended)) => socket::wait_readable(ended.as_fd(), Duration::ZERO),
            None => !process::exists(pid),
        };
        if !has_ended && self.watchdog.look(&self.heartbeat, pid, Instant::now()) {
            host::log(&format!(
                "[tuntap-router] {}: the router (pid {pid}) hangs: its event loop made no turn in {} s; it is killed and \
                 started again (tuntap-router-harakiri)",
                self.name,
                config().harakiri.as_secs()
            ));
            self.gateway.end();
        }
    }
}

/// Closes what the routers have open in this process, and takes their socket files away. The next image binds all of it
/// again; the option `close-on-exec2` takes close-on-exec off every descriptor.
pub fn close() {
    WATCHED.lock().clear();
    LOOK_AGAIN.lock().take();
    let setups = std::mem::take(&mut *SETUPS.lock());
    setups.iter().flatten().for_each(Setup::remove_socket_files);
}

fn prepare(spec: &RouterSpec, host: &HostState, leases: &Leases) -> Result<Setup, String> {
    host::log(&format!("[tuntap-router] {}: listening on {}", spec.device, spec.socket));
    let listener = host::bind_unix(&spec.socket).map_err(|error| format!("{}: {error}", spec.socket))?;
    let mut tun = Tun::create(&spec.device).map_err(|error| error.to_string())?;
    tun.enable_offloads();
    host::log(&format!("[tuntap-router] made the device {}", tun.name()));
    let stats = spec.stats.as_ref().map(|address| bind_stats(spec, address, host)).transpose()?;
    let gateway = match spec.gateway {
        Some(address) => {
            let gateway = Gateway::bind(address).map_err(|error| format!("gateway {address}: {error}"))?;
            host::log(&format!("[tuntap-router] {}: exchanging packets with other routers on {address}", spec.device));
            Some(gateway)
        }
        None => None,
    };
    let store = Store::new().map_err(|errno| format!("a pair of sockets: {errno}"))?;
    let heartbeat = Heartbeat::new().map_err(|errno| format!("a page of shared memory: {errno}"))?;
    // In a reloaded image the host closes what it doesn't know before it forks the gateways.
    let open = [Some(listener.as_fd()), Some(tun.as_fd())].into_iter().chain([
        stats.as_ref().map(|stats| stats.listener.as_fd()),
        gateway.as_ref().map(|gateway| gateway.socket.as_fd()),
    ]);
    open.flatten().chain(store.descriptors()).for_each(host::keep_open);
    let stats_file = stats.as_ref().and(spec.stats.as_ref()).and_then(|address| match address {
        StatsAddress::Unix(name) => SocketFile::of(name),
        StatsAddress::Tcp(_) => None,
    });
    Ok(Setup {
        spec: spec.clone(),
        tun,
        socket_files: SocketFile::of(&spec.socket).into_iter().chain(stats_file).collect(),
        master: None,
        socket_name: spec.socket.clone(),
        listener,
        stats,
        policy: Policy {
            firewall_in: Rules::chain(config().firewall_in.iter().copied()),
            firewall_out: Rules::chain(config().firewall_out.iter().copied()),
            routes: Rules::new(config().routes.iter().copied()),
            has_gateway: gateway.is_some(),
            switch: config().switch,
            leases: leases.clone(),
            device_routes: AllowedTargets::new(
                config().routes.iter().map(|route| route.target),
                config().device_routes.iter().copied(),
            ),
            gateway_sources: config().gateway_sources.iter().copied().collect(),
            networks: spec.addresses.clone(),
            port_targets: spec.ports.iter().map(|mapping| mapping.target.ip()).collect(),
            guard: guard_policy(spec),
            max_addresses: config().limits.addresses_per_uid,
        },
        devices: config().routers.iter().map(|router| router.device.clone()).collect(),
        network: NetworkFacts { dns: spec.dns.clone(), host_etc: host_etc() },
        gateway,
        credentials: credentials_check()?,
        busy_poll: config().busy_poll,
        store,
        heartbeat: Arc::new(heartbeat),
        priority: config().priority,
        harakiri: config().harakiri,
        sandbox: config().sandbox,
        limits: config().limits,
        host_version: host.version(),
        logger: host::LOGGER,
    })
}

/// What no peer may have, and where none may send to: the options of all routers of the instance say it.
fn guard_policy(spec: &RouterSpec) -> GuardPolicy {
    let routers = &config().routers;
    GuardPolicy {
        claims: spec.claim_scope(),
        is_strict: spec.has_network(),
        own: routers.iter().flat_map(|router| router.addresses.iter().copied()).collect(),
        gateways: Gateways::new(
            routers.iter().filter_map(|router| router.gateway),
            config().routes.iter().map(|route| route.target),
            &config().device_routes,
            &config().gateway_sources,
            config().gateway_vassals.iter().copied(),
        ),
    }
}

/// The folders of this mount namespace in which its resolv.conf is, as a link and as a file.
fn host_etc() -> Vec<Directory> {
    let link = Path::new("/etc/resolv.conf");
    let paths = [Some(link.to_owned()), link.canonicalize().ok()];
    let mut found: Vec<_> = paths.iter().flatten().filter_map(|path| directory(path.parent()?).ok()).collect();
    found.dedup();
    found
}

fn bind_stats(spec: &RouterSpec, address: &StatsAddress, host: &HostState) -> Result<StatsEndpoint, String> {
    host::log(&format!("[tuntap-router] {}: serving statistics on {}", spec.device, address.as_str()));
    let listener = match address {
        StatsAddress::Unix(name) => host::bind_unix(name),
        // Clients that are peers are told by it; where it can't be had, by their addresses alone.
        StatsAddress::Tcp(name) => host::bind_tcp(name).inspect(|listener| _ = tell_arrivals(listener.as_fd())),
    };
    Ok(StatsEndpoint {
        listener: listener.map_err(|error| format!("statistics on {}: {error}", address.as_str()))?,
        http: host.stats_http(),
        minified: host.stats_minified(),
        timeout: host.socket_timeout(),
    })
}

/// The leases, with the users and groups that their names stand for right now.
fn leases() -> Result<Leases, ConfigErrors> {
    let user = |name: &str| Ok(User::from_name(name)?.map(|user| user.uid.as_raw()));
    let group = |name: &str| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()));
    let leases = resolve_leases(&config().leases, user, group)?;
    Ok(match config().lease_default {
        Some(uncovered) => Leases::new(leases, uncovered),
        None if leases.is_empty() => Leases::none(),
        None => Leases::new(leases, Uncovered::Deny),
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
    let mut device = "a router".to_owned();
    let run = || {
        // The host's hooks may have changed its ids.
        dumpable::close_with_children();
        let mut setup = SETUPS.lock().get_mut(data.addr()).and_then(Option::take);
        if let Some(setup) = &mut setup {
            setup.tun.name().clone_into(&mut device);
            setup.master = process::watch_parent().ok();
        }
        // What belongs to the other routers, and to the master, is not this process's business.
        SETUPS.lock().clear();
        WATCHED.lock().clear();
        LOOK_AGAIN.lock().take();
        match setup {
            Some(setup) => router::run(&setup).to_string(),
            None => "its set-up is missing".to_owned(),
        }
    };
    let reason = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| "panic in the gateway callback".to_owned());
    host::log(&format!("[tuntap-router] {device}: {reason}; this router ends"));
    std::process::exit(1)
}
