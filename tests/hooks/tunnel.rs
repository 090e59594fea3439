//! Finds the processes that hold the ends of a tunnel: the TUN device's descriptor and the connection to the router.

use std::fs::read_link;

use crate::common::emperor::Emperor;
use crate::common::netns::Net;
use crate::common::processes::{Family, Process, descriptors};

/// The end of the control device's path. What stands before it depends on root directories and mount namespaces.
pub const TUN: &str = "/dev/net/tun";

/// The connections of a process's network namespace to the router: their near ends, as `/proc` shows descriptors. The
/// kernel lists both ends of a connection in the namespace that it was made from.
pub fn router_connections(emperor: &Emperor, pid: i32) -> Vec<String> {
    let socket = emperor.socket();
    let output = Net::of_process(pid).expect("the process lives").sh("ss -xnH state connected");
    output
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|columns| columns.iter().any(|column| socket.as_os_str() == *column))
        .map(|columns| format!("socket:[{}]", columns.last().expect("the peer's inode is the last column")))
        .collect()
}

/// The processes that share a process's network namespace: an instance with all that came out of it.
pub fn neighbours(family: &Family, pid: i32) -> Vec<Process> {
    let namespace = |pid: i32| read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = namespace(pid);
    family.members().into_iter().filter(|process| namespace(process.pid) == own).collect()
}

/// The processes among these that could read or write packets.
fn holders(connections: &[String], processes: &[Process]) -> Vec<i32> {
    let is_end = |target: &String| target.ends_with(TUN) || connections.contains(target);
    let holds = |process: &&Process| descriptors(process.pid).iter().any(is_end);
    processes.iter().filter(holds).map(|process| process.pid).collect()
}

/// The one process of an instance that holds the tunnel.
#[track_caller]
pub fn owner(emperor: &Emperor, family: &Family, pid: i32) -> i32 {
    let processes = neighbours(family, pid);
    let connections = router_connections(emperor, pid);
    assert!(!connections.is_empty(), "the instance has joined the router");
    let holders = holders(&connections, &processes);
    let [owner] = holders[..] else { panic!("one process holds the tunnel, not {holders:?} of {processes:?}") };
    let held = descriptors(owner);
    assert_eq!(held.iter().filter(|target| target.ends_with(TUN)).count(), 1, "one TUN descriptor: {held:?}");
    assert_eq!(held.iter().filter(|target| connections.contains(target)).count(), 1, "one connection: {held:?}");
    owner
}
