//! Peers that were detached because packets took too much time in their namespaces. The router keeps such a peer's device
//! without reading or writing it, and attaches it again when the [`super::quarantine`] is over.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::Router;
use super::kernel::Suspicion;
use super::meter::{Cost, CostRating};
use super::notice::Notice;
use super::quarantine::{Offender, Record};
use super::session::{StreamReason, Transport};
use super::shell::Shell;
use crate::peers::PeerTable;
use crate::policy::registry::PeerId;

/// How long to wait if a peer can't be attached again yet, for instance because a frame has come only in part.
const NEXT_TRY: Duration = Duration::from_secs(1);

/// The number of closed peers that may stay in the queue, besides as many as there are open ones.
const SLACK: usize = 64;

/// The peers to attach again, ordered by time. A peer that is closed meanwhile may stay in the queue until its time.
#[derive(Debug, Default)]
pub struct ReattachQueue(BinaryHeap<Reverse<(Instant, u32, u32)>>);

impl ReattachQueue {
    /// Adds a peer, whose device may be attached again at `end`.
    fn add(&mut self, id: PeerId, end: Instant) {
        self.0.push(Reverse((end, id.index, id.generation)));
    }

    /// Returns the time at which the next peer may be attached again.
    pub fn next_end(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((end, ..))| *end)
    }

    /// Removes closed peers if there are too many of them. Without this, a user in quarantine could fill the memory by
    /// connecting again and again.
    fn remove_closed(&mut self, peers: &PeerTable) {
        if self.0.len() > 2 * peers.len() + SLACK {
            self.0.retain(|Reverse((_, index, generation))| {
                peers.get(PeerId { index: *index, generation: *generation }).is_some()
            });
        }
    }

    /// Removes and returns a peer whose time has come.
    fn take(&mut self, now: Instant) -> Option<PeerId> {
        let Reverse((_, index, generation)) = if self.next_end()? <= now { self.0.pop()? } else { return None };
        Some(PeerId { index, generation })
    }
}

impl Router {
    /// Notes that a peer's device may be attached at `end`.
    pub(super) fn attach_later(&mut self, id: PeerId, end: Instant) {
        self.reattach_queue.add(id, end);
        self.reattach_queue.remove_closed(&self.forwarder.peers);
    }

    /// Acts on the verdict about the cost of a write to a peer.
    pub(super) fn judge(&mut self, shell: &mut impl Shell, id: PeerId, verdict: CostRating) {
        if verdict != CostRating::Usual {
            self.suspect(shell, id, Suspicion::Exceeded);
        }
        match verdict {
            CostRating::Usual => {}
            CostRating::Limited(cost) => self.note_peer_fault(shell, id, |who| Notice::Limited { who, cost }),
            CostRating::Suspicious(cost) => {
                if let Some(offender) = self.offender(id)
                    && self.quarantine.has_record(offender, self.now)
                {
                    self.put_into_quarantine(shell, id, offender, cost);
                }
            }
            CostRating::TooExpensive(cost) => {
                if let Some(offender) = self.offender(id) {
                    self.put_into_quarantine(shell, id, offender, cost);
                }
            }
        }
    }

    fn put_into_quarantine(&mut self, shell: &mut impl Shell, id: PeerId, offender: Offender, cost: Cost) {
        let record = self.record_offence(shell, offender);
        self.note_peer_fault(shell, id, |who| Notice::Detached { who, cost, period: record.period });
        if let Some(peer) = self.forwarder.peers.get_mut(id)
            && std::mem::replace(&mut peer.session.transport, Transport::Stream(StreamReason::SlowWrites))
                == Transport::Tun
        {
            shell.suspend(id);
            self.leave_kernel_path(shell, id);
            let Some(peer) = self.forwarder.peers.get_mut(id) else { return };
            peer.session.has_waiting_device = true;
            self.attach_later(id, record.end);
        }
        self.refuse_attachment(shell, id);
    }

    /// A peer has made the router wait. It goes back to frames, and no device of this offender is attached for a while: otherwise
    /// the next connection could do the same at once.
    pub(super) fn device_blocked(&mut self, shell: &mut impl Shell, id: PeerId) {
        let Some(offender) = self.offender(id) else { return };
        self.record_offence(shell, offender);
        self.detach(shell, id, StreamReason::Blocked);
    }

    /// A device of this offender loses its attachment, and others get none for a while. Returns for how long.
    fn record_offence(&mut self, shell: &mut impl Shell, offender: Offender) -> Record {
        let record = self.quarantine.add(offender, self.now);
        shell.store_quarantine(offender, record);
        self.counters.totals.detached += 1;
        record
    }

    fn offender(&self, id: PeerId) -> Option<Offender> {
        let session = &self.forwarder.peers.get(id)?.session;
        Some(Offender::of(session.credentials.uid, session.namespace))
    }

    /// Attaches the devices again whose time has come.
    pub(super) fn attach_again(&mut self, shell: &mut impl Shell) {
        while let Some(id) = self.reattach_queue.take(self.now) {
            let Some(peer) = self.forwarder.peers.get_mut(id) else { continue };
            let session = &mut peer.session;
            // If this router dies, the next one goes on with whole frames. So nothing may be left of a frame in either
            // direction.
            if shell.is_closing_many() || !session.queue.is_empty() || !session.partial.is_empty() {
                self.reattach_queue.add(id, self.now + NEXT_TRY);
                continue;
            }
            if !std::mem::take(&mut session.has_waiting_device) {
                continue;
            }
            if shell.is_device_alive(id) {
                let offloads = session.offloads;
                self.take_device(shell, id, offloads);
            } else {
                session.transport = Transport::Stream(StreamReason::Deleted);
                shell.discard_device(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tuntap_wire::credentials::PeerCredentials;
    use tuntap_wire::frame::FrameKind;

    use super::super::quarantine::Quarantine;
    use super::super::testing::{self, TestShell};
    use super::super::{DeviceError, Settings};
    use super::*;
    use crate::policy::Policy;
    use crate::policy::forward::Forwarder;

    const UID: u32 = 1000;

    fn router(start: Instant) -> Router {
        Router::new(Forwarder::new(Policy::default(), 1), Settings::default(), start)
    }

    /// Connects a peer of [`UID`] that passes its device, which the router may refuse.
    fn connect(router: &mut Router, shell: &mut TestShell, now: Instant) -> PeerId {
        let credentials = PeerCredentials { pid: 1, uid: UID, gid: UID };
        let id = testing::connect_in_frames(router, shell, credentials, now);
        testing::say_hello(router, shell, id, now);
        id
    }

    fn quarantine(router: &mut Router, shell: &mut TestShell, id: PeerId) {
        let cost = Cost { writes: 1, excess: Duration::ZERO, allowed: Duration::ZERO };
        router.put_into_quarantine(shell, id, Offender::User(UID), cost);
    }

    #[test]
    fn peer_is_attached_again_in_a_turn_with_packets_for_it() {
        let (start, mut shell) = (Instant::now(), TestShell::default());
        let mut router = router(start);
        let id = connect(&mut router, &mut shell, start);
        assert!(router.is_attached(id));
        quarantine(&mut router, &mut shell, id);
        router.poll(&mut shell, start);
        assert!(!router.is_attached(id));
        router.push_frame(id, FrameKind::Packet, &[0; 100]).expect("there is room");
        router.poll(&mut shell, router.poll_timeout().expect("the end of the quarantine"));
        assert!(router.is_attached(id));
        let queued = router.peer(id).map(|peer| peer.queued());
        assert_eq!(queued, Some(0), "the reply is sent at once");
    }

    #[test]
    fn peer_that_made_the_router_wait_is_quarantined() {
        let (start, mut shell) = (Instant::now(), TestShell::default());
        let mut router = router(start);
        let [first, second] = [(); 2].map(|()| connect(&mut router, &mut shell, start));
        router.device_failed(&mut shell, first, DeviceError::Blocked, start);
        let transport = |router: &Router, id| router.forwarder.peers.get(id).map(|it| it.session.transport.clone());
        assert_eq!(transport(&router, first), Some(Transport::Stream(StreamReason::Blocked)));
        assert!(router.is_attached(second), "it has done nothing");
        let third = connect(&mut router, &mut shell, start);
        assert_eq!(transport(&router, third), Some(Transport::Stream(StreamReason::Quarantined)));
        // The third one's time has come, but then it makes the router wait, too.
        let end = router.poll_timeout().expect("the end of the quarantine");
        router.poll(&mut shell, end);
        assert!(router.is_attached(third) && !router.is_attached(first));
        router.device_failed(&mut shell, third, DeviceError::Blocked, end);
        let period = router.quarantine.end(Offender::User(UID), end).map(|until| until - end);
        assert_eq!(period, Some(Quarantine::FIRST_PERIOD * 2));
        assert_eq!(router.counters.totals.detached, 2);
    }

    #[test]
    fn peers_come_back_in_order() {
        let start = Instant::now();
        let [first, second] = [1, 2].map(|index| PeerId { index, generation: index });
        let mut reattach_queue = ReattachQueue::default();
        assert_eq!(reattach_queue.next_end(), None);
        reattach_queue.add(second, start + NEXT_TRY * 2);
        reattach_queue.add(first, start + NEXT_TRY);
        assert_eq!(reattach_queue.next_end(), Some(start + NEXT_TRY));
        assert_eq!(reattach_queue.take(start), None);
        let end = start + NEXT_TRY * 2;
        assert_eq!(
            [reattach_queue.take(end), reattach_queue.take(end), reattach_queue.take(end)],
            [Some(first), Some(second), None]
        );
    }

    #[test]
    fn peers_that_come_and_go_in_quarantine_leave_nothing_behind() {
        let (start, mut shell) = (Instant::now(), TestShell::default());
        let mut router = router(start);
        let first = connect(&mut router, &mut shell, start);
        quarantine(&mut router, &mut shell, first);
        for _ in 0..10 * SLACK {
            let id = connect(&mut router, &mut shell, start);
            assert!(router.reattach_queue.0.len() <= 2 * router.len() + SLACK);
            router.connection_ended(&mut shell, id, None, start);
        }
        router.poll(&mut shell, router.poll_timeout().expect("the end of the quarantine"));
        assert!(router.is_attached(first), "it is still in the queue");
    }
}
