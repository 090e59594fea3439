//! IPv6, on trunks and between hosts.

use std::net::Ipv6Addr;

use crate::common::emperor::{Emperor, EmperorIni};
use crate::common::netns::Net;
use crate::common::netns::Netns;
use crate::common::probe::{is_reachable, tcp_round_trip};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;
use crate::world::{Keys, PORT, inside, number, peer, trunks, wait_open};

const LENGTH: usize = 2_000_000;

/// An address of IPv6 in the network of a host's vassals. The router has the one that ends with 1.
fn inside6(number: u8, last: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x77, 0, u16::from(number), 0, 0, 0, u16::from(last))
}

fn start(keys: &Keys, own: u8, netns: Netns, line: String) -> Emperor {
    keys.public(own);
    EmperorIni::new(Uwsgi::usual(), Subject::Ours)
        .address(inside(own, 1))
        .mtu(8188)
        .line(format!("tuntap-router-address = {}/64", inside6(own, 1)))
        .line("tuntap-router-host = allow")
        .line("tuntap-router-claims = any")
        .line(format!("tuntap-router-key = {}", keys.file(own)))
        .line(format!("tuntap-router-trunk = [fd00:99::{own}]:{PORT}"))
        .line(line)
        .start_in(netns)
}

fn vassal(emperor: &Emperor, own: u8, name: &str, address: Ipv6Addr) -> Net {
    let ini = VassalIni::new(Uwsgi::usual(), Subject::Ours, name, inside(own, 2), inside(own, 1));
    let gateway = inside6(own, 1);
    // Its first packet of IPv6 claims the address.
    let claim = format!("exec-as-root = ping -q -c 1 -i 0.2 -w 5 {gateway}");
    emperor.start_attached(&ini.address_6(address, gateway).line(claim))
}

/// Two hosts that have nothing but IPv6 between them, and vassals that have both.
#[test]
fn vassals_reach_each_other_by_ipv6_alone() {
    let keys = Keys::new();
    let (first, second) = (Netns::new().with_ipv6(), Netns::new().with_ipv6());
    first.join("fd00:99::1/64", &second, "fd00:99::2/64");
    let here = start(&keys, 1, first, peer(&keys, 2, "fd00:77:0:2::/64", ""));
    let there = start(&keys, 2, second, peer(&keys, 1, "fd00:77::/32", &format!("[fd00:99::1]:{PORT}")));
    wait_open(&here, 1);
    wait_open(&there, 1);
    let near = vassal(&here, 1, "near", inside6(1, 2));
    let far = vassal(&there, 2, "far", inside6(2, 2));
    wait::until_true("pings pass", wait::LONG, || is_reachable(&near, inside6(2, 2)));
    assert!(is_reachable(&far, inside6(1, 2)));
    let before = number(&here, "/tx_packets");
    assert!(tcp_round_trip(&far, inside6(2, 2), &near, LENGTH).expect("TCP"));
    let packets = number(&here, "/tx_packets") - before;
    assert!(packets < LENGTH as u64 / 1428, "{packets} packets for {LENGTH} bytes both ways");
    // The second host may have neither this network nor addresses of IPv4.
    here.wait_for_stats("its IPv4 addresses are refused", |stats| {
        trunks(stats)[0]["refused"]["foreign_announcement"].as_u64() >= Some(1)
    });
    assert!(!is_reachable(&near, inside(2, 2)));
}
