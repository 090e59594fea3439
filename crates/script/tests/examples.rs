//! The scripts in examples/scripts do what their first lines say.

mod common;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use common::{Flow, TestClock, ip, policy, policy_with_class, runtime_at};
use tuntap_core::policy::Policy;
use tuntap_core::policy::pattern::Action;
use tuntap_script::Runtime;
use tuntap_sys::process::LocalTime;
use tuntap_wire::rule::Direction;

fn example(source: &str, clock: &Rc<TestClock>) -> Runtime {
    assert!(source.starts_with("-- ") && source.contains("\nfunction selftest()"), "{source}");
    runtime_at(source, clock)
}

fn advance(clock: &TestClock, by: Duration) {
    clock.now.set(clock.now.get() + by);
}

#[test]
fn customers_reach_their_own_set() {
    let mut runtime = example(include_str!("../../../examples/scripts/customers.luau"), &Rc::default());
    let network: ipnet::IpNet = "192.0.2.0/24".parse().expect("a network");
    let sets = vec![("alice".to_owned(), Arc::new([network].into_iter().collect()))];
    let policy = Policy { sets, ..policy() };
    let of_alice = Flow { policy: policy.clone(), ..Flow::default() };
    let ask = |dst: &str, port| Flow { dst: ip(dst), dst_port: Some(port), ..of_alice.clone() };
    assert_eq!(ask("192.0.2.1", 443).action(&mut runtime), Action::Allow);
    assert_eq!(ask("198.51.100.1", 443).action(&mut runtime), Action::Reject);
    let of_nobody = Flow { uid: 1234, policy, ..Flow::default() };
    assert_eq!(of_nobody.action(&mut runtime), Action::Deny);
    assert_eq!(
        Flow { dst: ip("192.0.2.53"), dst_port: Some(53), ..of_nobody.clone() }.action(&mut runtime),
        Action::Allow
    );
    assert_eq!(Flow { direction: Direction::In, ..of_nobody }.ask(&mut runtime), None);
    let without_set = Flow { policy: Policy { generation: 9, ..Policy::default() }, ..Flow::default() };
    assert_eq!(without_set.action(&mut runtime), Action::Deny);
    assert_eq!(runtime.status().failures, 0);
}

#[test]
fn remote_desktops_have_business_hours() {
    let clock = Rc::new(TestClock::default());
    let mut runtime = example(include_str!("../../../examples/scripts/business-hours.luau"), &clock);
    let desktop = Flow { direction: Direction::In, ..Flow::to("10.0.0.2", 3389) };
    let noon = clock.local.get();
    let verdict = desktop.ask(&mut runtime).expect("a verdict");
    assert_eq!((verdict.action, verdict.ttl), (Action::Allow, Some(Duration::from_secs(6 * 3600))));
    for (time, ttl) in [
        (LocalTime { weekday: 0, ..noon }, 12 * 3600),
        (LocalTime { weekday: 6, ..noon }, 12 * 3600),
        (LocalTime { hour: 7, minute: 59, ..noon }, 60),
        (LocalTime { hour: 18, ..noon }, 6 * 3600),
    ] {
        clock.local.set(time);
        let verdict = desktop.ask(&mut runtime).expect("a verdict");
        assert_eq!((verdict.action, verdict.ttl), (Action::Reject, Some(Duration::from_secs(ttl))), "{time:?}");
    }
    assert_eq!(Flow { direction: Direction::In, ..Flow::to("10.0.0.2", 443) }.ask(&mut runtime), None);
    assert_eq!(runtime.status().failures, 0);
}

#[test]
fn vassals_begin_so_many_flows() {
    let clock = Rc::new(TestClock::default());
    let mut runtime = example(include_str!("../../../examples/scripts/flow-rate.luau"), &clock);
    // Every flow of the tests comes from the same vassal.
    let flow = Flow::default();
    for count in 0..100 {
        assert_eq!(flow.ask(&mut runtime), None, "flow {count}");
    }
    assert_eq!(flow.action(&mut runtime), Action::Reject);
    assert_eq!(Flow { direction: Direction::In, ..flow.clone() }.ask(&mut runtime), None);
    advance(&clock, Duration::from_secs(1));
    for count in 0..10 {
        assert_eq!(flow.ask(&mut runtime), None, "flow {count} a second later");
    }
    assert_eq!(flow.action(&mut runtime), Action::Reject);
    assert_eq!(runtime.status().failures, 0);
}

#[test]
fn scanner_is_cut_off_for_a_while() {
    let clock = Rc::new(TestClock::default());
    let mut runtime = example(include_str!("../../../examples/scripts/port-scan.luau"), &clock);
    for port in 1..=30 {
        assert_eq!(Flow::to("192.0.2.1", port).action(&mut runtime), Action::Allow, "port {port}");
        assert_eq!(Flow::to("192.0.2.1", port).action(&mut runtime), Action::Allow, "port {port} again");
    }
    let verdict = Flow::to("192.0.2.1", 31).ask(&mut runtime).expect("a verdict");
    assert_eq!((verdict.action, verdict.ttl), (Action::Deny, Some(Duration::from_secs(300))));
    assert_eq!(runtime.take_lines(), ["script: the vassal 10.0.0.2 scans ports, it is blocked for 300 seconds"]);
    advance(&clock, Duration::from_secs(100));
    let verdict = Flow::to("192.0.2.9", 443).ask(&mut runtime).expect("a verdict");
    assert_eq!((verdict.action, verdict.ttl), (Action::Deny, Some(Duration::from_secs(200))));
    advance(&clock, Duration::from_secs(201));
    assert_eq!(Flow::to("192.0.2.9", 443).action(&mut runtime), Action::Allow);
    assert_eq!(runtime.status().failures, 0);
}

#[test]
fn bulk_has_a_limit_of_its_own() {
    let mut runtime = example(include_str!("../../../examples/scripts/bulk.luau"), &Rc::default());
    let policy = policy_with_class("bulk");
    let bulk = policy.shapes.class("bulk");
    assert!(bulk.is_some());
    let rsync = Flow { policy, ..Flow::to("192.0.2.1", 873) };
    let verdict = rsync.ask(&mut runtime).expect("a verdict");
    assert_eq!((verdict.action, verdict.ttl, verdict.class), (Action::Allow, None, bulk));
    let back = Flow { direction: Direction::In, src_port: Some(873), dst_port: Some(40000), ..rsync.clone() };
    assert_eq!(back.ask(&mut runtime).expect("a verdict").class, bulk);
    assert_eq!(Flow { dst_port: Some(443), ..rsync.clone() }.ask(&mut runtime), None);
    assert_eq!(runtime.status().failures, 0);
    let without_limit = Flow { policy: common::policy(), ..rsync };
    assert_eq!(without_limit.action(&mut runtime), Action::Deny);
}
