//! What these tests have in common: Emperors and vassals with addresses of both versions.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1, V2};
use crate::common::netns::{Net, Netns};
pub use crate::common::stats::is_attached;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;

/// Addresses of both versions.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

const fn v6(net: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, net, 0, 0, 0, 0, 0, host)
}

pub const HERE: Addresses = Addresses { v4: EMPEROR, v6: v6(0x77, 1) };
pub const FIRST: Addresses = Addresses { v4: V1, v6: v6(0x77, 2) };
pub const SECOND: Addresses = Addresses { v4: V2, v6: v6(0x77, 3) };
pub const THERE: Addresses = Addresses { v4: Ipv4Addr::new(192, 168, 1, 1), v6: v6(0x78, 1) };
pub const FAR: Addresses = Addresses { v4: Ipv4Addr::new(192, 168, 1, 2), v6: v6(0x78, 2) };

/// As many packets as a transfer takes one way without super-packets.
pub const fn wire_packets(length: usize) -> u64 {
    length as u64 / 1428
}

pub fn emperor(own: Addresses) -> EmperorIni {
    EmperorIni::new(Uwsgi::usual(), Subject::Ours)
        .address(own.v4)
        .line(format!("exec-as-root = ip -6 addr replace {}/64 dev emperor0 nodad", own.v6))
}

pub fn start() -> Emperor {
    emperor(HERE).start_in(Netns::new().with_ipv6())
}

pub fn vassal(plugin: Subject, name: &str, own: Addresses, emperor: Addresses) -> VassalIni {
    VassalIni::new(Uwsgi::usual(), plugin, name, own.v4, emperor.v4)
        .with_ipv6()
        .line(format!("exec-as-root = ip -6 addr replace {}/64 dev uwsgi0 nodad", own.v6))
        .line(format!("exec-as-root = ip -6 route replace default via {} dev uwsgi0", emperor.v6))
}

/// Starts a vassal of ours, and waits until it is attached and both of its addresses are known.
#[track_caller]
pub fn start_attached(emperor: &Emperor, name: &str, own: Addresses, gateway: Addresses) -> Net {
    let net = emperor.start_vassal(&vassal(Subject::Ours, name, own, gateway));
    emperor.wait_for_stats("the vassal is attached", |stats| is_attached(stats, own.v4));
    net.sh(&format!("ping -q -c 1 -W 5 {}", gateway.v6));
    net
}
