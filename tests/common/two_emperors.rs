//! Two hosts with an Emperor each, whose routers reach each other through their gateways.

use std::net::Ipv4Addr;

use super::emperor::{Emperor, EmperorIni};
use super::netns::Netns;

/// The second Emperor's address, and that of its first vassal.
pub const FAR_EMPEROR: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
pub const FAR_V1: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);

/// Starts both; each routes the other one's vassals there.
#[track_caller]
pub fn start(ini: impl Fn() -> EmperorIni) -> (Emperor, Emperor) {
    start_each([ini(), ini()])
}

/// Starts both, each as it is described.
#[track_caller]
pub fn start_each([here, there]: [EmperorIni; 2]) -> (Emperor, Emperor) {
    let (first, second) = (Netns::new(), Netns::new());
    first.join("10.77.0.1/24", &second, "10.77.0.2/24");
    let here = here
        .router("emperor0 {dir}/t.sock {dir}/stats.sock 10.77.0.1:4000")
        .line("tuntap-router-route = 192.168.0.0/24 192.168.1.0/24 10.77.0.2:4000")
        .start_in(first);
    let there = there
        .router("emperor0 {dir}/t.sock {dir}/stats.sock 10.77.0.2:4000")
        .address(FAR_EMPEROR)
        .line("tuntap-router-route = 192.168.1.0/24 192.168.0.0/24 10.77.0.1:4000")
        .start_in(second);
    (here, there)
}
