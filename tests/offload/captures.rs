//! Captures of flows that pass in the kernel.

use serde_json::Value;
use tuntap_api::control::{CapturedPacket, Event, FlowFilter, Request};

use crate::common::control::Control;
use crate::common::emperor::{EMPEROR, V1};
use crate::world::{Datagrams, V1_6, assert_none_passed, emperor, pair_packets, start, vassal};

/// A captured flow goes back to the router, which tells each packet of it. Others stay in the kernel, and so does this one afterwards.
#[test]
fn captured_flow_goes_by_the_router_until_the_end() {
    const COUNT: usize = 50;
    let emperor = start(emperor());
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let [flow, other] = [(); 2].map(|()| Datagrams::open(&net, V1, &emperor.netns, EMPEROR));
    flow.until_in_kernel(&net);
    other.until_in_kernel(&net);
    let mut control = Control::open(&emperor);
    let filter = FlowFilter { port: Some(flow.port()), ..FlowFilter::default() };
    control.ask::<Value>(&Request::Capture { selector: None, filter, snap_len: None });
    let before = pair_packets(&net);
    flow.assert_all_pass(COUNT);
    // None of them passes in the kernel.
    assert_none_passed(pair_packets(&net), before);
    for number in 0..2 * COUNT {
        let event = control.next().event;
        let Some(Event::Packet(CapturedPacket { src_port, dst_port, .. })) = event else {
            panic!("packet {number} is missing: {event:?}")
        };
        assert!([src_port, dst_port].contains(&Some(flow.port())));
    }
    other.until_in_kernel(&net);
    drop(control);
    flow.until_in_kernel(&net);
}
