use std::net::Ipv4Addr;

use crate::common::emperor::EMPEROR;
use crate::common::probe::{is_cut_off, is_reachable};
use crate::example::{Example, net_of, wait_for_answer};
use crate::world::{INTERNET, World};

const APP1: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
const APP2: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 3);

#[test]
fn vassals_reach_the_host_and_the_world_but_not_each_other() {
    let (world, example) = (World::new(), Example::copy("firewall"));
    let emperor = example.start(&world.host, "emperor.ini");
    wait_for_answer(&world.host, APP1, 20001);
    wait_for_answer(&world.host, APP2, 20002);
    emperor.assert_all_mapped(&example.plugin());
    for (vassal, neighbour) in [("app1.ini", APP2), ("app2.ini", APP1)] {
        let net = net_of(&emperor, vassal);
        assert!(is_reachable(&net, EMPEROR) && is_reachable(&net, INTERNET), "{vassal}");
        assert!(is_cut_off(&net, neighbour), "{vassal}");
    }
}
