use std::net::Ipv4Addr;

use crate::common::instance::Instance;
use crate::common::netns::Netns;
use crate::common::starter::Starter;
use crate::common::wait;
use crate::example::{Example, answer, wait_for_answer};

const APP1: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
const APP2: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 3);

#[test]
fn addresses_follow_from_the_uid() {
    let (host, example) = (Netns::new(), with_hook());
    let emperor = example.start(&host, "emperor.ini");
    wait_for_answer(&host, APP1, 20001);
    wait_for_answer(&host, APP2, 20002);
    emperor.assert_all_mapped(&example.plugin());
}

#[test]
fn vassal_of_another_uid_does_not_get_the_address() {
    let (host, _example, emperor) = with_second_vassal_as(20003);
    emperor.log.wait_for("peer 192.168.0.4 joined", wait::LONG);
    wait_for_answer(&host, APP1, 20001);
    assert_eq!(answer(&host, APP2), "");
}

#[test]
fn vassal_of_a_uid_without_address_is_disconnected() {
    let (host, _example, emperor) = with_second_vassal_as(30000);
    emperor.log.wait_for("uwsgi0: the router has closed the connection", wait::LONG);
    wait_for_answer(&host, APP1, 20001);
    assert_eq!(answer(&host, APP2), "");
}

fn with_second_vassal_as(uid: u32) -> (Netns, Example, Instance) {
    let (host, example) = (Netns::new(), with_hook());
    for option in ["uid", "gid"] {
        example.replace("vassals/app2.ini", &format!("{option} = 20002"), &format!("{option} = {uid}"));
    }
    let emperor = example.start(&host, "emperor.ini");
    (host, example, emperor)
}

/// The hook is built as its comment says.
pub fn with_hook() -> Example {
    let example = Example::copy("credentials");
    let built = Starter::program(example.uwsgi(), &example.plugins())
        .argument("--build-plugin")
        .argument(example.root().join("uid_address.c"))
        .environment("PYTHON", "/usr/bin/python3")
        .output();
    let hook = example.plugins().join("uid_address_plugin.so");
    assert!(built.output.status.success() && hook.exists(), "{}", built.text());
    example
}
