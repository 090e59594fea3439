use std::net::UdpSocket;
use std::process::Command;

use etherparse::PacketBuilder;

use super::*;
use crate::tests::{SILENT, in_new_namespace};
use tuntap_config::{Config, OptionName};
use tuntap_sys::tun::Tun;
use tuntap_wire::vnet::Offload;

fn sh(line: &str) {
    let words: Vec<_> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().expect("the program can be started");
    assert!(output.status.success(), "{line}: {output:?}");
}

fn routers(options: &[(OptionName, &'static str)]) -> Vec<RouterSpec> {
    let router = (OptionName::Router, "tt0 /tt0 \"\" 0.0.0.0:4040");
    Config::from_options([router].into_iter().chain(options.iter().copied())).expect("valid").routers
}

/// A host with a device that the test reads and writes itself, in place of a router that would drop some packets.
fn host(options: &[(OptionName, &'static str)]) -> (Tun, Nftables, Vec<RouterSpec>) {
    let tun = Tun::create("tt0").expect("a device");
    sh("ip link set lo up");
    sh("ip addr add 10.0.0.1/24 dev tt0");
    sh("ip -6 addr add fd00:77::1/64 dev tt0 nodad");
    sh("ip link set tt0 up");
    let routers = routers(options);
    let nftables = made(&routers);
    (tun, nftables, routers)
}

fn made(routers: &[RouterSpec]) -> Nftables {
    let mut nftables = None;
    make(&mut nftables, routers, SILENT).expect("the kernel can");
    nftables.expect("a table")
}

fn datagram(source: [u8; 4], destination: [u8; 4], port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(source, destination, 64).udp(7, port).write(&mut bytes, b"x").expect("a valid packet");
    bytes
}

const BASE: [(OptionName, &str); 3] = [
    (OptionName::RouterAddress, "10.0.0.1/24"),
    (OptionName::RouterAddress, "fd00:77::1/64"),
    (OptionName::RouterHost, "allow"),
];

/// Datagrams to gateways are dropped even if rules open the host, and by all of its addresses.
#[test]
fn datagrams_to_gateways_end_at_the_host() {
    in_new_namespace(|| {
        let options = [
            (OptionName::Route, "any 10.1.0.0/24 198.51.100.9:4041"),
            (OptionName::GatewayAllow, "192.0.2.0/24"),
            (OptionName::DeviceRoute, "[2001:db8::/32]:4042"),
            (OptionName::GatewayVassal, "10.0.0.3"),
        ];
        let (tun, mut nftables, routers) = host(&[&BASE[..], &options].concat());
        let _outside = Tun::create("up0").expect("a device");
        sh("ip addr add 198.51.100.1/24 dev up0");
        sh("ip link set up0 up");
        sh("ip route add 192.0.2.0/24 dev up0");
        sh("sysctl -qw net.ipv4.ip_forward=1");
        let own = UdpSocket::bind("0.0.0.0:4040").expect("the port is free");
        let other = UdpSocket::bind("0.0.0.0:4043").expect("the port is free");
        for socket in [&own, &other] {
            socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
        }
        let to_gateways = [
            ([10, 0, 0, 1], 4040),
            ([198, 51, 100, 1], 4040),
            ([198, 51, 100, 9], 4041),
            ([192, 0, 2, 7], 4040),
            ([192, 0, 2, 8], 4041),
        ];
        for (destination, port) in to_gateways {
            tun.send(&Offload::NONE, &datagram([10, 0, 0, 2], destination, port)).expect("the device takes it");
        }
        // These pass: one to another port of the host, one to the same port elsewhere, one to another port of a gateway's
        // host.
        for (destination, port) in [([198, 51, 100, 77], 4040), ([198, 51, 100, 9], 4044), ([10, 0, 0, 1], 4043)] {
            tun.send(&Offload::NONE, &datagram([10, 0, 0, 2], destination, port)).expect("the device takes it");
        }
        other.recv(&mut [0; 8]).expect("it is open");
        own.set_nonblocking(true).expect("a flag");
        assert!(own.recv(&mut [0; 8]).is_err(), "nothing came");
        own.set_nonblocking(false).expect("a flag");
        tun.send(&Offload::NONE, &datagram([10, 0, 0, 3], [10, 0, 0, 1], 4040)).expect("the device takes it");
        own.recv(&mut [0; 8]).expect("this vassal may");
        let mut ipv6 = Vec::new();
        let there =
            PacketBuilder::ipv6([0xfd; 16], "2001:db8::7".parse::<std::net::Ipv6Addr>().expect("it").octets(), 64);
        there.udp(7, 4042).write(&mut ipv6, b"x").expect("a valid packet");
        sh("sysctl -qw net.ipv6.conf.all.forwarding=1");
        sh("ip -6 route add 2001:db8::/32 dev up0");
        tun.send(&Offload::NONE, &ipv6).expect("the device takes it");
        let counted = nftables.counted(&routers[0].table_name()).expect("they can be read");
        assert_eq!(counted[super::super::protection::GATEWAY], to_gateways.len() as u64 + 1, "{counted:?}");
        assert_eq!(counted.values().sum::<u64>(), to_gateways.len() as u64 + 1, "{counted:?}");
    });
}

/// There is one line for each reason, and no other one soon, even if much is refused meanwhile.
#[test]
fn refusals_are_told_now_and_then() {
    thread_local!(static LINES: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) });
    let logger = Logger(|record| LINES.with_borrow_mut(|lines| lines.push(record.line.to_owned())));
    in_new_namespace(move || {
        let (tun, mut nftables, routers) = host(&BASE[..2]);
        let send = || {
            for port in 1..=5 {
                tun.send(&Offload::NONE, &datagram([10, 0, 0, 2], [10, 0, 0, 1], port)).expect("the device takes it");
            }
        };
        send();
        // What an earlier image has counted is not logged.
        let mut refused = RefusedPackets::of(&routers, Some(&mut nftables));
        refused.log(&mut nftables, logger);
        assert_eq!(LINES.take(), Vec::<String>::new());
        for _ in 0..3 {
            send();
            refused.log(&mut nftables, logger);
        }
        let lines = LINES.take();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(": 5 (services of the host") && lines[0].contains("inet tuntap-tt0"), "{lines:?}");
        // A table that was made anew counts from 0.
        nftables.replace(&[]).expect("it ends");
        let nftables = &mut made(&routers);
        for (_, all) in &mut refused.tables {
            all.values_mut().for_each(|refused| refused.last = None);
        }
        tun.send(&Offload::NONE, &datagram([10, 0, 0, 2], [10, 0, 0, 1], 1)).expect("the device takes it");
        refused.log(nftables, logger);
        assert!(LINES.take().concat().contains(": 1 (services of the host"));
    });
}

#[test]
fn what_goes_on_is_told_less_and_less_often() {
    let begin = Instant::now();
    let after = |seconds: u64, silence: u64| {
        let last = Some((begin, Duration::from_secs(silence)));
        Refused { told: 1, last }.silence(begin + Duration::from_secs(seconds)).map(|it| it.as_secs())
    };
    assert_eq!(Refused::default().silence(begin).map(|it| it.as_secs()), Some(60));
    assert_eq!((after(59, 60), after(60, 60), after(120, 60)), (None, Some(120), Some(60)));
    assert_eq!((after(3599, 3600), after(3600, 3600), after(7200, 3600)), (None, Some(3600), Some(60)));
}

/// What a kernel can't make is left out if no option asks for it, and is an error otherwise.
#[test]
fn extents_are_needed_by_those_who_ask_for_them() {
    let router = |options: &[(OptionName, &'static str)]| routers(&[&BASE[..1], options].concat()).remove(0);
    let needed = |options: &[_]| {
        let router = router(options);
        [Extent::Whole, Extent::WithoutLimits, Extent::WithoutProtection].map(|extent| extent.is_needed_by(&router))
    };
    assert_eq!(needed(&[]), [false, false, true]);
    assert_eq!(needed(&[(OptionName::MaxConnections, "0")]), [false, false, true]);
    assert_eq!(needed(&[(OptionName::MaxConnections, "5")]), [true, true, true]);
    assert_eq!(needed(&[(OptionName::ConnectionRate, "5")]), [true, true, true]);
    assert_eq!(needed(&[(OptionName::RouterHost, "allow tcp 80")]), [false, true, true]);
    // Each extent lacks something that the one before has.
    let router = router(&[(OptionName::RouterNat, "eth0")]);
    let names = |extent| {
        let table = table::of(&router, extent).expect("there is something to do");
        (table.sets.len(), table.chains.iter().map(|chain| chain.name).collect::<Vec<_>>())
    };
    let (sets, whole) = names(Extent::Whole);
    assert!(sets == 5 && whole.contains(&"arrival") && whole.contains(&"input"), "{whole:?}");
    let (sets, without_limits) = names(Extent::WithoutLimits);
    assert!(sets == 0 && !without_limits.contains(&"arrival") && without_limits.contains(&"input"));
    let (_, least) = names(Extent::WithoutProtection);
    assert!(!least.contains(&"input") && least.contains(&"departure"), "{least:?}");
    let bare = routers(&BASE[..1]).remove(0);
    assert!(table::of(&bare, Extent::WithoutProtection).is_none());
}
