//! `test` names the whole way of a packet, and `watch` tells what is dropped.

use std::net::IpAddr;

use tuntap_api::control::{Chain, Change, Direction, Event, FlowFilter, Request, TestPacket, Tested};

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::probe::is_cut_off;
use crate::world::{Control, V1_6, add, emperor, vassal};

fn test(direction: Direction, src: impl Into<IpAddr>, dst: impl Into<IpAddr>, port: u16) -> Request {
    Request::Test {
        packet: TestPacket {
            direction,
            src: src.into(),
            dst: dst.into(),
            protocol: Some("tcp".to_owned()),
            src_port: Some(40_000),
            dst_port: Some(port),
            peer: None,
            state: None,
        },
    }
}

#[test]
fn test_names_what_decides() {
    let emperor = emperor().start();
    let denies = "tuntap-device-rule = out any 192.0.2.0/24 reject";
    let others = "tuntap-device-rule = out any any allow";
    let _net = emperor.start_attached(&vassal("v1", V1, V1_6).line(denies).line(others));
    let mut control = Control::open(&emperor);
    control.commit(&[Change::SetReplace { name: "bad".to_owned(), members: vec!["198.51.100.0/24".to_owned()] }]);
    let id = control.add(Chain::Out, "deny any @bad tcp 25");
    let stages = |tested: &Tested| tested.steps.iter().map(|step| step.stage.clone()).collect::<Vec<_>>();

    let tested: Tested = control.ask(&test(Direction::Out, V1, EMPEROR, 80));
    assert_eq!((tested.verdict.as_str(), tested.to.as_deref()), ("allow", Some("tun")), "{tested:?}");
    for stage in ["chain-out", "claim", "peer-rules-out"] {
        assert!(stages(&tested).iter().any(|found| found == stage), "{stage}: {tested:?}");
    }

    let tested: Tested = control.ask(&test(Direction::Out, V1, [198, 51, 100, 7], 25));
    assert_eq!((tested.verdict.as_str(), tested.reason.as_deref()), ("deny", Some("firewall")), "{tested:?}");
    let last = tested.steps.last().expect("steps");
    assert_eq!((last.stage.as_str(), last.rule), ("chain-out", Some(id)));
    assert!(last.note.as_deref().is_some_and(|note| note.contains("@bad")), "{last:?}");

    let tested: Tested = control.ask(&test(Direction::Out, V1, [192, 0, 2, 7], 25));
    assert_eq!((tested.verdict.as_str(), tested.reason.as_deref()), ("reject", Some("peer_rule")), "{tested:?}");

    let tested: Tested = control.ask(&test(Direction::In, EMPEROR, V1, 80));
    assert_eq!(tested.verdict, "allow", "{tested:?}");
    assert!(tested.to.as_deref().is_some_and(|to| to.contains("192.168.0.2")), "{tested:?}");

    let tested: Tested = control.ask(&test(Direction::In, EMPEROR, V2, 80));
    assert_eq!((tested.verdict.as_str(), tested.reason.as_deref()), ("deny", Some("no_peer")), "{tested:?}");
    assert!(control.rules().iter().all(|rule| rule.packets == 0), "a test counts nothing");
}

#[test]
fn watch_tells_drops_with_their_rules() {
    let emperor = emperor().start();
    let _net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut control = Control::open(&emperor);
    let id = control.commit(&[add(Chain::In, "deny any 192.168.0.2 icmp")]).rules[0];
    let mut watcher = Control::open(&emperor);
    watcher.send(&Request::Watch { filter: FlowFilter::default() });
    // The answer to the request shows that it watches from now on.
    let begun = watcher.next();
    assert!(begun.error.is_none(), "{begun:?}");
    assert!(is_cut_off(&emperor.netns, V1));
    let event = loop {
        if let Some(Event::Drop(event)) = watcher.next().event {
            break event;
        }
    };
    assert_eq!((event.src, event.dst), (EMPEROR.into(), V1.into()));
    assert_eq!((event.rule, event.reason.as_str(), event.direction), (Some(id), "firewall", Direction::In));
    assert_eq!(event.peer.map(u64::try_from), Some(Ok(emperor.stats().of_peer(V1, "pid"))));
}
