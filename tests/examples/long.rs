use std::net::Ipv4Addr;

use crate::common::probe::is_reachable;
use crate::example::{Example, net_of, wait_for_answer};
use crate::world::{INTERNET, World};

const APP: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);

#[test]
fn vassal_serves_and_reaches_the_internet_through_nat() {
    let (world, example) = (World::new(), Example::copy("minimal"));
    let emperor = example.start(&world.host, "emperor.ini");
    wait_for_answer(&world.host, APP, 20001);
    emperor.assert_all_mapped(&example.plugin());
    assert!(is_reachable(&net_of(&emperor, "app.ini"), INTERNET));
    let nat = world.host.sh("iptables-save -t nat");
    assert_eq!(nat.matches("MASQUERADE").count(), 1, "the hooks run several times, the rule is there once: {nat}");
    assert_eq!(world.host.sh("sysctl -n net.ipv4.ip_forward").trim(), "1");
}
