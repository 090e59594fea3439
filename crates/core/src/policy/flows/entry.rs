//! What is known of one flow.

use std::net::SocketAddr;

use tuntap_wire::ip::TcpFlags;
use tuntap_wire::rule::Direction;
use tuntap_wire::selector::ConnectionState;

use super::key::FlowKey;
use super::timeouts;
use crate::policy::account::{Account, ROOT};
use crate::policy::counters::CounterSlot;
use crate::policy::drops::DropReason;
use crate::policy::pattern::{Action, RuleId};
use crate::policy::registry::PeerId;
use crate::policy::verdict::{Class, PacketSource, RuleRef};
use crate::trunk::TrunkId;

/// No entry: the end of a list, or a flow without a twin.
pub(super) const NONE: u32 = u32::MAX;

/// Packets after which a flow that was answered counts as one that is in use. Fewer don't: an answer to a forged packet, as
/// the second packet of a TCP handshake is one, makes no connection.
const IN_USE_PACKETS: u64 = 3;

/// How far a connection has come. Protocols without connections only know the first two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Packets were let through in one direction at most.
    New,
    /// Packets were let through in both directions.
    Established,
    /// One end has sent all of its data.
    Closing,
    /// Both ends have sent all of their data, or the connection was reset.
    Closed,
}

impl Phase {
    /// Its name on the control socket.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }
}

/// What becomes of the packets in one direction of a flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fate {
    /// Nothing was decided yet.
    #[default]
    Undecided,
    /// They pass.
    Pass,
    /// They are dropped.
    Drop(DropReason),
    /// They are dropped, and their sender gets replies.
    Reject(DropReason),
}

/// Whose flows these are: a peer that connects again is the same one if user or namespace stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A user other than root.
    User(u32),
    /// Root in a network namespace other than the router's, by the namespace's inode.
    Namespace(u64),
    /// One without an account: user and group.
    Ids {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
}

impl Owner {
    /// The owner with this account, or without one.
    pub const fn of(account: Option<Account>, uid: u32, gid: u32) -> Self {
        match account {
            Some(Account::User(uid)) => Self::User(uid),
            Some(Account::Namespace(inode)) => Self::Namespace(inode),
            None => Self::Ids { uid, gid },
        }
    }

    /// Returns its user.
    pub const fn uid(&self) -> u32 {
        match self {
            Self::User(uid) | Self::Ids { uid, .. } => *uid,
            Self::Namespace(_) => ROOT,
        }
    }
}

/// The kind of rule that has decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Decider {
    #[default]
    Nobody,
    FirewallIn,
    FirewallOut,
    Route,
    /// A rule of the peer that the flow belongs to.
    Own,
    /// A rule of the peer at the other end, for packets that the router itself passes on.
    Receiver,
}

/// Where packets of a peer go if they pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Way {
    /// To the router's TUN device.
    #[default]
    Tun,
    /// To another router.
    Gateway(SocketAddr),
    /// To another peer, by the router itself.
    Peer(PeerId),
    /// To a peer of another router, by a trunk.
    Trunk(TrunkId),
}

/// The counters that a packet of a flow is counted in: those of the rules that it has matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots<const N: usize>([CounterSlot; N]);

impl<const N: usize> Default for Slots<N> {
    fn default() -> Self {
        Self([CounterSlot::NONE; N])
    }
}

impl<const N: usize> Slots<N> {
    /// Adds one. There is room for all rules that a packet can match.
    pub fn push(&mut self, slot: CounterSlot) {
        if let Some(place) = self.0.iter_mut().find(|place| **place == CounterSlot::NONE) {
            *place = slot;
        }
    }

    /// Returns all.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = CounterSlot> {
        self.0.iter().copied().take_while(|slot| *slot != CounterSlot::NONE)
    }
}

/// What the kernel has to do with one direction of a flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KernelState {
    /// Nothing: the router passes its packets on.
    #[default]
    None,
    /// Its packets may pass in the kernel once those are through that came before.
    Waits,
    /// Its packets pass in the kernel.
    Passes,
    /// They did. What has passed is still to be counted.
    Void,
}

/// [`KernelState`] of both directions, in two bits each, so that it fits the cache line that each packet needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct KernelStates(u8);

impl KernelStates {
    const fn shift(direction: Direction) -> u32 {
        match direction {
            Direction::Out => 0,
            Direction::In => 2,
        }
    }

    const fn get(self, direction: Direction) -> KernelState {
        match self.0 >> Self::shift(direction) & 3 {
            0 => KernelState::None,
            1 => KernelState::Waits,
            2 => KernelState::Passes,
            _ => KernelState::Void,
        }
    }

    const fn set(&mut self, direction: Direction, state: KernelState) {
        let bits = match state {
            KernelState::None => 0,
            KernelState::Waits => 1,
            KernelState::Passes => 2,
            KernelState::Void => 3,
        };
        let shift = Self::shift(direction);
        self.0 = self.0 & !(3 << shift) | bits << shift;
    }

    /// Returns true if a direction passes or has passed in the kernel.
    #[inline]
    const fn has_kernel(self) -> bool {
        self.0 & 0b1010 != 0
    }
}

/// One direction of a flow. `W` is the way of its packets: whereto, or where from. `N` is the number of rules' counters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Side<W, const N: usize> {
    pub(crate) way: W,
    pub(crate) fate: Fate,
    pub(super) decider: Decider,
    pub(super) rule: RuleId,
    pub(crate) slots: Slots<N>,
    /// The epoch in which it was decided, 0 for never.
    pub(crate) epoch: u32,
    /// The second in which the verdict ends, 0 if it is for one packet only.
    pub(crate) until: u32,
    /// The state that it was decided under, and that of the twin.
    pub(crate) state: ConnectionState,
    pub(crate) twin_state: Option<ConnectionState>,
    /// True if a rule that was searched looks at the state.
    pub(crate) looks_at_state: bool,
    /// What the script has said, if it was asked, and until when that holds.
    script: Option<Option<Action>>,
    pub(crate) script_until: u32,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl<W: Default, const N: usize> Default for Side<W, N> {
    fn default() -> Self {
        Self {
            way: W::default(),
            fate: Fate::default(),
            decider: Decider::default(),
            rule: RuleId(0),
            slots: Slots::default(),
            epoch: 0,
            until: 0,
            state: ConnectionState::New,
            twin_state: None,
            looks_at_state: false,
            script: None,
            script_until: 0,
            packets: 0,
            bytes: 0,
        }
    }
}

impl<W, const N: usize> Side<W, N> {
    pub(crate) fn set_rule(&mut self, own: PeerId, rule: Option<RuleRef>) {
        (self.decider, self.rule) = match rule {
            None => (Decider::Nobody, RuleId(0)),
            Some(RuleRef::FirewallIn(rule)) => (Decider::FirewallIn, rule),
            Some(RuleRef::FirewallOut(rule)) => (Decider::FirewallOut, rule),
            Some(RuleRef::Route(rule)) => (Decider::Route, rule),
            Some(RuleRef::Peer(peer, rule)) if peer == own => (Decider::Own, rule),
            Some(RuleRef::Peer(_, rule)) => (Decider::Receiver, rule),
        };
    }

    pub(crate) fn rule(&self, own: PeerId, receiver: Option<PeerId>) -> Option<RuleRef> {
        Some(match self.decider {
            Decider::Nobody => return None,
            Decider::FirewallIn => RuleRef::FirewallIn(self.rule),
            Decider::FirewallOut => RuleRef::FirewallOut(self.rule),
            Decider::Route => RuleRef::Route(self.rule),
            Decider::Own => RuleRef::Peer(own, self.rule),
            Decider::Receiver => RuleRef::Peer(receiver?, self.rule),
        })
    }

    /// Returns true if the verdict may be used: nothing that it depends on has changed.
    pub(crate) fn holds(&self, epoch: u32, now: u32, state: ConnectionState) -> bool {
        self.epoch == epoch && now < self.until && (self.state == state || !self.looks_at_state)
    }

    /// Returns what the script has said, if that still holds.
    pub(crate) fn kept_script(&self, epoch: u32, now: u32) -> Option<Option<Action>> {
        self.script.filter(|_| self.epoch == epoch && now < self.script_until)
    }

    /// Keeps what the script has said, and until when.
    pub(crate) fn keep_script(&mut self, said: Option<(Option<Action>, u32)>) {
        (self.script, self.script_until) = said.map_or((None, 0), |(said, until)| (Some(said), until));
    }

    fn count(&mut self, bytes: usize) {
        self.add(1, bytes as u64);
    }

    const fn add(&mut self, packets: u64, bytes: u64) {
        self.packets = self.packets.wrapping_add(packets);
        self.bytes = self.bytes.wrapping_add(bytes);
    }
}

/// Packets from the peer: chain, route, and the chain of the receiver, each with a named counter.
pub(crate) type OutSide = Side<Way, 6>;

/// Packets towards the peer: its chain, with a named counter.
pub(crate) type InSide = Side<PacketSource, 2>;

/// A flow. What each packet needs lies together: the first cache line, and that of its direction.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(crate) struct Entry {
    pub(crate) key: FlowKey,
    /// The peer that holds the local address. It may have left.
    pub(crate) peer: PeerId,
    pub(super) last_seen: u32,
    /// The same packets, seen from the other end, if the router itself passes them on.
    pub(crate) twin: u32,
    /// True if a packet passed, out and in.
    pub(crate) passed: [bool; 2],
    /// True if this end has sent all of its data, out and in.
    pub(super) fins: [bool; 2],
    /// True if the latest packet was a reset.
    pub(super) is_reset: bool,
    /// True if it is in the list of flows that are in use.
    pub(super) is_in_use: bool,
    /// True if the other end has caused the flow.
    pub(super) is_by_remote: bool,
    kernel: KernelStates,
    pub(crate) out: OutSide,
    pub(crate) inn: InSide,
    pub(crate) owner: Owner,
    /// The number of the policy that decided last.
    pub(crate) generation: u32,
    /// For packets to the TUN device, if the router passes on packets between peers itself: the number of claims when that was
    /// decided.
    pub(crate) claims: u32,
    pub(super) first_seen: u32,
    /// Where its packets wait, out and in.
    pub(super) classes: [Class; 2],
    /// Whose quota it is in, [`NONE`] for a free entry.
    pub(super) quota: u32,
    /// Neighbours in the list: used earlier and later. A free entry's `later` is the next free one.
    pub(super) earlier: u32,
    pub(super) later: u32,
    /// True if a rule that has matched wants packets to be logged, out and in.
    pub(crate) is_logged: [bool; 2],
}

const _: () = assert!(size_of::<Entry>() == 256, "four cache lines");

impl Entry {
    pub(super) fn new(key: FlowKey, peer: PeerId, owner: Owner, now: u32) -> Self {
        Self {
            key,
            peer,
            owner,
            out: Side::default(),
            inn: Side::default(),
            generation: 0,
            claims: 0,
            first_seen: now,
            classes: [Class::OWN; 2],
            last_seen: now,
            passed: [false; 2],
            fins: [false; 2],
            is_reset: false,
            is_by_remote: false,
            twin: NONE,
            quota: NONE,
            is_in_use: false,
            earlier: NONE,
            later: NONE,
            kernel: KernelStates::default(),
            is_logged: [false; 2],
        }
    }

    /// Returns where the packets in one direction wait.
    pub(crate) const fn class(&self, direction: Direction) -> Class {
        self.classes[direction.index()]
    }

    /// Sets where the packets in one direction wait.
    pub(crate) fn set_class(&mut self, direction: Direction, class: Class) {
        self.classes[direction.index()] = class;
    }

    /// Returns true if the other end has caused the flow.
    pub(crate) const fn is_by_remote(&self) -> bool {
        self.is_by_remote
    }

    /// Returns how far the connection has come.
    pub(crate) const fn phase(&self) -> Phase {
        match (self.is_reset, self.fins, self.passed) {
            (true, ..) | (_, [true, true], _) => Phase::Closed,
            (_, [true, _] | [_, true], _) => Phase::Closing,
            (_, _, [true, true]) => Phase::Established,
            _ => Phase::New,
        }
    }

    /// Returns true if a packet with these flags opens another connection between the same ports.
    #[inline]
    pub(crate) fn is_reopened_by(&self, flags: Option<TcpFlags>) -> bool {
        flags.is_some_and(TcpFlags::opens) && self.phase() == Phase::Closed
    }

    /// Returns the state of a packet in this direction.
    pub(crate) const fn state(&self, direction: Direction) -> ConnectionState {
        let [out, inn] = self.passed;
        let is_answered = match direction {
            Direction::Out => inn,
            Direction::In => out,
        };
        if is_answered { ConnectionState::Established } else { ConnectionState::New }
    }

    /// Returns true if the flow should be kept longer than those that were never answered.
    pub(super) fn deserves_use(&self) -> bool {
        self.passed == [true; 2]
            && self.phase() != Phase::Closed
            && self.out.packets + self.inn.packets >= IN_USE_PACKETS
    }

    /// Returns true if the latest packet may have made it one that is in use.
    #[inline]
    pub(super) const fn begins_use(&self) -> bool {
        !self.is_in_use && self.out.packets + self.inn.packets == IN_USE_PACKETS
    }

    /// Returns what the kernel has to do with a direction.
    pub(crate) const fn kernel(&self, direction: Direction) -> KernelState {
        self.kernel.get(direction)
    }

    /// Notes what the kernel has to do with a direction.
    pub(crate) const fn set_kernel(&mut self, direction: Direction, state: KernelState) {
        self.kernel.set(direction, state);
    }

    /// Returns true if packets may have passed in the kernel that are not counted yet.
    #[inline]
    pub(crate) const fn is_in_kernel(&self) -> bool {
        self.kernel.has_kernel()
    }

    /// Returns true if the verdict on a direction has no end of its own.
    pub(crate) const fn is_lasting(&self, direction: Direction) -> bool {
        let until = match direction {
            Direction::Out => self.out.until,
            Direction::In => self.inn.until,
        };
        until == u32::MAX
    }

    /// Returns true if it has been idle for too long. The router doesn't know that of a flow in the kernel before it has asked.
    pub(super) fn is_over(&self, now: u32) -> bool {
        if self.is_in_kernel() {
            return false;
        }
        let idle = now.saturating_sub(self.last_seen);
        idle >= timeouts::SHORTEST && idle >= timeouts::idle_limit(self)
    }

    /// Counts a packet, which is dropped or not.
    pub(super) fn count(&mut self, direction: Direction, bytes: usize) {
        match direction {
            Direction::Out => self.out.count(bytes),
            Direction::In => self.inn.count(bytes),
        }
    }

    /// Counts packets that have passed in the kernel.
    pub(super) const fn add(&mut self, direction: Direction, packets: u64, bytes: u64) {
        match direction {
            Direction::Out => self.out.add(packets, bytes),
            Direction::In => self.inn.add(packets, bytes),
        }
    }

    /// A packet was let through. Returns true if that changes how far the connection has come.
    pub(super) fn pass(&mut self, direction: Direction, flags: Option<TcpFlags>) -> bool {
        let side = direction.index();
        let before = (self.passed, self.fins, self.is_reset);
        self.passed[side] = true;
        if let Some(flags) = flags {
            self.fins[side] |= flags.is_fin();
            // A connection goes on after a reset that its receiver has not accepted (RFC 5961).
            self.is_reset = flags.is_reset();
        }
        before != (self.passed, self.fins, self.is_reset)
    }
}
