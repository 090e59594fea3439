//! Two hosts with BIRD, whose vassals have one network.

use std::net::Ipv4Addr;

use crate::common::hosts::{Host, Hosts};
use crate::common::instance::Instance;
use crate::common::probe::is_reachable;
use crate::common::wait;
use crate::example::{Example, addresses_of, net_of, wait_for_answer};

const SHOP: Ipv4Addr = Ipv4Addr::new(10, 77, 200, 1);

/// Starts a host as its file says, with files of its own instead of those in /etc.
fn start(example: &Example, host: &Host, folder: &str) -> Instance {
    let ini = format!("{folder}/emperor.ini");
    example.replace(&ini, "/etc/uwsgi/bgp-password", &host.password().to_string_lossy());
    example.replace(&ini, "/etc/uwsgi/router.key", &host.key().to_string_lossy());
    example.start(&host.netns, &ini)
}

#[test]
fn vassal_keeps_its_address_on_another_host() {
    let mut hosts = Hosts::new(2);
    let example = Example::copy("hosts");
    let (a, b) = (start(&example, hosts.host(1), "a"), start(&example, hosts.host(2), "b"));
    hosts.start_birds();
    hosts.wait_for_feeds();
    for emperor in [&a, &b] {
        emperor.log.wait_for("routes: a session with", wait::LONG);
        emperor.assert_all_mapped(&example.plugin());
    }
    wait_for_answer(&hosts.host(1).netns, SHOP, 20002);
    let app = addresses_of(&a, "app.ini");
    assert_eq!(app.len(), 2, "one of each network");
    let shop = net_of(&b, "shop.ini");
    wait::until_true("host B's way to the app", wait::LONG, || {
        app.iter().all(|address| hosts.host(2).leads_to(*address, 1))
    });
    assert!(app.iter().all(|address| is_reachable(&shop, *address)));

    let vassals = |folder: &str| example.root().join(folder).join("vassals/shop.ini");
    let text = std::fs::read_to_string(vassals("b")).expect("the example has this file");
    std::fs::remove_file(vassals("b")).expect("own folder");
    let here =
        text.replace(&example.root().join("b").to_string_lossy()[..], &example.root().join("a").to_string_lossy());
    std::fs::write(vassals("a"), here).expect("own folder");
    wait::until_true("host B's way to the shop on host A", wait::LONG, || hosts.host(2).leads_to(SHOP, 1));
    wait_for_answer(&hosts.host(2).netns, SHOP, 20002);
}
