//! Peers that come and go without end.

use std::time::{Duration, Instant};

use crate::common::emperor::{EMPEROR, V1};
use crate::common::packet;
use crate::common::wait;
use crate::neighbour::Neighbour;
use crate::world::{FEED, Secrets, emperor, state};

/// What one vassal does reaches the daemons and kernels of all hosts, so it has a rate.
#[test]
fn claim_that_comes_and_goes_is_told_seldom() {
    let secrets = Secrets::new();
    let emperor = emperor(&secrets).line(format!("tuntap-router-routes = {FEED}")).start();
    let mut neighbour = Neighbour::established(&emperor.netns);
    neighbour.end_of_rib();
    wait::until_true("a session", wait::LONG, || state(&emperor.stats()) == "established");
    let claim = || {
        let mut raw = emperor.connect();
        raw.send_packet(&packet::udp(V1, EMPEROR, 9, b"a claim"));
        raw
    };
    let announced = |name: &str| emperor.stats().0["routes"]["session"][name].as_u64().expect("a number");
    let start = Instant::now();
    let mut cycles = 0;
    while start.elapsed() < Duration::from_secs(3) || announced("announced") == 0 {
        drop(claim());
        cycles += 1;
        neighbour.keepalive();
    }
    // Eight at once, and one in each second.
    let most = 8 + start.elapsed().as_secs() + 1;
    let count = announced("announced");
    assert!(count <= most && announced("withdrawn") <= count, "{cycles} cycles, {count} announcements");
    assert!(cycles > 2 * most, "it came and went {cycles} times");
    // One that stays is told in the end.
    let _stays = claim();
    wait::until_true("it is told", wait::LONG, || {
        neighbour.keepalive();
        announced("announced") > announced("withdrawn") && emperor.stats().0["routes"]["claims"] == 1
    });
}
