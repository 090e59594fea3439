//! Network devices of the current namespace, and the processes that have a TUN device open.

use std::ffi::{CString, OsStr, c_char};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// The kind of a network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interface {
    /// A TUN device.
    Tun {
        /// True if a process has it open.
        is_held: bool,
    },
    /// Another device, by the name of its driver.
    Other(String),
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its process ID.
    pub pid: i32,
    /// Its command, as the kernel has it.
    pub command: String,
}

impl Process {
    /// A process by its ID. Its command is empty if it has ended.
    pub fn of(pid: i32) -> Self {
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Self { pid, command: command.trim_end().to_owned() }
    }

    /// Returns true if it is stopped by a signal or a debugger (proc_pid_stat(5)).
    pub fn is_stopped(&self) -> bool {
        matches!(self.stat(0).as_deref(), Some("T" | "t"))
    }

    /// Returns true if a word of its command line is a path of this file (proc_pid_cmdline(5)).
    pub fn was_given(&self, file: &Path) -> bool {
        let Ok(file) = file.canonicalize() else { return false };
        let Ok(line) = fs::read(format!("/proc/{}/cmdline", self.pid)) else { return false };
        let folder = PathBuf::from(format!("/proc/{}/cwd", self.pid));
        let is_it = |word: &[u8]| folder.join(OsStr::from_bytes(word)).canonicalize().is_ok_and(|word| word == file);
        line.split(|byte| *byte == 0).filter(|word| !word.is_empty()).any(is_it)
    }

    /// The process ID of its parent (proc_pid_stat(5)).
    pub fn parent(&self) -> Option<i32> {
        self.stat(1)?.parse().ok()
    }

    /// A word of `/proc/<pid>/stat`, counted from the state on.
    fn stat(&self, index: usize) -> Option<String> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        // The command, which comes before, may have any characters in it.
        let (_, rest) = stat.rsplit_once(") ")?;
        rest.split_whitespace().nth(index).map(str::to_owned)
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "pid {} ({})", self.pid, self.command)
    }
}

/// Finds out what the network device of a name is; `None` if there is none.
pub fn interface(name: &str) -> Option<Interface> {
    if_nametoindex(name).ok()?;
    let driver = driver(name).unwrap_or_default();
    // The TUN driver reports the bus "tun" for TUN and "tap" for TAP devices.
    Some(match driver {
        DriverInfo { driver, bus } if driver == "tun" && bus == "tun" => {
            // A device that is down doesn't report its carrier.
            Interface::Tun { is_held: has_carrier(name).unwrap_or(true) || !holders(name).is_empty() }
        }
        DriverInfo { driver, bus } if driver == "tun" => Interface::Other(bus),
        DriverInfo { driver, .. } => Interface::Other(driver),
    })
}

/// The processes of the current network namespace that have a TUN device of this name open.
pub fn holders(device: &str) -> Vec<Process> {
    let wanted = format!("iff:\t{device}");
    let Ok(here) = fs::read_link("/proc/thread-self/ns/net") else { return Vec::new() };
    let holds = |pid: i32| {
        if !fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|namespace| namespace == here) {
            return false;
        }
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        // Only TUN devices have this line. The path of the descriptor would depend on the root directory of the process.
        descriptors.flatten().any(|entry| {
            fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", entry.file_name().to_string_lossy()))
                .is_ok_and(|info| info.lines().any(|line| line == wanted))
        })
    };
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| holds(*pid)).map(Process::of).collect()
}

#[derive(Debug, Default)]
struct DriverInfo {
    driver: String,
    bus: String,
}

/// `struct ethtool_drvinfo` of linux/ethtool.h.
#[repr(C)]
struct EthtoolDriver {
    command: u32,
    driver: [c_char; 32],
    version: [c_char; 32],
    firmware: [c_char; 32],
    bus: [c_char; 32],
    rest: [u32; 16],
}

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Commands of linux/ethtool.h.
const ETHTOOL_GDRVINFO: u32 = 0x3;
const ETHTOOL_GLINK: u32 = 0xa;

/// The ioctl of linux/sockios.h.
const SIOCETHTOOL: libc::c_ulong = 0x8946;

fn driver(device: &str) -> nix::Result<DriverInfo> {
    // SAFETY: numbers, for which zeros are valid.
    let mut info: EthtoolDriver = unsafe { std::mem::zeroed() };
    info.command = ETHTOOL_GDRVINFO;
    ethtool(device, (&raw mut info).cast())?;
    Ok(DriverInfo { driver: text(&info.driver), bus: text(&info.bus) })
}

/// Returns true if a device has a carrier. A TUN device has one as long as a process has it open.
fn has_carrier(device: &str) -> nix::Result<bool> {
    let mut value = EthtoolValue { command: ETHTOOL_GLINK, data: 0 };
    ethtool(device, (&raw mut value).cast())?;
    Ok(value.data != 0)
}

fn ethtool(device: &str, request: *mut c_char) -> nix::Result<()> {
    let any: OwnedFd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let name = CString::new(device).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `struct ifreq` is integers and a union of plain data, for which zeros are valid.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.as_bytes().len() >= ifreq.ifr_name.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    for (to, from) in ifreq.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = c_char::from_ne_bytes([*from]);
    }
    ifreq.ifr_ifru.ifru_data = request;
    // SAFETY: SIOCETHTOOL takes a `struct ifreq` with a pointer to a structure that begins with a command and is as long
    // as that command wants it (linux/ethtool.h); both callers see to that.
    Errno::result(unsafe { libc::ioctl(any.as_raw_fd(), SIOCETHTOOL, &raw mut ifreq) }).map(drop)
}

fn text(field: &[c_char]) -> String {
    field.iter().take_while(|&&byte| byte != 0).map(|&byte| char::from(byte.to_ne_bytes()[0])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tuntap_sys::tun::Tun;

    #[test]
    fn tun_devices_are_told_from_others() {
        std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs root");
            assert_eq!(interface("emperor0"), None);
            assert!(matches!(interface("lo"), Some(Interface::Other(_))));
            let _tun = Tun::create("survey0").expect("needs root");
            let up = std::process::Command::new("ip").args(["link", "set", "survey0", "up"]).status();
            assert!(up.expect("ip").success());
            assert_eq!(interface("survey0"), Some(Interface::Tun { is_held: true }));
        })
        .join()
        .expect("no panic");
    }

    /// An instance in a container has another root directory than the doctor outside of it, or the other way round.
    #[test]
    fn holder_with_another_root_directory_is_found() {
        // TUNSETIFF with IFF_TUN and IFF_NO_PI; it ends with its standard input.
        const HOLD: &str = "import fcntl, os, struct, sys\n\
            tun = os.open('/dev/net/tun', os.O_RDWR)\n\
            fcntl.ioctl(tun, 0x400454ca, struct.pack('16sH22x', b'survey1', 0x1001))\n\
            print('holds', flush=True)\n\
            sys.stdin.read()\n";
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().to_owned();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs root");
            let mut child = std::process::Command::new("unshare")
                .args(["--mount", "sh", "-c", "mount --rbind / \"$0\" && exec chroot \"$0\" python3 -c \"$1\""])
                .arg(folder)
                .arg(HOLD)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .expect("unshare can be started");
            let mut said = String::new();
            let output = child.stdout.take().expect("a pipe");
            std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut said).expect("a line");
            let found = holders("survey1");
            drop(child.stdin.take());
            child.wait().expect("own child");
            assert_eq!((said.as_str(), found.len()), ("holds\n", 1), "{found:?}");
        })
        .join()
        .expect("no panic");
    }
}
