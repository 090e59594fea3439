//! The queue of a leaf: one for each flow, served by deficit round robin, flows with little first (fq_codel, RFC 8290).

use std::collections::VecDeque;

use tuntap_wire::ip::mark_ce;
use tuntap_wire::vnet::VNET_HEADER_LEN;

use super::codel::{Codel, Delays};
use super::heap::Heap;
use super::{Item, Loss};

/// A packet of Ethernet's usual MTU, in bytes as limits count them. It is the quantum of a turn (RFC 8290, section 4.1.3): with
/// more, a turn would now and then be of two such packets, and others would wait for both.
pub const PACKET: u32 = 1500;

/// Binary digits of the number of queues, 1024 as in RFC 8290, section 4.1.2. Flows that share one share what it gets.
const QUEUES_BITS: u32 = 10;
const QUEUES: usize = 1 << QUEUES_BITS;

/// 2 to the 32nd by the golden ratio: numbers in a row fall far from each other (Knuth, volume 3, 6.4).
const SPREAD: u32 = 0x9e37_79b9;

/// What a packet counts at least against the queue's length, in bytes, since it needs memory beside its bytes.
const LEAST_ROOM: u64 = 256;

/// Flows that a queue may keep for its next use.
const SPARE_FLOWS: usize = 8;

/// So many packets' memory a flow may keep, though it has none. There may be a thousand such flows for each peer.
const SPARE_PACKETS: usize = 8;

/// No flow.
const NONE: u16 = u16::MAX;

/// A packet with the time at which it came.
#[derive(Debug)]
struct Waiting<T> {
    item: Item<T>,
    since: u64,
}

/// The packets of one flow.
#[derive(Debug)]
struct Flow<T> {
    waiting: VecDeque<Waiting<T>>,
    /// What they count.
    room: u64,
    /// Bytes that it may send in this turn.
    deficit: i64,
    /// The turns of old flows that had ended when it got its quantum.
    turns_before: u64,
    /// True if it is in one of the lists.
    is_listed: bool,
    codel: Codel,
    /// Its place in [`Flows::index`].
    queue: usize,
    /// Its place in [`Flows::fattest`].
    place: usize,
}

impl<T> Flow<T> {
    /// Returns true if its next packet is not for this turn. Packets beyond a quantum have a turn each, and pay for it later.
    fn has_had_its_turn(&self) -> bool {
        let next = self.waiting.front().map_or(0, |waiting| waiting.item.cost);
        self.deficit < i64::from(next.clamp(1, PACKET))
    }

    /// Gives back memory once three quarters of it are unused. Else a sender who makes one flow after the other long would get as
    /// much for each of them as the whole queue may take.
    fn shrink(&mut self) {
        let capacity = self.waiting.capacity();
        if capacity > SPARE_PACKETS && self.waiting.len() < capacity / 4 {
            self.waiting.shrink_to(capacity / 2);
        }
    }
}

/// What left.
#[derive(Debug)]
pub struct Left<T> {
    /// The packet.
    pub item: Item<T>,
    /// How long it had waited, in nanoseconds.
    pub waited: u64,
    /// True if it was marked (ECN).
    pub is_marked: bool,
    /// What its flow has left of its turn, in bytes.
    pub deficit: i64,
}

/// All flows of a leaf.
#[derive(Debug)]
pub struct Flows<T> {
    /// The flow of each queue.
    index: Box<[u16]>,
    flows: Vec<Flow<T>>,
    unused: Vec<u16>,
    /// Flows that have sent less than a quantum since the others had their turns. They go first.
    new: VecDeque<u16>,
    old: VecDeque<u16>,
    /// How many turns of old flows have ended.
    turns: u64,
    /// Flows with packets, the one with the most bytes first.
    fattest: Heap<std::cmp::Reverse<u64>>,
    packets: u64,
    room: u64,
}

impl<T> Default for Flows<T> {
    fn default() -> Self {
        Self {
            index: vec![NONE; QUEUES].into(),
            flows: Vec::new(),
            unused: Vec::new(),
            new: VecDeque::new(),
            old: VecDeque::new(),
            turns: 0,
            fattest: Heap::default(),
            packets: 0,
            room: 0,
        }
    }
}

impl<T> Flows<T> {
    /// How many packets wait.
    pub const fn packets(&self) -> u64 {
        self.packets
    }

    /// What they count, in bytes.
    pub const fn room(&self) -> u64 {
        self.room
    }

    /// Adds a packet to its flow.
    pub fn push(&mut self, item: Item<T>, now: u64) {
        let at = self.flow(item.flow);
        let Some(flow) = self.flows.get_mut(usize::from(at)) else { return };
        let room = room(&item);
        let is_first = flow.waiting.is_empty();
        flow.waiting.push_back(Waiting { item, since: now });
        flow.room += room;
        self.packets += 1;
        self.room += room;
        let (key, place) = (std::cmp::Reverse(flow.room), flow.place);
        let mut moved = |id: usize, place| set_place(&mut self.flows, id, place);
        if is_first {
            self.fattest.insert(key, usize::from(at), &mut moved);
        } else {
            self.fattest.change(place, key, &mut moved);
        }
    }

    /// A flow goes on with what it had left of its turn when the queue became empty, if that was just now.
    pub fn resume(&mut self, number: u32, deficit: i64) {
        let at = self.new_flow(queue_of(number));
        if let Some(flow) = self.flows.get_mut(usize::from(at)) {
            flow.deficit = deficit;
        }
    }

    /// Takes the first packet of the flow with the most bytes.
    pub fn drop_from_fattest(&mut self) -> Option<Item<T>> {
        let (_, at) = self.fattest.first()?;
        self.take(at).map(|waiting| waiting.item)
    }

    /// Takes the packet whose turn it is. Those that waited too long are marked, or dropped if they can't be. There is one
    /// unless nothing waits.
    pub fn pop(&mut self, now: u64, delays: Delays, lost: &mut impl FnMut(Item<T>, Loss)) -> Option<Left<T>> {
        if self.packets == 0 {
            return None;
        }
        loop {
            let is_new = !self.new.is_empty();
            let is_alone = self.new.len() + self.old.len() == 1;
            let list = if is_new { &mut self.new } else { &mut self.old };
            let number = *list.front()?;
            let at = usize::from(number);
            let flow = self.flows.get_mut(at)?;
            if flow.waiting.is_empty() {
                // It keeps what is left of its quantum, and gets no other one before the others had their turns.
                flow.is_listed = false;
                list.pop_front();
            } else if flow.has_had_its_turn() && !is_alone {
                self.turns += u64::from(!is_new);
                flow.deficit += i64::from(PACKET);
                flow.turns_before = self.turns;
                list.pop_front();
                self.old.push_back(number);
            } else {
                let mut left = self.next_of(at, now, delays, lost)?;
                if let Some(flow) = self.flows.get_mut(at) {
                    flow.deficit -= i64::from(left.item.cost);
                    if is_alone && flow.deficit <= 0 {
                        // That was a turn, and nobody else has to gain one by what it sent alone.
                        flow.deficit = 0;
                        self.turns += 1;
                        flow.turns_before = self.turns;
                    }
                    left.deficit = flow.deficit;
                }
                return Some(left);
            }
        }
    }

    /// Takes the next packet of a flow that has some.
    fn next_of(
        &mut self,
        at: usize,
        now: u64,
        delays: Delays,
        lost: &mut impl FnMut(Item<T>, Loss),
    ) -> Option<Left<T>> {
        loop {
            let Waiting { mut item, since } = self.take(at)?;
            let waited = now.saturating_sub(since);
            let flow = self.flows.get_mut(at)?;
            if !flow.codel.hits(waited, flow.waiting.is_empty(), now, delays) {
                return Some(Left { item, waited, is_marked: false, deficit: 0 });
            }
            if item.bytes.get_mut(VNET_HEADER_LEN..).is_some_and(mark_ce) {
                return Some(Left { item, waited, is_marked: true, deficit: 0 });
            }
            lost(item, Loss::Late);
        }
    }

    /// Takes the first packet of a flow.
    fn take(&mut self, at: usize) -> Option<Waiting<T>> {
        let flow = self.flows.get_mut(at)?;
        let waiting = flow.waiting.pop_front()?;
        let room = room(&waiting.item);
        flow.shrink();
        flow.room -= room;
        self.room -= room;
        self.packets -= 1;
        let (key, place, is_empty) = (std::cmp::Reverse(flow.room), flow.place, flow.waiting.is_empty());
        let mut moved = |id: usize, place| set_place(&mut self.flows, id, place);
        if is_empty {
            self.fattest.remove(place, &mut moved);
        } else {
            self.fattest.change(place, key, &mut moved);
        }
        Some(waiting)
    }

    /// Returns the place of the flow with this number, which is made if it isn't there. Its turn is to come.
    fn flow(&mut self, number: u32) -> u16 {
        let queue = queue_of(number);
        let at = match self.index.get(queue) {
            Some(&at) if at != NONE => at,
            _ => self.new_flow(queue),
        };
        // A flow that sends alone and has its next packet each time when the last one has left would always be new, and what comes
        // meanwhile would wait for its packet.
        let (turns, others) = (self.turns, u64::try_from(self.old.len().max(1)).unwrap_or(u64::MAX));
        if let Some(flow) = self.flows.get_mut(usize::from(at))
            && !flow.is_listed
        {
            flow.is_listed = true;
            if turns - flow.turns_before >= others {
                (flow.deficit, flow.turns_before) = (i64::from(PACKET), turns);
            }
            let list = if flow.deficit > 0 { &mut self.new } else { &mut self.old };
            list.push_back(at);
        }
        at
    }

    fn new_flow(&mut self, queue: usize) -> u16 {
        let at = self.unused.pop().unwrap_or_else(|| {
            self.flows.push(Flow {
                waiting: VecDeque::new(),
                room: 0,
                deficit: 0,
                turns_before: 0,
                is_listed: false,
                codel: Codel::default(),
                queue,
                place: usize::MAX,
            });
            // There are no more flows than queues.
            u16::try_from(self.flows.len() - 1).unwrap_or_default()
        });
        if let Some(flow) = self.flows.get_mut(usize::from(at)) {
            (flow.deficit, flow.turns_before) = (i64::from(PACKET), self.turns);
            (flow.codel, flow.queue) = (Codel::default(), queue);
        }
        set_queue(&mut self.index, queue, at);
        at
    }

    /// Removes all packets and flows, and memory beyond what the next use is likely to need.
    pub fn reset(&mut self) {
        self.new.clear();
        self.old.clear();
        self.unused.clear();
        for (flow, number) in self.flows.iter_mut().zip(0..) {
            flow.waiting.clear();
            (flow.room, flow.is_listed) = (0, false);
            set_queue(&mut self.index, flow.queue, NONE);
            self.unused.push(number);
        }
        self.fattest.clear();
        (self.packets, self.room) = (0, 0);
        if self.flows.len() > SPARE_FLOWS {
            self.flows.truncate(SPARE_FLOWS);
            self.unused.retain(|number| usize::from(*number) < SPARE_FLOWS);
        }
        for flow in &mut self.flows {
            flow.waiting.shrink_to(SPARE_PACKETS);
        }
    }
}

/// The queue of the flow with this number.
fn queue_of(number: u32) -> usize {
    let spread = number.wrapping_mul(SPREAD) >> (u32::BITS - QUEUES_BITS);
    usize::try_from(spread).unwrap_or_default()
}

/// What a packet counts against the length of the queue.
fn room<T>(item: &Item<T>) -> u64 {
    let len = u64::try_from(item.bytes.len()).unwrap_or(u64::MAX >> 1);
    u64::from(item.cost).max(len).max(LEAST_ROOM)
}

fn set_place<T>(flows: &mut [Flow<T>], id: usize, place: usize) {
    if let Some(flow) = flows.get_mut(id) {
        flow.place = place;
    }
}

fn set_queue(index: &mut [u16], queue: usize, at: u16) {
    if let Some(entry) = index.get_mut(queue) {
        *entry = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(flow: u32) -> Item<()> {
        Item { bytes: Vec::new(), cost: 64, segments: 1, flow, target: () }
    }

    /// A sender fills one flow after the other, and leaves a packet in each.
    #[test]
    fn memory_follows_what_waits() {
        let mut flows = Flows::default();
        let many = 10_000;
        for flow in 0..100 {
            (0..many).for_each(|_| flows.push(item(flow), 0));
            (1..many).for_each(|_| drop(flows.drop_from_fattest()));
        }
        let memory: usize = flows.flows.iter().map(|flow| flow.waiting.capacity()).sum();
        assert!(memory <= flows.flows.len() * 2 * SPARE_PACKETS, "{memory} in {}", flows.flows.len());
    }

    /// A sender makes one flow after the other long, and the queue never becomes empty.
    #[test]
    fn flows_without_packets_keep_next_to_no_memory() {
        let (mut flows, delays) = (Flows::default(), Delays::new(u64::MAX / 100));
        for flow in 0..10_000 {
            (0..100).for_each(|_| flows.push(item(flow), 0));
            while flows.packets() > 1 && flows.pop(0, delays, &mut |_, _| ()).is_some() {}
        }
        let packets: usize = flows.flows.iter().map(|flow| flow.waiting.capacity()).sum();
        let memory = packets * size_of::<Waiting<()>>() + flows.flows.len() * size_of::<Flow<()>>();
        assert!(memory < 1024 * 1024, "{memory} bytes for {} flows", flows.flows.len());
    }
}
