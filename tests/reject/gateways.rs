//! Packets that come from another router.

use std::time::Duration;

use crate::common::emperor::{EmperorIni, V1};
use crate::common::host::{Host, Subject};
use crate::common::packet;
use crate::common::two_emperors::{self, FAR_V1};
use crate::common::wait;

/// Long enough for an answer that should not come.
const NOT_TOLD: Duration = Duration::from_millis(500);

fn emperor() -> EmperorIni {
    EmperorIni::new(Host::usual(), Subject::Ours)
        .line("tuntap-router-firewall-in = reject 192.168.0.0/24 192.168.1.0/24 udp 9")
}

/// The one that is refused on the other host hears of it if that host knows where its router is.
#[test]
fn sender_behind_another_router_is_told_if_that_one_is_named() {
    for (names_routers, is_told) in [(true, true), (false, false)] {
        let ini = || {
            let ini = emperor();
            if names_routers { ini.line("tuntap-router-gateway-allow = 10.77.0.0/24") } else { ini }
        };
        let (here, there) = two_emperors::start(ini);
        let mut near = here.peer(V1);
        near.send_packet(&packet::udp(V1, FAR_V1, 9, b"refused"));
        there.wait_for_stats("the far router refuses it", |stats| stats.drops("firewall") == 1);
        let told = near.wait_for_packet(if is_told { wait::SHORT } else { NOT_TOLD }, |bytes| {
            bytes[9] == packet::ICMP && bytes[20..22] == [3, 13]
        });
        assert_eq!(told.is_some(), is_told);
        assert_eq!(there.stats().0["totals"]["rejections"], u64::from(is_told));
    }
}
