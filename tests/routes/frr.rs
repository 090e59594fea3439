//! FRR in BIRD's place, with the configuration of the example.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::User;
use tempfile::TempDir;

use crate::common::emperor::{Emperor, V1};
use crate::common::instance::Instance;
use crate::common::netns::Netns;
use crate::common::starter::{self, Starter};
use crate::common::{processes, wait};
use crate::world::{Secrets, emperor, state, vassal};

/// The example, which is for the network 10.77.0.0/16.
const EXAMPLE: &str = include_str!("../../examples/hosts/frr.conf");

/// Addresses of the loopback device: of FRR, and of the router for it.
const OWN: &str = "192.0.2.1";
const ROUTER: &str = "192.0.2.2";

/// A password that FRR takes: of one word.
const WORD: &str = "a-long-pass-word";

const EMPEROR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1);
const V1_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 2);
/// An address that FRR tells of, as if another host had it.
const FOREIGN: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 77);

/// The daemons of FRR in a namespace, ended on drop.
struct Frr {
    netns: Netns,
    // Dropped before their folder.
    _daemons: Vec<Instance>,
    dir: TempDir,
}

impl Frr {
    #[track_caller]
    fn start(netns: &Netns, config: &str) -> Self {
        let dir = starter::folder();
        let user = User::from_name("frr").expect("users can be looked up").expect("scripts/setup test installs frr");
        std::os::unix::fs::chown(dir.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("own folder");
        let start = |name: &str| {
            let paths = ["--vty_socket", "{dir}", "-z", "{dir}/zserv.api", "-i"].map(str::to_owned);
            let arguments = paths.into_iter().chain([format!("{{dir}}/{name}.pid"), "-P".into(), "0".into()]);
            let program = format!("/usr/lib/frr/{name}");
            let arguments: Vec<String> = arguments.collect();
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            Starter::program(&program, dir.path()).netns(netns).arguments(arguments).log(&format!("{name}.log")).start()
        };
        let daemons = ["zebra", "staticd", "bgpd"].map(|name| {
            let daemon = start(name);
            wait::until_true(name, wait::LONG, || dir.path().join(format!("{name}.vty")).exists());
            daemon
        });
        let path = dir.path().join("frr.conf");
        std::fs::write(&path, config).expect("own folder");
        let frr = Self { netns: netns.clone(), _daemons: daemons.into(), dir };
        let answer = frr.vtysh(&["-f", &path.to_string_lossy()]);
        assert!(!answer.contains('%'), "{answer}");
        frr
    }

    fn vtysh(&self, arguments: &[&str]) -> String {
        let vtysh = Command::new("timeout")
            .args(["-s", "KILL", "60", "vtysh", "--vty_socket"])
            .arg(self.dir.path())
            .args(arguments)
            .output()
            .expect("timeout can be started");
        String::from_utf8_lossy(&[vtysh.stdout, vtysh.stderr].concat()).into_owned()
    }

    fn ask(&self, question: &str) -> String {
        self.vtysh(&["-c", question])
    }
}

impl Drop for Frr {
    /// What it knows, for the report of a failed test.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let [bgp, routes] = ["show bgp summary", "show ip route"].map(|question| self.ask(question));
            eprintln!("--- FRR in {}\n{bgp}\n{routes}\n---", self.netns.name());
        }
    }
}

/// The example for the network of these tests.
fn config() -> String {
    let lines = EXAMPLE.lines().filter(|line| !line.trim_start().starts_with("neighbor 10.99.0.2"));
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    text.replace("10.77.0.0/16", "192.168.0.0/24").replace("<password>", WORD)
}

fn has_route(netns: &Netns, address: IpAddr) -> bool {
    let family = if address.is_ipv4() { "-4" } else { "-6" };
    netns.sh(&format!("ip {family} route show {address}")).contains("dev emperor0")
}

#[track_caller]
fn until_routes(netns: &Netns, are_there: bool) {
    for address in [IpAddr::from(V1), V1_6.into()] {
        let what = format!("{address} has {} route", if are_there { "a" } else { "no" });
        wait::until_true(&what, wait::LONG, || has_route(netns, address) == are_there);
    }
}

fn holdings(emperor: &Emperor) -> u64 {
    let stats = emperor.stats_eventually();
    let sources = stats.0["elsewhere"]["sources"].as_array().cloned().unwrap_or_default();
    sources.iter().filter_map(|source| source["holdings"].as_u64()).sum()
}

#[test]
fn frr_has_the_routes_of_vassals_and_tells_of_others() {
    assert!(Path::new("/usr/lib/frr/bgpd").exists(), "FRR is missing: scripts/setup test");
    let secrets = Secrets::new();
    let password = secrets.write("word", WORD);
    let netns = Netns::new();
    netns.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0");
    netns.sh("ip link set lo up");
    netns.sh(&format!("ip addr add {OWN}/30 dev lo"));
    let emperor = emperor(&secrets)
        .line(format!("tuntap-router-address = {EMPEROR6}/64"))
        .line(format!("tuntap-router-routes = {ROUTER}:979 {} from={OWN}", password.display()))
        .start_in(netns);
    let frr = Frr::start(&emperor.netns, &config());
    wait::until_true("a session", wait::LONG, || emperor.try_stats().is_ok_and(|stats| state(&stats) == "established"));
    let one = vassal(&emperor, "one", V1).address_6(V1_6, EMPEROR6);
    emperor.start_attached(&one.line(format!("exec-as-root = ping -q -c 1 -i 0.2 -w 5 {EMPEROR6}")));
    until_routes(&emperor.netns, true);

    frr.vtysh(&[
        "-c",
        "configure terminal",
        "-c",
        &format!("ip route {FOREIGN}/32 blackhole"),
        "-c",
        "router bgp 64512",
        "-c",
        "address-family ipv4 unicast",
        "-c",
        &format!("network {FOREIGN}/32"),
    ]);
    wait::until_true("the router knows of the other holder", wait::LONG, || holdings(&emperor) == 1);

    // The next router goes on with the session, and FRR forgets what is gone meanwhile, of both families.
    let (router, one) = (emperor.router_pid(), emperor.vassal_pid("one").expect("it runs"));
    std::fs::remove_file(emperor.path("vassals/one.ini")).expect("it is there");
    processes::send(router, Signal::SIGSTOP);
    processes::send(one, Signal::SIGKILL);
    wait::until_true("the vassal is gone", wait::LONG, || !processes::is_alive(one));
    assert!(has_route(&emperor.netns, V1.into()) && has_route(&emperor.netns, V1_6.into()));
    processes::send(router, Signal::SIGKILL);
    until_routes(&emperor.netns, false);
    assert!(emperor.log.text().contains("of the router before this one"), "the session has gone on");
    wait::until_true("it still knows of the other holder", wait::LONG, || holdings(&emperor) == 1);

    frr.vtysh(&[
        "-c",
        "configure terminal",
        "-c",
        "router bgp 64512",
        "-c",
        "address-family ipv4 unicast",
        "-c",
        &format!("no network {FOREIGN}/32"),
    ]);
    wait::until_true("the address is free", wait::LONG, || holdings(&emperor) == 0);
}
