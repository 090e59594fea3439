use std::net::Ipv4Addr;

use crate::common::netns::Netns;
use crate::common::wait;
use crate::example::{Example, answer, wait_for_answer};

const APP1: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
const APP2: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 3);

#[test]
fn vassals_have_the_addresses_that_are_leased_to_them() {
    let (host, example) = (Netns::new(), Example::copy("leases"));
    let emperor = example.start(&host, "emperor.ini");
    wait_for_answer(&host, APP1, 20001);
    wait_for_answer(&host, APP2, 20002);
    emperor.assert_all_mapped(&example.plugin());
}

#[test]
fn vassal_without_a_lease_gets_no_address() {
    let (host, example) = (Netns::new(), Example::copy("leases"));
    example.replace("vassals/app2.ini", "uid = 20002", "uid = 20003");
    let emperor = example.start(&host, "emperor.ini");
    emperor.log.wait_for("address 192.168.0.3 is not leased to uid 20003, gid 20002", wait::LONG);
    wait_for_answer(&host, APP1, 20001);
    assert_eq!(answer(&host, APP2), "");
}
