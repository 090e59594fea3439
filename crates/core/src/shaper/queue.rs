//! A leaf: its queue while something waits, and what its limits mean for it.

use super::bucket::SECOND;
use super::codel::Delays;
use super::flows::{Flows, PACKET};
use super::gates::bytes_time;
use crate::nanos::nanos;
use crate::policy::shape::Limit;

/// For how long the queue can take in packets at the leaf's rate, in nanoseconds: twice the round trips of 100 ms for which TCP
/// with the algorithm cubic still fills the rate after it halved its window.
const LEAST_TIME: u64 = 200_000_000;

/// Least and most bytes of a queue. The window of a TCP that begins needs some packets, whatever the rate.
const ROOMS: [u64; 2] = [32 * PACKET as u64, 4 << 20];

/// What follows from the limits of a leaf and of those around it.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// What is too long.
    pub delays: Delays,
    /// Most bytes of the queue.
    pub room: u64,
}

impl Terms {
    /// Those of a leaf with these limits, its own first. The first one says how long packets may wait.
    pub fn of<'a>(limits: impl Iterator<Item = &'a Limit> + Clone) -> Self {
        let rate = limits.clone().map(Limit::most).min().unwrap_or(Limit::RATES[1]);
        let queue = nanos(limits.map(|limit| limit.queue).next().unwrap_or(Limit::DEFAULT_QUEUE));
        // While a packet is paid for, the next one must wait as long as that takes, and half of that again is no queue yet.
        let delays = Delays::new((queue / 4).max(bytes_time(u64::from(PACKET) * 3 / 2, rate)));
        let bytes = u128::from(rate) * u128::from(queue.max(LEAST_TIME)) / u128::from(8 * SECOND);
        let [least, most] = ROOMS;
        Self { delays, room: u64::try_from(bytes).unwrap_or(most).clamp(least, most) }
    }
}

/// The flow whose packet has left a queue empty.
#[derive(Debug, Clone, Copy)]
pub struct Last {
    /// Its number.
    pub flow: u32,
    /// What it has left of its turn, in bytes.
    pub deficit: i64,
    /// From when on all that has passed is paid for. Until then its next packet doesn't make it a flow with little to send.
    pub until: u64,
}

/// A leaf.
#[derive(Debug)]
pub struct Leaf<T> {
    /// Its queue, if something waits.
    pub flows: Option<Box<Flows<T>>>,
    /// Who had the last packet, if nothing waits.
    pub last: Option<Last>,
    /// Its user, if that has a limit.
    pub user: Option<u32>,
    /// Its place among the leaves in which something waits.
    pub place: Option<usize>,
    terms: Option<(u64, Terms)>,
}

impl<T> Leaf<T> {
    /// Makes one in which nothing waits.
    pub const fn new(user: Option<u32>) -> Self {
        Self { flows: None, last: None, user, place: None, terms: None }
    }

    /// Returns its terms, which are made again, for its user, if they are of another version.
    pub fn terms(&mut self, version: u64, make: impl FnOnce(Option<u32>) -> Terms) -> Terms {
        match self.terms {
            Some((of, terms)) if of == version => terms,
            _ => self.terms.insert((version, make(self.user))).1,
        }
    }
}
