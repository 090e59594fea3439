//! Vassals of other hosts hold addresses, as another BIRD tells.

use std::net::Ipv4Addr;

use crate::common::bird::Bird;
use crate::common::emperor::{EMPEROR, Emperor, V1, V2};
use crate::common::netns::Netns;
use crate::common::{probe, wait};
use crate::world::{HOSTS, PASSWORD, Secrets, bird, bird_text, emperor, until_established, until_route, vassal};

/// Another host, where somebody has an address.
fn other_host(address: Ipv4Addr) -> String {
    let [here, there] = [HOSTS[1], HOSTS[0]];
    format!(
        "router id {here};
        protocol device {{}}
        protocol static holder {{ ipv4; route {address}/32 blackhole {{ bgp_med = 1700000000; }}; }}
        protocol bgp beyond {{
            local {here} as 64512;
            neighbor {there} as 64512;
            direct;
            connect delay time 1;
            connect retry time 1;
            error wait time 1, 1;
            ipv4 {{ import all; export where proto = \"holder\"; next hop self; }};
        }}"
    )
}

fn hosts() -> [Netns; 2] {
    let hosts = [Netns::new(), Netns::new()];
    hosts[0].join(&format!("{}/24", HOSTS[0]), &hosts[1], &format!("{}/24", HOSTS[1]));
    hosts
}

fn holdings(emperor: &Emperor) -> u64 {
    let stats = emperor.stats();
    let sources = stats.0["elsewhere"]["sources"].as_array().cloned().unwrap_or_default();
    sources.iter().map(|source| source["holdings"].as_u64().unwrap_or(0)).sum()
}

#[test]
fn address_of_another_host_is_refused_until_it_is_free() {
    let secrets = Secrets::new();
    let [host, other] = hosts();
    let emperor = emperor(&secrets).line(secrets.routes_line()).start_in(host);
    let _bird = bird(&emperor.netns, &bird_text(Some(PASSWORD), Some(HOSTS[1])));
    until_established(&emperor);
    let beyond: Bird = bird(&other, &other_host(V2));
    wait::until_true("the other host's holder is known", wait::LONG, || holdings(&emperor) == 1);
    let one = emperor.start_attached(&vassal(&emperor, "one", V1));
    let two = emperor.start_vassal(&vassal(&emperor, "two", V2).without_ping());
    assert!(probe::is_cut_off(&two, EMPEROR));
    assert!(probe::is_cut_off(&two, EMPEROR));
    assert!(probe::is_reachable(&one, EMPEROR));
    let stats = emperor.stats();
    assert!(stats.0["elsewhere"]["refused"].as_u64().is_some_and(|refused| refused >= 2), "{}", stats.0);
    let lines =
        emperor.log.text().lines().filter(|line| line.contains(&V2.to_string()) && line.contains("holds")).count();
    assert_eq!(lines, 1, "it is logged once");
    beyond.ask("disable holder");
    wait::until_true("it is free", wait::LONG, || holdings(&emperor) == 0);
    assert!(probe::is_reachable(&two, EMPEROR), "the next packet claims it");
    until_route(&emperor.netns, V2, true);
}

/// A host that starts doesn't know yet who has which address. What its vassals claim meanwhile is no newer claim.
#[test]
fn claim_made_before_bird_has_told_gives_way() {
    let secrets = Secrets::new();
    let [host, other] = hosts();
    let _beyond = bird(&other, &other_host(V2));
    let line = format!("{} hold=60", secrets.routes_line());
    let emperor = emperor(&secrets).line(line).start_in(host);
    let two = emperor.start_attached(&vassal(&emperor, "two", V2));
    let one = emperor.start_attached(&vassal(&emperor, "one", V1));
    assert!(probe::is_reachable(&two, EMPEROR), "until somebody else is heard of, it has the address");
    let _bird = bird(&emperor.netns, &bird_text(Some(PASSWORD), Some(HOSTS[1])));
    wait::until_true("the claim is lost", wait::LONG, || emperor.stats().0["elsewhere"]["lost"] == 1);
    assert!(probe::is_cut_off(&two, EMPEROR));
    assert!(probe::is_reachable(&one, EMPEROR));
    until_route(&emperor.netns, V1, true);
}
