//! The whole examination: reads the files, gathers the facts that each check needs, and sorts the findings.

use std::collections::HashSet;
use std::path::Path;
use std::{fs, io};

use caps::{CapSet, Capability};
use nix::unistd::{Group, User, geteuid};

use super::checks::live::{self, RunningRouter};
use super::checks::tun::Asker;
use super::checks::{
    access, credentials, filter, host, kernel, kernel_path, network, placement, plugin, ports, routes, rules, secrets,
    shapes, sockets, trunks, tun, values,
};
use super::finding::Finding;
use super::instance::Instance;
use super::probe::{self, Arguments};
use super::running;
use tuntap_config::{ConfigErrors, Offload, RouterSpec, StatsAddress, resolve_grants};
use tuntap_core::policy::grant::Grant;
use tuntap_host::{self, Networks, PortUses};
use tuntap_sys::netlink::Netlink;

use tuntap_survey::access::{Account, Barrier, Wish, barrier, own_barrier};
use tuntap_survey::filter::Filters;
use tuntap_survey::interface::{Process, holders, interface};
use tuntap_survey::listener::{Listener, folder_of, listener};
use tuntap_survey::network::Surroundings;
use tuntap_survey::secret::secret_file;

/// What was found about one file, or about the machine.
#[derive(Debug)]
pub struct Section {
    /// The name of the file, or words for the machine.
    pub title: String,
    /// The findings in the order of the checks.
    pub findings: Vec<Finding>,
}

/// Examines files that belong together. `own` is where this plugin was loaded from.
pub fn examine(files: &[String], own: &Path) -> io::Result<Vec<Section>> {
    let mut sections = Vec::new();
    if !geteuid().is_root() {
        sections.push(Section { title: "this examination".to_owned(), findings: vec![without_root()] });
    }
    let mut instances: Vec<Instance> = Vec::new();
    for file in once_each(files) {
        let around = instances.iter().find(|instance| instance.is_emperor()).map(vassal_arguments).unwrap_or_default();
        match probe::read(file, own, &around)? {
            Ok(reading) => instances.push(Instance::new(file, reading)),
            Err(lines) => sections.push(Section { title: file.clone(), findings: vec![unreadable(&lines)] }),
        }
    }
    let machine = Machine::look(&instances);
    for instance in &instances {
        sections.push(Section { title: instance.file.clone(), findings: of_file(instance, &instances, &machine, own) });
    }
    sections.push(Section { title: "this machine".to_owned(), findings: of_machine(&instances) });
    Ok(sections)
}

/// Facts about the machine that all routers share.
#[derive(Debug)]
struct Machine {
    /// Interfaces, addresses, routes and settings. The error says why they can't be read.
    surroundings: Result<Surroundings, String>,
    /// Networks that a router's may be in conflict with. The error says why they can't be read.
    networks: Result<Networks, String>,
    /// Packet filters.
    filters: Filters,
}

impl Machine {
    /// Gathers the facts, if there are routers at all.
    fn look(instances: &[Instance]) -> Self {
        if instances.iter().all(|instance| instance.config.routers.is_empty()) {
            let (surroundings, networks) = (Ok(Surroundings::default()), Ok(Networks::default()));
            return Self { surroundings, networks, filters: Filters::default() };
        }
        let surroundings = tuntap_survey::network::surroundings().map_err(|error| error.to_string());
        let networks = Netlink::open().and_then(|mut netlink| Networks::of_host(&mut netlink));
        let networks = networks.map_err(|error| error.to_string());
        Self { surroundings, networks, filters: tuntap_survey::filter::filters() }
    }
}

/// Each file once, even if several names lead to it.
fn once_each(files: &[String]) -> Vec<&String> {
    let mut known = HashSet::new();
    files.iter().filter(|file| known.insert(fs::canonicalize(file).unwrap_or_else(|_| file.into()))).collect()
}

/// The arguments that the Emperor adds to the command lines of its vassals.
fn vassal_arguments(emperor: &Instance) -> Arguments {
    let options = |pairs: &[(&str, &str)]| -> Vec<String> {
        let with_flag = |(option, flag): &(&str, &str)| {
            emperor.all(option).flat_map(|value| [(*flag).to_owned(), value.to_owned()]).collect::<Vec<_>>()
        };
        pairs.iter().flat_map(with_flag).collect()
    };
    Arguments {
        before: options(&[
            ("vassals-inherit-before", "--inherit"),
            ("vassals-include-before", "--include"),
            ("vassals-set", "--set"),
            ("vassal-set", "--set"),
        ]),
        after: options(&[("vassals-inherit", "--inherit"), ("vassals-include", "--include")]),
    }
}

fn unreadable(lines: &[String]) -> Finding {
    let said: Vec<String> = lines.iter().map(|line| format!("uWSGI says: {line}")).collect();
    Finding::wrong("uWSGI doesn't get through this file", said.join("\n"))
}

fn of_file(instance: &Instance, all: &[Instance], machine: &Machine, own: &Path) -> Vec<Finding> {
    let (_, names) = leases(instance);
    let emperor = all.iter().find(|other| other.is_emperor());
    let mut findings = vec![plugin::plugin(&instance.reading, own)];
    findings.extend(values::values(instance, &names.0));
    findings.extend(rules::files(instance));
    findings.extend(shapes::limits(instance));
    findings.extend(placement::routers(instance));
    findings.extend(placement::devices(instance, emperor.filter(|emperor| emperor.file != instance.file)));
    findings.extend(instance.account().map(|account| after_a_reload(instance, account)).unwrap_or_default());
    let running = running::routers(instance);
    let is_running = running.iter().any(Option::is_some);
    let Machine { surroundings, networks, filters } = machine;
    findings.extend(of_routers(instance, &running, filters, surroundings.as_ref().ok()));
    findings.extend(of_devices(instance, all));
    if !instance.config.routers.is_empty() {
        findings.push(kernel::descriptors(instance, tuntap_survey::kernel::most_descriptors()));
        findings.extend(kernel::queue(instance, tuntap_survey::kernel::longest_queue()));
        findings.extend(kernel::sandbox(
            instance,
            tuntap_survey::kernel::landlock_version(),
            tuntap_survey::kernel::has_seccomp_filters(),
        ));
        findings.extend(kernel::priority(instance, geteuid().is_root().then(may_be_favoured)));
        let missing = geteuid().is_root().then(missing_for_kernel_path);
        let devices = instance.config.routers.iter().map(|router| router.device.as_str());
        let queueing: Vec<_> = devices.filter_map(tuntap_survey::kernel_path::queueing).collect();
        let bpf = tuntap_survey::kernel_path::bpf();
        findings.extend(kernel_path::kernel_path(instance, &bpf, missing.as_deref(), &queueing));
        findings.extend(network::forwarding(instance, surroundings, is_running));
        findings.extend(instance.config.routers.iter().flat_map(|router| network::conflicts(router, networks)));
        let others: Vec<&Instance> = all.iter().filter(|other| other.file != instance.file).collect();
        let earlier: Vec<&Instance> = all.iter().take_while(|other| other.file != instance.file).collect();
        findings.extend(network::shared_networks(instance, &earlier));
        let vassals: Vec<&Instance> = others.into_iter().filter(|other| meets(instance, other)).collect();
        findings.extend(network::orphaned_ports(instance, &leases(instance).0, &vassals));
        findings.extend(filter::filter(
            instance,
            filters,
            surroundings.as_ref().ok(),
            filter::Asker { is_root: geteuid().is_root(), is_running },
        ));
        findings.extend(ports::mapped_twice(instance, &earlier));
        findings.extend(of_host(instance, &running, filters, surroundings.as_ref().ok()));
        findings.extend(of_tables_of_all(instance, &vassals));
    }
    for router in all.iter().filter(|other| other.file != instance.file && meets(other, instance)) {
        findings.extend(credentials::pair(router, instance, &leases(router).0));
    }
    findings
}

/// Returns true if a device of the vassal names a socket of the router.
fn meets(router: &Instance, vassal: &Instance) -> bool {
    vassal.config.devices.iter().any(|device| router_of(router, device.socket.as_deref()))
}

fn router_of(instance: &Instance, socket: Option<&str>) -> bool {
    instance.config.routers.iter().any(|router| socket.is_some() && router.socket.as_deref() == socket)
}

fn leases(instance: &Instance) -> (Vec<Grant>, ConfigErrors) {
    let user = |name: &str| Ok(User::from_name(name)?.map(|user| user.uid.as_raw()));
    let group = |name: &str| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()));
    let (leases, errors) = resolve_grants(&instance.config.grants, user, group);
    (leases, ConfigErrors(errors.into_iter().map(|(_, error)| error).collect()))
}

fn after_a_reload(instance: &Instance, account: &Account) -> Vec<Finding> {
    if instance.config.devices.is_empty() {
        return Vec::new();
    }
    let file = Path::new(&instance.file);
    [("plugin", instance.reading.plugin.as_path()), ("this file", file)]
        .into_iter()
        .filter_map(|(what, path)| access::reload(account.uid, what, path, stopped(account, path, Wish::Read).as_ref()))
        .collect()
}

/// What keeps a user from a file. Only root can find that out; for others it is `None`.
fn stopped(account: &Account, path: &Path, wish: Wish) -> Option<Barrier> {
    barrier(account, path, wish).ok().flatten()
}

fn of_routers(
    instance: &Instance,
    running: &[Option<RunningRouter>],
    filters: &Filters,
    surroundings: Option<&Surroundings>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (router, running) in instance.config.routers.iter().zip(running) {
        let is_running = running.is_some();
        findings.extend(of_hosts(router, surroundings));
        let holders = holders(&router.device);
        findings.push(tun::router_device(&router.device, interface(&router.device).as_ref(), &holders, is_running));
        if let Some(socket) = router.socket.as_deref() {
            findings.extend(of_socket(socket, running.as_ref()));
        }
        let own = running.as_ref().map(|running| running.processes.as_slice()).unwrap_or_default();
        for (what, address) in [("statistics", &router.stats), ("metrics", &router.metrics.address)] {
            if let Some(StatsAddress::Unix(name)) = address.as_ref().filter(|_| !instance.is_on("abstract-socket")) {
                findings.extend(sockets::documents(what, name, &listener(name), own));
            }
        }
        let Some(running) = running else {
            findings.extend(network::table(router, tuntap_survey::network::table_is_taken));
            continue;
        };
        findings.extend(live::processes(router, running));
        findings.extend(surroundings.map(|found| live::device(instance, router, found, running)).unwrap_or_default());
        if !filters.lacks_nftables {
            // The table doesn't change when IPv6 is turned off, before the next reload.
            let wanted = [&without_ipv6(router, surroundings), router].map(tuntap_host::rules_of_tables);
            findings.extend(live::table(router, &wanted, &filters.inet_tables, running));
        }
        if running.answers {
            findings.extend(live::peers(router, running::peers(instance, router).as_ref()));
            let offload = instance.config.offload;
            let is_asked = router.hosts.needs_key() || offload != Offload::Off;
            let snapshot = if is_asked { running::snapshot(instance, router) } else { None };
            if let Some(found) = snapshot {
                findings.extend(kernel_path::standing(router, offload, &found));
                findings.extend(routes::session(router, &found));
                findings.extend(trunks::standing(router, &found));
            }
        }
    }
    if instance.is_on("abstract-socket") && !instance.config.routers.is_empty() {
        findings.push(Finding::wrong(
            "abstract-socket: the router's socket is no file, and can't be reached from other network namespaces",
            "leave abstract-socket out",
        ));
    }
    findings
}

/// Findings about what a router shares with other hosts, apart from what a running one says of itself.
fn of_hosts(router: &RouterSpec, surroundings: Option<&Surroundings>) -> Vec<Finding> {
    let mut findings = routes::listener(router);
    if !router.hosts.needs_key() {
        return findings;
    }
    let own = geteuid().as_raw();
    let password = router.hosts.routes.as_ref().and_then(|routes| routes.password.as_deref());
    findings.extend(
        password.and_then(|path| secrets::password(&router.device, path, secret_file(Path::new(path), true), own)),
    );
    let key = router.hosts.key_file(&router.device);
    let has_folder = Path::new(&key).parent().is_some_and(Path::is_dir);
    findings.extend(secrets::key(router, secret_file(Path::new(&key), false), has_folder, own));
    if router.hosts.routes.is_some()
        && let (Some(found), Ok(dead_ends)) = (surroundings, tuntap_survey::network::dead_ends())
    {
        findings.extend(routes::nobody(router, found, &dead_ends));
    }
    findings
}

/// The finding about a router's socket, unless the one about its processes covers that.
fn of_socket(socket: &str, running: Option<&RunningRouter>) -> Option<Finding> {
    let found = listener(socket);
    if running.is_some_and(|running| !running.answers || running.has_no_file) && found != Listener::NoFolder {
        return None;
    }
    let is_root = geteuid().is_root();
    Some(sockets::router(socket, &found, unwritable(socket).as_ref(), running.is_some(), is_root))
}

/// The options of a router that have an effect on a host without IPv6.
fn without_ipv6(router: &RouterSpec, surroundings: Option<&Surroundings>) -> RouterSpec {
    let mut router = router.clone();
    let link = surroundings.and_then(|found| found.link(&router.device));
    if link.is_some_and(|link| link.lacks_ipv6) && surroundings.is_some_and(|found| !found.has_ipv6) {
        router.addresses.retain(|net| net.addr().is_ipv4());
        router.ports.retain(|port| port.target.is_ipv4());
    }
    router
}

/// Findings about what vassals reach of the host, and about ports that somebody else has.
fn of_host(
    instance: &Instance,
    running: &[Option<RunningRouter>],
    filters: &Filters,
    surroundings: Option<&Surroundings>,
) -> Vec<Finding> {
    let services = match tuntap_survey::services::services() {
        Ok(mut services) => {
            tuntap_survey::services::name_owners(&mut services);
            services
        }
        Err(error) => {
            return vec![Finding::warning(
                format!("ports of this host: not examined, for they can't be read: {error}"),
                "run this check as root, where /proc is mounted",
            )];
        }
    };
    let mut findings = Vec::new();
    let own_tables: Vec<_> = instance.config.routers.iter().map(RouterSpec::table_name).collect();
    let addresses: Vec<_> = surroundings.iter().flat_map(|found| &found.addresses).map(|(_, net)| net.addr()).collect();
    let uses = PortUses { services: &services, chains: &filters.chains, addresses: &addresses };
    for (router, running) in instance.config.routers.iter().zip(running) {
        findings.extend(ports::taken(router, &own_tables, uses));
        let own = running.as_ref().map(|running| running.processes.as_slice()).unwrap_or_default();
        findings.extend(ports::own(router, &services, own));
        findings.extend(host::opened(router));
        let Some(found) = surroundings else { continue };
        findings.extend(host::dns_servers(router, &services, filters, found, running.is_some()));
        // A router with addresses protects the host by its own table, which exists only while it runs.
        if running.is_some() || router.addresses.is_empty() {
            findings.extend(host::metadata(instance, router, filters, found));
            findings.extend(host::exposure(router, &services, filters, found));
        }
    }
    findings
}

/// Findings about tables of the kernel that vassals can fill, and that the whole machine shares.
fn of_tables_of_all(instance: &Instance, vassals: &[&Instance]) -> Vec<Finding> {
    let tracked = tuntap_survey::kernel::tracked_connections();
    let known = vassals.iter().map(|vassal| vassal.config.devices.len()).sum();
    let asked = instance.last("tuntap-router-max-peers").is_some();
    let peers = if asked { instance.config.limits.peers } else { known };
    let peers = u64::try_from(peers).unwrap_or(u64::MAX);
    let mut findings = Vec::new();
    for router in &instance.config.routers {
        findings.extend(host::connections(router, peers, tracked.map(|fill| fill.most)));
        findings.extend(host::neighbours(router, peers, tuntap_survey::kernel::most_neighbours_of_ipv6()));
    }
    findings.extend(host::fill(
        tracked,
        "tracked connections",
        "sysctl -w net.netfilter.nf_conntrack_max=<more>, kept in /etc/sysctl.d; conntrack -L tells whose they are",
    ));
    findings.extend(host::fill(
        tuntap_survey::kernel::neighbours(),
        "neighbours (ip neigh)",
        "sysctl -w net.ipv4.neigh.default.gc_thresh3=<more>, and gc_thresh2, kept in /etc/sysctl.d",
    ));
    findings
}

/// The capabilities for a path in the kernel that this process lacks: for devices and BPF programs, and for the namespaces of
/// vassals.
fn missing_for_kernel_path() -> Vec<&'static str> {
    let wanted = [("CAP_NET_ADMIN", Capability::CAP_NET_ADMIN), ("CAP_SYS_ADMIN", Capability::CAP_SYS_ADMIN)];
    let is_missing = |(_, one): &(_, _)| !caps::has_cap(None, CapSet::Effective, *one).unwrap_or(false);
    wanted.into_iter().filter(is_missing).map(|(name, _)| name).collect()
}

fn may_be_favoured() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_NICE).unwrap_or(false)
}

/// What keeps this process from making a socket's file.
fn unwritable(socket: &str) -> Option<Barrier> {
    if socket.starts_with('@') { None } else { own_barrier(folder_of(Path::new(socket)), Wish::Write) }
}

fn of_devices(instance: &Instance, all: &[Instance]) -> Vec<Finding> {
    let known: Vec<&str> =
        all.iter().flat_map(|other| &other.config.routers).filter_map(|router| router.socket.as_deref()).collect();
    let mut findings = Vec::new();
    for (device, socket) in
        instance.config.devices.iter().filter_map(|device| Some((&device.name, device.socket.as_deref()?)))
    {
        let made_by = all.iter().find(|other| router_of(other, Some(socket))).map(|other| other.file.as_str());
        let found = listener(socket);
        let hangs =
            matches!(&found, Listener::Listening(_)) && !tuntap_survey::listener::answers(socket, running::TIMEOUT);
        findings.push(if hangs {
            sockets::hanging(device, socket)
        } else {
            sockets::device(device, socket, &found, made_by, &known)
        });
        if let (Listener::Listening(Process { .. }), Some(account)) = (&found, instance.account()) {
            let stopped = stopped(account, Path::new(socket), Wish::Write);
            findings.push(access::rejoin(instance, account.uid, socket, stopped.as_ref()));
        }
    }
    findings
}

fn without_root() -> Finding {
    Finding::warning(
        "it runs without root, and sees less than the instances will: what is refused to it may be allowed to them, and is a \
         warning only",
        "sudo, as for the start of the Emperor",
    )
}

fn of_machine(instances: &[Instance]) -> Vec<Finding> {
    let asker = Asker {
        is_root: geteuid().is_root(),
        may_make_devices: caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN).unwrap_or(false),
        needs_namespaces: instances.iter().any(|instance| instance.gives_namespaces() || instance.makes_namespace()),
    };
    tun::devices(tuntap_survey::tun::control_device(), &tuntap_survey::tun::try_out(), asker)
}
