//! Who is served next. Peers share the router's time: what a peer's turn cost, writes included, is charged to it, and the
//! one that has had the least is served next (start-time fair queueing; Goyal, Vin and Cheng, SIGCOMM 1996). So a peer with
//! little to do is served before those that flood, within one turn of theirs, and among those that flood each gets the same
//! time, however large or small its packets are. There is no bound in time: all that counts is the order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::PACKET_BUDGET;
use crate::policy::registry::PeerId;
use crate::trunk::TrunkId;

/// What is done in a turn, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// The peer's connection is read.
    Connection(PeerId),
    /// The peer's device is read.
    Device(PeerId),
    /// Packets that wait for the peer are written to its device.
    Backlog(PeerId),
    /// A queue of the router's device is read.
    Queue(u8),
    /// The gateway is read. It takes turns as a peer does, whoever sends to it.
    Gateway,
    /// A trunk's connection is read. It takes turns as a peer does, for what comes from the other router's peers together.
    Trunk(TrunkId),
}

impl Work {
    /// The number of kinds of work.
    const KINDS: usize = 6;

    const fn kind(self) -> usize {
        match self {
            Self::Connection(_) => 0,
            Self::Device(_) => 1,
            Self::Backlog(_) => 2,
            Self::Queue(_) => 3,
            Self::Gateway => 4,
            Self::Trunk(_) => 5,
        }
    }

    /// Who takes the turn, unless somebody else pays for it.
    const fn taker(self) -> Taker {
        match self {
            Self::Connection(peer) | Self::Device(peer) | Self::Backlog(peer) => Taker::Peer(peer),
            Self::Queue(queue) => Taker::Queue(queue),
            Self::Gateway => Taker::Gateway,
            Self::Trunk(trunk) => Taker::Trunk(trunk),
        }
    }
}

/// Who takes turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Taker {
    /// A peer.
    Peer(PeerId),
    /// A queue of the router's device.
    Queue(u8),
    /// The gateway.
    Gateway,
    /// A trunk.
    Trunk(TrunkId),
}

/// One turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// What is to be done.
    pub work: Work,
    /// Who pays for it.
    taker: Taker,
    /// Who takes it is among those that have had the most lately: the shell should look for others before the next turn.
    pub is_last: bool,
}

/// A taker in its slot.
#[derive(Debug, Clone, Copy)]
struct Slot {
    taker: Taker,
    /// The virtual time, in nanoseconds of cost, up to which it was served.
    served_until: u64,
    /// Which kinds of its own work wait, by [`Work::kind`].
    waits: [bool; Work::KINDS],
}

impl Slot {
    const fn new(taker: Taker) -> Self {
        Self { taker, served_until: 0, waits: [false; Work::KINDS] }
    }
}

/// An entry of a queue. The earliest start comes first; among equals those that were not ahead of others, and then the one
/// that came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    start: u64,
    was_ahead: bool,
    serial: u64,
    work: Work,
    taker: Taker,
}

/// The turns in one direction.
#[derive(Debug, Default)]
struct Line {
    /// The gateway's slot is before those of the peers.
    peers: Vec<Option<Slot>>,
    queues: Vec<Option<Slot>>,
    trunks: Vec<Option<Slot>>,
    waiting: BinaryHeap<Reverse<Entry>>,
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
    /// Queues a turn that `taker` pays for.
    fn queue(&mut self, work: Work, taker: Taker) {
        if self.waiting.is_empty() {
            // Whoever was ahead when nobody waited any more has taken nothing from anyone.
            self.now = self.latest;
        }
        if std::mem::replace(&mut self.slot(work.taker()).waits[work.kind()], true) {
            return;
        }
        let served_until = self.slot(taker).served_until;
        self.last_serial += 1;
        self.waiting.push(Reverse(Entry {
            start: served_until.max(self.now),
            was_ahead: served_until > self.now,
            serial: self.last_serial,
            work,
            taker,
        }));
    }

    fn take(&mut self) -> Option<Turn> {
        while let Some(Reverse(Entry { start, was_ahead, work, taker, .. })) = self.waiting.pop() {
            // Another peer may have the slot by now.
            let Some(slot) = self.present(work.taker()) else { continue };
            slot.waits[work.kind()] = false;
            self.now = self.now.max(start);
            let taker = if self.present(taker).is_some() { taker } else { work.taker() };
            return Some(Turn { work, taker, is_last: was_ahead });
        }
        None
    }

    fn charge(&mut self, taker: Taker, nanos: u64, max_lead: u64) {
        let (now, most) = (self.now, self.now.saturating_add(max_lead));
        let slot = self.slot(taker);
        let before = now.max(slot.served_until);
        slot.served_until = before.saturating_add(nanos).min(most.max(before));
        let latest = slot.served_until;
        self.latest = self.latest.max(latest);
    }

    /// The table that a taker's slot is in, and its place there.
    const fn place(&mut self, taker: Taker) -> (&mut Vec<Option<Slot>>, usize) {
        match taker {
            Taker::Gateway => (&mut self.peers, 0),
            Taker::Peer(peer) => (&mut self.peers, 1 + peer.index as usize),
            Taker::Queue(queue) => (&mut self.queues, queue as usize),
            Taker::Trunk(trunk) => (&mut self.trunks, trunk.index()),
        }
    }

    /// The taker's slot, if it has one.
    fn present(&mut self, taker: Taker) -> Option<&mut Slot> {
        let (slots, index) = self.place(taker);
        slots.get_mut(index).and_then(Option::as_mut).filter(|slot| slot.taker == taker)
    }

    fn slot(&mut self, taker: Taker) -> &mut Slot {
        let (slots, index) = self.place(taker);
        if slots.len() <= index {
            slots.resize(index + 1, None);
        }
        let slot = slots[index].get_or_insert_with(|| Slot::new(taker));
        if slot.taker != taker {
            *slot = Slot::new(taker);
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
        self.lines.iter().all(|line| line.waiting.is_empty())
    }

    /// Queues a turn, unless it is queued already.
    pub fn queue(&mut self, work: Work) {
        self.lines[direction(work)].queue(work, work.taker());
    }

    /// Queues a turn of a queue of the router's device, for which the receiver of its packets pays.
    pub fn queue_reading(&mut self, queue: u8, receiver: Taker) {
        self.lines[TOWARDS_PEERS].queue(Work::Queue(queue), receiver);
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

    /// Ends a turn that took `nanos`. If `has_more` is true, there is another one of the same.
    pub fn end(&mut self, turn: Turn, nanos: u64, has_more: bool) {
        let at = direction(turn.work);
        let line = &mut self.lines[at];
        line.charge(turn.taker, nanos, u64::MAX);
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
            self.lines[at].queue(turn.work, turn.taker);
        }
    }

    /// Levels the directions if nobody waits in the one that isn't served.
    fn forget_unused(&mut self, served: usize) {
        let other = 1 - served;
        if self.lines[other].waiting.is_empty() {
            self.served_until[other] = self.served_until[other].max(self.served_until[served]);
        }
    }

    /// Charges a write to a peer's device that came without a turn of the peer.
    pub fn charge_write(&mut self, peer: PeerId, nanos: u64) {
        self.charge_in_turn(peer, nanos);
        // It is also time that those who wait in the other direction didn't get.
        let max_lead = Self::MAX_LEAD.saturating_mul(self.lines[TOWARDS_PEERS].full_cost);
        if !self.lines[1 - TOWARDS_PEERS].waiting.is_empty() {
            let before = self.served_until[TOWARDS_PEERS];
            let most = self.served_until[1 - TOWARDS_PEERS].saturating_add(max_lead).max(before);
            self.served_until[TOWARDS_PEERS] = before.saturating_add(nanos).min(most);
        }
    }

    /// Charges a write to a peer's device within a turn that counts for the direction.
    pub fn charge_in_turn(&mut self, peer: PeerId, nanos: u64) {
        let line = &mut self.lines[TOWARDS_PEERS];
        if line.full_cost == 0 {
            line.full_cost = nanos.saturating_mul(PACKET_BUDGET as u64);
        }
        let max_lead = Self::MAX_LEAD.saturating_mul(line.full_cost);
        line.charge(Taker::Peer(peer), nanos, max_lead);
    }

    /// Returns true if what is sent to the peer has had more of the time than others, by more than a part of a full
    /// turn.
    pub fn is_ahead(&mut self, peer: PeerId) -> bool {
        let line = &mut self.lines[TOWARDS_PEERS];
        let limit = line.now.saturating_add(line.full_cost / Self::TOLERATED_PART);
        line.slot(Taker::Peer(peer)).served_until > limit
    }
}

/// The number of the direction of what is sent to peers.
const TOWARDS_PEERS: usize = 1;

/// Returns the number of the direction that work belongs to.
const fn direction(work: Work) -> usize {
    match work {
        Work::Connection(_) | Work::Device(_) => 1 - TOWARDS_PEERS,
        Work::Backlog(_) | Work::Queue(_) | Work::Gateway | Work::Trunk(_) => TOWARDS_PEERS,
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
        fn new(costs: &[u64], work: fn(PeerId) -> Work) -> Self {
            let mut turns = Turns::default();
            (0..).zip(costs).for_each(|(index, _)| turns.queue(work(peer(index))));
            Self { turns, costs: costs.to_vec(), had: vec![0; costs.len()] }
        }

        /// Serves the next one, and returns who it was.
        fn serve(&mut self) -> PeerId {
            let turn = self.turns.take().expect("a flood has no end");
            let Taker::Peer(peer) = turn.taker else { panic!("{turn:?}") };
            if peer == SPARSE {
                self.turns.end(turn, 1, false);
            } else {
                let index = peer.index as usize;
                self.had[index] += self.costs[index];
                self.turns.end(turn, self.costs[index], true);
            }
            peer
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
                flood.turns.queue(Work::Connection(SPARSE));
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
        flood.turns.queue(Work::Device(peer(1)));
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
        flood.turns.queue(Work::Backlog(SPARSE));
        let turns = (0..100).take_while(|_| flood.serve() != SPARSE).count();
        assert!((2..=20).contains(&turns), "it was served after {turns} turns of others");
    }

    #[test]
    fn directions_share_the_time_however_many_peers_each_has() {
        let mut flood = Flood::new(&[100; 50], Work::Device);
        flood.costs.push(40);
        flood.had.push(0);
        flood.turns.queue(Work::Backlog(peer(50)));
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
        flood.turns.queue(Work::Backlog(peer(3)));
        let served = (0..10).filter(|_| flood.serve().index == 3).count();
        assert!((4..=6).contains(&served), "{served}");
    }

    #[test]
    fn long_turn_while_nobody_waited_is_not_made_up_for() {
        let mut flood = Flood::new(&[1_000_000], Work::Device);
        flood.serve();
        flood.costs = vec![100; 2];
        flood.had.push(0);
        flood.turns.queue(Work::Backlog(peer(1)));
        let served = (0..10).filter(|_| flood.serve().index == 1).count();
        assert!((4..=6).contains(&served), "{served}");
    }

    /// Those that get a little less than a flooded peer never wait, and are many.
    #[test]
    fn writes_without_turns_count_for_their_direction() {
        let mut flood = Flood::new(&[100], Work::Device);
        flood.costs.push(100);
        flood.had.push(0);
        flood.turns.queue(Work::Backlog(peer(1)));
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
        turns.queue(Work::Device(peer(3)));
        turns.end(Turn { work: Work::Device(peer(3)), taker: Taker::Peer(peer(3)), is_last: false }, 1000, true);
        let next = PeerId { index: 3, generation: 1 };
        turns.queue(Work::Connection(next));
        turns.queue(Work::Connection(next));
        assert_eq!(turns.take(), Some(Turn { work: Work::Connection(next), taker: Taker::Peer(next), is_last: false }));
        assert_eq!((turns.take(), turns.is_empty()), (None, true));
    }

    /// Whatever comes by the gateway, those whose packets wait get as much time as it does, and what peers send half of all.
    #[test]
    fn gateway_takes_turns_as_a_peer_does() {
        const COST: u64 = 500;
        let mut turns = Turns::default();
        (0..4).for_each(|index| turns.queue(Work::Backlog(peer(index))));
        turns.queue(Work::Gateway);
        turns.queue(Work::Device(peer(0)));
        let (mut gateway, mut backlogs, mut devices) = (0, [0; 4], 0);
        for _ in 0..10_000 {
            let turn = turns.take().expect("a flood has no end");
            let (cost, had) = match turn.work {
                Work::Gateway => (COST, &mut gateway),
                Work::Backlog(peer) => (100, &mut backlogs[peer.index as usize]),
                _ => (100, &mut devices),
            };
            *had += cost;
            turns.end(turn, cost, true);
            assert!(backlogs.iter().all(|had| had.abs_diff(gateway) <= 2 * COST), "{gateway}, {backlogs:?}");
        }
        assert!(devices.abs_diff(gateway + backlogs.iter().sum::<u64>()) <= 2 * COST, "{devices}");
    }

    /// A gateway with little to do is served before peers that flood, and after its own flood it owes nothing.
    #[test]
    fn sparse_gateway_is_served_first() {
        let mut flood = Flood::new(&[100; 10], Work::Backlog);
        for moment in 0..100 {
            (0..20 + moment % 7).for_each(|_| _ = flood.serve());
            flood.turns.queue(Work::Gateway);
            flood.turns.queue(Work::Gateway);
            let turn = flood.turns.take().expect("somebody waits");
            assert_eq!(turn, Turn { work: Work::Gateway, taker: Taker::Gateway, is_last: false }, "{moment}");
            flood.turns.end(turn, 1, false);
        }
    }
}
