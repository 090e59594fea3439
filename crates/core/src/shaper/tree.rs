//! The tree of limits: who of those that have something to send may send next.
//!
//! The nodes below another one compete in its *group*. A packet within what is guaranteed goes first; what is left is shared by
//! weight. Within each of these two tiers, the node goes first whose share came furthest behind (start-time fair queueing: Goyal,
//! Vin, Cheng, SIGCOMM 1996). It has the shares of deficit round robin, but a node with a great weight doesn't send all its share
//! of a round in a row, and one with little to send goes next.

use slab::Slab;

use super::LeafStats;
use super::flows::PACKET;
use super::gates::{Gates, Tier};
use super::heap::Heap;
use crate::policy::shape::Limit;

/// Binary digits of a tag behind the point.
const TAG_BITS: u32 = 32;

/// How far a node's share may lag behind that of the others, in bytes. So who has had less than its share goes next, before all who
/// compete all the time.
const CREDIT: u32 = PACKET;

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It has nothing to send.
    Idle,
    /// It has, but may not send before a time: it is in `Tree::asleep`.
    Asleep,
    /// It competes in its group. If it isn't within its guarantee, but has one, it is in `Tree::rising` too.
    Ready { tier: Tier, rises: bool },
}

/// The nodes that compete with each other.
#[derive(Debug)]
struct Group {
    /// The node above, `None` for the root.
    head: Option<usize>,
    ready: [Heap<u128>; 2],
    /// The start tag of who went last.
    virtual_time: [u128; 2],
}

/// The virtual time of a group that begins, so that there is one before it.
const BEGIN: u128 = 1 << 64;

impl Group {
    fn new(head: Option<usize>) -> Self {
        Self { head, ready: <[Heap<u128>; 2]>::default(), virtual_time: [BEGIN; 2] }
    }

    fn first(&self) -> Option<usize> {
        self.ready.iter().find_map(Heap::first).map(|(_, id)| id)
    }

    const fn is_idle(&self) -> bool {
        let [guaranteed, borrowed] = &self.ready;
        guaranteed.is_empty() && borrowed.is_empty()
    }
}

/// A leaf, or what is between leaves and the root.
#[derive(Debug)]
struct Node {
    gates: Gates,
    stats: LeafStats,
    /// The group in which it competes.
    group: usize,
    /// The group whose head it is.
    below: Option<usize>,
    /// For a leaf: something waits.
    has_backlog: bool,
    place: Place,
    /// Where it lies in `Group::ready`.
    at_ready: usize,
    /// Where it lies in `Tree::asleep` or `Tree::rising`.
    at_timer: usize,
    /// How much it has had in each tier, by its weight, since it competes.
    tags: [u128; 2],
    /// By which right the last packet passed.
    last_tier: Tier,
}

impl Node {
    /// What its share begins with in its group: what it has had, or not much less than what the others have.
    fn start(&self, group: &Group, tier: Tier) -> u128 {
        let of = |all: &[u128; 2]| all.get(tier.index()).copied().unwrap_or_default();
        of(&self.tags).max(of(&group.virtual_time).saturating_sub(share(CREDIT, self.gates.weight())))
    }
}

/// What so many bytes are of the share of a node with this weight.
fn share(bytes: u32, weight: u16) -> u128 {
    let bytes = u64::from(bytes) << TAG_BITS;
    u128::from(if weight == 1 { bytes } else { bytes / u64::from(weight) })
}

/// All nodes.
#[derive(Debug)]
pub struct Tree {
    root: Gates,
    root_stats: LeafStats,
    root_group: usize,
    groups: Slab<Group>,
    nodes: Slab<Node>,
    /// Nodes that may not send yet, by the time from when on they may.
    asleep: Heap<u64>,
    /// Nodes that borrow, by the time from when on they are within their guarantee.
    rising: Heap<u64>,
    now: u64,
}

impl Tree {
    /// Makes one without a limit.
    pub fn new() -> Self {
        let mut groups = Slab::new();
        let root_group = groups.insert(Group::new(None));
        Self {
            root: Gates::default(),
            root_stats: LeafStats::default(),
            root_group,
            groups,
            nodes: Slab::new(),
            asleep: Heap::default(),
            rising: Heap::default(),
            now: 0,
        }
    }

    /// The latest time that it was told.
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// The limit of all.
    pub const fn root(&self) -> &Gates {
        &self.root
    }

    /// What all had.
    pub const fn root_stats(&self) -> LeafStats {
        self.root_stats
    }

    /// Changes the limit of all.
    pub fn set_root(&mut self, limit: Option<Limit>) {
        self.root.change(limit, self.now);
    }

    /// Adds a node below another one, or below the root.
    pub fn add(&mut self, limit: Option<Limit>, above: Option<usize>) -> usize {
        let group = self.group_below(above);
        self.nodes.insert(Node {
            gates: Gates::new(limit, self.now),
            stats: LeafStats::default(),
            group,
            below: None,
            has_backlog: false,
            place: Place::Idle,
            at_ready: 0,
            at_timer: 0,
            tags: [0; 2],
            last_tier: Tier::Borrowed,
        })
    }

    /// Removes a node. None may be below it.
    pub fn remove(&mut self, id: usize) {
        self.set_backlog(id, false);
        if let Some(node) = self.nodes.try_remove(id)
            && let Some(below) = node.below
        {
            self.groups.try_remove(below);
        }
    }

    /// Puts a leaf below another node, or below the root.
    pub fn put_below(&mut self, id: usize, above: Option<usize>) {
        let group = self.group_below(above);
        let Some(node) = self.nodes.get(id) else { return };
        let (had_backlog, packets, bytes) = (node.has_backlog, node.stats.packets, node.stats.bytes);
        self.set_backlog(id, false);
        // What waits moves along; what was sent was sent there.
        self.count(id, |stats| (stats.packets, stats.bytes) = (stats.packets - packets, stats.bytes - bytes));
        if let Some(node) = self.nodes.get_mut(id) {
            (node.group, node.tags) = (group, [0; 2]);
        }
        self.count(id, |stats| (stats.packets, stats.bytes) = (stats.packets + packets, stats.bytes + bytes));
        self.set_backlog(id, had_backlog);
    }

    /// Changes a node's limit.
    pub fn set_limit(&mut self, id: usize, limit: Option<Limit>) {
        if let Some(node) = self.nodes.get_mut(id) {
            node.gates.change(limit, self.now);
            self.settle(id, false);
        }
    }

    /// From when on something of a node may pass by its own limit.
    pub fn opens(&self, id: usize) -> u64 {
        self.nodes.get(id).map_or(0, |node| node.gates.opens())
    }

    /// Lets nothing of a node pass before a time.
    pub fn owe(&mut self, id: usize, until: u64) {
        if let Some(node) = self.nodes.get_mut(id) {
            node.gates.owe(until);
            self.settle(id, false);
        }
    }

    /// A node's limit.
    pub fn limit(&self, id: usize) -> Option<&Limit> {
        self.nodes.get(id)?.gates.limit()
    }

    /// What a node had.
    pub fn stats(&self, id: usize) -> Option<LeafStats> {
        self.nodes.get(id).map(|node| node.stats)
    }

    /// Changes what a node and all above it had.
    pub fn count(&mut self, id: usize, count: impl Fn(&mut LeafStats)) {
        let mut next = Some(id);
        while let Some(node) = next.and_then(|id| self.nodes.get_mut(id)) {
            count(&mut node.stats);
            next = self.groups.get(node.group).and_then(|group| group.head);
        }
        count(&mut self.root_stats);
    }

    /// The group below a node, which is made, or that of the root.
    fn group_below(&mut self, above: Option<usize>) -> usize {
        let Some(id) = above else { return self.root_group };
        let Some(node) = self.nodes.get_mut(id) else { return self.root_group };
        *node.below.get_or_insert_with(|| self.groups.insert(Group::new(above)))
    }

    /// Tells whether a leaf has something to send.
    pub fn set_backlog(&mut self, id: usize, has_backlog: bool) {
        if let Some(node) = self.nodes.get_mut(id)
            && node.has_backlog != has_backlog
        {
            node.has_backlog = has_backlog;
            self.settle(id, false);
        }
    }

    /// Moves the time on.
    pub fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
        while let Some((_, id)) = self.asleep.first().filter(|(at, _)| *at <= self.now) {
            self.settle(id, false);
        }
        while let Some((_, id)) = self.rising.first().filter(|(at, _)| *at <= self.now) {
            self.settle(id, false);
        }
    }

    /// Returns when to look again for who may send; `None` if nobody has anything to send.
    pub fn next(&self) -> Option<u64> {
        let is_ready = self.groups.get(self.root_group).is_some_and(|group| !group.is_idle());
        let first = if is_ready { self.now } else { self.asleep.first()?.0 };
        Some(first.max(self.root.opens()))
    }

    /// Returns the leaf that may send now.
    pub fn pick(&self) -> Option<usize> {
        if self.root.opens() > self.now {
            return None;
        }
        let mut id = self.groups.get(self.root_group)?.first()?;
        while let Some(below) = self.nodes.get(id)?.below {
            id = self.groups.get(below)?.first()?;
        }
        Some(id)
    }

    /// Returns true if a leaf without a backlog could send now, and nobody else could who has one.
    pub fn is_clear(&self, id: usize) -> bool {
        self.groups.get(self.root_group).is_some_and(Group::is_idle) && self.paid_at(id) <= self.now
    }

    /// Returns from when on all that has passed is paid for, by all limits of a node.
    pub fn paid_at(&self, id: usize) -> u64 {
        let mut at = self.root.opens();
        let mut next = Some(id);
        while let Some(node) = next.and_then(|id| self.nodes.get(id)) {
            at = at.max(node.gates.opens());
            next = self.groups.get(node.group).and_then(|group| group.head);
        }
        at
    }

    /// Pays for a packet of a leaf, at all levels, and tells whether the leaf has more to send.
    pub fn pay(&mut self, leaf: usize, cost: u32, segments: u32, has_backlog: bool) {
        let now = self.now;
        if let Some(node) = self.nodes.get_mut(leaf) {
            node.has_backlog = has_backlog;
        }
        let mut next = Some(leaf);
        let mut below = Tier::Borrowed;
        while let Some(node) = next.and_then(|id| self.nodes.get_mut(id)) {
            let own = node.gates.tier(now);
            let tier = if below == Tier::Guaranteed { below } else { own };
            node.last_tier = tier;
            let Some(group) = self.groups.get_mut(node.group) else { return };
            let start = node.start(group, tier);
            let weight = node.gates.weight();
            if let (Some(tag), Some(time)) = (node.tags.get_mut(tier.index()), group.virtual_time.get_mut(tier.index()))
            {
                *time = (*time).max(start);
                *tag = start + share(cost, weight);
            }
            let is_borrowed = tier == Tier::Borrowed && node.gates.guarantees().is_some();
            node.stats.sent += u64::from(cost);
            node.stats.borrowed += if is_borrowed { u64::from(cost) } else { 0 };
            node.gates.charge(cost, segments, tier, now);
            (below, next) = (tier, group.head);
        }
        self.root_stats.sent += u64::from(cost);
        self.root.charge(cost, segments, Tier::Borrowed, now);
        self.settle(leaf, true);
    }

    /// Gives back what was paid for the packet of a leaf, at all levels.
    pub fn refund(&mut self, leaf: usize, cost: u32, segments: u32) {
        let mut next = Some(leaf);
        while let Some(node) = next.and_then(|id| self.nodes.get_mut(id)) {
            let is_borrowed = node.last_tier == Tier::Borrowed && node.gates.guarantees().is_some();
            node.stats.sent = node.stats.sent.saturating_sub(u64::from(cost));
            if is_borrowed {
                node.stats.borrowed = node.stats.borrowed.saturating_sub(u64::from(cost));
            }
            node.gates.refund(cost, segments, node.last_tier);
            next = self.groups.get(node.group).and_then(|group| group.head);
        }
        self.root_stats.sent = self.root_stats.sent.saturating_sub(u64::from(cost));
        self.root.refund(cost, segments, Tier::Borrowed);
        self.settle(leaf, true);
    }

    /// Puts a node, and those above it, where they now belong. `all` says that something was paid for or given back on all levels.
    fn settle(&mut self, id: usize, all: bool) {
        let mut next = Some(id);
        while let Some(at) = next {
            let (Some(place), Some(node)) = (self.belongs(at), self.nodes.get(at)) else { return };
            if place == node.place && !all && (place == Place::Idle || at != id) {
                return;
            }
            let group = node.group;
            self.leave(at);
            self.enter(at, place);
            next = self.groups.get(group).and_then(|group| group.head);
        }
    }

    /// Where a node belongs.
    fn belongs(&self, id: usize) -> Option<Place> {
        let node = self.nodes.get(id)?;
        let below = node.below.and_then(|below| self.groups.get(below));
        let wants = below.map_or(node.has_backlog, |below| !below.is_idle());
        Some(if !wants {
            Place::Idle
        } else if node.gates.opens() > self.now {
            Place::Asleep
        } else if below.is_some_and(|below| below.ready.first().is_some_and(|ready| !ready.is_empty())) {
            Place::Ready { tier: Tier::Guaranteed, rises: false }
        } else {
            let tier = node.gates.tier(self.now);
            Place::Ready { tier, rises: tier == Tier::Borrowed && node.gates.guarantees().is_some() }
        })
    }

    /// Takes a node out of all heaps.
    fn leave(&mut self, id: usize) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        let (place, at_ready, at_timer, group) = (node.place, node.at_ready, node.at_timer, node.group);
        node.place = Place::Idle;
        match place {
            Place::Idle => {}
            Place::Asleep => self.asleep.remove(at_timer, &mut |id, at| set_timer(&mut self.nodes, id, at)),
            Place::Ready { tier, rises } => {
                if let Some(heap) = self.groups.get_mut(group).and_then(|group| group.ready.get_mut(tier.index())) {
                    heap.remove(at_ready, &mut |id, at| set_ready(&mut self.nodes, id, at));
                }
                if rises {
                    self.rising.remove(at_timer, &mut |id, at| set_timer(&mut self.nodes, id, at));
                }
            }
        }
    }

    /// Puts a node that is in no heap where it belongs.
    fn enter(&mut self, id: usize, place: Place) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        node.place = place;
        let opens = node.gates.opens();
        match place {
            Place::Idle => {}
            Place::Asleep => self.asleep.insert(opens, id, &mut |id, at| set_timer(&mut self.nodes, id, at)),
            Place::Ready { tier, rises } => {
                let rises_at = node.gates.guarantees().filter(|_| rises);
                let Some(group) = self.groups.get_mut(node.group) else { return };
                let start = node.start(group, tier);
                if let Some(heap) = group.ready.get_mut(tier.index()) {
                    heap.insert(start, id, &mut |id, at| set_ready(&mut self.nodes, id, at));
                }
                if let Some(at) = rises_at {
                    self.rising.insert(at, id, &mut |id, at| set_timer(&mut self.nodes, id, at));
                }
            }
        }
    }
}

fn set_timer(nodes: &mut Slab<Node>, id: usize, at: usize) {
    if let Some(node) = nodes.get_mut(id) {
        node.at_timer = at;
    }
}

fn set_ready(nodes: &mut Slab<Node>, id: usize, at: usize) {
    if let Some(node) = nodes.get_mut(id) {
        node.at_ready = at;
    }
}
