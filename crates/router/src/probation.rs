//! Peers that went back to frames because packets took too much time in their namespaces, and how they come back: the
//! router keeps the device, doesn't touch it, and attaches it again when the [`super::quarantine`] is over.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::event_loop::EventLoop;
use super::meter::{Cost, Verdict};
use super::peer::{Path, StreamReason};
use super::quarantine::Origin;
use tuntap_core::policy::registry::PeerId;

/// How long to wait where something is in the way of a peer that may come back: half a frame, say.
const NEXT_TRY: Duration = Duration::from_secs(1);

/// When which peer's device may be attached again. A peer that is gone stays here until then.
#[derive(Debug, Default)]
pub struct Probations(BinaryHeap<Reverse<(Instant, u32, u32)>>);

impl Probations {
    /// Takes note of a peer.
    pub fn add(&mut self, id: PeerId, end: Instant) {
        self.0.push(Reverse((end, id.index, id.generation)));
    }

    /// When the next one is over.
    pub fn next_end(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((end, ..))| *end)
    }

    /// Takes out a peer whose time is over.
    fn take(&mut self, now: Instant) -> Option<PeerId> {
        let Reverse((_, index, generation)) = if self.next_end()? <= now { self.0.pop()? } else { return None };
        Some(PeerId { index, generation })
    }
}

impl EventLoop<'_> {
    /// Does what follows from a write to a peer.
    pub(super) fn judge(&mut self, id: PeerId, verdict: Verdict) {
        match verdict {
            Verdict::Usual => {}
            Verdict::Limited(cost) => self.log_limited(id, cost),
            Verdict::Suspicious(cost) => {
                if let Some(origin) = self.origin(id)
                    && self.quarantine.knows(origin, Instant::now())
                {
                    self.punish(id, origin, cost);
                }
            }
            Verdict::TooExpensive(cost) => {
                if let Some(origin) = self.origin(id) {
                    self.punish(id, origin, cost);
                }
            }
        }
    }

    fn punish(&mut self, id: PeerId, origin: Origin, cost: Cost) {
        let now = Instant::now();
        let record = self.quarantine.add(origin, now);
        self.remember_spoiler(origin, record);
        self.totals.detached += 1;
        self.log_detached(id, cost, record.period);
        if let Some(peer) = self.peers.get_mut(id)
            && let Path::Attached(tun) = std::mem::replace(&mut peer.path, Path::Stream(StreamReason::SlowWrites))
        {
            // Only who watches a device is woken by it.
            let _ = self.epoll.delete(&tun);
            peer.waiting = Some(Box::new((peer.offloads, tun)));
            self.probations.add(id, record.end);
        }
        self.refuse(id);
    }

    fn origin(&self, id: PeerId) -> Option<Origin> {
        self.peers.get(id).map(|peer| Origin::of(peer.credentials, peer.as_fd()))
    }

    /// Attaches the devices again whose time is over.
    pub(super) fn attach_again(&mut self, now: Instant) {
        while let Some(id) = self.probations.take(now) {
            let is_full = self.closer.is_full();
            let Some(peer) = self.peers.get_mut(id) else { continue };
            // A router that follows this one goes on with whole frames.
            if is_full || peer.queue.len() > 0 || !peer.partial.is_empty() {
                self.probations.add(id, now + NEXT_TRY);
                continue;
            }
            let Some((offloads, tun)) = peer.waiting.take().map(|waiting| *waiting) else { continue };
            if tun.is_alive() {
                self.take_device(id, offloads, tun);
            } else {
                peer.path = Path::Stream(StreamReason::Deleted);
                self.closer.close(tun.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_come_back_in_order() {
        let start = Instant::now();
        let [first, second] = [1, 2].map(|index| PeerId { index, generation: index });
        let mut probations = Probations::default();
        assert_eq!(probations.next_end(), None);
        probations.add(second, start + NEXT_TRY * 2);
        probations.add(first, start + NEXT_TRY);
        assert_eq!(probations.next_end(), Some(start + NEXT_TRY));
        assert_eq!(probations.take(start), None);
        let end = start + NEXT_TRY * 2;
        assert_eq!(
            [probations.take(end), probations.take(end), probations.take(end)],
            [Some(first), Some(second), None]
        );
    }
}
