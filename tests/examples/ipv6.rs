use std::net::Ipv6Addr;

use crate::common::probe::{is_cut_off, is_reachable};
use crate::example::{Example, addresses_of, net_of, wait_for_answer};
use crate::world::{INTERNET_V6, World};

const EMPEROR: Ipv6Addr = Ipv6Addr::new(0xfd6e, 0x9c4a, 0x71d3, 0, 0, 0, 0, 1);
const APP2: Ipv6Addr = Ipv6Addr::new(0xfd6e, 0x9c4a, 0x71d3, 0, 0, 0, 0, 2);

#[test]
fn vassals_have_ipv6_alone_and_not_each_other() {
    let (world, example) = (World::new(), Example::copy("ipv6"));
    let emperor = example.start(&world.host, "emperor.ini");
    let chosen = addresses_of(&emperor, "app1.ini");
    assert!(matches!(chosen[..], [address] if address.is_ipv6()), "{chosen:?}");
    wait_for_answer(&world.host, chosen[0], 20001);
    wait_for_answer(&world.host, APP2, 20002);
    emperor.assert_all_mapped(&example.plugin());
    for (vassal, neighbour) in [("app1.ini", APP2.into()), ("app2.ini", chosen[0])] {
        let net = net_of(&emperor, vassal);
        assert!(is_reachable(&net, EMPEROR) && is_reachable(&net, INTERNET_V6), "{vassal}");
        assert!(is_cut_off(&net, neighbour), "{vassal}");
    }
}
