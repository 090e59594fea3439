//! What these tests have in common: an Emperor and vassals with addresses of both versions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::common::capture::Capture;
use crate::common::emperor::{EMPEROR, Emperor, EmperorIni};
use crate::common::packet;
use crate::common::raw_peer::RawPeer;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;

/// The IPv6 addresses beside [`EMPEROR`], `V1` and `V2`.
pub const EMPEROR_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1);
pub const V1_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 2);
pub const V2_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 3);
/// Another one for the first vassal.
pub const V1_6_OTHER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 1, 2);
/// An address beyond the Emperor.
pub const AFAR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

pub fn emperor() -> EmperorIni {
    emperor_on(Uwsgi::usual())
}

pub fn emperor_on(uwsgi: Uwsgi) -> EmperorIni {
    EmperorIni::new(uwsgi, Subject::Ours).lines(&[
        "exec-as-root = sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.all.forwarding=1",
        &format!("exec-as-root = ip -6 addr replace {EMPEROR_6}/64 dev emperor0 nodad"),
    ])
}

pub fn vassal(name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> VassalIni {
    vassal_on(Uwsgi::usual(), Subject::Ours, name, v4, v6)
}

/// A vassal that claims both its addresses while it starts.
pub fn vassal_on(uwsgi: Uwsgi, plugin: Subject, name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> VassalIni {
    VassalIni::new(uwsgi, plugin, name, v4, EMPEROR)
        .address_6(v6, EMPEROR_6)
        .line(format!("exec-as-root = ping -q -c 1 -W 5 {EMPEROR_6}"))
}

/// A vassal that has both its addresses, and hasn't sent anything from them.
pub fn silent_vassal(name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> VassalIni {
    VassalIni::new(Uwsgi::usual(), Subject::Ours, name, v4, EMPEROR).without_ping().address_6(v6, EMPEROR_6)
}

/// A peer in frames that holds this address.
#[track_caller]
pub fn peer(emperor: &Emperor, address: Ipv6Addr) -> RawPeer {
    let mut peer = emperor.connect();
    assert!(peer.echo(address, EMPEROR_6, wait::SHORT), "a peer at {address} gets an echo from {EMPEROR_6}");
    peer
}

/// Sends packets, and says which of them the router passed on to its device, by their places.
#[track_caller]
pub fn passed(emperor: &Emperor, peer: &mut RawPeer, last_from: Ipv6Addr, packets: &[Vec<u8>]) -> Vec<usize> {
    let capture = Capture::received_on(&emperor.netns, "emperor0");
    for packet in packets {
        peer.send_packet(packet);
    }
    // A last packet shows that nothing is under way any more: what has not arrived before it was stopped.
    peer.send_packet(&packet::echo_request6(last_from, EMPEROR_6, LAST, 84));
    let last = packet::echo_request6(last_from, EMPEROR_6, LAST, 84);
    let seen = capture.until(wait::SHORT, |packet| *packet == *last);
    (0..packets.len()).filter(|place| seen.contains(&packets[*place])).collect()
}

/// Sequence of the packet that tells the end. Every set of rules lets echo requests to the Emperor through.
const LAST: u16 = 0xffff;

/// Fails unless the peer holds exactly these addresses.
#[track_caller]
pub fn assert_addresses(emperor: &Emperor, addresses: &[IpAddr]) {
    let stats = emperor.wait_for_stats("the addresses are the peer's", |stats| {
        addresses.first().is_some_and(|first| stats.addresses(*first) == addresses)
    });
    assert_eq!(stats.peer(addresses[0]).expect("it is there")["addr"], addresses[0].to_string());
}
