//! Services of this host: listening TCP sockets, and UDP sockets that are not connected, in the current network namespace
//! (proc_pid_net(5)).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;

use super::interface::Process;

/// A socket that takes packets from anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// True for a socket on all addresses of IPv6 that takes IPv4, too.
    pub takes_ipv4: bool,
    /// True for UDP sockets with a port that the kernel may have chosen for a client.
    pub may_be_client: bool,
    /// The process that has it open; `None` if that is unknown, or before [`name_owners`].
    pub process: Option<Process>,
    /// Its inode; 0 for sockets of the kernel itself.
    pub inode: u64,
}

impl Service {
    /// Returns true if it takes IPv6, or IPv4.
    pub const fn speaks(&self, is_ipv6: bool) -> bool {
        self.address.is_ipv6() == is_ipv6 || self.takes_ipv4
    }

    /// Returns true if it takes packets for an address.
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

/// `TCP_LISTEN` and `TCP_CLOSE` of the kernel's include/net/tcp_states.h. The latter is the state of UDP sockets that are
/// not connected.
const LISTENING: &str = "0A";
const UNCONNECTED: &str = "07";

/// All services, without their processes. The error says which list can't be read.
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
            // Kernels without IPv6 don't have these lists.
            Err(error) if error.kind() == io::ErrorKind::NotFound && file.ends_with('6') => continue,
            Err(error) => return Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
        };
        for (address, port, inode) in text.lines().skip(1).filter_map(|line| socket(line, state)) {
            let takes_ipv4 = address == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && takes_ipv4(protocol, port, &found);
            // Sockets of the kernel itself are no clients.
            let may_be_client = protocol == "udp" && inode != 0 && chosen.contains(&port);
            found.push(Service { protocol, address, port, takes_ipv4, may_be_client, process: None, inode });
        }
    }
    Ok(found)
}

/// Returns true if the socket on all addresses of IPv6 with this port takes IPv4, too. It does unless it has IPV6_V6ONLY
/// (ipv6(7)), which the lists don't show, so that binding the port for IPv4 is tried. `others` must have all services of
/// IPv4.
fn takes_ipv4(protocol: &'static str, port: u16, others: &[Service]) -> bool {
    if others.iter().any(|other| (other.protocol, other.port) == (protocol, port) && other.address.is_ipv4()) {
        return false;
    }
    let any = (Ipv4Addr::UNSPECIFIED, port);
    let result = match protocol {
        "tcp" => TcpListener::bind(any).map(drop),
        _ => UdpSocket::bind(any).map(drop),
    };
    result.is_err()
}

/// Finds the processes that have services open, by looking at all processes.
pub fn name_owners(services: &mut [Service]) {
    if services.is_empty() {
        return;
    }
    let owners = owners();
    for service in services {
        service.process = owners.get(&service.inode).copied().map(Process::of);
    }
}

/// Reads address, port and inode from a line, if it is about a socket in this state. A line has number, address, other end,
/// state, queues, timer, retransmissions, user, timeouts, and inode.
fn socket(line: &str, state: &str) -> Option<(IpAddr, u16, u64)> {
    let words: Vec<&str> = line.split_whitespace().take(10).collect();
    if words.get(3) != Some(&state) {
        return None;
    }
    let (address, port) = words.get(1)?.split_once(':')?;
    Some((read_address(address)?, u16::from_str_radix(port, 16).ok()?, words.get(9)?.parse().ok()?))
}

/// Reads an address in words of 32 bits, each in this machine's byte order.
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

/// The ports that the kernel chooses from for sockets that don't name one (`net.ipv4.ip_local_port_range`).
fn chosen_ports() -> RangeInclusive<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) => first..=last,
        _ => 32768..=60999,
    }
}

/// The first process that has each socket open, by inode of the socket.
fn owners() -> HashMap<u64, i32> {
    let mut owners = HashMap::new();
    let Ok(processes) = fs::read_dir("/proc") else { return owners };
    let mut pids: Vec<i32> = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for target in descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()) {
            let inode = target.to_str().and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']'));
            if let Some(inode) = inode.and_then(|inode| inode.parse().ok()) {
                owners.entry(inode).or_insert(pid);
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, bind, listen, setsockopt, socket as open, sockopt,
    };

    use super::*;
    use crate::testing::service;

    #[test]
    fn services_are_found_with_their_owner_and_told_from_clients() {
        let thread = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs root");
            let lo = nix::net::if_::if_nametoindex("lo").expect("each namespace has one");
            let up = tuntap_sys::netlink::LinkChange { up: Some(true), ..Default::default() };
            tuntap_sys::netlink::Netlink::open().expect("netlink").set_link(lo, up).expect("up");
            let own = i32::try_from(std::process::id()).expect("a pid");
            let _tcp = TcpListener::bind("0.0.0.0:22").expect("own namespace");
            let _connected = std::net::TcpStream::connect("127.0.0.1:22").expect("it listens");
            let _both = TcpListener::bind("[::]:82").expect("own namespace");
            let only = open(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
            setsockopt(&only, sockopt::Ipv6V6Only, &true).expect("an option");
            let address = SockaddrIn6::from(std::net::SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 83, 0, 0));
            bind(std::os::fd::AsRawFd::as_raw_fd(&only), &address).expect("own namespace");
            listen(&only, Backlog::new(1).expect("a number")).expect("it is bound");
            let _udp = UdpSocket::bind("0.0.0.0:53").expect("own namespace");
            let client = UdpSocket::bind("0.0.0.0:0").expect("own namespace");
            let asking = UdpSocket::bind("0.0.0.0:54").expect("own namespace");
            asking.connect("127.0.0.1:53").expect("a way");

            let mut found = services().expect("a list");
            name_owners(&mut found);
            assert!(found.iter().all(|it| it.process.as_ref().is_some_and(|process| process.pid == own)), "{found:?}");
            let ipv4: IpAddr = Ipv4Addr::UNSPECIFIED.into();
            let ipv6: IpAddr = Ipv6Addr::UNSPECIFIED.into();
            let port = client.local_addr().expect("it is bound").port();
            let mut seen: Vec<_> =
                found.iter().map(|it| (it.protocol, it.address, it.port, it.takes_ipv4, it.may_be_client)).collect();
            seen.sort_unstable();
            let mut expected = [
                ("tcp", ipv4, 22, false, false),
                ("tcp", ipv6, 82, true, false),
                ("tcp", ipv6, 83, false, false),
                ("udp", ipv4, 53, false, false),
                ("udp", ipv4, port, false, true),
            ];
            expected.sort_unstable();
            assert_eq!(seen, expected);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    #[test]
    fn lines_are_read() {
        let line = "   0: 0100007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1";
        let loopback: IpAddr = if cfg!(target_endian = "little") { [127, 0, 0, 1] } else { [1, 0, 0, 127] }.into();
        assert_eq!(socket(line, LISTENING), Some((loopback, 53, 77)));
        assert_eq!(socket(line, UNCONNECTED), None);
        assert_eq!(read_address("00000000000000000000000000000000"), Some(Ipv6Addr::UNSPECIFIED.into()));
        assert_eq!(read_address("0000"), None);
    }

    #[test]
    fn unspecified_address_of_ipv6_is_for_both() {
        let at = |address: &str| service("tcp", address, 22);
        let address: IpAddr = "10.0.0.1".parse().expect("an address");
        assert!(at("::").is_for(address) && at("0.0.0.0").is_for(address) && at("10.0.0.1").is_for(address));
        assert!(!at("10.0.0.2").is_for(address) && !at("0.0.0.0").speaks(true));
        assert!(!Service { takes_ipv4: false, ..at("::") }.is_for(address));
    }
}
