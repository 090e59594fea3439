//! Peers that claim the addresses of others, or send from them.

use std::net::Ipv4Addr;

use crate::common::capture::Capture;
use crate::common::emperor::{EMPEROR, V1};
use crate::common::packet;
use crate::common::probe::pings_answered;
use crate::common::wait;
use crate::handed::{DEVICE, Handed};
use crate::watch::{A1, A2, STREAM, Watch};
use crate::world::emperor;

#[test]
fn addresses_that_are_held_stay_with_their_holders() {
    let mut watch = Watch::start();
    watch.endure("claims of held addresses", |watch| {
        let emperor = &watch.emperor;
        let before = emperor.stats().drops("address_held");
        let mut rivals: Vec<_> = (0..50).map(|_| emperor.connect()).collect();
        for (index, rival) in rivals.iter_mut().enumerate() {
            for _ in 0..50 {
                rival.send_packet(&packet::udp(if index % 2 == 0 { V1 } else { STREAM }, EMPEROR, 9, b"mine"));
            }
        }
        let stats =
            emperor.wait_for_stats("all claims are refused", |stats| stats.drops("address_held") == before + 50 * 50);
        assert_eq!(stats.peers().iter().filter(|peer| peer["addr"] == "").count(), 50);
    });
}

#[test]
fn foreign_sources_do_not_pass() {
    let mut watch = Watch::start();
    watch.endure("foreign sources in frames", |watch| {
        let emperor = &watch.emperor;
        let mut spoofer = emperor.peer(A1);
        let capture = Capture::received_on(&emperor.netns, "emperor0");
        for source in [V1, STREAM, A2, EMPEROR, [127, 0, 0, 1].into(), [0, 0, 0, 0].into(), [255; 4].into()] {
            for _ in 0..100 {
                spoofer.send_packet(&packet::udp(source, EMPEROR, 9, b"spoofed"));
            }
        }
        spoofer.send_packet(&packet::udp(A1, EMPEROR, 9, b"honest"));
        let passed = capture.until(wait::SHORT, |packet| packet.ends_with(b"honest"));
        assert!(!passed.iter().any(|packet| packet.ends_with(b"spoofed")));
        assert_eq!(emperor.stats().drops_of(A1, "spoofed_source"), 700);
    });
    watch.endure("foreign sources of an attached peer", |watch| {
        let emperor = &watch.emperor;
        let spoofer = Handed::attach(emperor, A1);
        for source in [V1, STREAM, A2] {
            spoofer.netns.sh(&format!("ip addr add {source}/32 dev {DEVICE}"));
            let source = source.to_string();
            assert_eq!(pings_answered(&spoofer.netns, EMPEROR, 3, &["-W", "1", "-I", &source]), 0, "from {source}");
        }
        assert!(emperor.stats().drops_of(A1, "spoofed_source") >= 9);
    });
}

/// A first packet from an address that no host can have claims nothing.
#[test]
fn addresses_of_no_host_are_not_claimed() {
    let mut watch = Watch::start();
    watch.endure("claims of no host's address", |watch| {
        let emperor = &watch.emperor;
        let mut peer = emperor.connect();
        let sources: [[u8; 4]; 6] =
            [[0, 0, 0, 1], [127, 0, 0, 1], [127, 9, 9, 9], [224, 0, 0, 1], [240, 0, 0, 1], [255, 255, 255, 255]];
        for source in sources.map(Ipv4Addr::from) {
            peer.send_packet(&packet::udp(source, EMPEROR, 9, b"nobody"));
        }
        assert!(peer.echo(A1, EMPEROR, wait::SHORT), "it may still claim a host's");
        assert_eq!(emperor.stats().drops_of(A1, "invalid_source"), 6);
    });
}

/// With the switch on, packets to the host would go to a peer that holds the host's address. The chain keeps it.
#[test]
fn address_of_the_host_is_kept_by_the_chain() {
    let ini = emperor().lines(&[
        "tuntap-router-switch = true",
        "tuntap-router-firewall-out = deny 192.168.0.1 0.0.0.0",
        "tuntap-router-firewall-out = allow 192.168.0.0/24 0.0.0.0",
        "tuntap-router-firewall-out = deny",
    ]);
    let mut watch = Watch::start_with(ini);
    watch.endure("claims of the host's address", |watch| {
        let emperor = &watch.emperor;
        let before = emperor.stats().drops("firewall");
        let mut peer = emperor.connect();
        for source in [EMPEROR, Ipv4Addr::new(192, 0, 2, 53)] {
            peer.send_packet(&packet::udp(source, A2, 9, b"mine"));
        }
        emperor.wait_for_stats("the claims are refused", |stats| stats.drops("firewall") == before + 2);
        assert_eq!(pings_answered(watch.honest(), EMPEROR, 5, &[]), 5, "the host is where it was");
        assert!(peer.echo(A1, EMPEROR, wait::SHORT), "it may claim a vassal's");
    });
}
