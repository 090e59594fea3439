//! Routers with trunks between them, and a clock.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tuntap_wire::gso::GsoPacket;
use tuntap_wire::holding::{Holding, RouterId};
use tuntap_wire::trunk::{Announcement, MAX_HOPS};
use tuntap_wire::vnet::VNET_HEADER_LEN;

use super::super::{Input, Neighbour, Notice, SendOutcome, Sent, Shell, TrunkId, Trunks};
use super::id;
use crate::shaper::Loss;

/// One router's end of all its connections.
#[derive(Debug, Default)]
pub struct Ends {
    /// Messages on their way to each neighbour.
    pub sent: HashMap<TrunkId, VecDeque<Vec<u8>>>,
    /// How many messages a connection takes before it is full.
    pub room: usize,
    /// Connections that the router has closed.
    pub ended: Vec<TrunkId>,
    /// What was told, as the claims of others see it.
    pub told: HashMap<(TrunkId, IpAddr), Holding>,
    /// How often it was told that a neighbour knows nobody any longer.
    pub forgotten: usize,
    pub notices: Vec<Notice>,
    /// Packets that were dropped while they waited.
    pub lost: usize,
    /// Connections that were full.
    full: Vec<TrunkId>,
}

impl Shell for Ends {
    fn send(&mut self, trunk: TrunkId, parts: &[&[u8]]) -> Sent {
        let Some(messages) = self.sent.get_mut(&trunk) else { return Sent::Closed };
        if messages.len() >= self.room {
            self.full.push(trunk);
            return Sent::Full;
        }
        messages.push_back(parts.concat());
        Sent::All
    }

    fn told(&mut self, trunk: TrunkId, address: IpAddr, announcement: Option<&Announcement>) {
        match announcement {
            Some(announcement) => self.told.insert((trunk, address), announcement.holding),
            None => {
                self.forgotten += 1;
                self.told.remove(&(trunk, address))
            }
        };
    }

    fn lost(&mut self, _trunk: TrunkId, _packet: Vec<u8>, _loss: Loss) {
        self.lost += 1;
    }

    fn ended(&mut self, trunk: TrunkId, _neighbour: RouterId) {
        self.sent.remove(&trunk);
        self.told.retain(|(source, _), _| *source != trunk);
        self.ended.push(trunk);
    }

    fn notice(&mut self, notice: Notice) {
        self.notices.push(notice);
    }
}

/// A router.
pub struct Router {
    pub trunks: Trunks,
    pub ends: Ends,
    /// Packets that came to an own peer: their payload, and how many trunks they could still cross.
    pub delivered: Vec<(Vec<u8>, u8)>,
}

pub struct Network {
    pub routers: Vec<Router>,
    pub now: Instant,
    /// Directions in which nothing arrives.
    pub cut: Vec<(usize, usize)>,
}

/// The networks that everybody may announce here.
pub const NETWORKS: [&str; 2] = ["10.77.0.0/16", "fd00:77::/64"];

/// The longest that a network takes to become quiet, in turns: each message may cause others, but not without end.
const MAX_TURNS: usize = 10_000;

impl Network {
    /// Each pair of routers may have a trunk, and none is connected.
    pub fn new(count: usize, relay: bool, room: usize) -> Self {
        let now = Instant::now();
        let routers = (0..count).map(|own| {
            let networks: Vec<_> = NETWORKS.iter().map(|net| net.parse().expect("a network")).collect();
            let others = (0..count).filter(|other| *other != own);
            let neighbours = others.map(|other| Neighbour { router: id(other), networks: networks.clone(), relay });
            let trunks = Trunks::new(id(own), &format!("r{own}"), neighbours.collect(), now);
            Router { trunks, ends: Ends { room, ..Ends::default() }, delivered: Vec::new() }
        });
        Self { routers: routers.collect(), now, cut: Vec::new() }
    }

    pub fn trunk(&self, own: usize, other: usize) -> TrunkId {
        self.routers[own].trunks.find(id(other)).expect("a neighbour")
    }

    pub fn connect(&mut self, one: usize, other: usize) {
        self.disconnect(one, other);
        for (own, other) in [(one, other), (other, one)] {
            let (trunk, now) = (self.trunk(own, other), self.now);
            let router = &mut self.routers[own];
            router.ends.sent.insert(trunk, VecDeque::new());
            router.trunks.connected(trunk, now, &mut router.ends);
        }
    }

    pub fn disconnect(&mut self, one: usize, other: usize) {
        for (own, other) in [(one, other), (other, one)] {
            let (trunk, now) = (self.trunk(own, other), self.now);
            let router = &mut self.routers[own];
            router.trunks.closed(trunk, now, &mut router.ends);
            router.ends.ended.retain(|ended| *ended != trunk);
        }
    }

    pub fn claim(&mut self, router: usize, address: IpAddr, since: u64) {
        self.routers[router].trunks.claimed(address, super::holding(router, since));
    }

    pub fn release(&mut self, router: usize, address: IpAddr) {
        self.routers[router].trunks.released(address);
    }

    /// Gives a message to a router as if a neighbour had sent it.
    pub fn receive(&mut self, own: usize, from: usize, message: &[u8]) {
        let (trunk, now) = (self.trunk(own, from), self.now);
        let Router { trunks, ends, delivered } = &mut self.routers[own];
        let mut input = Input::new(message);
        while let Some(received) = trunks.read(trunk, &mut input, now, ends) {
            let packet = received.packet;
            match trunks.route(packet.packet().dst(), Some(trunk)) {
                Some(next) => {
                    trunks.send(next, &packet, 0, received.hops, now, ends);
                }
                None => delivered.push((packet.packet().bytes().to_vec(), received.hops)),
            }
        }
    }

    /// Sends a packet of a router's own peer to wherever it leads.
    pub fn send(&mut self, own: usize, packet: &[u8]) -> Option<SendOutcome> {
        let bytes = [&[0; VNET_HEADER_LEN], packet].concat();
        let packet = GsoPacket::parse(&bytes).expect("a packet");
        let now = self.now;
        let Router { trunks, ends, .. } = &mut self.routers[own];
        let to = trunks.route(packet.packet().dst(), None)?;
        Some(trunks.send(to, &packet, 0, MAX_HOPS, now, ends))
    }

    /// Delivers messages until there are none.
    pub fn settle(&mut self) {
        for _ in 0..MAX_TURNS {
            let mut is_quiet = true;
            for own in 0..self.routers.len() {
                let router = &mut self.routers[own];
                for trunk in std::mem::take(&mut router.ends.full) {
                    router.trunks.writable(trunk, self.now);
                }
                router.trunks.flush(self.now, &mut router.ends);
                is_quiet &= !router.trunks.has_more();
                for other in (0..self.routers.len()).filter(|other| *other != own) {
                    is_quiet &= !self.deliver_one(own, other);
                }
            }
            if is_quiet && self.routers.iter().all(|router| router.ends.full.is_empty()) {
                return;
            }
        }
        panic!("it never becomes quiet");
    }

    /// Moves one message, or the news that a connection is closed.
    fn deliver_one(&mut self, from: usize, to: usize) -> bool {
        let trunk = self.trunk(from, to);
        let ended = &mut self.routers[from].ends.ended;
        if let Some(at) = ended.iter().position(|ended| *ended == trunk) {
            ended.swap_remove(at);
            self.disconnect(to, from);
            return true;
        }
        let Some(message) = self.routers[from].ends.sent.get_mut(&trunk).and_then(VecDeque::pop_front) else {
            return false;
        };
        if !self.cut.contains(&(from, to)) {
            self.receive(to, from, &message);
        }
        true
    }

    /// Lets time pass, in steps in which everything settles.
    pub fn pass(&mut self, time: Duration) {
        const STEP: Duration = Duration::from_millis(100);
        let until = self.now + time;
        while self.now < until {
            self.now += STEP;
            for router in &mut self.routers {
                if router.trunks.next_poll().is_some_and(|at| at <= self.now) {
                    router.trunks.poll(self.now, &mut router.ends);
                }
            }
            self.settle();
        }
    }

    pub fn holder(&self, router: usize, address: IpAddr) -> Option<Holding> {
        self.routers[router].trunks.holder(address).map(|(holding, _)| holding)
    }
}
