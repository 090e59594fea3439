//! Attached peers that break the device that they handed over, and end up in quarantine. They lose their own network;
//! nobody else notices.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use crate::common::emperor::{EMPEROR, Emperor, V1, V2};
use crate::common::netns::{Net, Netns};
use crate::common::probe::pings_answered;
use crate::common::processes::{assert_descriptors, descriptors};
use crate::common::wait;
use crate::handed::{DEVICE, Handed};
use crate::hello::{Answer, answer, hello, offer};
use crate::tun::{self, ATTACHABLE, MERGED_HEADER_LEN};
use crate::world::{assert_calm, emperor, is_attached, start_attached, stream_reason};

/// A router with an honest attached vassal at V1, and a peer at V2.
#[track_caller]
fn scene() -> (Emperor, Net, Handed) {
    let emperor = emperor().start();
    let honest = start_attached(&emperor, "v1", V1);
    let handed = Handed::attach(&emperor, V2);
    (emperor, honest, handed)
}

/// Sends packets from the Emperor's side, which the router tries to write into the broken device.
fn send_to(emperor: &Emperor, count: usize) {
    let socket = emperor.netns.run(|| UdpSocket::bind(("0.0.0.0", 0))).expect("a port is free");
    for _ in 0..count {
        socket.send_to(&[0x5a; 1000], (V2, 9)).expect("the Emperor can send");
    }
}

#[track_caller]
fn wait_until_left(emperor: &Emperor) {
    emperor.wait_for_stats("the peer has left", |stats| stats.peers().len() == 1);
    assert!(is_attached(&emperor.stats(), V1));
}

/// The flag is that of the open file, which peer and router share.
#[test]
fn blocking_descriptor_blocks_nobody() {
    let (emperor, honest, handed) = scene();
    fcntl(&handed.device, FcntlArg::F_SETFL(OFlag::O_RDWR)).expect("flags can be changed");
    assert_eq!(handed.pings_answered(5), 5, "the peer itself is served");
    assert_calm(&emperor, &honest);
    // The device has no room left, so that a write would wait, too.
    tun::set_send_buffer(&handed.device, 1);
    send_to(&emperor, 100);
    assert_calm(&emperor, &honest);
    handed.netns.sh(&format!("ip link set {DEVICE} down"));
    send_to(&emperor, 100);
    assert_calm(&emperor, &honest);
}

#[test]
fn longer_header_afterwards_passes_nothing() {
    let (emperor, honest, handed) = scene();
    let before = emperor.stats();
    tun::set_header_len(&handed.device, MERGED_HEADER_LEN);
    assert_eq!(handed.pings_answered(5), 0);
    send_to(&emperor, 10);
    assert_calm(&emperor, &honest);
    let after = emperor.stats();
    assert_eq!(after.of_peer(V2, "rx_packets"), before.of_peer(V2, "rx_packets"), "nothing passes");
}

/// No packet fits behind a header of this length, so that every read fails.
#[test]
fn header_beyond_all_measure_ends_the_peer() {
    let (emperor, honest, handed) = scene();
    tun::set_header_len(&handed.device, 1 << 20);
    handed.pings_answered(1);
    wait_until_left(&emperor);
    assert_calm(&emperor, &honest);
}

#[test]
fn device_that_is_down_loses_its_packets() {
    let (emperor, honest, handed) = scene();
    handed.netns.sh(&format!("ip link set {DEVICE} down"));
    send_to(&emperor, 10);
    assert_calm(&emperor, &honest);
    let stats = emperor.stats();
    assert!(stats.drops_of(V2, "tun_refused") >= 10, "{}", stats.0);
    assert!(is_attached(&stats, V2));
    handed.netns.sh(&format!("ip link set {DEVICE} up"));
    assert_eq!(handed.pings_answered(5), 5, "it is served again");
}

#[test]
fn deleted_device_ends_the_peer() {
    let (emperor, honest, mut handed) = scene();
    let mark = emperor.log.mark();
    let router = emperor.router_pid();
    let before = descriptors(router).len();
    handed.netns.sh(&format!("ip link del {DEVICE}"));
    assert!(handed.peer.is_closed(wait::SHORT), "the router hangs up");
    wait_until_left(&emperor);
    emperor.log.wait_for_since(mark, "its device was deleted", wait::SHORT);
    assert_descriptors(router, before - 2, "neither connection nor device stays");
    assert_calm(&emperor, &honest);
}

/// The descriptor that the peer keeps must not go on waking the router.
#[test]
fn peer_that_hangs_up_and_keeps_its_device_is_forgotten() {
    let (emperor, honest, handed) = scene();
    let router = emperor.router_pid();
    let before = descriptors(router).len();
    let Handed { peer, device, netns } = handed;
    drop(peer);
    wait_until_left(&emperor);
    assert_descriptors(router, before - 2, "neither connection nor device stays");
    let sender = netns.run(|| UdpSocket::bind((V2, 0))).expect("the peer has its address");
    for _ in 0..100 {
        sender.send_to(b"nobody reads this", (V1, 9)).expect("sent");
    }
    assert_calm(&emperor, &honest);
    drop(device);
}

/// The kernel does not tell that such a device puts its own four bytes before the header: TUNGETIFF reports
/// IFF_NOFILTER, which is the same bit as IFF_NO_PI.
#[test]
fn device_with_packet_information_passes_nothing() {
    let emperor = emperor().start();
    let honest = start_attached(&emperor, "v1", V1);
    let netns = Netns::new();
    let device = tun::make(&netns, DEVICE, libc::IFF_TUN | libc::IFF_VNET_HDR);
    netns.sh(&format!("ip addr add {V2}/24 dev {DEVICE}"));
    netns.sh(&format!("ip link set {DEVICE} up"));
    let mut peer = emperor.connect();
    offer(&mut peer, &hello(), &[device.as_fd()]);
    answer(&mut peer);
    assert_eq!(pings_answered(&netns, EMPEROR, 5, &[]), 0);
    assert!(emperor.stats().peer(V2).is_none(), "it does not even get an address");
    assert_calm(&emperor, &honest);
}

#[test]
fn device_that_is_handed_over_twice_disturbs_nobody() {
    let (emperor, honest, handed) = scene();
    let mut second = emperor.connect();
    offer(&mut second, &hello(), &[handed.device.as_fd()]);
    assert_eq!(answer(&mut second), Answer::Attached);
    handed.pings_answered(5);
    assert_calm(&emperor, &honest);
    drop(second);
    emperor.wait_for_stats("the second connection is gone", |stats| stats.peers().len() == 2);
    assert_eq!(handed.pings_answered(5), 5, "the first one is served");
    assert_calm(&emperor, &honest);
}

#[test]
fn flood_from_an_attached_peer_disturbs_nobody() {
    let (emperor, honest, handed) = scene();
    handed.netns.sh(&format!("ip route replace default dev {DEVICE}"));
    let sender = handed.netns.run(|| UdpSocket::bind((V2, 0))).expect("the peer has its address");
    sender.set_nonblocking(true).expect("a socket can be made non-blocking");
    let before = emperor.stats().of_peer(V2, "rx_packets");
    let done = AtomicBool::new(false);
    let answered = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // The device's queue is full now and then.
                let _ = sender.send_to(&[0; 100], ("203.0.113.1", 9));
            }
        });
        sleep(Duration::from_millis(200));
        let answered = pings_answered(&honest, EMPEROR, 40, &[]);
        done.store(true, Ordering::Relaxed);
        answered
    });
    assert_eq!(answered, 40);
    assert!(emperor.stats().of_peer(V2, "rx_packets") - before > 10_000, "it was a flood");
    assert_calm(&emperor, &honest);
}

/// What a namespace does with a packet runs in the router's thread: a long packet filter there would stop everybody.
#[test]
fn expensive_packet_filter_costs_nobody_else() {
    let (emperor, honest, handed) = scene();
    make_expensive(&emperor, &handed.netns);
    send_to(&emperor, 200);
    wait_until_detached(&emperor);
    emperor.log.wait_for("goes back to frames", wait::SHORT);
    send_to(&emperor, 2000);
    assert_calm(&emperor, &honest);
}

/// Without a quarantine, a peer that hangs up and comes back with another device would get some more expensive writes
/// each time.
#[test]
fn expensive_namespace_is_not_attached_again_soon() {
    let (emperor, honest, handed) = scene();
    make_expensive(&emperor, &handed.netns);
    send_to(&emperor, 200);
    wait_until_detached(&emperor);
    let Handed { peer, device, netns } = handed;
    drop(peer);
    wait_until_left(&emperor);
    let other = tun::make(&netns, "other", ATTACHABLE);
    for descriptor in [device.as_fd(), other.as_fd()] {
        let mut again = netns.run(|| emperor.connect());
        offer(&mut again, &hello(), &[descriptor]);
        assert_eq!(answer(&mut again), Answer::Refused);
        assert!(again.echo(V2, EMPEROR, wait::SHORT), "frames are served");
        let reason = stream_reason(&emperor.stats(), V2);
        assert!(reason.as_str().is_some_and(|reason| reason.contains("a short while ago")), "{reason}");
        drop(again);
        wait_until_left(&emperor);
    }
    let elsewhere = Handed::attach(&emperor, V2);
    assert_eq!(elsewhere.pings_answered(5), 5, "another namespace of the same user is attached");
    assert_calm(&emperor, &honest);
}

/// A user other than root counts as the same peer with each of its namespaces.
#[test]
fn user_with_an_expensive_namespace_is_not_attached_again_soon() {
    const USER: u32 = 20_001;
    let emperor = emperor().line("chmod-socket = 666").start();
    let honest = start_attached(&emperor, "v1", V1);
    let handed = Handed::attach_over(|| emperor.connect_as(USER), &emperor, V2, DEVICE, ATTACHABLE);
    make_expensive(&emperor, &handed.netns);
    send_to(&emperor, 200);
    wait_until_detached(&emperor);
    drop(handed);
    wait_until_left(&emperor);
    let netns = Netns::new();
    let device = tun::make(&netns, DEVICE, ATTACHABLE);
    for (user, expected) in [(USER, Answer::Refused), (USER + 1, Answer::Attached)] {
        let mut peer = emperor.connect_as(user);
        offer(&mut peer, &hello(), &[device.as_fd()]);
        assert_eq!(answer(&mut peer), expected, "user {user}");
    }
    assert_calm(&emperor, &honest);
}

/// Has each packet that the namespace receives pass a long packet filter.
fn make_expensive(emperor: &Emperor, netns: &Netns) {
    const RULES: u32 = 200_000;
    let rules =
        (0..RULES).map(|index| format!("ip saddr 10.{}.{}.{} drop\n", index >> 16, index >> 8 & 255, index & 255));
    let rules: String = rules.collect();
    let file = emperor.path("rules.nft");
    let chain = format!("chain c {{ type filter hook prerouting priority -400;\n{rules}}}");
    std::fs::write(&file, format!("table ip t {{\n{chain}\n}}\n")).expect("own folder");
    netns.sh(&format!("nft -f {}", file.display()));
}

#[track_caller]
fn wait_until_detached(emperor: &Emperor) {
    emperor.wait_for_stats("the peer is back to frames", |stats| {
        stream_reason(stats, V2).as_str().is_some_and(|reason| reason.contains("too much time"))
    });
}
