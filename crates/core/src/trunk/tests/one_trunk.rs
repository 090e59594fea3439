//! Two routers, and what happens between them.

use std::time::Duration;

use tuntap_wire::holding::Holding;
use tuntap_wire::trunk::{Announcement, Hello, MAX_PATH_LEN, Path, append_announce, append_end, append_withdraw};

use super::super::{
    EndReason, MAX_ANNOUNCED, MAX_QUEUED_LEN, NOTICE_PERIOD, Notice, Refusal, SILENCE_LIMIT, STALE_LIMIT, SendOutcome,
    State,
};
use super::network::Network;
use super::{address, holding, id};

/// Two routers that are connected, with one address at each.
fn pair() -> Network {
    let mut network = Network::new(3, false, usize::MAX);
    network.connect(0, 1);
    network.claim(0, address(1), 10);
    network.claim(1, address(2), 10);
    network.settle();
    network
}

fn reasons(network: &Network, router: usize) -> Vec<EndReason> {
    let notices = network.routers[router].ends.notices.iter();
    notices.filter_map(|notice| if let Notice::Ended { reason, .. } = notice { Some(*reason) } else { None }).collect()
}

fn udp(from: [u8; 4], to: [u8; 4], len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    etherparse::PacketBuilder::ipv4(from, to, 64).udp(1, 2).write(&mut bytes, &vec![7; len]).expect("valid");
    bytes
}

fn refused(network: &Network, refusal: Refusal) -> (u64, usize) {
    let router = &network.routers[0];
    let is_it = |notice: &&Notice| match notice {
        Notice::Refused { refusal: found, .. } | Notice::RefusedPacket { refusal: found, .. } => *found == refusal,
        _ => false,
    };
    (router.trunks.statistics(network.trunk(0, 1)).refused(refusal), router.ends.notices.iter().filter(is_it).count())
}

#[test]
fn claims_are_told_changed_and_withdrawn() {
    let mut network = pair();
    assert_eq!(network.holder(1, address(1)), Some(holding(0, 10)));
    assert_eq!(network.holder(0, address(2)), Some(holding(1, 10)));
    let view = network.routers[0].trunks.view(network.trunk(0, 1));
    assert_eq!((view.router, view.name.as_str(), view.announced, view.told), (id(1), "r1", 1, 1));
    assert_eq!(view.state, State::Open { version: 1 });
    network.claim(0, address(1), 20);
    network.settle();
    assert_eq!(network.holder(1, address(1)), Some(holding(0, 20)));
    network.release(0, address(1));
    network.settle();
    assert_eq!(network.holder(1, address(1)), None);
    assert_eq!(network.routers[1].ends.told.len(), 0);
}

#[test]
fn silent_neighbour_is_noticed_in_time_and_a_living_one_stays() {
    let mut network = pair();
    network.pass(Duration::from_secs(60));
    assert!(reasons(&network, 0).is_empty() && reasons(&network, 1).is_empty());
    let trunk = network.trunk(0, 1);
    assert_eq!(network.routers[0].trunks.statistics(trunk).round_trip, Some(Duration::ZERO));
    // One way is enough: the side that hears nothing closes, and that reaches the other one.
    network.cut = vec![(1, 0)];
    network.pass(SILENCE_LIMIT - Duration::from_secs(1));
    assert!(network.holder(0, address(2)).is_some());
    network.pass(Duration::from_millis(1_200));
    assert_eq!((network.holder(0, address(2)), network.holder(1, address(1))), (None, None));
    assert_eq!((reasons(&network, 0), reasons(&network, 1)), (vec![EndReason::Silent], vec![EndReason::Closed]));
    assert_eq!(network.routers[0].trunks.view(trunk).state, State::Down);
    assert_eq!(network.send(0, &udp([10, 77, 0, 1], [10, 77, 0, 2], 1)), None, "nobody has it");
}

#[test]
fn packets_travel_whole_and_wait_within_bounds() {
    let mut network = pair();
    let packet = udp([10, 77, 0, 1], [10, 77, 0, 2], 60_000);
    network.routers[0].ends.room = 1;
    let wanted = 2 + MAX_QUEUED_LEN / packet.len();
    for _ in 0..wanted {
        assert_eq!(network.send(0, &packet), Some(SendOutcome::Sent));
    }
    assert_eq!(network.routers[0].ends.lost, 1, "one is on its way, the others wait");
    let trunk = network.trunk(0, 1);
    let queued = network.routers[0].trunks.view(trunk).queued;
    assert!(queued <= MAX_QUEUED_LEN && queued + packet.len() > MAX_QUEUED_LEN);
    // Announcements aren't dropped, and don't wait behind the packets.
    network.claim(0, address(9), 10);
    network.settle();
    assert_eq!(network.holder(1, address(9)), Some(holding(0, 10)));
    assert_eq!(network.routers[1].delivered.len(), wanted - 1);
    assert!(network.routers[1].delivered.iter().all(|(bytes, _)| *bytes == packet));
    let statistics = network.routers[0].trunks.statistics(trunk);
    assert_eq!((statistics.sent.packets, statistics.queue_full), (wanted as u64, 1));
    assert_eq!(statistics.sent.bytes, wanted as u64 * packet.len() as u64);
    assert_eq!(network.routers[0].trunks.view(trunk).queued, 0);
}

#[test]
fn what_is_refused_is_counted_and_told_once() {
    let mut network = pair();
    let own = Announcement::own(holding(1, 10));
    let path = |routers: &[usize]| routers.iter().fold(Path::EMPTY, |path, it| path.with(id(*it)).expect("short"));
    let elsewhere = Announcement { path: path(&[1]), ..Announcement::own(holding(2, 10)) };
    let cases = [
        (Refusal::ForeignAnnouncement, "10.78.0.1", own),
        (Refusal::UnusableAddress, "224.0.0.1", own),
        (Refusal::UnusableAddress, "::ffff:10.77.0.9", own),
        (Refusal::OtherTeller, "10.77.0.9", Announcement::own(holding(2, 10))),
        (Refusal::OtherTeller, "10.77.0.9", Announcement { path: path(&[1, 2]), ..own }),
        (Refusal::Loop, "10.77.0.9", Announcement { path: path(&[0, 1]), ..elsewhere }),
        (Refusal::Loop, "10.77.0.9", Announcement { path: path(&[1]), ..Announcement::own(holding(0, 99)) }),
    ];
    for (refusal, address, announcement) in cases {
        let address = address.parse().expect("an address");
        let before = refused(&network, refusal);
        let mut out = Vec::new();
        append_announce(&mut out, address, &announcement);
        network.receive(0, 1, &out);
        network.receive(0, 1, &out);
        assert_eq!(refused(&network, refusal), (before.0 + 2, before.1.max(1)), "{refusal}");
        assert_eq!(network.holder(0, address), None);
    }
    for (refusal, source) in [(Refusal::SpoofedSource, [10, 78, 0, 1]), (Refusal::MalformedPacket, [10, 77, 0, 2])] {
        let mut frame = tuntap_wire::trunk::packet_header(10 + 28 + 1, 7).expect("short").to_vec();
        frame.extend_from_slice(&[u8::from(refusal == Refusal::MalformedPacket) * 0xff; 10]);
        frame.extend_from_slice(&udp(source, [10, 77, 0, 1], 1));
        network.receive(0, 1, &frame);
        network.receive(0, 1, &frame);
        assert_eq!(refused(&network, refusal), (2, 1), "{refusal}");
    }
    assert!(network.routers[0].delivered.is_empty());
    assert!(reasons(&network, 0).is_empty(), "the trunk stays open");
    network.now += NOTICE_PERIOD;
    let mut out = Vec::new();
    append_announce(&mut out, "10.78.0.1".parse().expect("an address"), &own);
    network.receive(0, 1, &out);
    assert_eq!(refused(&network, Refusal::ForeignAnnouncement), (3, 2), "it is told again after a while");
}

#[test]
fn refused_announcement_takes_back_the_one_before() {
    let mut network = pair();
    assert!(network.holder(0, address(2)).is_some());
    let looped = Announcement { path: Path::EMPTY.with(id(1)).expect("short"), ..Announcement::own(holding(0, 99)) };
    let mut out = Vec::new();
    append_announce(&mut out, address(2), &looped);
    network.receive(0, 1, &out);
    assert_eq!(network.holder(0, address(2)), None);
}

#[test]
fn path_has_an_end() {
    let count = MAX_PATH_LEN + 3;
    let mut network = Network::new(count, true, usize::MAX);
    (1..count).for_each(|router| network.connect(router - 1, router));
    network.claim(0, address(1), 10);
    network.settle();
    // The last one that hears of it may not pass it on.
    assert!(network.holder(MAX_PATH_LEN + 1, address(1)).is_some());
    assert_eq!(network.holder(MAX_PATH_LEN + 2, address(1)), None);
    // A neighbour that passes it on nevertheless is refused.
    let mut payload = vec![4, 10, 77, 0, 2];
    payload.extend_from_slice(&[1; 16]);
    payload.push(u8::try_from(MAX_PATH_LEN + 1).expect("small"));
    let mut out = vec![0, 0, 0, u8::try_from(payload.len()).expect("short"), 2, 0];
    out.extend_from_slice(&payload);
    network.receive(0, 1, &out);
    assert_eq!(refused(&network, Refusal::LongPath), (1, 1));
    assert!(reasons(&network, 0).is_empty());
}

#[test]
fn neighbour_announces_as_many_as_it_may() {
    let mut network = pair();
    let before = network.routers[0].trunks.view(network.trunk(0, 1)).announced;
    let mut out = Vec::new();
    for number in 0..MAX_ANNOUNCED + 3 {
        let address = std::net::Ipv6Addr::from((0xfd00_0077_u128 << 96) | (number as u128 + 1));
        append_announce(&mut out, address.into(), &Announcement::own(holding(1, 1)));
    }
    network.receive(0, 1, &out);
    assert_eq!(refused(&network, Refusal::TooMany), (3 + before as u64, 1));
    assert_eq!(network.routers[0].trunks.view(network.trunk(0, 1)).announced, MAX_ANNOUNCED);
    // One that it takes back leaves room for another one.
    let mut out = Vec::new();
    append_withdraw(&mut out, address(2));
    append_announce(&mut out, address(3), &Announcement::own(holding(1, 1)));
    network.receive(0, 1, &out);
    assert!(network.holder(0, address(3)).is_some());
}

/// A router's process is replaced: the connection stays, and so does everything that both know.
#[test]
fn connection_outlives_a_router() {
    let mut network = pair();
    network.claim(0, address(3), 10);
    network.settle();
    let fresh = Network::new(3, false, usize::MAX).routers.swap_remove(0).trunks;
    network.routers[0].trunks = fresh;
    // Address 1 has gone in the meantime.
    network.claim(0, address(3), 10);
    let (trunk, now) = (network.trunk(0, 1), network.now);
    let router = &mut network.routers[0];
    router.trunks.resumed(trunk, 1, now, &mut router.ends);
    assert_eq!(network.holder(1, address(1)), Some(holding(0, 10)), "nothing is forgotten at once");
    network.settle();
    assert_eq!(network.holder(0, address(2)), Some(holding(1, 10)));
    assert_eq!((network.holder(1, address(1)), network.holder(1, address(3))), (None, Some(holding(0, 10))));
    assert!(reasons(&network, 1).is_empty());
    network.pass(Duration::from_secs(20));
    assert!(reasons(&network, 0).is_empty() && reasons(&network, 1).is_empty());
}

#[test]
fn announcements_of_before_are_forgotten_if_a_new_router_never_ends() {
    let mut network = pair();
    let mut out = Vec::new();
    Hello::new(id(1), "r1", true).append(&mut out);
    network.receive(0, 1, &out);
    assert!(network.holder(0, address(2)).is_some());
    network.pass(STALE_LIMIT + Duration::from_secs(1));
    assert_eq!(network.holder(0, address(2)), None);
    assert_eq!(network.routers[0].ends.told.len(), 0);
}

#[test]
fn hello_is_checked() {
    type Change = fn(&mut Hello);
    let cases: [(EndReason, Change); 3] = [
        (EndReason::OtherRouter(id(2)), |hello| hello.router = id(2)),
        (EndReason::Version { least: 9, version: 9 }, |hello| (hello.least, hello.version) = (9, 9)),
        (EndReason::ByteOrder, |hello| hello.is_big_endian = !hello.is_big_endian),
    ];
    for (reason, change) in cases {
        let mut network = Network::new(2, false, usize::MAX);
        network.connect(0, 1);
        let mut hello = Hello::new(id(1), "r1", true);
        change(&mut hello);
        let mut out = Vec::new();
        hello.append(&mut out);
        network.receive(0, 1, &out);
        assert_eq!(reasons(&network, 0), [reason]);
    }
    let mut network = Network::new(2, false, usize::MAX);
    network.connect(0, 1);
    let mut out = Vec::new();
    append_end(&mut out);
    network.receive(0, 1, &out);
    assert_eq!(reasons(&network, 0), [EndReason::NoHello]);
}

#[test]
fn hellos_without_end_end_the_trunk() {
    let mut network = pair();
    let mut out = Vec::new();
    for _ in 0..1000 {
        Hello::new(id(1), "r1", true).append(&mut out);
    }
    network.receive(0, 1, &out);
    assert_eq!(reasons(&network, 0), [EndReason::TooManyHellos]);
}

#[test]
fn later_versions_may_say_more() {
    let mut network = pair();
    let mut out = vec![0, 0, 0, 2, 99, 0, 1, 2];
    append_announce(&mut out, address(7), &Announcement::own(holding(1, 10)));
    network.receive(0, 1, &out);
    assert_eq!(network.holder(0, address(7)), Some::<Holding>(holding(1, 10)));
    assert_eq!(network.routers[0].trunks.statistics(network.trunk(0, 1)).unknown_frames, 1);
}
