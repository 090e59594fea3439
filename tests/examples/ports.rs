use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::example::{Example, answer, answer_of, wait_for_answer};
use crate::world::{HOST, HOST_V6, INTERNET, INTERNET_V6, World};

const PORT: u16 = 8081;
const APP: Ipv4Addr = Ipv4Addr::new(10, 137, 0, 2);
const APP_V6: Ipv6Addr = Ipv6Addr::new(0xfd6e, 0x9c4a, 0x71d3, 0, 0, 0, 0, 2);

#[test]
fn internet_reaches_the_vassal_by_a_port_of_the_host() {
    let (world, example) = (World::new(), Example::copy("ports"));
    let emperor = example.start(&world.host, "emperor.ini");
    wait_for_answer(&world.host, APP, 20001);
    wait_for_answer(&world.host, APP_V6, 20001);
    emperor.assert_all_mapped(&example.plugin());
    let ways: [(IpAddr, IpAddr); 2] = [(HOST.into(), INTERNET.into()), (HOST_V6.into(), INTERNET_V6.into())];
    for (host, client) in ways {
        let page = answer_of(&world.internet, host, PORT);
        assert!(page.starts_with("uid 20001 on "), "{page}");
        // An IPv4 client of an IPv6 socket is shown as ::ffff:a.b.c.d.
        assert!(page.ends_with(&client.to_string()), "the vassal sees the client's own address: {page}");
        assert_eq!(answer(&world.internet, host), "", "no other port leads to it");
    }
}
