//! Whom a running router has as its peers, by its statistics, and what their network namespaces look like.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tuntap_api::PeerStats;

use super::interface::Process;
use super::statistics::{self, Source, StatisticsError, Transport};
use tuntap_sys::netlink::Netlink;

/// How long the statistics of a router may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How many peers are looked at, at most.
const MAX_PEERS: usize = 1000;

/// A peer by the router's statistics, with its interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its process.
    pub process: Process,
    /// Its user.
    pub uid: u32,
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
    /// True if it is administratively up.
    pub is_up: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Reads a router's peers from its statistics, and looks at their network namespaces.
///
/// # Errors
/// The statistics can't be read.
pub fn peers(source: Source<'_>, transport: Transport) -> Result<Vec<Peer>, StatisticsError> {
    let snapshot = statistics::read(source, transport, TIMEOUT)?.snapshot;
    // Each is looked at in /proc, where 0 is no process.
    let listed = snapshot.peers.into_iter().filter(|peer| peer.pid > 0);
    Ok(listed.take(MAX_PEERS).map(peer).collect())
}

fn peer(stats: PeerStats) -> Peer {
    let PeerStats { pid, uid, addresses, .. } = stats;
    let is_elsewhere = match (fs::read_link(format!("/proc/{pid}/ns/net")), fs::read_link("/proc/thread-self/ns/net")) {
        (Ok(its), Ok(own)) => its != own,
        _ => false,
    };
    let network = (is_elsewhere && !addresses.is_empty()).then(|| network_of(pid).map_err(|error| error.to_string()));
    Peer { process: Process::of(pid), uid, addresses, network }
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
