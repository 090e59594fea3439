//! A network in two lines.

use std::net::IpAddr;

use crate::common::emperor::{EMPEROR, EmperorIni};
use crate::common::netns::Net;
use crate::common::probe::tcp_round_trip;
use crate::common::stats::is_attached;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::world::{EMPEROR_V6, Vassal, addresses, emperor, emperor_on, netns_with_v6, pings, v4, v6, with_v6};

#[track_caller]
fn assert_two_lines_are_enough(uwsgi: Uwsgi) {
    let emperor = with_v6(emperor_on(uwsgi)).start_in(netns_with_v6());
    let net = Vassal::auto(&emperor, "app").start(&emperor);
    let (v4, v6) = (v4(&net), v6(&net));
    assert_eq!(addresses(&net, "uwsgi0"), [format!("{v4}/24"), format!("{v6}/64")]);
    assert!(pings(&net, EMPEROR) && pings(&net, EMPEROR_V6));
    assert!(pings(&emperor.netns, v4) && pings(&emperor.netns, v6));
    assert_eq!(tcp_round_trip(&net, v4, &emperor.netns, 1_000_000).ok(), Some(true));
    assert!(pings(&net, std::net::Ipv4Addr::LOCALHOST), "loopback is up");
    assert!(is_attached(&emperor.stats(), v4), "with all that belongs to a device of ours");
    assert!(emperor.log.text().contains(&format!("peer {v4} joined")));
    for (family, gateway) in [("-4", EMPEROR.to_string()), ("-6", EMPEROR_V6.to_string())] {
        let routes = net.sh(&format!("ip {family} route show default"));
        assert!(routes.starts_with(&format!("default via {gateway} dev uwsgi0")), "{routes}");
    }
}

#[test]
fn two_lines_are_a_network() {
    assert_two_lines_are_enough(Uwsgi::usual());
}

#[test]
fn two_lines_are_a_network_on_the_other_uwsgi() {
    assert_two_lines_are_enough(Uwsgi::usual().other());
}

#[test]
fn hooks_of_the_jail_find_the_address() {
    let emperor = emperor().start();
    let vassal = Vassal::auto(&emperor, "app")
        .line("exec-in-jail = ip -o addr show dev uwsgi0 >{dir}/in-jail")
        .line("hook-post-jail = exec:ip -o addr show dev uwsgi0 >{dir}/hook")
        .line("exec-post-jail = ip -o route show default >{dir}/exec")
        .line("exec-as-root = ping -q -c 1 -W 5 192.168.0.1");
    let net = vassal.start(&emperor);
    let found = |name: &str| std::fs::read_to_string(emperor.path(name)).expect("the hook ran");
    for hook in ["in-jail", "hook"] {
        assert!(found(hook).contains(&format!("{}/24", v4(&net))), "{hook}: {}", found(hook));
    }
    assert!(found("exec").contains("default via 192.168.0.1 dev uwsgi0"), "{}", found("exec"));
}

/// With these options uWSGI binds sockets before it runs the hooks that other devices are made in.
#[test]
fn sockets_are_bound_to_the_address_that_the_router_chose() {
    for option in ["chown-socket = 65534", "drop-after-init = true", "drop-after-apps = true"] {
        let emperor = emperor()
            .line("tuntap-use-credentials = true")
            .line("tuntap-router-lease = 192.168.0.77 30001")
            .line("tuntap-router-lease-default = allow")
            .start();
        let vassal = Vassal::auto(&emperor, "app")
            .uid(30_001)
            .line("tuntap-use-credentials = true")
            .line("socket = 192.168.0.77:3032")
            .line(option);
        let net = vassal.start(&emperor);
        assert_eq!(v4(&net).octets(), [192, 168, 0, 77], "{option}");
        let listening = emperor
            .netns
            .run(|| std::net::TcpStream::connect_timeout(&([192, 168, 0, 77], 3032).into(), wait::SHORT).is_ok());
        assert!(listening, "{option}");
        assert_eq!(emperor.log.text().matches("made the device uwsgi0").count(), 1, "{option}");
    }
}

#[test]
fn mtu_is_the_routers() {
    let emperor = emperor().mtu(1400).start();
    let net = Vassal::auto(&emperor, "app").start(&emperor);
    let own = Vassal::auto(&emperor, "own").line("tuntap-device-mtu = 1300").start(&emperor);
    let link = |net: &Net, device: &str| net.sh(&format!("ip -o link show dev {device}"));
    assert!(link(&emperor.netns, "emperor0").contains(" mtu 1400 "));
    assert!(link(&net, "uwsgi0").contains(" mtu 1400 "), "{}", link(&net, "uwsgi0"));
    assert!(link(&own, "uwsgi0").contains(" mtu 1300 "), "{}", link(&own, "uwsgi0"));
}

/// Longer packets have no way to the router where they travel in frames.
#[test]
fn mtu_fits_a_frame() {
    let emperor = emperor().mtu(9000).start();
    let net = Vassal::auto(&emperor, "app").start(&emperor);
    assert!(net.sh("ip -o link show dev uwsgi0").contains(" mtu 8188 "));
    assert!(pings(&net, EMPEROR));
}

#[test]
fn router_that_is_too_narrow_for_ipv6_has_ipv4() {
    let emperor = with_v6(emperor()).mtu(1000).start_in(netns_with_v6());
    let net = Vassal::auto(&emperor, "app").start(&emperor);
    assert_eq!(addresses(&net, "uwsgi0"), [format!("{}/24", v4(&net))]);
    assert!(net.sh("ip -o link show dev uwsgi0").contains(" mtu 1000 "));
    assert!(pings(&net, EMPEROR));
    let line = "asked for ipv6 and doesn't get it: the router's device takes no packets of 1280 bytes";
    emperor.log.wait_for(line, wait::SHORT);
}

#[test]
fn own_gateways_come_before_the_routers() {
    let emperor = with_v6(emperor()).start_in(netns_with_v6());
    // One outside of the network, and one of 2^64: neither is an address that the router may choose for the vassal.
    let vassal = Vassal::auto(&emperor, "app")
        .line("tuntap-device-gateway = 10.9.9.9")
        .line("tuntap-device-gateway = uwsgi0 fd00:77::ffff:ffff");
    let net = vassal.start(&emperor);
    for (family, gateway) in [("-4", "10.9.9.9"), ("-6", "fd00:77::ffff:ffff")] {
        let routes = net.sh(&format!("ip {family} route show default"));
        assert!(routes.starts_with(&format!("default via {gateway} dev uwsgi0")), "{family}: {routes:?}");
        assert_eq!(routes.lines().count(), 1, "{routes}");
    }
    // A TUN device has no link layer: whatever next hop is named, the router is at the other end.
    assert!(pings(&net, EMPEROR) && pings(&net, EMPEROR_V6));
}

/// A router knows nothing of what the options of a vassal call its default router, and may choose that address.
#[test]
fn own_address_as_gateway_is_a_route_without_a_next_hop() {
    let emperor = with_v6(emperor())
        .line("tuntap-use-credentials = true")
        .lines(&["tuntap-router-lease = 192.168.0.77 30001", "tuntap-router-lease = fd00:77::77 30001"])
        .start_in(netns_with_v6());
    let vassal = Vassal::auto(&emperor, "app")
        .uid(30_001)
        .line("tuntap-use-credentials = true")
        .line("tuntap-device-gateway = 192.168.0.77")
        .line("tuntap-device-gateway = uwsgi0 fd00:77::77");
    let net = vassal.start(&emperor);
    assert_eq!(addresses(&net, "uwsgi0"), ["192.168.0.77/24", "fd00:77::77/64"]);
    for (family, gateway) in [("-4", "192.168.0.77"), ("-6", "fd00:77::77")] {
        let routes = net.sh(&format!("ip {family} route show default"));
        assert!(routes.starts_with("default dev uwsgi0"), "{family}: {routes:?}");
        emperor.log.wait_for(&format!("uwsgi0: its default router {gateway} is its own address"), wait::SHORT);
    }
    assert!(pings(&net, EMPEROR) && pings(&net, EMPEROR_V6));
}

#[test]
fn default_route_with_several_next_hops_stays() {
    let emperor = emperor().start();
    let vassal = Vassal::auto(&emperor, "app")
        .line("exec-pre-jail = ip link add d0 type veth peer name d1 && ip addr add 10.1.0.1/24 dev d0 && ip link set d0 up")
        .line("exec-pre-jail = ip route add default nexthop via 10.1.0.2 dev d0 nexthop via 10.1.0.3 dev d0");
    let net = vassal.start(&emperor);
    let routes = net.sh("ip -4 route show default");
    assert!(routes.contains("nexthop via 10.1.0.2") && !routes.contains("uwsgi0"), "{routes}");
}

#[test]
fn device_without_any_address_ends() {
    let emperor = with_v6(emperor()).start_in(netns_with_v6());
    let vassal = Vassal::bare(&emperor, Subject::Ours, "app")
        .line("tuntap-device = uwsgi0 {dir}/t.sock")
        .line("tuntap-device-address = fd00:77::22/64")
        .line("hook-pre-jail = write:/proc/sys/net/ipv6/conf/default/disable_ipv6 1")
        .line("hook-pre-jail = write:/proc/sys/net/ipv6/conf/all/disable_ipv6 1");
    vassal.add(&emperor);
    emperor.log.wait_for("[uwsgi-tuntap] uwsgi0: it has IPv6 addresses only, and no IPv6", wait::LONG);
    assert!(!emperor.log.text().contains("uwsgi0 has the address"));
}

#[test]
fn kernel_without_ipv6_has_ipv4() {
    let emperor = with_v6(emperor()).start_in(netns_with_v6());
    // The vassal's namespace inherits what is set for new interfaces, or not: a hook before the jail makes sure.
    let vassal = Vassal::auto(&emperor, "app")
        .line("hook-pre-jail = write:/proc/sys/net/ipv6/conf/default/disable_ipv6 1")
        .line("hook-pre-jail = write:/proc/sys/net/ipv6/conf/all/disable_ipv6 1");
    let net = vassal.start(&emperor);
    assert_eq!(addresses(&net, "uwsgi0").len(), 1);
    assert!(pings(&net, EMPEROR));
    let log = emperor.log.text();
    assert_eq!(log.matches("IPv6 is turned off in this namespace").count(), 1);
    assert_eq!(log.matches("uwsgi0 has the address").count(), 1, "the log names what it has");
}

#[test]
fn several_vassals_reach_each_other() {
    let emperor = emperor().start();
    let nets: Vec<_> = ["a", "b", "c"].iter().map(|name| Vassal::auto(&emperor, name).start(&emperor)).collect();
    let found: std::collections::BTreeSet<_> = nets.iter().map(v4).collect();
    assert_eq!(found.len(), 3);
    for address in found {
        assert!(nets.iter().all(|net| pings(net, address)), "{address}");
    }
}

/// A vassal that stays root runs the hooks several times, and still gets each address and route once.
#[test]
fn vassal_that_stays_root_has_one_address() {
    let emperor = emperor().start();
    let net = Vassal::auto(&emperor, "app").stays_root().start(&emperor);
    assert!(pings(&net, EMPEROR));
    assert_eq!(emperor.stats().peers().len(), 1);
}

/// In whatever way uWSGI gets to its workers, it makes one device and configures it once.
#[test]
fn vassals_of_all_kinds_of_starts_have_one_address() {
    let emperor = emperor().start();
    let options = [
        "master-as-root",
        "refork",
        "refork-post-jail",
        "refork-as-root",
        "drop-after-apps",
        "drop-after-init",
        "lazy-apps",
    ];
    for option in options {
        let vassal = Vassal::auto(&emperor, option).line(format!("{option} = true"));
        vassal.add(&emperor);
        let net = wait::until(&format!("{option}: the vassal has a network"), wait::LONG, || {
            let pid = emperor.vassal_pid(option)?;
            Net::of_process(pid).ok().filter(|net| net.has_device("uwsgi0") && pings(net, EMPEROR))
        });
        assert!(pings(&emperor.netns, v4(&net)), "{option}");
        vassal.stop(&emperor);
    }
    emperor.wait_for_stats("all have left", |stats| stats.peers().is_empty());
    let joined = emperor.log.text().matches(" joined (pid").count();
    assert_eq!(joined, options.len(), "each asked once");
}

#[test]
fn instance_without_an_emperor_has_a_network() {
    let emperor = emperor().start();
    let ini = EmperorIni::bare(emperor.uwsgi, Subject::Ours)
        .lines(&["unshare = net", "processes = 1", "master = true", "socket = 127.0.0.1:3031", "uid = 65534"])
        .line(format!("tuntap-device = uwsgi0 {} auto", emperor.socket().display()));
    let instance = ini.launch();
    let net = wait::until("it has a network", wait::LONG, || {
        let pid = instance.family().master_of("emperor.ini")?;
        Net::of_process(pid).ok().filter(|net| net.has_device("uwsgi0") && pings(net, EMPEROR))
    });
    assert!(pings(&emperor.netns, v4(&net)));
}

#[test]
fn sandboxed_router_gives_addresses() {
    let emperor = emperor().line("tuntap-router-sandbox = strict").line("tuntap-use-credentials = true").start();
    let router = emperor.router_pid();
    let net = Vassal::auto(&emperor, "app").line("tuntap-use-credentials = true").start(&emperor);
    assert!(pings(&net, EMPEROR));
    assert_eq!(emperor.router_pid(), router);
    assert_eq!(emperor.stats().0["sandbox"]["capabilities"], serde_json::json!([]));
    assert_eq!(emperor.stats().of_peer(v4(&net), "uid"), 65534);
}

/// Packets leave by the device whose address they come from: a router takes no others.
#[test]
fn two_devices_are_reached_by_both_their_addresses() {
    let emperor = with_v6(emperor()).start_in(netns_with_v6());
    let vassal = Vassal::auto(&emperor, "app").line("tuntap-device = uwsgi1 {dir}/t.sock auto");
    let net = vassal.start(&emperor);
    let (first, second) = (addresses(&net, "uwsgi0"), addresses(&net, "uwsgi1"));
    assert!(first.len() == 2 && second.len() == 2 && first != second, "{first:?} {second:?}");
    for family in ["-4", "-6"] {
        let routes = net.sh(&format!("ip {family} route show default"));
        assert!(routes.lines().count() == 1 && routes.contains("dev uwsgi0"), "{routes}");
    }
    wait::until_true("both are peers", wait::SHORT, || emperor.stats().peers().len() == 2);
    for address in first.iter().chain(&second) {
        let address: IpAddr = address.split('/').next().and_then(|word| word.parse().ok()).expect("an address");
        assert!(pings(&emperor.netns, address), "{address}: {}", net.sh("ip rule"));
    }
    assert!(pings(&net, EMPEROR) && pings(&net, EMPEROR_V6));
    assert_eq!(emperor.stats().drops("spoofed_source"), 0);
}

/// Two routers, each with hosts behind it that only it reaches, and a gateway in the ini file for both devices.
#[test]
fn two_devices_of_two_routers_answer_beyond_their_networks() {
    let emperor = emperor().start();
    let router = EmperorIni::bare(emperor.uwsgi, Subject::Ours)
        .router("second0 {dir}/t.sock {dir}/stats.sock")
        .lines(&["master = true", "chmod-socket = 666", "tuntap-router-address = 10.9.0.1/24"])
        .address(std::net::Ipv4Addr::new(10, 9, 0, 1))
        .start();
    // Requests from these addresses come from beyond the devices' networks.
    emperor.netns.sh("ip addr add 10.50.0.1/32 dev lo");
    router.netns.sh("ip addr add 10.60.0.1/32 dev lo");
    let vassal = Vassal::bare(&emperor, Subject::Ours, "app")
        .line("tuntap-device = uwsgi0 {dir}/t.sock")
        .line(format!("tuntap-device = uwsgi1 {}", router.socket().display()))
        .line("tuntap-device-address = uwsgi0 192.168.0.2/24")
        .line("tuntap-device-address = uwsgi1 10.9.0.2/24")
        .line("tuntap-device-gateway = uwsgi0 192.168.0.1")
        .line("tuntap-device-gateway = uwsgi1 10.9.0.1");
    let net = vassal.start(&emperor);
    let routes = net.sh("ip -4 route show default");
    assert!(routes.starts_with("default via 192.168.0.1 dev uwsgi0") && routes.lines().count() == 1, "{routes}");
    for (from, source, to) in [(&emperor.netns, "10.50.0.1", "192.168.0.2"), (&router.netns, "10.60.0.1", "10.9.0.2")] {
        let answered = from.output(&["ping", "-q", "-n", "-c", "1", "-W", "3", "-I", source, to]).status.success();
        assert!(answered, "{to}: {}{}", net.sh("ip rule"), net.sh("ip route"));
    }
}
