//! Routers: everything is bound before the fork, and run in a gateway of the host.

use std::ffi::{c_int, c_void};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::timerfd::TimerFd;
use nix::unistd::Pid;
use parking_lot::Mutex;

use super::accounts;
use super::guard::die;
use super::host::{self, HostGateway, HostState};
use super::hostnet;
use super::options::config;
use tuntap_config::{Credentials, OptionName, RouterSpec, StatsAddress};
use tuntap_core::policy::Policy;
use tuntap_core::policy::grant::{Grant, Grants};
use tuntap_core::policy::guard::{ClaimScope, Gateways, GuardPolicy};
use tuntap_core::policy::pattern::{Rules, are_for_v4_only};
use tuntap_core::policy::targets::AllowedTargets;
use tuntap_host::{Occasion, set_up_device};
use tuntap_router::{
    self, CredentialsCheck, Gateway, GrantUpdates, Heartbeat, NetworkFacts, Setup, StatsEndpoint, Store, Watchdog,
};
use tuntap_survey::listener::{Listener, listener};
use tuntap_sys::replace::directory;
use tuntap_sys::socket::tell_arrivals;
use tuntap_sys::socket_file::SocketFile;
use tuntap_sys::tun::Tun;
use tuntap_sys::{dumpable, process, socket};
use tuntap_wire::autoconf::Directory;

/// By the number that a gateway gets as its data. The master keeps them all, for gateways that it has to start again.
static SETUPS: Mutex<Vec<Option<Setup>>> = Mutex::new(Vec::new());

/// Devices of routers that are prepared later.
static SPARE_DEVICES: Mutex<Vec<Option<Tun>>> = Mutex::new(Vec::new());

/// The leases, for routers that are prepared later.
static LEASES: Mutex<Option<Grants>> = Mutex::new(None);

/// Between attempts to prepare a router that couldn't be at a reload.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// For whoever listens on a router's socket, and is ending.
const PATIENCE_WITH_ENDING: Duration = Duration::from_secs(3);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// The routers' processes, as the master sees them.
static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());

struct Watched {
    gateway: HostGateway,
    /// Name of its device.
    name: String,
    /// Its process, and what becomes readable when that ends.
    process: Option<(libc::pid_t, OwnedFd)>,
    /// `None`: it waits for what it can't have at the moment.
    heartbeat: Option<Arc<Heartbeat>>,
    watchdog: Watchdog,
}

/// Has the master look at the routers' heartbeats however long its `check-interval` is.
static LOOK_AGAIN: Mutex<Option<TimerFd>> = Mutex::new(None);

/// Binds everything that the routers need and registers their gateways.
pub fn start(host: &HostState) {
    if config().routers.is_empty() {
        // An earlier image may have had one.
        return hostnet::set_up(&mut [], occasion(host));
    }
    if host::ensure_master() {
        host::log("[tuntap-router] a router needs a master process to live under: master mode enabled");
    }
    // Emperor, gateways and workers inherit what is bound here.
    dumpable::close_with_children();
    let leases = accounts::leases();
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
        let mut tun = None;
        let setup = match prepare(spec, host, &leases, &mut tun) {
            Err(error) if host.is_reload() => {
                let line = format!("{}: {error}; it is tried again, and its vassals wait", spec.device);
                host::log(&format!("[tuntap-router] {line}"));
                None
            }
            Err(error) => die(format_args!("tuntap-router {}: {error}", spec.device)),
            Ok(setup) => Some(setup),
        };
        SETUPS.lock().push(setup);
        SPARE_DEVICES.lock().push(tun);
    }
    *LEASES.lock() = Some(leases);
    let mut specs = config().routers.clone();
    hostnet::set_up(&mut specs, occasion(host));
    for (setup, spec) in SETUPS.lock().iter_mut().zip(&specs) {
        setup.iter_mut().for_each(|setup| setup.set_network(spec));
    }
    for (index, spec) in specs.iter().enumerate() {
        // The host's lists take pointers; this one carries the number.
        let data = std::ptr::without_provenance_mut(index);
        let gateway = host::register_gateway(c"uWSGI tuntap router", run_gateway, data)
            .unwrap_or_else(|error| die(format_args!("tuntap-router {}: {error}", spec.device)));
        let heartbeat = SETUPS.lock()[index].as_ref().map(|setup| Arc::clone(&setup.heartbeat));
        WATCHED.lock().push(Watched {
            gateway,
            name: spec.device.clone(),
            process: None,
            heartbeat,
            watchdog: Watchdog::new(config().harakiri),
        });
    }
}

const fn occasion(host: &HostState) -> Occasion {
    if host.is_reload() { Occasion::Reload } else { Occasion::Start }
}

/// In the master: tells the routers, and those that may follow them, of leases whose users have come since.
fn send_grant_updates() {
    static UNTOLD: Mutex<Vec<(usize, Vec<Grant>)>> = Mutex::new(Vec::new());
    let come = accounts::newcomers();
    let mut setups = SETUPS.lock();
    let mut untold = UNTOLD.lock();
    if let Some(leases) = LEASES.lock().as_mut() {
        come.iter().for_each(|lease| leases.add(*lease));
    }
    for (index, setup) in setups.iter_mut().enumerate().filter(|_| !come.is_empty()) {
        if let Some(setup) = setup {
            come.iter().for_each(|lease| setup.policy.grants.add(*lease));
            untold.push((index, come.clone()));
        }
    }
    // Whom one has told once more than once hears nothing new.
    untold.retain(|(index, leases)| {
        let setup = setups.get(*index).and_then(Option::as_ref);
        setup.is_some_and(|setup| setup.grant_updates.send(leases) == Err(Errno::EAGAIN))
    });
}

/// In the master: prepares routers that couldn't be at a reload. Their processes wait, and are started anew with what they
/// need.
fn retry(host: &HostState) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut setups = SETUPS.lock();
    let mut last = LAST.lock();
    if setups.iter().all(Option::is_some) || last.is_some_and(|last| last.elapsed() < RETRY_INTERVAL) {
        return;
    }
    *last = Some(Instant::now());
    let leases = LEASES.lock();
    let Some(leases) = leases.as_ref() else { return };
    let mut devices = SPARE_DEVICES.lock();
    for (index, (place, spec)) in setups.iter_mut().zip(&config().routers).enumerate() {
        let Some(device) = devices.get_mut(index).filter(|_| place.is_none()) else { continue };
        let had_device = device.is_some();
        // Why it can't be was said.
        let result = prepare(spec, host, leases, device);
        if !had_device && (device.is_some() || result.is_ok()) {
            set_up_device(spec, host::LOGGER);
        }
        let Ok(setup) = result else { continue };
        host::log(&format!("[tuntap-router] {}: it is possible now", spec.device));
        let heartbeat = Arc::clone(&setup.heartbeat);
        *place = Some(setup);
        if let Some(watched) = WATCHED.lock().get_mut(index) {
            watched.heartbeat = Some(heartbeat);
            if let Some(pid) = watched.gateway.pid() {
                // The master starts it again at once.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// In the master: has it see the end of a router at once, not only when it looks around; and ends routers that hang.
pub fn watch() {
    send_grant_updates();
    retry(&HostState::read());
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
        let (Some(pid), Some(heartbeat)) = (self.gateway.pid(), &self.heartbeat) else { return };
        // While the instance reloads, its routers are dead and not started again.
        let has_ended = match &self.process {
            Some((_, ended)) => socket::wait_readable(ended.as_fd(), Duration::ZERO),
            None => !process::exists(pid),
        };
        if !has_ended && self.watchdog.check(heartbeat, pid, Instant::now()) {
            host::log(&format!(
                "[tuntap-router] {}: the router (pid {pid}) hangs: its event loop made no turn in {} s; it is killed and \
                 started again (tuntap-router-harakiri)",
                self.name,
                config().harakiri.as_secs()
            ));
            heartbeat.record_hang();
            self.gateway.end();
        }
    }
}

/// Closes what the routers have open in this process, and takes their socket files away. The next image binds all of it
/// again; the option `close-on-exec2` takes close-on-exec off every descriptor.
pub fn close() {
    WATCHED.lock().clear();
    LOOK_AGAIN.lock().take();
    SPARE_DEVICES.lock().clear();
    let setups = std::mem::take(&mut *SETUPS.lock());
    setups.iter().flatten().for_each(Setup::remove_socket_files);
}

/// Makes what a router needs. The device stays in its place if something else can't be had: programs that are run as root
/// (`exec-as-root`) may configure it.
fn prepare(spec: &RouterSpec, host: &HostState, leases: &Grants, place: &mut Option<Tun>) -> Result<Setup, String> {
    if place.is_none() {
        let mut tun = Tun::create(&spec.device).map_err(|error| error.to_string())?;
        tun.enable_offloads();
        // In a reloaded image the host closes what it doesn't know before it forks the gateways.
        host::keep_open(tun.as_fd());
        host::log(&format!("[tuntap-router] made the device {}", tun.name()));
        *place = Some(tun);
    }
    // The host ends the process if it can't bind.
    let probe_unix = |name: &str| {
        if name.starts_with('@') {
            return socket::probe_unix(name).map_err(|error| error.to_string());
        }
        if host.has_abstract_sockets() {
            return Ok(());
        }
        leave_to_others(name, if host.is_reload() { Duration::ZERO } else { PATIENCE_WITH_ENDING })?;
        socket::probe_unix(name).map_err(|error| error.to_string())
    };
    probe_unix(&spec.socket).map_err(|error| format!("socket {}: {error}", spec.socket))?;
    match &spec.stats {
        Some(StatsAddress::Unix(name)) => probe_unix(name).map_err(|error| format!("statistics on {name}: {error}"))?,
        Some(StatsAddress::Tcp(name)) => {
            socket::probe_tcp(name).map_err(|error| format!("statistics on {name}: {error}"))?;
        }
        None => {}
    }
    if let Some(missing) = host.missing_socket_owner() {
        return Err(format!("chown-socket: {missing}"));
    }
    let gateway =
        spec.gateway.map(|address| Gateway::bind(address).map_err(|error| format!("gateway {address}: {error}")));
    let gateway = gateway.transpose()?;
    host::log(&format!("[tuntap-router] {}: listening on {}", spec.device, spec.socket));
    let listener = host::bind_unix(&spec.socket).map_err(|error| format!("socket {}: {error}", spec.socket))?;
    let stats = spec.stats.as_ref().map(|address| bind_stats(spec, address, host)).transpose()?;
    if let Some(Gateway { address, .. }) = &gateway {
        if !socket::has_address(address.ip()) {
            host::log(&format!(
                "[tuntap-router] {}: this host doesn't have the address {} of its gateway yet, and nobody reaches it there",
                spec.device,
                address.ip()
            ));
        }
        host::log(&format!("[tuntap-router] {}: exchanging packets with other routers on {address}", spec.device));
    }
    let pair = |errno| format!("a pair of sockets: {errno}");
    let (store, grant_updates) = (Store::new().map_err(pair)?, GrantUpdates::new().map_err(pair)?);
    let heartbeat = Heartbeat::new().map_err(|errno| format!("a page of shared memory: {errno}"))?;
    let open = [Some(listener.as_fd())].into_iter().chain([
        stats.as_ref().map(|stats| stats.listener.as_fd()),
        gateway.as_ref().map(|gateway| gateway.socket.as_fd()),
    ]);
    open.flatten().chain(store.descriptors()).chain(grant_updates.descriptors()).for_each(host::keep_open);
    let stats_file = stats.as_ref().and(spec.stats.as_ref()).and_then(|address| match address {
        StatsAddress::Unix(name) => SocketFile::of(name),
        StatsAddress::Tcp(_) => None,
    });
    let tun = place.take().ok_or("its device is missing")?;
    Ok(Setup {
        spec: spec.clone(),
        tun,
        socket_files: SocketFile::of(&spec.socket).into_iter().chain(stats_file).collect(),
        master: None,
        socket_name: spec.socket.clone(),
        listener,
        stats,
        policy: Policy {
            generation: 0,
            firewall_in: Rules::chain(config().firewall_in.iter().copied()),
            firewall_out: Rules::chain(config().firewall_out.iter().copied()),
            routes: Rules::new(config().routes.iter().copied()),
            has_gateway: gateway.is_some(),
            switch: config().switch,
            grants: leases.clone(),
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
        grant_updates,
        sandbox: config().sandbox,
        limits: config().limits,
        uwsgi_version: host.version(),
        logger: host::LOGGER,
    })
}

/// The host would put its socket in the place of whatever has that name. What somebody else listens on, or is no socket, keeps
/// its name. Whoever is about to end, as the router of a killed master is, has so much time for it.
fn leave_to_others(name: &str, patience: Duration) -> Result<(), String> {
    let own = Pid::this().as_raw();
    let deadline = Instant::now() + patience;
    loop {
        match listener(name) {
            Listener::NoSocket => return Err("a file of that name is there, and is no socket".to_owned()),
            Listener::Listening(process) if process.pid != own => {
                if Instant::now() >= deadline {
                    return Err(format!("{process} listens there already"));
                }
                std::thread::sleep(BETWEEN_LOOKS);
            }
            _ => return Ok(()),
        }
    }
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
        SPARE_DEVICES.lock().clear();
        WATCHED.lock().clear();
        LOOK_AGAIN.lock().take();
        match setup {
            Some(setup) => tuntap_router::run(&setup).to_string(),
            // The master ends this process when it can be prepared, and when it ends itself.
            None => loop {
                std::thread::park();
            },
        }
    };
    let reason = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| "panic in the gateway callback".to_owned());
    host::log(&format!("[tuntap-router] {device}: {reason}; this router ends"));
    std::process::exit(1)
}
