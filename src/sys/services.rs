//! Services of this host: sockets that take what comes to a port (proc_net(5)), in the network namespace of the calling thread.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;

use super::survey::interface::Process;

/// A transport protocol whose sockets can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP: sockets that listen.
    Tcp,
    /// UDP: sockets that anybody may send to.
    Udp,
}

/// A socket that takes what comes to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its address; unspecified for all of them.
    pub address: SocketAddr,
    /// Its inode; 0 for one of the kernel's own.
    inode: u64,
    /// Whether the kernel may have chosen the port for a client that only sends.
    pub may_be_client: bool,
}

/// `TCP_LISTEN` and `TCP_CLOSE` of net/tcp_states.h. The latter is what sockets of UDP are in that are not connected.
const LISTENING: &str = "0A";
const UNCONNECTED: &str = "07";

/// The ports that the kernel gives to clients, if it doesn't say (net.ipv4.ip_local_port_range).
const USUAL_CLIENT_PORTS: RangeInclusive<u16> = 32768..=60999;

/// All of them at one moment: the kernel goes through the connections of all namespaces for each list.
#[derive(Debug)]
pub struct Services {
    /// Of TCP and UDP, each of IPv4 and IPv6.
    lists: [[Vec<Service>; 2]; 2],
}

impl Services {
    /// Reads the lists.
    pub fn read() -> Self {
        let clients = client_ports();
        let list = |name: &str, protocol| {
            let text = fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
            text.lines().filter_map(|line| service(line, protocol, &clients)).collect::<Vec<_>>()
        };
        let of = |protocol: Protocol, names: [&str; 2]| names.map(|name| list(name, protocol));
        Self { lists: [of(Protocol::Tcp, ["tcp", "tcp6"]), of(Protocol::Udp, ["udp", "udp6"])] }
    }

    /// The sockets that take what comes to a port on addresses of one family that aren't loopback.
    pub fn on(&self, protocol: Protocol, port: u16, is_ipv4: bool) -> Vec<Service> {
        let [ipv4, ipv6] = match protocol {
            Protocol::Tcp => &self.lists[0],
            Protocol::Udp => &self.lists[1],
        };
        let takes = |service: &&Service| service.address.port() == port && !service.address.ip().is_loopback();
        let of_family = |service: &&Service| service.address.is_ipv4() == is_ipv4;
        let found: Vec<_> = ipv4.iter().chain(ipv6).filter(takes).filter(of_family).cloned().collect();
        if !is_ipv4 || !found.is_empty() {
            return found;
        }
        // Sockets of IPv6 take IPv4, too, unless they say no, which the list doesn't tell.
        let both: Vec<_> =
            ipv6.iter().filter(takes).filter(|service| service.address.ip().is_unspecified()).cloned().collect();
        if both.is_empty() || is_free(protocol, port) { Vec::new() } else { both }
    }
}

/// Whether nobody has a port of IPv4.
fn is_free(protocol: Protocol, port: u16) -> bool {
    let any = (Ipv4Addr::UNSPECIFIED, port);
    let result = match protocol {
        Protocol::Tcp => TcpListener::bind(any).map(drop),
        Protocol::Udp => UdpSocket::bind(any).map(drop),
    };
    !result.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

fn client_ports() -> RangeInclusive<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut words = text.split_whitespace().map(str::parse);
    match (words.next(), words.next()) {
        (Some(Ok(first)), Some(Ok(last))) => first..=last,
        _ => USUAL_CLIENT_PORTS,
    }
}

/// One line of the list: number, own address, other address, state, four words, and at the end the inode.
fn service(line: &str, protocol: Protocol, clients: &RangeInclusive<u16>) -> Option<Service> {
    let words: Vec<&str> = line.split_whitespace().take(10).collect();
    let [_, address, _, state, _, _, _, _, _, inode] = words.as_slice() else { return None };
    let wanted = match protocol {
        Protocol::Tcp => LISTENING,
        Protocol::Udp => UNCONNECTED,
    };
    let address = socket_address(address).filter(|_| *state == wanted)?;
    let inode = inode.parse().ok()?;
    let may_be_client = protocol == Protocol::Udp && inode != 0 && clients.contains(&address.port());
    Some(Service { address, inode, may_be_client })
}

/// Address and port in hexadecimal; addresses in words of four bytes, each as this machine stores numbers.
fn socket_address(word: &str) -> Option<SocketAddr> {
    let (address, port) = word.split_once(':')?;
    let words = address
        .as_bytes()
        .chunks(8)
        .map(|word| Some(u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?.to_ne_bytes()));
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    let address: IpAddr = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
        _ => {
            let address = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
            address.to_ipv4_mapped().map_or(address.into(), IpAddr::from)
        }
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

impl Service {
    /// A process that has it open; `None` for one of the kernel's own, or that can't be seen.
    pub fn process(&self) -> Option<Process> {
        let wanted = format!("socket:[{}]", self.inode);
        let holds = |pid: &i32| {
            let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
            descriptors
                .flatten()
                .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()))
        };
        let processes = fs::read_dir("/proc").ok().filter(|_| self.inode != 0)?.flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(holds).min().map(Process::of)
    }
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::sys::netlink::{LinkChange, Netlink};

    #[test]
    fn services_are_told_from_clients_and_from_loopback() {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
            let mut netlink = Netlink::open().expect("netlink");
            netlink.set_link(1, LinkChange { up: Some(true), ..LinkChange::default() }).expect("up");
            let addresses = |protocol, port, is_ipv4| -> Vec<_> {
                Services::read().on(protocol, port, is_ipv4).iter().map(|service| service.address.to_string()).collect()
            };
            let own = TcpListener::bind("0.0.0.0:80").expect("free");
            let _loopback = TcpListener::bind("127.0.0.1:81").expect("free");
            let _both = TcpListener::bind("[::]:82").expect("free");
            let client = std::net::TcpStream::connect("127.0.0.1:80").expect("it listens");
            assert_eq!(addresses(Protocol::Tcp, 80, true), ["0.0.0.0:80"]);
            assert_eq!(addresses(Protocol::Tcp, 80, false), [""; 0]);
            assert_eq!(addresses(Protocol::Tcp, 81, true), [""; 0]);
            assert_eq!(addresses(Protocol::Tcp, 82, true), ["[::]:82"], "it takes both");
            assert_eq!(addresses(Protocol::Tcp, 82, false), ["[::]:82"]);
            let port = client.local_addr().expect("it has one").port();
            assert_eq!(addresses(Protocol::Tcp, port, true), [""; 0], "a client is no service");
            let process = Services::read().on(Protocol::Tcp, 80, true)[0].process().expect("this one");
            assert_eq!(process.pid, i32::try_from(std::process::id()).expect("a pid"));
            drop(own);

            let _udp = UdpSocket::bind("0.0.0.0:53").expect("free");
            let asking = UdpSocket::bind("0.0.0.0:0").expect("free");
            let port = asking.local_addr().expect("it has one").port();
            assert!(!Services::read().on(Protocol::Udp, 53, true)[0].may_be_client);
            assert!(Services::read().on(Protocol::Udp, port, true)[0].may_be_client);
            asking.connect("127.0.0.1:53").expect("a way");
            assert_eq!(addresses(Protocol::Udp, port, true), [""; 0], "a connected one is no service");
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}
