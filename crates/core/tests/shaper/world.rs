//! A shaper with leaves, and what it has to account for.

use std::collections::{HashMap, HashSet, VecDeque};

use tuntap_core::policy::shape::Limit;
use tuntap_core::shaper::{Item, LeafId, LeafLimits, Shaper};

pub const SECOND: u64 = 1_000_000_000;
pub const MS: u64 = 1_000_000;

/// A limit with a guarantee.
pub fn between(rate: u64, ceil: u64) -> Limit {
    Limit { ceil: Some(ceil), ..Limit::new(rate) }
}

/// A leaf's own limit, without a user.
pub fn own(limit: Limit) -> LeafLimits {
    LeafLimits { own: Some(limit), user: None }
}

/// Bytes that a rate has in some nanoseconds.
pub fn bytes_in(rate: u64, nanos: u64) -> f64 {
    rate as f64 * nanos as f64 / 8e9
}

/// A packet that left.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    pub at: u64,
    pub leaf: LeafId,
    pub flow: u32,
    pub cost: u32,
    pub segments: u32,
    /// How long it had waited.
    pub waited: u64,
}

/// What a packet carries here: its number, and when it was pushed.
pub type Mark = (u64, u64);

/// A shaper with its books.
pub struct World {
    pub shaper: Shaper<Mark>,
    pub now: u64,
    pub sent: Vec<Sent>,
    pub lost: u64,
    next_number: u64,
    /// Numbers of what waits, in order, by leaf and flow.
    waiting: HashMap<(LeafId, u32), VecDeque<u64>>,
    gone: HashSet<u64>,
}

impl World {
    pub fn new(uplink: Option<Limit>) -> Self {
        let mut shaper = Shaper::new();
        shaper.set_uplink(uplink);
        let (sent, waiting, gone) = (Vec::new(), HashMap::new(), HashSet::new());
        Self { shaper, now: 0, sent, lost: 0, next_number: 0, waiting, gone }
    }

    pub fn waiting(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    pub fn waiting_in(&self, leaf: LeafId) -> usize {
        self.waiting.iter().filter(|((of, _), _)| *of == leaf).map(|(_, waiting)| waiting.len()).sum()
    }

    pub fn push(&mut self, leaf: LeafId, flow: u32, cost: u32, segments: u32) {
        let number = self.next_number;
        self.next_number += 1;
        self.waiting.entry((leaf, flow)).or_default().push_back(number);
        let item = Item { bytes: Vec::new(), cost, segments, flow, target: (number, self.now) };
        let Self { shaper, waiting, gone, lost, .. } = self;
        shaper.push(leaf, item, self.now, &mut |leaf, item, _| {
            take(waiting, gone, leaf, &item);
            *lost += 1;
        });
    }

    /// Sends at once, if that is possible.
    pub fn try_at_once(&mut self, leaf: LeafId, cost: u32, segments: u32) -> bool {
        let is_open = self.shaper.is_open(leaf, self.now);
        if is_open {
            assert_eq!(self.waiting_in(leaf), 0, "a packet got ahead of others");
            self.shaper.charge(leaf, cost, segments, self.now);
            self.sent.push(Sent { at: self.now, leaf, flow: 0, cost, segments, waited: 0 });
        }
        is_open
    }

    /// Takes what may leave now.
    pub fn drain(&mut self) {
        while self.pop().is_some() {}
    }

    pub fn pop(&mut self) -> Option<Sent> {
        let Self { shaper, waiting, gone, lost, .. } = self;
        let (leaf, item) = shaper.pop(self.now, &mut |leaf, item, _| {
            take(waiting, gone, leaf, &item);
            *lost += 1;
        })?;
        take(waiting, gone, leaf, &item);
        let (at, waited) = (self.now, self.now - item.target.1);
        let sent = Sent { at, leaf, flow: item.flow, cost: item.cost, segments: item.segments, waited };
        self.sent.push(sent);
        Some(sent)
    }

    pub fn close(&mut self, leaf: LeafId) {
        let count = self.waiting_in(leaf);
        assert_eq!(self.shaper.close(leaf), count as u64);
        self.waiting.retain(|(of, _), _| *of != leaf);
    }

    /// Lets time pass until `until`. The timer is as late as `late` says.
    pub fn run(&mut self, until: u64, mut late: impl FnMut() -> u64) {
        self.drain();
        while let Some(next) = self.shaper.next().filter(|next| *next <= until) {
            assert!(next > self.now, "a packet that may leave was left");
            self.now = (next + late()).min(until);
            let before = self.sent.len();
            self.drain();
            let again = self.shaper.next();
            assert!(self.sent.len() > before || again.is_none_or(|again| again > next), "woken for nothing");
        }
        self.now = until;
        self.drain();
    }

    /// Compares its books with the shaper's.
    pub fn audit(&self) {
        let waiting = self.waiting();
        assert_eq!(self.shaper.len(), waiting as u64);
        assert_eq!(self.shaper.is_empty(), waiting == 0);
        assert_eq!(self.shaper.next().is_none(), waiting == 0);
        assert_eq!(self.shaper.uplink_stats().packets, waiting as u64);
    }

    /// Bytes that a leaf sent since `from`.
    pub fn sent_by(&self, leaf: LeafId, from: u64) -> u64 {
        let sent = self.sent.iter().filter(|sent| sent.leaf == leaf && sent.at >= from);
        sent.map(|sent| u64::from(sent.cost)).sum()
    }
}

/// A packet leaves as the first of its flow, and once.
fn take(waiting: &mut HashMap<(LeafId, u32), VecDeque<u64>>, gone: &mut HashSet<u64>, leaf: LeafId, item: &Item<Mark>) {
    let first = waiting.get_mut(&(leaf, item.flow)).and_then(VecDeque::pop_front);
    assert_eq!(first, Some(item.target.0), "a packet isn't the first of its flow");
    assert!(gone.insert(item.target.0), "a packet left twice");
}

/// Checks that in no window more passes than burst, rate and one packet allow. `size` says what counts.
pub fn check_rate(sent: &[Sent], rate: u64, burst: f64, size: impl Fn(&Sent) -> u32, per_second: f64) {
    // In a window from the packet at i to the one at j: sum(i..=j) <= burst + rate * (at(j) - at(i)) + the greatest.
    let greatest = sent.iter().map(&size).max().unwrap_or_default();
    let allowed = burst + f64::from(greatest) + 2.0;
    let (mut lowest, mut sum) = (f64::INFINITY, 0.0);
    for packet in sent {
        let due = rate as f64 * packet.at as f64 / per_second;
        lowest = lowest.min(sum - due);
        sum += f64::from(size(packet));
        assert!(sum - due - lowest <= allowed, "{} above {allowed} at {}", sum - due - lowest, packet.at);
    }
}
