//! The counters of rules, flows and peers count what a capture sees.

use std::net::UdpSocket;
use std::time::Duration;

use tuntap_api::control::{Chain, FlowFilter, FlowList, FlowOrder, Request};

use crate::common::capture::Capture;
use crate::common::emperor::{EMPEROR, V1};
use crate::common::netns::Net;
use crate::common::wait;
use crate::world::{Control, V1_6, emperor, vassal};

const PORT: u16 = 7020;

fn send(net: &Net, count: usize, len: usize) {
    let socket = net.run(|| UdpSocket::bind((V1, PORT))).expect("own address");
    let payload = vec![0x5a; len];
    for _ in 0..count {
        socket.send_to(&payload, (EMPEROR, PORT)).expect("the device takes it");
        // One after the other, so that no queue is full.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Packets and bytes of the datagrams that the router has written to its device.
fn seen(capture: &Capture) -> (u64, u64) {
    let is_ours = |packet: &Vec<u8>| packet[9] == 17 && packet[20..22] == PORT.to_be_bytes();
    let mut found = (0, 0);
    while let Some(packet) = capture.next(Duration::from_millis(700)) {
        if is_ours(&packet) {
            found.0 += 1;
            found.1 += packet.len() as u64;
        }
    }
    found
}

#[test]
fn rules_and_flows_count_what_passes() {
    let emperor = emperor().start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let _sink = emperor.netns.run(|| UdpSocket::bind((EMPEROR, PORT))).expect("own address");
    let mut control = Control::open(&emperor);
    let id = control.add(Chain::Out, &format!("allow 192.168.0.2 any udp {PORT} counter mine"));
    let capture = Capture::received_on(&emperor.netns, "emperor0");
    let mut all = (0, 0);
    for (count, len) in [(50, 10), (30, 1000)] {
        send(&net, count, len);
        let (packets, bytes) = seen(&capture);
        all = (all.0 + packets, all.1 + bytes);
        let rule = control.rule(id);
        assert_eq!((rule.packets, rule.bytes), all, "the rule's counters");
        assert!(all.0 > 0);
    }
    let filter = FlowFilter { port: Some(PORT), ..FlowFilter::default() };
    let list: FlowList = control.ask(&Request::FlowsList { filter, order: FlowOrder::Recent, limit: None });
    let [flow] = &list.flows[..] else { panic!("one flow: {list:?}") };
    assert_eq!((flow.packets_out, flow.bytes_out, flow.packets_in), (all.0, all.1, 0));
    assert_eq!((flow.rule_out, flow.verdict_out.as_deref()), (Some(id), Some("allow")));
    emperor.kill_router();
    let mut control = Control::open(&emperor);
    let rule = control.rule(id);
    assert_eq!((rule.packets, rule.bytes), all, "the next router goes on counting");
    wait::until_true("the vassal is back", wait::LONG, || {
        send(&net, 1, 10);
        control.rule(id).packets > all.0
    });
}

/// Packets that a rule drops are counted by the rule, too.
#[test]
fn dropped_packets_are_counted_by_their_rule() {
    let emperor = emperor().start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut control = Control::open(&emperor);
    let id = control.add(Chain::Out, &format!("deny any any udp {PORT}"));
    send(&net, 20, 100);
    wait::until_true("all are counted", wait::LONG, || control.rule(id).packets == 20);
    assert_eq!(control.rule(id).bytes, 20 * 128);
    let stats = emperor.stats();
    assert_eq!(stats.0["drops"]["firewall"], 20);
}
