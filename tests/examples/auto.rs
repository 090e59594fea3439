use std::net::Ipv4Addr;

use crate::common::probe::is_reachable;
use crate::common::wait;
use crate::example::{Example, net_of, wait_for_answer};
use crate::world::{INTERNET, World};

const APP2: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

#[test]
fn vassals_have_addresses_of_both_families_and_reach_the_internet() {
    let (world, example) = (World::new(), Example::copy("auto"));
    world.host.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0");
    let emperor = example.start(&world.host, "emperor.ini");
    wait_for_answer(&world.host, APP2, 20002);
    emperor.assert_all_mapped(&example.plugin());
    // The ini files say nothing of app1's address.
    let address = wait::until("app1 has its addresses", wait::LONG, || {
        let text = net_of(&emperor, "app1.ini").sh("ip -o addr show dev uwsgi0 scope global");
        let words: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
        let [v4, v6] = words.as_slice() else { return None };
        assert!(v6.starts_with("fd00:77::") && v6.ends_with("/64"), "{v6}");
        v4.strip_suffix("/24")?.parse::<Ipv4Addr>().ok()
    });
    wait_for_answer(&world.host, address, 20001);
    for vassal in ["app1.ini", "app2.ini"] {
        assert!(is_reachable(&net_of(&emperor, vassal), INTERNET), "{vassal}");
    }
}
