//! What a kernel does on a link by itself: it looks for routers and for other holders of its address, and announces its
//! multicast groups. Nobody answers, and nobody needs to.

use crate::common::emperor::{EMPEROR, Emperor, V1};
use crate::common::netns::Net;
use crate::common::probe::{is_cut_off, is_reachable, pings_answered};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;
use crate::world::{EMPEROR_6, V1_6, assert_addresses, emperor, vassal};

/// Messages of neighbour discovery and of multicast listeners that the namespace has sent.
fn messages_sent(net: &Net) -> u64 {
    let counters = net.sh("cat /proc/net/snmp6");
    let sent = counters.lines().filter_map(|line| {
        let (name, count) = line.split_once(char::is_whitespace)?;
        ["Icmp6OutRouterSolicits", "Icmp6OutNeighborSolicits", "Icmp6OutMLDv2Reports"]
            .contains(&name)
            .then(|| count.trim().parse::<u64>().ok())?
    });
    sent.sum()
}

/// A vassal that leaves IPv6 to its kernel.
fn ipv4_vassal() -> VassalIni {
    VassalIni::new(Uwsgi::usual(), Subject::Ours, "v1", V1, EMPEROR)
}

/// Lines of the router about peers and addresses.
fn router_lines(emperor: &Emperor) -> usize {
    emperor.log.text().lines().filter(|line| line.contains("[tuntap-router]")).count()
}

#[test]
fn link_local_addresses_claim_nothing_and_are_not_logged() {
    let emperor = emperor().start();
    let vassal = ipv4_vassal().with_ipv6();
    let net = emperor.start_attached(&vassal);
    assert!(net.sh("ip -6 addr show dev uwsgi0").contains("fe80::"), "the kernel has made one");
    let lines = router_lines(&emperor);
    // The first solicitation waits for a second at most; others follow.
    wait::until_true("the kernel has asked for a router", wait::LONG, || messages_sent(&net) > 0);
    for _ in 0..20 {
        net.sh("ip link set uwsgi0 down");
        net.sh("ip link set uwsgi0 up");
    }
    net.output(&["ping", "-q", "-c", "3", "-i", "0.1", "-W", "1", "ff02::2%uwsgi0"]);
    assert!(is_reachable(&net, EMPEROR), "IPv4 passes");
    let stats = emperor.wait_for_stats("they are dropped", |stats| stats.drops_of(V1, "invalid_source") >= 3);
    assert_eq!(stats.addresses(V1).len(), 1);
    assert_eq!(router_lines(&emperor), lines, "{}", emperor.log.tail());
}

#[test]
fn vassal_without_ipv6_sends_none() {
    let emperor = emperor().start();
    let vassal = ipv4_vassal();
    let net = emperor.start_attached(&vassal);
    assert_eq!(pings_answered(&net, EMPEROR, 5, &[]), 5);
    assert!(is_cut_off(&emperor.netns, V1_6));
    let stats = emperor.stats();
    assert_eq!(stats.drops_of(V1, "invalid_source"), 0);
    assert_addresses(&emperor, &[V1.into()]);
}

/// The device has no link layer: whoever is on it is reached without being asked for.
#[test]
fn neighbours_are_reached_without_being_looked_for() {
    let emperor = emperor().start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    assert_eq!(pings_answered(&net, EMPEROR_6, 3, &[]), 3);
    for (net, device) in [(&net, "uwsgi0"), (&*emperor.netns, "emperor0")] {
        assert!(net.sh(&format!("ip link show dev {device}")).contains("NOARP"));
        let neighbours = net.sh(&format!("ip -6 neigh show dev {device} nud reachable"));
        assert!(neighbours.is_empty(), "{neighbours}");
    }
    let solicitations = |net: &Net| {
        let counters = net.sh("cat /proc/net/snmp6");
        let line = counters.lines().find(|line| line.starts_with("Icmp6InNeighborSolicits")).expect("a counter");
        line.split_whitespace().last().map(str::to_owned)
    };
    assert_eq!(solicitations(&net).as_deref(), Some("0"));
}

/// Duplicate address detection asks from the unspecified address, and takes silence for a yes.
#[test]
fn address_is_ready_though_nobody_says_that_it_is_free() {
    let emperor = emperor().start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    net.sh("ip -6 addr add fd00:77::99/64 dev uwsgi0");
    wait::until_true("the address is no longer tentative", wait::LONG, || {
        !net.sh("ip -6 addr show dev uwsgi0").contains("tentative")
    });
    assert_eq!(pings_answered(&net, EMPEROR_6, 3, &["-I", "fd00:77::99"]), 3);
}
