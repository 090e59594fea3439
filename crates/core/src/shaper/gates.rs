//! What one limit lets through: its buckets.

use std::time::Duration;

use super::bucket::{Bucket, SECOND, Unit};
use crate::nanos::nanos;
use crate::policy::shape::Limit;

/// The usual burst in packets, if that is more than [`Limit::DEFAULT_BURST`].
const BURST_PACKETS: u64 = 2;

/// Bytes of such a packet.
const BURST_PACKET: u64 = 1500;

/// What tells by which right a packet passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Within what is guaranteed.
    Guaranteed,
    /// What others leave.
    Borrowed,
}

impl Tier {
    /// Its number.
    pub const fn index(self) -> usize {
        match self {
            Self::Guaranteed => 0,
            Self::Borrowed => 1,
        }
    }
}

/// The buckets of a node. Without any, everything passes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gates {
    limit: Option<Limit>,
    /// The most bytes.
    most: Option<Bucket>,
    /// The most packets.
    packets: Option<Bucket>,
    /// The bytes that are guaranteed.
    guaranteed: Option<Bucket>,
}

impl Gates {
    /// Makes those of a limit, without credit.
    pub fn new(limit: Option<Limit>, now: u64) -> Self {
        let mut gates = Self::default();
        gates.change(limit, now);
        gates
    }

    /// Changes the limit. What was there before keeps credit and debt.
    pub fn change(&mut self, limit: Option<Limit>, now: u64) {
        if self.limit == limit {
            return;
        }
        self.limit = limit;
        let most = limit.map(|limit| limit.most());
        let packets = limit.and_then(|limit| limit.packets);
        let guaranteed = limit.and_then(|limit| limit.ceil.and(Some(limit.rate)));
        let burst = limit.and_then(|limit| limit.burst);
        change(&mut self.most, Unit::Bytes, most, burst, now);
        change(&mut self.packets, Unit::Packets, packets, burst, now);
        change(&mut self.guaranteed, Unit::Bytes, guaranteed, burst, now);
    }

    /// The limit.
    pub const fn limit(&self) -> Option<&Limit> {
        self.limit.as_ref()
    }

    /// The share of what is borrowed.
    pub fn weight(&self) -> u16 {
        self.limit.map_or(1, |limit| limit.weight.max(1))
    }

    /// From when on something may pass.
    pub fn opens(&self) -> u64 {
        let at = |bucket: &Option<Bucket>| bucket.as_ref().map_or(0, Bucket::at);
        at(&self.most).max(at(&self.packets))
    }

    /// From when on something is within what is guaranteed, if anything is.
    pub fn guarantees(&self) -> Option<u64> {
        self.guaranteed.as_ref().map(Bucket::at)
    }

    /// By which right something passes now.
    pub fn tier(&self, now: u64) -> Tier {
        if self.guarantees().is_some_and(|at| at <= now) { Tier::Guaranteed } else { Tier::Borrowed }
    }

    /// Pays for a packet. `tier` is the right by which it passes, its own or that of a node below.
    pub fn charge(&mut self, cost: u32, segments: u32, tier: Tier, now: u64) {
        if let Some(bucket) = &mut self.most {
            bucket.charge(cost, now);
        }
        if let Some(bucket) = &mut self.packets {
            bucket.charge(segments, now);
        }
        if let (Some(bucket), Tier::Guaranteed) = (&mut self.guaranteed, tier) {
            bucket.charge_deeper(cost, now);
        }
    }

    /// Lets nothing pass before a time.
    pub fn owe(&mut self, until: u64) {
        for bucket in [&mut self.most, &mut self.packets].into_iter().flatten() {
            bucket.owe(until);
        }
    }

    /// Gives back what was paid.
    pub const fn refund(&mut self, cost: u32, segments: u32, tier: Tier) {
        if let Some(bucket) = &mut self.most {
            bucket.refund(cost);
        }
        if let Some(bucket) = &mut self.packets {
            bucket.refund(segments);
        }
        if let (Some(bucket), Tier::Guaranteed) = (&mut self.guaranteed, tier) {
            bucket.refund(cost);
        }
    }
}

fn change(bucket: &mut Option<Bucket>, unit: Unit, rate: Option<u64>, burst: Option<Duration>, now: u64) {
    let Some(rate) = rate else {
        *bucket = None;
        return;
    };
    let burst = burst.map_or_else(|| usual_burst(unit, rate), nanos);
    match bucket {
        Some(bucket) => bucket.change(rate, burst, now),
        None => *bucket = Some(Bucket::new(unit, rate, burst, now)),
    }
}

/// The burst of a limit that has none of its own, in nanoseconds.
fn usual_burst(unit: Unit, rate: u64) -> u64 {
    let packets = match unit {
        Unit::Bytes => bytes_time(BURST_PACKETS * BURST_PACKET, rate),
        Unit::Packets => (BURST_PACKETS * SECOND).div_ceil(rate.max(1)),
    };
    packets.max(nanos(Limit::DEFAULT_BURST))
}

/// How long so many bytes take at a rate in bits per second, in nanoseconds.
pub fn bytes_time(bytes: u64, rate: u64) -> u64 {
    bytes.saturating_mul(8 * SECOND).div_ceil(rate.max(1))
}
