//! The vassal's side: what reaches it from a router, and what happens to its device.

use std::thread::sleep;
use std::time::Duration;

use crate::common::emperor::{EMPEROR, V1};
use crate::common::fake_router::FakeRouter;
use crate::common::packet;
use crate::common::probe::{is_reachable, send_udp};
use crate::common::processes::{cpu_time, is_alive};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::common::wire;
use crate::pairs::{Pair, Router, cases};

cases!(device_that_is_down_for_a_while_works_again, Pair: c_c c_ours ours_c ours_ours);
cases!(vassal_whose_device_is_deleted_is_started_anew, Pair: c_c c_ours ours_c ours_ours);
// The C router is started again and again with a device that is gone, each second.
cases!(router_whose_device_is_deleted_does_not_spin, Router: ours);

fn device_that_is_down_for_a_while_works_again(pair: Pair) {
    let emperor = pair.emperor().start();
    let net = emperor.start_vassal(&pair.vassal("v1", V1));
    let pid = emperor.vassal_pid("v1").expect("the vassal runs");
    net.sh("ip link set uwsgi0 down");
    send_udp(&emperor.netns, V1, 9, b"nobody listens").expect("the Emperor can send");
    if pair.vassal == Subject::C {
        // The device refuses the packet with EIO, of which the C vassal exits.
        wait::until_true("the C vassal ends", wait::SHORT, || !is_alive(pid));
        return;
    }
    sleep(Duration::from_millis(200));
    net.sh("ip link set uwsgi0 up");
    net.sh("ip route replace default via 192.168.0.1 dev uwsgi0");
    assert!(is_reachable(&net, EMPEROR));
    assert!(is_reachable(&emperor.netns, V1));
    assert_eq!(emperor.vassal_pid("v1"), Some(pid));
}

fn vassal_whose_device_is_deleted_is_started_anew(pair: Pair) {
    let emperor = pair.emperor().start();
    let net = emperor.start_vassal(&pair.vassal("v1", V1));
    let pid = emperor.vassal_pid("v1").expect("the vassal runs");
    net.sh("ip link delete uwsgi0");
    wait::until_true("a vassal without a network ends", wait::LONG, || !is_alive(pid));
    wait::until_true("a new one is reachable", wait::LONG, || is_reachable(&emperor.netns, V1));
}

fn router_whose_device_is_deleted_does_not_spin(router: Router) {
    let emperor = router.emperor().start();
    let _peer = emperor.peer(V1);
    let logged = emperor.log.bytes();
    let busy = || -> Duration { emperor.family().members().iter().map(|process| cpu_time(process.pid)).sum() };
    let before = busy();
    emperor.netns.sh("ip link delete emperor0");
    sleep(Duration::from_secs(3));
    let spent = busy().saturating_sub(before);
    assert!(spent < Duration::from_secs(1), "{spent:?} of CPU time in three seconds");
    let logged = emperor.log.bytes() - logged;
    assert!(logged < 5000, "{logged} bytes were logged in three seconds");
}

/// The router may be another implementation, or have a bug.
#[test]
fn our_vassal_survives_a_careless_router() {
    let pair = Pair::ours_ours(Uwsgi::usual());
    let emperor = pair.emperor().start();
    let fake = FakeRouter::bind(&emperor.path("fake.sock"));
    emperor.add(&pair.vassal("v1", V1).devices(&["uwsgi0 {dir}/fake.sock"]).without_ping());
    let mut router = fake.accept(wait::LONG);
    emperor.log.wait_for("vassal v1.ini is ready to accept requests", wait::LONG);
    let request = packet::echo_request(EMPEROR, V1, 7, 84);
    router.send_packet(&[0; 40]);
    router.send_packet(&request[..10]);
    router.send_packet(&packet::ipv6_router_solicitation());
    router.send_bytes(&wire::frame(200, &request));
    router.send_bytes(&wire::frame(wire::RULES, &[1; 24]));
    for byte in wire::frame(wire::PACKET, &request) {
        router.send_bytes(&[byte]);
    }
    let reply = router.wait_for_packet(wait::SHORT, |reply| packet::echo_reply_sequence(reply) == Some(7));
    assert!(reply.is_some(), "a sound packet passes after all that");
    let again =
        router.wait_for_packet(Duration::from_millis(300), |reply| packet::echo_reply_sequence(reply).is_some());
    assert!(again.is_none(), "what came in frames of other kinds was no packet");
}

/// An impossible frame ends the connection, and with it the vassal, which the Emperor starts anew.
#[test]
fn our_vassal_ends_when_the_stream_makes_no_sense() {
    let pair = Pair::ours_ours(Uwsgi::usual());
    let emperor = pair.emperor().start();
    let fake = FakeRouter::bind(&emperor.path("fake.sock"));
    emperor.add(&pair.vassal("v1", V1).devices(&["uwsgi0 {dir}/fake.sock"]).without_ping());
    for size in [0, u16::MAX] {
        let mut router = fake.accept(wait::LONG);
        router.send_bytes(&wire::header(wire::PACKET, size));
        assert!(router.is_closed(wait::SHORT), "after a frame of {size} bytes");
    }
}
