//! The router's statistics, as a collector reads them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixSocketAddr, UnixStream};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::netns::Net;

const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Stats(pub Value);

impl Stats {
    /// Reads a unix socket to its end.
    pub fn read(socket: &Path) -> std::io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Self::parse(&to_end(&mut stream)?)
    }

    /// Reads a TCP socket inside a namespace to its end.
    pub fn read_tcp(net: &Net, address: SocketAddr) -> std::io::Result<Self> {
        let mut stream = net.run(|| TcpStream::connect_timeout(&address, TIMEOUT))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Self::parse(&to_end(&mut stream)?)
    }

    /// Reads an abstract socket, whose name belongs to a namespace, to its end.
    pub fn read_abstract(net: &Net, name: &[u8]) -> std::io::Result<Self> {
        let address = UnixSocketAddr::from_abstract_name(name)?;
        let mut stream = net.run(|| UnixStream::connect_addr(&address))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Self::parse(&to_end(&mut stream)?)
    }

    /// Asks as an HTTP client does; the head of the response and the body.
    pub fn read_http(socket: &Path) -> std::io::Result<(String, Self)> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let response = to_end(&mut stream)?;
        let (head, body) = response.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::InvalidData)?;
        Ok((head.to_owned(), Self::parse(body)?))
    }

    fn parse(json: &str) -> std::io::Result<Self> {
        Ok(Self(serde_json::from_str(json)?))
    }

    pub fn router_pid(&self) -> i32 {
        self.0["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("the stats hold the router's pid")
    }

    pub fn peers(&self) -> &[Value] {
        self.0["peers"].as_array().expect("the stats hold a list of peers")
    }

    /// The peer that holds an address.
    pub fn peer(&self, address: impl Into<IpAddr>) -> Option<&Value> {
        let address = address.into().to_string();
        let holds = |peer: &Value| match peer["addresses"].as_array() {
            Some(addresses) => addresses.iter().any(|held| *held == address),
            None => peer["addr"] == address,
        };
        self.peers().iter().find(|peer| holds(peer))
    }

    /// All addresses of the peer that holds this one.
    pub fn addresses(&self, address: impl Into<IpAddr>) -> Vec<IpAddr> {
        let held = self.peer(address).and_then(|peer| peer["addresses"].as_array()).map_or(&[][..], Vec::as_slice);
        held.iter().filter_map(|address| address.as_str()?.parse().ok()).collect()
    }

    /// A number of a peer.
    #[track_caller]
    pub fn of_peer(&self, address: impl Into<IpAddr>, key: &str) -> u64 {
        let address = address.into();
        let peer = self.peer(address).unwrap_or_else(|| panic!("no peer {address} in {}", self.0));
        peer[key].as_u64().unwrap_or_else(|| panic!("no number `{key}` in {peer}"))
    }

    /// Drops for a reason, over all peers and the router itself.
    pub fn drops(&self, reason: &str) -> u64 {
        self.0["drops"][reason].as_u64().unwrap_or(0)
    }

    /// Drops for a reason of the peer that holds an address.
    pub fn drops_of(&self, address: impl Into<IpAddr>, reason: &str) -> u64 {
        self.peer(address).map_or(0, |peer| peer["drops"][reason].as_u64().unwrap_or(0))
    }
}

fn to_end(stream: &mut impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Returns true if a peer is attached: the router reads and writes its device itself.
pub fn is_attached(stats: &Stats, address: impl Into<IpAddr>) -> bool {
    stats.peer(address).is_some_and(|peer| peer["attached"] == true)
}
