//! Hosts whose routers send each other packets over UDP.

use std::thread::sleep;
use std::time::Duration;

use crate::common::emperor::EmperorIni;
use crate::common::hosts::{Host, Hosts, address_of, vassal_address};
use crate::common::series::Series;
use crate::common::stream::Stream;

const PORT: u16 = 4000;

/// An Emperor whose router sends packets for the vassals of another host there.
fn ini(host: &Host, other: u8) -> EmperorIni {
    let own = host.number;
    host.ini_of(&format!("emperor0 {{dir}}/t.sock {{dir}}/stats.sock {}:{PORT}", address_of(own)))
        .line(format!("tuntap-router-route = 10.77.{own}.0/24 10.77.{other}.0/24 {}:{PORT}", address_of(other)))
}

#[test]
fn stream_outlives_a_cut() {
    let mut hosts = Hosts::new(2);
    for (number, other) in [(1, 2), (2, 1)] {
        let ini = ini(hosts.host(number), other);
        hosts.host_mut(number).start(ini);
    }
    let near = hosts.host(1).start_vassal("v1", 2);
    let far = hosts.host(2).start_vassal("v1", 2);
    let pings = Series::start(&near, vassal_address(2, 2));
    let stream = Stream::open(&near, &far, vassal_address(2, 2));
    hosts.switch.cut(2);
    sleep(Duration::from_millis(300));
    hosts.switch.heal();
    pings.wait_until_answered("answers after the cut");
    stream.wait_until_passing("the stream goes on");
    stream.end();
    let pings = pings.end();
    assert!(pings.longest_loss > 0 && pings.answered < pings.sent, "the cut was one: {pings:?}");
}
