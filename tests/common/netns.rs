//! Network namespaces: named ones that a test makes, and those of running processes.

use std::fs::File;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::machine;

const PREFIX: &str = "tuntap-";

/// A network namespace that can be worked in.
#[derive(Debug)]
pub struct Net {
    file: File,
}

impl Net {
    /// The namespace of a process; it stays usable while this value lives, even after the process ended.
    pub fn of_process(pid: i32) -> std::io::Result<Self> {
        Self::open(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self { file: File::open(path)? })
    }

    /// Runs `work` on a thread inside the namespace. Sockets made there stay in it; so do children, but those
    /// must not be tied to the thread's life.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
                work()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Runs a program inside, bounded in time.
    pub fn output(&self, program: &[&str]) -> Output {
        self.run(|| {
            Command::new("timeout").args(["-s", "KILL", "60"]).args(program).output().expect("timeout can be started")
        })
    }

    /// Runs a program inside and demands success; its standard output.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = self.output(&words);
        assert!(output.status.success(), "`{line}`: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn has_device(&self, device: &str) -> bool {
        self.output(&["ip", "link", "show", "dev", device]).status.success()
    }
}

/// A namespace of the test's own, deleted with the last of these that stand for it. IPv6 is off in it unless a test turns it on.
#[derive(Clone, Debug)]
pub struct Netns(Arc<Named>);

#[derive(Debug)]
struct Named {
    name: String,
    net: Net,
}

impl Netns {
    pub fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        machine::require();
        let name = format!("{PREFIX}{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let added = Command::new("ip").args(["netns", "add", &name]).output().expect("ip can be started");
        assert!(added.status.success(), "ip netns add: {}", String::from_utf8_lossy(&added.stderr));
        let net = Net::open(&path_of(&name)).expect("the new namespace has a file");
        let netns = Self(Arc::new(Named { name, net }));
        netns.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv4.ip_forward=1");
        netns.sh("ip link set lo up");
        netns
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Turns IPv6 on.
    pub fn with_ipv6(self) -> Self {
        self.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.all.forwarding=1");
        self
    }

    /// Joins two namespaces by a veth pair and gives each end its address (`addr/n`).
    pub fn join(&self, own: &str, other: &Self, others: &str) {
        self.sh(&format!("ip link add veth0 type veth peer name veth0 netns {}", other.name()));
        for (netns, address) in [(self, own), (other, others)] {
            netns.sh(&format!("ip addr add {address} dev veth0{}", if address.contains(':') { " nodad" } else { "" }));
            netns.sh("ip link set veth0 up");
        }
    }
}

impl std::ops::Deref for Netns {
    type Target = Net;

    fn deref(&self) -> &Net {
        &self.0.net
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        delete(&self.name);
    }
}

/// Deletes the namespaces of test processes that were killed before they could.
pub fn remove_stale() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()) {
            delete(&name);
        }
    }
}

fn delete(name: &str) {
    // On drop there is nobody to tell; a name that stays is removed by the next run.
    let _ = Command::new("ip").args(["netns", "del", name]).output();
}

fn path_of(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}
