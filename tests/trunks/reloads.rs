//! What goes on while an Emperor reloads or loses processes.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::common::emperor::Emperor;
use crate::common::processes;
use crate::common::stream::Stream;
use crate::common::wait;
use crate::world::{
    Keys, PORT, agent_pid, emperor, host, hosts, inside, number, peer, reload, start_vassal, two_routers,
    wait_for_pings, wait_open,
};

/// How often somebody connects.
const PAUSE: Duration = Duration::from_millis(5);

/// The number of the socket that waits for trunks.
fn listener_inode(emperor: &Emperor) -> String {
    let line = emperor.netns.sh(&format!("ss -Hltne sport = :{PORT}"));
    line.split_whitespace().find_map(|word| word.strip_prefix("ino:")).expect("it listens").to_owned()
}

/// Ends a thread, even if the test has failed.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn who_dials_during_a_reload_is_never_refused() {
    let keys = Keys::new();
    let (here, there) = two_routers(&keys);
    let target = SocketAddr::from((host(1), PORT));
    let is_over = AtomicBool::new(false);
    let before = listener_inode(&here);
    let errors = std::thread::scope(|scope| {
        let dialling = scope.spawn(|| {
            there.netns.run(|| {
                let (mut errors, mut count) = (Vec::new(), 0);
                while !is_over.load(Ordering::Relaxed) {
                    errors.extend(TcpStream::connect_timeout(&target, wait::LONG).err());
                    count += 1;
                    std::thread::sleep(PAUSE);
                }
                (errors, count)
            })
        });
        let end = EndOnDrop(&is_over);
        for _ in 0..3 {
            let opened = number(&there, "/opened");
            reload(&here);
            wait::until_true("the neighbour is there again", wait::LONG, || number(&there, "/opened") > opened);
            wait_open(&here, 1);
            assert_eq!(listener_inode(&here), before, "it is the same socket");
        }
        drop(end);
        dialling.join().expect("no panic")
    });
    let (errors, count) = errors;
    assert!(errors.is_empty() && count > 10, "of {count}: {errors:?}");
    // The neighbour itself has found the listener each time, too.
    let log = there.log.text();
    assert!(!log.contains("Connection refused"), "{log}");
}

#[test]
fn stream_survives_the_reload_of_a_host_between() {
    let keys = Keys::new();
    let (_lan, [one, two, three]) = hosts();
    let between = emperor(&keys, 2)
        .line(peer(&keys, 1, "10.77.1.0/24", "relay"))
        .line(peer(&keys, 3, "10.77.3.0/24", "relay"))
        .start_in(two);
    let address = format!("{}:{PORT}", host(2));
    let ends: Vec<_> = [(1, one), (3, three)]
        .into_iter()
        .map(|(number, netns)| emperor(&keys, number).line(peer(&keys, 2, "10.77.0.0/16", &address)).start_in(netns))
        .collect();
    wait_open(&between, 2);
    let (near, far) = (start_vassal(&ends[0], 1, 2), start_vassal(&ends[1], 3, 2));
    wait_for_pings(&near, inside(3, 2));
    let stream = Stream::open(&near, &far, inside(3, 2));
    for _ in 0..2 {
        reload(&between);
        wait_open(&between, 2);
        stream.wait_until_passing("the stream after a reload");
    }
    stream.end();
}

#[test]
fn stream_survives_the_death_of_trunk_processes() {
    let keys = Keys::new();
    let (here, there) = two_routers(&keys);
    let (near, far) = (start_vassal(&here, 1, 2), start_vassal(&there, 2, 2));
    wait_for_pings(&near, inside(2, 2));
    let stream = Stream::open(&near, &far, inside(2, 2));
    for emperor in [&here, &there, &here] {
        let (agent, router) = (agent_pid(emperor), emperor.router_pid());
        processes::send(agent, Signal::SIGKILL);
        wait::until_true("the trunk process has ended", wait::LONG, || !processes::is_alive(agent));
        stream.wait_until_passing("the stream after the death of a trunk process");
        assert_eq!(emperor.router_pid(), router);
    }
    stream.end();
}

/// The host that dials is there first, with its vassal; then comes the one that is dialled, whose vassal waits, too.
#[test]
fn vassals_may_be_there_before_the_trunk() {
    let keys = Keys::new();
    let (first, second) = crate::world::two_hosts();
    let address = format!("{}:{PORT}", host(1));
    let there = emperor(&keys, 2).line(peer(&keys, 1, "10.77.0.0/16", &address)).start_in(second);
    let far = start_vassal(&there, 2, 2);
    there.log.wait_for("can't connect with router", wait::LONG);
    first.sh(&format!("iptables -A INPUT -p tcp --dport {PORT} -j DROP"));
    let here = emperor(&keys, 1).line(peer(&keys, 2, "10.77.0.0/16", "")).start_in(first);
    let near = start_vassal(&here, 1, 2);
    here.netns.sh("iptables -F INPUT");
    wait_for_pings(&near, inside(2, 2));
    wait_for_pings(&far, inside(1, 2));
    Stream::open(&near, &far, inside(2, 2)).end();
}
