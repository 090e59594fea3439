//! The statistics of a router. The keys of the C plugin come first and mean the same.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};
use serde_json::ser::{PrettyFormatter, Serializer};

use super::{DropCounts, RoutesStats, Shaped, TrunkStats, Word};

/// The state of a router at one moment.
///
/// `peers` is the only key that a document must have: every router has it, that of the C plugin too, and uWSGI's own
/// statistics don't.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// uWSGI's version.
    #[serde(default)]
    pub version: String,
    /// The router's process.
    #[serde(default)]
    pub pid: i32,
    /// Its user.
    #[serde(default)]
    pub uid: u32,
    /// Its group.
    #[serde(default)]
    pub gid: u32,
    /// Its working directory.
    #[serde(default)]
    pub cwd: String,
    /// Its connections.
    pub peers: Vec<PeerStats>,
    /// The plugin's version.
    #[serde(default)]
    pub plugin_version: String,
    /// Name of the TUN device.
    #[serde(default)]
    pub device: String,
    /// What the device leaves to the other end: `csum`, `tso4`, `tso6`, `ecn`, `uso4`, `uso6`.
    #[serde(default)]
    pub offloads: Vec<Word>,
    /// The unix socket for vassals: a path, or `@name`; none if it waits for routers of other hosts alone.
    #[serde(default)]
    pub socket: Option<String>,
    /// The UDP address for other routers.
    #[serde(default)]
    pub gateway: Option<String>,
    /// The router's own addresses (`tuntap-router-address`), with the lengths of their networks' prefixes.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// The host's interfaces by which vassals reach other networks (`tuntap-router-nat`).
    #[serde(default)]
    pub nat: Vec<String>,
    /// The host's ports that lead to vassals (`tuntap-router-port`).
    #[serde(default)]
    pub ports: Vec<PortStats>,
    /// Seconds since the router's process started its work. A router that was started again begins at 0.
    #[serde(default)]
    pub uptime: u64,
    /// The router's share of processor time.
    #[serde(default)]
    pub priority: Priority,
    /// What the router's process gave up.
    #[serde(default)]
    pub sandbox: Confinement,
    /// The policy that it forwards by.
    #[serde(default)]
    pub policy: PolicyStats,
    /// The flows that it knows.
    #[serde(default)]
    pub flows: FlowStats,
    /// What the limit of all peers together has done. There is nothing if there is none.
    #[serde(default, skip_serializing_if = "Shaped::is_none")]
    pub uplink: Shaped,
    /// What is known of the addresses that vassals of other hosts hold. There is nothing if the router tells no others of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<ElsewhereStats>,
    /// The session with the host's routing daemon (`tuntap-router-routes`). There is nothing if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<RoutesStats>,
    /// Trunks to routers of other hosts (`tuntap-router-trunk-peer`). There is nothing if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trunks: Vec<TrunkStats>,
    /// What passes in the kernel without the router (`tuntap-router-offload`). There is nothing if nothing can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_path: Option<KernelPathStats>,
    /// Counters of the whole router.
    #[serde(default)]
    pub totals: Totals,
    /// How often limits left no room. Bytes that found none in a peer's queue are among the drops.
    #[serde(default)]
    pub limits_reached: LimitsReached,
    /// Packets that went nowhere, by reason. Those of `peers` are among them.
    #[serde(default)]
    pub drops: DropCounts,
}

impl Snapshot {
    /// Writes the JSON document: indented by tabs like uWSGI's own statistics, or in one line if `minified`.
    pub fn to_json(&self, minified: bool) -> Vec<u8> {
        let mut json = Vec::new();
        let result = if minified {
            serde_json::to_writer(&mut json, self)
        } else {
            self.serialize(&mut Serializer::with_formatter(&mut json, PrettyFormatter::with_indent(b"\t")))
        };
        debug_assert!(result.is_ok(), "all keys are strings, and writing to memory doesn't fail");
        json
    }

    /// Reads a JSON document.
    ///
    /// # Errors
    /// The bytes are no JSON, or JSON that isn't the statistics of a router, or something follows the document.
    pub fn from_json(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }
}

/// One connection. As in the C plugin, `tx` is towards the peer and `rx` is from it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerStats {
    /// The peer's address, that of IPv4 if it has one; empty if it has none.
    pub addr: String,
    /// The bytes of an IPv4 address in network order, read as a number of the router's machine; else 0.
    pub addr_32: u32,
    /// All its addresses, that of IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process.
    pub pid: i32,
    /// Bytes towards the peer, frame headers included.
    pub tx: u64,
    /// Bytes from the peer, frame headers included.
    pub rx: u64,
    /// Packets that the peer was too slow to take.
    pub dropped: u64,
    /// Packets towards the peer.
    pub tx_packets: u64,
    /// Packets from the peer.
    pub rx_packets: u64,
    /// Bytes that wait to be written to the peer.
    pub queued: u64,
    /// True if the router itself reads and writes the peer's TUN device.
    pub attached: bool,
    /// What the peer's device leaves to the other end, if it is attached: as in [`Snapshot::offloads`].
    pub offloads: Vec<Word>,
    /// Why the peer is not attached.
    pub stream_reason: Option<String>,
    /// Number of rules that the peer sent.
    pub rules: u64,
    /// Packets from or to the peer that went nowhere, by reason.
    pub drops: DropCounts,
    /// Verdicts of the kernel that name the peer. There is nothing if it has no pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdicts: Option<u64>,
    /// What limits have done about it. There is nothing if it has none.
    #[serde(skip_serializing_if = "Shaped::is_none")]
    pub shape: Shaped,
}

impl PeerStats {
    /// Renders an address for the C plugin's keys `addr` and `addr_32`.
    pub fn address_forms(address: Option<IpAddr>) -> (String, u32) {
        match address {
            None => (String::new(), 0),
            Some(IpAddr::V4(address)) => (address.to_string(), u32::from_ne_bytes(address.octets())),
            Some(IpAddr::V6(address)) => (address.to_string(), 0),
        }
    }
}

/// One port mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortStats {
    /// `tcp` or `udp`.
    pub protocol: Word,
    /// The host's port.
    pub port: u16,
    /// The vassal's address.
    pub address: IpAddr,
    /// The vassal's port.
    pub target_port: u16,
    /// Process of the peer that holds the address now, if any does.
    pub peer: Option<i32>,
}

impl Default for PortStats {
    fn default() -> Self {
        Self { protocol: Word::default(), port: 0, address: Ipv4Addr::UNSPECIFIED.into(), target_port: 0, peer: None }
    }
}

/// The policy that a router forwards by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyStats {
    /// Its number, which grows with each change.
    pub generation: u64,
    /// Rules in all chains, and routes.
    pub rules: u64,
    /// True if a change waits for its confirmation.
    pub pending: bool,
}

/// The flows that a router knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowStats {
    /// How many there are.
    pub count: u64,
    /// How many there can be.
    pub max: u64,
    /// Those that had to make room for others before their time, since the router's process started.
    pub evicted: u64,
}

/// The path in the kernel. Counters begin when the router's process does. What has passed there is among the counters of peers,
/// flows and rules, but not among the totals of the TUN device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KernelPathStats {
    /// Peers that have a pair.
    pub pairs: u64,
    /// Verdicts that the kernel has, one for each direction of a flow.
    pub verdicts: u64,
    /// How many there can be.
    pub max_verdicts: u64,
    /// Verdicts that the kernel was given.
    pub given: u64,
    /// Verdicts that it had no room for.
    pub refused: u64,
    /// Verdicts that were taken back because something has changed.
    pub revoked: u64,
    /// Times that packets towards a peer had to pass the router for a while, because some had taken long.
    pub watched: u64,
    /// Packets that have passed. A GSO packet is one.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a router knows of the addresses that vassals of other hosts hold, and what followed from it since its process started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ElsewhereStats {
    /// The router's id among those of all hosts: 16 hexadecimal digits.
    pub router: String,
    /// Who tells it of these addresses.
    pub sources: Vec<SourceStats>,
    /// Claims by packets, requests and hooks that were refused because vassals of other hosts hold the addresses, each time.
    pub refused: u64,
    /// Claims that vassals have lost to newer ones elsewhere.
    pub lost: u64,
    /// Addresses that were told with a time too far ahead of the host's clock.
    pub clock_ahead: u64,
    /// Addresses that were told when there was no room for more.
    pub no_room: u64,
    /// Addresses that were told with this router's own id.
    pub own_id: u64,
}

/// Who tells a router of the addresses that vassals of other hosts hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceStats {
    /// `routes`, or `trunk` with its number.
    pub source: String,
    /// How many addresses.
    pub holdings: u64,
}

/// The router's share of processor time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Priority {
    /// Nice value of the router's thread, from -20 to 19.
    pub nice: Option<i8>,
    /// Nice value of its session, if the kernel shares processor time among sessions (autogroups, sched(7)).
    pub autogroup: Option<i8>,
}

/// What the router's process gave up between its set-up and its first packet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Confinement {
    /// The capabilities that it still has, by name.
    pub capabilities: Vec<String>,
    /// True if programs that it executes can't gain privileges (prctl(2), PR_SET_NO_NEW_PRIVS).
    pub no_new_privs: bool,
    /// True if its system calls are filtered.
    pub seccomp: bool,
    /// Version of Landlock's interface that keeps it from files, if it does.
    pub landlock: Option<u32>,
}

/// Counters of the whole router, since its process started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Packets read from the TUN device.
    pub tun_rx_packets: u64,
    /// Bytes read from the TUN device.
    pub tun_rx_bytes: u64,
    /// Packets written to the TUN device.
    pub tun_tx_packets: u64,
    /// Bytes written to the TUN device.
    pub tun_tx_bytes: u64,
    /// Datagrams from other routers.
    pub gateway_rx_packets: u64,
    /// Bytes of the datagrams from other routers.
    pub gateway_rx_bytes: u64,
    /// Datagrams to other routers.
    pub gateway_tx_packets: u64,
    /// Bytes of the datagrams to other routers.
    pub gateway_tx_bytes: u64,
    /// Reads that gave several datagrams from another router at once (UDP_GRO).
    pub gateway_rx_batches: u64,
    /// Datagrams that went on as parts of super-packets.
    pub gateway_rx_coalesced: u64,
    /// System calls that sent several datagrams to another router at once (UDP_SEGMENT).
    pub gateway_tx_batches: u64,
    /// Packets from routers of other hosts, by trunks. One that stands for many counts once.
    pub trunk_rx_packets: u64,
    /// Their bytes.
    pub trunk_rx_bytes: u64,
    /// Packets to routers of other hosts, by trunks.
    pub trunk_tx_packets: u64,
    /// Their bytes.
    pub trunk_tx_bytes: u64,
    /// Connections that became peers.
    pub accepted: u64,
    /// Peers that were taken over from a router that died.
    pub restored: u64,
    /// Connections that were turned away because of a limit.
    pub turned_away: u64,
    /// Devices that were detached, so that their packets travel in frames, because packets took too much time in their
    /// namespaces.
    pub detached: u64,
    /// Devices that were attached after they had waited for that.
    pub attached_again: u64,
    /// Statistics clients that were turned away because they may be peers.
    pub stats_refused: u64,
    /// Times that no descriptor was left for a connection.
    pub accept_failures: u64,
    /// Peers that were closed for what they sent.
    pub faults: u64,
    /// Addresses that were given to a peer.
    pub claims: u64,
    /// Replies to packets that a rule rejected. Packets beyond the budget for replies are only dropped.
    pub rejections: u64,
}

/// How often limits left no room, by the end of the option's name: `max_peers` is `tuntap-router-max-peers`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitsReached {
    /// Connections turned away.
    pub max_peers: u64,
    /// Connections turned away, and peers closed for whose credentials they showed.
    pub max_peers_per_uid: u64,
    /// Claims and requests refused because their user holds as many addresses as one may, each time.
    pub max_addresses_per_uid: u64,
    /// Connections turned away.
    pub max_unclaimed: u64,
    /// Peers closed because they had no address for so long, and another connection needed their room.
    pub unclaimed_timeout: u64,
    /// Peers closed for the number of their rules.
    pub max_device_rules: u64,
}
