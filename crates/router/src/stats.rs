//! Converts the router's counters for the statistics document, [`tuntap_api::Snapshot`].

use tuntap_api::{DropCounts, Word};
use tuntap_core::policy::drops::{DropCounters, DropReason};

/// Returns all drop counters, including zeros.
pub fn drop_counts(counters: &DropCounters) -> DropCounts {
    DropReason::ALL.into_iter().map(|reason| (reason.name().into(), counters.get(reason))).collect()
}

/// Converts static names.
pub fn words(names: Vec<&'static str>) -> Vec<Word> {
    names.into_iter().map(Word::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_reasons_are_listed_in_order() {
        let mut counters = DropCounters::default();
        counters.count(DropReason::Firewall);
        counters.count(DropReason::Firewall);
        let counts = drop_counts(&counters);
        let wanted = DropReason::ALL.map(|reason| (reason.name(), if reason == DropReason::Firewall { 2 } else { 0 }));
        assert_eq!(counts.iter().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn golden_document_has_all_reasons() {
        let golden = include_bytes!("../../api/tests/statistics.json");
        let golden = tuntap_api::Snapshot::from_json(golden).expect("the statistics of a router");
        let known = DropReason::ALL.map(DropReason::name);
        for counts in golden.peers.iter().map(|peer| &peer.drops).chain([&golden.drops]) {
            assert_eq!(counts.iter().map(|(reason, _)| reason).collect::<Vec<_>>(), known);
        }
    }
}
