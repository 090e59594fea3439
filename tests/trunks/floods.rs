//! Neighbours with a good key that send what no router sends, flood, or don't read.

use std::io::{Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tuntap_wire::holding::{ClaimTime, Holding, RouterId};
use tuntap_wire::trunk::{
    Announcement, Hello, MAX_MESSAGE_LEN, append_announce, append_end, append_ping, append_withdraw, packet_header,
};

use crate::common::emperor::Emperor;
use crate::common::netns::Net;
use crate::common::probe::is_reachable;
use crate::common::raw_peer::RawPeer;
use crate::common::{packet, wait, wire};
use crate::neighbour::{Neighbour, Trunk};
use crate::world::{Keys, PORT, emperor, host, inside, number, peer, start_vassal, trunks, two_hosts, wait_open};

/// Writes what comes next of a flood.
type Write<'a> = &'a dyn Fn(&mut Vec<u8>, u32);

/// A frame with a packet behind a virtio_net header.
fn framed(header: [u8; 10], bytes: &[u8]) -> Vec<u8> {
    let mut frame = packet_header(header.len() + bytes.len(), 7).expect("it fits").to_vec();
    frame.extend_from_slice(&header);
    frame.extend_from_slice(bytes);
    frame
}

fn datagram(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    framed([0; 10], &packet::udp(source, destination, 4000, b"data"))
}

/// Memory of the router that is not shared, in KiB.
fn memory(emperor: &Emperor) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", emperor.router_pid())).expect("it runs");
    let line = text.lines().find(|line| line.starts_with("RssAnon:")).expect("the kernel tells it");
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
}

#[test]
fn whatever_a_neighbour_says_ends_its_own_connection_at_most() {
    let keys = Keys::new();
    let (first, second) = two_hosts();
    let here = emperor(&keys, 1).line(peer(&keys, 2, "10.77.2.0/24", "")).start_in(first);
    let near = start_vassal(&here, 1, 2);
    let router = here.router_pid();
    let neighbour = Neighbour::dialling(&second, &keys, 2, 1, SocketAddr::from((host(1), PORT)));
    let id = |number| RouterId::new(number).expect("not 0");
    let write = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        write(&mut bytes);
        bytes
    };
    let ends = [
        // Lengths: the longest that there are, and a hello without anything.
        vec![0xff; 6],
        vec![0, 0, 0, 0, 1, 0],
        write(&|out| Hello::new(id(7), "another one", true).append(out)),
        write(&|out| (0..9).for_each(|_| Hello::new(neighbour.router, "again", true).append(out))),
        // An announcement that is cut off, of an unknown family, by router 0.
        vec![0, 0, 0, 3, 2, 0, 4, 10, 77],
        vec![0, 0, 0, 5, 3, 0, 9, 10, 77, 2, 9],
        [&[0, 0, 0, 22, 2, 0, 4, 10, 77, 2, 9][..], &[0; 17]].concat(),
    ];
    for bytes in ends {
        let trunk = neighbour.open();
        wait_open(&here, 1);
        assert!(trunk.try_send(&bytes));
        wait::until_true("it ends", wait::LONG, || !trunk.live(Duration::from_millis(100)));
        assert!(is_reachable(&near, inside(1, 1)), "{bytes:02x?}");
    }
    let trunk = neighbour.open();
    wait_open(&here, 1);
    let good = packet::udp(inside(2, 9), inside(1, 2), 4000, b"data");
    let malformed = [
        framed([0; 10], &[]),
        framed([0; 10], &good[..19]),
        framed([1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], &good),
        framed([1, 1, 0xff, 0xff, 0, 0, 20, 0, 16, 0], &good),
        framed([0, 1, 0, 0, 0, 0, 0, 0, 0, 0], &good),
        framed([0, 0xff, 0, 0, 1, 0, 0, 0, 0, 0], &good),
    ];
    // Of this host's vassal, of its router, of the host, and of nobody.
    let spoofed = [inside(1, 2), inside(1, 1), host(1), Ipv4Addr::UNSPECIFIED].map(|from| datagram(from, inside(1, 2)));
    // To the host, to others beyond it, and to all.
    let nowhere =
        [host(1), host(2), inside(3, 3), Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST].map(|to| datagram(inside(2, 9), to));
    let (malformed_count, spoofed_count) = (malformed.len() as u64, spoofed.len() as u64);
    for bytes in malformed.iter().chain(&spoofed).chain(&nowhere) {
        assert!(trunk.try_send(bytes) && trunk.live(Duration::from_millis(20)), "{bytes:02x?}");
    }
    let refused = |name: &str| trunks(&here.stats())[0]["refused"][name].as_u64().expect("a number");
    wait::until_true("all are counted", wait::LONG, || {
        trunk.live(Duration::ZERO);
        (refused("malformed_packet"), refused("spoofed_source")) == (malformed_count, spoofed_count)
    });
    assert!(trunk.live(Duration::from_millis(100)), "it stays open");
    assert!(is_reachable(&near, inside(1, 1)));
    assert_eq!((here.router_pid(), number(&here, "/announced")), (router, 0));
}

/// Its own queue is all that fills.
#[test]
fn neighbour_that_does_not_read_delays_nobody() {
    let keys = Keys::new();
    let (first, second) = two_hosts();
    let here = emperor(&keys, 1).line(peer(&keys, 2, "10.77.2.0/24", "")).start_in(first);
    let near = start_vassal(&here, 1, 2);
    let neighbour = Neighbour::dialling(&second, &keys, 2, 1, SocketAddr::from((host(1), PORT)));
    let trunk = neighbour.open();
    let mut message = Vec::new();
    let holding = Holding { router: neighbour.router, since: ClaimTime(1_000) };
    append_announce(&mut message, inside(2, 9).into(), &Announcement::own(holding));
    trunk.send(&message);
    here.wait_for_stats("it is known", |stats| trunks(stats)[0]["announced"] == 1);
    let before = memory(&here);
    let mut raw = here.connect();
    let bytes = packet::udp(inside(1, 3), inside(2, 9), 9, &[0; 1400]);
    // More than all sockets on the way and the queue hold together.
    for sent in 0..40_000_u64 {
        raw.send_packet(&bytes);
        if sent % 1000 == 0 {
            // It lives, but doesn't read.
            let mut ping = Vec::new();
            append_ping(&mut ping, sent);
            trunk.send(&ping);
        }
    }
    let stats = here.stats();
    let (queued, dropped) = (&trunks(&stats)[0]["queued_bytes"], &trunks(&stats)[0]["dropped"]);
    let dropped = ["queue_full", "queue_late"].map(|name| dropped[name].as_u64().expect("a number"));
    assert!(queued.as_u64().is_some_and(|len| len <= 2 * 1024 * 1024 + 70_000), "{queued}");
    assert!(dropped.iter().sum::<u64>() > 0, "{:?}", trunks(&stats)[0]);
    assert!(memory(&here) < before + 16 * 1024, "{before} and {} KiB", memory(&here));
    assert!(is_reachable(&near, inside(1, 1)));
    assert_eq!(trunks(&here.stats())[0]["state"], "open");
}

/// Vassals reach their host while a neighbour floods, and what it can make others keep has a bound.
#[test]
fn floods_of_a_neighbour_leave_vassals_their_network() {
    let keys = Keys::new();
    let (first, second) = two_hosts();
    let here = emperor(&keys, 1).line(peer(&keys, 2, "10.77.0.0/16", "")).start_in(first);
    let near = start_vassal(&here, 1, 2);
    let neighbour = Neighbour::dialling(&second, &keys, 2, 1, SocketAddr::from((host(1), PORT)));
    let trunk = neighbour.open();
    wait_open(&here, 1);
    let address = |number: u32| IpAddr::from((Ipv4Addr::new(10, 77, 4, 0).to_bits() + number % 60_000).to_be_bytes());
    let holding = |number: u32| Holding { router: neighbour.router, since: ClaimTime(1_000 + u64::from(number)) };
    let kinds: [Write<'_>; 5] = [
        &|out, number| append_withdraw(out, address(number)),
        &|out, number| append_announce(out, address(number), &Announcement::own(holding(number))),
        // The near one's address, newer and newer, and given up again.
        &|out, number| {
            append_announce(out, inside(1, 9).into(), &Announcement::own(holding(number)));
            append_withdraw(out, inside(1, 9).into());
        },
        &|out, _| out.extend_from_slice(&datagram(inside(9, 9), inside(1, 2))),
        &|out, _| append_end(out),
    ];
    let pid = here.router_pid();
    for write in kinds {
        let mut sent = 0;
        for _ in 0..40 {
            let mut message = Vec::new();
            while message.len() < MAX_MESSAGE_LEN - 200 {
                write(&mut message, sent);
                sent += 1;
            }
            assert!(trunk.try_send(&message) && trunk.live(Duration::ZERO));
        }
        assert!(is_reachable(&near, inside(1, 1)));
    }
    assert!(trunk.live(Duration::from_millis(500)));
    assert_eq!(here.router_pid(), pid);
    assert_eq!(trunks(&here.stats())[0]["state"], Value::from("open"));
    let lines = here.log.text().matches("[tuntap-router]").count();
    assert!(lines < 100, "{lines} lines");
}

/// A stream of bytes from one vassal to another, as fast as it goes, until it is dropped.
struct Bulk {
    is_over: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
}

impl Bulk {
    fn start(from: &Net, to: &Net, address: Ipv4Addr) -> Self {
        const CHUNK: usize = 256 * 1024;
        let listener = to.run(|| TcpListener::bind((address, 7777))).expect("its address");
        let mut near = from.run(|| TcpStream::connect((address, 7777))).expect("a connection");
        let (mut far, _) = listener.accept().expect("a connection");
        let (is_over, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, count) = (Arc::clone(&is_over), Arc::clone(&received));
        // Both end with the connection, which the first one closes.
        thread::spawn(move || while !until.load(Ordering::Relaxed) && near.write_all(&[7; CHUNK]).is_ok() {});
        thread::spawn(move || {
            let mut buffer = vec![0; CHUNK];
            while let Ok(len @ 1..) = far.read(&mut buffer) {
                count.fetch_add(len as u64, Ordering::Relaxed);
            }
        });
        Self { is_over, received }
    }

    /// Bytes that arrive while something is done.
    fn during(&self, work: impl FnOnce()) -> u64 {
        let before = self.received.load(Ordering::Relaxed);
        work();
        self.received.load(Ordering::Relaxed) - before
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// How long a flood lasts, and how long there is none.
const WINDOW: Duration = Duration::from_secs(1);

/// The share in percent of what a stream carries otherwise that it carries while something is done again and again.
fn share(bulk: &Bulk, trunk: &Trunk, what: &str, mut flood: impl FnMut()) -> u64 {
    let mut count = 0_u32;
    let mut repeat = || {
        let until = Instant::now() + WINDOW;
        while Instant::now() < until {
            flood();
            count += 1;
        }
    };
    let (mut with, mut without) = (0, 0);
    for _ in 0..2 {
        without += bulk.during(|| assert!(trunk.live(WINDOW)));
        with += bulk.during(&mut repeat);
    }
    let share = with * 100 / without;
    eprintln!("{what}: {count} times; {share} % of the {without} bytes without");
    assert!(count > 20, "{what}: it is a flood");
    share
}

/// Vassals have their share of the router however much a neighbour sends: packets, good and bad ones, and announcements. It takes no
/// more from them than a vassal of their own host does.
#[test]
fn flood_of_a_neighbour_leaves_vassals_their_share() {
    let keys = Keys::new();
    let (first, second) = two_hosts();
    let here = emperor(&keys, 1).line(peer(&keys, 2, "10.77.2.0/24", "")).start_in(first);
    let [one, two, _target] = [2, 3, 4].map(|last| start_vassal(&here, 1, last));
    let neighbour = Neighbour::dialling(&second, &keys, 2, 1, SocketAddr::from((host(1), PORT)));
    let trunk = neighbour.open();
    wait_open(&here, 1);
    let bulk = Bulk::start(&one, &two, inside(1, 3));
    thread::sleep(Duration::from_millis(500));
    let mut local = RawPeer::registered(&here.socket(), inside(1, 9), inside(1, 1));
    let frame = wire::frame(wire::PACKET, &packet::udp(inside(1, 9), inside(1, 4), 4000, b"data"));
    let batch = frame.repeat(512);
    let of_local = share(&bulk, &trunk, "packets of a vassal", || {
        local.try_send_bytes(&batch).expect("the router reads");
    });
    drop(local);
    let holding = |number: u32| Holding { router: neighbour.router, since: ClaimTime(1_000 + u64::from(number)) };
    let kinds: [(&str, Write<'_>); 3] = [
        ("packets", &|out, _| out.extend_from_slice(&datagram(inside(2, 9), inside(1, 4)))),
        ("spoofed packets", &|out, _| out.extend_from_slice(&datagram(inside(1, 2), inside(1, 4)))),
        ("announcements", &|out, number| {
            let address = inside(2, number.to_be_bytes()[3]);
            append_announce(out, address.into(), &Announcement::own(holding(number)));
        }),
    ];
    for (what, write) in kinds {
        let mut message = Vec::new();
        let mut number = 0;
        while message.len() < MAX_MESSAGE_LEN - 200 {
            write(&mut message, number);
            number += 1;
        }
        let of_trunk = share(&bulk, &trunk, what, || assert!(trunk.try_send(&message)));
        // The neighbour is on this machine, too, and TLS takes its share of the processors.
        assert!(of_trunk * 3 >= of_local, "{what}: {of_trunk} %, and {of_local} % beside a vassal that floods");
    }
    assert!(is_reachable(&one, inside(1, 1)));
}
