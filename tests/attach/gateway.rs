//! Routes to other routers over UDP: super-packets are cut for them.

use crate::common::emperor::{EMPEROR, V1};
use crate::common::probe::{pings_answered, tcp_round_trip};
use crate::common::two_emperors::{self, FAR_EMPEROR, FAR_V1};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::world::{emperor, is_attached, start_attached, total};

const LENGTH: usize = 5_000_000;

#[test]
fn attached_vassals_of_two_emperors_reach_each_other() {
    let (here, there) = two_emperors::start(emperor);
    let near = start_attached(&here, "v1", V1);
    let far = there.start_vassal(&VassalIni::new(Uwsgi::usual(), Subject::Ours, "v1", FAR_V1, FAR_EMPEROR));
    there.wait_for_stats("the far vassal is attached", |stats| is_attached(stats, FAR_V1));
    // The first packet may be lost: from it the sender learns that less fits through the tunnel.
    pings_answered(&near, FAR_V1, 1, &["-s", "1472"]);
    assert_eq!(pings_answered(&near, FAR_V1, 5, &["-s", "1472"]), 5);
    assert!(tcp_round_trip(&far, FAR_V1, &near, LENGTH).expect("TCP between the vassals"));
    let stats = here.stats();
    let (read, sent) = (stats.of_peer(V1, "rx_packets"), total(&stats, "gateway_tx_packets"));
    // How much larger they are depends on how busy the machine is.
    assert!(sent > read, "{read} packets of the vassal became {sent}: super-packets were among them");
    assert_eq!(stats.drops("gateway_refused"), 0);
    assert_eq!(pings_answered(&near, EMPEROR, 1, &[]), 1);
}
