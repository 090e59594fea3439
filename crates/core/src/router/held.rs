//! Packets that are held back: those of limited peers wait in a queue until their time has come. Packets without a limit never
//! come here.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tuntap_wire::gso::GsoPacket;
use tuntap_wire::rule::Direction;
use tuntap_wire::segment::for_each_packet;
use tuntap_wire::vnet::{Offload, VNET_HEADER_LEN};

use super::Router;
use super::inbound::Ingress;
use super::shell::Shell;
use crate::nanos::nanos;
use crate::policy::drops::DropReason;
use crate::policy::registry::PeerId;
use crate::policy::shape::{Limit, PeerShape, ShapeSelector};
use crate::policy::verdict::{Class, Lane};
use crate::shaper::{Item, LeafId, LeafLimits, LeafStats, Loss, Shaper};
use crate::trunk::TrunkId;

/// Packets that leave the queues of a direction in one turn. The rest leaves in the next one, after other events.
const PACKETS_PER_TURN: usize = 256;

/// Super-packets wait whole if the rate is above this, in bits per second. Below, one of 64 KiB would take the line for so long
/// that others wait noticeably.
const WHOLE_ABOVE: u64 = 50_000_000;

/// Addresses whose last peer left with a debt. A debt is a packet at most, so that there are few of them unless limits are absurd.
const MAX_DEBTS: usize = 1 << 14;

/// The way of a packet from a peer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// To the TUN device.
    Tun,
    /// To another router.
    Gateway(SocketAddr),
    /// To the router of another host, as a packet of this flow.
    Trunk(TrunkId, u32),
    /// To another peer, where it waits again if that is limited.
    Peer(PeerId, Lane),
}

/// Where a packet towards a peer comes from. It learns if the packet is too long.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// The host, or another router.
    Outside(Ingress),
    /// Another peer of this router.
    Peer(PeerId),
}

/// What becomes of a packet when its time has come.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// It leaves the peer.
    From(PeerId, Way),
    /// It is delivered to the peer.
    To(PeerId, Origin),
}

impl Target {
    const fn peer(&self) -> PeerId {
        match self {
            Self::From(peer, _) | Self::To(peer, _) => *peer,
        }
    }

    const fn direction(&self) -> Direction {
        match self {
            Self::From(..) => Direction::Out,
            Self::To(..) => Direction::In,
        }
    }
}

/// The queue that a packet waits in.
#[derive(Debug, Clone, Copy)]
struct Queue {
    leaf: LeafId,
    /// True if super-packets are cut.
    cuts: bool,
}

/// The queues of a peer in one direction.
#[derive(Debug)]
pub struct Queues {
    /// The number of the limits that they were made for, and the number of addresses that the peer had then.
    made_for: (u32, usize),
    shape: PeerShape,
    own: Queue,
    internet: Option<Queue>,
    /// By class.
    classes: Vec<(Class, Queue)>,
}

impl Queues {
    /// Returns the queues for these limits; those that are there already go on with what waits in them. `make` makes a queue, or
    /// changes the limit of one.
    fn renewed(
        before: Option<Box<Self>>,
        made_for: (u32, usize),
        shape: PeerShape,
        class_limit: impl Fn(Class) -> Option<Limit>,
        mut make: impl FnMut(Option<Queue>, Option<Limit>) -> Queue,
    ) -> Self {
        let own = make(before.as_ref().map(|before| before.own), shape.peer);
        let internet = before.as_ref().and_then(|before| before.internet);
        let internet = (internet.is_some() || shape.internet.is_some()).then(|| make(internet, shape.internet));
        let mut classes = before.map_or_else(Vec::new, |before| before.classes);
        for (class, queue) in &mut classes {
            *queue = make(Some(*queue), class_limit(*class));
        }
        Self { made_for, shape, own, internet, classes }
    }

    /// Has the limits be looked up again. No limits have the number 0.
    pub(super) const fn forget_limits(&mut self) {
        self.made_for = (0, 0);
    }

    fn leaves(&self) -> impl Iterator<Item = LeafId> {
        self.unlimited(|_| false)
    }

    /// Those that aren't of a class with a limit.
    fn unlimited(&self, is_limited: impl Fn(Class) -> bool) -> impl Iterator<Item = LeafId> {
        let classes = self.classes.iter().filter(move |(class, _)| !is_limited(*class));
        let others = self.internet.iter().chain(classes.map(|(_, queue)| queue));
        std::iter::once(&self.own).chain(others).map(|queue| queue.leaf)
    }
}

impl From<Loss> for DropReason {
    fn from(loss: Loss) -> Self {
        match loss {
            Loss::Full => Self::ShapedFull,
            Loss::Late => Self::ShapedLate,
        }
    }
}

/// All packets that wait, and the limits that they wait for.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Out and in.
    shapers: [Shaper<Target>; 2],
    /// The packets that were dropped while they waited, until they are counted.
    lost: Vec<(Item<Target>, DropReason)>,
    /// By address, until when what its last peer sent and got isn't paid for yet.
    debts: HashMap<IpAddr, [u64; 2]>,
    /// The number of the limits in use. Others have another number.
    limits: u32,
    /// The limits of all peers together, out and in.
    uplinks: [Option<Limit>; 2],
    /// True once there was a limit.
    is_on: bool,
}

/// Returns a queue with these limits, below that of all: a new one, which sends nothing before `owed`, or `before` with others.
fn queue(
    shaper: &mut Shaper<Target>,
    before: Option<Queue>,
    limits: LeafLimits,
    uplink: Option<Limit>,
    owed: impl Fn() -> u64,
) -> Queue {
    let leaf = match before {
        Some(before) => {
            shaper.set_limits(before.leaf, limits);
            before.leaf
        }
        None => {
            let leaf = shaper.open(limits);
            shaper.owe(leaf, owed());
            leaf
        }
    };
    let most =
        [limits.own, limits.user.map(|(_, limit)| limit), uplink].into_iter().flatten().map(|limit| limit.most()).min();
    Queue { leaf, cuts: most.is_some_and(|most| most <= WHOLE_ABOVE) }
}

/// What a packet counts: the bytes of its segments, with their headers, and their number.
fn cost(packet: &GsoPacket<'_>) -> (u32, u32) {
    let segments = packet.segments().max(1);
    let bytes = packet.packet().total_len() + (segments - 1) * packet.offload().headers_len();
    (u32::try_from(bytes).unwrap_or(u32::MAX), u32::try_from(segments).unwrap_or(u32::MAX))
}

/// Copies a packet, with a header before it.
fn copy(offload: &Offload, bytes: &[u8]) -> Vec<u8> {
    copy_into(Vec::new(), offload, bytes)
}

/// The same, into the memory of a buffer.
fn copy_into(mut buffer: Vec<u8>, offload: &Offload, bytes: &[u8]) -> Vec<u8> {
    buffer.clear();
    buffer.reserve_exact(VNET_HEADER_LEN + bytes.len());
    buffer.extend_from_slice(&offload.encode());
    buffer.extend_from_slice(bytes);
    buffer
}

/// Makes a whole packet one that can wait.
pub(super) fn item<T>(packet: &GsoPacket<'_>, flow: u32, target: T) -> Item<T> {
    item_in(Vec::new(), packet, flow, target)
}

/// The same, in the memory of a buffer.
pub(crate) fn item_in<T>(buffer: Vec<u8>, packet: &GsoPacket<'_>, flow: u32, target: T) -> Item<T> {
    let bytes = copy_into(buffer, packet.offload(), &packet.packet().bytes()[..packet.packet().total_len()]);
    let (cost, segments) = cost(packet);
    Item { bytes, cost, segments, flow, target }
}

impl Held {
    /// Puts a packet into a queue.
    fn push(
        &mut self,
        queue: Queue,
        flow: u32,
        target: Target,
        packet: &GsoPacket<'_>,
        now: u64,
        scratch: &mut Vec<u8>,
    ) {
        let shaper = &mut self.shapers[target.direction().index()];
        let lost = &mut self.lost;
        let mut lose = |_, item, loss: Loss| lost.push((item, loss.into()));
        if !queue.cuts || packet.segments() <= 1 {
            return shaper.push(queue.leaf, item(packet, flow, target), now, &mut lose);
        }
        for_each_packet(packet.offload(), packet.packet(), scratch, |segment| {
            let cost = u32::try_from(segment.len()).unwrap_or(u32::MAX);
            let item = Item { bytes: copy(&Offload::NONE, segment), cost, segments: 1, flow, target };
            shaper.push(queue.leaf, item, now, &mut lose);
        });
    }

    /// Returns the next packet in a direction whose time has come.
    fn pop(&mut self, direction: Direction, now: u64) -> Option<(LeafId, Item<Target>)> {
        let lost = &mut self.lost;
        self.shapers[direction.index()].pop(now, &mut |_, item, loss: Loss| lost.push((item, loss.into())))
    }

    /// Throws away what waits for a peer that is closed, and from it. What it sent and got remains to be paid by who comes with
    /// one of its addresses.
    pub(super) fn forget(
        &mut self,
        queues: &[Option<Box<Queues>>; 2],
        addresses: impl Iterator<Item = IpAddr>,
        now: u64,
    ) {
        let mut owed = [0; 2];
        for ((shaper, queues), owed) in self.shapers.iter_mut().zip(queues).zip(&mut owed) {
            for leaf in queues.iter().flat_map(|queues| queues.leaves()) {
                *owed = shaper.paid_at(leaf).max(*owed);
                shaper.close(leaf);
            }
        }
        if owed.iter().all(|owed| *owed <= now) {
            return;
        }
        if self.debts.len() >= MAX_DEBTS {
            self.debts.retain(|_, owed| owed.iter().any(|owed| *owed > now));
        }
        for address in addresses {
            if self.debts.len() < MAX_DEBTS {
                let debt = self.debts.entry(address).or_default();
                debt.iter_mut().zip(owed).for_each(|(debt, owed)| *debt = owed.max(*debt));
            }
        }
    }
}

impl Router {
    /// Takes over the limits of the policy.
    pub(super) fn update_limits(&mut self) {
        let shapes = &self.forwarder.policy.shapes;
        self.held.limits = self.held.limits.wrapping_add(1).max(1);
        self.held.is_on |= !shapes.is_empty();
        for direction in Direction::BOTH {
            let uplink = shapes.uplink(direction);
            self.held.uplinks[direction.index()] = uplink;
            self.held.shapers[direction.index()].set_uplink(uplink);
        }
    }

    pub(super) fn nanos(&self) -> u64 {
        nanos(self.now - self.start)
    }

    /// Returns when the next packet has to be sent of those that wait.
    pub fn next_held(&self) -> Option<Instant> {
        let next = self.held.shapers.iter().filter_map(Shaper::next).min()?;
        Some(self.start + Duration::from_nanos(next))
    }

    /// Returns the queue of a peer's packets in one direction; `None` if they don't wait. `is_inside` is true for packets
    /// between two peers, which the limit of all peers together doesn't hold back.
    fn queue_of(&mut self, id: PeerId, direction: Direction, class: Class, is_inside: bool) -> Option<Queue> {
        if !self.held.is_on {
            return None;
        }
        let shapes = &self.forwarder.policy.shapes;
        let shaper = &mut self.held.shapers[direction.index()];
        let peer = self.forwarder.peers.get_mut(id)?;
        let made_for = (self.held.limits, peer.claims.held().count());
        let place = &mut peer.session.queues[direction.index()];
        let free_for = &mut peer.session.free_for[direction.index()];
        let class_limit = class.number().and_then(|number| shapes.class_limit(direction, number));
        if *free_for == made_for && class_limit.is_none() {
            return None;
        }
        let uplink = self.held.uplinks[direction.index()];
        let (debts, claims) = (&self.held.debts, &peer.claims);
        let debt = |address| debts.get(&address).map_or(0, |owed| owed[direction.index()]);
        let owed = || claims.held().map(debt).max().unwrap_or_default();
        if place.as_ref().is_none_or(|queues| queues.made_for != made_for) {
            let shape = shapes.of_peer(direction, peer.claims.held(), &peer.identity);
            if shape.is_free() && place.is_none() {
                *free_for = made_for;
                class_limit?;
            }
            let user = shape.user.map(|limit| (peer.identity.uid, limit));
            let make = |before, own| queue(shaper, before, LeafLimits { own, user }, uplink, owed);
            let class_limit = |class: Class| class.number().and_then(|number| shapes.class_limit(direction, number));
            *place = Some(Box::new(Queues::renewed(place.take(), made_for, shape, class_limit, make)));
        }
        let queues = place.as_mut()?;
        if class_limit.is_none() && queues.shape.is_free() {
            // What waits goes first. If that is over, there is no limit any more but those of classes.
            let is_limited =
                |class: Class| class.number().is_some_and(|it| shapes.class_limit(direction, it).is_some());
            if queues.unlimited(is_limited).all(|leaf| shaper.stats(leaf).packets == 0) {
                *free_for = made_for;
                return None;
            }
        }
        if let Some(limit) = class_limit {
            if let Some((_, queue)) = queues.classes.iter().find(|(known, _)| *known == class) {
                return Some(*queue);
            }
            let user = queues.shape.user.map(|limit| (peer.identity.uid, limit));
            let queue = queue(shaper, None, LeafLimits { own: Some(limit), user }, uplink, owed);
            queues.classes.push((class, queue));
            return Some(queue);
        }
        if let Some(internet) = queues.internet.filter(|_| class == Class::INTERNET) {
            return Some(internet);
        }
        let is_by_uplink_alone = queues.shape.peer.is_none() && queues.shape.user.is_none();
        // What waits already goes first: it may be of the same flow.
        let is_free = is_inside && is_by_uplink_alone && shaper.stats(queues.own.leaf).packets == 0;
        (!is_free).then_some(queues.own)
    }

    /// Returns true if a limit applies to a peer's packets, or did to some that still wait.
    pub(super) fn is_limited(&mut self, id: PeerId, direction: Direction, class: Class, is_inside: bool) -> bool {
        self.queue_of(id, direction, class, is_inside).is_some()
    }

    /// Sends a packet from a peer where it was decided, now or when its time has come.
    pub(super) fn send_or_hold(
        &mut self,
        shell: &mut impl Shell,
        from: PeerId,
        way: Way,
        lane: Lane,
        packet: &GsoPacket<'_>,
    ) -> Result<(), DropReason> {
        let Some(queue) = self.queue_of(from, Direction::Out, lane.class, matches!(way, Way::Peer(..))) else {
            return self.send_out(shell, from, way, packet);
        };
        if !self.may_go_at_once(queue, Direction::Out, packet) {
            self.hold(shell, queue, lane, Target::From(from, way), packet);
            return Ok(());
        }
        let result = self.send_out(shell, from, way, packet);
        self.settle(queue.leaf, Direction::Out, packet, result)
    }

    /// Delivers a packet to a peer, now or when its time has come. If that fails now, the packet has already been counted as
    /// dropped.
    pub(super) fn deliver_or_hold(
        &mut self,
        shell: &mut impl Shell,
        to: PeerId,
        origin: Origin,
        lane: Lane,
        packet: &GsoPacket<'_>,
    ) {
        let Some(queue) = self.queue_of(to, Direction::In, lane.class, matches!(origin, Origin::Peer(_))) else {
            let _ = self.deliver_from(shell, to, origin, lane.flow, packet);
            return;
        };
        if self.may_go_at_once(queue, Direction::In, packet) {
            let result = self.deliver_from(shell, to, origin, lane.flow, packet);
            let _ = self.settle(queue.leaf, Direction::In, packet, result);
        } else {
            self.hold(shell, queue, lane, Target::To(to, origin), packet);
        }
    }

    fn may_go_at_once(&mut self, queue: Queue, direction: Direction, packet: &GsoPacket<'_>) -> bool {
        let now = self.nanos();
        (!queue.cuts || packet.segments() <= 1) && self.held.shapers[direction.index()].is_open(queue.leaf, now)
    }

    /// Charges a packet that went at once, if it was delivered.
    fn settle(
        &mut self,
        leaf: LeafId,
        direction: Direction,
        packet: &GsoPacket<'_>,
        result: Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        if result.is_ok() {
            let (cost, segments) = cost(packet);
            let now = self.nanos();
            self.held.shapers[direction.index()].charge(leaf, cost, segments, now);
        }
        result
    }

    fn hold(&mut self, shell: &mut impl Shell, queue: Queue, lane: Lane, target: Target, packet: &GsoPacket<'_>) {
        let now = self.nanos();
        self.held.push(queue, lane.flow, target, packet, now, &mut self.scratch);
        self.count_lost(shell);
    }

    /// Sends packets whose time has come.
    pub(super) fn send_held(&mut self, shell: &mut impl Shell) {
        // What comes out of the one may have to wait in the other.
        for direction in Direction::BOTH {
            for _ in 0..PACKETS_PER_TURN {
                let now = self.nanos();
                let Some((leaf, item)) = self.held.pop(direction, now) else { break };
                self.send_item(shell, leaf, &item);
            }
        }
        self.count_lost(shell);
    }

    fn send_item(&mut self, shell: &mut impl Shell, leaf: LeafId, item: &Item<Target>) {
        let Ok(packet) = GsoPacket::parse(&item.bytes) else { return };
        let (direction, result) = match item.target {
            Target::From(from, way) => {
                let result = self.send_out(shell, from, way, &packet);
                if let Err(reason) = result {
                    self.count_lost_packet(shell, item.target.peer(), item.target.direction(), &packet, reason);
                }
                (Direction::Out, result)
            }
            Target::To(to, origin) => (Direction::In, self.deliver_from(shell, to, origin, item.flow, &packet)),
        };
        if result.is_err() {
            self.held.shapers[direction.index()].refund(leaf, item.cost, item.segments);
        }
    }

    /// Counts the packets that were dropped while they waited.
    fn count_lost(&mut self, shell: &mut impl Shell) {
        while let Some((item, reason)) = self.held.lost.pop() {
            if let Ok(packet) = GsoPacket::parse(&item.bytes) {
                self.count_lost_packet(shell, item.target.peer(), item.target.direction(), &packet, reason);
            }
        }
    }

    /// Counts a packet from or to a peer that was lost after it was decided about, and tells who watches or captures.
    pub(super) fn count_lost_packet(
        &mut self,
        shell: &mut impl Shell,
        peer: PeerId,
        direction: Direction,
        packet: &GsoPacket<'_>,
        reason: DropReason,
    ) {
        self.count_drop(Some(peer), reason);
        if self.is_observed {
            self.report_drop(shell, (direction, Some(peer)), packet, (reason, false), None);
        }
    }

    /// Returns the queues of a peer in one direction: each with its limit, or that of its user, and with what it has and had.
    pub fn queues(&self, id: PeerId, direction: Direction) -> impl Iterator<Item = (Option<Limit>, LeafStats)> {
        let queues = self.forwarder.peers.get(id).and_then(|peer| peer.session.queues[direction.index()].as_deref());
        let shaper = &self.held.shapers[direction.index()];
        let shapes = &self.forwarder.policy.shapes;
        queues.into_iter().flat_map(move |queues| {
            let own = (queues.shape.peer.or(queues.shape.user), queues.own);
            let internet = queues.internet.map(|queue| (queues.shape.internet, queue));
            let limit = move |class: &Class| shapes.class_limit(direction, class.number()?);
            let classes = queues.classes.iter().map(move |(class, queue)| (limit(class), *queue));
            let all = std::iter::once(own).chain(internet).chain(classes);
            all.map(|(limit, queue)| (limit, shaper.stats(queue.leaf)))
        })
    }

    /// Returns whose limit a peer's packets of a class wait for first; `None` if they don't wait.
    pub fn limited_by(&self, id: PeerId, direction: Direction, class: Class) -> Option<&ShapeSelector> {
        let peer = self.forwarder.peers.get(id)?;
        self.forwarder.policy.shapes.whose(direction, peer.claims.held(), &peer.identity, class)
    }

    /// Returns the limit of all peers together in one direction, and what went by it; `None` without one.
    pub fn uplink(&self, direction: Direction) -> Option<(Limit, LeafStats)> {
        let limit = self.forwarder.policy.shapes.uplink(direction)?;
        Some((limit, self.held.shapers[direction.index()].uplink_stats()))
    }
}

#[cfg(test)]
#[path = "held_tests.rs"]
mod tests;
