//! Who is served next. Peers share the router's time: what a peer's turn cost, writes included, is charged to it, and the one
//! that has had the least is served next (start-time fair queueing; Goyal, Vin and Cheng, SIGCOMM 1996). So a peer with little to do is
//! served before those that flood, within one turn of theirs, and among those that flood each gets the same time, however
//! large or small its packets are. There is no bound in time: all that counts is the order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::policy::registry::PeerId;

/// What is done in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// The peer's connection is read.
    Connection,
    /// The peer's device is read.
    Device,
    /// Packets that wait for the peer are written to its device.
    Held,
}

/// A turn of one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// The peer.
    pub peer: PeerId,
    /// What is to be done.
    pub work: Work,
    /// The peer is among those that have had the most lately: the shell should look for others before the next turn.
    pub is_last: bool,
}

/// One direction of a peer: what it sends, or what is sent to it.
#[derive(Debug, Clone, Copy, Default)]
struct Account {
    /// The virtual time, in nanoseconds of cost, up to which it was served.
    served_until: u64,
}

/// A slot of the table of peers.
#[derive(Debug, Clone, Copy)]
struct Slot {
    peer: PeerId,
    from: Account,
    to: Account,
    /// Which kinds of work wait, by [`Work`].
    waits: [bool; 3],
}

impl Slot {
    fn new(peer: PeerId) -> Self {
        Self { peer, from: Account::default(), to: Account::default(), waits: [false; 3] }
    }

    const fn account(&mut self, work: Work) -> &mut Account {
        match work {
            Work::Connection | Work::Device => &mut self.from,
            Work::Held => &mut self.to,
        }
    }
}

/// An entry of the queue. The earliest start comes first, and among equals the one that came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    start: u64,
    serial: u64,
    index: u32,
    generation: u32,
    work: Work,
}

/// The queue of turns.
#[derive(Debug, Default)]
pub struct Turns {
    slots: Vec<Option<Slot>>,
    queue: BinaryHeap<Reverse<Entry>>,
    /// The virtual time: the start of the latest turn.
    now: u64,
    /// The latest virtual time that anyone was served until.
    latest: u64,
    /// The average cost of a turn in nanoseconds.
    usual_cost: u64,
    last_serial: u64,
}

impl Turns {
    /// Nobody gets further ahead of the others than by so many usual turns. So what a peer got while it took nothing from
    /// others doesn't count for long.
    const MAX_LEAD: u64 = 8;

    /// Returns true if nobody waits for a turn.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Queues a turn, unless it is queued already.
    pub fn queue(&mut self, peer: PeerId, work: Work) {
        if self.queue.is_empty() {
            // Whoever was ahead when nobody waited any more has taken nothing from anyone.
            self.now = self.latest;
        }
        let now = self.now;
        let slot = self.slot(peer);
        if std::mem::replace(&mut slot.waits[work as usize], true) {
            return;
        }
        let start = slot.account(work).served_until.max(now);
        self.last_serial += 1;
        let PeerId { index, generation } = peer;
        self.queue.push(Reverse(Entry { start, serial: self.last_serial, index, generation, work }));
    }

    /// Takes the next turn from the queue.
    pub fn next(&mut self) -> Option<Turn> {
        while let Some(Reverse(Entry { start, index, generation, work, .. })) = self.queue.pop() {
            let peer = PeerId { index, generation };
            // Another peer may have the slot by now.
            let Some(slot) = self.slots.get_mut(index as usize).and_then(Option::as_mut).filter(|it| it.peer == peer)
            else {
                continue;
            };
            slot.waits[work as usize] = false;
            let is_last = start > self.now;
            self.now = self.now.max(start);
            return Some(Turn { peer, work, is_last });
        }
        None
    }

    /// Charges a turn of `nanos` to a peer.
    pub fn charge_turn(&mut self, peer: PeerId, work: Work, nanos: u64) {
        self.usual_cost = (self.usual_cost * 15).div_ceil(16) + nanos / 16;
        self.charge(peer, work, nanos);
    }

    /// Charges a write to a peer's device that came without a turn.
    pub fn charge_write(&mut self, peer: PeerId, nanos: u64) {
        self.charge(peer, Work::Held, nanos);
    }

    fn charge(&mut self, peer: PeerId, work: Work, nanos: u64) {
        let (now, lead) = (self.now, Self::MAX_LEAD * self.usual_cost.max(1));
        let account = self.slot(peer).account(work);
        let served_until = account.served_until.max(now).saturating_add(nanos).min(now + lead);
        account.served_until = served_until;
        self.latest = self.latest.max(served_until);
    }

    /// Returns true if what is sent to the peer has had more than its share of the time.
    pub fn is_ahead(&mut self, peer: PeerId) -> bool {
        let now = self.now;
        self.slot(peer).to.served_until > now
    }

    fn slot(&mut self, peer: PeerId) -> &mut Slot {
        let index = peer.index as usize;
        if self.slots.len() <= index {
            self.slots.resize(index + 1, None);
        }
        let slot = self.slots[index].get_or_insert_with(|| Slot::new(peer));
        if slot.peer != peer {
            *slot = Slot::new(peer);
        }
        slot
    }
}
