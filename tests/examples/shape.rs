use std::net::IpAddr;

use tuntap_api::control::{Chain, Request, RuleList};

use crate::common::control::Control;
use crate::common::probe::is_reachable;
use crate::common::wait;
use crate::example::{Example, addresses_of, net_of, wait_for_answer};
use crate::world::{INTERNET, World};

#[test]
fn customers_share_a_line_and_reach_the_world() {
    let (world, example) = (World::new(), Example::copy("shape"));
    let emperor = example.start(&world.host, "emperor.ini");
    for (ini, uid) in [("app1.ini", 20001), ("app2.ini", 20002), ("app3.ini", 20003)] {
        let address = addresses_of(&emperor, ini)[0];
        wait_for_answer(&world.host, address, uid);
        let to = IpAddr::from(INTERNET);
        wait::until_true(&format!("{ini} reaches {to}"), wait::SHORT, || is_reachable(&net_of(&emperor, ini), to));
    }
    let mut control = Control::at(&world.host, &example.root().join("run/tuntap.socket.control"));
    let limits: RuleList = control.ask(&Request::RulesList { chain: Some(Chain::Shape), group: None });
    let texts: Vec<_> = limits.groups.iter().flat_map(|group| &group.rules).map(|rule| rule.rule.as_str()).collect();
    assert_eq!(texts.len(), 4, "{texts:?}");
    assert!(texts.iter().any(|text| text.starts_with("both uplink 95M")), "{texts:?}");
}
