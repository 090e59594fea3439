//! Whom a running router has as its peers, by its statistics, and what their network namespaces look like.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use super::interface::Process;
use tuntap_sys::netlink::Netlink;
use tuntap_sys::socket::connect_once;

/// How long a router may take to tell its statistics.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest statistics that are read, in bytes.
const MAX_LEN: u64 = 32 << 20;

/// So many peers are looked at.
const MAX_PEERS: usize = 1000;

/// Where the statistics are.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A unix socket, by path or `@name`.
    Unix(&'a str),
    /// A TCP port.
    Tcp(SocketAddr),
}

/// A peer, as the router says, and what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its process.
    pub process: Process,
    /// Its user.
    pub uid: u64,
    /// The addresses that it holds.
    pub addresses: Vec<IpAddr>,
    /// Its interfaces, if it has a network namespace of its own. The error says why that can't be seen.
    pub network: Option<Result<Vec<PeerLink>, String>>,
}

/// An interface in a peer's network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerLink {
    /// Its name.
    pub name: String,
    /// Whether it is administratively up.
    pub is_up: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Asks a router. `is_http`: it wants a request first.
pub fn peers(source: Source<'_>, is_http: bool) -> io::Result<Vec<Peer>> {
    let text = match source {
        Source::Unix(name) => {
            let stream = UnixStream::from(connect_once(name)?);
            stream.set_read_timeout(Some(PATIENCE))?;
            // It was connected without waiting.
            stream.set_nonblocking(false)?;
            ask(stream, is_http)?
        }
        Source::Tcp(address) => {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            ask(stream, is_http)?
        }
    };
    let body = text.find('{').map_or("", |start| &text[start..]);
    let stats: Value = serde_json::from_str(body)?;
    let listed = stats.get("peers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Ok(listed.iter().filter_map(peer).take(MAX_PEERS).collect())
}

fn ask(mut stream: impl Read + Write, is_http: bool) -> io::Result<String> {
    if is_http {
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    }
    let deadline = Instant::now() + PATIENCE;
    let mut text = Vec::new();
    let mut part = vec![0; 1 << 16];
    loop {
        let count = stream.read(&mut part)?;
        if count == 0 {
            return String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into());
        }
        text.extend_from_slice(&part[..count]);
        if Instant::now() > deadline || u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_LEN {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

fn peer(value: &Value) -> Option<Peer> {
    let addresses = value.get("addresses")?.as_array()?;
    let addresses: Vec<IpAddr> = addresses.iter().filter_map(|it| it.as_str()?.parse().ok()).collect();
    let pid = i32::try_from(value.get("pid")?.as_i64()?).ok().filter(|pid| *pid > 0)?;
    let uid = value.get("uid")?.as_u64()?;
    let is_elsewhere = match (fs::read_link(format!("/proc/{pid}/ns/net")), fs::read_link("/proc/thread-self/ns/net")) {
        (Ok(its), Ok(own)) => its != own,
        _ => false,
    };
    let network = (is_elsewhere && !addresses.is_empty()).then(|| network_of(pid).map_err(|error| error.to_string()));
    Some(Peer { process: Process::of(pid), uid, addresses, network })
}

/// The interfaces of another process, seen from a thread that ends in its namespace.
fn network_of(pid: i32) -> io::Result<Vec<PeerLink>> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    std::thread::scope(|scope| {
        let looking = scope.spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            let mut netlink = Netlink::open().map_err(io::Error::other)?;
            let links = netlink.links().map_err(io::Error::other)?;
            let addresses = netlink.addresses().map_err(io::Error::other)?;
            let link = |link: tuntap_sys::netlink::Link| {
                let own = addresses.iter().filter(|it| it.index == link.index).map(|it| it.address.addr()).collect();
                PeerLink { name: link.name, is_up: link.is_up, addresses: own }
            };
            Ok(links.into_iter().map(link).collect())
        });
        looking.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
}
