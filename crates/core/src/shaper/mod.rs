//! Holds packets back until their time has come: a tree of limits (all peers, those of one user, one peer), and in each leaf a
//! queue of flows (fq_codel, RFC 8290). It is pure: the time is passed in, in nanoseconds since any start, and it never goes back.
//! There is one for each direction.

mod bucket;
mod codel;
mod flows;
mod gates;
mod heap;
mod queue;
mod tree;

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::policy::shape::Limit;
pub use codel::Delays;
pub use flows::Flows;
pub use heap::Heap;
use queue::{Last, Leaf, Terms};
use tree::Tree;

/// The number of a leaf: the queue of one peer in one direction, or of one class of its flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeafId(usize);

/// A packet that waits.
#[derive(Debug)]
pub struct Item<T> {
    /// A virtio_net header and an IP packet.
    pub bytes: Vec<u8>,
    /// What it counts in bytes: all its segments with their headers.
    pub cost: u32,
    /// How many packets it stands for, at least 1.
    pub segments: u32,
    /// The flow that it belongs to; packets of one flow stay in order.
    pub flow: u32,
    /// What becomes of it when its time has come.
    pub target: T,
}

/// Why a packet was dropped from a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The queue was full.
    Full,
    /// It, or those before it in its flow, had waited too long for too long (`CoDel`, RFC 8289).
    Late,
}

/// What a leaf has and had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeafStats {
    /// Packets that wait (a super-packet counts once).
    pub packets: u64,
    /// Bytes that wait.
    pub bytes: u64,
    /// How long the packet that left last had waited, in nanoseconds.
    pub delay: u64,
    /// Bytes that left, in all.
    pub sent: u64,
    /// Bytes of these that left beyond the guaranteed rate.
    pub borrowed: u64,
    /// Packets that were dropped because the queue was full.
    pub full: u64,
    /// Packets that were dropped because they had waited too long.
    pub late: u64,
    /// Packets that were marked instead (ECN, RFC 3168).
    pub marked: u64,
    /// How often a packet found that it had to wait.
    pub held: u64,
}

/// The limits of a leaf and of those around it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeafLimits {
    /// Its own.
    pub own: Option<Limit>,
    /// The user that it belongs to, and the limit of all leaves of that user together.
    pub user: Option<(u32, Limit)>,
}

/// How many bytes may wait in all leaves together; 256 MiB.
const MAX_ROOM: u64 = 256 << 20;

/// How many queues are kept for the next leaf in which something waits.
const SPARES: usize = 16;

/// All leaves of the peers with a user's limit.
#[derive(Debug)]
struct User {
    node: usize,
    leaves: usize,
}

/// Holds back the packets of one direction. `T` is what becomes of a packet when its time has come.
#[derive(Debug)]
pub struct Shaper<T> {
    tree: Tree,
    /// By the number of their node.
    leaves: Vec<Option<Leaf<T>>>,
    users: HashMap<u32, User>,
    /// Users without leaves that may still have to pay.
    gone: Vec<u32>,
    /// Queues that no leaf needs now.
    #[expect(clippy::vec_box)] // the boxes go to leaves and come back
    spares: Vec<Box<flows::Flows<T>>>,
    /// Leaves in which something waits, the one that takes the most room first.
    fattest: Heap<Reverse<u64>>,
    /// Packets that wait.
    packets: u64,
    /// What they count against [`MAX_ROOM`].
    room: u64,
    /// Changes with each limit, so that leaves find out what it means for them when they next need it.
    version: u64,
}

impl<T> Default for Shaper<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Shaper<T> {
    /// Makes one without limits and leaves.
    pub fn new() -> Self {
        let (leaves, spares) = (Vec::new(), Vec::new());
        let (tree, users, fattest) = (Tree::new(), HashMap::new(), Heap::default());
        Self { tree, leaves, users, gone: Vec::new(), spares, fattest, packets: 0, room: 0, version: 1 }
    }

    /// Limits all leaves together, at once. Of a limit with a ceil, that is what counts: there is nobody to borrow from.
    pub fn set_uplink(&mut self, limit: Option<Limit>) {
        self.tree.set_root(limit);
        self.version += 1;
    }

    /// Returns what all leaves together have and had, those that were closed included.
    pub const fn uplink_stats(&self) -> LeafStats {
        self.tree.root_stats()
    }

    /// Returns what all leaves of a user together have and had, if there are any.
    pub fn user_stats(&self, uid: u32) -> Option<LeafStats> {
        self.tree.stats(self.users.get(&uid)?.node)
    }

    /// Makes a leaf. It begins without credit, so that nobody gains by going and coming back.
    pub fn open(&mut self, limits: LeafLimits) -> LeafId {
        let above = limits.user.map(|(uid, limit)| self.join(uid, limit));
        let id = self.tree.add(limits.own, above);
        if self.leaves.len() <= id {
            self.leaves.resize_with(id + 1, || None);
        }
        if let Some(place) = self.leaves.get_mut(id) {
            *place = Some(Leaf::new(limits.user.map(|(uid, _)| uid)));
        }
        LeafId(id)
    }

    /// Changes the limits of a leaf, and the one of its user for all of the user's leaves. They count at once for what waits, too.
    /// Credit and debt stay what they are in bytes.
    pub fn set_limits(&mut self, leaf: LeafId, limits: LeafLimits) {
        let LeafId(id) = leaf;
        let Some(state) = self.leaves.get_mut(id).and_then(Option::as_mut) else { return };
        let user = limits.user.map(|(uid, _)| uid);
        let old = std::mem::replace(&mut state.user, user);
        // Joined before the old one is left, so that a user's node outlasts a change of its limit.
        let above = limits.user.map(|(uid, limit)| self.join(uid, limit));
        if old != user {
            self.tree.put_below(id, above);
        }
        if let Some(uid) = old {
            self.part(uid);
        }
        self.tree.set_limit(id, limits.own);
        self.version += 1;
    }

    /// Removes a leaf. Returns how many packets were thrown away.
    pub fn close(&mut self, leaf: LeafId) -> u64 {
        let LeafId(id) = leaf;
        let Some(mut state) = self.leaves.get_mut(id).and_then(Option::take) else { return 0 };
        let (packets, room) = state.flows.as_ref().map_or((0, 0), |flows| (flows.packets(), flows.room()));
        self.packets -= packets;
        self.room -= room;
        if let Some(place) = state.place {
            self.fattest.remove(place, &mut |id, place| set_place(&mut self.leaves, id, place));
        }
        let bytes = self.tree.stats(id).map_or(0, |stats| stats.bytes);
        self.tree.count(id, |stats| {
            stats.packets -= packets;
            stats.bytes -= bytes;
        });
        self.spare(state.flows.take());
        self.tree.remove(id);
        if let Some(uid) = state.user {
            self.part(uid);
        }
        packets
    }

    /// Returns when what has left a leaf is paid for by its own limit. It is to be asked before the leaf is closed, so that who
    /// comes back can be made to pay by [`Shaper::owe`].
    pub fn paid_at(&self, leaf: LeafId) -> u64 {
        self.tree.opens(leaf.0)
    }

    /// Lets nothing leave a limited leaf before a time.
    pub fn owe(&mut self, leaf: LeafId, until: u64) {
        self.tree.owe(leaf.0, until);
    }

    /// Returns true if no packet waits.
    pub const fn is_empty(&self) -> bool {
        self.packets == 0
    }

    /// How many packets wait.
    pub const fn len(&self) -> u64 {
        self.packets
    }

    /// What a leaf has and had; nothing if it was closed.
    pub fn stats(&self, leaf: LeafId) -> LeafStats {
        self.tree.stats(leaf.0).unwrap_or_default()
    }

    /// Returns true if nothing waits in a leaf, and a packet may go at once without getting ahead of others. It has to be paid
    /// for with [`Shaper::charge`].
    pub fn is_open(&mut self, leaf: LeafId, now: u64) -> bool {
        self.tree.advance(now);
        let is_empty = self.leaf(leaf).is_some_and(|leaf| leaf.flows.is_none());
        is_empty && self.tree.is_clear(leaf.0)
    }

    /// Pays for a packet that goes at once, after [`Shaper::is_open`]. `cost` and `segments` as in an [`Item`].
    pub fn charge(&mut self, leaf: LeafId, cost: u32, segments: u32, now: u64) {
        self.tree.advance(now);
        let Some(state) = self.leaf(leaf) else { return };
        let has_backlog = state.flows.is_some();
        self.tree.pay(leaf.0, cost, segments, has_backlog);
    }

    /// Gives back, at all levels, what was paid for a packet that wasn't delivered after all. It must be the last one of its leaf
    /// that was paid for: what was guaranteed or borrowed is given back as such.
    pub fn refund(&mut self, leaf: LeafId, cost: u32, segments: u32) {
        if self.leaf(leaf).is_some() {
            self.tree.refund(leaf.0, cost, segments);
        }
    }

    /// Puts a packet into its leaf's queue. If that is full, `lost` gets the first packets of the flow with the most bytes. It gets
    /// the packet itself if the leaf was closed.
    pub fn push(&mut self, leaf: LeafId, item: Item<T>, now: u64, lost: &mut impl FnMut(LeafId, Item<T>, Loss)) {
        let is_held = u64::from(!self.is_open(leaf, now));
        let LeafId(id) = leaf;
        let (tree, version) = (&mut self.tree, self.version);
        let Some(state) = self.leaves.get_mut(id).and_then(Option::as_mut) else {
            return lost(leaf, item, Loss::Full);
        };
        let now = tree.now();
        let terms = state.terms(version, |user| Terms::of(limits_of(tree, &self.users, id, user)));
        let last = state.last.take().filter(|last| last.flow == item.flow && now < last.until);
        let flows = state.flows.get_or_insert_with(|| self.spares.pop().unwrap_or_default());
        if let Some(Last { flow, deficit, .. }) = last {
            flows.resume(flow, deficit);
        }
        let cost = u64::from(item.cost);
        let before = flows.room();
        flows.push(item, now);
        tree.count(id, |stats| {
            stats.packets += 1;
            stats.bytes += cost;
            stats.held += is_held;
        });
        self.packets += 1;
        let others = self.room - before;
        while flows.packets() > 1
            && flows.room() > terms.room
            && let Some(item) = flows.drop_from_fattest()
        {
            count_loss(tree, id, &item, Loss::Full);
            self.packets -= 1;
            lost(leaf, item, Loss::Full);
        }
        self.room = others + flows.room();
        tree.set_backlog(id, true);
        self.rank(id);
        self.make_room(lost);
    }

    /// Drops packets of the leaves that take the most room, if all together take too much. So those who take little lose nothing
    /// by it.
    fn make_room(&mut self, lost: &mut impl FnMut(LeafId, Item<T>, Loss)) {
        while self.room > MAX_ROOM
            && let Some((_, id)) = self.fattest.first()
            && let Some(flows) = self.leaves.get_mut(id).and_then(|leaf| leaf.as_mut()?.flows.as_mut())
            && flows.packets() > 1
        {
            let before = flows.room();
            let Some(item) = flows.drop_from_fattest() else { return };
            self.room -= before - flows.room();
            self.packets -= 1;
            count_loss(&mut self.tree, id, &item, Loss::Full);
            lost(LeafId(id), item, Loss::Full);
            self.rank(id);
        }
    }

    /// Puts a leaf where it belongs among those that take room.
    fn rank(&mut self, id: usize) {
        let Some(leaf) = self.leaves.get_mut(id).and_then(Option::as_mut) else { return };
        let room = leaf.flows.as_ref().map(|flows| Reverse(flows.room()));
        let place = leaf.place;
        if room.is_none() {
            leaf.place = None;
        }
        let mut moved = |id: usize, place| set_place(&mut self.leaves, id, place);
        match (place, room) {
            (Some(place), Some(room)) => self.fattest.change(place, room, &mut moved),
            (Some(place), None) => self.fattest.remove(place, &mut moved),
            (None, Some(room)) => self.fattest.insert(room, id, &mut moved),
            (None, None) => {}
        }
    }

    /// Takes the next packet whose time has come. It is paid for. On the way, those that waited too long are dropped, or marked if
    /// their senders understand that (ECN).
    pub fn pop(&mut self, now: u64, lost: &mut impl FnMut(LeafId, Item<T>, Loss)) -> Option<(LeafId, Item<T>)> {
        if self.packets == 0 {
            return None;
        }
        self.tree.advance(now);
        let now = self.tree.now();
        let id = self.tree.pick()?;
        let leaf = LeafId(id);
        let (tree, version) = (&mut self.tree, self.version);
        let state = self.leaves.get_mut(id)?.as_mut()?;
        let terms = state.terms(version, |user| Terms::of(limits_of(tree, &self.users, id, user)));
        let flows = state.flows.as_mut()?;
        let (room, packets) = (flows.room(), flows.packets());
        let left = flows.pop(now, terms.delays, &mut |item, loss| {
            count_loss(tree, id, &item, loss);
            lost(leaf, item, loss);
        })?;
        self.room -= room - flows.room();
        self.packets -= packets - flows.packets();
        let has_more = flows.packets() > 0;
        let cost = u64::from(left.item.cost);
        tree.count(id, |stats| {
            stats.packets -= 1;
            stats.bytes -= cost;
            stats.delay = left.waited;
            stats.marked += u64::from(left.is_marked);
        });
        tree.pay(id, left.item.cost, left.item.segments, has_more);
        if !has_more {
            state.last = Some(Last { flow: left.item.flow, deficit: left.deficit, until: tree.paid_at(id) });
            let flows = state.flows.take();
            self.spare(flows);
        }
        self.rank(id);
        Some((leaf, left.item))
    }

    /// Returns when to call [`Shaper::pop`] again; a time that has passed means at once. `None` if nothing waits.
    pub fn next(&self) -> Option<u64> {
        self.tree.next()
    }

    fn leaf(&self, leaf: LeafId) -> Option<&Leaf<T>> {
        self.leaves.get(leaf.0)?.as_ref()
    }

    /// Keeps a queue that a leaf doesn't need any more.
    fn spare(&mut self, flows: Option<Box<flows::Flows<T>>>) {
        if let Some(mut flows) = flows
            && self.spares.len() < SPARES
        {
            flows.reset();
            self.spares.push(flows);
        }
    }

    /// Returns the node of a user, for one leaf more.
    fn join(&mut self, uid: u32, limit: Limit) -> usize {
        let tree = &mut self.tree;
        self.gone.retain(|gone| *gone != uid);
        let user = self.users.entry(uid).or_insert_with(|| User { node: tree.add(Some(limit), None), leaves: 0 });
        user.leaves += 1;
        if tree.limit(user.node) != Some(&limit) {
            tree.set_limit(user.node, Some(limit));
            self.version += 1;
        }
        user.node
    }

    /// One leaf of a user less.
    fn part(&mut self, uid: u32) {
        let Some(user) = self.users.get_mut(&uid) else { return };
        user.leaves -= 1;
        if user.leaves == 0 {
            self.gone.push(uid);
            self.forget_users();
        }
    }

    /// Removes the users without leaves whose packets are paid for. Until then they are kept, so that nobody gains by going and
    /// coming back.
    fn forget_users(&mut self) {
        let (tree, users) = (&mut self.tree, &mut self.users);
        self.gone.retain(|uid| {
            let Some(user) = users.get(uid).filter(|user| user.leaves == 0) else { return false };
            let owes = tree.opens(user.node) > tree.now();
            if !owes {
                tree.remove(user.node);
                users.remove(uid);
            }
            owes
        });
    }
}

/// The limits that a packet of a leaf has to pass, the leaf's first.
fn limits_of<'a>(
    tree: &'a Tree,
    users: &HashMap<u32, User>,
    leaf: usize,
    user: Option<u32>,
) -> impl Iterator<Item = &'a Limit> + Clone {
    let user = user.and_then(|uid| users.get(&uid)).and_then(|user| tree.limit(user.node));
    [tree.limit(leaf), user, tree.root().limit()].into_iter().flatten()
}

fn count_loss<T>(tree: &mut Tree, id: usize, item: &Item<T>, loss: Loss) {
    let cost = u64::from(item.cost);
    tree.count(id, |stats| {
        stats.packets -= 1;
        stats.bytes -= cost;
        match loss {
            Loss::Full => stats.full += 1,
            Loss::Late => stats.late += 1,
        }
    });
}

fn set_place<T>(leaves: &mut [Option<Leaf<T>>], id: usize, place: usize) {
    if let Some(leaf) = leaves.get_mut(id).and_then(Option::as_mut) {
        leaf.place = Some(place);
    }
}
