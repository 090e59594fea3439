//! The queues of the router's TUN device. All packets towards peers come by it, each by the queue of its destination. A queue has
//! room for a bounded number of packets, and the kernel drops what finds it full.
//!
//! A queue of several gets turns like a peer. Whose packets it brings pays for them, so that a peer that is flooded has no more
//! of the router's time than others, and what finds its queue full costs the router nothing. A device with one queue is read
//! before any peer, because whoever is flooded would fill it for all.

use super::attach::DeviceTurn;
use super::inbound::PACKET_BUDGET;
use super::turns::Taker;
use crate::policy::registry::PeerId;

/// Packets that are read in one turn of a queue that several peers share, while it doesn't become empty: as many as it has room
/// for.
const BACKLOG_BUDGET: usize = 512;

/// A queue is one receiver's after so many turns in which it had packets for no other.
const SHARED_TURNS: u16 = 10_000;

/// What is known of one queue.
#[derive(Debug, Clone, Copy, Default)]
struct Queue {
    /// Whom its latest packet was for.
    receiver: Option<Taker>,
    /// It counts as shared for so many turns.
    shared: u16,
    /// True if its latest turn left packets in it.
    has_backlog: bool,
}

/// The queues, and the one that is read.
#[derive(Debug)]
pub struct TunQueues {
    queues: Vec<Queue>,
    current: u8,
    /// The number of packets towards peers in this turn.
    reads: usize,
}

impl TunQueues {
    /// Takes so many queues, one at least.
    pub fn new(count: u8) -> Self {
        Self { queues: vec![Queue::default(); count.max(1).into()], current: 0, reads: 0 }
    }

    /// Returns the queue of the present turn.
    pub const fn current(&self) -> u8 {
        self.current
    }

    /// Returns true if queues take turns, because there are several.
    pub const fn take_turns(&self) -> bool {
        self.queues.len() > 1
    }

    /// Returns who pays for a turn of a queue.
    pub fn payer(&self, queue: u8) -> Taker {
        self.get(queue).and_then(|it| it.receiver.filter(|_| it.shared == 0)).unwrap_or(Taker::Queue(queue))
    }

    /// Returns true if packets of the present turn may be of several receivers.
    pub fn is_shared(&self) -> bool {
        !self.take_turns() || self.get(self.current).is_some_and(|queue| queue.shared > 0)
    }

    /// Begins a turn of a queue. `streak` is the number of packets that peers have sent since the last one: if it is the only
    /// queue, so many are read from it.
    pub fn begin(&mut self, queue: u8, streak: usize) -> DeviceTurn {
        (self.current, self.reads) = (queue, 0);
        if !self.is_shared() {
            return DeviceTurn::default();
        }
        let usual = if self.has_backlog() { BACKLOG_BUDGET } else { PACKET_BUDGET };
        DeviceTurn::of_packets(if self.take_turns() { usual } else { usual.max(streak) })
    }

    /// Ends the turn.
    pub fn end(&mut self, is_empty: bool) {
        if let Some(queue) = self.queues.get_mut(usize::from(self.current)) {
            queue.has_backlog = !is_empty;
            queue.shared = queue.shared.saturating_sub(1);
        }
    }

    /// Notes whom a packet of this turn is for; `None` if it is for nobody.
    pub fn note(&mut self, receiver: Option<PeerId>) {
        let receiver = receiver.map_or(Taker::Queue(self.current), Taker::Peer);
        if let Some(queue) = self.queues.get_mut(usize::from(self.current))
            && let Some(before) = queue.receiver.replace(receiver)
            && before != receiver
        {
            queue.shared = SHARED_TURNS;
        }
    }

    /// Counts a packet towards a peer. Returns how many there were in this turn.
    pub const fn count(&mut self) -> usize {
        self.reads += 1;
        self.reads
    }

    /// Returns true if the queue's turn before this one left packets in it.
    pub fn has_backlog(&self) -> bool {
        self.get(self.current).is_some_and(|queue| queue.has_backlog)
    }

    /// Forgets a peer that is gone.
    pub fn forget(&mut self, peer: PeerId) {
        for queue in &mut self.queues {
            if queue.receiver == Some(Taker::Peer(peer)) {
                queue.receiver = None;
            }
        }
    }

    fn get(&self, queue: u8) -> Option<&Queue> {
        self.queues.get(usize::from(queue))
    }
}
