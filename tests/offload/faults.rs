//! Deaths, and what is done to pairs. Packets go by the router then, and no connection is lost.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use nix::sys::signal::Signal;

use crate::common::emperor::{EMPEROR, Emperor, V1, V2};
use crate::common::link::Connection;
use crate::common::netns::Netns;
use crate::common::processes::{descriptors, send};
use crate::common::wait;
use crate::world::{Datagrams, V1_6, V2_6, emperor, start, vassal};

/// The processes that make pairs, the latest last.
fn pair_processes(emperor: &Emperor) -> Vec<i32> {
    let text = emperor.log.text();
    let pids = text
        .lines()
        .filter_map(|line| line.split_once("uWSGI tuntap pairs 1 (pid: ")?.1.split(')').next()?.parse().ok());
    pids.collect()
}

/// How many ends of pairs there are at the host.
fn pairs(host: &Netns) -> usize {
    host.sh("ip -o link show type veth").lines().count()
}

/// What was made for a path in the kernel, in the host's namespace.
fn assert_nothing_left(host: &Netns) {
    wait::until_true("no pair is left", wait::LONG, || pairs(host) == 0);
    wait::until_true("no table is left", wait::LONG, || !host.sh("nft list tables").contains("tuntap"));
}

/// The pairs at the host, and the chains that guard them, each by its device.
fn guarded(host: &Netns) -> (BTreeSet<String>, Vec<String>) {
    let links = host.sh("ip -o link show type veth");
    let devices = links.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next().map(str::to_owned));
    // nft before 1.0.7 leaves the device out of its JSON.
    let listed = host.sh("nft list chains netdev");
    let chains = listed.lines().filter_map(|line| {
        let (device, rest) = line.trim().strip_prefix("type filter hook ingress device \"")?.split_once('"')?;
        rest.ends_with("policy drop;").then(|| device.to_owned())
    });
    (devices.collect(), chains.collect())
}

/// Each pair has one chain, and no chain has been left by a pair of before.
#[track_caller]
fn assert_guarded(host: &Netns, count: usize) {
    wait::until_true("each pair has its guard", wait::LONG, || {
        let (devices, chains) = guarded(host);
        devices.len() == count && chains.len() == count && devices == chains.into_iter().collect()
    });
}

#[test]
fn pairs_are_guarded_after_deaths_and_reloads() {
    let mut emperor = start(emperor());
    let mark = emperor.log.mark();
    let inis = [("v1", V1, V1_6), ("v2", V2, V2_6)].map(|(name, own, own_6)| vassal(name, own, own_6));
    inis.iter().for_each(|ini| drop(emperor.start_attached(ini)));
    for what in ["start", "pair process", "router", "both", "pair", "reload"] {
        if ["pair process", "both"].contains(&what) {
            let before = pair_processes(&emperor);
            send(*before.last().expect("there is one"), Signal::SIGKILL);
            wait::until_true("there is a new one", wait::LONG, || pair_processes(&emperor).len() > before.len());
        }
        if ["router", "both"].contains(&what) {
            emperor.kill_router();
        }
        if what == "reload" {
            let mark = emperor.log.mark();
            emperor.signal(Signal::SIGHUP);
            ["v1", "v2"].iter().for_each(|name| emperor.wait_until_ready(mark, name));
        }
        if what == "pair" {
            emperor.vassal_net("v1").sh("ip link del tv0");
            assert_guarded(&emperor.netns, 1);
            continue;
        }
        for (name, address) in [("v1", V1), ("v2", V2)] {
            let net = emperor.vassal_net(name);
            Datagrams::open(&net, address, &emperor.netns, EMPEROR).until_in_kernel(&net);
        }
        assert_guarded(&emperor.netns, 2);
    }
    let told = emperor.log.since(mark);
    assert!(!told.contains("pairs of devices are left") && !told.contains("nftables:"), "{told}");
    emperor.signal(Signal::SIGINT);
    emperor.wait_for_exit();
    assert_nothing_left(&emperor.netns);
}

/// Whoever has the maps, or the sockets by which they are changed and pairs asked for, can have packets pass.
#[test]
fn maps_and_their_sockets_are_open_in_no_vassal() {
    let emperor = start(emperor());
    let ini = vassal("v1", V1, V1_6);
    emperor.start_attached(&ini);
    let open = |pid: i32, kind: &str| -> BTreeSet<String> {
        descriptors(pid).into_iter().filter(|target| target.starts_with(kind)).collect()
    };
    let count = |pid: i32| descriptors(pid).iter().filter(|target| target.contains("bpf-map")).count();
    let mut maps = None;
    for what in ["start", "router", "reload"] {
        if what == "router" {
            emperor.kill_router();
        }
        if what == "reload" {
            let (mark, before) = (emperor.log.mark(), pair_processes(&emperor).len());
            emperor.signal(Signal::SIGHUP);
            emperor.wait_until_ready(mark, "v1");
            wait::until_true("there is a new one", wait::LONG, || pair_processes(&emperor).len() > before);
        }
        let net = emperor.vassal_net("v1");
        Datagrams::open(&net, V1, &emperor.netns, EMPEROR).until_in_kernel(&net);
        let pair_process = *pair_processes(&emperor).last().expect("there is one");
        let those = [emperor.master_pid(), emperor.router_pid(), pair_process];
        let counts = those.map(count);
        assert_eq!(counts, [*maps.get_or_insert(counts[0]); 3], "{what}");
        assert!(counts[0] > 0, "{what}");
        // Both ends of the clerk's sockets, and one of the other pair.
        let shared = those.map(|pid| open(pid, "socket:"));
        let shared: BTreeSet<_> = shared[1].intersection(&shared[2]).filter(|it| shared[0].contains(*it)).collect();
        assert!(shared.len() >= 2, "{what}: {shared:?}");
        // The Emperor's process has all that the master has.
        let known = [those.as_slice(), &[emperor.emperor_pid()]].concat();
        let members = emperor.family().members().into_iter().map(|it| it.pid);
        let others: Vec<_> = members.filter(|pid| !known.contains(pid)).collect();
        assert!(others.contains(&emperor.vassal_pid("v1").expect("it runs")), "{what}: {others:?}");
        for pid in others {
            assert_eq!(open(pid, "anon_inode:bpf"), BTreeSet::new(), "{what}: {pid}");
            let found = open(pid, "socket:");
            assert!(shared.iter().all(|socket| !found.contains(*socket)), "{what}: {pid} has one of {shared:?}");
        }
    }
}

#[test]
fn killed_processes_cost_no_connection() {
    let emperor = start(emperor());
    let [first, second] = [("v1", V1, V1_6), ("v2", V2, V2_6)]
        .map(|(name, address, address_6)| emperor.start_attached(&vassal(name, address, address_6)));
    let mut connections = [
        Connection::open(&first, &emperor.netns, EMPEROR),
        Connection::open(&emperor.netns, &first, V1),
        Connection::open(&first, &second, V2),
    ];
    let mut pass = || connections.iter_mut().for_each(|connection| (0..20).for_each(|_| connection.assert_passes()));
    let flow = Datagrams::open(&first, V1, &emperor.netns, EMPEROR);
    let across = Datagrams::open(&first, V1, &second, V2);
    for what in ["router", "pair process", "both"] {
        pass();
        flow.until_in_kernel(&first);
        across.until_in_kernel(&second);
        if what != "router" {
            let before = pair_processes(&emperor);
            send(*before.last().expect("there is one"), Signal::SIGKILL);
            wait::until_true("there is a new one", wait::LONG, || pair_processes(&emperor).len() > before.len());
        }
        if what != "pair process" {
            emperor.kill_router();
        }
        pass();
        wait::until_true("datagrams pass", wait::LONG, || flow.pass() && across.pass());
    }
    flow.until_in_kernel(&first);
    across.until_in_kernel(&second);
    assert_eq!(pairs(&emperor.netns), 2, "one for each vassal");
}

const RENAMED: &str = "ip link set tv0 name mine";

#[test]
fn vassal_that_breaks_its_pair_goes_by_the_router() {
    let emperor = start(emperor());
    let moved = format!("ip link set tv0 name moved0 netns {}", emperor.netns.name());
    let damages = [
        "ip link set tv0 down",
        "ip link set tv0 mtu 1280",
        "ip link del tv0",
        "tc qdisc del dev tv0 clsact",
        &moved,
        RENAMED,
    ];
    // Each has a vassal of its own, since one whose pair was lost gets the next one only after a while.
    let broken = [0, 1, 2, 3, 4, 5].map(|number: u8| {
        let address = Ipv4Addr::new(192, 168, 0, 10 + number);
        let address_6 = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0x10 + u16::from(number));
        let net = emperor.start_attached(&vassal(&format!("v{number}"), address, address_6));
        let flow = Datagrams::open(&net, address, &emperor.netns, EMPEROR);
        flow.until_in_kernel(&net);
        (net, flow)
    });
    for (damage, (net, flow)) in damages.iter().zip(&broken) {
        let mark = emperor.log.mark();
        // Before Linux 6.2, an interface that is up keeps its name.
        let is_busy = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).contains("busy");
        if *damage == RENAMED && is_busy(&net.output(&["sh", "-c", damage])) {
            continue;
        }
        if *damage != RENAMED {
            net.sh(damage);
        }
        wait::until_true(damage, wait::LONG, || (0..5).all(|_| flow.pass()));
        if *damage == RENAMED {
            // That changes nothing.
            assert!(!emperor.log.since(mark).contains("pair"), "{damage}");
            assert!(net.has_device("mine"));
        } else {
            wait::until_true("it is removed", wait::LONG, || !net.has_device("tv0"));
        }
    }
    assert_eq!(pairs(&emperor.netns), 1, "that of the last one");
}

#[test]
fn nothing_is_left_behind() {
    let netns = Netns::new().with_ipv6();
    for end in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGKILL] {
        let mut emperor = emperor().start_in(netns.clone());
        let first = emperor.start_attached(&vassal("v1", V1, V1_6));
        let second = emperor.start_attached(&vassal("v2", V2, V2_6));
        for (net, address) in [(&first, V1), (&second, V2)] {
            Datagrams::open(net, address, &netns, EMPEROR).until_in_kernel(net);
        }
        assert_eq!(pairs(&netns), 2);
        std::fs::remove_file(emperor.path("vassals/v2.ini")).expect("own folder");
        wait::until_true("the pair goes with its vassal", wait::LONG, || pairs(&netns) == 1);
        if end == Signal::SIGHUP {
            let mark = emperor.log.mark();
            emperor.signal(end);
            emperor.wait_until_ready(mark, "v1");
            let net = emperor.vassal_net("v1");
            Datagrams::open(&net, V1, &netns, EMPEROR).until_in_kernel(&net);
            assert_eq!(pairs(&netns), 1, "that of before is gone");
            emperor.signal(Signal::SIGINT);
        } else {
            emperor.signal(end);
        }
        if end != Signal::SIGKILL {
            emperor.wait_for_exit();
        }
        wait::until_true("all processes are gone", wait::LONG, || emperor.family().members().is_empty());
        assert_nothing_left(&netns);
        drop(emperor);
    }
}
