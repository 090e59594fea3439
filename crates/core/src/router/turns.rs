//! Who is served next. Peers share the router's time: what a peer's turn cost, writes included, is charged to it, and the
//! one that has had the least is served next (start-time fair queueing; Goyal, Vin and Cheng, SIGCOMM 1996). So a peer with
//! little to do is served before those that flood, within one turn of theirs, and among those that flood each gets the same
//! time, however large or small its packets are. There is no bound in time: all that counts is the order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::PACKET_BUDGET;
use crate::policy::registry::PeerId;

/// What is done in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// The peer's connection is read.
    Connection,
    /// The peer's device is read.
    Device,
    /// Packets that wait for the peer are written to its device.
    Backlog,
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

/// A peer in its slot of the table of peers.
#[derive(Debug, Clone, Copy)]
struct Slot {
    peer: PeerId,
    /// The virtual time, in nanoseconds of cost, up to which it was served.
    served_until: u64,
    /// Which kinds of work wait, by [`Work`].
    waits: [bool; 3],
}

impl Slot {
    const fn new(peer: PeerId) -> Self {
        Self { peer, served_until: 0, waits: [false; 3] }
    }
}

/// An entry of a queue. The earliest start comes first; among equals those that were not ahead of others, and then the one
/// that came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    start: u64,
    was_ahead: bool,
    serial: u64,
    peer: PeerId,
    work: Work,
}

/// The peers' turns in one direction.
#[derive(Debug, Default)]
struct Line {
    slots: Vec<Option<Slot>>,
    queue: BinaryHeap<Reverse<Entry>>,
    /// The virtual time: the start of the latest turn.
    now: u64,
    /// The latest virtual time that anyone was served until.
    latest: u64,
    /// The average cost in nanoseconds of turns that ended before everything was done. Before the first one, what as many
    /// writes would cost.
    full_cost: u64,
    last_serial: u64,
}

impl Line {
    fn queue(&mut self, peer: PeerId, work: Work) {
        if self.queue.is_empty() {
            // Whoever was ahead when nobody waited any more has taken nothing from anyone.
            self.now = self.latest;
        }
        let now = self.now;
        let slot = self.slot(peer);
        if std::mem::replace(&mut slot.waits[work as usize], true) {
            return;
        }
        let served_until = slot.served_until;
        self.last_serial += 1;
        self.queue.push(Reverse(Entry {
            start: served_until.max(now),
            was_ahead: served_until > now,
            serial: self.last_serial,
            peer,
            work,
        }));
    }

    fn take(&mut self) -> Option<Turn> {
        while let Some(Reverse(Entry { start, was_ahead, peer, work, .. })) = self.queue.pop() {
            // Another peer may have the slot by now.
            let Some(slot) =
                self.slots.get_mut(peer.index as usize).and_then(Option::as_mut).filter(|it| it.peer == peer)
            else {
                continue;
            };
            slot.waits[work as usize] = false;
            self.now = self.now.max(start);
            return Some(Turn { peer, work, is_last: was_ahead });
        }
        None
    }

    fn charge(&mut self, peer: PeerId, nanos: u64, max_lead: u64) {
        let (now, most) = (self.now, self.now.saturating_add(max_lead));
        let slot = self.slot(peer);
        let before = now.max(slot.served_until);
        slot.served_until = before.saturating_add(nanos).min(most.max(before));
        let latest = slot.served_until;
        self.latest = self.latest.max(latest);
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

/// The queue of turns. While there is work in both directions, each has half of the time: else those that flood others,
/// which may be many, would leave no time for what comes to the ones that they flood. Within a direction the peers share its
/// time, so who is flooded can still send.
#[derive(Debug, Default)]
pub struct Turns {
    /// What peers send, and what is sent to them.
    lines: [Line; 2],
    /// How much of the time each direction has had. What one leaves unused it doesn't get later.
    served_until: [u64; 2],
}

impl Turns {
    /// By writes without turns nobody gets further ahead of the others than by so many full turns. So what was written while
    /// there was time for it doesn't count for long.
    const MAX_LEAD: u64 = 8;

    /// Who has had no more than this part (1/n) of a full turn beyond others counts as one with little to do.
    const TOLERATED_PART: u64 = 4;

    /// Returns true if nobody waits for a turn.
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.queue.is_empty())
    }

    /// Queues a turn, unless it is queued already.
    pub fn queue(&mut self, peer: PeerId, work: Work) {
        self.lines[direction(work)].queue(peer, work);
    }

    /// Takes the next turn from the queue.
    pub fn take(&mut self) -> Option<Turn> {
        let [from, to] = self.served_until;
        let first = usize::from(from > to);
        let (at, turn) = match self.lines[first].take() {
            Some(turn) => (first, turn),
            None => (1 - first, self.lines[1 - first].take()?),
        };
        self.forget_unused(at);
        Some(turn)
    }

    /// Ends a turn that took `nanos`. If `has_more` is true, the peer gets another one.
    pub fn end(&mut self, turn: Turn, nanos: u64, has_more: bool) {
        let at = direction(turn.work);
        let line = &mut self.lines[at];
        line.charge(turn.peer, nanos, u64::MAX);
        if has_more {
            line.full_cost = match line.full_cost {
                0 => nanos,
                before => (before.saturating_mul(15).saturating_add(nanos)) / 16,
            };
        }
        self.served_until[at] = self.served_until[at].saturating_add(nanos);
        // Again after the turn: it may have taken long because the machine did something else meanwhile.
        self.forget_unused(at);
        if has_more {
            self.lines[at].queue(turn.peer, turn.work);
        }
    }

    /// Levels the directions if nobody waits in the one that isn't served.
    fn forget_unused(&mut self, served: usize) {
        let other = 1 - served;
        if self.lines[other].queue.is_empty() {
            self.served_until[other] = self.served_until[other].max(self.served_until[served]);
        }
    }

    /// Charges a write to a peer's device that came without a turn.
    pub fn charge_write(&mut self, peer: PeerId, nanos: u64) {
        let at = direction(Work::Backlog);
        let line = &mut self.lines[at];
        if line.full_cost == 0 {
            line.full_cost = nanos.saturating_mul(PACKET_BUDGET as u64);
        }
        let max_lead = Self::MAX_LEAD.saturating_mul(line.full_cost);
        line.charge(peer, nanos, max_lead);
        // It is also time that those who wait in the other direction didn't get.
        if !self.lines[1 - at].queue.is_empty() {
            let before = self.served_until[at];
            let most = self.served_until[1 - at].saturating_add(max_lead).max(before);
            self.served_until[at] = before.saturating_add(nanos).min(most);
        }
    }

    /// Returns true if what is sent to the peer has had more of the time than others, by more than a part of a full
    /// turn.
    pub fn is_ahead(&mut self, peer: PeerId) -> bool {
        let line = &mut self.lines[direction(Work::Backlog)];
        let limit = line.now.saturating_add(line.full_cost / Self::TOLERATED_PART);
        line.slot(peer).served_until > limit
    }
}

/// Returns the number of the direction that work belongs to.
const fn direction(work: Work) -> usize {
    match work {
        Work::Connection | Work::Device => 0,
        Work::Backlog => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn peer(index: u32) -> PeerId {
        PeerId { index, generation: 0 }
    }

    const SPARSE: PeerId = peer(1000);

    /// Peers that always have more to do, and the cost of a turn of each.
    struct Flood {
        turns: Turns,
        costs: Vec<u64>,
        /// What each has had.
        had: Vec<u64>,
    }

    impl Flood {
        fn new(costs: &[u64], work: Work) -> Self {
            let mut turns = Turns::default();
            (0..).zip(costs).for_each(|(index, _)| turns.queue(peer(index), work));
            Self { turns, costs: costs.to_vec(), had: vec![0; costs.len()] }
        }

        /// Serves the next one, and returns who it was.
        fn serve(&mut self) -> PeerId {
            let turn = self.turns.take().expect("a flood has no end");
            if turn.peer == SPARSE {
                self.turns.end(turn, 1, false);
            } else {
                let index = turn.peer.index as usize;
                self.had[index] += self.costs[index];
                self.turns.end(turn, self.costs[index], true);
            }
            turn.peer
        }
    }

    #[test]
    fn peers_share_the_time_whatever_their_turns_cost() {
        let costs = [7, 100, 100, 1000];
        let mut flood = Flood::new(&costs, Work::Device);
        for _ in 0..20_000 {
            flood.serve();
            let (least, most) = (flood.had.iter().min(), flood.had.iter().max());
            assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1000), "{:?}", flood.had);
        }
    }

    #[test]
    fn peer_with_little_to_do_is_served_before_those_that_flood() {
        for costs in [[100; 10], [1, 2, 3, 5, 8, 13, 21, 34, 55, 89]] {
            let mut flood = Flood::new(&costs, Work::Device);
            for moment in 0..1000 {
                (0..20 + moment % 7).for_each(|_| _ = flood.serve());
                flood.turns.queue(SPARSE, Work::Connection);
                assert_eq!(flood.serve(), SPARSE, "{costs:?}, {moment}");
            }
        }
    }

    #[test]
    fn who_was_served_alone_owes_nothing() {
        let mut flood = Flood::new(&[100], Work::Device);
        (0..1000).for_each(|_| _ = flood.serve());
        flood.costs.push(100);
        flood.had.push(0);
        flood.turns.queue(peer(1), Work::Device);
        let served: Vec<_> = (0..10).map(|_| flood.serve().index).collect();
        let of_first = served.iter().filter(|index| **index == 0).count();
        assert!((4..=6).contains(&of_first), "{served:?}");
    }

    #[test]
    fn writes_without_turns_count_but_not_for_ever() {
        let mut flood = Flood::new(&[100, 100], Work::Backlog);
        (0..100).for_each(|_| _ = flood.serve());
        assert!(!flood.turns.is_ahead(SPARSE));
        (0..100_000).for_each(|_| flood.turns.charge_write(SPARSE, 50));
        assert!(flood.turns.is_ahead(SPARSE));
        flood.turns.queue(SPARSE, Work::Backlog);
        let turns = (0..100).take_while(|_| flood.serve() != SPARSE).count();
        assert!((2..=20).contains(&turns), "it was served after {turns} turns of others");
    }

    #[test]
    fn directions_share_the_time_however_many_peers_each_has() {
        let mut flood = Flood::new(&[100; 50], Work::Device);
        flood.costs.push(40);
        flood.had.push(0);
        flood.turns.queue(peer(50), Work::Backlog);
        (0..2000).for_each(|_| _ = flood.serve());
        let (to, from) = (flood.had[50], flood.had[..50].iter().sum::<u64>());
        assert!(to.abs_diff(from) <= 200, "{to}, {from}");
    }

    #[test]
    fn direction_that_was_alone_owes_nothing() {
        let mut flood = Flood::new(&[100; 3], Work::Device);
        (0..1000).for_each(|_| _ = flood.serve());
        flood.costs.push(100);
        flood.had.push(0);
        flood.turns.queue(peer(3), Work::Backlog);
        let served = (0..10).filter(|_| flood.serve().index == 3).count();
        assert!((4..=6).contains(&served), "{served}");
    }

    #[test]
    fn long_turn_while_nobody_waited_is_not_made_up_for() {
        let mut flood = Flood::new(&[1_000_000], Work::Device);
        flood.serve();
        flood.costs = vec![100; 2];
        flood.had.push(0);
        flood.turns.queue(peer(1), Work::Backlog);
        let served = (0..10).filter(|_| flood.serve().index == 1).count();
        assert!((4..=6).contains(&served), "{served}");
    }

    /// Those that get a little less than a flooded peer never wait, and are many.
    #[test]
    fn writes_without_turns_count_for_their_direction() {
        let mut flood = Flood::new(&[100], Work::Device);
        flood.costs.push(100);
        flood.had.push(0);
        flood.turns.queue(peer(1), Work::Backlog);
        let mut written = 0;
        for moment in 0..20_000 {
            flood.serve();
            let to = peer(100 + moment % 20);
            if !flood.turns.is_ahead(to) {
                flood.turns.charge_write(to, 50);
                written += 50;
            }
        }
        let (from, to) = (flood.had[0], flood.had[1] + written);
        assert!(from.abs_diff(to) <= from / 20, "{from} and {to}, of it {written} without turns");
    }

    #[test]
    fn turn_of_a_peer_that_left_is_nobodys() {
        let mut turns = Turns::default();
        turns.queue(peer(3), Work::Device);
        turns.end(Turn { peer: peer(3), work: Work::Device, is_last: false }, 1000, true);
        let next = PeerId { index: 3, generation: 1 };
        turns.queue(next, Work::Connection);
        turns.queue(next, Work::Connection);
        assert_eq!(turns.take(), Some(Turn { peer: next, work: Work::Connection, is_last: false }));
        assert_eq!((turns.take(), turns.is_empty()), (None, true));
    }
}
