//! Devices that are changed after the router has taken them. Single changes are in the tests of attach.

use std::fs::File;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use crate::common::emperor::{EMPEROR, Emperor};
use crate::common::netns::Netns;
use crate::common::probe::pings_answered;
use crate::common::wait;
use crate::handed::{DEVICE, Handed};
use crate::tun::{self, ATTACHABLE, HEADER_LEN, MERGED_HEADER_LEN, OFFLOADS};
use crate::watch::{A1, Watch};

/// Packets from the Emperor's side, which the router tries to write into the device.
fn send_to(emperor: &Emperor, count: usize) {
    let socket = emperor.netns.run(|| UdpSocket::bind(("0.0.0.0", 0))).expect("a port is free");
    for _ in 0..count {
        socket.send_to(&[0x5a; 1000], (A1, 9)).expect("the Emperor can send");
    }
}

type Change = fn(&Handed);

/// Changes of a device while it is in use. Some of them end the peer, none of them anybody else.
const CHANGES: [(&str, Change); 9] = [
    ("offloads on and off", |handed| {
        tun::set_offloads(&handed.device, OFFLOADS);
        tun::set_offloads(&handed.device, 0);
    }),
    ("O_NONBLOCK cleared", |handed| {
        fcntl(&handed.device, FcntlArg::F_SETFL(OFlag::O_RDWR)).expect("flags can be changed");
    }),
    ("O_ASYNC and O_NONBLOCK set", |handed| {
        fcntl(&handed.device, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK)).expect("flags can be changed");
    }),
    ("a tiny sndbuf", |handed| tun::set_send_buffer(&handed.device, 1)),
    ("a longer header", |handed| tun::set_header_len(&handed.device, MERGED_HEADER_LEN)),
    ("the header as before", |handed| tun::set_header_len(&handed.device, HEADER_LEN)),
    ("a huge sndbuf", |handed| tun::set_send_buffer(&handed.device, libc::c_int::MAX)),
    ("no carrier", |handed| tun::set_carrier(&handed.device, false)),
    ("its carrier again", |handed| tun::set_carrier(&handed.device, true)),
];

#[test]
fn changes_while_it_is_in_use() {
    let mut watch = Watch::start();
    watch.endure("changes in use", |watch| {
        let emperor = &watch.emperor;
        let handed = Handed::attach(emperor, A1);
        for (what, change) in CHANGES {
            change(&handed);
            send_to(emperor, 50);
            pings_answered(&handed.netns, EMPEROR, 3, &["-W", "1"]);
            watch.assert_conversation(what);
        }
        assert_eq!(pings_answered(&handed.netns, EMPEROR, 3, &[]), 3, "all is as it was, so that it is served again");
    });
}

/// The changes also fall between the router's looks at the device.
#[test]
fn changes_without_pause() {
    let mut watch = Watch::start();
    watch.endure("changes without pause", |watch| {
        let emperor = &watch.emperor;
        let handed = Handed::attach(emperor, A1);
        let sender = handed.netns.run(|| UdpSocket::bind((A1, 0))).expect("the peer has its address");
        sender.set_nonblocking(true).expect("a socket can be made non-blocking");
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for (_, change) in CHANGES {
                        change(&handed);
                        // The sender's own way is closed now and then.
                        let _ = sender.send_to(&[0; 1400], (EMPEROR, 9));
                    }
                }
            });
            for _ in 0..10 {
                send_to(emperor, 200);
                watch.assert_conversation("during changes");
            }
            done.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn interface_that_is_renamed_moved_and_deleted() {
    let mut watch = Watch::start();
    watch.endure("a device that moves", |watch| {
        let emperor = &watch.emperor;
        let mut handed = Handed::attach(emperor, A1);
        handed.netns.sh(&format!("ip link set {DEVICE} down"));
        handed.netns.sh(&format!("ip link set {DEVICE} name renamed"));
        send_to(emperor, 50);
        let elsewhere = Netns::new();
        handed.netns.sh(&format!("ip link set renamed netns {}", elsewhere.name()));
        elsewhere.sh(&format!("ip addr add {A1}/24 dev renamed"));
        elsewhere.sh("ip link set renamed up");
        assert_eq!(pings_answered(&elsewhere, EMPEROR, 3, &[]), 3, "it is the same device there");
        elsewhere.sh("ip link del renamed");
        send_to(emperor, 50);
        assert!(handed.peer.is_closed(wait::SHORT), "its end is the peer's");
    });
}

/// A persistent device outlives its descriptors. The router must still close its own with the peer.
#[test]
fn device_that_persists() {
    let mut watch = Watch::start();
    watch.endure("a persistent device", |watch| {
        let handed = Handed::attach(&watch.emperor, A1);
        tun::set_persist(&handed.device, true);
        let Handed { peer, device, netns } = handed;
        drop(device);
        assert_eq!(pings_answered(&netns, EMPEROR, 3, &[]), 3, "the router's copy serves it");
        drop(peer);
        wait::until_true("nobody has it open", wait::SHORT, || {
            watch.emperor.stats().peer(A1).is_none() && netns.has_device(DEVICE)
        });
    });
}

/// What the router does with a device whose flags the tests of attach don't have.
#[test]
fn devices_with_other_flags() {
    let mut watch = Watch::start();
    watch.endure("other flags", |watch| {
        let handed = Handed::attach_as(&watch.emperor, A1, DEVICE, ATTACHABLE | libc::IFF_ONE_QUEUE);
        send_to(&watch.emperor, 50);
        assert_eq!(handed.pings_answered(3), 3);
        drop(handed);
        watch.emperor.wait_for_stats("its address is free", |stats| stats.peer(A1).is_none());
    });
}

/// Many queues of one device, each on a connection of its own. Devices that may have several are not attached, and neither is
/// one whose packets are received elsewhere in the kernel: nobody would see what they cost.
#[test]
fn queues_of_one_device_on_several_connections() {
    let mut watch = Watch::start();
    watch.endure("several queues", |watch| {
        let netns = Netns::new();
        let mut others: Vec<(crate::common::raw_peer::RawPeer, File)> = Vec::new();
        for flags in [libc::IFF_MULTI_QUEUE, libc::IFF_MULTI_QUEUE | libc::IFF_NAPI].repeat(10) {
            let name = if flags & libc::IFF_NAPI == 0 { "many0" } else { "many1" };
            let queue = tun::make(&netns, name, ATTACHABLE | flags);
            let mut peer = watch.emperor.connect();
            crate::hello::offer(&mut peer, &crate::hello::hello(), &[std::os::fd::AsFd::as_fd(&queue)]);
            assert_eq!(crate::hello::answer(&mut peer), crate::hello::Answer::Refused);
            others.push((peer, queue));
        }
        send_to(&watch.emperor, 50);
        drop(others);
        thread::sleep(Duration::from_millis(10));
    });
}
