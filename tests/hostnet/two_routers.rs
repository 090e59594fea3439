//! Two routers of one instance, each with its own network, way out and ports.

use std::net::{Ipv4Addr, SocketAddr};

use nix::sys::signal::Signal;

use crate::common::netns::Netns;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::world::{
    HOST_IPV4, OUTSIDE_IPV4, SET_UP, Site, World, client_as_seen, forwarding, ini, ip, ruleset, vassal,
};

const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 9, 1);
const V9: Ipv4Addr = Ipv4Addr::new(192, 168, 9, 2);

#[test]
fn two_routers_have_their_own_networks_and_ports() {
    let host = Netns::new();
    let site = Site::around(&host);
    let before = (ruleset(&host), forwarding(&host));
    let of_both = SET_UP.map(|line| {
        let (option, value) = line.split_once(" = ").expect("an option and its value");
        if option == "tuntap-router" { line.to_owned() } else { format!("{option} = emperor0 {value}") }
    });
    let of_both: Vec<_> = of_both.iter().map(String::as_str).collect();
    let emperor = ini()
        .lines(&of_both)
        .lines(&[
            "tuntap-router = emperor1 {dir}/u.sock",
            "tuntap-router-address = emperor1 192.168.9.1/24",
            "tuntap-router-nat = emperor1 up4",
            "tuntap-router-port = emperor0 tcp 8080 192.168.0.2:80",
            "tuntap-router-port = emperor1 tcp 8081 192.168.9.2:80",
        ])
        .start_in(host);
    let mut world = World { emperor, site };
    let first = world.start_vassal(&vassal("v1"));
    let second = VassalIni::new(Uwsgi::usual(), Subject::Ours, "v9", V9, SECOND).devices(&["uwsgi0 {dir}/u.sock"]);
    let second = world.start_vassal(&second);
    let outside = &world.site.outside4;
    for (net, address, port) in [(&first, "192.168.0.2", 8080), (&second, "192.168.9.2", 8081)] {
        let out = SocketAddr::from((ip(OUTSIDE_IPV4), 7020));
        assert_eq!(client_as_seen(net, out, outside, out), ip(HOST_IPV4), "{address}");
        let (mapped, web) = (SocketAddr::from((ip(HOST_IPV4), port)), SocketAddr::from((ip(address), 80)));
        assert_eq!(client_as_seen(outside, mapped, net, web), ip(OUTSIDE_IPV4), "{address}");
    }
    // Each router's vassal asks the port of the other one's.
    for (asking, asked, address, port) in
        [(&first, &second, "192.168.9.2", 8081), (&second, &first, "192.168.0.2", 8080)]
    {
        let (mapped, web) = (SocketAddr::from((ip(HOST_IPV4), port)), SocketAddr::from((ip(address), 80)));
        client_as_seen(asking, mapped, asked, web);
    }
    world.signal(Signal::SIGINT);
    world.emperor.wait_for_exit();
    assert_eq!((ruleset(&world.netns), forwarding(&world.netns)), before);
}
