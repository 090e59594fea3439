//! Routers of different versions: what a rolling upgrade of hosts brings together.

use std::net::SocketAddr;

use tuntap_wire::trunk::{Hello, LEAST_VERSION, VERSION, append_end};

use crate::common::emperor::Emperor;
use crate::common::netns::Netns;
use crate::common::wait;
use crate::neighbour::Neighbour;
use crate::world::{Keys, PORT, emperor, host, inside, peer, trunks, two_hosts};

/// A real router, and one that is the test.
fn router_and_neighbour(keys: &Keys) -> (Emperor, Netns, Neighbour) {
    let (first, second) = two_hosts();
    let here = emperor(keys, 1).line(peer(keys, 2, "10.77.2.0/24", "")).start_in(first);
    let neighbour = Neighbour::dialling(&second, keys, 2, 1, SocketAddr::from((host(1), PORT)));
    (here, second, neighbour)
}

fn is_open(emperor: &Emperor) -> bool {
    trunks(&emperor.stats())[0]["state"] == "open"
}

#[test]
fn later_version_that_speaks_this_one_too_is_a_neighbour() {
    let keys = Keys::new();
    let (here, _net, neighbour) = router_and_neighbour(&keys);
    let trunk = neighbour.next();
    let hello = Hello { version: VERSION + 7, ..neighbour.hello() };
    let mut message = Vec::new();
    hello.append(&mut message);
    // A later hello says more behind what this version knows of it, and there are frames of kinds that it doesn't know.
    message.extend_from_slice(b"more");
    let len = u32::from_be_bytes(message[..4].try_into().expect("4 bytes")) + 4;
    message[..4].copy_from_slice(&len.to_be_bytes());
    message.extend_from_slice(&[0, 0, 0, 3, 99, 0, 1, 2, 3]);
    append_end(&mut message);
    trunk.send(&message);
    here.wait_for_stats("the trunk is open", |stats| trunks(stats)[0]["state"] == "open");
    trunk.announce(inside(2, 9), neighbour.router);
    here.wait_for_stats("its announcement counts", |stats| trunks(stats)[0]["announced"] == 1);
}

#[test]
fn version_without_anything_in_common_is_refused_with_a_reason_until_it_comes_in_another() {
    let keys = Keys::new();
    let (here, _net, neighbour) = router_and_neighbour(&keys);
    for (least, version) in [(VERSION + 1, VERSION + 3), (0, LEAST_VERSION - 1)] {
        let trunk = neighbour.next();
        trunk.say(&Hello { version, least, ..neighbour.hello() });
        assert!(trunk.is_closed(wait::LONG), "versions {least} to {version}");
        let reason =
            format!("it speaks versions {least} to {version} of trunks, and this router {LEAST_VERSION} to {VERSION}");
        here.log.wait_for(&reason, wait::LONG);
        assert!(!is_open(&here), "versions {least} to {version}");
    }
    let trunk = neighbour.open();
    here.wait_for_stats("the trunk is open", |stats| trunks(stats)[0]["state"] == "open");
    assert!(!trunk.is_closed(std::time::Duration::from_millis(500)));
}
