//! Trunks: what comes from the routers of other hosts, and what goes to them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::Instant;

use tuntap_wire::gso::GsoPacket;
use tuntap_wire::holding::{Holding, RouterId};
use tuntap_wire::ip::Packet;
use tuntap_wire::rule::Direction;
use tuntap_wire::trunk::{Announcement, MAX_HOPS};

use super::Router;
use super::inbound::Ingress;
use super::notice::Notice;
use super::shell::Shell;
use super::turns::Work;
use crate::elsewhere::Source;
use crate::policy::drops::DropReason;
use crate::policy::lost::ClaimChanges;
use crate::policy::verdict::Lane;
use crate::shaper::Loss;
use crate::trunk::{self, ALWAYS, Input, Neighbour, SendOutcome, Sent, State, TrunkId, TrunkPacket, Trunks};

/// What the options say about trunks.
#[derive(Debug, Clone, Default)]
pub struct TrunkSettings {
    /// The routers of other hosts.
    pub neighbours: Vec<Neighbour>,
    /// This router's name, for people.
    pub name: String,
    /// Addresses of this router in its networks, at which peers elsewhere reach the host.
    pub addresses: Vec<IpAddr>,
}

/// Something that a trunk has to say to its router, in the order in which it happened.
#[derive(Debug)]
pub(super) enum Event {
    Told(TrunkId, IpAddr, Option<(Holding, u8)>),
    Lost(Vec<u8>, Loss),
    Ended(TrunkId),
    Notice(trunk::Notice),
}

/// The surroundings of trunks: those of their router, which acts on what they say when it has control again.
struct Ends<'a, S> {
    shell: &'a mut S,
    events: &'a mut Vec<Event>,
}

impl<S: Shell> trunk::Shell for Ends<'_, S> {
    fn send(&mut self, trunk: TrunkId, parts: &[&[u8]]) -> Sent {
        self.shell.send_trunk(trunk, parts)
    }

    fn told(&mut self, trunk: TrunkId, address: IpAddr, announcement: Option<&Announcement>) {
        let told = announcement.map(|it| (it.holding, u8::try_from(it.path.len()).unwrap_or(u8::MAX)));
        self.events.push(Event::Told(trunk, address, told));
    }

    fn lost(&mut self, _trunk: TrunkId, packet: Vec<u8>, loss: Loss) {
        self.events.push(Event::Lost(packet, loss));
    }

    fn ended(&mut self, trunk: TrunkId, neighbour: RouterId) {
        // At once: the next connection of this trunk may be about to take its place.
        self.shell.close_trunk(trunk, neighbour);
        self.events.push(Event::Ended(trunk));
    }

    fn notice(&mut self, notice: trunk::Notice) {
        self.events.push(Event::Notice(notice));
    }
}

/// A number for the flow of a packet that no peer of this router sends or gets, so that others don't wait behind it.
fn flow_of(packet: &Packet<'_>) -> u32 {
    let mut hasher = DefaultHasher::new();
    (packet.src(), packet.dst(), packet.protocol()).hash(&mut hasher);
    if let Some(ports) = packet.flow_ports() {
        (ports.first, ports.second).hash(&mut hasher);
    }
    let hash = hasher.finish();
    u32::try_from(hash & u64::from(u32::MAX)).unwrap_or(Lane::NO_FLOW)
}

/// The source of what a trunk tells.
fn source(trunk: TrunkId) -> Source {
    Source::Trunk(u16::try_from(trunk.0).unwrap_or(u16::MAX))
}

impl Router {
    /// Makes the trunks of a router with this id, and has them tell of the router's own addresses.
    pub(super) fn make_trunks(own: RouterId, settings: &TrunkSettings, now: Instant) -> Option<Trunks> {
        if settings.neighbours.is_empty() {
            return None;
        }
        let mut trunks = Trunks::new(own, &settings.name, settings.neighbours.clone(), now);
        let holding = Holding { router: own, since: ALWAYS };
        settings.addresses.iter().for_each(|address| trunks.claimed(*address, holding));
        Some(trunks)
    }

    /// Returns the trunks, if there are any.
    pub const fn trunks(&self) -> Option<&Trunks> {
        self.trunks.as_ref()
    }

    /// Calls the trunks, if there are any, and does what they ask for.
    fn with_trunks<S: Shell, T>(
        &mut self,
        shell: &mut S,
        call: impl FnOnce(&mut Trunks, Instant, &mut dyn trunk::Shell) -> T,
    ) -> Option<T> {
        let trunks = self.trunks.as_mut()?;
        let result = call(trunks, self.now, &mut Ends { shell, events: &mut self.trunk_events });
        self.heed_trunks(shell);
        Some(result)
    }

    /// Does what trunks ask for.
    fn heed_trunks(&mut self, shell: &mut impl Shell) {
        if self.trunk_events.is_empty() {
            return;
        }
        let mut events = std::mem::take(&mut self.trunk_events);
        for event in events.drain(..) {
            match event {
                Event::Told(trunk, address, Some((holding, distance))) => {
                    self.held_elsewhere_from_afar(shell, source(trunk), address, holding, distance);
                }
                Event::Told(trunk, address, None) => self.released_elsewhere(source(trunk), address),
                Event::Lost(bytes, loss) => self.count_lost_by_trunk(shell, &bytes, loss),
                Event::Ended(trunk) => _ = self.forget_source(source(trunk)),
                Event::Notice(notice) => {
                    if let trunk::Notice::Opened { router, .. } = &notice {
                        self.remember_trunk(shell, *router);
                    }
                    if let Some(trunk) = self.trunks.as_ref().and_then(|trunks| trunks.find(notice.router())) {
                        self.note_source(shell, source(trunk), &Notice::Trunk(notice));
                    }
                }
            }
        }
        // Keep the memory of the list for the next time.
        if self.trunk_events.is_empty() {
            self.trunk_events = events;
        }
    }

    /// Counts a packet that was dropped while it waited for a trunk, for the peer that has sent it.
    fn count_lost_by_trunk(&mut self, shell: &mut impl Shell, bytes: &[u8], loss: Loss) {
        let Ok(packet) = GsoPacket::parse(bytes) else { return };
        let reason = match loss {
            Loss::Full => DropReason::QueueFull,
            Loss::Late => DropReason::QueueLate,
        };
        let peer = self.forwarder.holder(packet.packet().src());
        self.count_drop(peer, reason);
        if self.is_observed {
            self.report_drop(shell, (Direction::Out, peer), &packet, (reason, false), None);
        }
    }

    /// Has the next router go on with a trunk that is open now.
    fn remember_trunk(&mut self, shell: &mut impl Shell, router: RouterId) {
        let Some(trunks) = &self.trunks else { return };
        if let Some(id) = trunks.find(router)
            && let State::Open { version } = trunks.view(id).state
        {
            shell.store_trunk(id, router, version);
        }
    }

    /// A connection with a neighbour, which the shell is about to report: [`Shell::open_trunk`] stores it. It takes the place of the
    /// one before. Returns false if there is no such neighbour.
    pub fn trunk_connected(&mut self, shell: &mut impl Shell, router: RouterId, now: Instant) -> bool {
        self.begin_trunk(shell, router, None, now)
    }

    /// The same for the connection of a trunk that the router before this one had opened in this version of the protocol. All
    /// peers have to be restored before.
    pub fn trunk_resumed(&mut self, shell: &mut impl Shell, router: RouterId, version: u16, now: Instant) -> bool {
        self.begin_trunk(shell, router, Some(version), now)
    }

    fn begin_trunk(&mut self, shell: &mut impl Shell, router: RouterId, version: Option<u16>, now: Instant) -> bool {
        self.advance(now);
        let Some(id) = self.trunks.as_ref().and_then(|trunks| trunks.find(router)) else { return false };
        if version.is_some() {
            let claims: Vec<_> = self.local_claims().collect();
            self.with_trunks(shell, |trunks, _, _| {
                claims.iter().for_each(|(address, holding)| trunks.claimed(*address, *holding));
            });
        }
        self.with_trunks(shell, |trunks, now, mut ends| match version {
            Some(version) => trunks.resumed(id, version, now, &mut ends),
            None => trunks.connected(id, now, &mut ends),
        });
        if let Err(fault) = shell.open_trunk(id) {
            self.note_source(shell, source(id), &Notice::Shell(format!("trunk to router {router}: {fault}")));
            self.trunk_closed(shell, id, now);
        } else if version.is_some() {
            self.remember_trunk(shell, router);
        }
        true
    }

    /// Handles a message that was read from a trunk's connection.
    pub fn trunk_message(&mut self, shell: &mut impl Shell, id: TrunkId, message: &[u8], now: Instant) {
        self.advance(now);
        let mut input = Input::new(message);
        while let Some(Some(packet)) =
            self.with_trunks(shell, |trunks, now, mut ends| trunks.read(id, &mut input, now, &mut ends))
        {
            self.trunk_packet(shell, &packet);
        }
        self.follow_changes(shell);
    }

    /// A trunk's connection is closed.
    pub fn trunk_closed(&mut self, shell: &mut impl Shell, id: TrunkId, now: Instant) {
        self.advance(now);
        self.with_trunks(shell, |trunks, now, mut ends| trunks.closed(id, now, &mut ends));
    }

    /// A trunk's connection has room again.
    pub fn trunk_writable(&mut self, id: TrunkId, now: Instant) {
        self.advance(now);
        if let Some(trunks) = &mut self.trunks {
            trunks.writable(id, self.now);
        }
    }

    /// Notes that a trunk's connection has something to read.
    pub fn queue_trunk_turn(&mut self, id: TrunkId) {
        self.turns.queue(Work::Trunk(id));
    }

    /// Tells neighbours what has become of the claims of this router's peers, see [`Router::take_claim_changes`].
    pub fn tell_trunks(&mut self, changes: &ClaimChanges) {
        let Some(trunks) = &mut self.trunks else { return };
        match changes {
            ClaimChanges::Of(changes) => {
                for (address, holding) in changes {
                    match holding {
                        Some(holding) => trunks.claimed(*address, *holding),
                        None => trunks.released(*address),
                    }
                }
            }
            ClaimChanges::Any => trunks.set_claims(self.forwarder.holdings()),
        }
    }

    /// Sends what waits for trunks, and does what is due. [`Router::poll`] does this, too, but doesn't know of claims that
    /// [`Router::tell_trunks`] is told of afterwards.
    pub fn poll_trunks(&mut self, shell: &mut impl Shell) {
        self.with_trunks(shell, |trunks, now, mut ends| {
            if trunks.next_poll().is_some_and(|due| due <= now) {
                trunks.poll(now, &mut ends);
            } else {
                trunks.flush(now, &mut ends);
            }
        });
    }

    /// Handles a packet from a neighbour. The neighbour's networks have its source. A source that somebody is known to hold must
    /// come from there.
    fn trunk_packet(&mut self, shell: &mut impl Shell, packet: &TrunkPacket<'_>) {
        let from = packet.trunk;
        let src = packet.packet.packet().src();
        let is_told = |trunks: &Trunks| trunks.told_by(from, src).is_some();
        let is_theirs = self.trunks.as_ref().is_some_and(is_told) || self.forwarder.elsewhere().holder(src).is_none();
        if !is_theirs || self.forwarder.is_held_here(src) {
            self.with_trunks(shell, |trunks, now, mut ends| trunks.refuse_source(from, src, now, &mut ends));
            if self.is_observed {
                let reason = DropReason::SpoofedSource;
                self.report_drop(shell, (Direction::In, None), &packet.packet, (reason, false), None);
            }
            return self.count_drop(None, DropReason::SpoofedSource);
        }
        self.counters.totals.trunk_rx_packets += 1;
        self.counters.totals.trunk_rx_bytes += packet.packet.packet().total_len() as u64;
        let ip = packet.packet.packet();
        let is_own = |address| self.trunks.as_ref().is_some_and(|trunks| trunks.may_have(from, address));
        let stopped = self.forwarder.stopped_by_guard_from(ip, is_own);
        if let (true, Some(reason)) = (self.is_observed, stopped) {
            self.report_drop(shell, (Direction::In, None), &packet.packet, (reason, false), None);
        }
        let packet_or_reason = stopped.map_or(Ok(packet.packet), Err);
        self.forward_inbound(shell, Ingress::Trunk(from, packet.hops), packet_or_reason);
    }

    /// Sends a packet to a neighbour: one from a peer, from the host, or from another neighbour whose packets are relayed.
    pub(super) fn send_to_trunk(
        &mut self,
        shell: &mut impl Shell,
        to: TrunkId,
        flow: u32,
        hops: u8,
        packet: &GsoPacket<'_>,
    ) -> Result<(), DropReason> {
        let outcome =
            self.with_trunks(shell, |trunks, now, mut ends| trunks.send(to, packet, flow, hops, now, &mut ends));
        match outcome {
            Some(SendOutcome::Sent) => {
                self.counters.totals.trunk_tx_packets += 1;
                self.counters.totals.trunk_tx_bytes += packet.packet().total_len() as u64;
                Ok(())
            }
            Some(SendOutcome::Expired) => Err(DropReason::TrunkHops),
            Some(SendOutcome::NotOpen) | None => Err(DropReason::NoPeer),
        }
    }

    /// Passes a packet from the host or a neighbour on to another neighbour.
    pub(super) fn pass_to_trunk(
        &mut self,
        shell: &mut impl Shell,
        ingress: Ingress,
        to: TrunkId,
        packet: &GsoPacket<'_>,
    ) -> Result<(), DropReason> {
        let hops = match ingress {
            Ingress::Tun => MAX_HOPS,
            Ingress::Trunk(from, hops) if self.trunks.as_ref().is_some_and(|it| it.relays(from, to)) => hops,
            Ingress::Trunk(..) | Ingress::Gateway(_) => return Err(DropReason::NoPeer),
        };
        self.send_to_trunk(shell, to, flow_of(packet.packet()), hops, packet)
    }

    /// Sends a reply about a packet from a neighbour back to it.
    pub(super) fn trunk_reply(&mut self, shell: &mut impl Shell, to: TrunkId, bytes: &[u8]) {
        if let Ok(packet) = GsoPacket::finished(bytes) {
            // If there is no room, the sender waits for its timeout.
            let _ = self.send_to_trunk(shell, to, Lane::NO_FLOW, MAX_HOPS, &packet);
        }
    }
}

#[cfg(test)]
#[path = "trunks_tests.rs"]
mod tests;
