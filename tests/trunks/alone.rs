//! Routers whose `tuntap-router` names an address in place of a socket: they wait there for routers of other hosts, and have
//! no socket for vassals.

use std::path::Path;

use crate::common::emperor::{Emperor, EmperorIni};
use crate::common::netns::Netns;
use crate::common::probe::tcp_round_trip;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::world::{
    Keys, PORT, emperor, host, hosts, inside, peer, reload, start_vassal, two_hosts, wait_for_pings, wait_open,
};

/// An Emperor for a host with its key, whose router waits at an address for trunks alone.
fn alone(keys: &Keys, number: u8, address: &str) -> EmperorIni {
    keys.public(number);
    EmperorIni::new(Uwsgi::usual(), Subject::Ours)
        .router(&format!("emperor0 {address} {{dir}}/stats.sock"))
        .address(inside(number, 1))
        .mtu(8188)
        .line(format!("tuntap-router-key = {}", keys.file(number)))
}

/// The names of files that look like an address, where a router could have made them.
fn address_files(emperor: &Emperor) -> Vec<String> {
    let folders = [emperor.path(""), Path::new("/proc").join(emperor.master_pid().to_string()).join("cwd")];
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("a folder").flatten());
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains(':') || name.ends_with(".control")).collect()
}

#[test]
fn router_with_an_address_joins_its_host_to_vassals_of_others() {
    let keys = Keys::new();
    let (first, second) = two_hosts();
    let address = format!("{}:{PORT}", host(1));
    let here = alone(&keys, 1, &address)
        .line(format!("tuntap-router-address = {}/24", inside(1, 1)))
        .line(peer(&keys, 2, "10.77.2.0/24", ""))
        .start_in(first);
    let there = emperor(&keys, 2)
        .line(format!("tuntap-router-address = {}/24", inside(2, 1)))
        .line(peer(&keys, 1, "10.77.1.0/24", &address))
        .start_in(second);
    let far = start_vassal(&there, 2, 2);
    let assert_works = |what: &str| {
        wait_open(&here, 1);
        here.netns.sh("ip route replace 10.77.2.0/24 dev emperor0");
        wait_for_pings(&here.netns, inside(2, 2));
        assert!(tcp_round_trip(&far, inside(2, 2), &here.netns, 500_000).expect("TCP"), "{what}");
        let stats = here.stats();
        assert!(stats.0["socket"].is_null(), "{what}: {}", stats.0["socket"]);
        assert_eq!(address_files(&here), Vec::<String>::new(), "{what}");
    };
    assert_works("at the start");
    here.kill_router();
    assert_works("after the router's death");
    reload(&here);
    assert_works("after a reload");
    // The doctor knows it by its device, and misses no socket.
    let ini = here.path("emperor.ini").to_string_lossy().into_owned();
    let plugins = Uwsgi::usual().mounted_plugins(Subject::Ours);
    let words = ["--plugins-dir", &plugins, "--plugin", "tuntap", "--tuntap-doctor", &ini].map(str::to_owned);
    let text = here.beside().arguments(words).output().text();
    assert!(text.contains("a trunk to router") && !text.contains("socket"), "{text}");
    let log = here.log.text();
    assert!(log.contains("emperor0: it has no unix socket, so that vassals of this host can't join it"), "{log}");
    assert!(!log.contains("the sandbox denied"), "{log}");
}

#[test]
fn router_with_an_address_of_ipv6_takes_its_options_for_trunks_and_control() {
    let keys = Keys::new();
    let (first, second) = (Netns::new().with_ipv6(), Netns::new().with_ipv6());
    first.join("fd00:99::1/64", &second, "fd00:99::2/64");
    let address = format!("[fd00:99::1]:{PORT}");
    let here = alone(&keys, 1, &address)
        .line("tuntap-router-trunk = 127.0.0.1:4001")
        .line("tuntap-router-control = {dir}/control")
        .line(peer(&keys, 2, "10.77.0.0/16", ""))
        .start_in(first);
    let there =
        alone(&keys, 2, &format!("[::1]:{PORT}")).line(peer(&keys, 1, "10.77.0.0/16", &address)).start_in(second);
    wait_open(&here, 1);
    wait_open(&there, 1);
    assert!(here.path("control").exists());
    let listening = here.netns.sh("ss -Hltn");
    assert!(listening.contains("[fd00:99::1]:4000") && listening.contains("127.0.0.1:4001"), "{listening}");
    assert_eq!(address_files(&here), Vec::<String>::new());
}

/// A host that has nothing but its router: vassals of others reach each other through it.
#[test]
fn host_without_vassals_relays() {
    let keys = Keys::new();
    let (_lan, [one, two, three]) = hosts();
    let address = format!("{}:{PORT}", host(2));
    let between = alone(&keys, 2, &address)
        .line(peer(&keys, 1, "10.77.1.0/24", "relay"))
        .line(peer(&keys, 3, "10.77.3.0/24", "relay"))
        .start_in(two);
    let ends: Vec<_> = [(1, one), (3, three)]
        .into_iter()
        .map(|(number, netns)| emperor(&keys, number).line(peer(&keys, 2, "10.77.0.0/16", &address)).start_in(netns))
        .collect();
    wait_open(&between, 2);
    let near = start_vassal(&ends[0], 1, 2);
    let far = start_vassal(&ends[1], 3, 2);
    wait_for_pings(&near, inside(3, 2));
    assert!(tcp_round_trip(&far, inside(3, 2), &near, 500_000).expect("TCP"));
}

#[test]
fn address_without_keys_stops_the_start_unless_it_is_loopback() {
    let keys = Keys::new();
    for (address, expected) in [
        (
            "192.0.2.1:4000",
            "tuntap-router = emperor0 192.0.2.1:4000: 192.0.2.1:4000 is an address for routers of other hosts",
        ),
        ("[::]:4000", "tuntap-router = emperor0 [::]:4000: [::]:4000 is an address for routers of other hosts"),
        ("localhost:4000", "\"localhost:4000\" is no address for trunks"),
        ("127.0.0.1:70000", "\"127.0.0.1:70000\" is no address for trunks"),
    ] {
        let mut emperor = alone(&keys, 1, address).launch();
        assert!(!emperor.wait_for_exit().success(), "{address}");
        let log = emperor.log.text();
        assert!(log.contains(expected), "{expected}: {log}");
        assert!(!emperor.path(address).exists());
    }
    let emperor = alone(&keys, 1, "127.0.0.1:4000").start();
    emperor.log.wait_for("waiting on 127.0.0.1:4000 for routers of other hosts, of which there are none", wait::SHORT);
}
