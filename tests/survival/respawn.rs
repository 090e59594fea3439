//! Routers that are killed.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::link::Connection;
use crate::common::probe::pings_answered;
use crate::common::processes::{assert_descriptors, descriptors, send};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;
use crate::world::{emperor, is_attached, start_attached, vassal};

#[test]
fn killed_router_costs_no_vassal_its_connections() {
    let emperor = emperor().start();
    let first = start_attached(&emperor, "v1", V1);
    let second = start_attached(&emperor, "v2", V2);
    let pids = [emperor.vassal_pid("v1"), emperor.vassal_pid("v2")];
    let mut outward = Connection::open(&first, &emperor.netns, EMPEROR);
    let mut inward = Connection::open(&emperor.netns, &first, V1);
    let mut across = Connection::open(&first, &second, V2);
    let stats = emperor.kill_router();
    assert!(stats.peer(V1).is_some() && stats.peer(V2).is_some(), "both have their addresses at once: {}", stats.0);
    for connection in [&mut outward, &mut inward, &mut across] {
        connection.assert_passes();
    }
    let stats =
        emperor.wait_for_stats("both are attached again", |stats| is_attached(stats, V1) && is_attached(stats, V2));
    assert_eq!(stats.0["totals"]["restored"], 2);
    assert_eq!([emperor.vassal_pid("v1"), emperor.vassal_pid("v2")], pids, "no vassal was started anew");
}

/// The master starts the next router at once, and not when it next looks after its processes.
#[test]
fn killed_router_is_replaced_at_once() {
    let emperor = emperor().line("check-interval = 3600").start();
    let net = start_attached(&emperor, "v1", V1);
    for _ in 0..3 {
        emperor.kill_router();
        assert_eq!(pings_answered(&net, EMPEROR, 3, &[]), 3);
    }
}

/// Bytes that are on their way while the router dies arrive all the same, and in order.
#[test]
fn stream_goes_on_while_routers_are_killed() {
    const LENGTH: usize = 400_000_000;
    let emperor = emperor().start();
    let vassal = start_attached(&emperor, "v1", V1);
    let listener = emperor.netns.run(|| TcpListener::bind((EMPEROR, 7099))).expect("the address is there");
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let target = SocketAddr::from((EMPEROR, 7099));
            let mut stream = vassal.run(|| TcpStream::connect_timeout(&target, wait::SHORT)).expect("connected");
            stream.set_write_timeout(Some(wait::LONG)).expect("a timeout can be set");
            let block: Vec<u8> = (0..=255).cycle().take(256 * 1024).collect();
            for _ in 0..LENGTH / block.len() {
                stream.write_all(&block).expect("the stream goes on");
            }
        });
        let (mut stream, _) = listener.accept().expect("the connection");
        stream.set_read_timeout(Some(wait::LONG)).expect("a timeout can be set");
        let mut received = 0;
        let mut killed = 0;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = stream.read(&mut buffer).expect("the stream goes on");
            if count == 0 {
                break;
            }
            let expected = (received..received + count).map(|at| u8::try_from(at % 256).expect("a byte"));
            assert!(buffer[..count].iter().copied().eq(expected), "the bytes that were sent, from {received}");
            received += count;
            if received > (killed + 1) * LENGTH / 4 && killed < 2 {
                send(emperor.router_pid(), Signal::SIGKILL);
                killed += 1;
            }
        }
        sender.join().expect("no panic");
        assert_eq!((received, killed), (LENGTH / (256 * 1024) * (256 * 1024), 2));
    });
}

#[test]
fn restored_router_keeps_nothing_of_those_who_left() {
    let emperor = emperor().start();
    start_attached(&emperor, "v1", V1);
    start_attached(&emperor, "v2", V2);
    let open = descriptors(emperor.router_pid()).len();
    std::fs::remove_file(emperor.path("vassals/v2.ini")).expect("own folder");
    emperor.wait_for_stats("its address is free", |stats| stats.peer(V2).is_none());
    emperor.kill_router();
    let stats = emperor.wait_for_stats("the other one is attached again", |stats| is_attached(stats, V1));
    assert_eq!((stats.peers().len(), stats.peer(V2).is_some()), (1, false));
    // The router has one connection and one device less.
    assert_descriptors(emperor.router_pid(), open - 2, "the one who left");
    emperor.start_vassal(&vassal("v2", V2));
    assert_eq!(pings_answered(&emperor.netns, V2, 3, &[]), 3, "its successor has the address");
}

#[test]
fn restored_vassal_is_bound_to_its_address_and_rules() {
    let emperor = emperor().line("tuntap-router-firewall-out = deny 192.168.0.0/24 198.51.100.0/24").start();
    let rule = format!("tuntap-device-rule = out 0.0.0.0 {EMPEROR} allow");
    let other = "tuntap-device-rule = out 0.0.0.0 203.0.113.0/24 deny";
    let net = emperor.start_vassal(&vassal("v1", V1).line(rule).line(other));
    emperor.kill_router();
    let stats = emperor.wait_for_stats("it is attached again", |stats| is_attached(stats, V1));
    assert_eq!(stats.of_peer(V1, "rules"), 2);
    assert_eq!(stats.peer(V1).expect("it is there")["uid"], 0, "as the kernel said when it connected");
    net.sh("ip address add 192.168.0.77/24 dev uwsgi0");
    let spoof = net.output(&["ping", "-q", "-c", "2", "-W", "1", "-I", "192.168.0.77", "192.168.0.1"]);
    assert!(!spoof.status.success(), "{spoof:?}");
    assert!(pings_answered(&net, "203.0.113.9".parse::<Ipv4Addr>().expect("an address"), 1, &["-W", "1"]) == 0);
    let stats = emperor.stats();
    assert!(stats.drops_of(V1, "spoofed_source") > 0 && stats.drops_of(V1, "peer_rule") > 0, "{}", stats.0);
    assert!(!emperor.connect().echo(V1, EMPEROR, Duration::from_millis(500)), "nobody else gets the address");
}

/// Routers that end at once, one after the other, are started with pauses, and without the vassals that may be the
/// cause.
#[test]
fn routers_that_die_at_once_are_slowed_down() {
    let emperor = emperor().start();
    start_attached(&emperor, "v1", V1);
    let mark = emperor.log.mark();
    for _ in 0..4 {
        emperor.kill_router();
    }
    emperor.log.wait_for_since(mark, "3 routers in a row ended soon after their start, waiting 2 s", wait::LONG);
    // The vassal's connection is gone, and the Emperor starts it anew.
    wait::until_true("the vassal is back", wait::LONG, || {
        emperor.try_stats().is_ok_and(|stats| is_attached(&stats, V1) && stats.0["totals"]["restored"] == 0)
    });
}

#[test]
fn reloaded_vassal_and_killed_router_in_turn() {
    let emperor = emperor().start();
    let net = start_attached(&emperor, "v1", V1);
    let mut connection = Connection::open(&emperor.netns, &net, V1);
    for _ in 0..2 {
        let mark = emperor.log.mark();
        emperor.touch("v1");
        emperor.wait_until_ready(mark, "v1");
        connection.assert_passes();
        emperor.kill_router();
        connection.assert_passes();
        // A router that has lived this long does not count as one that died at once.
        emperor.wait_for_stats("it is attached again", |stats| is_attached(stats, V1));
    }
}

/// Frames may have been cut in two by the router's death, so that these peers have to connect anew.
#[test]
fn vassal_in_frames_is_started_anew() {
    let emperor = emperor().start();
    let c_vassal = VassalIni::new(Uwsgi::usual(), Subject::C, "v1", V1, EMPEROR);
    emperor.start_vassal(&c_vassal);
    let mut raw = emperor.peer(V2);
    let pid = emperor.vassal_pid("v1");
    emperor.kill_router();
    assert!(raw.is_closed(wait::SHORT));
    wait::until_true("the C vassal is back", wait::LONG, || {
        emperor.try_stats().is_ok_and(|stats| stats.peer(V1).is_some())
    });
    assert_ne!(emperor.vassal_pid("v1"), pid);
}
