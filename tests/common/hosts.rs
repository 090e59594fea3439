//! Several hosts in one network, each with an Emperor of its own, whose vassals share one network of addresses.
//!
//! A host is a network namespace. All of them are on one switch, which can lose what a host sends or gets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tuntap_agent::PrivateKey;
use tuntap_core::routes::bird_config::{BirdConfig, Feed, Neighbour, bird_config};
use tuntap_core::routes::settings::DEFAULT_ASN;
use tuntap_wire::bgp::claim;
use tuntap_wire::holding::{ClaimTime, Holding, RouterId};

use super::bird::Bird;
use super::emperor::{Emperor, EmperorIni};
use super::netns::{Net, Netns};
use super::processes;
use super::starter;
use super::uwsgi::{Subject, Uwsgi};
use super::vassal::VassalIni;
use super::wait;

/// The networks that all vassals are in.
pub const NETWORKS: [&str; 2] = ["10.77.0.0/16", "fd00:77::/64"];
/// The AS of all hosts.
pub const ASN: u32 = 64512;
/// Where each router listens for its host's BIRD, and the password of both.
pub const FEED: &str = "127.0.0.1:979";
/// Seconds that a router may be silent, as it is during a reload, which takes long on a machine that has other work.
const HOLD_TIME: u16 = 60;
const PASSWORD: &str = "one password for all";

/// Where each router waits for those of other hosts.
pub const TRUNK_PORT: u16 = 4001;

/// A host's own address.
pub fn address_of(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, host)
}

/// The address of the router's device of a host, which its vassals have as their gateway.
pub fn gateway_of(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, host)
}

/// The same of IPv6.
pub fn gateway6_of(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, u16::from(host))
}

/// An address of the vassals' network, of those that vassals of a host have at first. No address belongs to a host.
pub fn vassal_address(host: u8, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, host, number)
}

/// The same of IPv6.
pub fn vassal_address6(host: u8, number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, u16::from(host), u16::from(number))
}

/// What joins hosts.
#[derive(Clone, Debug)]
pub struct Switch {
    netns: Netns,
}

impl Switch {
    fn new() -> Self {
        let netns = Netns::new();
        netns.sh("ip link add br0 type bridge mcast_snooping 0");
        netns.sh("ip link set br0 up");
        netns.sh("nft add table bridge faults");
        netns.sh("nft add chain bridge faults forward { type filter hook forward priority 0 ; }");
        for (set, end) in [("from", "iifname"), ("to", "oifname")] {
            netns.sh(&format!("nft add set bridge faults {set} {{ type ifname ; }}"));
            netns.sh(&format!("nft add rule bridge faults forward {end} @{set} drop"));
        }
        Self { netns }
    }

    fn join(&self, host: u8, netns: &Netns) {
        let port = port_of(host);
        self.netns.sh(&format!("ip link add {port} type veth peer name eth0 netns {}", netns.name()));
        self.netns.sh(&format!("ip link set {port} master br0 up"));
        netns.sh(&format!("ip addr add {}/24 dev eth0", address_of(host)));
        netns.sh(&format!("ip addr add fd00:99::{host}/64 dev eth0 nodad"));
        netns.sh("ip link set eth0 up");
    }

    /// Loses whatever a host sends and whatever is sent to it. The host's interface stays up.
    pub fn cut(&self, host: u8) {
        self.cut_from(host);
        self.change("add", "to", host);
    }

    /// Loses whatever a host sends. It still gets what others send.
    pub fn cut_from(&self, host: u8) {
        self.change("add", "from", host);
    }

    /// Ends all losses.
    pub fn heal(&self) {
        for set in ["from", "to"] {
            self.netns.sh(&format!("nft flush set bridge faults {set}"));
        }
    }

    /// Takes a host's cable out: its interface has no carrier.
    pub fn unplug(&self, host: u8) {
        self.netns.sh(&format!("ip link set {} down", port_of(host)));
    }

    pub fn plug(&self, host: u8) {
        self.netns.sh(&format!("ip link set {} up", port_of(host)));
    }

    fn change(&self, verb: &str, set: &str, host: u8) {
        self.netns.sh(&format!("nft {verb} element bridge faults {set} {{ {} }}", port_of(host)));
    }
}

fn port_of(host: u8) -> String {
    format!("host{host}")
}

/// A host, which is empty at first.
#[derive(Debug)]
pub struct Host {
    pub number: u8,
    pub bird: Option<Bird>,
    emperor: Option<Emperor>,
    pub netns: Netns,
    dir: TempDir,
}

/// Hosts with the numbers from 1 on, and the switch between them.
#[derive(Debug)]
pub struct Hosts {
    hosts: Vec<Host>,
    pub switch: Switch,
    /// Whether each BIRD notices within a third of a second that another is gone (BFD). On a machine with much else to do it takes one for
    /// gone that is slow, and forgets its routes.
    pub bfd: bool,
}

impl Hosts {
    pub fn new(count: u8) -> Self {
        let switch = Switch::new();
        let hosts = (1..=count).map(|number| Host::new(number, &switch)).collect();
        Self { hosts, switch, bfd: true }
    }

    /// Starts BIRD on all hosts, and waits until they know each other. It takes the addresses of vassals from each router.
    #[track_caller]
    pub fn start_birds(&mut self) {
        self.start_birds_telling(&[]);
    }

    /// The same. Each of the given hosts also tells the others of addresses as if its router had.
    #[track_caller]
    pub fn start_birds_telling(&mut self, all_told: &[(u8, &[Told])]) {
        let all: Vec<u8> = self.iter().map(|host| host.number).collect();
        for host in &mut self.hosts {
            let config = BirdConfig { bfd: self.bfd, ..host.bird_config(&all) };
            let config = bird_config(&config).expect("a valid configuration");
            let told = all_told.iter().find(|(number, _)| *number == host.number).map_or(&[][..], |(_, told)| *told);
            host.start_bird(&telling(&config, told));
        }
        self.wait_for_neighbours();
    }

    /// Waits until each host's BIRD has a session with each other one.
    #[track_caller]
    pub fn wait_for_neighbours(&self) {
        for (host, number) in self.iter().flat_map(|host| (1..self.hosts.len()).map(move |number| (host, number))) {
            let what = format!("a session of host {} with neighbour {number}", host.number);
            wait::until_true(&what, wait::LONG, || host.bird().is_established(&format!("host{number}")));
        }
    }

    /// Waits until each host's BIRD has a session with the host's own router.
    #[track_caller]
    pub fn wait_for_feeds(&self) {
        for host in self.iter() {
            let what = format!("a session of BIRD with the router of host {}", host.number);
            wait::until_true(&what, wait::LONG, || host.bird().is_established("tuntap"));
        }
    }

    /// The hosts themselves, to change them one by one.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Host> {
        self.hosts.iter_mut()
    }

    pub fn host_mut(&mut self, number: u8) -> &mut Host {
        &mut self.hosts[usize::from(number) - 1]
    }

    pub fn host(&self, number: u8) -> &Host {
        &self.hosts[usize::from(number) - 1]
    }
}

impl Deref for Hosts {
    type Target = [Host];

    fn deref(&self) -> &[Host] {
        &self.hosts
    }
}

impl Host {
    fn new(number: u8, switch: &Switch) -> Self {
        let netns = Netns::new();
        netns.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0");
        netns.sh("sysctl -qw net.ipv6.conf.all.forwarding=1");
        switch.join(number, &netns);
        let dir = starter::folder();
        let host = Self { number, bird: None, emperor: None, netns, dir };
        let password = host.password();
        std::fs::write(&password, format!("{PASSWORD}\n")).expect("own folder");
        std::fs::set_permissions(&password, PermissionsExt::from_mode(0o600)).expect("own file");
        host
    }

    /// The file with the password of BGP.
    pub fn password(&self) -> PathBuf {
        self.dir.path().join("password")
    }

    /// The file of the router's key.
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("router.key")
    }

    /// The configuration of a host that knows the others with these numbers.
    pub fn bird_config(&self, all: &[u8]) -> BirdConfig {
        let neighbours = all.iter().filter(|number| **number != self.number);
        BirdConfig {
            router_id: Some(address_of(self.number)),
            asn: ASN,
            feed: Feed {
                address: FEED.parse().expect("an address"),
                from: Ipv4Addr::LOCALHOST.into(),
                asn: DEFAULT_ASN,
                password: Some(PASSWORD.to_owned()),
                device: "emperor0".to_owned(),
                hold_time: HOLD_TIME,
            },
            networks: NETWORKS.map(|net| net.parse().expect("a network")).to_vec(),
            neighbours: neighbours.map(|number| Neighbour { address: address_of(*number).into(), asn: ASN }).collect(),
            bfd: true,
            max_routes: BirdConfig::DEFAULT_MAX_ROUTES,
        }
    }

    #[track_caller]
    pub fn start_bird(&mut self, config: &str) {
        self.bird = Some(Bird::start(&self.netns, config));
    }

    #[track_caller]
    pub fn bird(&self) -> &Bird {
        self.bird.as_ref().expect("BIRD runs")
    }

    /// An Emperor with a router in the network that all hosts have.
    pub fn ini(&self) -> EmperorIni {
        self.ini_of("emperor0 {dir}/t.sock {dir}/stats.sock")
    }

    /// The same with other arguments for the router.
    pub fn ini_of(&self, router: &str) -> EmperorIni {
        EmperorIni::new(Uwsgi::usual(), Subject::Ours)
            .router("")
            .line(format!("tuntap-router = {router}"))
            .line(format!("tuntap-router-address = {}/16", gateway_of(self.number)))
            .line(format!("tuntap-router-address = {}/64", gateway6_of(self.number)))
            .line("tuntap-router-host = allow")
    }

    /// The same with a session with the host's BIRD.
    pub fn ini_with_routes(&self) -> EmperorIni {
        self.ini()
            .line(format!("tuntap-router-key = {}", self.key().display()))
            .line(format!("tuntap-router-routes = {FEED} {} hold={HOLD_TIME}", self.password().display()))
    }

    /// An Emperor with a trunk to each of the other hosts with these numbers, of which the one with the higher number dials.
    pub fn ini_with_trunks(&self, others: &[&Self]) -> EmperorIni {
        let ini = self
            .ini()
            .line(format!("tuntap-router-key = {}", self.key().display()))
            .line(format!("tuntap-router-trunk = {}:{TRUNK_PORT}", address_of(self.number)));
        others.iter().fold(ini, |ini, other| {
            let dialled = format!(" {}:{TRUNK_PORT}", address_of(other.number));
            let address = if other.number < self.number { dialled } else { String::new() };
            ini.line(format!("tuntap-router-trunk-peer = {} {}{address}", other.public_key(), NETWORKS.join(",")))
        })
    }

    /// The public half of the router's key, which is made if it isn't there.
    pub fn public_key(&self) -> String {
        let (key, _is_made) = PrivateKey::load_or_create(&self.key()).expect("own folder");
        key.public().to_string()
    }

    /// How many addresses the router knows that vassals of other hosts hold.
    pub fn holdings(&self) -> u64 {
        let stats = self.emperor().stats_eventually();
        let sources = stats.0["elsewhere"]["sources"].as_array().cloned().unwrap_or_default();
        sources.iter().filter_map(|source| source["holdings"].as_u64()).sum()
    }

    /// Starts an Emperor, and ends one that was there before.
    #[track_caller]
    pub fn start(&mut self, ini: EmperorIni) -> &Emperor {
        self.emperor = None;
        self.emperor.insert(ini.start_in(self.netns.clone()))
    }

    #[track_caller]
    pub fn emperor(&self) -> &Emperor {
        self.emperor.as_ref().expect("an Emperor runs")
    }

    /// Kills the Emperor's master alone, as a crash does. What becomes of its vassals and its router is up to them.
    pub fn kill_emperor(&self) {
        processes::send(self.emperor().master_pid(), Signal::SIGKILL);
    }

    /// Ends all that is left of the Emperor.
    pub fn end_emperor(&mut self) {
        self.emperor = None;
    }

    /// A vassal at one of the addresses that hosts have for their vassals at first.
    pub fn vassal(&self, name: &str, number: u8) -> VassalIni {
        self.vassal_at(name, vassal_address(self.number, number), vassal_address6(self.number, number))
    }

    /// A vassal at any address.
    pub fn vassal_at(&self, name: &str, address: Ipv4Addr, address6: Ipv6Addr) -> VassalIni {
        let (gateway, gateway6) = (gateway_of(self.number), gateway6_of(self.number));
        VassalIni::new(Uwsgi::usual(), Subject::Ours, name, address, gateway)
            .length(16)
            .address_6(address6, gateway6)
            .line(format!("exec-as-root = ping -q -c 1 -i 0.2 -w 5 {gateway6}"))
    }

    /// Starts one of its own vassals.
    #[track_caller]
    pub fn start_vassal(&self, name: &str, number: u8) -> Net {
        self.emperor().start_attached(&self.vassal(name, number))
    }

    /// Where the kernel sends packets for an address, or `None` if it sends them nowhere: the device, and the next host if
    /// there is one.
    pub fn way_to(&self, address: impl Into<IpAddr>) -> Option<Way> {
        let output = self.netns.output(&["ip", "-o", "route", "get", &address.into().to_string()]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() || text.starts_with("blackhole") || text.starts_with("unreachable") {
            return None;
        }
        let after = |word: &str| {
            let mut words = text.split_whitespace().skip_while(|it| *it != word);
            words.nth(1).map(str::to_owned)
        };
        Some(Way { device: after("dev")?, via: after("via").map(|via| via.parse().expect("an address")) })
    }

    /// True if the kernel's way to an address leads to another host.
    pub fn leads_to(&self, address: impl Into<IpAddr>, host: u8) -> bool {
        let address = address.into();
        let next: IpAddr = match address {
            IpAddr::V4(_) => address_of(host).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, u16::from(host)).into(),
        };
        self.way_to(address).is_some_and(|way| way.via == Some(next))
    }
}

/// An address that a BIRD tells others of as if a router had told it so.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub address: IpAddr,
    pub holding: Holding,
}

impl Told {
    /// An address that a router holds since so many milliseconds after 1970.
    pub fn new(address: impl Into<IpAddr>, router: u64, since: u64) -> Self {
        let router = RouterId::new(router).expect("a number of a router");
        Self { address: address.into(), holding: Holding { router, since: ClaimTime(since) } }
    }
}

/// A configuration that also tells other hosts of these addresses.
fn telling(config: &str, told: &[Told]) -> String {
    let exports = "export where proto = \"tuntap\"";
    assert!(config.contains(exports), "the configuration has changed: {config}");
    let mut config = config.replace(exports, "export where (proto = \"tuntap\" || proto ~ \"told*\")");
    for (number, Told { address, holding }) in told.iter().enumerate() {
        let (channel, length) = if address.is_ipv4() { ("ipv4", 32) } else { ("ipv6", 128) };
        let mut filter = format!("bgp_med = {};", holding.since.0 / 1000);
        for community in claim::encode(DEFAULT_ASN, *holding) {
            let (asn, function, parameter) = (community.asn, community.function, community.parameter);
            filter += &format!(" bgp_large_community.add(({asn}, {function}, {parameter}));");
        }
        config += &format!(
            "protocol static told{number} {{ {channel} {{ import filter {{ {filter} accept; }}; }}; \
             route {address}/{length} unreachable; }}\n"
        );
    }
    config
}

/// Where a kernel sends packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub device: String,
    pub via: Option<IpAddr>,
}
