//! The same vassal has the same addresses, whatever was started anew in the meantime.

use std::net::Ipv4Addr;

use nix::sys::signal::Signal;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni};
use crate::common::processes::{freeze, send, thaw};
use crate::common::raw_peer::RawPeer;
use crate::common::stats::is_attached;
use crate::common::uwsgi::Subject;
use crate::common::wait;
use crate::world::{Vassal, emperor, netns_with_v6, pings, v4, v6, with_v6};

/// The address of a router that is not part of the Emperor.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

#[test]
fn stopped_and_started_vassal() {
    let emperor = with_v6(emperor()).start_in(netns_with_v6());
    let others: Vec<_> = ["a", "b"].map(|name| Vassal::auto(&emperor, name)).into();
    others.iter().for_each(|other| _ = other.start(&emperor));
    let vassal = Vassal::auto(&emperor, "app");
    let net = vassal.start(&emperor);
    let before = (v4(&net), v6(&net));
    vassal.stop(&emperor);
    Vassal::auto(&emperor, "new").start(&emperor);
    let net = vassal.start(&emperor);
    assert_eq!((v4(&net), v6(&net)), before);
    assert!(pings(&net, EMPEROR));
}

#[test]
fn killed_vassal() {
    let emperor = emperor().start();
    let vassal = Vassal::auto(&emperor, "app");
    let before = v4(&vassal.start(&emperor));
    let mark = emperor.log.mark();
    send(emperor.vassal_pid("app").expect("it runs"), Signal::SIGKILL);
    emperor.wait_until_ready(mark, "app");
    assert_eq!(v4(&emperor.vassal_net("app")), before);
}

#[test]
fn killed_router() {
    // No peer may claim an address that no lease covers, but the router may assign it.
    let emperor = emperor().line("tuntap-router-lease = 192.168.0.9 1000").start();
    let vassal = Vassal::auto(&emperor, "app");
    let net = vassal.start(&emperor);
    let before = v4(&net);
    emperor.kill_router();
    wait::until_true("the vassal is back", wait::LONG, || pings(&net, EMPEROR));
    assert!(emperor.stats().peer(before).is_some());
    // The next router knows whose address this is.
    let mark = emperor.log.mark();
    send(emperor.vassal_pid("app").expect("it runs"), Signal::SIGKILL);
    emperor.wait_until_ready(mark, "app");
    assert_eq!(v4(&emperor.vassal_net("app")), before);
}

/// A new router that replaces one for good, as when the operator starts another Emperor, knows nothing of the vassals:
/// they claim the addresses that they have.
#[test]
fn vassal_claims_its_addresses_from_a_router_that_knows_nothing() {
    let routers = with_v6(emperor().line("tuntap-router-lease = 192.168.0.9 1000").line("chmod-socket = 666"));
    let emperor = routers.start_in(netns_with_v6());
    // The vassal's router and its Emperor are two instances.
    let second = EmperorIni::bare(emperor.uwsgi, Subject::Ours)
        .router("second0 {dir}/t.sock {dir}/stats.sock")
        .lines(&[
            "master = true",
            "chmod-socket = 666",
            "tuntap-router-address = 10.9.0.1/24",
            "tuntap-router-address = fd00:99::1/64",
            "tuntap-router-lease = 10.9.0.200 1000",
        ])
        .address(ROUTER);
    let mut router = second.start_in(netns_with_v6());
    let socket = router.socket();
    let vassal =
        Vassal::bare(&emperor, Subject::Ours, "app").line(format!("tuntap-device = uwsgi0 {} auto", socket.display()));
    let net = vassal.start(&emperor);
    let before = (v4(&net), v6(&net));
    assert!(pings(&net, ROUTER));
    router.signal(Signal::SIGHUP);
    emperor.log.wait_for("looking for it", wait::LONG);
    emperor.log.wait_for("joined the router at", wait::LONG);
    wait::until_true("it has its address again", wait::LONG, || {
        router.try_stats().is_ok_and(|stats| stats.peer(before.0).is_some())
    });
    wait::until_true("and its network", wait::LONG, || pings(&net, ROUTER));
    assert_eq!((v4(&net), v6(&net)), before);
    let held: Vec<_> = router.stats().peers()[0]["addresses"].as_array().expect("a list").clone();
    assert_eq!(held, [before.0.to_string(), before.1.to_string()]);
    // The vassal came back without privileges and now starts with them. It is still the same device to the router.
    vassal.stop(&emperor);
    let net = vassal.start(&emperor);
    assert_eq!((v4(&net), v6(&net)), before);
    assert!(router.exit_status().is_none());
}

/// Another vassal has got a vassal's address. The vassal says so, and has the address again as soon as it is free.
#[test]
fn lost_address_is_named_and_tried_again() {
    let emperor = emperor().start();
    let mut router = EmperorIni::bare(emperor.uwsgi, Subject::Ours)
        .router("second0 {dir}/t.sock {dir}/stats.sock")
        .lines(&["master = true", "chmod-socket = 666", "tuntap-router-address = 10.9.0.1/24"])
        .address(ROUTER)
        .start();
    let vassal = Vassal::bare(&emperor, Subject::Ours, "app")
        .line(format!("tuntap-device = uwsgi0 {} auto", router.socket().display()));
    let net = vassal.start(&emperor);
    let address = v4(&net);
    wait::until_true("it is attached", wait::LONG, || is_attached(&router.stats(), address));
    // While the vassal is stopped, its router is started anew and assigns the address to another one.
    let pid = emperor.vassal_pid("app").expect("it runs");
    freeze(pid);
    let before = router.router_pid();
    router.signal(Signal::SIGHUP);
    wait::until_true("there is a new router", wait::LONG, || {
        router.try_stats().is_ok_and(|stats| stats.router_pid() != before)
    });
    let thief = RawPeer::registered(&router.socket(), address, ROUTER);
    thaw(pid);
    let line = format!("yet: it refuses {address}: another peer holds it");
    emperor.log.wait_for(&line, wait::LONG);
    drop(thief);
    wait::until_true("it has its address again", wait::LONG, || pings(&net, ROUTER));
    assert_eq!(emperor.log.text().matches(&line).count(), 1, "once, however often it tries");
    assert!(router.exit_status().is_none());
}

/// A router that changes its configuration by a reload, and a vassal of it.
struct Changed {
    emperor: Emperor,
    router: Emperor,
    vassal: Vassal,
}

impl Changed {
    fn new(lines: &[&str]) -> Self {
        let emperor = emperor().start();
        let router = EmperorIni::bare(emperor.uwsgi, Subject::Ours)
            .router("second0 {dir}/t.sock {dir}/stats.sock")
            .lines(&["master = true", "chmod-socket = 666"])
            .lines(lines)
            .address(ROUTER)
            .start();
        let vassal = Vassal::bare(&emperor, Subject::Ours, "app")
            .line(format!("tuntap-device = uwsgi0 {} auto", router.socket().display()));
        Self { emperor, router, vassal }
    }

    /// Reloads the router with another text in its ini file.
    #[track_caller]
    fn reload(&self, old: &str, new: &str) {
        let ini = self.router.path("emperor.ini");
        let text = std::fs::read_to_string(&ini).expect("own file");
        assert!(text.contains(old), "{old}");
        std::fs::write(&ini, text.replace(old, new)).expect("own file");
        self.router.signal(Signal::SIGHUP);
    }

    /// Waits until the vassal has ended and its Emperor has started it with one of these addresses.
    #[track_caller]
    fn assert_started_anew(&self, because: &str, is_new: impl Fn(Ipv4Addr) -> bool) {
        self.emperor.log.wait_for(because, wait::LONG);
        self.emperor.log.wait_for("A new start gets it others; this instance ends", wait::SHORT);
        wait::until_true("it has a new address", wait::LONG * 2, || {
            self.router.try_stats().is_ok_and(|stats| {
                let held = stats.peers().iter().find_map(|peer| peer["addr"].as_str()?.parse().ok());
                held.is_some_and(&is_new)
            })
        });
    }
}

#[test]
fn vassal_whose_network_is_another_one_is_started_anew() {
    let changed = Changed::new(&["tuntap-router-address = 10.9.0.1/24"]);
    changed.vassal.start(&changed.emperor);
    changed.reload("tuntap-router-address = 10.9.0.1/24", "tuntap-router-address = 10.8.0.1/24");
    changed.assert_started_anew("it is no address for vassals of this router", |it| it.octets()[..3] == [10, 8, 0]);
}

#[test]
fn vassal_whose_address_is_leased_to_others_is_started_anew() {
    let changed = Changed::new(&["tuntap-router-address = 10.9.0.1/24", "tuntap-router-lease = 10.9.0.200 1000"]);
    let before = v4(&changed.vassal.start(&changed.emperor));
    changed.reload("tuntap-router-lease = 10.9.0.200 1000", &format!("tuntap-router-lease = {before} 1000"));
    let because = format!("it refuses {before}: it is not leased to this peer");
    changed.assert_started_anew(&because, |it| it != before && it.octets()[..3] == [10, 9, 0]);
}

/// The device gets the new address, if the instance may still change it. Otherwise the log says what to do.
#[test]
fn mtu_that_a_router_tells_later() {
    for stays_root in [true, false] {
        let mut changed = Changed::new(&["tuntap-router-address = 10.9.0.1/24"]);
        if stays_root {
            changed.vassal = changed.vassal.stays_root();
        }
        let net = changed.vassal.start(&changed.emperor);
        changed.reload("mtu 1500 up", "mtu 1400 up");
        let line = if stays_root {
            "router's MTU is 1400 now, and its own"
        } else {
            "until the instance is stopped and started"
        };
        changed.emperor.log.wait_for(line, wait::LONG);
        changed.emperor.log.wait_for("joined the router at", wait::LONG);
        wait::until_true("and its network", wait::LONG, || pings(&net, ROUTER));
        let mtu = if stays_root { " mtu 1400 " } else { " mtu 1500 " };
        assert!(net.sh("ip -o link show dev uwsgi0").contains(mtu), "stays root: {stays_root}");
    }
}

#[test]
fn reloaded_vassal_keeps_its_addresses() {
    let emperor = with_v6(emperor()).start_in(netns_with_v6());
    let net = Vassal::auto(&emperor, "app").start(&emperor);
    let before = (v4(&net), v6(&net));
    for _ in 0..2 {
        let mark = emperor.log.mark();
        emperor.touch("app");
        emperor.wait_until_ready(mark, "app");
        assert_eq!((v4(&net), v6(&net)), before);
        assert!(pings(&net, EMPEROR));
    }
    assert_eq!(emperor.log.text().matches(&format!("peer {} joined", before.0)).count(), 1);
    // What the image inherited is enough for it to come back.
    emperor.kill_router();
    wait::until_true("the vassal is back", wait::LONG, || pings(&net, EMPEROR));
}

#[test]
fn lease_fixes_the_address() {
    let emperor =
        emperor().lines(&["tuntap-use-credentials = true", "tuntap-router-lease = 192.168.0.77 30001"]).start();
    let start =
        |name: &str, uid| Vassal::auto(&emperor, name).uid(uid).line("tuntap-use-credentials = true").start(&emperor);
    let (alice, bob) = (start("alice", 30_001), start("bob", 30_002));
    assert_eq!(v4(&alice).octets(), [192, 168, 0, 77]);
    assert!(pings(&alice, EMPEROR) && pings(&bob, EMPEROR), "an automatic lease is as good as a written one");
    assert_eq!(emperor.stats().of_peer(v4(&bob), "uid"), 30_002);
}

/// A vassal that reloads with other rules tells them on another connection, and then they stay.
#[test]
fn killed_router_leaves_the_rules_of_the_first_packet() {
    const RULE: &str = "tuntap-device-rule = out any 203.0.113.0/24 deny";
    let emperor = emperor().line("chmod-socket = 666").start();
    let vassal = Vassal::auto(&emperor, "app").line(RULE);
    let net = vassal.start(&emperor);
    let address = v4(&net);
    emperor.wait_for_stats("the vassal is attached", |stats| is_attached(stats, address));
    let mark = emperor.log.mark();
    vassal.line("tuntap-device-rule = out any 198.51.100.0/24 deny").add(&emperor);
    emperor.touch("app");
    emperor.wait_until_ready(mark, "app");
    emperor.wait_for_stats("the other rules apply", |stats| stats.peer(address).is_some_and(|peer| peer["rules"] == 2));
    assert!(pings(&net, EMPEROR));
    emperor.kill_router();
    let stats = emperor.wait_for_stats("the vassal is attached again", |stats| is_attached(stats, address));
    assert_eq!(stats.of_peer(address, "rules"), 2);
}
