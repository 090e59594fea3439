//! Relays: each packet arrives once, and none goes round.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::common::emperor::Emperor;
use crate::common::netns::Netns;
use crate::common::packet;
use crate::common::probe::pings_answered;
use crate::common::wait;
use crate::neighbour::Neighbour;
use crate::world::{Keys, PORT, emperor, host, hosts, inside, peer, start_vassal, trunks, wait_for_pings, wait_open};

/// Packets of a test.
const COUNT: u32 = 300;

/// Three hosts in a ring, all of which relay.
fn ring(keys: &Keys) -> (Netns, Vec<Emperor>) {
    let (lan, netns) = hosts::<3>();
    let mut emperors = Vec::new();
    for (own, netns) in (1..).zip(netns) {
        let mut ini = emperor(keys, own);
        for other in (1..=3).filter(|other| *other != own) {
            let rest = if other < own { format!("{}:{PORT} relay", host(other)) } else { "relay".to_owned() };
            ini = ini.line(peer(keys, other, "10.77.0.0/16", &rest));
        }
        emperors.push(ini.start_in(netns));
    }
    emperors.iter().for_each(|emperor| wait_open(emperor, 2));
    (lan, emperors)
}

/// Packets that have come by all trunks of a router.
fn packets(emperor: &Emperor) -> u64 {
    trunks(&emperor.stats()).iter().filter_map(|trunk| trunk["rx_packets"].as_u64()).sum()
}

#[test]
fn packet_arrives_once_and_one_for_nobody_goes_nowhere() {
    let keys = Keys::new();
    let (_lan, emperors) = ring(&keys);
    let vassals: Vec<_> = (1..).zip(&emperors).map(|(own, emperor)| start_vassal(emperor, own, 2)).collect();
    for (own, net) in (1..).zip(&vassals) {
        (1..=3).filter(|other| *other != own).for_each(|other| wait_for_pings(net, inside(other, 2)));
    }
    let target = SocketAddr::from((inside(3, 2), 7000));
    let receiver = vassals[2].run(|| UdpSocket::bind(target)).expect("its address");
    receiver.set_read_timeout(Some(wait::SHORT)).expect("a timeout");
    let sender = vassals[0].run(|| UdpSocket::bind((inside(1, 2), 0))).expect("its address");
    let before: Vec<u64> = emperors.iter().map(packets).collect();
    let mut seen: HashMap<u32, u32> = HashMap::new();
    let mut number = [0; 8];
    for sent in 0..COUNT {
        sender.send_to(&sent.to_be_bytes(), target).expect("it is reached");
        let len = receiver.recv(&mut number).expect("it arrives");
        let received = u32::from_be_bytes(number[..len].try_into().expect("a number"));
        *seen.entry(received).or_default() += 1;
    }
    receiver.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    assert!(receiver.recv(&mut number).is_err(), "nothing comes twice");
    assert!(seen.len() == COUNT as usize && seen.values().all(|times| *times == 1), "{seen:?}");
    let come = |at: usize| packets(&emperors[at]) - before[at];
    // Only the receiver's host has got them, by the direct way. There is little else, such as what the kernels send by themselves.
    assert!(come(2) >= u64::from(COUNT) && come(2) < u64::from(COUNT) + 50, "{}", come(2));
    assert!(come(0) < 50 && come(1) < 50, "{} and {}", come(0), come(1));

    let before: Vec<u64> = emperors.iter().map(packets).collect();
    assert_eq!(pings_answered(&vassals[0], inside(3, 99), 20, &["-i", "0.01", "-W", "1"]), 0);
    let all: u64 = emperors.iter().zip(before).map(|(emperor, before)| packets(emperor) - before).sum();
    assert!(all < 50, "{all} packets for 20 to nobody");
}

/// A neighbour whose table is wrong sends a packet on that has come to it. It ends when it has crossed as many trunks as it may.
#[test]
fn packet_that_may_cross_no_more_trunks_is_dropped() {
    let keys = Keys::new();
    let (_lan, [one, two, three]) = hosts();
    let between = emperor(&keys, 1)
        .line(peer(&keys, 2, "10.77.2.0/24", "relay"))
        .line(peer(&keys, 3, "10.77.3.0/24", "relay"))
        .start_in(one);
    let address = format!("{}:{PORT}", host(1));
    let far = emperor(&keys, 3).line(peer(&keys, 1, "10.77.0.0/16", &address)).start_in(three);
    let neighbour = Neighbour::dialling(&two, &keys, 2, 1, SocketAddr::from((host(1), PORT)));
    let trunk = neighbour.open();
    wait_open(&between, 2);
    let vassal = start_vassal(&far, 3, 2);
    trunk.announce(inside(2, 2), neighbour.router);
    far.wait_for_stats("all are known there", |stats| trunks(stats)[0]["announced"].as_u64() >= Some(1));
    between.wait_for_stats("all are known there", |stats| {
        trunks(stats).iter().all(|trunk| trunk["announced"].as_u64() >= Some(1))
    });
    let receiver = vassal.run(|| UdpSocket::bind((inside(3, 2), 7000))).expect("its address");
    receiver.set_read_timeout(Some(wait::LONG)).expect("a timeout");
    let packet = |text: &[u8]| packet::udp(inside(2, 2), inside(3, 2), 7000, text);
    for _ in 0..2 {
        trunk.send_packet(&packet(b"too far"), 0);
    }
    trunk.send_packet(&packet(b"arrives"), 1);
    let mut text = [0; 16];
    let len = receiver.recv(&mut text).expect("it arrives");
    assert_eq!(&text[..len], b"arrives");
    between.wait_for_stats("the others are counted", |stats| stats.drops("trunk_hops") == 2);
}
