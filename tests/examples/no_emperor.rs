use std::net::Ipv4Addr;

use crate::common::probe::is_reachable;
use crate::common::processes::is_alive;
use crate::common::wait;
use crate::example::{Example, net_of, wait_for_answer};
use crate::world::{INTERNET, World};

const APP: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);

#[test]
fn instance_makes_its_own_namespace() {
    let (world, example) = (World::new(), Example::copy("no-emperor"));
    let router = example.start(&world.host, "router.ini");
    wait::until_true("the router listens", wait::LONG, || example.root().join("run/tuntap.socket").exists());
    let instance = example.start(&world.host, "app.ini");
    wait_for_answer(&world.host, APP, 20001);
    router.assert_all_mapped(&example.plugin());
    instance.assert_all_mapped(&example.plugin());
    let net = net_of(&instance, "app.ini");
    assert!(net.has_device("uwsgi0") && !net.has_device("emperor0"), "a namespace of its own");
    assert!(is_reachable(&net, INTERNET));
    assert!(is_alive(router.pid()));
}
