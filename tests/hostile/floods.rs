//! Peers that send, or let others send to them, as fast as they can.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::emperor::{EMPEROR, Emperor};
use crate::common::packet;
use crate::common::probe::tcp_round_trip;
use crate::common::wire::{self, ANY, Action, Direction, Rule};
use crate::handed::Handed;
use crate::hello::{HELLO, hello};
use crate::watch::{A1, A2, MANY_LINES, Watch};
use crate::world::{emperor, total};

/// The honest vassal sends this much beside a flood, and gets it back, within this time. It is a small part of what it
/// could do alone, because the machine may have much else to do.
const HONEST_BYTES: usize = 10_000_000;
const HONEST_TIME: Duration = Duration::from_secs(30);

/// No route leads there, so that the flood ends in the Emperor's kernel.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// Floods while the honest vassal works.
#[track_caller]
fn beside(what: &str, watch: &Watch, mut flood: impl FnMut() + Send) {
    // Each flood needs the whole machine.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let done = AtomicBool::new(false);
    let done = &done;
    thread::scope(|scope| {
        let flooding = scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                flood();
            }
        });
        // The flood ends also when something here fails, or the scope would wait for it.
        let _stop = Stop(done);
        for _ in 0..5 {
            watch.assert_conversation(what);
        }
        let start = Instant::now();
        let intact = tcp_round_trip(&watch.emperor.netns, EMPEROR, watch.honest(), HONEST_BYTES);
        assert!(intact.unwrap_or_else(|error| panic!("{what}: the honest transfer: {error}")), "{what}");
        let took = start.elapsed();
        assert!(took < HONEST_TIME, "{what}: {HONEST_BYTES} honest bytes took {took:?}");
        assert!(!flooding.is_finished(), "{what}: the flood went on");
    });
}

/// Ends a flood when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// All kinds of frames, so many of them in each write that the router always has something to read.
#[test]
fn floods_of_frames() {
    let rules =
        wire::rules(&[Rule { direction: Direction::In, source: ANY, destination: ANY, action: Action::Allow }; 256]);
    let kinds = [
        ("packets", wire::frame(wire::PACKET, &packet::udp(A1, NOWHERE, 9, &[0; 100]))),
        ("long packets", wire::frame(wire::PACKET, &packet::udp(A1, NOWHERE, 9, &[0; 8000]))),
        ("frames of one byte", wire::frame(wire::PACKET, &[0x45])),
        ("foreign sources", wire::frame(wire::PACKET, &packet::udp(A2, EMPEROR, 9, b"spoofed"))),
        ("rules", wire::frame(wire::RULES, &rules)),
        ("hellos", wire::frame(HELLO, &hello())),
        ("unknown frames", wire::frame(200, &[0; 20])),
    ];
    let mut watch = Watch::start();
    watch.endure("floods of frames", |watch| {
        for (what, frame) in &kinds {
            let mut peer = watch.emperor.peer(A1);
            let frames = frame.repeat(60_000 / frame.len());
            beside(what, watch, || peer.send_bytes(&frames));
            drop(peer);
            watch.emperor.wait_for_stats("its address is free", |stats| stats.peer(A1).is_none());
        }
    });
}

#[test]
fn floods_of_an_attached_peer() {
    let mut watch = Watch::start();
    watch.endure("floods of a device", |watch| {
        let handed = Handed::attach(&watch.emperor, A1);
        handed.netns.sh("ip route replace default dev uwsgi0");
        handed.netns.sh(&format!("ip addr add {A2}/32 dev uwsgi0"));
        for (what, from, to, length) in [
            ("datagrams", A1, NOWHERE, 100),
            ("long datagrams", A1, NOWHERE, 60_000),
            ("foreign sources", A2, NOWHERE, 100),
            ("the router's host", A1, EMPEROR, 100),
        ] {
            let sender = handed.netns.run(|| UdpSocket::bind((from, 0))).expect("the peer has both addresses");
            sender.set_nonblocking(true).expect("a socket can be made non-blocking");
            beside(what, watch, || {
                for _ in 0..100 {
                    // The device's queue is full now and then, and errors of earlier ones come back.
                    let _ = sender.send_to(&vec![0; length], (to, 9));
                }
            });
        }
    });
}

/// One peer in frames reads nothing, and one is attached.
#[test]
fn floods_towards_peers() {
    let mut watch = Watch::start();
    watch.endure("floods towards peers", |watch| {
        let _deaf = watch.emperor.peer(A1);
        let handed = Handed::attach(&watch.emperor, A2);
        let sender = watch.emperor.netns.run(|| UdpSocket::bind((EMPEROR, 0))).expect("the Emperor has its address");
        sender.set_nonblocking(true).expect("a socket can be made non-blocking");
        for (what, to) in [("a deaf peer", A1), ("an attached peer", A2)] {
            beside(what, watch, || {
                for _ in 0..100 {
                    let _ = sender.send_to(&[0x5a; 1000], (to, 9));
                }
                // The router's device has a queue, too, which others share.
                thread::sleep(Duration::from_millis(1));
            });
        }
        let stats = watch.emperor.stats();
        assert!(stats.drops_of(A1, "queue_full") > 1000, "{}", stats.0);
        assert!(stats.of_peer(A1, "queued") <= 262_144);
        drop(handed);
    });
}

/// Whoever reaches the gateway sends as much as there is room for, 60 datagrams with each system call.
#[test]
fn floods_by_the_gateway() {
    const COUNT: usize = 60;
    let mut watch = Watch::start_with(emperor().router("emperor0 {dir}/t.sock {dir}/stats.sock :4000"));
    watch.endure("floods by the gateway", |watch| {
        let _deaf = watch.emperor.peer(A1);
        let handed = Handed::attach(&watch.emperor, A2);
        let sender = watch.emperor.netns.run(|| UdpSocket::bind("127.0.0.1:0")).expect("loopback is up");
        for (what, datagram) in [
            ("no packets", vec![0; 100]),
            ("packets for nobody", packet::udp(NOWHERE, NOWHERE, 9, &[0; 100])),
            ("packets for a deaf peer", packet::udp(NOWHERE, A1, 9, &[0; 900])),
            ("packets for an attached peer", packet::udp(NOWHERE, A2, 9, &[0; 100])),
        ] {
            let batch = datagram.repeat(COUNT);
            let len = u16::try_from(datagram.len()).expect("short");
            let to = "127.0.0.1:4000".parse().expect("an address");
            // The queue of the gateway's socket is full now and then.
            beside(what, watch, || _ = tuntap_sys::socket::send_datagrams(sender.as_fd(), to, &batch, len));
        }
        let stats = watch.emperor.stats();
        assert!(total(&stats, "gateway_rx_batches") > 1000, "it was a flood: {}", stats.0);
        drop(handed);
    });
}

/// Each packet costs the router nearly as much as a peer may cost it. Packets for others don't wait behind all of them.
#[test]
fn floods_through_a_packet_filter() {
    const RULES: u32 = 10_000;
    let mut watch = Watch::start();
    watch.endure("floods through a packet filter", |watch| {
        let handed = Handed::attach(&watch.emperor, A1);
        let rules: String =
            (0..RULES).map(|index| format!("ip saddr 10.0.{}.{} drop\n", index >> 8, index & 255)).collect();
        let table = format!("table ip t {{\nchain c {{ type filter hook prerouting priority -400;\n{rules}}}\n}}\n");
        let file = watch.emperor.path("rules.nft");
        std::fs::write(&file, table).expect("own folder");
        handed.netns.sh(&format!("nft -f {}", file.display()));
        let sender = watch.emperor.netns.run(|| UdpSocket::bind((EMPEROR, 0))).expect("the Emperor has its address");
        sender.set_nonblocking(true).expect("a socket can be made non-blocking");
        beside("a long packet filter", watch, || {
            for _ in 0..20 {
                let _ = sender.send_to(&[0x5a; 100], (A1, 9));
            }
            thread::sleep(Duration::from_millis(1));
        });
    });
}

/// Two peers that send each other everything, and themselves, past the host's kernel.
#[test]
fn floods_between_peers() {
    let mut watch = Watch::start_with(emperor().line("tuntap-router-switch = true"));
    watch.endure("floods between peers", |watch| {
        let (mut first, second) = (watch.emperor.peer(A1), watch.emperor.peer(A2));
        let frames =
            [A1, A2].map(|to| wire::frame(wire::PACKET, &packet::udp(A1, to, 9, &[0; 1000]))).concat().repeat(25);
        beside("packets to itself and to a deaf peer", watch, || first.send_bytes(&frames));
        drop(second);
    });
}

#[test]
fn floods_of_connections() {
    let mut watch = Watch::start().allowing_lines(MANY_LINES);
    watch.endure("floods of connections", |watch| {
        let before = connections(&watch.emperor);
        let claim = wire::frame(wire::PACKET, &packet::udp(A1, NOWHERE, 9, b"mine"));
        beside("connections that claim", watch, || {
            let _ = watch.emperor.connect().try_send_bytes(&claim);
        });
        assert!(connections(&watch.emperor) > before + 1000, "it was a flood");
    });
}

/// More connections come than may be without an address, and they come again once they are turned away.
#[test]
fn floods_of_idle_connections() {
    let mut watch = Watch::start();
    watch.endure("floods of idle connections", |watch| {
        let mut idle = Vec::new();
        beside("idle connections", watch, || {
            if idle.len() == 3000 {
                idle.clear();
            }
            idle.push(watch.emperor.connect());
        });
        let stats = watch.emperor.stats();
        assert!(stats.0["limits_reached"]["max_unclaimed"].as_u64() > Some(1000), "it was a flood: {}", stats.0);
        assert!(stats.peers().len() <= 1024 + 2);
    });
}

fn connections(emperor: &Emperor) -> u64 {
    total(&emperor.stats(), "accepted")
}
