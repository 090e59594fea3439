//! Counters of the whole router.

use crate::policy::admission::AdmissionError;
use crate::policy::drops::DropCounters;

/// What passed, and what happened to connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// Times that no descriptor was left for a connection.
    pub accept_failures: u64,
    /// Peers that were ended for what they sent.
    pub faults: u64,
    /// Addresses that were given to a peer.
    pub claims: u64,
    /// Replies to packets that a rule rejected. Beyond what may be sent of them, such packets are only dropped.
    pub rejections: u64,
}

/// How often a limit left no room, by the end of its option's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitsReached {
    /// Connections turned away.
    pub max_peers: u64,
    /// Connections turned away, and peers ended for whose credentials they showed.
    pub max_peers_per_uid: u64,
    /// Claims and requests refused because their user holds as many addresses as one may, each time.
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
    pub const fn count(&mut self, error: AdmissionError) {
        match error {
            AdmissionError::Peers(_) => self.max_peers += 1,
            AdmissionError::PeersPerUid(_) => self.max_peers_per_uid += 1,
            AdmissionError::Unclaimed(_) | AdmissionError::UnclaimedShare(_) => self.max_unclaimed += 1,
        }
    }
}

/// All counters.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// What passed, and what happened to connections.
    pub totals: Totals,
    /// How often limits left no room.
    pub limits_reached: LimitsReached,
    /// Packets that went nowhere, by reason; those of single peers are among them.
    pub drops: DropCounters,
}
