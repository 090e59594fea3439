//! A host that announces by BGP what it must not, and what that costs the others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tuntap_agent::PrivateKey;
use tuntap_core::routes::bird_config::{BirdConfig, bird_config};
use tuntap_core::routes::settings::DEFAULT_ASN;
use tuntap_wire::bgp::claim;
use tuntap_wire::holding::{ClaimTime, Holding, RouterId};

use crate::common::hosts::{Hosts, address_of, gateway_of, vassal_address, vassal_address6};
use crate::common::probe::is_reachable;
use crate::common::raw_peer::RawPeer;
use crate::common::series::Series;
use crate::common::stream::Stream;
use crate::common::wait;

/// The host that forges routes.
const FORGER: u8 = 2;

/// A time of claims in seconds after 1970: long ago, and the latest that a MULTI_EXIT_DISC can say.
const LONG_AGO: u32 = 1;
const FAR_AHEAD: u32 = u32::MAX;

/// A route that is announced though nobody behind its host has the address.
struct Forged {
    net: String,
    med: u32,
    next_hop: IpAddr,
    /// The router that is named as the holder.
    router: Option<RouterId>,
}

impl Forged {
    fn new(net: impl ToString) -> Self {
        let net = net.to_string();
        let next_hop = if net.contains(':') { next_hop6(FORGER) } else { address_of(FORGER).into() };
        Self { net, med: FAR_AHEAD, next_hop, router: None }
    }

    /// The configuration of BIRD that makes it.
    fn protocol(&self, number: usize) -> String {
        let channel = if self.net.contains(':') { "ipv6" } else { "ipv4" };
        let mut filter = format!("bgp_med = {}; bgp_next_hop = {};", self.med, self.next_hop);
        let holding = |router| Holding { router, since: ClaimTime(u64::from(self.med) * 1000) };
        for community in self.router.into_iter().flat_map(|router| claim::encode(DEFAULT_ASN, holding(router))) {
            let (asn, function, parameter) = (community.asn, community.function, community.parameter);
            filter += &format!(" bgp_large_community.add(({asn}, {function}, {parameter}));");
        }
        // BIRD's own preference for static routes keeps them where it hears of better ones.
        format!(
            "protocol static forged{number} {{ {channel} {{ preference 250; import filter {{ {filter} accept; }}; }}; \
             route {} unreachable; }}\n",
            self.net
        )
    }
}

fn next_hop6(host: u8) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, u16::from(host)).into()
}

/// Three hosts, of which one announces forged routes to the others, whose vassals reach each other.
fn hosts(forged: impl Fn(&Hosts) -> Vec<Forged>) -> Hosts {
    let mut hosts = Hosts::new(3);
    for host in hosts.iter_mut() {
        let ini = host.ini_with_routes();
        host.start(ini);
    }
    let configs: Vec<String> =
        hosts.iter().map(|host| bird_config(&host.bird_config(&[1, 2, 3])).expect("a valid configuration")).collect();
    for (host, mut config) in (1..=3).zip(configs) {
        if host == FORGER {
            for family in ["4", "6"] {
                let exports = format!("export where proto = \"tuntap\" && net ~ VASSALS{family};");
                assert!(config.contains(&exports), "the configuration has changed: {config}");
                config = config.replace(&exports, "export where proto ~ \"forged*\";");
            }
            config = config.replace("next hop self;", "next hop keep;").replace(
                "export filter {\n\t\t\tif source",
                "export filter {\n\t\t\tif proto ~ \"forged*\" then reject;\n\t\t\tif source",
            );
            let routes = forged(&hosts);
            config.extend(routes.iter().enumerate().map(|(number, route)| route.protocol(number)));
        }
        hosts.host_mut(host).start_bird(&config);
    }
    hosts.wait_for_neighbours();
    hosts.wait_for_feeds();
    hosts
}

/// The number of routes that a host's BIRD has from the forger.
fn taken(hosts: &Hosts, host: u8) -> usize {
    // Neighbours are numbered without the host itself.
    hosts.host(host).bird().routes(&format!("host{}", FORGER - u8::from(host < FORGER)))
}

/// Routes that no host may have: to everywhere, to whole networks, to what hosts have themselves, by addresses of the others.
#[test]
fn routes_to_more_than_a_vassal_are_not_taken() {
    let last = vassal_address(FORGER, 99);
    let hosts = hosts(|_| {
        let nets =
            ["0.0.0.0/0", "::/0", "10.0.0.0/8", "10.77.0.0/16", "10.77.1.0/24", "fd00:77::/64", "fd00:77::1:0/112"];
        let own = [address_of(1).to_string(), "127.0.0.1".to_owned(), "10.99.0.0".to_owned()];
        let mut all: Vec<Forged> = nets.into_iter().map(Forged::new).collect();
        all.extend(own.iter().map(|address| Forged::new(format!("{address}/32"))));
        // By the way of those who get it: by themselves, and by their own loopback.
        let through = |number, next_hop: Ipv4Addr| Forged {
            next_hop: next_hop.into(),
            ..Forged::new(format!("{}/32", vassal_address(FORGER, number)))
        };
        all.extend([through(10, address_of(1)), through(11, Ipv4Addr::LOCALHOST), through(12, gateway_of(1))]);
        all.push(Forged { med: LONG_AGO, ..Forged::new(format!("{last}/32")) });
        all
    });
    let routes = |host: u8| {
        let netns = &hosts.host(host).netns;
        netns.sh("ip route show table main") + &netns.sh("ip -6 route show table main")
    };
    for host in [1, 3] {
        wait::until_true("a route of a vassal is taken", wait::LONG, || hosts.host(host).leads_to(last, FORGER));
    }
    let nets = [1, 3].map(|host| hosts.host(host).start_vassal("v1", 2));
    wait::until_true("vassals reach each other", wait::LONG, || is_reachable(&nets[0], vassal_address(3, 2)));
    for host in [1, 3] {
        let text = routes(host);
        let by_forger: Vec<&str> =
            text.lines().filter(|line| line.contains("via 10.99.0.2") || line.contains("fd00:99::2")).collect();
        assert!(by_forger.iter().all(|line| line.starts_with(&last.to_string())), "host {host}: {text}");
        for number in 10..=12 {
            let way = hosts.host(host).way_to(vassal_address(FORGER, number));
            // Host 1 is the next hop that host 3 is told, which is a host like any other. The device leads to the host's own router.
            let is_right = way.as_ref().is_none_or(|way| way.device == "emperor0" || (host, number) == (3, 10));
            assert!(is_right, "host {host}: {way:?}");
        }
        assert!(is_reachable(&nets[0], gateway_of(1)) && is_reachable(&nets[1], gateway_of(3)));
    }
}

/// Routes to addresses that vassals of others have. Those of routers that are known, and of unknown ones, with the oldest and the
/// latest times: none that can't be right takes a vassal its network.
#[test]
fn forged_holders_take_no_vassal_its_network() {
    let key =
        |hosts: &Hosts, host: u8| PrivateKey::load(&hosts.host(host).key()).expect("a router has a key").router_id();
    let forged = |hosts: &Hosts| {
        let address = vassal_address(1, 2);
        let routers = [None, Some(key(hosts, 1)), Some(key(hosts, 3)), RouterId::new(u64::MAX)];
        // Each of these is another route, of which BIRD announces the one that it likes best. So there is a vassal for each.
        let mut all = Vec::new();
        for (number, router) in (0..).zip(routers) {
            for (turn, med) in (0..).zip([LONG_AGO, FAR_AHEAD]) {
                let address = Ipv4Addr::from_bits(address.to_bits() + number * 2 + turn);
                all.push(Forged { med, router, ..Forged::new(format!("{address}/32")) });
            }
        }
        all.push(Forged::new(format!("{}/128", vassal_address6(1, 2))));
        all
    };
    // The vassals were there before.
    let hosts = hosts(|_| Vec::new());
    let address = |number: u8| vassal_address(1, 2 + number);
    let vassals: Vec<_> = (0..8).map(|number| hosts.host(1).start_vassal(&format!("v{number}"), 2 + number)).collect();
    let near = hosts.host(3).start_vassal("near", 2);
    for number in 0..8 {
        wait::until_true("they are reached", wait::LONG, || is_reachable(&near, address(number)));
    }
    let stream = Stream::open(&vassals[7], &vassals[0], address(0));
    let routes: String = forged(&hosts).iter().enumerate().map(|(number, route)| route.protocol(number)).collect();
    hosts.host(FORGER).bird().add(&routes);
    wait::until_true("host 1 hears of forged routes", wait::LONG, || taken(&hosts, 1) == 9);
    let emperor = hosts.host(1).emperor();
    emperor.log.wait_for("the clock of another host, or of this one, is wrong", wait::LONG);
    std::thread::sleep(std::time::Duration::from_secs(1));
    for number in 0..8 {
        let way = hosts.host(1).way_to(address(number)).expect("a way");
        assert_eq!((way.device.as_str(), way.via), ("emperor0", None), "{}", address(number));
        assert!(is_reachable(&hosts.host(1).netns, address(number)), "{}", address(number));
        assert!(emperor.stats().peer(address(number)).is_some());
    }
    let way = hosts.host(1).way_to(vassal_address6(1, 2)).expect("a way");
    assert_eq!((way.device.as_str(), way.via), ("emperor0", None));
    stream.wait_until_passing("the stream goes on");
    stream.end();
}

/// More routes than a host takes from a neighbour. Those of the other hosts come and go as before, and vassals notice nothing.
#[test]
fn hundred_thousand_routes_of_a_neighbour_are_bounded_and_cost_others_nothing() {
    const COUNT: u32 = 100_000;
    const MOST: usize = BirdConfig::DEFAULT_MAX_ROUTES as usize;
    let mut hosts = hosts(|_| Vec::new());
    let [near, far] = [1, 3].map(|host| hosts.host(host).start_vassal("v1", 2));
    wait::until_true("vassals reach each other", wait::LONG, || is_reachable(&near, vassal_address(3, 2)));
    let pings = Series::start(&near, vassal_address(3, 2));
    let stream = Stream::open(&far, &near, vassal_address6(1, 2));
    let first = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0x8000, 0).to_bits();
    let mut text = "protocol static forged { ipv6 { import filter { bgp_med = 1; accept; }; };\n".to_owned();
    for number in 0..COUNT {
        text += &format!("route {}/128 unreachable;\n", Ipv6Addr::from_bits(first + u128::from(number)));
    }
    hosts.host(FORGER).bird().add(&(text + "}\n"));
    for host in [1, 3] {
        let emperor = hosts.host(host).emperor();
        let all = u64::try_from(MOST).expect("it fits");
        wait::until_true("no more are taken than may be", 3 * wait::LONG, || {
            emperor.stats_eventually().0["routes"]["received"].as_u64() >= Some(all - 1)
        });
        assert_eq!(taken(&hosts, host), MOST, "host {host}");
    }
    let held = RawPeer::registered(&hosts.host(3).emperor().socket(), vassal_address(3, 9), gateway_of(3));
    wait::until_true("a claim is told", wait::LONG, || hosts.host(1).leads_to(vassal_address(3, 9), 3));
    drop(held);
    let is_gone = || hosts.host(1).way_to(vassal_address(3, 9)).is_none_or(|way| way.via.is_none());
    wait::until_true("its end, too", wait::LONG, is_gone);
    stream.wait_until_passing("the stream goes on");
    stream.end();
    let pings = pings.end();
    assert!(pings.longest_loss <= 1, "{pings:?}");
    hosts.host_mut(FORGER).bird.as_mut().expect("BIRD runs").kill();
    wait::until_true("all routes are gone", 3 * wait::LONG, || {
        taken(&hosts, 1) == 0 && hosts.host(1).emperor().stats_eventually().0["routes"]["routes"].as_u64() <= Some(4)
    });
    assert!(is_reachable(&near, vassal_address(3, 2)));
}
