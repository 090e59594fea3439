//! Pairs that come and go, and what is done to them.

use std::os::fd::AsFd;
use std::process::Command;

use caps::{CapSet, Capability};
use nix::errno::Errno;
use tuntap_offload::guard::Guard;
use tuntap_offload::maps::Maps;
use tuntap_offload::pairs::{Damage, Hooks, PairError, Pairs, group_of, remove_all};
use tuntap_offload::programs::Programs;
use tuntap_sys::netlink::{Netlink, Veth};
use tuntap_sys::tun::Tun;

use super::world::{Namespace, Peer, ROUTER, World, linux, until};

/// Runs ip(8) in the namespace of the calling thread. Returns what it prints.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip of iproute2 starts");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn linux_has_tcx_from_6_6_on() {
    assert_eq!(Hooks::of_kernel(), if linux() >= (6, 6) { Hooks::Tcx } else { Hooks::Clsact });
}

#[test]
fn pair_is_quiet_and_belongs_to_a_group() {
    let mut world = World::new(Hooks::of_kernel());
    // A device of a router of IPv6 joins the group of all routers, and tells its neighbour, if it has multicast.
    for namespace in [&world.host, &world.peer.namespace] {
        for part in ["default", "all"] {
            let setting = format!("/proc/sys/net/ipv6/conf/{part}/forwarding");
            namespace.within(|| std::fs::write(&setting, "1").expect("a setting"));
        }
    }
    let pair = world.pair();
    let shown = |details: &str| {
        assert!(
            details.contains("NOARP") && !details.contains("MULTICAST") && details.contains("mtu 65535"),
            "{details}"
        );
        assert!(!details.contains("inet6"), "{details}");
        let groups = ip("-6 maddress show dev tv0");
        assert!(groups.contains("ff02::1\n") && !groups.contains("::2"), "{groups}");
    };
    shown(&ip("address show dev tv0"));
    world.peer.namespace.within(|| shown(&ip("address show dev tv0")));
    let group = group_of(ROUTER);
    assert_eq!(ip(&format!("-o link show group {group}")).lines().count(), 1);
    world.pairs.check(&pair).expect("nothing is wrong");
    world.pairs.clear([pair]).expect("removed");
    assert_eq!(ip(&format!("-o link show group {group}")), "");
}

#[test]
fn damage_is_noticed() {
    let elsewhere = Namespace::new();
    let mut world = World::new(Hooks::of_kernel());
    for damage in ["set tv0 down", "set tv0 mtu 1280", "del tv0", "moved", "del uwsgi0", "host", "bare"] {
        let pair = world.pair();
        world.pairs.check(&pair).expect(damage);
        match damage {
            "moved" => {
                // The namespace that this thread moves the device into.
                let thread = std::thread::scope(|scope| {
                    let inside = || {
                        elsewhere.enter();
                        (nix::unistd::gettid(), std::fs::File::open("/proc/thread-self/ns/net").expect("a namespace"))
                    };
                    scope.spawn(inside).join().expect("no panic").1
                });
                let target = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&thread));
                world.peer.namespace.within(|| {
                    let status = Command::new("ip").args(["link", "set", "tv0", "netns", &target]).status();
                    assert!(status.expect("ip starts").success());
                });
            }
            "host" => drop(ip("link set tv0 down")),
            "bare" => world.peer.namespace.within(|| {
                let status = Command::new("tc").args(["qdisc", "del", "dev", "tv0", "clsact"]).status();
                assert!(status.expect("tc starts").success());
            }),
            _ => drop(world.peer.namespace.within(|| ip(&format!("link {damage}")))),
        }
        // The kernel tells of the pair's own beginning, too, some of it late.
        let mut found = None;
        until(damage, || {
            found = if pair.take_notices() { world.pairs.check(&pair).err() } else { None };
            found.is_some()
        });
        let found = found.expect(damage);
        let is_right = match damage {
            "set tv0 down" | "host" => matches!(found, Damage::Down),
            "set tv0 mtu 1280" => matches!(found, Damage::Narrow(1280)),
            "bare" => matches!(found, Damage::Bare),
            "del uwsgi0" => matches!(found, Damage::NoDevice),
            _ => matches!(found, Damage::Missing(_)),
        };
        assert!(is_right, "{damage}: {found:?}");
        world.pairs.remove([pair]).expect("what is left of it is removed");
        if damage == "del uwsgi0" {
            let addresses = world.peer.addresses;
            world.peer = Peer { device: world.peer.namespace.device("uwsgi0", &addresses).into(), ..world.peer };
        }
    }
}

#[test]
fn pair_that_a_peer_has_deleted_or_renamed_is_no_error_to_remove() {
    let mut world = World::new(Hooks::Clsact);
    let [first, second, third] = [0, 1, 2].map(|_| world.pairs.make(world.peer.descriptor()).expect("a pair"));
    world.peer.namespace.within(|| ip("link del tv0"));
    // Linux renames devices that are up from 6.2 on.
    world.peer.namespace.within(|| ip("link set tv1 down") + &ip("link set tv1 name mine"));
    world.pairs.remove([first]).expect("it is gone already");
    world.pairs.remove([second, third]).expect("both are removed");
    world.peer.namespace.within(|| assert!(!ip("-o link show").contains("tv")));
}

#[test]
fn next_removal_makes_up_for_one_that_failed() {
    let may_administrate = |may| {
        let change = if may { caps::raise } else { caps::drop };
        change(None, CapSet::Effective, Capability::CAP_NET_ADMIN).expect("needs root");
    };
    let count = || ip("-o link show").lines().filter(|line| line.contains(" tv")).count();
    let mut world = World::new(Hooks::Clsact);
    for together in [1, 2] {
        let pairs: Vec<_> = (0..together).map(|_| world.pairs.make(world.peer.descriptor()).expect("a pair")).collect();
        may_administrate(false);
        let result = world.pairs.remove(pairs);
        may_administrate(true);
        assert_eq!(result.map_err(|error| error.errno()), Err(Some(Errno::EPERM)));
        assert_eq!(count(), together);
        let pair = world.pairs.make(world.peer.descriptor()).expect("a pair");
        world.pairs.remove([pair]).expect("all are removed");
        assert_eq!((count(), chains()), (0, Vec::new()));
    }
}

#[test]
fn next_process_removes_what_an_earlier_one_has_left() {
    let world = World::new(Hooks::of_kernel());
    let World { host: _host, peer, maps, mut pairs, router_device: _device, .. } = world;
    let pair = pairs.make(peer.descriptor()).expect("a pair");
    // As a process that is killed leaves them.
    drop((pair, pairs));
    let group = group_of(ROUTER);
    assert_eq!(ip(&format!("-o link show group {group}")).lines().count(), 1);
    let programs = Programs::load(maps).expect("the verifier agrees");
    let mut next = Pairs::new(maps, &programs, Hooks::of_kernel(), ROUTER, None).expect("netlink");
    next.clear([]).expect("removed");
    assert_eq!(ip(&format!("-o link show group {group}")), "");
    peer.namespace.within(|| assert!(!ip("-o link show").contains("tv0")));
    let pair = next.make(peer.descriptor()).expect("it works on");
    next.check(&pair).expect("nothing is wrong");
}

/// Groups are fewer than names of devices.
#[test]
fn pairs_of_a_router_in_the_same_group_stay() {
    let mut world = World::new(Hooks::of_kernel());
    let pair = world.pair();
    let is_same = |name: &String| group_of(name) == group_of(ROUTER);
    let other = (0..10_000_000).map(|number| format!("r{number}")).find(is_same).expect("one in 65,536");
    let programs = Programs::load(world.maps).expect("the verifier agrees");
    // Its maps are those of the first one: what it changes there is not what this test is about.
    let mut second = Pairs::new(world.maps, &programs, Hooks::of_kernel(), &other, None).expect("netlink");
    let of_second = second.make(world.peer.descriptor()).expect("a pair");
    second.clear([of_second]).expect("removed");
    remove_all(&other).expect("there is none");
    world.pairs.check(&pair).expect("it is still there");
    let shown = ip("link show dev tv0");
    assert!(shown.contains(&format!("alias uwsgi-tuntap {ROUTER}")), "{shown}");
    remove_all(ROUTER).expect("removed");
    assert!(matches!(world.pairs.check(&pair), Err(Damage::Missing(_))));
}

#[test]
fn what_is_no_peer_in_another_namespace_gets_no_pair() {
    let mut world = World::new(Hooks::of_kernel());
    let own = world.router_device.try_clone().expect("a descriptor");
    assert!(matches!(world.pairs.make(own), Err(PairError::OwnNamespace)));
    let file = std::fs::File::open("/dev/null").expect("a file");
    assert!(matches!(world.pairs.make(file.into()), Err(PairError::Tun(_))));
    let deleted = Namespace::new();
    let tun: std::os::fd::OwnedFd = deleted.device("uwsgi0", &[]).into();
    deleted.within(|| ip("link del uwsgi0"));
    world.pairs.make(tun).expect_err("there is no device any more");
    assert_eq!(ip(&format!("-o link show group {}", group_of(ROUTER))), "", "nothing is left");
}

#[test]
fn many_pairs_are_made_and_removed() {
    many_pairs(Hooks::of_kernel());
    many_pairs(Hooks::Clsact);
}

fn many_pairs(hooks: Hooks) {
    const COUNT: usize = 20;
    let host = Namespace::new();
    host.enter();
    let _router: Tun = host.device(ROUTER, &[]);
    let maps = Maps::new(16).expect("needs root");
    let programs = Programs::load(&maps).expect("the verifier agrees");
    let mut pairs = Pairs::new(&maps, &programs, hooks, ROUTER, Guard::new(ROUTER).ok()).expect("netlink");
    let peers: Vec<_> = (0..COUNT).map(|_| Peer::new(["10.77.0.2", "fd00:77::2"])).collect();
    let made: Vec<_> = peers.iter().map(|peer| pairs.make(peer.descriptor()).expect("a pair")).collect();
    let mut netlink = Netlink::open().expect("netlink");
    assert_eq!(netlink.links().expect("a list").iter().filter(|link| link.name.starts_with("tv")).count(), COUNT);
    assert_eq!(chains().len(), if has_guards() { COUNT } else { 0 });
    pairs.remove(made).expect("removed");
    assert_eq!(chains(), Vec::<String>::new());
    assert_eq!(netlink.links().expect("a list").iter().filter(|link| link.name.starts_with("tv")).count(), 0);
}

/// Returns true if the kernel has tables that belong to a process. Without, pairs have no guard.
fn has_guards() -> bool {
    let has = linux() >= (5, 12);
    assert_eq!(
        Guard::new("another").map(drop).map_err(|error| error.to_string().contains("Linux 5.12")),
        if has { Ok(()) } else { Err(true) }
    );
    has
}

/// The chains of the guard, each with the device that it guards, in the namespace of the calling thread.
fn chains() -> Vec<String> {
    if !has_guards() {
        return Vec::new();
    }
    let table = format!("uwsgi-tuntap-pairs-{ROUTER}");
    let output =
        Command::new("nft").args(["list", "table", "netdev", &table]).output().expect("nft of nftables starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|line| line.contains("hook ingress")).map(|line| line.trim().to_owned()).collect()
}

#[test]
fn guard_of_a_pair_comes_and_goes_with_it() {
    if !has_guards() {
        return;
    }
    let mut world = World::new(Hooks::Clsact);
    let pair = world.pair();
    let [chain] = &chains()[..] else { panic!("one chain: {:?}", chains()) };
    assert!(chain.contains("\"tv0\"") && chain.contains("policy drop"), "{chain}");
    world.pairs.remove([pair]).expect("removed");
    assert_eq!(chains(), Vec::<String>::new());
    // The kernel may keep the chain of a device that its peer has deleted, or not.
    let [first, second] = [0, 1].map(|_| world.pairs.make(world.peer.descriptor()).expect("a pair"));
    world.peer.namespace.within(|| ip("link del tv0"));
    world.pairs.remove([first]).expect("it is gone already");
    assert_eq!(chains().len(), 1);
    // As a process that is killed leaves it to the next one.
    drop(second);
    world.pairs.clear([]).expect("removed");
    assert_eq!(chains(), Vec::<String>::new());
    let file = std::fs::File::open("/dev/null").expect("a file");
    world.pairs.make(file.into()).expect_err("it is no device");
    world.peer.namespace.within(|| ip("link del uwsgi0"));
    world.pairs.make(world.peer.descriptor()).expect_err("it is no device any more");
    assert_eq!(chains(), Vec::<String>::new());
}

#[test]
fn guard_drops_what_comes_by_a_pair_without_programs() {
    if !has_guards() {
        return;
    }
    guard_drops_what_comes_by_a_pair(|| Guard::new(ROUTER).expect("nftables"));
    guard_drops_what_comes_by_a_pair(|| Guard::by_group(ROUTER).expect("nftables"));
}

fn guard_drops_what_comes_by_a_pair(make_guard: impl Fn() -> Guard) {
    let (host, there) = (Namespace::new(), Namespace::new());
    host.enter();
    let file = there.within(|| std::fs::File::open("/proc/thread-self/ns/net").expect("a namespace"));
    let mut netlink = Netlink::open().expect("netlink");
    let veth = Veth { index: 0x2000_0000, name: "tv%d", namespace: file.as_fd(), mtu: 1500, group: group_of(ROUTER) };
    netlink.make_veth(&veth).expect("a pair");
    let ping = || {
        there.within(|| {
            let status = Command::new("ping").args(["-q", "-c", "3", "-i", "0.01", "-W", "1", "10.79.0.1"]).output();
            status.expect("ping of iputils starts").status.success()
        })
    };
    let set_up = |address: &str| {
        ip("link set tv0 arp on up");
        ip(&format!("address add {address}/24 dev tv0"));
    };
    set_up("10.79.0.1");
    there.within(|| set_up("10.79.0.2"));
    assert!(ping(), "it is a link into the host");
    let mut guard = make_guard();
    guard.add(veth.index, "tv0").expect("there is such a device");
    assert!(!ping());
    Guard::new("another").expect("nftables");
    drop(guard);
    assert!(ping());
}
