//! Several routers that tell each other of their claims, by links that come and go and are late.

use std::collections::VecDeque;

use proptest::prelude::*;
use tuntap_wire::holding::{ClaimTime, Holding};

use super::tests::{Host, NOW, address};
use super::*;
use crate::elsewhere::MAX_AHEAD_MILLIS;

/// The addresses that all is about, by their last bytes.
const ADDRESSES: std::ops::Range<u8> = 2..5;

/// Most routers.
const HOSTS: usize = 4;

/// Peers of each router.
const PEERS: usize = 2;

/// What may happen.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// A peer of a host sends a packet from an address. It joins if it isn't there.
    Send(usize, usize, u8),
    /// A peer of a host leaves.
    Leave(usize, usize),
    /// A peer leaves, and sends from another host, as soon as that has heard of it.
    Move(usize, usize, usize, u8),
    /// What one host has told reaches another one, so many messages.
    Deliver(usize, usize, usize),
    /// The link between two hosts is cut. They notice it, or not yet.
    Cut(usize, usize, bool),
    /// The link between two hosts is there again.
    Restore(usize, usize),
    /// A host's clock is set, so many milliseconds from the right time.
    Clock(usize, i64),
    /// A router dies, and another one goes on with its peers.
    Die(usize),
}

fn event(skew: i64) -> impl Strategy<Value = Event> {
    let (host, peer) = (|| 0..HOSTS, || 0..PEERS);
    prop_oneof![
        8 => (host(), peer(), ADDRESSES).prop_map(|(host, peer, address)| Event::Send(host, peer, address)),
        2 => (host(), peer()).prop_map(|(host, peer)| Event::Leave(host, peer)),
        2 => (host(), peer(), host(), ADDRESSES).prop_map(|(from, peer, to, address)| Event::Move(from, peer, to, address)),
        8 => (host(), host(), 1..6_usize).prop_map(|(from, to, count)| Event::Deliver(from, to, count)),
        2 => (host(), host(), any::<bool>()).prop_map(|(one, other, is_noticed)| Event::Cut(one, other, is_noticed)),
        2 => (host(), host()).prop_map(|(one, other)| Event::Restore(one, other)),
        2 => (host(), -skew..=skew).prop_map(|(host, millis)| Event::Clock(host, millis)),
        1 => host().prop_map(Event::Die),
    ]
}

/// One direction between two hosts.
#[derive(Debug)]
struct Link {
    is_cut: bool,
    messages: VecDeque<(IpAddr, Option<Holding>)>,
}

struct World {
    hosts: Vec<Host>,
    peers: Vec<[Option<PeerId>; PEERS]>,
    /// By the host that tells, and the one that hears.
    links: Vec<Vec<Link>>,
    /// The right time.
    time: u64,
}

fn number(host: usize) -> u64 {
    10 + host as u64
}

fn source(host: usize) -> Source {
    Source::Trunk(u16::try_from(host).expect("few"))
}

impl World {
    fn new(count: usize) -> Self {
        // None leads from a host to itself.
        let links = |from| (0..count).map(|to| Link { is_cut: from == to, messages: VecDeque::new() }).collect();
        Self {
            hosts: (0..count).map(|host| Host::new(number(host))).collect(),
            peers: vec![[None; PEERS]; count],
            links: (0..count).map(links).collect(),
            time: NOW,
        }
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let count = self.hosts.len();
        (0..count).flat_map(move |one| (0..count).map(move |other| (one, other))).filter(|(one, other)| one != other)
    }

    fn apply(&mut self, event: Event) -> Result<(), TestCaseError> {
        self.time += 10;
        let count = self.hosts.len();
        match event {
            Event::Send(host, peer, last) if host < count => self.send(host, peer, last)?,
            Event::Leave(host, peer) if host < count => self.leave(host, peer),
            Event::Move(from, peer, to, last) if from < count && to < count && from != to => {
                self.leave(from, peer);
                self.tell();
                self.deliver(from, to, usize::MAX);
                let is_free = self.hosts[to].router.elsewhere().holder(address(last)).is_none();
                let is_free = is_free && self.hosts[to].holder(last).is_none();
                self.leave(to, peer);
                self.send(to, peer, last)?;
                prop_assert!(!is_free || self.hosts[to].holder(last) == self.peers[to][peer]);
            }
            Event::Deliver(from, to, most) if from < count && to < count => self.deliver(from, to, most),
            Event::Cut(one, other, is_noticed) if one < count && other < count && one != other => {
                self.cut(one, other, is_noticed);
            }
            Event::Restore(one, other) if one < count && other < count && one != other => self.restore(one, other),
            Event::Clock(host, millis) if host < count => {
                let clock = ClaimTime(self.time.saturating_add_signed(millis));
                let Host { router, shell, .. } = &mut self.hosts[host];
                router.set_clock(shell, clock);
            }
            Event::Die(host) if host < count => self.die(host),
            _ => {}
        }
        self.tell();
        Ok(())
    }

    fn send(&mut self, host: usize, peer: usize, last: u8) -> Result<(), TestCaseError> {
        let at = &mut self.hosts[host];
        let id = *self.peers[host][peer].get_or_insert_with(|| at.join());
        at.router.forwarder.peers.get_mut(id).expect("there").session.serial = Some(1 + peer as u64);
        let (holder, elsewhere) = (at.holder(last), at.router.elsewhere().holder(address(last)));
        at.send(id, last, 9);
        let is_granted = holder != Some(id) && at.holder(last) == Some(id);
        prop_assert!(!is_granted || elsewhere.is_none(), "host {} grants what {:?} holds", host, elsewhere);
        Ok(())
    }

    fn leave(&mut self, host: usize, peer: usize) {
        if let Some(id) = self.peers[host][peer].take() {
            self.hosts[host].leave(id);
        }
    }

    /// Each host tells the others what has changed.
    fn tell(&mut self) {
        for from in 0..self.hosts.len() {
            let ClaimChanges::Of(changes) = self.hosts[from].router.take_claim_changes() else { panic!("too many") };
            for link in self.links[from].iter_mut().filter(|link| !link.is_cut) {
                link.messages.extend(&changes);
            }
        }
    }

    fn deliver(&mut self, from: usize, to: usize, most: usize) {
        let messages = &mut self.links[from][to].messages;
        let messages: Vec<_> = messages.drain(..most.min(messages.len())).collect();
        let Host { router, shell, .. } = &mut self.hosts[to];
        for (address, holding) in messages {
            match holding {
                Some(holding) => router.held_elsewhere(shell, source(from), address, holding),
                None => router.released_elsewhere(source(from), address),
            }
        }
    }

    fn cut(&mut self, one: usize, other: usize, is_noticed: bool) {
        for (from, to) in [(one, other), (other, one)] {
            self.links[from][to].is_cut = true;
            self.links[from][to].messages.clear();
            if is_noticed {
                self.hosts[to].router.forget_source(source(from));
            }
        }
    }

    fn restore(&mut self, one: usize, other: usize) {
        self.tell();
        for (from, to) in [(one, other), (other, one)] {
            let link = &mut self.links[from][to];
            if std::mem::take(&mut link.is_cut) {
                link.messages.extend(self.hosts[from].router.local_claims().map(|(at, holding)| (at, Some(holding))));
                self.hosts[to].router.forget_source(source(from));
            }
        }
    }

    fn die(&mut self, host: usize) {
        let clock = self.hosts[host].router.elsewhere().clock();
        let before: Vec<_> = ADDRESSES.map(|last| self.hosts[host].router.forwarder().holding(address(last))).collect();
        let stored: Vec<_> = self.hosts[host].router.stored_peers().map(|(_, stored)| stored).collect();
        let mut next = Host::new(number(host));
        next.router.set_clock(&mut next.shell, clock);
        for stored in &stored {
            next.router.restore(&mut next.shell, stored, None, next.now);
        }
        let after: Vec<_> = ADDRESSES.map(|last| next.router.forwarder().holding(address(last))).collect();
        assert_eq!(before, after, "the next router tells the same");
        let ids: Vec<_> = next.router.peers().map(|peer| peer.id()).collect();
        self.peers[host] = [None; PEERS];
        for (place, id) in self.peers[host].iter_mut().zip(ids) {
            *place = Some(id);
        }
        self.hosts[host] = next;
        self.hosts[host].router.take_claim_changes();
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            self.cut(host, other, true);
            self.restore(host, other);
        }
    }

    /// All messages reach their hosts.
    fn settle(&mut self) {
        while self.links.iter().flatten().any(|link| !link.messages.is_empty()) {
            self.pairs().for_each(|(from, to)| self.deliver(from, to, usize::MAX));
            self.tell();
        }
    }

    fn holders(&self, last: u8) -> Vec<(usize, Holding)> {
        let holding = |host: usize| Some((host, self.hosts[host].router.forwarder().holding(address(last))?));
        (0..self.hosts.len()).filter_map(holding).collect()
    }

    /// All clocks are right, and all links are there.
    fn heal(&mut self) -> Result<(), TestCaseError> {
        self.tell();
        self.settle();
        self.pairs().filter(|(one, other)| self.links[*one][*other].is_cut).for_each(|(from, to)| {
            // What was told before the cut may be over.
            self.hosts[to].router.forget_source(source(from));
        });
        for host in 0..self.hosts.len() {
            self.apply(Event::Clock(host, 0))?;
        }
        self.settle();
        let clock = self.time;
        let rank = move |holding: Holding| (holding.since.0 <= clock + MAX_AHEAD_MILLIS, holding);
        let newest = ADDRESSES.map(|last| self.holders(last).into_iter().max_by_key(|(_, holding)| rank(*holding)));
        let newest: Vec<_> = newest.collect();
        self.pairs().for_each(|(one, other)| self.restore(one, other));
        self.settle();
        for (last, newest) in ADDRESSES.zip(newest) {
            prop_assert_eq!(self.holders(last), Vec::from_iter(newest), "10.0.0.{}", last);
            self.check_all_know(last)?;
        }
        Ok(())
    }

    /// All know who holds an address.
    fn check_all_know(&self, last: u8) -> Result<(), TestCaseError> {
        let holder = self.holders(last).first().copied();
        for (host, at) in self.hosts.iter().enumerate() {
            let known = at.router.elsewhere().holder(address(last)).map(|told| told.holding);
            let expected = holder.filter(|(holder, _)| *holder != host).map(|(_, holding)| holding);
            prop_assert_eq!(known, expected, "10.0.0.{} at host {}", last, host);
        }
        Ok(())
    }

    /// Who wants what nobody holds gets it, and what another host holds is refused.
    fn go_on(&mut self) -> Result<(), TestCaseError> {
        for last in ADDRESSES {
            let before = self.holders(last);
            (0..PEERS).for_each(|peer| self.leave(0, peer));
            self.tell();
            self.settle();
            let is_held = before.first().is_some_and(|(host, _)| *host != 0);
            self.send(0, 0, last)?;
            prop_assert_eq!(self.hosts[0].holder(last).is_none(), is_held, "10.0.0.{}", last);
            self.tell();
            self.settle();
            prop_assert_eq!(self.holders(last).len(), 1);
            self.check_all_know(last)?;
        }
        Ok(())
    }
}

fn run(count: usize, events: Vec<Event>) -> Result<(), TestCaseError> {
    let mut world = World::new(count);
    for event in events {
        world.apply(event)?;
    }
    world.heal()?;
    world.go_on()
}

/// A day in milliseconds.
const DAY: i64 = 24 * 60 * 60 * 1000;

/// Sets a host's clock, and lets everything that is told arrive.
fn set_clock(world: &mut World, host: usize, millis: i64) {
    world.apply(Event::Clock(host, millis)).expect("no rule is broken");
    world.settle();
}

/// A peer sends, and everything that is told arrives.
fn claim(world: &mut World, host: usize, peer: usize, last: u8) {
    world.apply(Event::Send(host, peer, last)).expect("no rule is broken");
    world.settle();
}

/// The hosts that hold each of the addresses.
fn holding_hosts(world: &World) -> Vec<Vec<usize>> {
    ADDRESSES.map(|last| world.holders(last).into_iter().map(|(host, _)| host).collect()).collect()
}

/// One host's clock goes a day forward or back, and comes back, while both hosts have claims: nobody loses an address, nobody gets
/// one that another has, and a claim from meanwhile is as good as any.
#[test]
fn clock_that_jumps_by_a_day_and_back_changes_no_holder() {
    for day in [DAY, -DAY] {
        let mut world = World::new(2);
        claim(&mut world, 0, 0, 2);
        claim(&mut world, 1, 0, 3);
        set_clock(&mut world, 0, day);
        assert_eq!(holding_hosts(&world), [vec![0], vec![1], vec![]], "{day}");
        claim(&mut world, 0, 1, 3);
        claim(&mut world, 1, 1, 2);
        assert_eq!(holding_hosts(&world), [vec![0], vec![1], vec![]], "{day}: each is held elsewhere");
        claim(&mut world, 0, 1, 4);
        claim(&mut world, 1, 1, 4);
        assert_eq!(holding_hosts(&world), [vec![0], vec![1], vec![0]], "{day}: a claim by the wrong clock");
        set_clock(&mut world, 0, 0);
        claim(&mut world, 1, 1, 4);
        assert_eq!(holding_hosts(&world), [vec![0], vec![1], vec![0]], "{day}: and back");
        // It moves as any other address.
        world.apply(Event::Move(0, 1, 1, 4)).expect("no rule is broken");
        world.settle();
        assert_eq!(holding_hosts(&world), [vec![0], vec![1], vec![1]], "{day}: it moves");
        world.heal().expect("no rule is broken");
        world.go_on().expect("no rule is broken");
    }
}

/// Both hosts claim an address while they don't see each other, one by a clock that is a day wrong. Once that is right, one holds it.
#[test]
fn two_holders_of_a_split_agree_once_the_clock_is_right() {
    for day in [DAY, -DAY] {
        let mut world = World::new(2);
        world.apply(Event::Cut(0, 1, true)).expect("no rule is broken");
        set_clock(&mut world, 0, day);
        claim(&mut world, 0, 0, 2);
        claim(&mut world, 1, 0, 2);
        world.apply(Event::Restore(0, 1)).expect("no rule is broken");
        world.settle();
        set_clock(&mut world, 0, 0);
        assert_eq!(holding_hosts(&world)[0], [1], "{day}: the one whose clock was right");
        world.heal().expect("no rule is broken");
        world.go_on().expect("no rule is broken");
    }
}

proptest! {
    /// However peers come, go and move, and links are cut and restored: at the end one host holds each address, by the newest
    /// claim, and all others know that. While a host knows of a holder, it grants the address to nobody.
    #[test]
    fn newest_claim_holds_everywhere_after_a_split(
        count in 2..=HOSTS,
        events in prop::collection::vec(event(100_000), 1..120),
    ) {
        run(count, events)?;
    }

    /// The same with clocks that are days from the right time, until they are set right.
    #[test]
    fn wrong_clocks_do_no_lasting_harm(
        count in 2..=HOSTS,
        events in prop::collection::vec(event(400_000_000), 1..120),
    ) {
        run(count, events)?;
    }
}
