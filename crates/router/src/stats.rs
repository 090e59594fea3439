//! What the router tells about itself. The keys of the C plugin come first and mean the same.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::priority::Priority;
use super::sandbox::Confinement;
use tuntap_core::policy::admission::AdmissionError;
use tuntap_core::policy::drops::DropCounters;

/// Counters of the whole router.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Totals {
    /// Packets read from the TUN device.
    pub tun_rx_packets: u64,
    /// Bytes of these.
    pub tun_rx_bytes: u64,
    /// Packets written to the TUN device.
    pub tun_tx_packets: u64,
    /// Bytes of these.
    pub tun_tx_bytes: u64,
    /// Datagrams from other routers.
    pub gateway_rx_packets: u64,
    /// Bytes of these.
    pub gateway_rx_bytes: u64,
    /// Datagrams to other routers.
    pub gateway_tx_packets: u64,
    /// Bytes of these.
    pub gateway_tx_bytes: u64,
    /// Connections that became peers.
    pub accepted: u64,
    /// Peers that were taken over from a router that died.
    pub restored: u64,
    /// Connections that were turned away because of a limit.
    pub turned_away: u64,
    /// Devices that were taken back to frames because packets took too much time in their namespaces.
    pub detached: u64,
    /// Devices that were attached after they had waited for that.
    pub attached_again: u64,
    /// Statistics clients that were turned away because they may be peers.
    pub stats_refused: u64,
    /// Times that no descriptor was left for a connection.
    pub accept_failures: u64,
    /// Peers that were ended for what they sent.
    pub faults: u64,
    /// Addresses that were given to a peer.
    pub claims: u64,
    /// Answers to packets that a rule rejected. Beyond what may be sent of them, such packets are only dropped.
    pub rejections: u64,
}

/// How often a limit left no room, by the end of its option's name.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LimitsReached {
    /// Connections turned away.
    pub max_peers: u64,
    /// Connections turned away, and peers ended for whose credentials they showed.
    pub max_peers_per_uid: u64,
    /// Claims and questions refused because their user holds as many addresses as one may, each time.
    pub max_addresses_per_uid: u64,
    /// Connections turned away.
    pub max_unclaimed: u64,
    /// Peers ended because they had no address for so long, and another connection needed their room.
    pub unclaimed_timeout: u64,
    /// Peers ended for the number of their rules.
    pub max_device_rules: u64,
}

impl LimitsReached {
    /// Counts a connection that was turned away.
    pub const fn count(&mut self, refusal: AdmissionError) {
        match refusal {
            AdmissionError::Peers(_) => self.max_peers += 1,
            AdmissionError::PeersPerUid(_) => self.max_peers_per_uid += 1,
            AdmissionError::Unclaimed(_) | AdmissionError::UnclaimedShare(_) => self.max_unclaimed += 1,
        }
    }
}

/// The state of a router at one moment.
#[derive(Debug, Serialize)]
pub struct Snapshot<'a> {
    /// The host's version.
    pub version: &'a str,
    /// The router's process.
    pub pid: libc::pid_t,
    /// Its user.
    pub uid: libc::uid_t,
    /// Its group.
    pub gid: libc::gid_t,
    /// Its folder.
    pub cwd: String,
    /// Its connections.
    pub peers: Vec<PeerStats<'a>>,
    /// This plugin's version.
    pub plugin_version: &'static str,
    /// The TUN device.
    pub device: &'a str,
    /// What the device leaves to be done.
    pub offloads: Vec<&'static str>,
    /// The unix socket.
    pub socket: &'a str,
    /// The UDP address for other routers.
    pub gateway: Option<String>,
    /// Its own addresses (`tuntap-router-address`), with the lengths of their networks' prefixes.
    pub addresses: Vec<String>,
    /// The host's interfaces by which its vassals reach other networks.
    pub nat: &'a [String],
    /// The host's ports that lead to its vassals.
    pub ports: Vec<PortStats>,
    /// Seconds since the router's process started its work.
    pub uptime: u64,
    /// Its share of processor time.
    pub priority: &'a Priority,
    /// What its process gave up.
    pub sandbox: &'a Confinement,
    /// Its counters.
    pub totals: &'a Totals,
    /// How often its limits left no room. Bytes that found none in a peer's queue are among the drops.
    pub limits_reached: &'a LimitsReached,
    /// Packets that went nowhere, by reason; those in `peers` are among them.
    pub drops: &'a DropCounters,
}

/// One port mapping.
#[derive(Debug, Serialize)]
pub struct PortStats {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The host's port.
    pub port: u16,
    /// The vassal's address.
    pub address: IpAddr,
    /// The vassal's port.
    pub target_port: u16,
    /// Process of the peer that holds the address right now, if any does.
    pub peer: Option<libc::pid_t>,
}

/// One connection. `tx` is towards the peer.
#[derive(Debug, Serialize)]
pub struct PeerStats<'a> {
    /// Its address, that of IPv4 if it has one; or nothing.
    pub addr: String,
    /// The address's bytes in network order, read as a number of this machine; 0 for IPv6.
    pub addr_32: u32,
    /// All its addresses, that of IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// User.
    pub uid: libc::uid_t,
    /// Group.
    pub gid: libc::gid_t,
    /// Process.
    pub pid: libc::pid_t,
    /// Bytes, frame headers included.
    pub tx: u64,
    /// Bytes, frame headers included.
    pub rx: u64,
    /// Packets that it was too slow to take.
    pub dropped: u64,
    /// Packets.
    pub tx_packets: u64,
    /// Packets.
    pub rx_packets: u64,
    /// Bytes that wait to be written to it.
    pub queued: usize,
    /// Whether its TUN device is read and written by the router.
    pub attached: bool,
    /// What its device leaves to be done.
    pub offloads: Vec<&'static str>,
    /// Why it is not attached.
    pub stream_reason: Option<String>,
    /// How many rules it sent.
    pub rules: usize,
    /// Packets from it or to it that went nowhere, by reason.
    pub drops: &'a DropCounters,
}

impl PeerStats<'_> {
    /// The C plugin's two forms of an address.
    pub fn address_forms(address: Option<IpAddr>) -> (String, u32) {
        match address {
            None => (String::new(), 0),
            Some(IpAddr::V4(address)) => (address.to_string(), u32::from_ne_bytes(address.octets())),
            Some(IpAddr::V6(address)) => (address.to_string(), 0),
        }
    }
}

impl Snapshot<'_> {
    /// As JSON, indented like uWSGI's own statistics unless `minified`.
    pub fn to_json(&self, minified: bool) -> Vec<u8> {
        let mut json = Vec::new();
        let result = if minified {
            serde_json::to_writer(&mut json, self)
        } else {
            self.serialize(&mut Serializer::with_formatter(&mut json, PrettyFormatter::with_indent(b"\t")))
        };
        debug_assert!(result.is_ok(), "no map with other keys than strings, and no I/O");
        json
    }
}
