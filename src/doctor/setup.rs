//! The whole examination: reads the files, gathers the facts that each check needs, and sorts what they say.

use std::io;
use std::path::Path;

use caps::{CapSet, Capability};
use nix::unistd::{Group, User, geteuid};

use super::checks::tun::Asker;
use super::checks::{access, credentials, filter, kernel, network, placement, plugin, sockets, tun, values};
use super::finding::Finding;
use super::instance::Instance;
use super::probe::{self, Arguments};
use crate::config::{ConfigErrors, resolve_leases};
use crate::policy::lease::Lease;
use crate::sys::survey;
use crate::sys::survey::access::{Account, Barrier, Wish, barrier, own_barrier};
use crate::sys::survey::interface::{Process, holders, interface};
use crate::sys::survey::listener::{Listener, folder_of, listener};

/// What was found about one file, or about the machine.
#[derive(Debug)]
pub struct Section {
    /// The file, or the words for the machine.
    pub title: String,
    /// In the order of the checks.
    pub findings: Vec<Finding>,
}

/// Examines files that belong together. `own` is where this plugin was loaded from.
pub fn examine(files: &[String], own: &Path) -> io::Result<Vec<Section>> {
    let mut sections = Vec::new();
    if !geteuid().is_root() {
        sections.push(Section { title: "this examination".to_owned(), findings: vec![without_root()] });
    }
    let mut instances: Vec<Instance> = Vec::new();
    for file in files {
        let around = instances.iter().find(|instance| instance.is_emperor()).map(vassal_arguments).unwrap_or_default();
        match probe::read(file, own, &around)? {
            Ok(reading) => instances.push(Instance::new(file, reading)),
            Err(lines) => sections.push(Section { title: file.clone(), findings: vec![unreadable(&lines)] }),
        }
    }
    for instance in &instances {
        sections.push(Section { title: instance.file.clone(), findings: of_file(instance, &instances, own) });
    }
    sections.push(Section { title: "this machine".to_owned(), findings: of_machine(&instances) });
    Ok(sections)
}

/// What the Emperor adds to the command lines of its vassals.
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

fn of_file(instance: &Instance, all: &[Instance], own: &Path) -> Vec<Finding> {
    let (_, names) = leases(instance);
    let emperor = all.iter().find(|other| other.is_emperor());
    let mut findings = vec![plugin::plugin(&instance.reading, own)];
    findings.extend(values::values(instance, &names.0));
    findings.extend(placement::routers(instance));
    findings.extend(placement::devices(instance, emperor.filter(|emperor| emperor.file != instance.file)));
    findings.extend(instance.account().map(|account| after_a_reload(instance, account)).unwrap_or_default());
    findings.extend(of_routers(instance));
    findings.extend(of_devices(instance, all));
    if !instance.config.routers.is_empty() {
        findings.push(kernel::descriptors(instance, survey::kernel::most_descriptors()));
        findings.extend(kernel::queue(instance, survey::kernel::longest_queue()));
        findings.extend(kernel::sandbox(
            instance,
            survey::kernel::landlock_version(),
            survey::kernel::has_seccomp_filters(),
        ));
        let surroundings = survey::network::surroundings().map_err(|error| error.to_string());
        findings.extend(network::forwarding(instance, &surroundings));
        let others: Vec<&Instance> = all.iter().filter(|other| other.file != instance.file).collect();
        let earlier: Vec<&Instance> = all.iter().take_while(|other| other.file != instance.file).collect();
        findings.extend(network::shared_networks(instance, &earlier));
        let vassals: Vec<&Instance> = others.into_iter().filter(|other| meets(instance, other)).collect();
        findings.extend(network::orphaned_ports(instance, &leases(instance).0, &vassals));
        findings.extend(filter::filter(
            instance,
            &survey::filter::filters(),
            surroundings.as_ref().ok(),
            geteuid().is_root(),
        ));
    }
    for router in all.iter().filter(|other| other.file != instance.file && meets(other, instance)) {
        findings.extend(credentials::pair(router, instance, &leases(router).0));
    }
    findings
}

/// Whether a device of the vassal names a socket of the router.
fn meets(router: &Instance, vassal: &Instance) -> bool {
    vassal.config.devices.iter().any(|device| router_of(router, device.socket.as_deref()))
}

fn router_of(instance: &Instance, socket: Option<&str>) -> bool {
    instance.config.routers.iter().any(|router| Some(router.socket.as_str()) == socket)
}

fn leases(instance: &Instance) -> (Vec<Lease>, ConfigErrors) {
    let user = |name: &str| Ok(User::from_name(name)?.map(|user| user.uid.as_raw()));
    let group = |name: &str| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()));
    let (leases, errors) = resolve_leases(&instance.config.leases, user, group);
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

/// Where a user is stopped. Nothing if that can't be found out, which only root can.
fn stopped(account: &Account, path: &Path, wish: Wish) -> Option<Barrier> {
    barrier(account, path, wish).ok().flatten()
}

fn of_routers(instance: &Instance) -> Vec<Finding> {
    let mut findings = Vec::new();
    for router in &instance.config.routers {
        let holders = holders(&router.device);
        let found = listener(&router.socket);
        let is_running =
            matches!(&found, Listener::Listening(process) if holders.iter().any(|holder| holder.pid == process.pid));
        findings.push(tun::router_device(&router.device, interface(&router.device).as_ref(), &holders, is_running));
        if !is_running {
            findings.extend(network::table(router, survey::network::table_is_taken));
        }
        findings.push(sockets::router(
            &router.socket,
            &found,
            unwritable(&router.socket).as_ref(),
            is_running,
            geteuid().is_root(),
        ));
    }
    if instance.is_on("abstract-socket") && !instance.config.routers.is_empty() {
        findings.push(Finding::wrong(
            "abstract-socket: the router's socket is no file, and can't be reached from other network namespaces",
            "leave abstract-socket out",
        ));
    }
    findings
}

/// What keeps this process from making a file.
fn unwritable(socket: &str) -> Option<Barrier> {
    if socket.starts_with('@') { None } else { own_barrier(folder_of(Path::new(socket)), Wish::Write) }
}

fn of_devices(instance: &Instance, all: &[Instance]) -> Vec<Finding> {
    let known: Vec<&str> =
        all.iter().flat_map(|other| &other.config.routers).map(|router| router.socket.as_str()).collect();
    let mut findings = Vec::new();
    for (device, socket) in
        instance.config.devices.iter().filter_map(|device| Some((&device.name, device.socket.as_deref()?)))
    {
        let made_by = all.iter().find(|other| router_of(other, Some(socket))).map(|other| other.file.as_str());
        let found = listener(socket);
        findings.push(sockets::device(device, socket, &found, made_by, &known));
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
    tun::devices(survey::tun::control_device(), &survey::tun::try_out(), asker)
}
