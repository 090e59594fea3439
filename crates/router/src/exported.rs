//! Numbers that uWSGI's own metrics have (`--enable-metrics`), so that its statistics and its pushers have them, too. They lie in memory
//! that the router shares with the master, whose collector reads them once in a second. The router writes them as often, and
//! not at all while nothing happens.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tuntap_core::policy::drops::DropReason;
use tuntap_core::router::Router;

/// How often they are written at most: uWSGI doesn't look more often.
const INTERVAL: Duration = Duration::from_secs(1);

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It grows until the router is started again.
    Counter,
    /// It goes up and down.
    Gauge,
}

type Number = (&'static str, Kind, fn(&Router) -> u64);

/// The numbers besides those of drops, which follow.
const NUMBERS: [Number; 22] = [
    ("peers", Kind::Gauge, |router| router.len() as u64),
    ("flows", Kind::Gauge, |router| router.flow_counts().0 as u64),
    ("device.rx_packets", Kind::Counter, |router| router.counters().totals.tun_rx_packets),
    ("device.rx_bytes", Kind::Counter, |router| router.counters().totals.tun_rx_bytes),
    ("device.tx_packets", Kind::Counter, |router| router.counters().totals.tun_tx_packets),
    ("device.tx_bytes", Kind::Counter, |router| router.counters().totals.tun_tx_bytes),
    ("gateway.rx_packets", Kind::Counter, |router| router.counters().totals.gateway_rx_packets),
    ("gateway.rx_bytes", Kind::Counter, |router| router.counters().totals.gateway_rx_bytes),
    ("gateway.tx_packets", Kind::Counter, |router| router.counters().totals.gateway_tx_packets),
    ("gateway.tx_bytes", Kind::Counter, |router| router.counters().totals.gateway_tx_bytes),
    ("trunk.rx_packets", Kind::Counter, |router| router.counters().totals.trunk_rx_packets),
    ("trunk.rx_bytes", Kind::Counter, |router| router.counters().totals.trunk_rx_bytes),
    ("trunk.tx_packets", Kind::Counter, |router| router.counters().totals.trunk_tx_packets),
    ("trunk.tx_bytes", Kind::Counter, |router| router.counters().totals.trunk_tx_bytes),
    ("kernel_path.packets", Kind::Counter, |router| router.path_counts().0.packets),
    ("kernel_path.bytes", Kind::Counter, |router| router.path_counts().0.bytes),
    ("accepted", Kind::Counter, |router| router.counters().totals.accepted),
    ("turned_away", Kind::Counter, |router| router.counters().totals.turned_away),
    ("faults", Kind::Counter, |router| router.counters().totals.faults),
    ("claims", Kind::Counter, |router| router.counters().totals.claims),
    ("rejections", Kind::Counter, |router| router.counters().totals.rejections),
    ("flows_evicted", Kind::Counter, Router::evicted_flows),
];

/// The memory in which a router's numbers lie.
#[derive(Debug, Clone, Copy)]
pub struct Exported(&'static [AtomicU64]);

impl Exported {
    /// How many there are.
    pub const COUNT: usize = NUMBERS.len() + DropReason::ALL.len();

    /// Uses memory for [`Self::COUNT`] numbers. `None` if there are not so many.
    pub fn new(words: &'static [AtomicU64]) -> Option<Self> {
        (words.len() == Self::COUNT).then_some(Self(words))
    }

    /// Returns all numbers, by their names: words, and dots between them.
    pub fn numbers(self) -> impl Iterator<Item = (String, Kind, &'static AtomicU64)> {
        let drops = DropReason::ALL.into_iter().map(|reason| (format!("drops.{}", reason.name()), Kind::Counter));
        let names = NUMBERS.into_iter().map(|(name, kind, _)| (name.to_owned(), kind)).chain(drops);
        names.zip(self.0).map(|((name, kind), word)| (name, kind, word))
    }

    fn write(self, router: &Router) {
        let drops = DropReason::ALL.into_iter().map(|reason| router.counters().drops.get(reason));
        let values = NUMBERS.into_iter().map(|(_, _, value)| value(router)).chain(drops);
        self.0.iter().zip(values).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
    }
}

/// The router's side.
#[derive(Debug)]
pub struct Exporter {
    exported: Option<Exported>,
    written_at: Instant,
    has_changed: bool,
}

impl Exporter {
    /// Begins with what a router has that hasn't done anything. Without memory it does nothing.
    pub const fn new(exported: Option<Exported>, now: Instant) -> Self {
        Self { exported, written_at: now, has_changed: true }
    }

    /// Writes the numbers if it is time for that. `has_changed`: they may have changed in this turn.
    pub fn turn(&mut self, router: &Router, has_changed: bool, now: Instant) {
        let Some(exported) = self.exported else { return };
        self.has_changed |= has_changed;
        if self.has_changed && now >= self.written_at + INTERVAL {
            exported.write(router);
            (self.written_at, self.has_changed) = (now, false);
        }
    }

    /// Returns when [`Self::turn`] has to be called, even if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        (self.exported.is_some() && self.has_changed).then(|| self.written_at + INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use tuntap_core::policy::Policy;
    use tuntap_core::policy::forward::Forwarder;
    use tuntap_core::router::Settings;

    fn exported() -> Exported {
        let words: Box<[AtomicU64]> = (0..Exported::COUNT).map(|_| AtomicU64::new(9)).collect();
        Exported::new(Box::leak(words)).expect("as many as there must be")
    }

    #[test]
    fn names_are_unique_and_what_uwsgi_takes() {
        let names: Vec<_> = exported().numbers().map(|(name, ..)| name).collect();
        let is_taken = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        assert!(names.iter().all(|name| name.bytes().all(is_taken)), "{names:?}");
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), Exported::COUNT);
        assert!(Exported::new(&[]).is_none());
    }

    #[test]
    fn numbers_are_written_once_in_a_while_and_only_after_something_has_happened() {
        let start = Instant::now();
        let router = Router::new(Forwarder::new(Policy::default(), 1), Settings::default(), start);
        let exported = exported();
        let mut exporter = Exporter::new(Some(exported), start);
        let first = || exported.0[0].swap(9, Ordering::Relaxed);
        exporter.turn(&router, false, start);
        assert_eq!((first(), exporter.next_deadline()), (9, Some(start + INTERVAL)));
        exporter.turn(&router, false, start + INTERVAL);
        assert_eq!((first(), exporter.next_deadline()), (0, None));
        exporter.turn(&router, false, start + 5 * INTERVAL);
        assert_eq!(first(), 9, "nothing has happened");
        exporter.turn(&router, true, start + 6 * INTERVAL);
        exporter.turn(&router, true, start + 6 * INTERVAL + INTERVAL / 2);
        assert_eq!((first(), exporter.next_deadline()), (0, Some(start + 7 * INTERVAL)));
        assert_eq!(Exporter::new(None, start).next_deadline(), None);
    }
}
