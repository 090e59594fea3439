//! A host with an Emperor, between its vassals and two outside hosts.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Deref;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1};
use crate::common::netns::{Net, Netns};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;

/// The host's own addresses on its ways out, and the outside hosts at their other ends.
pub const HOST_IPV4: &str = "203.0.113.1";
pub const OUTSIDE_IPV4: &str = "203.0.113.2";
pub const HOST_IPV6: &str = "2001:db8:1::1";
pub const OUTSIDE_IPV6: &str = "2001:db8:1::2";

/// The Emperor's and the vassal's IPv6 addresses.
pub const EMPEROR_IPV6: &str = "fd00:77::1";
pub const V1_IPV6: &str = "fd00:77::2";
pub const V2_IPV6: &str = "fd00:77::3";

pub const TABLE: &str = "tuntap-emperor0";

/// The options of the documentation's short set-up.
pub const SET_UP: [&str; 5] = [
    "tuntap-router = emperor0 {dir}/t.sock {dir}/stats.sock",
    "tuntap-router-address = 192.168.0.1/24",
    "tuntap-router-address = fd00:77::1/64",
    "tuntap-router-nat = up4",
    "tuntap-router-nat = up6",
];

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A host that forwards nothing, and the two outside hosts, which know no way to the vassals.
#[derive(Debug)]
pub struct Site {
    pub outside4: Netns,
    pub outside6: Netns,
}

impl Site {
    pub fn around(host: &Netns) -> Self {
        let site = Self { outside4: Netns::new(), outside6: Netns::new() };
        host.sh("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.all.forwarding=0");
        site.outside6.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=0");
        for (near, outside, own, other) in
            [("up4", &site.outside4, HOST_IPV4, OUTSIDE_IPV4), ("up6", &site.outside6, HOST_IPV6, OUTSIDE_IPV6)]
        {
            host.sh(&format!("ip link add {near} type veth peer name veth0 netns {}", outside.name()));
            let (len, nodad) = if near == "up4" { (24, "") } else { (64, " nodad") };
            host.sh(&format!("ip addr add {own}/{len} dev {near}{nodad}"));
            host.sh(&format!("ip link set {near} up"));
            outside.sh(&format!("ip addr add {other}/{len} dev veth0{nodad}"));
            outside.sh("ip link set veth0 up");
        }
        site
    }
}

/// An Emperor in the middle of a site.
#[derive(Debug)]
pub struct World {
    pub emperor: Emperor,
    pub site: Site,
}

impl Deref for World {
    type Target = Emperor;

    fn deref(&self) -> &Emperor {
        &self.emperor
    }
}

/// An Emperor's ini with nothing about routers.
pub fn ini() -> EmperorIni {
    EmperorIni::new(Uwsgi::usual(), Subject::Ours).router("").line("chmod-socket = 666")
}

/// Starts an Emperor with the short set-up and these lines.
#[track_caller]
pub fn start(lines: &[&str]) -> World {
    start_in(Netns::new(), lines)
}

#[track_caller]
pub fn start_in(host: Netns, lines: &[&str]) -> World {
    let site = Site::around(&host);
    World { emperor: ini().lines(&SET_UP).lines(lines).start_in(host), site }
}

/// A vassal with an address of each family.
pub fn vassal(name: &str) -> VassalIni {
    vassal_at(name, V1, V1_IPV6)
}

pub fn vassal_at(name: &str, ipv4: Ipv4Addr, ipv6: &str) -> VassalIni {
    VassalIni::new(Uwsgi::usual(), Subject::Ours, name, ipv4, EMPEROR)
        .with_ipv6()
        .line(format!("exec-as-root = ip addr replace {ipv6}/64 dev uwsgi0 nodad"))
        .line(format!("exec-as-root = ip route replace default via {EMPEROR_IPV6} dev uwsgi0"))
        .line(format!("exec-as-root = ping -q -c 1 -W 5 {EMPEROR_IPV6}"))
}

/// Connects from one namespace to an address that leads to a listener in another one. Bytes pass both ways; the address
/// that the listener sees.
#[track_caller]
pub fn client_as_seen(from: &Net, to: SocketAddr, server: &Net, listening: SocketAddr) -> IpAddr {
    let (mut near, mut far, client) = connect(from, to, server, listening);
    near.write_all(b"question").expect("the connection lives");
    let mut buffer = [0; 8];
    far.read_exact(&mut buffer).expect("bytes pass");
    far.write_all(b"answered").expect("the connection lives");
    near.read_exact(&mut buffer).expect("bytes pass");
    assert_eq!(&buffer, b"answered");
    client
}

#[track_caller]
pub fn connect(from: &Net, to: SocketAddr, server: &Net, listening: SocketAddr) -> (TcpStream, TcpStream, IpAddr) {
    // A program that another test is just starting may have a copy of an earlier listener for a moment.
    let listener =
        wait::until("the address is there and free", wait::SHORT, || server.run(|| TcpListener::bind(listening)).ok());
    let near = from.run(|| TcpStream::connect_timeout(&to, wait::SHORT));
    let near = near.unwrap_or_else(|error| panic!("{to}: {error}"));
    let (far, client) = listener.accept().expect("the connection");
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(wait::LONG)).expect("a timeout can be set");
    }
    (near, far, client.ip())
}

/// The host's rules as nft(8) lists them, with the handles but without counters.
pub fn ruleset(host: &Net) -> String {
    host.sh("nft -s -a list ruleset")
}

/// Sysctls with their values.
pub type State = BTreeMap<&'static str, i32>;

/// The sysctls that a set-up may change, by their names below /proc/sys/net, as far as the kernel has them.
pub fn forwarding(host: &Net) -> State {
    let names = [
        "ipv4/ip_forward",
        "ipv4/conf/up4/forwarding",
        "ipv4/conf/up6/forwarding",
        "ipv4/conf/lo/forwarding",
        "ipv6/conf/all/forwarding",
        "ipv6/conf/default/forwarding",
        "ipv6/conf/up4/force_forwarding",
        "ipv6/conf/up6/force_forwarding",
        "ipv6/conf/lo/force_forwarding",
        "ipv6/conf/default/accept_ra",
        "ipv6/conf/up4/accept_ra",
        "ipv6/conf/up6/accept_ra",
    ];
    host.run(|| names.into_iter().filter_map(|name| Some((name, setting(name)?))).collect())
}

/// A sysctl of the network namespace that the thread is in.
fn setting(name: &str) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?;
    Some(text.trim().parse().expect("a number"))
}

/// A sysctl of IPv4 that every kernel has.
#[track_caller]
pub fn ipv4_forwarding(host: &Net, interface: &str) -> i32 {
    let name = format!("ipv4/conf/{interface}/forwarding");
    host.run(|| setting(&name)).unwrap_or_else(|| panic!("{name} is missing"))
}

/// Any address of a family, for listeners.
pub fn any_ipv4(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}
