//! Counters of the whole router.

use tuntap_api::{LimitsReached, Totals};

use crate::policy::admission::AdmissionError;
use crate::policy::drops::DropCounters;

/// All counters.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// What passed, and what happened to connections.
    pub totals: Totals,
    /// How often limits left no room. Bytes that found none in a peer's queue are among the drops.
    pub limits_reached: LimitsReached,
    /// Packets that went nowhere, by reason; those of single peers are among them.
    pub drops: DropCounters,
}

impl Counters {
    /// Counts a connection that was turned away, or a peer that showed whose it is.
    pub const fn count_refused(&mut self, error: AdmissionError) {
        let limits = &mut self.limits_reached;
        match error {
            AdmissionError::Peers(_) => limits.max_peers += 1,
            AdmissionError::PeersPerUid(_) => limits.max_peers_per_uid += 1,
            AdmissionError::Unclaimed(_) | AdmissionError::UnclaimedShare(_) => limits.max_unclaimed += 1,
        }
    }
}
