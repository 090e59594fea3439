//! Routers: the master binds everything before the fork, and each router runs in a uWSGI gateway process.

use std::ffi::{c_int, c_void};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;
use parking_lot::Mutex;

use super::ending::{PATIENCE, outwait};
use super::guard::die;
use super::hostnet;
use super::options::config;
use super::router_control as control;
use super::router_hosts::{self as hosts, Prepared};
use super::router_memory as memory;
use super::router_metrics as metrics;
use super::router_processes as processes;
use super::rules_file;
use super::uwsgi::{self, UwsgiState};
use super::{accounts, agents, pairs};
use tuntap_config::{Credentials, OptionName, RouterSpec, StatsAddress};
use tuntap_core::policy::grant::Grants;
use tuntap_core::policy::guard::ClaimScope;
use tuntap_core::policy::pattern::are_for_v4_only;
use tuntap_host::{Occasion, set_up_device};
use tuntap_live::Base;
use tuntap_router::{
    self, CredentialsCheck, Gateway, GrantUpdates, Heartbeat, Hosts, Listening, NetworkFacts, Newcomers,
    RoutesEndpoint, Setup, StatsEndpoint, Store,
};
use tuntap_survey::listener::{Listener, listener};
use tuntap_sys::log::Event;
use tuntap_sys::replace::directory;
use tuntap_sys::socket::tell_arrivals;
use tuntap_sys::socket_file::SocketFile;
use tuntap_sys::tun::{Tun, TunError};
use tuntap_sys::{dumpable, process, socket};
use tuntap_wire::autoconf::DirectoryId;

/// What each router needs, by the number that its gateway process gets as data. The master keeps all of it, for processes that it
/// has to start again. `None`: the router can't be prepared at the moment.
static SETUPS: Mutex<Vec<Option<Setup>>> = Mutex::new(Vec::new());

/// The devices of routers that can't be prepared at the moment.
static SPARE_DEVICES: Mutex<Vec<Option<Tun>>> = Mutex::new(Vec::new());

/// The grants, for routers that are prepared later.
static GRANTS: Mutex<Option<Grants>> = Mutex::new(None);

/// Interval between attempts to prepare a router that couldn't be prepared at a reload.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Binds everything that the routers need and registers their gateway processes.
pub fn start(uwsgi: &UwsgiState) {
    memory::forget_others();
    if config().routers.is_empty() {
        // An earlier image may have had one.
        return hostnet::set_up(&mut [], occasion(uwsgi));
    }
    if uwsgi::ensure_master() {
        uwsgi::log(Event::Advice, "[tuntap-router] a router needs a master process to live under: master mode enabled");
    }
    // Emperor, gateways and workers inherit what is bound here.
    dumpable::close_with_children();
    metrics::register(&config().routers);
    let grants = accounts::grants();
    warn_about_rules(&grants);
    for spec in &config().routers {
        let mut tun = None;
        let setup = match prepare(spec, uwsgi, &grants, &mut tun) {
            Err(error) if uwsgi.is_reload() => {
                let line = format!("{}: {error}; it is tried again, and its vassals wait", spec.device);
                uwsgi::log(Event::RouterDelayed, &format!("[tuntap-router] {line}"));
                None
            }
            Err(error) => die(format_args!("tuntap-router {}: {error}", spec.device)),
            Ok(setup) => Some(setup),
        };
        SETUPS.lock().push(setup);
        SPARE_DEVICES.lock().push(tun);
    }
    hosts::forget_others();
    *GRANTS.lock() = Some(grants);
    let mut specs = config().routers.clone();
    hostnet::set_up(&mut specs, occasion(uwsgi));
    for (setup, spec) in SETUPS.lock().iter_mut().zip(&specs) {
        setup.iter_mut().for_each(|setup| setup.set_network(spec));
    }
    for (index, spec) in specs.iter().enumerate() {
        register(index, spec);
    }
    for (index, spec) in specs.iter().enumerate() {
        agents::register(index, spec)
            .and_then(|()| pairs::register(index, spec))
            .unwrap_or_else(|error| die(format_args!("tuntap-router {}: {error}", spec.device)));
    }
}

/// Logs what the rules leave open or deny, where the operator may not have meant it.
fn warn_about_rules(grants: &Grants) {
    let is_any_open = config().routers.iter().any(|router| router.claim_scope() == ClaimScope::Any);
    if config().switch && config().firewall_out.is_empty() && !grants.bind_addresses() && is_any_open {
        uwsgi::log(
            Event::Advice,
            "[tuntap-router] tuntap-router-switch without tuntap-router-lease, tuntap-router-claims = own or \
             tuntap-router-firewall-out: a vassal can claim any address that is free, the host's too, and gets what the others send there",
        );
    }
    for (option, rules) in
        [(OptionName::FirewallOut, &config().firewall_out), (OptionName::FirewallIn, &config().firewall_in)]
    {
        if are_for_v4_only(rules.iter().map(|rule| rule.selector)) {
            let option = option.as_str();
            uwsgi::log(
                Event::Advice,
                &format!("[tuntap-router] no {option} is about IPv6: this chain denies all IPv6 packets"),
            );
        }
    }
}

/// Registers the gateway process of a router.
fn register(index: usize, spec: &RouterSpec) {
    // uWSGI's lists take pointers; this one carries the number.
    let data = std::ptr::without_provenance_mut(index);
    let gateway = uwsgi::register_gateway(c"uWSGI tuntap router", run_gateway, data)
        .unwrap_or_else(|error| die(format_args!("tuntap-router {}: {error}", spec.device)));
    let heartbeat = SETUPS.lock()[index].as_ref().map(|setup| Arc::clone(&setup.heartbeat));
    processes::add(processes::Kind::Router, gateway, &spec.device, heartbeat);
}

const fn occasion(uwsgi: &UwsgiState) -> Occasion {
    if uwsgi.is_reload() { Occasion::Reload } else { Occasion::Start }
}

/// Sends grants and limits whose users have come since to the routers, and stores them for routers that are started later.
/// Called in the master.
fn send_grant_updates() {
    static UNSENT: Mutex<Vec<(usize, Newcomers)>> = Mutex::new(Vec::new());
    let (come, shapes) = accounts::newcomers();
    let mut setups = SETUPS.lock();
    let mut unsent = UNSENT.lock();
    if let Some(grants) = GRANTS.lock().as_mut() {
        come.iter().for_each(|grant| grants.add(*grant));
    }
    for (index, setup) in setups.iter_mut().enumerate() {
        let Some(setup) = setup else { continue };
        let own = shapes.iter().filter(|(device, _)| *device == setup.spec.device);
        let newcomers = Newcomers { grants: come.clone(), shapes: own.map(|(_, shape)| shape.clone()).collect() };
        if !newcomers.is_empty() {
            newcomers.join(&mut setup.base);
            unsent.push((index, newcomers));
        }
    }
    // A router that receives a grant or a limit twice ignores the second one.
    unsent.retain(|(index, newcomers)| {
        let setup = setups.get(*index).and_then(Option::as_ref);
        setup.is_some_and(|setup| setup.grant_updates.send(newcomers) == Err(Errno::EAGAIN))
    });
}

/// Prepares routers that couldn't be prepared at a reload. Their processes wait, and are started again with what they need. Called
/// in the master.
fn retry(uwsgi: &UwsgiState) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut setups = SETUPS.lock();
    let mut last = LAST.lock();
    if setups.iter().all(Option::is_some) || last.is_some_and(|last| last.elapsed() < RETRY_INTERVAL) {
        return;
    }
    *last = Some(Instant::now());
    let grants = GRANTS.lock();
    let Some(grants) = grants.as_ref() else { return };
    let mut devices = SPARE_DEVICES.lock();
    for (index, (place, spec)) in setups.iter_mut().zip(&config().routers).enumerate() {
        let Some(device) = devices.get_mut(index).filter(|_| place.is_none()) else { continue };
        let had_device = device.is_some();
        // The reason of a failure was logged at the reload.
        let result = prepare(spec, uwsgi, grants, device);
        if !had_device && (device.is_some() || result.is_ok()) {
            set_up_device(spec, uwsgi::LOGGER);
        }
        let Ok(setup) = result else { continue };
        uwsgi::log(Event::RouterRecovered, &format!("[tuntap-router] {}: it is possible now", spec.device));
        let heartbeat = Arc::clone(&setup.heartbeat);
        *place = Some(setup);
        processes::restart(index, heartbeat);
    }
}

/// Looks after the routers in each cycle of the master. It notices the end of a router at once, and ends routers that hang.
pub fn watch() {
    send_grant_updates();
    retry(&UwsgiState::read());
    processes::look_after();
}

/// Closes what routers have open, in a process that isn't the master.
pub fn forget() {
    SETUPS.lock().clear();
    SPARE_DEVICES.lock().clear();
    processes::forget();
}

/// Returns true if this instance has routers.
pub fn are_there() -> bool {
    !SETUPS.lock().is_empty()
}

/// Closes what the routers have open in this process, and takes their socket files away. The next image binds all of it
/// again; the option `close-on-exec2` takes close-on-exec off every descriptor.
pub fn close() {
    processes::forget();
    SPARE_DEVICES.lock().clear();
    let setups = std::mem::take(&mut *SETUPS.lock());
    setups.iter().flatten().for_each(Setup::remove_socket_files);
    let mut kept = Vec::new();
    for setup in setups.into_iter().flatten() {
        let (key, trunks) = agents::take(&setup.spec.device);
        hosts::keep(&setup.spec.device, setup.hosts, &setup.store, key, trunks);
        kept.push((setup.spec.device, setup.memory));
    }
    agents::forget();
    pairs::close();
    memory::keep(kept);
}

/// Makes and binds what a router needs. If something can't be had, the device stays in `place`, because programs that uWSGI runs
/// as root (`exec-as-root`) may configure it.
fn prepare(spec: &RouterSpec, uwsgi: &UwsgiState, leases: &Grants, place: &mut Option<Tun>) -> Result<Setup, String> {
    if place.is_none() {
        *place = Some(make_device(spec, patience(uwsgi))?);
    }
    let opening = rules_file::opening(spec, uwsgi)?;
    check_sockets(spec, uwsgi)?;
    let gateway = spec.gateway.map(bind_gateway).transpose()?;
    let listener = listen(spec)?;
    let stats = spec.stats.as_ref().map(|address| bind_stats(spec, address, uwsgi)).transpose()?;
    let metrics_listener =
        spec.metrics.address.as_ref().map(|address| bind_metrics(spec, address, uwsgi)).transpose()?;
    gateway.iter().for_each(|gateway| log_gateway(spec, gateway));
    let pair = |errno| format!("a pair of sockets: {errno}");
    let (store, grant_updates) = (Store::new().map_err(pair)?, GrantUpdates::new().map_err(pair)?);
    let heartbeat = Heartbeat::new().map_err(|errno| format!("a page of shared memory: {errno}"))?;
    let control = control::listen(spec, uwsgi)?;
    let memory = memory::of(spec, &opening)?;
    let others = prepare_hosts(spec, &store)?;
    let kernel_path = pairs::prepare(spec)?;
    let tun = place.take().ok_or("its device is missing")?;
    let setup = Setup {
        spec: spec.clone(),
        tun,
        socket_files: socket_files(spec, control.is_some()),
        master: None,
        socket_name: spec.socket.clone(),
        listener,
        stats,
        metrics: metrics_listener,
        exported: metrics::of(&spec.device),
        base: Base { config: config().clone(), router: spec.clone(), grants: leases.clone(), late_shapes: Vec::new() },
        initial: opening.initial,
        memory,
        hosts: others,
        kernel_path,
        control,
        script: opening.script,
        users: accounts::users(),
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
        uwsgi_version: uwsgi.version(),
        logger: uwsgi::LOGGER,
    };
    keep_open(&setup);
    Ok(setup)
}

/// Makes what the router needs for other hosts, and leaves what its trunk process needs to that.
fn prepare_hosts(spec: &RouterSpec, store: &Store) -> Result<Hosts, String> {
    let Prepared { hosts, key, listeners } = hosts::of(spec, store)?;
    Ok(Hosts { trunks: agents::prepare(spec, key, listeners)?, ..hosts })
}

/// Listens for vassals, if the router has a socket for them.
fn listen(spec: &RouterSpec) -> Result<Option<OwnedFd>, String> {
    let Some(name) = &spec.socket else {
        uwsgi::log(
            Event::Advice,
            &format!(
                "[tuntap-router] {}: it has no unix socket, so that vassals of this host can't join it; for these, name one in place of \
             its address, and the address in {}",
                spec.device,
                OptionName::Trunk.as_str()
            ),
        );
        return Ok(None);
    };
    uwsgi::log(Event::Listening, &format!("[tuntap-router] {}: listening on {name}", spec.device));
    uwsgi::bind_unix(name).map(Some).map_err(|error| format!("socket {name}: {error}"))
}

/// Keeps what a router needs open where uWSGI closes what it doesn't know.
fn keep_open(setup: &Setup) {
    let listeners = [
        setup.listener.as_ref().map(AsFd::as_fd),
        setup.stats.as_ref().map(|stats| stats.listening.listener.as_fd()),
        setup.metrics.as_ref().map(|metrics| metrics.listener.as_fd()),
        setup.gateway.as_ref().map(|gateway| gateway.socket.as_fd()),
        setup.control.as_ref().map(|control| control.listener.as_fd()),
    ];
    let outliving =
        setup.store.descriptors().chain(setup.grant_updates.descriptors()).chain(setup.memory.descriptors());
    let of_hosts = setup.hosts.routes.iter().flat_map(RoutesEndpoint::descriptors);
    listeners.into_iter().flatten().chain(outliving).chain(of_hosts).for_each(uwsgi::keep_open);
}

/// How long to wait for others that may be ending. After a reload all goes on, and what can't be had is tried again later.
const fn patience(uwsgi: &UwsgiState) -> Duration {
    if uwsgi.is_reload() { Duration::ZERO } else { PATIENCE }
}

/// Makes a router's device. That of an instance that was killed is there until the kernel has closed all its queues.
fn make_device(spec: &RouterSpec, patience: Duration) -> Result<Tun, String> {
    let mut is_told = false;
    let is_in_the_way = |error: &TunError| {
        if error.is_busy() && !std::mem::replace(&mut is_told, true) {
            uwsgi::log(
                Event::RouterDelayed,
                &format!("[tuntap-router] {}: waiting for somebody who has this device open", spec.device),
            );
        }
        error.is_busy()
    };
    let made = outwait(patience, || Tun::create_for_router(&spec.device), is_in_the_way);
    let mut tun = made.map_err(|error| error.to_string())?;
    tun.enable_offloads();
    // In a reloaded image uWSGI closes what it doesn't know before it forks the gateways.
    tun.queues().for_each(uwsgi::keep_open);
    uwsgi::log(Event::DeviceMade, &format!("[tuntap-router] made the device {}", tun.name()));
    if tun.queues().count() == 1 {
        uwsgi::log(
            Event::Advice,
            &format!(
                "[tuntap-router] {}: the device has one queue for all vassals, because it was there before, or the kernel is old: a flood to \
             one vassal can take the others' packets",
                tun.name()
            ),
        );
    }
    Ok(tun)
}

/// The files of a router's unix sockets, which exist now.
fn socket_files(spec: &RouterSpec, has_control: bool) -> Vec<SocketFile> {
    let stats = [&spec.stats, &spec.metrics.address].into_iter().flatten().filter_map(|address| match address {
        StatsAddress::Unix(name) => SocketFile::of(name),
        StatsAddress::Tcp(_) => None,
    });
    let control = spec.control_path().filter(|_| has_control).and_then(|path| SocketFile::of(&path));
    spec.socket.as_deref().and_then(SocketFile::of).into_iter().chain(stats).chain(control).collect()
}

/// Finds out if a router's sockets can be bound. uWSGI would end the process if they couldn't.
fn check_sockets(spec: &RouterSpec, uwsgi: &UwsgiState) -> Result<(), String> {
    let probe_unix = |name: &str| probe_unix(name, uwsgi);
    if let Some(name) = &spec.socket {
        probe_unix(name).map_err(|error| format!("socket {name}: {error}"))?;
    }
    for (what, address) in [("statistics", &spec.stats), ("metrics", &spec.metrics.address)] {
        match address {
            Some(StatsAddress::Unix(name)) => probe_unix(name).map_err(|error| format!("{what} on {name}: {error}"))?,
            Some(StatsAddress::Tcp(name)) => {
                socket::probe_tcp(name).map_err(|error| format!("{what} on {name}: {error}"))?;
            }
            None => {}
        }
    }
    if let Some(missing) = uwsgi.missing_socket_owner() {
        return Err(format!("chown-socket: {missing}"));
    }
    Ok(())
}

/// Finds out if a unix socket can be bound.
pub fn probe_unix(name: &str, uwsgi: &UwsgiState) -> Result<(), String> {
    if name.starts_with('@') {
        return socket::probe_unix(name).map_err(|error| error.to_string());
    }
    if uwsgi.has_abstract_sockets() {
        return Ok(());
    }
    leave_to_others(name, patience(uwsgi))?;
    socket::probe_unix(name).map_err(|error| error.to_string())
}

fn bind_gateway(address: SocketAddr) -> Result<Gateway, String> {
    Gateway::bind(address).map_err(|error| format!("gateway {address}: {error}"))
}

/// Logs where a router exchanges packets with other routers.
fn log_gateway(spec: &RouterSpec, Gateway { address, .. }: &Gateway) {
    if !socket::has_address(address.ip()) {
        uwsgi::log(
            Event::RouterIncomplete,
            &format!(
                "[tuntap-router] {}: this host doesn't have the address {} of its gateway yet, and nobody reaches it there",
                spec.device,
                address.ip()
            ),
        );
    }
    uwsgi::log(
        Event::Listening,
        &format!("[tuntap-router] {}: exchanging packets with other routers on {address}", spec.device),
    );
}

/// Makes sure that a socket's name isn't in use, because uWSGI would replace whatever has it. A process that listens there may
/// be about to end, and has `timeout` for that.
fn leave_to_others(name: &str, timeout: Duration) -> Result<(), String> {
    let own = Pid::this().as_raw();
    let look = || match listener(name) {
        Listener::NoSocket => Err(Listener::NoSocket),
        Listener::Listening(process) if process.pid != own => Err(Listener::Listening(process)),
        _ => Ok(()),
    };
    outwait(timeout, look, |found| matches!(found, Listener::Listening(_))).map_err(|found| match found {
        Listener::Listening(process) => format!("{process} listens there already"),
        _ => "a file of that name is there, and is no socket".to_owned(),
    })
}

/// The folders of this mount namespace in which its resolv.conf is, as a link and as a file.
fn host_etc() -> Vec<DirectoryId> {
    let link = Path::new("/etc/resolv.conf");
    let paths = [Some(link.to_owned()), link.canonicalize().ok()];
    let mut found: Vec<_> = paths.iter().flatten().filter_map(|path| directory(path.parent()?).ok()).collect();
    found.dedup();
    found
}

fn bind_stats(spec: &RouterSpec, address: &StatsAddress, uwsgi: &UwsgiState) -> Result<StatsEndpoint, String> {
    let listening = bind_documents(spec, "statistics", address, uwsgi.stats_http(), uwsgi)?;
    Ok(StatsEndpoint { listening, minified: uwsgi.stats_minified() })
}

fn bind_metrics(spec: &RouterSpec, address: &StatsAddress, uwsgi: &UwsgiState) -> Result<Listening, String> {
    bind_documents(spec, "metrics", address, true, uwsgi)
}

/// Listens for clients of statistics or metrics.
fn bind_documents(
    spec: &RouterSpec,
    what: &str,
    address: &StatsAddress,
    http: bool,
    uwsgi: &UwsgiState,
) -> Result<Listening, String> {
    uwsgi::log(Event::Listening, &format!("[tuntap-router] {}: serving {what} on {}", spec.device, address.as_str()));
    let listener = match address {
        StatsAddress::Unix(name) => uwsgi::bind_unix(name),
        // This tells clients that are peers from others. If it fails, only their addresses do.
        StatsAddress::Tcp(name) => uwsgi::bind_tcp(name).inspect(|listener| _ = tell_arrivals(listener.as_fd())),
    };
    let listener = listener.map_err(|error| format!("{what} on {}: {error}", address.as_str()))?;
    Ok(Listening { listener, http, timeout: uwsgi.socket_timeout() })
}

fn credentials_check() -> Result<CredentialsCheck, String> {
    Ok(match &config().credentials {
        Credentials::Off => CredentialsCheck::Off,
        Credentials::Shown => CredentialsCheck::Shown,
        Credentials::Symbol(symbol) => {
            CredentialsCheck::Hook(uwsgi::credentials_hook(symbol).ok_or_else(|| {
                format!("tuntap-use-credentials = {symbol}: no plugin and no library has this symbol")
            })?)
        }
    })
}

unsafe extern "C" fn run_gateway(_id: c_int, data: *mut c_void) {
    let mut device = "a router".to_owned();
    let run = || {
        // uWSGI's hooks may have changed its ids.
        dumpable::close_with_children();
        let mut setup = SETUPS.lock().get_mut(data.addr()).and_then(Option::take);
        if let Some(setup) = &mut setup {
            setup.tun.name().clone_into(&mut device);
            setup.master = process::watch_parent().ok();
        }
        // Closes what belongs to the other routers and to the master.
        forget();
        agents::forget();
        pairs::forget();
        match setup {
            Some(setup) => tuntap_router::run(&setup).to_string(),
            // The master ends this process when the router can be prepared, or when it ends itself.
            None => loop {
                std::thread::park();
            },
        }
    };
    let reason = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| "panic in the gateway callback".to_owned());
    uwsgi::log(Event::RouterEnded, &format!("[tuntap-router] {device}: {reason}; this router ends"));
    std::process::exit(1)
}
