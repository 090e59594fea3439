//! What the daemon says of other hosts.

use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use tuntap_wire::bgp::claim::{self, LargeCommunity};
use tuntap_wire::bgp::refresh::Refresh;
use tuntap_wire::bgp::write::append_end_of_rib;
use tuntap_wire::bgp::{Family, PerFamily};
use tuntap_wire::holding::Holding;

use super::super::import::Imports;
use super::super::speaker::Speaker;
use super::super::status::State;
use super::daemon::{ROUTER, World, address, daemon_open, holding, nth, refresh};

/// Makes an UPDATE by hand: the path's number, the prefix, and what its attributes say.
struct Route {
    path: u32,
    prefix: (IpAddr, u8),
    next_hop: IpAddr,
    med: Option<u32>,
    communities: Vec<LargeCommunity>,
}

fn route(path: u32, address: IpAddr, holding: Holding) -> Route {
    Route {
        path,
        prefix: (address, Family::of(address).bits()),
        next_hop: IpAddr::from([10, 99, 0, 2]),
        med: Some(holding.since.seconds()),
        communities: claim::encode(64513, holding).to_vec(),
    }
}

/// A route that is none of our routers'.
fn foreign(path: u32, address: IpAddr, next_hop: &str, med: Option<u32>) -> Route {
    let next_hop = next_hop.parse().expect("an address");
    Route { next_hop, med, communities: Vec::new(), ..route(path, address, holding(1, 1)) }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn attribute(flags: u8, kind: u8, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).expect("short").to_be_bytes();
    [&[flags | 0x10, kind, len[0], len[1]], value].concat()
}

fn message(withdrawn: &[u8], attributes: &[u8], announced: &[u8]) -> Vec<u8> {
    let len = |bytes: usize| u16::try_from(bytes).expect("short").to_be_bytes();
    let body = [&len(withdrawn.len()), withdrawn, &len(attributes.len()), attributes, announced].concat();
    [&[0xff; 16][..], &len(19 + body.len()), &[2], &body].concat()
}

fn nlri(path: u32, (address, bits): (IpAddr, u8)) -> Vec<u8> {
    let octets = octets(address);
    [&path.to_be_bytes(), &[bits][..], &octets[..usize::from(bits).div_ceil(8)]].concat()
}

impl Route {
    /// The message for a session with numbers of paths.
    fn announce(&self) -> Vec<u8> {
        let nlri = nlri(self.path, self.prefix);
        let mut attributes = [0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfc, 0].to_vec();
        if let Some(med) = self.med {
            attributes.extend(attribute(0x80, 4, &med.to_be_bytes()));
        }
        let words = self.communities.iter().flat_map(|it| [it.asn, it.function, it.parameter]);
        let words: Vec<u8> = words.flat_map(u32::to_be_bytes).collect();
        if !words.is_empty() {
            attributes.extend(attribute(0xc0, 32, &words));
        }
        let next_hop = octets(self.next_hop);
        match self.prefix.0 {
            IpAddr::V4(_) => {
                attributes.extend(attribute(0x40, 3, &next_hop));
                message(&[], &attributes, &nlri)
            }
            IpAddr::V6(_) => {
                let next_hop = if next_hop.len() == 16 { next_hop } else { octets(address("fd00:99::2")) };
                attributes.extend(attribute(0x80, 14, &[&[0, 2, 1, 16][..], &next_hop, &[0], &nlri].concat()));
                message(&[], &attributes, &[])
            }
        }
    }
}

fn withdraw(path: u32, address: IpAddr) -> Vec<u8> {
    let nlri = nlri(path, (address, Family::of(address).bits()));
    match address {
        IpAddr::V4(_) => message(&nlri, &[], &[]),
        IpAddr::V6(_) => message(&[], &attribute(0x80, 15, &[&[0, 2, 1][..], &nlri].concat()), &[]),
    }
}

fn end_of_rib(family: Family) -> Vec<u8> {
    let mut output = Vec::new();
    append_end_of_rib(&mut output, family);
    output
}

#[test]
fn newest_of_several_holders_counts() {
    for address in [nth(1), nth(3)] {
        let mut world = World::established();
        let held = |world: &World| world.heard.elsewhere.get(&address).copied();
        world.say(&route(1, address, holding(7, 5_000)).announce());
        assert_eq!(held(&world), Some(holding(7, 5_000)));
        world.say(&route(2, address, holding(8, 4_000)).announce());
        assert_eq!((held(&world), world.heard.changes), (Some(holding(7, 5_000)), 1));
        world.say(&route(2, address, holding(8, 6_123)).announce());
        assert_eq!(held(&world), Some(holding(8, 6_123)), "the time is exact");
        world.say(&withdraw(2, address));
        assert_eq!(held(&world), Some(holding(7, 5_000)));
        world.say(&withdraw(2, address));
        world.say(&withdraw(9, address));
        world.say(&withdraw(1, address));
        assert_eq!(held(&world), None);
        let status = world.speaker.status(world.now);
        assert_eq!((status.routes, status.received.announced, status.received.withdrawn), (0, 3, 4));
    }
}

#[test]
fn daemon_without_paths_replaces_routes() {
    let mut world = World::new();
    let mut open = daemon_open();
    open.capabilities.add_path = PerFamily::default();
    world.establish(&open);
    let mut bytes = route(0, nth(1), holding(7, 5_000)).announce();
    let body_len = bytes.len();
    // Without its number, which is in the last nine bytes.
    bytes.drain(body_len - 9..body_len - 5);
    bytes[17] -= 4;
    world.say(&bytes);
    assert_eq!(world.heard.elsewhere.get(&nth(1)), Some(&holding(7, 5_000)));
}

#[test]
fn foreign_holders_are_told_apart_by_their_next_hop() {
    let mut world = World::established();
    world.say(&foreign(1, nth(1), "192.0.2.7", Some(12)).announce());
    assert_eq!(world.heard.elsewhere.get(&nth(1)), Some(&holding(0xc000_0207, 12_000)));
    world.say(&foreign(1, nth(3), "2001:db8::7", None).announce());
    assert_eq!(world.heard.elsewhere.get(&nth(3)), Some(&holding(0x2001_0db8_0000_0007, 0)));
    world.say(&foreign(1, nth(2), "0.0.0.0", Some(12)).announce());
    assert_eq!(world.heard.elsewhere.get(&nth(2)), None);
    assert_eq!(world.speaker.status(world.now).received.no_holder, 1);
}

/// What is refused takes the place of what was announced before, and is counted; the log has a line for each reason.
#[test]
fn routes_are_refused() {
    let mut world = World::established();
    world.lines();
    let good = route(1, nth(1), holding(7, 5_000));
    let others = [
        Route { communities: claim::encode(64513, holding(7, 5))[..3].to_vec(), ..route(1, nth(1), holding(7, 5)) },
        route(1, nth(1), holding(ROUTER, 9_000_000)),
        Route {
            communities: [&good.communities[..], &claim::encode(64513, holding(8, 5))].concat(),
            ..route(1, nth(1), holding(7, 5))
        },
    ];
    for other in others {
        world.say(&good.announce());
        assert_eq!(world.heard.elsewhere.len(), 1);
        world.say(&other.announce());
        assert!(world.heard.elsewhere.is_empty());
    }
    let mut malformed = good.announce();
    world.say(&malformed);
    malformed[19 + 4 + 3] = 9; // ORIGIN
    world.say(&malformed);
    assert!(world.heard.elsewhere.is_empty(), "RFC 7606");
    for _ in 0..2 {
        world.say(&Route { prefix: (address("10.77.0.0"), 24), ..route(1, nth(1), holding(7, 5)) }.announce());
        world.say(&Route { prefix: (address("0.0.0.0"), 0), ..route(1, nth(1), holding(7, 5)) }.announce());
        world.say(&route(1, address("10.78.0.1"), holding(7, 5)).announce());
        world.say(&route(1, address("fd00:78::1"), holding(7, 5)).announce());
    }
    let status = world.speaker.status(world.now);
    let received = status.received;
    assert_eq!((received.no_holder, received.reflected, received.malformed), (2, 1, 1));
    assert_eq!((received.not_one_address, received.outside), (4, 4));
    assert_eq!((status.state, status.routes), (State::Established, 0));
    let further = "Further ones are only counted";
    assert_eq!(
        world.lines(),
        [
            format!("routes: 10.77.0.1/32 was refused: it doesn't say who holds it. {further}"),
            format!("routes: 10.77.0.1/32 was refused: a malformed ORIGIN. {further}"),
            format!("routes: 10.77.0.0/24 was refused: it is not for a single address. {further}"),
            format!("routes: 10.78.0.1/32 was refused: it is outside the networks of this router. {further}"),
        ]
    );
}

#[test]
fn routes_have_a_bound() {
    let mut world = World::new();
    let settings = super::super::settings::Settings {
        networks: vec!["10.0.0.0/8".parse().expect("a network")],
        ..super::daemon::settings()
    };
    world.speaker = Speaker::new(settings, world.now);
    world.establish(&daemon_open());
    world.lines();
    let nth = |number: u32| IpAddr::from((0x0a00_0000 + number).to_be_bytes());
    for number in 0..150_000 {
        world.say(&route(1, nth(number), holding(7, 5)).announce());
    }
    let status = world.speaker.status(world.now);
    assert_eq!((status.state, status.routes), (State::Established, Imports::MAX_ROUTES));
    assert_eq!((world.heard.elsewhere.len(), status.received.too_many_routes), (131_072, 18_928));
    assert_eq!(
        world.lines(),
        ["routes: 10.2.0.0/32 was refused: there are 131072 routes already. Further ones are only counted"]
    );
    // Routes that are known may change. When there is room again, the daemon is asked for all.
    world.say(&route(1, nth(5), holding(7, 6)).announce());
    assert_eq!(world.heard.elsewhere.get(&nth(5)), Some(&holding(7, 6)));
    world.deliver();
    for number in 0..40_000 {
        assert_eq!(world.daemon.refreshes, []);
        world.say(&withdraw(1, nth(number)));
        world.deliver();
        if world.speaker.status(world.now).routes == 98_303 {
            break;
        }
    }
    assert_eq!(world.daemon.refreshes, [(Family::Ipv4, Refresh::Request)], "once");

    for path in 0..100 {
        world.say(&route(path, nth(0), holding(7, u64::from(path))).announce());
    }
    let status = world.speaker.status(world.now);
    assert_eq!((status.received.too_many_paths, status.routes), (84, 98_303 + 16));
    assert_eq!(world.heard.elsewhere.get(&nth(0)), Some(&holding(7, 15)));
}

/// Routes of a session that has ended are kept until the next one has said all, or for a while.
#[test]
fn routes_outlive_their_session_for_a_while() {
    let mut world = World::established();
    for number in 1..=4 {
        world.say(&route(1, nth(number), holding(7, 5)).announce());
    }
    let held = |world: &World| world.heard.elsewhere.keys().copied().collect::<Vec<_>>();
    world.close();
    assert_eq!(held(&world).len(), 4);
    world.pass(Duration::from_secs(2));
    world.establish(&daemon_open());
    let changes = world.heard.changes;
    world.say(&route(8, nth(1), holding(7, 5)).announce());
    assert_eq!(world.heard.changes, changes, "nobody has to be told");
    assert!(!world.speaker.is_complete(Family::Ipv4));
    world.say(&end_of_rib(Family::Ipv4));
    assert!(world.speaker.is_complete(Family::Ipv4) && !world.speaker.is_complete(Family::Ipv6));
    assert_eq!(held(&world), [nth(1), nth(3)], "that of IPv6 is not said to be gone");
    world.pass(Duration::from_millis(7_999));
    assert_eq!(held(&world), [nth(1), nth(3)]);
    world.say(&route(9, nth(3), holding(7, 5)).announce());
    world.pass(Duration::from_millis(1));
    assert_eq!(held(&world), [nth(1), nth(3)], "it was announced anew");
    world.close();
    let at = world.speaker.next_time(world.now).expect("they expire");
    assert_eq!(at, world.now + Imports::STALE);
    world.pass(Imports::STALE);
    assert!(held(&world).is_empty());
    assert_eq!(world.speaker.next_time(world.now), None);
}

#[test]
fn answer_to_a_request_removes_what_is_gone() {
    let mut world = World::established();
    for number in 1..=4 {
        world.say(&route(1, nth(number), holding(7, 5)).announce());
    }
    world.say(&refresh(Family::Ipv4, Refresh::Begin));
    world.say(&refresh(Family::Ipv4, Refresh::Begin));
    world.say(&route(1, nth(2), holding(7, 5)).announce());
    assert_eq!(world.heard.elsewhere.len(), 4);
    world.say(&refresh(Family::Ipv4, Refresh::End));
    assert_eq!(world.heard.elsewhere.keys().copied().collect::<Vec<_>>(), [nth(2), nth(3)]);
    world.say(&refresh(Family::Ipv6, Refresh::Begin));
    world.say(&refresh(Family::Ipv4, Refresh::End));
    assert_eq!(world.heard.elsewhere.len(), 2, "an end without a beginning");
    for _ in 0..8 {
        world.pass(Duration::from_secs(8));
        world.say(&super::daemon::keepalive());
        world.deliver();
    }
    assert_eq!(world.heard.elsewhere.len(), 1, "a beginning without an end");
}

#[derive(Debug, Clone)]
enum Action {
    Announce(u32, u16, u64),
    Withdraw(u32, u16),
    Refresh(Family, Refresh),
    EndOfRib(Family),
    Reconnect,
    Wait(u64),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let family = || prop::sample::select(Family::ALL.to_vec());
    let refresh = prop::sample::select(vec![Refresh::Begin, Refresh::End]);
    let action = prop_oneof![
        8 => (1u32..4, 1u16..12, 0u64..9).prop_map(|(path, number, since)| Action::Announce(path, number, since)),
        4 => (1u32..4, 1u16..12).prop_map(|(path, number)| Action::Withdraw(path, number)),
        1 => (family(), refresh).prop_map(|(family, refresh)| Action::Refresh(family, refresh)),
        1 => family().prop_map(Action::EndOfRib),
        1 => Just(Action::Reconnect),
        1 => (0u64..8).prop_map(Action::Wait),
    ];
    prop::collection::vec(action, 1..200)
}

/// What is to be held, written down in the most obvious way: each route with whether it is stale, and until when.
#[derive(Debug, Default)]
struct Oracle {
    routes: Vec<((IpAddr, u32), Holding, bool)>,
    stale_until: [Option<Duration>; 2],
}

impl Oracle {
    fn index(family: Family) -> usize {
        usize::from(family == Family::Ipv6)
    }

    fn mark(&mut self, family: Family, until: Duration) {
        self.stale_until[Self::index(family)].get_or_insert(until);
        for ((address, _), _, stale) in &mut self.routes {
            *stale |= Family::of(*address) == family;
        }
    }

    fn sweep(&mut self, family: Family) {
        if self.stale_until[Self::index(family)].take().is_some() {
            self.routes.retain(|((address, _), _, stale)| !(*stale && Family::of(*address) == family));
        }
    }

    fn expire(&mut self, now: Duration) {
        for family in Family::ALL {
            if self.stale_until[Self::index(family)].is_some_and(|until| until <= now) {
                self.sweep(family);
            }
        }
    }

    fn held(&self) -> Vec<(IpAddr, Holding)> {
        let mut held: Vec<_> = self.routes.iter().map(|((address, _), holding, _)| (*address, *holding)).collect();
        held.sort_unstable_by_key(|(address, holding)| (*address, std::cmp::Reverse(*holding)));
        held.dedup_by_key(|(address, _)| *address);
        held
    }
}

proptest! {
    #[test]
    fn listener_knows_the_newest_of_each_address(actions in actions()) {
        let mut world = World::established();
        let start = world.now;
        let mut oracle = Oracle::default();
        for action in actions {
            let now = world.now - start;
            match action {
                Action::Announce(path, number, since) => {
                    let key = (nth(number), path);
                    world.say(&route(path, nth(number), holding(u64::from(path), since)).announce());
                    oracle.routes.retain(|(known, _, _)| *known != key);
                    oracle.routes.push((key, holding(u64::from(path), since), false));
                }
                Action::Withdraw(path, number) => {
                    world.say(&withdraw(path, nth(number)));
                    oracle.routes.retain(|(known, _, _)| *known != (nth(number), path));
                }
                Action::Refresh(family, mark) => {
                    world.say(&refresh(family, mark));
                    match mark {
                        Refresh::Begin => oracle.mark(family, now + Imports::REFRESHING),
                        _ => oracle.sweep(family),
                    }
                }
                Action::EndOfRib(family) => {
                    world.say(&end_of_rib(family));
                    oracle.sweep(family);
                }
                Action::Reconnect => {
                    world.close();
                    Family::ALL.iter().for_each(|family| oracle.mark(*family, now + Imports::STALE));
                    world.establish(&daemon_open());
                }
                Action::Wait(seconds) => {
                    world.pass(Duration::from_secs(seconds));
                    world.say(&super::daemon::keepalive());
                    world.deliver();
                    oracle.expire(world.now - start);
                }
            }
            prop_assert_eq!(world.heard.elsewhere.clone().into_iter().collect::<Vec<_>>(), oracle.held());
            prop_assert_eq!(world.speaker.status(world.now).routes, oracle.routes.len());
        }
    }
}

/// Many routes, told as of one session, and how many of them there still are.
fn with_many_routes(count: u16) -> World {
    let mut world = World::established();
    (0..count).for_each(|number| _ = world.say(&route(1, nth(number), holding(7, 1)).announce()));
    assert_eq!(world.heard.elsewhere.len(), usize::from(count));
    world
}

/// However many routes have gone, each call looks at a bounded number of them.
#[test]
fn routes_of_a_lost_session_go_in_pieces() {
    let mut world = with_many_routes(10_000);
    world.speaker.closed(None, world.now, &mut world.heard);
    world.now += Imports::STALE;
    world.heard.changes = 0;
    world.speaker.poll(world.now, &mut world.heard);
    assert_eq!(world.heard.changes, 0, "the pieces come one by one");
    let mut pieces = 0;
    loop {
        let before = world.heard.changes;
        if !world.speaker.sweep(&mut world.heard) {
            break;
        }
        pieces += 1;
        assert!(world.heard.changes - before <= Imports::SWEEP);
    }
    assert!((10..=14).contains(&pieces), "{pieces}");
    assert_eq!((world.heard.elsewhere.len(), world.heard.changes), (0, 10_000));
    assert_eq!(world.speaker.status(world.now).routes, 0);
}

/// What the daemon tells while pieces are removed stays, and what goes meanwhile goes too.
#[test]
fn routes_that_come_and_go_between_the_pieces() {
    let mut world = with_many_routes(5_000);
    let marks = |mark| Family::ALL.map(|family| refresh(family, mark)).concat();
    let mut bytes = marks(Refresh::Begin);
    bytes.extend(route(1, nth(4_999), holding(7, 2)).announce());
    bytes.extend(marks(Refresh::End));
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let taken = world.speaker.received(rest, world.now, &mut world.heard);
        rest = &rest[taken.consumed..];
    }
    assert!(world.speaker.sweep(&mut world.heard));
    // The first ones are gone already, and come back.
    let again = route(1, nth(1), holding(7, 3)).announce();
    world.speaker.received(&again, world.now, &mut world.heard);
    // A second answer begins and ends before the first one's routes are gone. It has only this one.
    let second = [marks(Refresh::Begin), route(1, nth(2), holding(7, 4)).announce(), marks(Refresh::End)].concat();
    let mut rest = second.as_slice();
    while !rest.is_empty() {
        let taken = world.speaker.received(rest, world.now, &mut world.heard);
        rest = &rest[taken.consumed..];
    }
    while world.speaker.sweep(&mut world.heard) {}
    let left: Vec<IpAddr> = world.heard.elsewhere.keys().copied().collect();
    assert_eq!(left, [nth(2)]);
}

/// A daemon that keeps what isn't announced again tells of it, and is told that it is gone.
#[test]
fn routes_of_a_router_before_are_withdrawn() {
    let mut world = World::established();
    world.speaker.claimed(nth(1), holding(ROUTER, 1));
    world.deliver();
    for number in [1, 2, 3] {
        world.say(&route(1, nth(number), holding(ROUTER, 1)).announce());
    }
    world.deliver();
    assert_eq!(world.speaker.status(world.now).sent.withdrawn, 2);
    assert_eq!(world.speaker.status(world.now).sent.announced, 1);
}
