use std::net::{IpAddr, Ipv4Addr};

use crate::common::netns::Net;
use crate::common::probe::is_reachable;
use crate::common::wait;
use crate::example::{Example, addresses_of, net_of, wait_for_answer};
use crate::world::{INTERNET, INTERNET_V6, World};

const APP2: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 137, 0, 2));

#[test]
fn vassals_have_addresses_of_both_families_and_reach_the_internet() {
    let (world, example) = (World::new(), Example::copy("auto"));
    let emperor = example.start(&world.host, "emperor.ini");
    for (vassal, uid) in [("app1.ini", 20001), ("app2.ini", 20002)] {
        // The ini files say nothing of addresses, but that of app2 is leased to it.
        let addresses = addresses_of(&emperor, vassal);
        let [v4, v6] = addresses[..] else { panic!("{vassal}: {addresses:?}") };
        assert_eq!(v4 == APP2, vassal == "app2.ini", "{vassal}: {v4}");
        assert!(
            v4.to_string().starts_with("10.137.0.") && v6.to_string().starts_with("fd6e:9c4a:71d3::"),
            "{vassal}: {v4} {v6}"
        );
        wait_for_answer(&world.host, v4, uid);
        let net = net_of(&emperor, vassal);
        let ways: [(&Net, IpAddr); 3] = [(&world.host, v6), (&net, INTERNET.into()), (&net, INTERNET_V6.into())];
        for (from, to) in ways {
            wait::until_true(&format!("{vassal}: {to} is reached"), wait::SHORT, || is_reachable(from, to));
        }
    }
    emperor.assert_all_mapped(&example.plugin());
}
