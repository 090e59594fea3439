use std::net::IpAddr;

use tuntap_api::control::{Chain, Request, RuleList};

use crate::common::control::Control;
use crate::common::probe::{is_cut_off, is_reachable};
use crate::common::wait;
use crate::example::{Example, addresses_of, net_of, wait_for_answer};
use crate::world::{INTERNET, INTERNET_V6, World};

#[test]
fn rules_file_opens_what_the_options_close_and_changes_while_the_router_runs() {
    let (world, example) = (World::new(), Example::copy("live"));
    let emperor = example.start(&world.host, "emperor.ini");
    let addresses = addresses_of(&emperor, "app1.ini");
    let [v4, v6] = addresses[..] else { panic!("{addresses:?}") };
    wait_for_answer(&world.host, v4, 20001);
    wait_for_answer(&world.host, v6, 20001);
    let net = net_of(&emperor, "app1.ini");
    for to in [IpAddr::from(INTERNET), INTERNET_V6.into()] {
        wait::until_true(&format!("{to} is reached"), wait::SHORT, || is_reachable(&net, to));
    }
    assert!(is_reachable(&world.host, v4));
    let mut control = Control::at(&world.host, &example.root().join("run/tuntap.socket.control"));
    control.add(Chain::In, &format!("deny any {v4} icmp"));
    assert!(is_cut_off(&world.host, v4));
    let groups: RuleList = control.ask(&Request::RulesList { chain: None, group: None });
    let names: Vec<_> = groups.groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["live", "everybody", "web", "ini"]);
}
