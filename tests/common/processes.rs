//! Finding and ending the processes of a test.
//!
//! Vassals are grandchildren, some in pid namespaces of their own, and lose their parent when an Emperor is
//! killed. What they all keep is the environment that they were started with, so a marker in it names them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{major, minor};
use nix::unistd::Pid;

use super::wait;

/// The environment variable that carries the marker.
pub const VARIABLE: &str = "TUNTAP_TEST";

#[derive(Clone, Debug)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub command_line: Vec<String>,
}

/// A family of processes that were started with the same marker.
#[derive(Clone, Debug)]
pub struct Family {
    marker: String,
}

impl Family {
    pub fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        Self { marker: format!("{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)) }
    }

    pub fn marker(&self) -> &str {
        &self.marker
    }

    /// All living members; zombies don't count.
    pub fn members(&self) -> Vec<Process> {
        let wanted = format!("{VARIABLE}={}", self.marker).into_bytes();
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environment.split(|byte| *byte == 0).any(|variable| variable == wanted)
            })
            .filter_map(read)
            .collect()
    }

    /// The process that runs this ini file and whose parent does not: the instance's master.
    pub fn master_of(&self, ini: &str) -> Option<i32> {
        let members = self.members();
        let runs = |process: &Process| process.command_line.iter().any(|word| word.ends_with(ini));
        let running: Vec<&Process> = members.iter().filter(|process| runs(process)).collect();
        running
            .iter()
            .find(|process| !running.iter().any(|other| other.pid == process.parent))
            .map(|process| process.pid)
    }

    pub fn children_of(&self, pid: i32) -> Vec<Process> {
        self.members().into_iter().filter(|process| process.parent == pid).collect()
    }

    /// Kills all members, and those that they fork meanwhile.
    pub fn kill_all(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut quiet_scans = 0;
        while quiet_scans < 2 && Instant::now() < deadline {
            let members = self.members();
            quiet_scans = if members.is_empty() { quiet_scans + 1 } else { 0 };
            for process in members {
                send(process.pid, Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Sends a signal; a process that is gone already is no error.
pub fn send(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Stops a process and waits until it stands still.
#[track_caller]
pub fn freeze(pid: i32) {
    send(pid, Signal::SIGSTOP);
    wait::until_true("the process is stopped", wait::SHORT, || state(pid) == Some('T'));
}

pub fn thaw(pid: i32) {
    send(pid, Signal::SIGCONT);
}

/// Returns true if a process runs. A zombie doesn't.
pub fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// When a process was started, in clock ticks since the boot (proc_pid_stat(5)); the greatest number if it is gone.
pub fn started(pid: i32) -> u64 {
    // The text begins with the third field, and this is the 22nd one.
    after_name(pid).and_then(|stat| stat.split_whitespace().nth(22 - 3)?.parse().ok()).unwrap_or(u64::MAX)
}

/// CPU time that a process has used.
pub fn cpu_time(pid: i32) -> Duration {
    let ticks: u64 = after_name(pid)
        .map(|stat| stat.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum())
        .unwrap_or(0);
    // The kernel reports in USER_HZ, which is 100 on every Linux that userland can see.
    Duration::from_millis(ticks * 10)
}

/// Memory that a process has for itself and has written to, in bytes: what it allocated, but not its program.
#[track_caller]
pub fn memory(pid: i32) -> u64 {
    let sums = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kibibytes = sums.lines().find_map(|line| line.strip_prefix("Private_Dirty:")?.strip_suffix(" kB"));
    let kibibytes: Option<u64> = kibibytes.and_then(|number| number.trim().parse().ok());
    kibibytes.unwrap_or_else(|| panic!("no memory of {pid} in {sums:?}")) * 1024
}

/// How often a process has waited for something.
pub fn sleeps(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("no count for {pid} in {status}"))
}

/// Returns true if a process has a handler for a signal.
pub fn catches(pid: i32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal as i32 - 1) & 1 == 1)
}

/// What a process's descriptors refer to.
pub fn descriptors(pid: i32) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect()
}

/// Waits until a process has this many descriptors open. A router closes devices a little after it has dropped them.
#[track_caller]
pub fn assert_descriptors(pid: i32, count: usize, what: &str) {
    let reached = wait::try_until(wait::SHORT, || (descriptors(pid).len() == count).then_some(()));
    assert!(reached.is_some(), "{what}: {count} descriptors were expected, not {:?}", descriptors(pid));
}

/// Bounds how many descriptors a running process may have open.
#[track_caller]
pub fn limit_descriptors(pid: i32, limit: usize) {
    let status =
        Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--nofile={limit}:{limit}")]).status();
    assert!(status.expect("prlimit can be started").success());
}

/// Runs a line of a shell in the mount namespace of a process.
#[track_caller]
pub fn run_in_mounts_of(pid: i32, line: &str) {
    let status = Command::new("nsenter").args(["-t", &pid.to_string(), "-m", "sh", "-c", line]).status();
    assert!(status.expect("nsenter can be started").success(), "{line}");
}

/// Returns true if a process has a file mapped, such as a plugin, by whatever path.
pub fn has_mapped(pid: i32, file: &Path) -> bool {
    let Ok(file) = file.metadata() else { return false };
    let (device, inode) = (file.dev(), file.ino().to_string());
    let device = format!("{:02x}:{:02x}", major(device), minor(device));
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    // The columns are: addresses, permissions, offset, device, inode, path.
    maps.lines().any(|line| line.split_whitespace().skip(3).take(2).eq([device.as_str(), inode.as_str()]))
}

fn read(pid: i32) -> Option<Process> {
    let parent = after_name(pid)?.split_whitespace().nth(1)?.parse().ok()?;
    let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command_line =
        command_line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    Some(Process { pid, parent, command_line })
}

fn state(pid: i32) -> Option<char> {
    after_name(pid)?.trim_start().chars().next()
}

/// `/proc/<pid>/stat` from the state on: the name before it may hold anything.
fn after_name(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.to_owned())
}
