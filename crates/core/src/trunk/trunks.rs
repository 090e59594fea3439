//! All trunks of a router.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;
use tuntap_wire::gso::GsoPacket;
use tuntap_wire::holding::{Holding, RouterId};
use tuntap_wire::trunk::{Announcement, MAX_HOPS};

use super::notice::{EndReason, Notice, Refusal, Told};
use super::session::{Session, State};
use super::statistics::Statistics;
use super::table::Table;
use super::{ALWAYS, TrunkId};
use crate::policy::prefix_map::PrefixSet;
use crate::shaper::Loss;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The connection has it.
    All,
    /// There is no room. Once there is, [`Trunks::writable`] is called.
    Full,
    /// There is no connection any longer.
    Closed,
}

/// What trunks can't do themselves.
pub trait Shell {
    /// Sends the parts as one message, whole or not at all, without waiting.
    fn send(&mut self, trunk: TrunkId, parts: &[&[u8]]) -> Sent;

    /// A neighbour has told who holds an address, or, with `None`, that it knows nobody any longer.
    fn told(&mut self, trunk: TrunkId, address: IpAddr, announcement: Option<&Announcement>);

    /// A packet to a neighbour was dropped while it waited: it is behind its virtio_net header.
    fn lost(&mut self, trunk: TrunkId, packet: Vec<u8>, loss: Loss);

    /// A trunk has ended: its descriptor is to be closed, and all that the neighbour has told is to be forgotten.
    fn ended(&mut self, trunk: TrunkId, neighbour: RouterId);

    /// A line for the log. Lines that a neighbour can cause at will come seldom, but not those of trunks that open and end.
    fn notice(&mut self, notice: Notice);
}

impl<S: Shell + ?Sized> Shell for &mut S {
    fn send(&mut self, trunk: TrunkId, parts: &[&[u8]]) -> Sent {
        (**self).send(trunk, parts)
    }

    fn told(&mut self, trunk: TrunkId, address: IpAddr, announcement: Option<&Announcement>) {
        (**self).told(trunk, address, announcement);
    }

    fn lost(&mut self, trunk: TrunkId, packet: Vec<u8>, loss: Loss) {
        (**self).lost(trunk, packet, loss);
    }

    fn ended(&mut self, trunk: TrunkId, neighbour: RouterId) {
        (**self).ended(trunk, neighbour);
    }

    fn notice(&mut self, notice: Notice) {
        (**self).notice(notice);
    }
}

/// A router that trunks may lead to.
#[derive(Debug, Clone)]
pub struct Neighbour {
    /// The id that belongs to its key.
    pub router: RouterId,
    /// What it may announce, and what its packets may come from.
    pub networks: Vec<IpNet>,
    /// It is told what other trunks have told, and its packets may go on by another trunk.
    pub relay: bool,
}

/// What became of a packet to a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOutcome {
    /// The connection has it, or it waits.
    Sent,
    /// No trunk to the neighbour is open.
    NotOpen,
    /// It has crossed as many trunks as it may.
    Expired,
}

/// What can be seen of a trunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrunkView {
    /// The neighbour.
    pub router: RouterId,
    /// Its name, as it said at its last hello. Empty before the first one.
    pub name: String,
    /// Where the trunk stands.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// Addresses that the neighbour announces.
    pub announced: usize,
    /// Addresses that the neighbour was told of.
    pub told: usize,
    /// Bytes of packets that wait.
    pub queued: usize,
}

#[derive(Debug)]
pub(super) struct Trunk {
    pub(super) router: RouterId,
    networks: PrefixSet,
    relay: bool,
    pub(super) name: String,
    pub(super) since: Instant,
    pub(super) session: Option<Session>,
    pub(super) statistics: Statistics,
    /// It has told all that it knew at least once.
    pub(super) has_told: bool,
    told: Told,
}

impl Trunk {
    /// Returns true if an address is in the neighbour's networks.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.networks.covering(address).next().is_some()
    }

    /// Counts packets that were dropped while they waited.
    fn count_lost(&mut self, id: TrunkId, shell: &mut impl Shell) {
        let Some(session) = &mut self.session else { return };
        while let Some((item, loss)) = session.take_lost() {
            match loss {
                Loss::Full => self.statistics.queue_full += 1,
                Loss::Late => self.statistics.queue_late += 1,
            }
            shell.lost(id, item.bytes, loss);
        }
    }

    /// Counts something that is refused, and tells it seldom.
    pub(super) fn refuse(&mut self, refusal: Refusal, address: Option<IpAddr>, now: Instant, shell: &mut impl Shell) {
        self.statistics.refuse(refusal);
        if self.told.may_tell(refusal, now) {
            let router = self.router;
            shell.notice(match address {
                Some(address) => Notice::Refused { router, refusal, address },
                None => Notice::RefusedPacket { router, refusal },
            });
        }
    }
}

/// All trunks of a router, and what was told by them.
#[derive(Debug)]
pub struct Trunks {
    pub(super) own: RouterId,
    pub(super) name: String,
    pub(super) trunks: Vec<Trunk>,
    pub(super) table: Table,
    /// A session may have something to send.
    pub(super) is_flush_due: bool,
    /// Something is left to be done by [`Self::flush`].
    has_more: bool,
}

impl Trunks {
    /// Makes trunks to these neighbours, none of which is connected. `name` is that of this router, for people.
    pub fn new(own: RouterId, name: &str, neighbours: Vec<Neighbour>, now: Instant) -> Self {
        let table = Table::new(own, neighbours.len());
        let trunk = |neighbour: Neighbour| Trunk {
            router: neighbour.router,
            networks: neighbour.networks.into_iter().collect(),
            relay: neighbour.relay,
            name: String::new(),
            since: now,
            session: None,
            statistics: Statistics::default(),
            has_told: false,
            told: Told::default(),
        };
        let trunks = neighbours.into_iter().map(trunk).collect();
        Self { own, name: name.to_owned(), trunks, table, is_flush_due: false, has_more: false }
    }

    /// The neighbour with this id.
    pub fn find(&self, router: RouterId) -> Option<TrunkId> {
        let at = self.trunks.iter().position(|trunk| trunk.router == router)?;
        u32::try_from(at).ok().map(TrunkId)
    }

    /// All neighbours.
    pub fn ids(&self) -> impl Iterator<Item = TrunkId> + use<> {
        (0..u32::try_from(self.trunks.len()).unwrap_or(u32::MAX)).map(TrunkId)
    }

    /// A new connection with a neighbour takes the place of the one before, which has ended then.
    pub fn connected(&mut self, id: TrunkId, now: Instant, shell: &mut impl Shell) {
        self.begin(id, None, now, shell);
    }

    /// Takes over a connection that another process of this router had opened in this version. All own claims are to be told
    /// before ([`Self::claimed`]): the neighbour forgets those that it isn't told of.
    pub fn resumed(&mut self, id: TrunkId, version: u16, now: Instant, shell: &mut impl Shell) {
        self.begin(id, Some(version), now, shell);
    }

    fn begin(&mut self, id: TrunkId, version: Option<u16>, now: Instant, shell: &mut impl Shell) {
        self.end(id, EndReason::Replaced, now, shell);
        let trunk = &mut self.trunks[id.index()];
        trunk.session = Some(Session::new(self.own, &self.name, version, now));
        trunk.since = now;
        self.is_flush_due = true;
    }

    /// The connection of a trunk is closed.
    pub fn closed(&mut self, id: TrunkId, now: Instant, shell: &mut impl Shell) {
        self.end(id, EndReason::Closed, now, shell);
    }

    pub(super) fn end(&mut self, id: TrunkId, reason: EndReason, now: Instant, shell: &mut impl Shell) {
        let trunk = &mut self.trunks[id.index()];
        if trunk.session.take().is_some() {
            trunk.since = now;
            self.table.forget(id, false);
            self.is_flush_due = true;
            let router = trunk.router;
            shell.ended(id, router);
            shell.notice(Notice::Ended { router, reason });
        }
    }

    /// A peer of this router holds an address. To be told once for each address and change.
    pub fn claimed(&mut self, address: IpAddr, holding: Holding) {
        self.table.claim(address, holding);
        self.is_flush_due = true;
    }

    /// No peer of this router holds an address any longer.
    pub fn released(&mut self, address: IpAddr) {
        self.table.remove(None, address);
        self.is_flush_due = true;
    }

    /// Compares what this router's peers hold with what was told before by [`Self::claimed`]. The router's own addresses stay.
    pub fn set_claims(&mut self, claims: impl Iterator<Item = (IpAddr, Holding)>) {
        let claims: HashMap<_, _> = claims.collect();
        let gone: Vec<_> = self
            .table
            .own_claims()
            .filter(|(address, holding)| holding.since > ALWAYS && !claims.contains_key(address))
            .map(|(address, _)| address)
            .collect();
        gone.into_iter().for_each(|address| self.released(address));
        claims.into_iter().for_each(|(address, holding)| self.claimed(address, holding));
    }

    /// Returns true if packets from the one neighbour may go on to the other one.
    pub fn relays(&self, from: TrunkId, to: TrunkId) -> bool {
        from != to && self.trunks[from.index()].relay
    }

    /// Returns true if an address is in a neighbour's networks.
    pub fn may_have(&self, id: TrunkId, address: IpAddr) -> bool {
        self.trunks[id.index()].has(address)
    }

    /// Counts a packet whose source somebody else holds.
    pub fn refuse_source(&mut self, from: TrunkId, source: IpAddr, now: Instant, shell: &mut impl Shell) {
        self.trunks[from.index()].refuse(Refusal::SpoofedSource, Some(source), now, shell);
    }

    /// The neighbour by whom an address is reached. `None` if no neighbour has told of it, if an own peer's claim is newer, or
    /// if a packet from the neighbour `from` may not go there.
    pub fn route(&self, address: IpAddr, from: Option<TrunkId>) -> Option<TrunkId> {
        let (_, to) = self.table.holder(address)?;
        let may_go = |to: TrunkId| from.is_none_or(|from| self.relays(from, to));
        to.filter(|to| may_go(*to))
    }

    /// Sends a packet of a flow to a neighbour. `hops` is [`MAX_HOPS`] for a packet from an own peer, and what came with it for one from
    /// another trunk.
    pub fn send(
        &mut self,
        id: TrunkId,
        packet: &GsoPacket<'_>,
        flow: u32,
        hops: u8,
        now: Instant,
        shell: &mut impl Shell,
    ) -> SendOutcome {
        let trunk = &mut self.trunks[id.index()];
        let Some(session) = trunk.session.as_mut().filter(|session| session.is_open()) else {
            trunk.statistics.not_open += 1;
            return SendOutcome::NotOpen;
        };
        let Some(hops) = hops.min(MAX_HOPS).checked_sub(1) else {
            trunk.statistics.expired += 1;
            return SendOutcome::Expired;
        };
        match session.send(packet, flow, hops, id, now, shell) {
            Ok(()) => {
                trunk.statistics.sent.count(packet.packet().total_len());
                trunk.count_lost(id, shell);
                SendOutcome::Sent
            }
            Err(reason) => {
                self.end(id, reason, now, shell);
                SendOutcome::NotOpen
            }
        }
    }

    /// The connection of a trunk has room again.
    pub fn writable(&mut self, id: TrunkId, now: Instant) {
        if let Some(session) = &mut self.trunks[id.index()].session {
            session.writable(now);
            self.is_flush_due = true;
        }
    }

    /// Returns true if [`Self::flush`] has more to do, without any event: it does it in pieces.
    pub const fn has_more(&self) -> bool {
        self.has_more
    }

    /// Forgets a piece of what neighbours had told.
    fn sweep(&mut self, shell: &mut impl Shell) {
        if let Some((id, gone)) = self.table.sweep() {
            gone.into_iter().for_each(|address| shell.told(id, address, None));
        }
    }

    /// Sends what waits. To be called at the end of each turn of the event loop; it costs nothing if there is nothing. What a
    /// neighbour determines in length is done in pieces of [`SWEEP`](super::SWEEP) addresses.
    pub fn flush(&mut self, now: Instant, shell: &mut impl Shell) {
        self.is_flush_due |= std::mem::take(&mut self.has_more);
        if !self.is_flush_due && !self.table.has_changed() {
            return;
        }
        self.sweep(shell);
        self.flush_sessions(now, shell);
        let of_sessions = || self.trunks.iter().filter_map(|trunk| trunk.session.as_ref()).any(Session::has_more);
        self.has_more = self.table.is_sweeping() || of_sessions();
    }

    fn flush_sessions(&mut self, now: Instant, shell: &mut impl Shell) {
        while std::mem::take(&mut self.is_flush_due) || self.table.has_changed() {
            let changed = self.table.take_changed();
            for session in self.trunks.iter_mut().filter_map(|trunk| trunk.session.as_mut()) {
                changed.iter().for_each(|address| session.change(*address));
            }
            for id in self.ids() {
                let trunk = &mut self.trunks[id.index()];
                let Some(session) = &mut trunk.session else { continue };
                let result = session.flush(id, trunk.relay, &self.table, now, shell);
                trunk.count_lost(id, shell);
                if let Err(reason) = result {
                    // What the neighbour had told is gone, and the others hear of that in the next turn.
                    self.end(id, reason, now, shell);
                }
            }
        }
    }

    /// When [`Self::poll`] has something to do. `None` without any connection.
    pub fn next_poll(&self) -> Option<Instant> {
        self.trunks.iter().filter_map(|trunk| trunk.session.as_ref()).map(Session::next_tick).min()
    }

    /// Asks for signs of life, and ends trunks without.
    pub fn poll(&mut self, now: Instant, shell: &mut impl Shell) {
        for id in self.ids() {
            let Some(session) = &mut self.trunks[id.index()].session else { continue };
            match session.tick(now) {
                Ok(false) => {}
                Ok(true) => self.prune(id),
                Err(reason) => self.end(id, reason, now, shell),
            }
        }
        self.is_flush_due = true;
        self.flush(now, shell);
    }

    /// Returns true if all neighbours have told what they know.
    pub fn have_told(&self) -> bool {
        self.trunks.iter().all(|trunk| trunk.has_told)
    }

    /// The numbers of a trunk.
    pub fn statistics(&self, id: TrunkId) -> &Statistics {
        &self.trunks[id.index()].statistics
    }

    /// What can be seen of a trunk.
    pub fn view(&self, id: TrunkId) -> TrunkView {
        let trunk = &self.trunks[id.index()];
        let session = trunk.session.as_ref();
        TrunkView {
            router: trunk.router,
            name: trunk.name.clone(),
            state: session.map_or(State::Down, Session::state),
            since: trunk.since,
            announced: self.table.count(id),
            told: session.map_or(0, Session::told),
            queued: session.map_or(0, Session::queued),
        }
    }

    /// Who holds an address, and by which neighbour it is reached; `None` for an own peer.
    pub fn holder(&self, address: IpAddr) -> Option<(Holding, Option<TrunkId>)> {
        self.table.holder(address)
    }

    /// What a neighbour has told of an address.
    pub fn told_by(&self, id: TrunkId, address: IpAddr) -> Option<&Announcement> {
        self.table.told_by(id, address)
    }
}
