//! Two hosts whose routers have a trunk.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use tuntap_agent::PrivateKey;

use crate::common::instance::Instance;
use crate::common::netns::Netns;
use crate::common::probe::is_reachable;
use crate::common::wait;
use crate::example::{Example, addresses_of, answer, net_of, wait_for_answer};

/// The public key that stands in both files until the operator has put in that of the other host.
const PLACEHOLDER: &str = "GdQMcNTaXDXyrQFqYyX69DPP3arifxZUjBt3VcqXBqQ=";

const A: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

fn key(example: &Example, host: &str) -> PathBuf {
    example.root().join(host).join("router.key")
}

/// Starts a host as its file says, with the keys of both in their places.
fn start(example: &Example, netns: &Netns, host: &str, other: &str) -> Instance {
    let ini = format!("{host}/emperor.ini");
    let public = |host: &str| {
        let (key, _) = PrivateKey::load_or_create(&key(example, host)).expect("own folder");
        key.public().to_string()
    };
    public(host);
    example.replace(&ini, "/etc/uwsgi/router.key", &key(example, host).to_string_lossy());
    example.replace(&ini, PLACEHOLDER, &public(other));
    example.start(netns, &ini)
}

#[test]
fn vassals_reach_each_other_over_a_trunk() {
    let (a, b) = (Netns::new().with_ipv6(), Netns::new().with_ipv6());
    a.join(&format!("{A}/24"), &b, &format!("{B}/24"));
    let example = Example::copy("trunk");
    let emperors = [start(&example, &a, "a", "b"), start(&example, &b, "b", "a")];
    for emperor in &emperors {
        emperor.log.wait_for(") is open", wait::LONG);
    }
    let apps: Vec<Vec<IpAddr>> = emperors.iter().map(|emperor| addresses_of(emperor, "app.ini")).collect();
    for ((addresses, netns), number) in apps.iter().zip([&a, &b]).zip(1..) {
        assert_eq!(addresses.len(), 2, "one of each network");
        let of_host = |address: &IpAddr| match address {
            IpAddr::V4(address) => address.octets()[..3] == [10, 77, number],
            IpAddr::V6(address) => address.segments()[..4] == [0xfd00, 0x77, 0, u16::from(number)],
        };
        assert!(addresses.iter().all(of_host), "{addresses:?}");
        wait_for_answer(netns, addresses[0], 20001);
    }
    for emperor in &emperors {
        emperor.assert_all_mapped(&example.plugin());
    }
    let vassals = emperors.each_ref().map(|emperor| net_of(emperor, "app.ini"));
    for (vassal, other) in [(&vassals[0], &apps[1]), (&vassals[1], &apps[0])] {
        for address in other {
            wait::until_true(&format!("{address} is reached"), wait::LONG, || is_reachable(vassal, *address));
            assert!(answer(vassal, *address).starts_with("uid 20001 on "));
        }
    }
    // The host of another one's vassals has no way to them but its routers' device.
    assert!(!is_reachable(&a, IpAddr::from(Ipv6Addr::new(0xfd00, 0x77, 0, 2, 0, 0, 0, 99))));
}
