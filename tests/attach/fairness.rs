//! Many peers that do something at once don't slow down the others.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::emperor::{EMPEROR, Emperor, V1};
use crate::common::netns::{Net, Netns};
use crate::common::packet;
use crate::common::probe::pings_answered;
use crate::common::processes;
use crate::common::wait;
use crate::common::wire;
use crate::handed::Handed;
use crate::hello::{Answer, answer, hello, offer};
use crate::tun::{self, ATTACHABLE};
use crate::world::{emperor, start_attached};

/// The kernel takes some 15 ms to end a device, and whoever closes its last descriptor waits for that: three seconds
/// for all of these.
#[test]
fn devices_that_end_at_once_hold_nobody_up() {
    const DEVICES: usize = 200;
    let emperor = emperor().start();
    let honest = start_attached(&emperor, "v1", V1);
    let netns = Netns::new();
    let peers: Vec<_> = (0..DEVICES)
        .map(|number| {
            let mut peer = emperor.connect();
            let device = tun::make(&netns, &format!("many{number}"), ATTACHABLE);
            offer(&mut peer, &hello(), &[device.as_fd()]);
            assert_eq!(answer(&mut peer), Answer::Attached);
            peer
        })
        .collect();
    let longest = thread::scope(|scope| {
        let pings = scope.spawn(|| longest_ping(&honest));
        // By now the devices are being closed.
        thread::sleep(Duration::from_millis(500));
        drop(peers);
        pings.join().expect("no panic")
    });
    assert!(longest < Duration::from_millis(1500), "nobody was heard for {longest:?}");
    emperor.wait_for_stats("the peers are gone", |stats| stats.peers().len() == 1);
    wait::until_true("the devices are gone", wait::LONG, || {
        (0..DEVICES).all(|number| !netns.has_device(&format!("many{number}")))
    });
}

/// The longest round trip of all pings during some seconds. A machine that ends devices quickly shows no difference
/// anyway.
fn longest_ping(net: &Net) -> Duration {
    let output = net.output(&["ping", "-q", "-n", "-i", "0.01", "-c", "300", "-W", "5", &EMPEROR.to_string()]);
    let text = String::from_utf8_lossy(&output.stdout);
    let millis = text.lines().find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = ")?.split('/').nth(2));
    let millis: f64 = millis.and_then(|max| max.parse().ok()).unwrap_or_else(|| panic!("no answers: {text}"));
    Duration::from_secs_f64(millis / 1000.0)
}

/// All that comes to peers comes by the one device of the router. Its queue must not overflow while many peers have
/// their turns.
#[test]
fn flood_of_answers_does_not_drown_others() {
    const FLOODERS: u8 = 30;
    let emperor = emperor().start();
    let honest = start_attached(&emperor, "v1", V1);
    let mut peers: Vec<_> = (0..FLOODERS)
        .map(|number| {
            let address = Ipv4Addr::new(192, 168, 0, 100 + number);
            let frame = wire::frame(wire::PACKET, &packet::echo_request(address, EMPEROR, 1, 64));
            (emperor.peer(address), frame.repeat(512))
        })
        .collect();
    let is_over = AtomicBool::new(false);
    let answered = thread::scope(|scope| {
        for (peer, batch) in &mut peers {
            let is_over = &is_over;
            scope.spawn(move || while !is_over.load(Ordering::Relaxed) && peer.try_send_bytes(batch).is_ok() {});
        }
        let answered = pings_answered(&honest, EMPEROR, 20, &["-W", "2"]);
        is_over.store(true, Ordering::Relaxed);
        answered
    });
    assert!(answered >= 15, "{answered} of 20 pings were answered");
}

/// Sends small datagrams from the Emperor's namespace until it is over.
fn flood(emperor: &Emperor, to: Ipv4Addr, is_over: &AtomicBool) {
    let socket = emperor.netns.run(|| UdpSocket::bind((EMPEROR, 0))).expect("the Emperor has its address");
    while !is_over.load(Ordering::Relaxed) {
        // The device's queue may be full, and answers may say that nobody listens.
        (0..64).for_each(|_| _ = socket.send_to(&[0; 64], (to, 9)));
    }
}

/// What comes for a vassal waits in a queue of its own, so a flood to another one leaves it room, however long the router is off its
/// core.
#[test]
fn flood_leaves_room_for_what_others_are_sent() {
    const FLOODED: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 100);
    const PACKETS: usize = 50;
    let emperor = emperor().start();
    let honest = start_attached(&emperor, "v1", V1);
    let _flooded = Handed::attach(&emperor, FLOODED);
    let receiver = honest.run(|| UdpSocket::bind((V1, 9))).expect("the vassal has its address");
    receiver.set_read_timeout(Some(wait::LONG)).expect("a timeout");
    let sender = emperor.netns.run(|| UdpSocket::bind((EMPEROR, 0))).expect("the Emperor has its address");
    let router = emperor.router_pid();
    processes::freeze(router);
    // More than a queue of the device has room for.
    (0..3000).for_each(|_| _ = sender.send_to(&[0; 64], (FLOODED, 9)));
    (0..PACKETS).for_each(|_| _ = sender.send_to(&[1; 64], (V1, 9)));
    processes::thaw(router);
    let came = (0..PACKETS).take_while(|_| receiver.recv(&mut [0; 64]).is_ok()).count();
    assert_eq!(came, PACKETS);
    assert_eq!(emperor.router_pid(), router, "it is the same router");
}

/// A flood to one peer costs others no packets, where they would lose every third one if all shared a queue. The machine may have
/// other things to do, so there are several attempts.
#[test]
fn flood_from_the_host_costs_others_no_pings() {
    const PINGS: u32 = 100;
    const FLOODED: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 100);
    let emperor = emperor().start();
    let honest = start_attached(&emperor, "v1", V1);
    let _flooded = Handed::attach(&emperor, FLOODED);
    let mut attempts = Vec::new();
    while attempts.len() < 6 && attempts.last().is_none_or(|answered| *answered < PINGS) {
        let is_over = AtomicBool::new(false);
        attempts.push(thread::scope(|scope| {
            (0..2).for_each(|_| _ = scope.spawn(|| flood(&emperor, FLOODED, &is_over)));
            let answered = pings_answered(&honest, EMPEROR, PINGS, &["-i", "0.01"]);
            is_over.store(true, Ordering::Relaxed);
            answered
        }));
    }
    assert!(attempts.last() >= Some(&PINGS), "answered pings of {PINGS}: {attempts:?}");
    let stats = emperor.stats();
    let peer = |address| stats.peer(address).unwrap_or_else(|| panic!("no peer {address} in {}", stats.0));
    let dropped = |address| {
        let drops = &peer(address)["drops"];
        ["queue_full", "queue_late"].iter().filter_map(|reason| drops[*reason].as_u64()).sum::<u64>()
    };
    // Where the senders get less time than the router, it keeps up, and has to drop none.
    let came = peer(FLOODED)["tx_packets"].as_u64().unwrap_or(0) + dropped(FLOODED);
    assert!(came > 100 * u64::from(PINGS), "the flood was no flood: {}", stats.0);
    assert_eq!(dropped(V1), 0, "{}", stats.0);
}
