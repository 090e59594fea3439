//! One connection with a neighbour: hellos, signs of life, and what is to be sent.

use std::time::Instant;

use tuntap_wire::gso::GsoPacket;
use tuntap_wire::holding::RouterId;
use tuntap_wire::trunk::{Hello, MAX_MESSAGE_LEN, append_end, append_ping, append_pong, packet_header};
use tuntap_wire::vnet::VNET_HEADER_LEN;

use super::notice::EndReason;
use super::output::Outgoing;
use super::queue::Queue;
use super::statistics::Statistics;
use super::table::Table;
use super::trunks::{Sent, Shell};
use super::{HELLO_PERIOD, MAX_HELLOS, PING_INTERVAL, SILENCE_LIMIT, STALE_LIMIT, SWEEP, TrunkId};
use crate::shaper::{Item, Loss};

/// Bytes at which a message with announcements is sent.
const CONTROL_LEN: usize = MAX_MESSAGE_LEN / 4;

/// Where a trunk stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// There is no connection.
    Down,
    /// There is one, and the neighbour's hello has not come.
    Greeting,
    /// Announcements and packets travel.
    Open {
        /// In this version of the protocol.
        version: u16,
    },
}

/// What is to be sent beside packets and announcements. Each is there once, however often it is asked for.
#[derive(Debug, Default)]
struct Due {
    hello: Option<Hello>,
    ping: Option<u64>,
    pong: Option<u64>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Session {
    state: State,
    heard: Instant,
    next_ping: Instant,
    /// The last ping that no pong has come for.
    asked: Option<(u64, Instant)>,
    pings: u64,
    prune_at: Option<Instant>,
    /// When hellos were counted from, and how many have come since.
    hellos: (Instant, u32),
    /// The neighbour is to be told everything.
    is_dump_due: bool,
    due: Due,
    outgoing: Outgoing,
    /// A message that the connection had no room for.
    control: Vec<u8>,
    queue: Queue,
    is_full: bool,
}

impl Session {
    /// Begins with this side's hello. `version` is that of a connection of before, which this router takes over.
    pub(super) fn new(own: RouterId, name: &str, version: Option<u16>, now: Instant) -> Self {
        let due = Due { hello: Some(Hello::new(own, name, true)), ..Due::default() };
        Self {
            state: version.map_or(State::Greeting, |version| State::Open { version }),
            heard: now,
            next_ping: now + PING_INTERVAL,
            asked: None,
            pings: 0,
            prune_at: None,
            hellos: (now, 0),
            is_dump_due: version.is_some(),
            due,
            outgoing: Outgoing::default(),
            control: Vec::new(),
            queue: Queue::new(now),
            is_full: false,
        }
    }

    pub(super) const fn state(&self) -> State {
        self.state
    }

    pub(super) const fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Something has come.
    pub(super) const fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Takes in the neighbour's hello. Returns true if it has opened the trunk, which is not so for a later one.
    pub(super) fn greeted(
        &mut self,
        hello: &Hello,
        own: Hello,
        expected: RouterId,
        now: Instant,
    ) -> Result<bool, EndReason> {
        if now.saturating_duration_since(self.hellos.0) >= HELLO_PERIOD {
            self.hellos = (now, 0);
        }
        self.hellos.1 += 1;
        if self.hellos.1 > MAX_HELLOS {
            return Err(EndReason::TooManyHellos);
        }
        if hello.router != expected {
            return Err(EndReason::OtherRouter(hello.router));
        }
        let (least, version) = (hello.least, hello.version);
        let common = hello.common_version().ok_or(EndReason::Version { least, version })?;
        if hello.is_big_endian != own.is_big_endian {
            return Err(EndReason::ByteOrder);
        }
        let was_open = self.is_open();
        self.state = State::Open { version: common };
        if was_open && hello.asks {
            // The neighbour is new to this connection and waits for a hello.
            self.due.hello = Some(own);
            self.prune_at = Some(now + STALE_LIMIT);
        }
        self.is_dump_due |= hello.asks || !was_open;
        Ok(!was_open)
    }

    /// Everything has been told again. Returns true if something of before may be left.
    pub(super) const fn told_all(&mut self) -> bool {
        self.prune_at.take().is_some()
    }

    /// Answers a ping with the next message. Only the last one is answered.
    pub(super) const fn asked(&mut self, number: u64) {
        self.due.pong = Some(number);
    }

    /// Takes in a pong.
    pub(super) fn answered(&mut self, number: u64, now: Instant, statistics: &mut Statistics) {
        if let Some((_, sent)) = self.asked.filter(|(asked, _)| *asked == number) {
            statistics.round_trip = Some(now.saturating_duration_since(sent));
            self.asked = None;
        }
    }

    /// The neighbour is to be told what is known of an address.
    pub(super) fn change(&mut self, address: std::net::IpAddr) {
        if self.is_open() {
            self.outgoing.change(address);
        }
    }

    /// Number of addresses that the neighbour was told of.
    pub(super) fn told(&self) -> usize {
        self.outgoing.told()
    }

    /// Bytes of packets that wait.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn next_tick(&self) -> Instant {
        let next = self.next_ping.min(self.heard + SILENCE_LIMIT);
        self.prune_at.map_or(next, |at| at.min(next))
    }

    /// Does what is due. Returns whether what the neighbour hasn't told again is to be forgotten.
    pub(super) fn tick(&mut self, now: Instant) -> Result<bool, EndReason> {
        if now.saturating_duration_since(self.heard) >= SILENCE_LIMIT {
            return Err(EndReason::Silent);
        }
        if now >= self.next_ping {
            self.next_ping = now + PING_INTERVAL;
            self.pings += 1;
            self.due.ping = Some(self.pings);
        }
        Ok(self.prune_at.take_if(|at| now >= *at).is_some())
    }

    /// The connection has room again.
    pub(super) fn writable(&mut self, now: Instant) {
        self.is_full = false;
        self.queue.served(now);
    }

    /// Packets that were dropped while they waited.
    pub(super) fn take_lost(&mut self) -> Option<(Item<u8>, Loss)> {
        self.queue.lost.pop()
    }

    /// Sends a packet, or lets it wait.
    pub(super) fn send(
        &mut self,
        packet: &GsoPacket<'_>,
        flow: u32,
        hops: u8,
        to: TrunkId,
        now: Instant,
        shell: &mut impl Shell,
    ) -> Result<(), EndReason> {
        let bytes = &packet.packet().bytes()[..packet.packet().total_len()];
        let Some(header) = packet_header(VNET_HEADER_LEN + bytes.len(), hops) else { return Ok(()) };
        if !self.is_full && self.control.is_empty() && self.queue.is_empty() {
            match shell.send(to, &[&header, &packet.offload().encode(), bytes]) {
                Sent::All => return Ok(()),
                Sent::Full => self.is_full = true,
                Sent::Closed => return Err(EndReason::Closed),
            }
        }
        self.queue.push(packet, flow, hops, now);
        Ok(())
    }

    /// Returns true if there is more to tell than one call of [`Self::flush`] does, and room for it.
    pub(super) fn has_more(&self) -> bool {
        self.is_open() && !self.is_full && self.outgoing.has_more()
    }

    /// Sends what waits until the connection is full, or [`SWEEP`] addresses were looked at: messages first, then packets.
    pub(super) fn flush(
        &mut self,
        to: TrunkId,
        is_relayed: bool,
        table: &Table,
        now: Instant,
        shell: &mut impl Shell,
    ) -> Result<(), EndReason> {
        if self.is_open() && std::mem::take(&mut self.is_dump_due) {
            self.outgoing.restart();
        }
        let mut budget = SWEEP;
        while !self.is_full {
            if self.control.is_empty() {
                self.write_control(to, is_relayed, table, &mut budget, now);
            }
            let is_control = !self.control.is_empty();
            let sent = if is_control {
                shell.send(to, &[&self.control])
            } else {
                let Some(sent) = self.queue.send(now, |parts| shell.send(to, parts)) else { break };
                sent
            };
            match sent {
                Sent::Full => self.is_full = true,
                Sent::Closed => return Err(EndReason::Closed),
                Sent::All if is_control => self.control.clear(),
                Sent::All => {}
            }
        }
        Ok(())
    }

    /// Makes the next message of what is to be said.
    fn write_control(&mut self, to: TrunkId, is_relayed: bool, table: &Table, budget: &mut usize, now: Instant) {
        let out = &mut self.control;
        if let Some(hello) = self.due.hello.take() {
            hello.append(out);
        }
        // Nothing but a hello may be said before the neighbour's has come: the version isn't known.
        if !matches!(self.state, State::Open { .. }) {
            return;
        }
        if let Some(number) = self.due.pong.take() {
            append_pong(out, number);
        }
        if let Some(number) = self.due.ping.take() {
            append_ping(out, number);
            self.asked = Some((number, now));
        }
        if self.outgoing.append(out, CONTROL_LEN, budget, table, |address| table.tell(to, is_relayed, address)) {
            append_end(out);
        }
    }
}
