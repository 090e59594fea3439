//! However many addresses a neighbour tells of, no call does something with all of them.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tuntap_wire::trunk::{Announcement, Frames, Hello, Message, append_announce, append_end};

use super::super::{STALE_LIMIT, SWEEP};
use super::network::Network;
use super::{address, holding, id};

/// More than three pieces.
const MANY: usize = 3 * SWEEP + 7;

fn nth(number: usize) -> IpAddr {
    Ipv6Addr::from((0xfd00_0077_u128 << 96) | (number as u128 + 1)).into()
}

/// What router 1 says to announce these addresses.
fn announcements(numbers: impl Iterator<Item = usize>) -> Vec<u8> {
    let mut out = Vec::new();
    numbers.for_each(|number| append_announce(&mut out, nth(number), &Announcement::own(holding(1, 10))));
    out
}

/// Router 0 knows many addresses from router 1, and one from router 2.
fn full() -> Network {
    let mut network = Network::new(3, true, usize::MAX);
    network.connect(0, 1);
    network.connect(0, 2);
    network.claim(2, address(9), 10);
    network.settle();
    network.receive(0, 1, &announcements(0..MANY));
    network.settle();
    assert_eq!(network.routers[0].trunks.view(network.trunk(0, 1)).announced, MANY);
    network
}

/// Lets router 0 work until it has nothing left to do. Returns how many addresses it forgot in each call.
fn sweep(network: &mut Network) -> Vec<usize> {
    let mut pieces = Vec::new();
    loop {
        let (now, router) = (network.now, &mut network.routers[0]);
        let before = router.ends.forgotten;
        router.trunks.flush(now, &mut router.ends);
        pieces.push(router.ends.forgotten - before);
        if !router.trunks.has_more() {
            return pieces;
        }
    }
}

#[test]
fn trunk_that_ends_is_forgotten_in_pieces_but_counts_no_longer_at_once() {
    let mut network = full();
    assert!(network.holder(2, nth(5)).is_some());
    let (trunk, now) = (network.trunk(0, 1), network.now);
    let router = &mut network.routers[0];
    router.trunks.closed(trunk, now, &mut router.ends);
    assert_eq!(router.ends.forgotten, 0, "nothing is done with each address");
    assert_eq!(router.trunks.view(trunk).announced, 0);
    assert!((0..MANY).all(|number| router.trunks.holder(nth(number)).is_none()));
    assert_eq!(router.trunks.route(nth(1), None), None);
    let pieces = sweep(&mut network);
    assert!(pieces.len() > 3 && pieces.iter().all(|piece| *piece <= SWEEP), "{pieces:?}");
    assert_eq!(pieces.iter().sum::<usize>(), MANY);
    network.settle();
    assert!((0..MANY).all(|number| network.holder(2, nth(number)).is_none()), "others hear of it");
    assert!(network.holder(0, address(9)).is_some());
}

#[test]
fn what_is_told_again_meanwhile_stays() {
    let mut network = full();
    // The new connection tells of some addresses before the old ones are taken out.
    network.connect(0, 1);
    let mut out = Vec::new();
    Hello::new(id(1), "r1", true).append(&mut out);
    out.extend_from_slice(&announcements((0..MANY).step_by(2)));
    network.receive(0, 1, &out);
    let again = MANY.div_ceil(2);
    assert_eq!(network.routers[0].trunks.view(network.trunk(0, 1)).announced, again);
    let pieces = sweep(&mut network);
    assert_eq!(pieces.iter().sum::<usize>(), MANY - again);
    assert!((0..MANY).all(|number| network.holder(0, nth(number)).is_some() == number.is_multiple_of(2)));
    assert_eq!(network.routers[0].trunks.view(network.trunk(0, 1)).announced, again);
}

#[test]
fn what_is_not_told_again_goes_in_pieces() {
    for has_end in [true, false] {
        let mut network = full();
        let mut out = Vec::new();
        Hello::new(id(1), "r1", true).append(&mut out);
        out.extend_from_slice(&announcements(0..1));
        network.receive(0, 1, &out);
        assert!(network.holder(0, nth(MANY - 1)).is_some(), "it may be told again");
        if has_end {
            let mut out = Vec::new();
            append_end(&mut out);
            network.receive(0, 1, &out);
            assert_eq!(network.routers[0].ends.forgotten, 0);
            let pieces = sweep(&mut network);
            assert!(pieces.iter().all(|piece| *piece <= SWEEP), "{pieces:?}");
        } else {
            network.pass(STALE_LIMIT + Duration::from_secs(1));
        }
        assert_eq!(network.routers[0].ends.forgotten, MANY - 1);
        assert!(network.holder(0, nth(0)).is_some());
        assert!((1..MANY).all(|number| network.holder(0, nth(number)).is_none()));
    }
}

#[test]
fn everything_is_told_in_pieces_and_the_end_comes_last() {
    let mut network = full();
    let (one, other, now) = (network.trunk(0, 1), network.trunk(0, 2), network.now);
    let mut out = Vec::new();
    Hello::new(id(2), "r2", true).append(&mut out);
    network.receive(0, 2, &out);
    let mut told = Vec::new();
    let mut has_ended = false;
    loop {
        let router = &mut network.routers[0];
        router.trunks.flush(now, &mut router.ends);
        let sent = router.ends.sent.get_mut(&other).expect("it is open");
        let mut count = 0;
        for message in sent.drain(..) {
            for frame in Frames::new(&message) {
                match Message::decode(frame.expect("a frame")).expect("a message") {
                    Message::Announce(address, _) => {
                        assert!(!has_ended, "the end is the last of them");
                        told.push(address);
                        count += 1;
                    }
                    Message::End => has_ended = true,
                    _ => {}
                }
            }
        }
        assert!(count <= SWEEP, "{count}");
        if !router.trunks.has_more() {
            break;
        }
        // What changes meanwhile isn't told twice.
        if told.len() < 2 * SWEEP {
            network.claim(0, address(1), 10);
        }
    }
    assert!(has_ended);
    let count = told.len();
    told.sort_unstable();
    told.dedup();
    assert_eq!((told.len(), count), (MANY + 1, MANY + 1), "each once");
    assert_eq!(network.routers[0].trunks.view(other).told, MANY + 1);
    assert_eq!(network.routers[0].trunks.view(one).announced, MANY);
}
