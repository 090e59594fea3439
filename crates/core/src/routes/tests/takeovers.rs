//! A router is killed, and its successor goes on with the session.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tuntap_wire::bgp::Family;
use tuntap_wire::bgp::refresh::Refresh;
use tuntap_wire::holding::Holding;

use super::super::output::Unsent;
use super::super::settings::Settings;
use super::super::speaker::Speaker;
use super::super::status::State;
use super::super::takeover::TakeoverError;
use super::daemon::{World, daemon_open, holding, keepalive, nth, open_bytes, refresh, settings};

const SETTLE: Duration = Duration::from_secs(2);

/// What the shell has kept: the stored session as text, and what was not sent.
fn kept(world: &World) -> Option<(String, Unsent)> {
    let stored = serde_json::to_string(&world.speaker.stored()?).expect("it can be written");
    let (position, bytes) = world.speaker.unsent()?;
    Some((stored, Unsent { position, bytes: bytes.to_vec() }))
}

/// Puts a successor with these claims into the world.
fn succeed(world: &mut World, kept: (String, Unsent), claims: &BTreeMap<IpAddr, Holding>) -> Result<(), TakeoverError> {
    world.speaker = Speaker::new(settings(), world.now);
    for (address, holding) in claims {
        world.speaker.claimed(*address, *holding);
    }
    let stored = serde_json::from_str(&kept.0).expect("it can be read");
    world.speaker.take_over(&stored, kept.1, world.written, SETTLE, world.now, &mut world.heard)
}

fn claims(numbers: impl Iterator<Item = u16>) -> BTreeMap<IpAddr, Holding> {
    numbers.map(|number| (nth(number), holding(1, u64::from(number)))).collect()
}

/// At each byte of what it says, a router dies. No route is lost that both have, and in the end there are those of the
/// successor.
#[test]
fn no_byte_and_no_route_is_lost() {
    let mut first = World::established();
    let before = claims(0..30);
    let after = claims(10..40);
    before.iter().for_each(|(address, holding)| first.speaker.claimed(*address, *holding));
    first.deliver();
    // What is in flight: other routes, withdrawals, and an answer to a request.
    for number in 0..5 {
        first.speaker.released(nth(number));
        first.speaker.claimed(nth(100 + number), holding(1, 7));
    }
    first.say(&refresh(Family::Ipv4, Refresh::Request));
    let total = first.speaker.output(first.now).len();
    assert!(total > 1_000);
    let (start, kept) = (first.written, kept(&first).expect("established"));
    for count in 0..=total {
        let mut world = World { daemon: first.daemon.clone(), written: start, ..World::new() };
        let (_, unsent) = &kept;
        let from = usize::try_from(start - unsent.position).expect("a part of it");
        world.daemon.hear(&unsent.bytes[from..from + count]);
        world.written += count as u64;
        succeed(&mut world, kept.clone(), &after).expect("it can be taken over");
        while world.deliver_some(997) > 0 {
            for number in 10..30 {
                assert!(world.daemon.routes.contains_key(&nth(number)), "{} was lost after {count} bytes", nth(number));
            }
        }
        assert!(world.daemon.routes.contains_key(&nth(7)), "its claim may come again");
        assert!(world.daemon.keepalives > 0);
        world.pass(SETTLE);
        world.deliver();
        assert_eq!(world.daemon.routes, after, "after {count} bytes");
        let asked = world.daemon.refreshes.iter().filter(|(_, refresh)| *refresh == Refresh::Request).count();
        assert_eq!(asked, 2, "it asks for what the daemon knows");
    }
}

/// A successor dies, too, and its successor; each at another byte.
#[test]
fn successors_have_successors() {
    let claims = claims(0..50);
    for step in (1..400).step_by(7) {
        let mut world = World::established();
        claims.iter().for_each(|(address, holding)| world.speaker.claimed(*address, *holding));
        world.deliver();
        for _ in 0..10 {
            world.speaker.output(world.now);
            let kept = kept(&world).expect("established");
            world.deliver_some(step);
            succeed(&mut world, kept, &claims).expect("it can be taken over");
            assert_eq!(world.daemon.routes, claims);
        }
        world.pass(SETTLE);
        world.deliver();
        assert_eq!(world.daemon.routes, claims);
        assert!(!world.speaker.has_output(world.now));
    }
}

/// The daemon's bytes are left with the kernel until they make a whole message, so a successor finds a message's beginning,
/// and maybe one that was read already.
#[test]
fn bytes_of_the_daemon_are_read_from_a_messages_beginning() {
    let mut stream = keepalive();
    stream.extend(refresh(Family::Ipv6, Refresh::Request));
    stream.extend([&[0xff; 16][..], &[0, 23, 2, 0, 0, 0, 0]].concat());
    stream.extend(keepalive());
    for cut in 0..=stream.len() {
        for reads_again in [false, true] {
            let mut world = World::established();
            let kept = kept(&world).expect("established");
            let consumed = world.say(&stream[..cut]);
            assert!(consumed <= cut && cut - consumed < 23);
            succeed(&mut world, kept, &BTreeMap::new()).expect("it can be taken over");
            let rest = if reads_again { &stream[..] } else { &stream[consumed..] };
            assert_eq!(world.say(rest), rest.len());
            assert_eq!(world.speaker.status(world.now).state, State::Established);
            world.pass(SETTLE);
            world.deliver();
        }
    }
}

/// The shell stores the session before it takes what has made it an established one; so that is read twice at most, and never
/// an OPEN.
#[test]
fn session_can_be_taken_over_when_it_is_established() {
    let mut world = World::new();
    let no_session = |world: &World| assert_eq!(world.speaker.stored(), None);
    no_session(&world);
    world.connect();
    no_session(&world);
    let stream = [open_bytes(&daemon_open()), keepalive(), keepalive()].concat();
    let taken = world.speaker.received(&stream, world.now, &mut world.heard);
    assert_eq!(taken.consumed, stream.len() - 38, "it stops after the OPEN");
    no_session(&world);
    let rest = &stream[taken.consumed..];
    let taken = world.speaker.received(rest, world.now, &mut world.heard);
    assert_eq!(taken.consumed, 19, "and when it is established");
    world.speaker.output(world.now);
    let stored = kept(&world).expect("established");
    succeed(&mut world, stored, &BTreeMap::new()).expect("it can be taken over");
    world.say(rest);
    world.deliver();
    assert_eq!(world.speaker.status(world.now).state, State::Established);
    assert_eq!(world.daemon.opens, 1);
    world.speaker.shut_down("", world.now, &mut world.heard);
    no_session(&world);
}

#[test]
fn session_that_cannot_be_taken_over() {
    let mut world = World::established();
    world.speaker.claimed(nth(1), holding(1, 1));
    world.speaker.output(world.now);
    let (text, unsent) = kept(&world).expect("established");
    let stored = serde_json::from_str(&text).expect("it can be read");
    let take_over = |settings: Settings, unsent: Unsent, written: u64| {
        let mut world = World::new();
        let mut speaker = Speaker::new(settings, world.now);
        speaker.take_over(&stored, unsent, written, SETTLE, world.now, &mut world.heard)
    };
    let end = unsent.position + unsent.bytes.len() as u64;
    assert_eq!(take_over(settings(), unsent.clone(), world.written), Ok(()));
    assert_eq!(take_over(settings(), unsent.clone(), end), Ok(()));
    for written in [0, unsent.position - 1, end + 1, u64::MAX] {
        assert_eq!(take_over(settings(), unsent.clone(), written), Err(TakeoverError::Unsent));
    }
    let cut = Unsent { bytes: unsent.bytes[..unsent.bytes.len() - 1].to_vec(), ..unsent.clone() };
    assert_eq!(take_over(settings(), cut, world.written), Err(TakeoverError::Unsent));
    let huge = Unsent { bytes: keepalive().repeat(10_000), ..unsent.clone() };
    assert_eq!(take_over(settings(), huge, world.written), Err(TakeoverError::Unsent));
    for other in [
        Settings { asn: 64514, ..settings() },
        Settings { hold_time: 30, ..settings() },
        Settings { router: holding(5, 0).router, ..settings() },
        Settings { neighbour_asn: Some(1), ..settings() },
    ] {
        assert_eq!(take_over(other, unsent.clone(), world.written), Err(TakeoverError::OtherSettings));
    }
    let busy = world.speaker.take_over(&stored, unsent, world.written, SETTLE, world.now, &mut world.heard);
    assert_eq!(busy, Err(TakeoverError::Busy));

    let mut world = World::new();
    let mut open = daemon_open();
    open.capabilities.enhanced_route_refresh = false;
    world.establish(&open);
    let stored = kept(&world).expect("established");
    assert_eq!(succeed(&mut world, stored, &BTreeMap::new()), Err(TakeoverError::NoMarks));
}
