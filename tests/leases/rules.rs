//! A vassal's rules are those of its connection's first packet.

use std::net::Ipv4Addr;

use crate::common::capture::Capture;
use crate::common::emperor::{EMPEROR, Emperor, V1};
use crate::common::fake_router::FakeRouter;
use crate::common::netns::Net;
use crate::common::packet;
use crate::common::probe::{is_reachable, send_udp};
use crate::common::uwsgi::Subject;
use crate::common::vassal::VassalIni;
use crate::common::wait;
use crate::common::wire;
use crate::world::{ALICE, emperor, vassal};

const DENIED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const LATE: &str = "sent other rules after its first packet";

fn with_rule(rule: &str) -> VassalIni {
    vassal(Subject::Ours, "v1", V1, ALICE).line(format!("tuntap-device-rule = {rule}"))
}

/// Replaces the vassal's file, which reloads it.
#[track_caller]
fn reload_with(emperor: &Emperor, vassal: &VassalIni) {
    let mark = emperor.log.mark();
    emperor.add(vassal);
    emperor.touch("v1");
    emperor.wait_until_ready(mark, "v1");
}

#[track_caller]
fn assert_denied(emperor: &Emperor, net: &Net) {
    let capture = Capture::received_on(&emperor.netns, "emperor0");
    send_udp(net, DENIED, 9, b"denied").expect("the vassal has a default route");
    send_udp(net, EMPEROR, 9, b"last").expect("the vassal has a route");
    assert!(capture.until(wait::SHORT, |packet| packet.ends_with(b"last")).is_empty());
}

/// The router may read the device as soon as it has the hello, and takes no rules after the first packet.
#[test]
fn vassal_sends_its_rules_together_with_its_device() {
    let emperor = emperor().start();
    let fake = FakeRouter::bind(&emperor.path("fake.sock"));
    emperor.add(&with_rule("out 0.0.0.0 10.0.0.0/8 deny").devices(&["uwsgi0 {dir}/fake.sock"]));
    let mut message = fake.accept(wait::LONG).next_read(wait::LONG).expect("the vassal sends something");
    let hello = wire::take_frame(&mut message).expect("a frame");
    assert!(hello.payload.len() < packet::IPV4_HEADER_LEN, "a hello comes first: {hello:?}");
    let rules = wire::take_frame(&mut message).expect("a second frame in the same message");
    assert_eq!((rules.modifier2, rules.payload.len(), message.len()), (wire::RULES, wire::RULE_LEN, 0));
}

#[test]
fn reload_tells_the_router_other_rules() {
    let emperor = emperor().start();
    let net = emperor.start_vassal(&with_rule("out 0.0.0.0 10.0.0.0/8 deny"));
    assert!(is_reachable(&net, EMPEROR));
    assert_denied(&emperor, &net);

    // The new image sends the same rules, which is allowed.
    reload_with(&emperor, &with_rule("out 0.0.0.0 10.0.0.0/8 deny").line("# the same"));
    assert_denied(&emperor, &net);
    assert_eq!(emperor.log.text().matches("peer 192.168.0.2 joined").count(), 1, "on the same connection");

    for rule in ["out 0.0.0.0 172.16.0.0/12 deny", "out 0.0.0.0 10.0.0.0/8 deny"] {
        reload_with(&emperor, &with_rule(rule));
        emperor.log.wait_for(&format!("and is {rule} now: joins its router anew"), wait::LONG);
        wait::until_true("it is back", wait::LONG, || is_reachable(&net, EMPEROR));
        let capture = Capture::received_on(&emperor.netns, "emperor0");
        send_udp(&net, DENIED, 9, b"denied").expect("the vassal has a default route");
        send_udp(&net, EMPEROR, 9, b"last").expect("the vassal has a route");
        let passed = !capture.until(wait::SHORT, |packet| packet.ends_with(b"last")).is_empty();
        assert_eq!(passed, rule.contains("172.16"), "{rule}");
    }
    assert_eq!(emperor.stats().drops("rules_frozen"), 0);
    assert!(!emperor.log.text().contains(LATE));
}
