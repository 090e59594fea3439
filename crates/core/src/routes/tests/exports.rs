//! Local claims on their way to the daemon.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tuntap_wire::bgp::Family;
use tuntap_wire::bgp::refresh::Refresh;

use super::super::output::Output;
use super::daemon::{World, daemon_open, holding, keepalive, nth, open_bytes, refresh};

#[test]
fn claims_come_move_and_go() {
    let mut world = World::established();
    let (one, six) = (nth(1), nth(3));
    for address in [one, six] {
        world.speaker.claimed(address, holding(1, 1_000));
        world.deliver();
        assert_eq!(world.daemon.routes.get(&address), Some(&holding(1, 1_000)));
        world.speaker.claimed(address, holding(1, 2_000));
        world.speaker.claimed(address, holding(1, 3_000));
        world.deliver();
        assert_eq!(world.daemon.routes.get(&address), Some(&holding(1, 3_000)));
        let updates = world.daemon.updates;
        world.speaker.claimed(address, holding(1, 3_000));
        world.deliver();
        assert_eq!(world.daemon.updates, updates, "nothing is new");
        world.speaker.released(address);
        world.speaker.released(address);
        world.deliver();
        assert_eq!(world.daemon.routes.get(&address), None);
    }
    let updates = world.daemon.updates;
    world.speaker.claimed(one, holding(1, 1));
    world.speaker.released(one);
    world.deliver();
    assert_eq!(world.daemon.updates, updates, "what the daemon never knew isn't withdrawn");
    let status = world.speaker.status(world.now);
    assert_eq!((status.claims, status.sent.announced, status.sent.withdrawn), (0, 4, 2));
}

/// What has changed since is found out by comparing.
#[test]
fn all_claims_are_replaced() {
    let mut world = World::established();
    (0..10).for_each(|number| world.speaker.claimed(nth(number), holding(1, 1_000)));
    world.deliver();
    let updates = world.daemon.updates;
    world.speaker.replace_claims((0..10).map(|number| (nth(number), holding(1, 1_000))));
    world.deliver();
    assert_eq!(world.daemon.updates, updates, "nothing is new");
    world
        .speaker
        .replace_claims((5..15).map(|number| (nth(number), holding(1, 1_000 + u64::from(number / 10) * 1_000))));
    world.deliver();
    let wanted: BTreeMap<_, _> =
        (5..15).map(|number| (nth(number), holding(1, 1_000 + u64::from(number / 10) * 1_000))).collect();
    assert_eq!(world.daemon.routes, wanted);
    assert_eq!(world.speaker.status(world.now).claims, 10);
}

/// Claims of one router and time go together, and so do withdrawals.
#[test]
fn equal_routes_share_a_message() {
    let mut world = World::established();
    let before = world.daemon.updates;
    (0..3_000).for_each(|number| world.speaker.claimed(nth(number), holding(1, u64::from(number % 2))));
    world.deliver();
    assert_eq!(world.daemon.routes.len(), 3_000);
    // Batches of 256, each with two times; those of IPv6 fill more than a message.
    let announcing = world.daemon.updates - before;
    assert!(announcing <= 60, "{announcing} messages");
    (0..3_000).for_each(|number| world.speaker.released(nth(number)));
    world.deliver();
    assert!(world.daemon.routes.is_empty());
    assert!(world.daemon.updates - before - announcing <= 30);
}

#[test]
fn all_routes_once_more_between_marks() {
    let mut world = World::established();
    (0..1_000).for_each(|number| world.speaker.claimed(nth(number), holding(1, 1)));
    world.deliver();
    let sent = world.speaker.status(world.now).sent.announced;
    world.say(&refresh(Family::Ipv6, Refresh::Request));
    world.deliver();
    assert_eq!(world.daemon.refreshes, [(Family::Ipv6, Refresh::Begin), (Family::Ipv6, Refresh::End)]);
    assert_eq!(world.speaker.status(world.now).sent.announced - sent, 334, "those of IPv6");
    assert_eq!(world.daemon.routes.len(), 1_000);

    let mut open = daemon_open();
    open.capabilities.enhanced_route_refresh = false;
    world.close();
    world.establish(&open);
    world.say(&refresh(Family::Ipv4, Refresh::Request));
    world.deliver();
    assert_eq!(world.daemon.refreshes, []);
    assert_eq!(world.speaker.status(world.now).sent.announced, 1_000 + 666);
}

/// RFC 7313, section 4: not before the first End-of-RIB. And however often it is asked, it answers once more.
#[test]
fn answers_do_not_mix() {
    let mut world = World::new();
    (0..2_000).for_each(|number| world.speaker.claimed(nth(number), holding(1, u64::from(number))));
    world.connect();
    world.say(&open_bytes(&daemon_open()));
    world.say(&keepalive());
    world.deliver_some(5_000);
    for _ in 0..100 {
        world.say(&refresh(Family::Ipv4, Refresh::Request));
    }
    assert_eq!(world.daemon.ends_of_rib, []);
    while world.daemon.ends_of_rib.is_empty() {
        assert_eq!(world.daemon.refreshes, []);
        assert!(world.deliver_some(100) > 0);
    }
    world.deliver();
    assert_eq!(world.daemon.refreshes, [(Family::Ipv4, Refresh::Begin), (Family::Ipv4, Refresh::End)]);
    assert_eq!(world.daemon.routes.len(), 2_000);
}

#[derive(Debug, Clone)]
enum Action {
    Claim(u16, u64),
    Release(u16),
    Deliver(usize),
    Ask(bool),
    Reconnect,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        6 => (0u16..600, 0u64..4).prop_map(|(number, since)| Action::Claim(number, since)),
        4 => (0u16..600).prop_map(Action::Release),
        4 => (1usize..20_000).prop_map(Action::Deliver),
        1 => any::<bool>().prop_map(Action::Ask),
        1 => Just(Action::Reconnect),
    ];
    prop::collection::vec(action, 1..400)
}

proptest! {
    /// However slow the daemon is, in the end it knows all claims and nothing else, and what waits has a bound.
    #[test]
    fn daemon_knows_all_claims_in_the_end(many in 0u16..3_000, actions in actions()) {
        let mut world = World::new();
        let mut claims = BTreeMap::new();
        for number in 600..600 + many {
            world.speaker.claimed(nth(number), holding(1, u64::from(number)));
            claims.insert(nth(number), holding(1, u64::from(number)));
        }
        world.connect();
        world.say(&open_bytes(&daemon_open()));
        world.say(&keepalive());
        for action in actions {
            match action {
                Action::Claim(number, since) => {
                    world.speaker.claimed(nth(number), holding(1, since));
                    claims.insert(nth(number), holding(1, since));
                }
                Action::Release(number) => {
                    world.speaker.released(nth(number));
                    claims.remove(&nth(number));
                }
                Action::Deliver(count) => {
                    world.deliver_some(count);
                }
                Action::Ask(v6) => {
                    world.say(&refresh(Family::ALL[usize::from(v6)], Refresh::Request));
                }
                Action::Reconnect => {
                    world.close();
                    world.connect();
                    world.say(&open_bytes(&daemon_open()));
                    world.say(&keepalive());
                }
            }
            let (_, kept) = world.speaker.unsent().expect("a session");
            prop_assert!(kept.len() <= Output::MAX_LEN);
            prop_assert_eq!(world.speaker.status(world.now).claims, claims.len());
        }
        world.deliver();
        prop_assert_eq!(world.speaker.status(world.now).waiting, 0);
        prop_assert_eq!(&world.daemon.routes, &claims);
    }
}
