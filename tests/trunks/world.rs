//! Hosts with routers that know each other's keys.

use std::net::Ipv4Addr;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tuntap_agent::PrivateKey;

use crate::common::emperor::{Emperor, EmperorIni};
use crate::common::netns::{Net, Netns};
use crate::common::probe::pings_answered;
use crate::common::stats::{Stats, is_attached};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;

/// Where routers wait for trunks.
pub const PORT: u16 = 4000;

/// The address of a host, by its number, on the network between hosts.
pub fn host(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, number)
}

/// An address in the network of a host's vassals. The router has the one that ends with 1.
pub fn inside(number: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, number, last)
}

/// The keys of the hosts, in files.
#[derive(Debug)]
pub struct Keys {
    dir: TempDir,
}

impl Keys {
    pub fn new() -> Self {
        Self { dir: TempDir::new().expect("a folder") }
    }

    pub fn file(&self, number: u8) -> String {
        self.dir.path().join(format!("{number}.key")).display().to_string()
    }

    pub fn public(&self, number: u8) -> String {
        let (key, _) = PrivateKey::load_or_create(Path::new(&self.file(number))).expect("a key");
        key.public().to_string()
    }
}

/// The line that names a host to another one.
pub fn peer(keys: &Keys, number: u8, networks: &str, rest: &str) -> String {
    format!("tuntap-router-trunk-peer = {} {networks} {rest}", keys.public(number))
}

/// An Emperor for a host with its key, that waits for trunks.
pub fn emperor(keys: &Keys, number: u8) -> EmperorIni {
    keys.public(number);
    EmperorIni::new(Uwsgi::usual(), Subject::Ours)
        .address(inside(number, 1))
        .mtu(8188)
        .line(format!("tuntap-router-key = {}", keys.file(number)))
        .line(format!("tuntap-router-trunk = {}:{PORT}", host(number)))
}

/// Two hosts that can reach each other.
pub fn two_hosts() -> (Netns, Netns) {
    let (first, second) = (Netns::new(), Netns::new());
    first.join(&format!("{}/24", host(1)), &second, &format!("{}/24", host(2)));
    (first, second)
}

/// Hosts on one network, which has a namespace of its own.
pub fn hosts<const N: usize>() -> (Netns, [Netns; N]) {
    let lan = Netns::new();
    lan.sh("ip link add br0 type bridge");
    lan.sh("ip link set br0 up");
    let mut number = 0;
    let hosts = [(); N].map(|()| {
        number += 1;
        let host_net = Netns::new();
        lan.sh(&format!("ip link add port{number} type veth peer name veth0 netns {}", host_net.name()));
        lan.sh(&format!("ip link set port{number} master br0 up"));
        host_net.sh(&format!("ip addr add {}/24 dev veth0", host(number)));
        host_net.sh("ip link set veth0 up");
        host_net
    });
    (lan, hosts)
}

/// Two hosts whose routers have a trunk. The second one dials.
#[track_caller]
pub fn two_routers(keys: &Keys) -> (Emperor, Emperor) {
    two_routers_with(keys, &[])
}

/// The same with further lines for the first one.
#[track_caller]
pub fn two_routers_with(keys: &Keys, lines: &[&str]) -> (Emperor, Emperor) {
    let (first, second) = two_hosts();
    let here = emperor(keys, 1).lines(lines).line(peer(keys, 2, "10.77.0.0/16", "")).start_in(first);
    let address = format!("{}:{PORT}", host(1));
    let there = emperor(keys, 2).line(peer(keys, 1, "10.77.0.0/16", &address)).start_in(second);
    wait_open(&here, 1);
    wait_open(&there, 1);
    (here, there)
}

/// Waits until so many trunks of a router are open.
#[track_caller]
pub fn wait_open(emperor: &Emperor, count: usize) {
    emperor.wait_for_stats("its trunks are open", |stats| {
        trunks(stats).iter().filter(|trunk| trunk["state"] == "open").count() == count
    });
}

pub fn trunks(stats: &Stats) -> &[Value] {
    stats.0["trunks"].as_array().map_or(&[], Vec::as_slice)
}

/// The number of a router's only trunk.
pub fn number(emperor: &Emperor, pointer: &str) -> u64 {
    trunks(&emperor.stats())[0].pointer(pointer).and_then(Value::as_u64).expect("a number")
}

pub fn vassal(number: u8, name: &str, address: Ipv4Addr) -> VassalIni {
    VassalIni::new(Uwsgi::usual(), Subject::Ours, name, address, inside(number, 1))
}

/// Starts a vassal of a host, and waits until it is attached.
#[track_caller]
pub fn start_vassal(emperor: &Emperor, number: u8, last: u8) -> Net {
    let address = inside(number, last);
    let net = emperor.start_vassal(&vassal(number, &format!("v{last}"), address));
    emperor.wait_for_stats("the vassal is attached", |stats| is_attached(stats, address));
    net
}

/// Waits until pings pass.
#[track_caller]
pub fn wait_for_pings(net: &Net, to: Ipv4Addr) {
    wait::until_true("pings pass", wait::LONG, || pings_answered(net, to, 1, &["-W", "1"]) == 1);
}

/// The trunk process of an Emperor: the child of its master that holds the listener of trunks.
#[track_caller]
pub fn agent_pid(emperor: &Emperor) -> i32 {
    let listening = emperor.netns.sh("ss -Hltnp sport = :4000");
    let mut pids = listening.split("pid=").skip(1).filter_map(|rest| rest.split(',').next()?.parse().ok());
    // Master and Emperor have the listener, too.
    let others = [emperor.router_pid(), emperor.master_pid(), emperor.emperor_pid()];
    pids.find(|pid| !others.contains(pid)).expect("it listens")
}

/// Reloads an instance, and waits until the next image has a router.
#[track_caller]
pub fn reload(emperor: &Emperor) {
    let router = emperor.router_pid();
    emperor.signal(Signal::SIGHUP);
    wait::until_true("the next image has a router", wait::LONG, || {
        emperor.try_stats().is_ok_and(|stats| stats.router_pid() != router)
    });
}
