//! Many peers, slow peers, and clients that only take room.

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use crate::common::emperor::{EMPEROR, Emperor, V1, V2};
use crate::common::log::Mark;
use crate::common::packet;
use crate::common::processes;
use crate::common::raw_peer::RawPeer;
use crate::common::wait;
use crate::common::wire;
use crate::pairs::{Router, cases};

cases!(two_thousand_idle_connections_disturb_nobody, Router: c ours);
cases!(flooded_peer_that_does_not_read_disturbs_nobody, Router: c ours);
cases!(running_out_of_descriptors_is_survived, Router: c ours);
cases!(silent_http_stats_client_holds_nobody_up, Router: c ours);
cases!(stats_client_that_does_not_read_holds_nobody_up, Router: c ours);
cases!(peer_that_sends_without_pause_disturbs_nobody, Router: c ours);
cases!(descriptors_that_come_with_frames_are_closed, Router: c ours);
// C logs no disconnections, and a line for each takeover of an address.
cases!(claims_refusals_and_ends_are_logged_once, Router: ours);
cases!(rejected_packets_fill_no_log, Router: ours);

/// An honest peer waits no longer than this for its echo, whatever others do.
const FAIR: Duration = Duration::from_secs(1);

const MANY_UNCLAIMED: &str = "tuntap-router-max-unclaimed = 5000";

fn idle_peers(emperor: &Emperor, count: usize) -> Vec<RawPeer> {
    let peers = (0..count).map(|_| emperor.connect()).collect();
    wait::until_true("all connections are accepted", wait::LONG, || {
        emperor.try_stats().is_ok_and(|stats| stats.peers().len() >= count)
    });
    peers
}

fn two_thousand_idle_connections_disturb_nobody(router: Router) {
    let emperor = router.emperor_with(MANY_UNCLAIMED).start();
    let mut peer = emperor.peer(V1);
    let idle = idle_peers(&emperor, 2000);
    for _ in 0..20 {
        assert!(peer.echo(V1, EMPEROR, FAIR));
    }
    drop(idle);
    emperor.wait_for_stats("they leave again", |stats| stats.peers().len() == 1);
}

fn flooded_peer_that_does_not_read_disturbs_nobody(router: Router) {
    let emperor = router.emperor().start();
    let mut other = emperor.peer(V2);
    let mut slow = emperor.peer(V1);
    let flood = emperor.netns.run(|| UdpSocket::bind((EMPEROR, 0))).expect("the Emperor has its address");
    for round in 0..20 {
        for _ in 0..100 {
            flood.send_to(&[0x5a; 1000], (V1, 9)).expect("the Emperor can send");
        }
        assert!(other.echo(V2, EMPEROR, FAIR), "round {round}");
    }
    let stats = emperor.stats();
    if router.is_ours() {
        assert!(stats.drops_of(V1, "queue_full") > 0, "{}", stats.0);
    } else {
        assert!(stats.of_peer(V1, "dropped") > 0, "{}", stats.0);
    }
    // Packets that were not dropped arrive whole.
    let mut flooded = 0;
    while let Some(frame) = slow.next_frame(Duration::from_millis(300)) {
        assert_eq!(frame.modifier2, wire::PACKET);
        assert!(packet::is_ipv4(&frame.payload));
        assert_eq!(usize::from(u16::from_be_bytes([frame.payload[2], frame.payload[3]])), frame.payload.len());
        flooded += 1;
    }
    assert!(flooded > 50, "{flooded} packets were queued");
    assert!(slow.echo(V1, EMPEROR, wait::SHORT), "the peer is served again once it reads");
}

fn running_out_of_descriptors_is_survived(router: Router) {
    let emperor = router.emperor().start();
    let mut peer = emperor.peer(V1);
    let pid = emperor.router_pid();
    processes::limit_descriptors(pid, processes::descriptors(pid).len() + 20);
    let connections: Vec<UnixStream> =
        (0..40).map(|_| UnixStream::connect(emperor.socket()).expect("the backlog has room")).collect();
    sleep(Duration::from_millis(200));
    let (cpu, logged) = (processes::cpu_time(pid), emperor.log.bytes());
    sleep(Duration::from_secs(1));
    let (cpu, logged) = (processes::cpu_time(pid) - cpu, emperor.log.bytes() - logged);
    if router.is_ours() {
        assert!(cpu < Duration::from_millis(300), "the router spins: {cpu:?} of CPU time in a second");
        assert!(logged < 10_000, "{logged} bytes were logged in a second");
    } else {
        assert!(logged > 100_000, "the C router logs every failed accept, as fast as it can");
    }
    assert!(peer.echo(V1, EMPEROR, wait::SHORT), "peers that are connected are served");
    drop(connections);
    let mut late = wait::until("a new peer is accepted", wait::LONG, || {
        let mut late = emperor.connect();
        late.echo(V2, EMPEROR, FAIR).then_some(late)
    });
    assert!(late.echo(V2, EMPEROR, wait::SHORT));
}

fn silent_http_stats_client_holds_nobody_up(router: Router) {
    let emperor = router.emperor().stats_over_http().start();
    let mut peer = emperor.peer(V1);
    let clients = [(); 3].map(|()| UnixStream::connect(emperor.path("stats.sock")).expect("stats are served"));
    let served = (0..5).all(|_| peer.echo(V1, EMPEROR, FAIR));
    // The C router waits four seconds for each to send its request.
    assert_eq!(served, router.is_ours());
    if router.is_ours() {
        assert!(emperor.try_stats().is_ok(), "another client gets its stats");
    }
    drop(clients);
}

fn stats_client_that_does_not_read_holds_nobody_up(router: Router) {
    // More stats than fit into a socket's buffer.
    const PEERS: usize = 4000;
    let emperor = router.emperor_with(MANY_UNCLAIMED).start();
    let mut peer = emperor.peer(V1);
    let _idle = idle_peers(&emperor, PEERS);
    let client = UnixStream::connect(emperor.path("stats.sock")).expect("stats are served");
    sleep(Duration::from_millis(300));
    let served = peer.echo(V1, EMPEROR, FAIR);
    assert_eq!(served, router.is_ours(), "the C router writes until the client has read everything");
    if router.is_ours() {
        assert!(emperor.stats().peers().len() > PEERS, "another client gets its stats, to their end");
    }
    drop(client);
    assert!(peer.echo(V1, EMPEROR, wait::SHORT));
}

fn rejected_packets_fill_no_log(router: Router) {
    let emperor = router.emperor().line("tuntap-router-firewall-out = deny 0.0.0.0 10.0.0.0/8").start();
    let mut peer = emperor.peer(V1);
    let mut rival = emperor.connect();
    let logged = emperor.log.bytes();
    let not_ip = [0; 40];
    for _ in 0..2000 {
        peer.send_packet(&not_ip);
        peer.send_packet(&packet::ipv6_router_solicitation());
        peer.send_packet(&packet::udp(V1, [10, 0, 0, 1].into(), 9, b"denied"));
        peer.send_packet(&packet::udp(V2, EMPEROR, 9, b"spoofed"));
        rival.send_packet(&packet::udp(V1, EMPEROR, 9, b"held"));
    }
    assert!(peer.echo(V1, EMPEROR, wait::SHORT));
    let logged = emperor.log.bytes() - logged;
    assert!(logged < 5000, "{logged} bytes were logged for 10,000 rejected packets");
}

fn peer_that_sends_without_pause_disturbs_nobody(router: Router) {
    let emperor = router.emperor().start();
    let mut other = emperor.peer(V2);
    let mut busy = emperor.peer(V1);
    let done = AtomicBool::new(false);
    let frames = wire::frame(wire::PACKET, &packet::udp(V1, [203, 0, 113, 1].into(), 9, &[0; 100])).repeat(100);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                busy.send_bytes(&frames);
            }
        });
        let served = (0..50).all(|_| other.echo(V2, EMPEROR, FAIR));
        done.store(true, Ordering::Relaxed);
        assert!(served);
    });
}

fn claims_refusals_and_ends_are_logged_once(router: Router) {
    let emperor = router.emperor().start();
    let lines_about = |mark: Mark| {
        let log = emperor.log.since(mark);
        log.lines().filter(|line| line.contains(&V1.to_string())).map(str::to_owned).collect::<Vec<_>>()
    };
    let mark = emperor.log.mark();
    let mut holder = emperor.peer(V1);
    assert!(holder.echo(V1, EMPEROR, wait::SHORT));
    assert_eq!(lines_about(mark).len(), 1, "the claim: {:?}", lines_about(mark));
    let mark = emperor.log.mark();
    let mut rival = emperor.connect();
    for _ in 0..10 {
        rival.send_packet(&packet::udp(V1, EMPEROR, 9, b"held"));
    }
    emperor.wait_for_stats("the refusals are counted", |stats| stats.drops("address_held") == 10);
    assert_eq!(lines_about(mark).len(), 1, "the refusal: {:?}", lines_about(mark));
    let mark = emperor.log.mark();
    drop(holder);
    emperor.wait_for_stats("the holder is gone", |stats| stats.peer(V1).is_none());
    assert_eq!(lines_about(mark).len(), 1, "the end: {:?}", lines_about(mark));
}

fn descriptors_that_come_with_frames_are_closed(router: Router) {
    let emperor = router.emperor().start();
    let pid = emperor.router_pid();
    let mut peer = emperor.peer(V1);
    let before = processes::descriptors(pid).len();
    let stranger = File::open("/dev/null").expect("every machine has it");
    let frame = wire::frame(wire::PACKET, &packet::udp(V1, EMPEROR, 9, b"with a descriptor"));
    for bytes in [&frame[..], &frame[..2], &frame[2..], &frame[..10], &frame[10..]].iter().cycle().take(200) {
        peer.send_with_descriptor(bytes, stranger.as_fd());
    }
    assert!(peer.echo(V1, EMPEROR, wait::SHORT));
    assert_eq!(processes::descriptors(pid).len(), before);
}
