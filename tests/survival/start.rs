//! Vassals that start before their router, and routers that start before others have ended.

use std::thread;
use std::time::Duration;

use tuntap_sys::tun::Tun;

use crate::common::emperor::V1;
use crate::common::fake_router::FakeRouter;
use crate::common::netns::Netns;
use crate::common::wait;
use crate::world::{HELLO, emperor, vassal_of_fake};

#[test]
fn vassal_waits_for_its_router() {
    let emperor = emperor().start();
    emperor.add(&vassal_of_fake(V1));
    emperor.log.wait_for("No such file or directory (os error 2); waiting up to 30 s", wait::LONG);
    let router = FakeRouter::bind(&emperor.path("fake.sock"));
    assert_eq!(router.accept(wait::LONG).next_frame(wait::SHORT).expect("a first frame").modifier2, HELLO);
    assert_eq!(emperor.log.text().matches("waiting up to 30 s").count(), 1, "it waited once, in one process");
}

#[test]
fn vassal_says_what_is_missing_and_ends() {
    let emperor = emperor().start();
    emperor.add(&vassal_of_fake(V1).line("tuntap-device-timeout = 1"));
    emperor.log.wait_for("waiting up to 1 s", wait::LONG);
    let complaint = emperor.in_dir("uwsgi0: can't reach the router at {dir}/fake.sock: No such file or directory");
    emperor.log.wait_for(&complaint, wait::LONG);
    assert!(!emperor.log.text().contains("v1.ini is ready"), "it does not serve without its network");
}

/// The kernel takes a while to end the device of an instance that was killed.
#[test]
fn router_waits_for_a_device_that_is_about_to_end() {
    let netns = Netns::new();
    let device = netns.run(|| Tun::create("emperor0")).expect("a device");
    let emperor = emperor().launch_in(netns);
    emperor.log.wait_for("emperor0: waiting for somebody who has this device open", wait::LONG);
    thread::sleep(Duration::from_millis(300));
    drop(device);
    emperor.stats_eventually();
    assert_eq!(emperor.log.text().matches("waiting for somebody").count(), 1);
}
