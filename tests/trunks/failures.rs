//! Processes that die, and links that break.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::common::netns::Net;
use crate::common::probe::pings_answered;
use crate::common::processes;
use crate::common::series::Series;
use crate::common::wait;
use crate::world::{
    Keys, agent_pid, inside, number, start_vassal, trunks, two_routers, two_routers_with, wait_for_pings, wait_open,
};

/// A connection between two vassals, by which bytes go to and fro.
struct Stream {
    client: std::net::TcpStream,
    server: std::net::TcpStream,
}

impl Stream {
    fn open(client: &Net, server: &Net, address: std::net::Ipv4Addr) -> Self {
        let listener = server.run(|| TcpListener::bind((address, 7777))).expect("its address");
        let client = client.run(|| std::net::TcpStream::connect((address, 7777))).expect("a connection");
        let (server, _) = listener.accept().expect("a connection");
        for end in [&client, &server] {
            end.set_read_timeout(Some(wait::LONG)).expect("a timeout");
        }
        Self { client, server }
    }

    fn exchange(&mut self) {
        let sent = [0x5a; 100_000];
        let mut received = vec![0; sent.len()];
        let Self { client, server } = self;
        std::thread::scope(|scope| {
            scope.spawn(|| client.write_all(&sent).expect("it is open"));
            server.read_exact(&mut received).expect("it is open");
        });
        assert_eq!(received, sent);
        server.write_all(b"thanks").expect("it is open");
        client.read_exact(&mut received[..6]).expect("it is open");
        assert_eq!(&received[..6], b"thanks");
    }
}

#[test]
fn router_that_is_killed_keeps_its_trunks() {
    let keys = Keys::new();
    let (here, there) = two_routers(&keys);
    let (near, far) = (start_vassal(&here, 1, 2), start_vassal(&there, 2, 2));
    wait_for_pings(&near, inside(2, 2));
    let mut stream = Stream::open(&near, &far, inside(2, 2));
    stream.exchange();
    let agent = agent_pid(&here);
    let opened = number(&there, "/opened");
    for _ in 0..2 {
        here.kill_router();
        stream.exchange();
        wait_open(&here, 1);
    }
    // The neighbour has not noticed anything, nor has the trunk process.
    assert_eq!((number(&there, "/opened"), agent_pid(&here)), (opened, agent));
    wait_for_pings(&near, inside(2, 2));
}

#[test]
fn trunk_process_that_is_killed_is_started_again() {
    let keys = Keys::new();
    let (here, there) = two_routers(&keys);
    let (near, _far) = (start_vassal(&here, 1, 2), start_vassal(&there, 2, 2));
    wait_for_pings(&near, inside(2, 2));
    for (killed, other) in [(&here, &there), (&there, &here)] {
        let (opened, router) = (number(other, "/opened"), killed.router_pid());
        processes::send(agent_pid(killed), Signal::SIGKILL);
        wait::until_true("the trunk is opened again", wait::LONG, || {
            trunks(&other.stats())[0]["state"] == "open" && number(other, "/opened") > opened
        });
        wait_for_pings(&near, inside(2, 2));
        assert_eq!(killed.router_pid(), router);
    }
}

/// Both hosts notice that it carries nothing, vassals of the same host notice nothing, and the trunk comes back.
#[test]
fn trunk_process_that_is_stopped_for_a_while_goes_on() {
    let keys = Keys::new();
    let (here, there) = two_routers_with(&keys, &["tuntap-router-harakiri = 0"]);
    let (near, far) = (start_vassal(&here, 1, 2), start_vassal(&there, 2, 2));
    wait_for_pings(&near, inside(2, 2));
    let mut stream = Stream::open(&near, &far, inside(2, 2));
    stream.exchange();
    let pings = Series::start(&near, inside(1, 1));
    let (agent, router) = (agent_pid(&here), here.router_pid());
    processes::freeze(agent);
    for emperor in [&here, &there] {
        emperor.wait_for_stats("the trunk is down", |stats| trunks(stats)[0]["state"] != "open");
    }
    std::thread::sleep(Duration::from_secs(10));
    let local = pings.end();
    assert!(local.answered > 500 && local.longest_loss <= 1, "{local:?}");
    processes::thaw(agent);
    wait::until_true("the trunk is open", wait::LONG, || trunks(&here.stats())[0]["state"] == "open");
    wait::until_true("at the other end, too", wait::LONG, || trunks(&there.stats())[0]["state"] == "open");
    stream.exchange();
    assert_eq!((agent_pid(&here), here.router_pid()), (agent, router), "both go on");
}

#[test]
fn trunk_process_that_stays_stopped_is_replaced() {
    let keys = Keys::new();
    let (here, there) = two_routers_with(&keys, &["tuntap-router-harakiri = 2"]);
    let (near, far) = (start_vassal(&here, 1, 2), start_vassal(&there, 2, 2));
    wait_for_pings(&near, inside(2, 2));
    let mut stream = Stream::open(&near, &far, inside(2, 2));
    let pings = Series::start(&near, inside(1, 1));
    let router = here.router_pid();
    for _ in 0..2 {
        let agent = agent_pid(&here);
        processes::freeze(agent);
        let line =
            format!("the trunk process (pid {agent}) hangs: it has not run for 2 s; it is killed and started again");
        here.log.wait_for(&line, wait::LONG);
        wait::until_true("it ends", wait::LONG, || !processes::is_alive(agent));
        stream.exchange();
        wait_open(&here, 1);
    }
    let local = pings.end();
    assert!(local.longest_loss <= 1, "{local:?}");
    assert_eq!(here.router_pid(), router);
}

#[test]
fn trunk_process_ends_with_its_emperor() {
    let keys = Keys::new();
    let (here, there) = two_routers(&keys);
    let _far = start_vassal(&there, 2, 2);
    let agent = agent_pid(&there);
    processes::send(there.master_pid(), Signal::SIGKILL);
    wait::until_true("it ends", wait::LONG, || !processes::is_alive(agent));
    here.wait_for_stats("nothing is known of its vassals", |stats| trunks(stats)[0]["announced"] == 0);
}

#[test]
fn link_that_is_cut_is_noticed_and_comes_back() {
    let keys = Keys::new();
    let (here, there) = two_routers(&keys);
    let (near, _far) = (start_vassal(&here, 1, 2), start_vassal(&there, 2, 2));
    wait_for_pings(&near, inside(2, 2));
    here.netns.sh("ip link set veth0 down");
    for emperor in [&here, &there] {
        emperor.wait_for_stats("the trunk is down", |stats| trunks(stats)[0]["state"] != "open");
    }
    assert_eq!(pings_answered(&near, inside(2, 2), 1, &["-W", "1"]), 0);
    std::thread::sleep(Duration::from_millis(500));
    here.netns.sh("ip link set veth0 up");
    wait_for_pings(&near, inside(2, 2));
}

/// Whoever is killed first, nothing of an instance is left once its master is gone.
#[test]
fn nothing_is_left_in_whatever_order_all_are_killed() {
    let keys = Keys::new();
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
        let (here, _there) = two_routers(&keys);
        let _vassal = start_vassal(&here, 1, 2);
        let all = [agent_pid(&here), here.router_pid(), here.emperor_pid(), here.master_pid()];
        for at in order {
            processes::send(all[at], Signal::SIGKILL);
            // What the master starts again meanwhile has to end, too.
            std::thread::sleep(Duration::from_millis(100));
        }
        let left = || std::process::Command::new("ip").args(["netns", "pids", here.netns.name()]).output();
        wait::until_true("all have ended", wait::LONG, || left().expect("ip runs").stdout.is_empty());
    }
}

#[test]
fn connections_leave_no_descriptors_behind() {
    let keys = Keys::new();
    let (here, there) = two_routers(&keys);
    let open = |pid: i32| std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    let all = || [here.router_pid(), agent_pid(&here), here.master_pid()].map(open);
    let before = all();
    for _ in 0..6 {
        let opened = number(&here, "/opened");
        processes::send(agent_pid(&there), Signal::SIGKILL);
        // Who dials waits longer each time that the other side ends.
        wait::until_true("the trunk is opened again", wait::LONG * 3, || {
            trunks(&here.stats())[0]["state"] == "open" && number(&here, "/opened") > opened
        });
        wait_open(&there, 1);
    }
    wait::until_true("no more than before", wait::LONG, || {
        all().iter().zip(before).all(|(now, then)| *now <= then + 1)
    });
}
