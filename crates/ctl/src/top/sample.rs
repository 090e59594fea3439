//! What a router is at one moment, and what has happened between two of them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tuntap_api::control::{FlowFilter, FlowList, FlowOrder, Request, RuleList};
use tuntap_api::{DropCounts, PeerStats, Snapshot};

use super::view::View;
use crate::client::{self, Client};
use crate::failure::Failed;
use crate::session::INVALID;

/// Most flows that are asked for: those that were used last.
const MAX_FLOWS: u32 = 1000;

/// What is asked for besides the statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// What is looked at.
    pub view: View,
    /// The process whose flows are wanted; without one, all.
    pub pid: Option<i32>,
}

/// The answers of a router at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When they had come.
    pub taken: Instant,
    /// The statistics.
    pub snapshot: Snapshot,
    /// The flows, if they were asked for.
    pub flows: Option<FlowList>,
    /// The rules, if they were asked for.
    pub rules: Option<RuleList>,
}

/// Asks a router.
pub fn take(client: &mut Client, wanted: Wanted) -> Result<Sample, Failed> {
    let snapshot = client.ask(&Request::Statistics {}).map_err(|failed| match failed {
        Failed::Refused(refusal) if refusal.code == INVALID => Failed::Unreachable(
            "the router is older than this command: its control socket has no statistics".to_owned(),
        ),
        other => other,
    })?;
    let snapshot = client::read(&snapshot)?;
    let (mut flows, mut rules) = (None, None);
    match wanted.view {
        View::Flows => {
            let filter = FlowFilter { peer: wanted.pid, ..FlowFilter::default() };
            let request = Request::FlowsList { filter, order: FlowOrder::Recent, limit: Some(MAX_FLOWS) };
            flows = Some(client::read(&client.ask(&request)?)?);
        }
        View::Drops => rules = Some(client::read(&client.ask(&Request::RulesList { chain: None, group: None })?)?),
        View::Peers | View::Routers | View::Trunks | View::Shaper => {}
    }
    Ok(Sample { taken: Instant::now(), snapshot, flows, rules })
}

/// A router at the moment, with the moment before if there is one of the same process.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// The moment.
    pub now: &'a Sample,
    before: Option<&'a Sample>,
}

impl<'a> Span<'a> {
    /// The time between two moments. Counters begin anew with another process.
    pub fn new(now: &'a Sample, before: Option<&'a Sample>) -> Self {
        let is_same = |before: &&Sample| {
            let (old, new) = (&before.snapshot, &now.snapshot);
            old.pid == new.pid && old.uptime <= new.uptime
        };
        Self { now, before: before.filter(is_same) }
    }

    /// The moment before.
    pub const fn before(&self) -> Option<&'a Sample> {
        self.before
    }

    /// How much a counter has grown per second; unknown if it is smaller than before, because it began anew.
    pub fn rate(&self, now: u64, before: Option<u64>) -> Option<u64> {
        let time = self.now.taken.saturating_duration_since(self.before?.taken);
        per_second(now.checked_sub(before?)?, time)
    }

    /// The same for bytes, in bits per second.
    pub fn bit_rate(&self, now: u64, before: Option<u64>) -> Option<u64> {
        let time = self.now.taken.saturating_duration_since(self.before?.taken);
        per_second(now.checked_sub(before?)?.saturating_mul(8), time)
    }

    /// The peers, each with itself at the moment before. Those of one process are told apart by their order.
    pub fn peers(&self) -> Vec<(String, &'a PeerStats, Option<&'a PeerStats>)> {
        let mut old: HashMap<String, &PeerStats> = HashMap::new();
        if let Some(before) = self.before {
            old.extend(keyed(&before.snapshot.peers));
        }
        keyed(&self.now.snapshot.peers)
            .map(|(key, peer)| {
                let before = old.get(&key).copied();
                (key, peer, before)
            })
            .collect()
    }

    /// Drops of all peers and of none, per second.
    pub fn drop_rate(&self) -> Option<u64> {
        let sum = |sample: &Sample| total(&sample.snapshot.drops);
        self.rate(sum(self.now), self.before.map(sum))
    }

    /// Bits per second from the peers and to them.
    pub fn peers_bit_rates(&self) -> (Option<u64>, Option<u64>) {
        if self.before.is_none() {
            return (None, None);
        }
        let mut sums = (0_u64, 0_u64);
        for (_, now, before) in self.peers() {
            // What a newcomer has sent, it has sent since.
            let before = before.map_or((0, 0), |before| (before.rx, before.tx));
            sums.0 = sums.0.saturating_add(self.bit_rate(now.rx, Some(before.0)).unwrap_or(0));
            sums.1 = sums.1.saturating_add(self.bit_rate(now.tx, Some(before.1)).unwrap_or(0));
        }
        (Some(sums.0), Some(sums.1))
    }
}

/// All packets of all reasons.
pub fn total(drops: &DropCounts) -> u64 {
    drops.iter().fold(0, |sum: u64, (_, packets)| sum.saturating_add(packets))
}

fn keyed(peers: &[PeerStats]) -> impl Iterator<Item = (String, &PeerStats)> {
    let mut seen: HashMap<i32, u32> = HashMap::new();
    peers.iter().map(move |peer| {
        let number = seen.entry(peer.pid).and_modify(|number| *number += 1).or_insert(0);
        (format!("{}/{number}", peer.pid), peer)
    })
}

fn per_second(count: u64, time: Duration) -> Option<u64> {
    let millis = time.as_millis();
    if millis == 0 {
        return None;
    }
    Some(u64::try_from(u128::from(count) * 1000 / millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(taken: Instant, pid: i32, uptime: u64, peers: Vec<PeerStats>) -> Sample {
        let snapshot = Snapshot { pid, uptime, peers, ..Snapshot::default() };
        Sample { taken, snapshot, flows: None, rules: None }
    }

    fn peer(pid: i32, rx: u64, tx: u64) -> PeerStats {
        PeerStats { pid, rx, tx, ..PeerStats::default() }
    }

    #[test]
    fn rates_are_what_was_counted_in_the_time_between() {
        let start = Instant::now();
        let before = sample(start, 1, 5, vec![peer(7, 1000, 0), peer(7, 10, 10), peer(8, 500, 0)]);
        let peers = vec![peer(7, 2000, 0), peer(7, 510, 10), peer(8, 400, 0), peer(9, 125, 250)];
        let now = sample(start + Duration::from_millis(500), 1, 6, peers);
        let span = Span::new(&now, Some(&before));
        let rates = |(key, now, before): &(String, &PeerStats, Option<&PeerStats>)| {
            (key.clone(), span.bit_rate(now.rx, before.map(|before| before.rx)))
        };
        let rates: Vec<_> = span.peers().iter().map(rates).collect();
        let wanted = [("7/0", Some(16_000)), ("7/1", Some(8_000)), ("8/0", None), ("9/0", None)];
        assert_eq!(rates, wanted.map(|(key, rate)| (key.to_owned(), rate)));
        assert_eq!(span.peers_bit_rates(), (Some(16_000 + 8_000 + 2_000), Some(4_000)));
        assert_eq!(span.rate(u64::MAX, Some(0)), Some(u64::MAX));
    }

    #[test]
    fn another_process_has_no_moment_before() {
        let start = Instant::now();
        let before = sample(start, 1, 5, vec![]);
        for (pid, uptime, is_known) in [(1, 5, true), (1, 4, false), (2, 9, false)] {
            let now = sample(start + Duration::from_secs(1), pid, uptime, vec![]);
            let span = Span::new(&now, Some(&before));
            assert_eq!(span.rate(1, Some(0)).is_some(), is_known);
            assert_eq!(span.peers_bit_rates().0.is_some(), is_known);
        }
        let same_moment = sample(start, 1, 5, vec![]);
        assert_eq!(Span::new(&same_moment, Some(&before)).rate(1, Some(0)), None);
    }
}
