//! Packets that come from another router.

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::common::emperor::{EmperorIni, V1};
use crate::common::packet;
use crate::common::two_emperors::{self, FAR_V1};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::world::V1_6;

const FAR_V1_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x78, 0, 0, 0, 0, 0, 2);

/// Long enough for an answer that should not come.
const NOT_TOLD: Duration = Duration::from_millis(500);

fn emperor() -> EmperorIni {
    EmperorIni::new(Uwsgi::usual(), Subject::Ours)
        .line("tuntap-router-firewall-in = reject 192.168.0.0/24 192.168.1.0/24 udp 9")
        .line("tuntap-router-firewall-in = reject fd00:77::/64 fd00:78::/64 udp 9")
        .line("tuntap-router-route = fd00:77::/64 fd00:78::/64 10.77.0.2:4000")
        .line("tuntap-router-route = fd00:78::/64 fd00:77::/64 10.77.0.1:4000")
}

/// A sender on another host is told that it was refused, if this host knows that host's router.
#[test]
fn sender_behind_another_router_is_told_if_that_one_is_named() {
    for (names_routers, is_told) in [(true, true), (false, false)] {
        let ini = || {
            let ini = emperor();
            if names_routers { ini.line("tuntap-router-gateway-allow = 10.77.0.0/24") } else { ini }
        };
        let (here, there) = two_emperors::start(ini);
        let mut near = here.peer(V1);
        let within = if is_told { wait::SHORT } else { NOT_TOLD };
        near.send_packet(&packet::udp(V1, FAR_V1, 9, b"refused"));
        there.wait_for_stats("the far router refuses it", |stats| stats.drops("firewall") == 1);
        let told = near.wait_for_packet(within, |bytes| bytes[9] == packet::ICMP && bytes[20..22] == [3, 13]);
        assert_eq!(told.is_some(), is_told);
        near.send_packet(&packet::udp6(V1_6, FAR_V1_6, 9, b"refused"));
        there.wait_for_stats("the far router refuses it", |stats| stats.drops("firewall") == 2);
        let told = near.wait_for_packet(within, |bytes| bytes[6] == packet::ICMPV6 && bytes[40..42] == [1, 1]);
        assert_eq!(told.is_some(), is_told);
        assert_eq!(there.stats().0["totals"]["rejections"], if is_told { 2 } else { 0 });
    }
}
