//! Who serves what on this host: listening TCP sockets and UDP sockets that are open to anybody, in the current network
//! namespace (proc_pid_net(5)).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::os::fd::RawFd;

use nix::sys::socket::{getsockopt, sockopt};

use super::interface::Process;
use crate::sys::process::descriptor_of;

/// A socket that takes what comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Its address.
    pub address: IpAddr,
    /// Whether it takes no IPv4, although its address is the unspecified one of IPv6 (ipv6(7), IPV6_V6ONLY).
    pub is_ipv6_only: bool,
    /// Its port.
    pub port: u16,
    /// Who has it open; `None` where that can't be seen.
    pub process: Option<Process>,
}

impl Service {
    /// Whether it takes packets of a version of IP.
    pub fn speaks(&self, is_ipv6: bool) -> bool {
        self.address.is_ipv6() == is_ipv6 || (self.address == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !self.is_ipv6_only)
    }

    /// Whether it takes what is for an address.
    pub fn is_for(&self, address: IpAddr) -> bool {
        self.address == address || (self.address.is_unspecified() && self.speaks(address.is_ipv6()))
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.protocol, self.port)?;
        match &self.process {
            Some(process) => write!(formatter, " ({})", process.command),
            None => Ok(()),
        }
    }
}

/// `TCP_LISTEN` and `TCP_CLOSE` of the kernel's include/net/tcp_states.h, the latter for UDP sockets that are not connected.
const LISTENING: &str = "0A";
const UNCONNECTED: &str = "07";

/// All of them. The error says which list can't be read. UDP sockets with a port that the kernel chose ask, and don't serve.
pub fn services() -> io::Result<Vec<Service>> {
    let chosen = chosen_ports();
    let mut found = Vec::new();
    for (file, protocol, state) in [
        ("tcp", "tcp", LISTENING),
        ("tcp6", "tcp", LISTENING),
        ("udp", "udp", UNCONNECTED),
        ("udp6", "udp", UNCONNECTED),
    ] {
        let path = format!("/proc/thread-self/net/{file}");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // Without IPv6 there are no such lists.
            Err(error) if error.kind() == io::ErrorKind::NotFound && file.ends_with('6') => continue,
            Err(error) => return Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
        };
        let sockets = text.lines().skip(1).filter_map(|line| socket(line, state));
        found.extend(sockets.map(|(address, port, inode)| (protocol, address, port, inode)));
    }
    found.retain(|(protocol, _, port, _)| *protocol == "tcp" || !chosen.contains(port));
    let owners = if found.is_empty() { HashMap::new() } else { owners() };
    let service = |(protocol, address, port, inode): (_, _, _, String)| {
        let owner = owners.get(&inode).copied();
        let is_ipv6_only = address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            && owner.is_some_and(|(pid, number)| takes_no_ipv4(pid, number));
        Service { protocol, address, is_ipv6_only, port, process: owner.map(|(pid, _)| Process::of(pid)) }
    };
    Ok(found.into_iter().map(service).collect())
}

/// Address, port and inode of a line that is about a socket in this state: number, address, other end, state, queues,
/// timer, retransmissions, user, timeouts and inode stand in it.
fn socket(line: &str, state: &str) -> Option<(IpAddr, u16, String)> {
    let words: Vec<&str> = line.split_whitespace().take(10).collect();
    if words.get(3) != Some(&state) {
        return None;
    }
    let (address, port) = words.get(1)?.split_once(':')?;
    let inode = (*words.get(9)?).to_owned();
    Some((read_address(address)?, u16::from_str_radix(port, 16).ok()?, inode))
}

/// An address as words of 32 bits, each as a number of this machine.
fn read_address(text: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let word = u32::from_str_radix(text.get(8 * index..8 * index + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let bytes: [u8; 16] = [word(0)?, word(1)?, word(2)?, word(3)?].concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// Ports that the kernel gives to those who don't name one (`net.ipv4.ip_local_port_range`).
fn chosen_ports() -> RangeInclusive<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) => first..=last,
        _ => 32768..=60999,
    }
}

/// Whether a process's socket is for IPv6 only. Where that can't be found out, it is for both, as most are.
fn takes_no_ipv4(pid: i32, number: RawFd) -> bool {
    let socket = descriptor_of(pid, number);
    socket.and_then(|socket| getsockopt(&socket, sockopt::Ipv6V6Only)).unwrap_or(false)
}

/// The first process that has each socket open, and its number there, by the socket's inode.
fn owners() -> HashMap<String, (i32, RawFd)> {
    let mut owners = HashMap::new();
    let Ok(processes) = fs::read_dir("/proc") else { return owners };
    let mut pids: Vec<i32> = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for entry in descriptors.flatten() {
            let (Ok(target), Some(number)) =
                (fs::read_link(entry.path()), entry.file_name().to_str().and_then(|number| number.parse().ok()))
            else {
                continue;
            };
            let inode = target.to_str().and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']'));
            if let Some(inode) = inode {
                owners.entry(inode.to_owned()).or_insert((pid, number));
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn listening_sockets_are_found_with_their_owner() {
        std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs root");
            let _tcp = TcpListener::bind("0.0.0.0:22").expect("own namespace");
            let _udp = UdpSocket::bind("0.0.0.0:53").expect("own namespace");
            let _client = UdpSocket::bind("0.0.0.0:0").expect("own namespace");
            let found = services().expect("a list");
            let own = i32::try_from(std::process::id()).expect("a pid");
            let seen: Vec<_> = found.iter().map(|it| (it.protocol, it.address, it.port)).collect();
            assert_eq!(seen, [("tcp", Ipv4Addr::UNSPECIFIED.into(), 22), ("udp", Ipv4Addr::UNSPECIFIED.into(), 53)]);
            assert!(found.iter().all(|it| it.process.as_ref().is_some_and(|process| process.pid == own)), "{found:?}");
        })
        .join()
        .expect("the test");
    }

    #[test]
    fn lines_are_read() {
        let line = "   0: 0100007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1";
        let loopback: IpAddr = if cfg!(target_endian = "little") { [127, 0, 0, 1] } else { [1, 0, 0, 127] }.into();
        assert_eq!(socket(line, LISTENING), Some((loopback, 53, "77".to_owned())));
        assert_eq!(socket(line, UNCONNECTED), None);
        assert_eq!(read_address("00000000000000000000000000000000"), Some(Ipv6Addr::UNSPECIFIED.into()));
        assert_eq!(read_address("0000"), None);
    }

    #[test]
    fn unspecified_address_of_ipv6_is_for_both() {
        let service = |address: &str| Service {
            protocol: "tcp",
            address: address.parse().expect("an address"),
            is_ipv6_only: false,
            port: 22,
            process: None,
        };
        let address: IpAddr = "10.0.0.1".parse().expect("an address");
        assert!(
            service("::").is_for(address) && service("0.0.0.0").is_for(address) && service("10.0.0.1").is_for(address)
        );
        assert!(!service("10.0.0.2").is_for(address) && !service("0.0.0.0").speaks(true));
        let only = Service { is_ipv6_only: true, ..service("::") };
        assert!(!only.is_for(address) && only.speaks(true));
    }
}
