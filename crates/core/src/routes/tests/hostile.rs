//! A daemon that sends anything.

use proptest::prelude::*;
use tuntap_wire::bgp::Family;
use tuntap_wire::bgp::refresh::Refresh;

use super::super::import::Imports;
use super::super::output::Output;
use super::super::speaker::Taken;
use super::daemon::{World, daemon_open, holding, keepalive, nth, open_bytes, refresh};

fn message() -> impl Strategy<Value = Vec<u8>> {
    let framed = (0u8..7, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(kind, body)| {
        let len = u16::try_from(19 + body.len()).expect("short").to_be_bytes();
        [&[0xff; 16][..], &len, &[kind], &body].concat()
    });
    prop_oneof![
        4 => Just(keepalive()),
        2 => Just(open_bytes(&daemon_open())),
        2 => prop::sample::select(Family::ALL.to_vec()).prop_map(|family| refresh(family, Refresh::Request)),
        2 => framed,
        1 => prop::collection::vec(any::<u8>(), 0..60),
        2 => Just([&[0xff; 16][..], &[0, 23, 2, 0, 0, 0, 0]].concat()),
    ]
}

proptest! {
    /// Whatever comes in whatever pieces, buffers keep their bounds, what is read is never shown again, and the speaker
    /// waits for no more than a message.
    #[test]
    fn anything_ends_the_session_at_most(
        is_established: bool, messages in prop::collection::vec(message(), 1..40), pieces in prop::collection::vec(1usize..90, 1..9),
    ) {
        let mut world = if is_established { World::established() } else { World::new() };
        if !is_established {
            world.connect();
        }
        (0..200).for_each(|number| world.speaker.claimed(nth(number), holding(1, 1)));
        let (mut waiting, mut stream) = (Vec::new(), messages.concat());
        for piece in pieces.iter().cycle() {
            if stream.is_empty() {
                break;
            }
            waiting.extend(stream.drain(..stream.len().min(*piece)));
            loop {
                let Taken { consumed, needed } = world.speaker.received(&waiting, world.now, &mut world.heard);
                prop_assert!(consumed <= waiting.len());
                waiting.drain(..consumed);
                prop_assert!(consumed > 0 || waiting.len() < needed && needed <= 4096);
                if consumed == 0 || waiting.is_empty() {
                    break;
                }
            }
            let kept = world.speaker.unsent().map_or(0, |(_, kept)| kept.len());
            prop_assert!(kept <= Output::MAX_LEN);
            prop_assert!(world.speaker.status(world.now).routes <= Imports::MAX_ROUTES);
        }
        world.deliver();
        prop_assert!(world.heard.notices.len() <= 10);
        let is_over = world.speaker.is_to_be_closed(world.now);
        prop_assert_eq!(is_over, world.speaker.status(world.now).last_error.is_some());
    }
}

/// A neighbour that asks again and again gets answers only as it takes them.
#[test]
fn requests_without_end_wait_for_the_reader() {
    let mut world = World::established();
    (0..3_000).for_each(|number| world.speaker.claimed(nth(number), holding(1, u64::from(number))));
    let requests = refresh(Family::Ipv4, Refresh::Request).repeat(2_000);
    for _ in 0..50 {
        world.say(&requests);
        world.speaker.output(world.now);
        let (_, kept) = world.speaker.unsent().expect("a session");
        assert!(kept.len() <= Output::MAX_LEN);
    }
    world.deliver();
    let answer = [(Family::Ipv4, Refresh::Begin), (Family::Ipv4, Refresh::End)];
    assert_eq!(world.daemon.refreshes, answer.repeat(2), "one for the first request, and one for all others");
}
