//! Counters of the router as a whole.

use tuntap_api::{LimitsReached, Totals};

use super::departed::Departed;
use crate::policy::admission::AdmissionError;
use crate::policy::drops::DropCounters;

/// The counters of a router.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Packets and bytes that passed, and events of connections.
    pub totals: Totals,
    /// How often limits were reached. Packets that didn't fit into a peer's queue are counted in `drops`.
    pub limits_reached: LimitsReached,
    /// Dropped packets by reason, including those of single peers.
    pub drops: DropCounters,
    /// Claims by packets, requests and hooks that were refused because peers of other routers hold the addresses, each time.
    pub refused_elsewhere: u64,
    /// Claims that peers have lost to newer ones elsewhere.
    pub lost_elsewhere: u64,
    /// What peers that have left had sent and got.
    pub departed: Departed,
}

impl Counters {
    /// Counts a connection that was turned away, or a peer that was refused when it showed its credentials.
    pub const fn count_refused(&mut self, error: AdmissionError) {
        let limits = &mut self.limits_reached;
        match error {
            AdmissionError::Peers(_) => limits.max_peers += 1,
            AdmissionError::PeersPerUid(_) => limits.max_peers_per_uid += 1,
            AdmissionError::Unclaimed(_) | AdmissionError::UnclaimedShare(_) => limits.max_unclaimed += 1,
        }
    }
}
