//! What must hold after each call of the router.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tuntap_core::policy::drops::{DropCounters, DropReason};
use tuntap_core::policy::limits::Limits;
use tuntap_core::router::session::Traffic;
use tuntap_core::router::{Counters, Router};
use tuntap_wire::frame::MAX_FRAME_LEN;
use tuntap_wire::ip::Packet;

use super::conservation;
use super::oracle::{self, Fate, Way};
use super::packets::{self, Expected};
use super::peer::{Number, Sent};
use super::setup::{ADDRESSES, Setup, address};
use super::waiting::Waiting;
use super::world::World;

/// Fails with a sentence on what is wrong.
pub type Check = Result<(), String>;

/// Lines in a period of a minute: those on peers, those on faults, and one on those left out for each.
const LINES: usize = 500 + 60 + 2;

/// What fails a check.
macro_rules! ensure {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(format!($($text)*));
        }
    };
}
pub(super) use ensure;

/// By which way packets came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Nowhere,
    Peer(Number),
    Tun,
    Gateway(SocketAddr),
}

/// What one call told the router.
#[derive(Debug, Clone)]
pub struct Call {
    pub from: From,
    pub inputs: Vec<Expected>,
    /// Frames that are no packets.
    pub frames: Vec<Sent>,
    /// Bytes, as the router counts them.
    pub bytes: u64,
    /// Peers that the call may end.
    pub may_close: HashSet<Number>,
    /// Any peer without an address may make room.
    pub makes_room: bool,
    /// Peers come from an earlier router.
    pub restores: bool,
    /// A claim elsewhere takes this address.
    pub takes: Option<IpAddr>,
}

impl Call {
    pub fn new(from: From) -> Self {
        Self {
            from,
            inputs: Vec::new(),
            frames: Vec::new(),
            bytes: 0,
            may_close: HashSet::new(),
            makes_room: false,
            restores: false,
            takes: None,
        }
    }

    pub fn with(from: From, input: Expected, bytes: u64) -> Self {
        Self { inputs: vec![input], bytes, ..Self::new(from) }
    }

    pub const fn peer(&self) -> Option<Number> {
        match self.from {
            From::Peer(number) => Some(number),
            From::Nowhere | From::Tun | From::Gateway(_) => None,
        }
    }
}

/// A peer as it was after the last call.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub addresses: Vec<IpAddr>,
    pub traffic: Traffic,
    /// Packets that wait for it, other than in frames.
    pub kept: u64,
}

/// Everything as it was after the last call.
#[derive(Debug, Default)]
pub struct Audit {
    pub peers: BTreeMap<Number, Seen>,
    pub counters: Counters,
    /// What may wait for each peer, other than in frames.
    waiting: Waiting,
    lines: VecDeque<Instant>,
    /// When the router began.
    start: Option<Instant>,
}

/// The peers before and after a call.
pub struct Change<'a> {
    pub before: &'a BTreeMap<Number, Seen>,
    pub after: &'a BTreeMap<Number, Seen>,
    pub old: &'a Counters,
    pub new: &'a Counters,
}

impl Change<'_> {
    /// Whether a peer holds an address, or held it before it was closed.
    pub fn holds(&self, number: Number, address: IpAddr) -> bool {
        let held =
            |peers: &BTreeMap<Number, Seen>| peers.get(&number).is_some_and(|it| it.addresses.contains(&address));
        held(self.after) || held(self.before)
    }

    pub fn holds_now(&self, number: Number, address: IpAddr) -> bool {
        self.after.get(&number).is_some_and(|seen| seen.addresses.contains(&address))
    }

    pub fn holder(&self, address: IpAddr) -> Option<Number> {
        self.after.iter().find(|(_, seen)| seen.addresses.contains(&address)).map(|(number, _)| *number)
    }

    /// How many more packets were dropped for a reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.new.drops.get(reason) - self.old.drops.get(reason)
    }

    pub fn all_drops(&self) -> u64 {
        DropReason::ALL.iter().map(|reason| self.drops(*reason)).sum()
    }

    /// How many more of a peer's packets were dropped; 0 for one that is gone.
    pub fn drops_of(&self, number: Number) -> u64 {
        let Some(after) = self.after.get(&number) else { return 0 };
        let before = self.before.get(&number).map(|seen| total(&seen.traffic.drops)).unwrap_or_default();
        total(&after.traffic.drops) - before
    }

    /// How many packets waited for all peers, other than in frames, before and after.
    pub fn kept(&self) -> (u64, u64) {
        let sum = |peers: &BTreeMap<Number, Seen>| peers.values().map(|seen| seen.kept).sum();
        (sum(self.before), sum(self.after))
    }

    /// How many packets wait for a peer, other than in frames, before and after.
    pub fn kept_of(&self, number: Number) -> (u64, u64) {
        let kept = |peers: &BTreeMap<Number, Seen>| peers.get(&number).map_or(0, |seen| seen.kept);
        (kept(self.before), kept(self.after))
    }

    /// What a peer's traffic was before and is now, if it is still there.
    pub fn traffic(&self, number: Number) -> Option<(Traffic, &Traffic)> {
        let after = self.after.get(&number)?;
        Some((self.before.get(&number).map(|it| it.traffic.clone()).unwrap_or_default(), &after.traffic))
    }
}

fn total(drops: &DropCounters) -> u64 {
    DropReason::ALL.iter().map(|reason| drops.get(*reason)).sum()
}

impl Audit {
    /// Begins anew with a router.
    pub fn restart(&mut self, router: &Router, world: &World) {
        self.counters = router.counters().clone();
        self.peers = view(router, world);
        self.waiting = Waiting::default();
        self.lines.clear();
        self.start = Some(world.now);
    }

    /// Looks at everything after a call.
    pub fn check(&mut self, setup: &Setup, later: bool, router: &Router, world: &mut World, call: &Call) -> Check {
        if let Some(first) = world.violations.first() {
            return Err(first.clone());
        }
        let after = view(router, world);
        let change = Change { before: &self.peers, after: &after, old: &self.counters, new: router.counters() };
        check_names(router, world)?;
        check_closed(world, call, &change)?;
        check_addresses(setup, later, router, world, call, &change)?;
        conservation::check(setup, world, call, &change, &mut self.waiting)?;
        conservation::check_fate(setup, world, call, &change)?;
        check_kernel(setup, router, world, &change)?;
        check_rules(router, world, call, &change)?;
        check_bounds(setup, router, world)?;
        check_store(router, world)?;
        self.counters = router.counters().clone();
        self.peers = after;
        self.check_lines(world)
    }

    fn check_lines(&mut self, world: &World) -> Check {
        self.lines.extend(world.effects.lines.iter().map(|_| world.now));
        while self.lines.front().is_some_and(|at| world.now.duration_since(*at) >= Duration::from_secs(60)) {
            self.lines.pop_front();
        }
        // Any minute but a router's first one has parts of two periods.
        let is_first = self.start.is_some_and(|start| world.now.duration_since(start) < Duration::from_secs(60));
        let most = if is_first { LINES } else { 2 * LINES };
        ensure!(self.lines.len() <= most, "{} lines in a minute", self.lines.len());
        Ok(())
    }
}

fn view(router: &Router, world: &World) -> BTreeMap<Number, Seen> {
    let numbered = router.peers().filter_map(|peer| Some((*world.by_id.get(&peer.id())?, peer)));
    numbered
        .map(|(number, peer)| {
            let (addresses, traffic) = (peer.addresses().collect(), peer.traffic().clone());
            (number, Seen { addresses, traffic, kept: peer.kept_back() })
        })
        .collect()
}

/// Router and world know the same peers.
fn check_names(router: &Router, world: &World) -> Check {
    let names: HashSet<_> = router.peers().map(|peer| peer.id()).collect();
    let known: HashSet<_> = world.by_id.keys().copied().collect();
    ensure!(names == known, "the router has {names:?}, the world {known:?}");
    ensure!(router.len() == names.len(), "{} peers are counted, {} are there", router.len(), names.len());
    let gone = world.gone.iter().rev().take(8).find(|id| router.peer(**id).is_some());
    ensure!(gone.is_none(), "{gone:?} is gone and still there");
    Ok(())
}

/// Nobody is closed without a reason.
fn check_closed(world: &World, call: &Call, change: &Change<'_>) -> Check {
    for number in &world.effects.closed {
        let Some(connection) = world.connections.get(number) else { continue };
        let is_fatal = call.peer() == Some(*number) && call.frames.iter().any(|sent| matches!(sent, Sent::Fatal));
        let has_none = change.before.get(number).is_none_or(|seen| seen.addresses.is_empty());
        let is_excused = connection.has_hung_up
            || connection.send_fails
            || is_fatal
            || call.may_close.contains(number)
            || call.makes_room && has_none;
        ensure!(is_excused, "{number} was closed for nothing");
    }
    let fatal = call.frames.iter().any(|sent| matches!(sent, Sent::Fatal));
    if let (true, Some(number)) = (fatal, call.peer()) {
        ensure!(world.effects.closed.contains(&number), "{number} sent what ends a connection, and lives");
        ensure!(change.new.totals.faults > change.old.totals.faults, "the fault of {number} was not counted");
    }
    Ok(())
}

/// Each address has one holder, who may have it, and keeps it until it is gone.
fn check_addresses(
    setup: &Setup,
    later: bool,
    router: &Router,
    world: &World,
    call: &Call,
    change: &Change<'_>,
) -> Check {
    let holders = oracle::holders(change.after.iter().map(|(number, seen)| (*number, &seen.addresses[..])))?;
    let before = change.before.values().flat_map(|seen| seen.addresses.iter().copied());
    let listed = ADDRESSES.iter().map(|(text, _)| address(text)).filter(|_| change.after.len() < 50);
    for address in before.chain(listed).chain(holders.keys().copied()) {
        let holder = router.forwarder().holder(address);
        let number = holder.and_then(|id| world.by_id.get(&id)).copied();
        ensure!(holder.is_some() == number.is_some(), "{address} is held by one that is gone");
        ensure!(
            number == holders.get(&address).copied(),
            "{address}: {number:?}, and in the lists {:?}",
            holders.get(&address)
        );
    }
    let mut gained = 0;
    for (number, seen) in change.after {
        let before = change.before.get(number).map(|seen| &seen.addresses[..]).unwrap_or_default();
        let lost = before.iter().find(|it| !seen.addresses.contains(it) && call.takes != Some(**it));
        ensure!(lost.is_none(), "{number} has lost {lost:?}");
        ensure!(seen.addresses.iter().filter(|it| it.is_ipv4()).count() <= 1, "{number} has two IPv4 addresses");
        ensure!(seen.addresses.len() <= 9, "{number} has {} addresses", seen.addresses.len());
        for address in seen.addresses.iter().filter(|address| !before.contains(address)) {
            gained += 1;
            if !call.restores {
                check_gain(setup, later, world, call, *number, *address)?;
            }
        }
    }
    ensure!(call.takes.is_none_or(|it| !holders.contains_key(&it)), "{:?} is held here and elsewhere", call.takes);
    if world.effects.closed.is_empty() && !call.restores {
        let counted = change.new.totals.claims - change.old.totals.claims;
        ensure!(counted == gained, "{gained} addresses were given, {counted} counted");
    }
    check_shares(setup, later, world, change)
}

fn check_gain(setup: &Setup, later: bool, world: &World, call: &Call, number: Number, gained: IpAddr) -> Check {
    let Some(connection) = world.connections.get(&number) else { return Ok(()) };
    ensure!(call.peer() == Some(number), "{number} got {gained} by a call about {:?}", call.from);
    let is_elsewhere = world.elsewhere.keys().any(|(_, address)| *address == gained);
    ensure!(!is_elsewhere, "{number} got {gained}, which is held elsewhere");
    if world.losers.contains(&(number, gained)) {
        return Ok(());
    }
    let by_packet = call.inputs.iter().any(|input| input.ends.is_some_and(|(src, _)| src == gained));
    let by_request = call.frames.iter().any(|sent| match sent {
        Sent::Request(named) => named.is_empty() || named.contains(&gained),
        _ => false,
    });
    let ways = [(by_packet, Way::Packet), (by_request, Way::Request), (!by_packet && !by_request, Way::Hook)];
    let may = ways.iter().any(|(is, way)| *is && oracle::may_get(setup, later, connection, gained, *way));
    ensure!(may, "{number} ({:?}) got {gained}", oracle::identity(setup, connection));
    Ok(())
}

/// No user has more addresses than one may, but for what is granted, and for what an earlier router gave.
fn check_shares(setup: &Setup, later: bool, world: &World, change: &Change<'_>) -> Check {
    let Some(limit) = setup.max_addresses.filter(|limit| *limit > 0) else { return Ok(()) };
    let mut counts: HashMap<(u32, bool), usize> = HashMap::new();
    for (number, seen) in change.after {
        let Some(connection) = world.connections.get(number) else { continue };
        let (uid, ..) = oracle::identity(setup, connection);
        // What the hook says is not a choice of the peer's.
        let is_hooks = |address: &IpAddr| super::world::hook(uid).map(IpAddr::V4) == Some(*address);
        if uid == 0 || connection.was_restored {
            continue;
        }
        for address in &seen.addresses {
            let is_counted = oracle::is_granted(setup, later, connection, *address) != Some(true);
            if is_counted && !is_hooks(address) {
                *counts.entry((uid, address.is_ipv4())).or_default() += 1;
            }
        }
    }
    let above = counts.iter().find(|(_, count)| **count > limit);
    ensure!(above.is_none(), "{above:?} addresses of a user, {limit} are allowed");
    Ok(())
}

/// Nothing passes in the kernel that the policy of this moment would not pass there: both ends are attached peers that hold their
/// addresses, or the router's device, and the oracle sends the packet the same way.
fn check_kernel(setup: &Setup, router: &Router, world: &World, change: &Change<'_>) -> Check {
    for given in world.kernel.live() {
        let flow = &given.flow;
        let number = |id| world.by_id.get(&id).copied().filter(|_| router.is_attached(id));
        let ends = [(flow.from, flow.key.src), (flow.to, flow.key.dst)];
        for (peer, address) in ends.into_iter().filter_map(|(peer, address)| Some((peer?, address))) {
            let is_its = number(peer).is_some_and(|number| change.holds_now(number, address));
            ensure!(is_its, "{flow:?} passes, and {peer:?} is not attached or doesn't hold {address}");
        }
        let known = router.flow(flow.id.slot).map(|flow| [flow.key().local(), flow.key().remote()]);
        let [src, dst] = [flow.key.src, flow.key.dst];
        let expected = if flow.id.is_inward { [dst, src] } else { [src, dst] };
        ensure!(known == Some(expected), "{flow:?} passes, and the flow there is {known:?}");
        let bytes = packets::of_key(&flow.key);
        let Ok(packet) = Packet::parse(&bytes) else { return Err(format!("{flow:?} is no packet")) };
        let rules_of = |number: Number| world.connections.get(&number).map(|it| (number, &it.rules[..]));
        let holder = change.holder(flow.key.dst).and_then(rules_of);
        let is_elsewhere = world.elsewhere.keys().any(|(_, address)| *address == flow.key.dst);
        let sender = flow.from.and_then(number).and_then(rules_of);
        let fate = match (flow.from, sender) {
            (Some(_), Some((_, rules))) => oracle::outward(setup, rules, &packet, holder, is_elsewhere),
            (Some(_), None) => Fate::Nowhere,
            (None, _) => oracle::inward(setup, &packet, true, holder),
        };
        let expected = flow.to.map_or(Some(Fate::Tun), |to| number(to).map(Fate::Peer));
        ensure!(Some(fate) == expected, "{flow:?} passes, and the oracle says {fate:?}");
    }
    for (peer, _) in world.kernel.pairs.iter().filter(|(_, pair)| pair.is_made) {
        let held: Vec<_> = router.forwarder().addresses(*peer).collect();
        let known = world.kernel.claims(*peer);
        ensure!(
            known.is_some_and(|known| known.len() == held.len() && held.iter().all(|it| known.contains(it))),
            "{peer:?} holds {held:?}, and its pair lets in {known:?}"
        );
    }
    Ok(())
}

/// A peer's rules are the last ones that it sent before its first packet.
fn check_rules(router: &Router, world: &mut World, call: &Call, change: &Change<'_>) -> Check {
    let Some(number) = call.peer() else { return Ok(()) };
    let Some(connection) = world.connections.get_mut(&number) else { return Ok(()) };
    let Some(id) = connection.id else { return Ok(()) };
    let mut sent = call.frames.iter().filter_map(|sent| match sent {
        Sent::Rules(rules) => Some(rules),
        _ => None,
    });
    let actual: Vec<_> = router.forwarder().rules(id).copied().collect();
    let has_sent =
        connection.was_restored || change.before.get(&number).is_some_and(|seen| seen.traffic.rx_packets > 0);
    let is_new = sent.clone().any(|rules| *rules == actual) && !has_sent;
    ensure!(is_new || actual == connection.rules, "{number} has rules {actual:?} after {:?}", connection.rules);
    let may_be_frozen = has_sent || call.inputs.iter().any(|input| input.ends.is_some());
    if let (Some(last), false) = (sent.next_back(), may_be_frozen || change.drops(DropReason::RulesFrozen) > 0) {
        ensure!(*last == actual, "{number} has rules {actual:?}, and sent {last:?}");
    }
    connection.rules = actual;
    Ok(())
}

/// Nothing grows beyond its bounds.
fn check_bounds(setup: &Setup, router: &Router, world: &World) -> Check {
    ensure!(router.len() <= setup.peers, "{} peers, {} are allowed", router.len(), setup.peers);
    let mut by_user: HashMap<u32, usize> = HashMap::new();
    let mut unclaimed = 0;
    for peer in router.peers() {
        let number = world.by_id.get(&peer.id()).copied().unwrap_or_default();
        let Some(connection) = world.connections.get(&number) else { continue };
        let (queued, frames) = (peer.queued(), peer.waiting().len());
        ensure!(
            peer.offloads().is_ok() || queued <= Limits::MIN_QUEUED_BYTES as u64,
            "{queued} bytes wait for {number}"
        );
        ensure!(frames == connection.queued.len(), "{number} has {frames} bytes of frames queued");
        ensure!(peer.partial() < MAX_FRAME_LEN, "half a frame of {} bytes", peer.partial());
        let partial = connection.partial();
        ensure!(
            peer.partial() as u64 == partial,
            "{number} has sent {partial} bytes of a frame, not {}",
            peer.partial()
        );
        ensure!(peer.rules() <= setup.device_rules, "{number} has {} rules", peer.rules());
        ensure!(peer.credentials().pid == connection.credentials.pid, "{number} is {:?}", peer.credentials());
        let is_attached = connection.device.is_some_and(|device| device.is_attached);
        ensure!(peer.offloads().is_ok() == is_attached, "{number} is attached on one side only");
        if !connection.was_restored {
            // Who has lost its address keeps its place.
            let is_loser = world.losers.iter().any(|(loser, _)| *loser == number);
            unclaimed += usize::from(peer.addresses().next().is_none() && !is_loser);
            *by_user.entry(peer.credentials().uid).or_default() += 1;
        }
    }
    ensure!(unclaimed <= setup.unclaimed, "{unclaimed} peers without an address");
    let above =
        by_user.iter().find(|(uid, count)| **uid != 0 && setup.peers_per_uid != 0 && **count > setup.peers_per_uid);
    ensure!(above.is_none(), "{above:?} peers of a user, {} are allowed", setup.peers_per_uid);
    Ok(())
}

/// The store has the attached peers as they are, and no others but those that are still to say hello.
fn check_store(router: &Router, world: &World) -> Check {
    for (serial, (number, _)) in &world.store {
        let id = world.connections.get(number).and_then(|connection| connection.id);
        let peer = id.and_then(|id| router.peer(id));
        ensure!(peer.is_some_and(|peer| peer.serial() == Some(*serial)), "the store has {number} as {serial}");
        let is_in_frames = world.connections.get(number).is_some_and(|it| it.refuses_descriptors)
            && !id.is_some_and(|id| router.is_attached(id));
        ensure!(!is_in_frames, "{number} is stored, and its packets travel in frames");
    }
    for (id, wanted) in router.stored_peers() {
        let Some((_, stored)) = world.store.get(&wanted.serial) else {
            return Err(format!("{id:?} is not stored"));
        };
        let rules = if router.peer(id).is_some_and(|peer| peer.traffic().rx_packets > 0) { &wanted } else { stored };
        ensure!(stored.addresses == wanted.addresses, "stored {:?}, held {:?}", stored.addresses, wanted.addresses);
        ensure!(
            (&stored.since, &stored.lost, stored.has_chosen_address)
                == (&wanted.since, &wanted.lost, wanted.has_chosen_address),
            "{id:?} is stored with other times, or with other addresses that it has lost"
        );
        ensure!(stored.rules == rules.rules, "{id:?} is stored with other rules");
        ensure!(
            (&stored.identity, stored.credentials, stored.is_bound)
                == (&wanted.identity, wanted.credentials, wanted.is_bound),
            "{id:?} is stored as somebody else"
        );
    }
    Ok(())
}
