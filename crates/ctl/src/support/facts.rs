//! Facts about this machine that matter to a router. /proc/cmdline is none of them: passwords may stand there.

use std::fmt::Write;
use std::fs;

use nix::sys::utsname::uname;
use tuntap_survey::kernel::{
    Fill, has_seccomp_filters, landlock_version, longest_queue, most_descriptors, neighbours, tracked_connections,
};

use crate::text::or_dash;

/// Settings of the kernel (sysctl(8)), as paths below /proc/sys.
const SETTINGS: [&str; 22] = [
    "kernel/sched_autogroup_enabled",
    "kernel/unprivileged_bpf_disabled",
    "kernel/unprivileged_userns_clone",
    "kernel/yama/ptrace_scope",
    "fs/protected_hardlinks",
    "fs/protected_symlinks",
    "net/core/bpf_jit_enable",
    "net/core/default_qdisc",
    "net/core/netdev_budget",
    "net/core/netdev_max_backlog",
    "net/core/rmem_max",
    "net/core/wmem_max",
    "net/ipv4/conf/all/forwarding",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/default/rp_filter",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/tcp_congestion_control",
    "net/ipv6/conf/all/disable_ipv6",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/default/accept_ra",
    "net/netfilter/nf_conntrack_tcp_loose",
];

/// How the names begin of modules that matter.
const MODULES: [&str; 10] =
    ["tun", "veth", "nf_", "nft_", "ip_tables", "ip6_tables", "iptable_", "ip6table_", "xt_", "sch_"];

/// What is shown of a process's state (proc_pid_status(5)).
const STATE: [&str; 16] = [
    "Name",
    "State",
    "PPid",
    "Uid",
    "Gid",
    "FDSize",
    "VmPeak",
    "VmSize",
    "VmHWM",
    "VmRSS",
    "Threads",
    "CapEff",
    "NoNewPrivs",
    "Seccomp",
    "voluntary_ctxt_switches",
    "nonvoluntary_ctxt_switches",
];

/// Versions of this command, the kernel, and the distribution.
pub fn versions() -> String {
    let mut text = format!("uwsgi-tuntap {}\n", env!("CARGO_PKG_VERSION"));
    match uname() {
        Ok(found) => {
            let [name, release, version, machine] =
                [found.sysname(), found.release(), found.version(), found.machine()].map(|it| it.to_string_lossy());
            text += &format!("kernel {name} {release} {version} {machine}\n");
        }
        Err(errno) => text += &format!("kernel: {errno}\n"),
    }
    text + &read("/etc/os-release")
}

/// What the kernel has, its settings, and how busy the machine is.
pub fn kernel() -> String {
    let mut text = String::new();
    let fill = |fill: Option<Fill>| or_dash(fill.map(|Fill { used, most }| format!("{used} of {most}")));
    let tun = fs::metadata("/dev/net/tun").map_or_else(|error| error.to_string(), |_| "there".to_owned());
    for (name, value) in [
        ("landlock", or_dash(landlock_version())),
        ("seccomp filters", has_seccomp_filters().to_string()),
        ("security modules", read("/sys/kernel/security/lsm").trim().to_owned()),
        ("/dev/net/tun", tun),
        ("most descriptors", most_descriptors().to_string()),
        ("longest queue of a listener", or_dash(longest_queue())),
        ("tracked connections", fill(tracked_connections())),
        ("neighbours", fill(neighbours())),
        (
            "processors",
            std::thread::available_parallelism().map_or_else(|error| error.to_string(), |it| it.to_string()),
        ),
        ("load", read("/proc/loadavg").trim().to_owned()),
        ("clock source", read("/sys/devices/system/clocksource/clocksource0/current_clocksource").trim().to_owned()),
    ] {
        // A string takes everything.
        let _ = writeln!(text, "{name}: {value}");
    }
    for setting in SETTINGS {
        if let Ok(value) = fs::read_to_string(format!("/proc/sys/{setting}")) {
            let _ = writeln!(text, "{} = {}", setting.replace('/', "."), value.trim());
        }
    }
    let is_ours = |line: &&str| MODULES.iter().any(|start| line.starts_with(start));
    let modules = read("/proc/modules");
    let modules: Vec<&str> = modules.lines().filter(is_ours).filter_map(|line| line.split(' ').next()).collect();
    let _ = writeln!(text, "modules: {}", modules.join(" "));
    let memory = read("/proc/meminfo");
    text.extend(
        memory
            .lines()
            .filter(|line| line.starts_with("Mem") || line.starts_with("Swap"))
            .map(|line| format!("{line}\n")),
    );
    text
}

/// Interfaces of this network namespace with their counters, and what the kernel's receive path has dropped.
pub fn interfaces() -> String {
    read("/proc/thread-self/net/dev") + "\n/proc/net/softnet_stat\n" + &read("/proc/thread-self/net/softnet_stat")
}

/// The state and the limits of a process.
pub fn process(pid: i32) -> Result<String, String> {
    let path = |file: &str| format!("/proc/{pid}/{file}");
    let status = fs::read_to_string(path("status")).map_err(|error| format!("{}: {error}", path("status")))?;
    let is_wanted = |line: &&str| line.split_once(':').is_some_and(|(name, _)| STATE.contains(&name));
    let mut text: String = status.lines().filter(is_wanted).map(|line| format!("{line}\n")).collect();
    text += &format!("\n{}\ncgroup {}", read(&path("limits")), read(&path("cgroup")));
    Ok(text)
}

/// A file of the kernel, or why it can't be read.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| format!("{path}: {error}\n"))
}
