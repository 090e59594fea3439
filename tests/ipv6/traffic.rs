//! Real vassals, and what passes between them.

use std::time::Duration;

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::fake_router::FakeRouter;
use crate::common::link::Connection;
use crate::common::packet;
use crate::common::probe::{is_cut_off, is_reachable, pings_answered, tcp_round_trip};
use crate::common::processes::send;
use crate::common::raw_peer::RawPeer;
use crate::common::stats::is_attached;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::common::wire;
use crate::service::curl;
use crate::world::{EMPEROR_6, V1_6, V2_6, assert_addresses, emperor, emperor_on, silent_vassal, vassal, vassal_on};

/// Long enough to show that nothing comes.
const IN_VAIN: Duration = Duration::from_millis(300);

const SWITCH: &str = "tuntap-router-switch = true";

#[track_caller]
fn assert_vassal_is_reached(uwsgi: Uwsgi) {
    let emperor = emperor_on(uwsgi).start();
    let app = "def application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'through']\n";
    std::fs::write(emperor.path("app.py"), app).expect("own folder");
    let vassal = vassal_on(uwsgi, Subject::Ours, "v1", V1, V1_6)
        .line(uwsgi.python_line())
        .line("http-socket = [::]:8080")
        .line("chdir = {dir}")
        .line("module = app");
    let net = emperor.start_attached(&vassal);
    assert_eq!(pings_answered(&net, EMPEROR_6, 5, &[]), 5);
    assert_eq!(pings_answered(&emperor.netns, V1_6, 5, &["-s", "1452"]), 5);
    assert_eq!(pings_answered(&emperor.netns, V1_6, 5, &["-s", "4000"]), 5, "in fragments");
    assert_eq!(pings_answered(&emperor.netns, V1, 5, &[]), 5);
    let page = wait::until("the app answers", wait::SHORT, || curl(&emperor.netns, V1_6, 8080));
    assert_eq!(page, "through");
    assert!(tcp_round_trip(&net, V1_6, &emperor.netns, 5_000_000).expect("TCP to the vassal"));
    assert!(tcp_round_trip(&emperor.netns, EMPEROR_6, &net, 5_000_000).expect("TCP from the vassal"));
    assert_addresses(&emperor, &[V1.into(), V1_6.into()]);
}

#[test]
fn vassal_is_reached_on_one_uwsgi() {
    assert_vassal_is_reached(Uwsgi::usual());
}

#[test]
fn vassal_is_reached_on_the_other_uwsgi() {
    assert_vassal_is_reached(Uwsgi::usual().other());
}

#[test]
fn vassals_reach_each_other_through_the_emperors_kernel() {
    let emperor = emperor().start();
    let first = emperor.start_attached(&vassal("v1", V1, V1_6));
    let second = emperor.start_attached(&vassal("v2", V2, V2_6));
    assert_eq!(pings_answered(&first, V2_6, 5, &[]), 5);
    assert!(tcp_round_trip(&second, V2_6, &first, 1_000_000).expect("TCP between vassals"));
    emperor.netns.sh("sysctl -qw net.ipv6.conf.all.forwarding=0");
    assert!(is_cut_off(&first, V2_6), "it was the kernel that forwarded");
    assert!(is_reachable(&first, EMPEROR_6) && is_reachable(&first, V2));
}

#[test]
fn vassals_reach_each_other_past_the_emperors_kernel() {
    let emperor = emperor().line(SWITCH).start();
    let first = emperor.start_attached(&vassal("v1", V1, V1_6));
    let second = emperor.start_attached(&vassal("v2", V2, V2_6));
    emperor.netns.sh("sysctl -qw net.ipv6.conf.all.forwarding=0 net.ipv4.ip_forward=0");
    assert_eq!(pings_answered(&first, V2_6, 5, &[]), 5);
    assert_eq!(pings_answered(&second, V1_6, 5, &["-s", "1452"]), 5);
    assert!(tcp_round_trip(&second, V2_6, &first, 5_000_000).expect("TCP between vassals"));
    assert!(is_reachable(&first, V2));
}

/// The C plugin's vassals pass what comes, if nothing that the kernel sends by itself ends them.
#[test]
fn c_vassals_stay_what_they_were_beside_it() {
    let emperor = emperor().line(SWITCH).start();
    let ours = emperor.start_attached(&vassal("v1", V1, V1_6));
    let c = emperor.start_vassal(&vassal_on(Uwsgi::usual(), Subject::C, "v2", V2, V2_6));
    for from in [&ours, &emperor.netns] {
        assert_eq!(pings_answered(from, V2, 3, &[]), 3);
        assert_eq!(pings_answered(from, V2_6, 3, &[]), 3);
    }
    assert_eq!(pings_answered(&c, V1, 3, &[]), 3);
    assert_eq!(pings_answered(&c, V1_6, 3, &[]), 3);
    assert!(tcp_round_trip(&c, V2_6, &ours, 200_000).expect("TCP to the C vassal"));
    assert!(!is_attached(&emperor.stats(), V2));
}

#[test]
fn killed_router_costs_no_vassal_its_connections() {
    let emperor = emperor().start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut inward = Connection::open(&emperor.netns, &net, V1_6);
    let mut outward = Connection::open(&net, &emperor.netns, EMPEROR_6);
    let router = emperor.router_pid();
    send(router, nix::sys::signal::Signal::SIGKILL);
    let stats = wait::until("there is a new router", wait::LONG, || {
        emperor.try_stats().ok().filter(|stats| stats.router_pid() != router)
    });
    assert_eq!(stats.addresses(V1), [std::net::IpAddr::from(V1), V1_6.into()], "at once");
    inward.assert_passes();
    outward.assert_passes();
    assert!(!emperor.connect().echo(V1_6, EMPEROR_6, IN_VAIN), "nobody else gets it");
    assert!(is_reachable(&net, EMPEROR));
}

/// A device that no router reads sends IPv6 in frames as well, but to a router that has shown that it isn't the C plugin's:
/// that one would take it for IPv4.
#[test]
fn ipv6_travels_in_frames_to_routers_that_know_it() {
    let emperor = emperor().start();
    let fake = FakeRouter::bind(&emperor.path("fake.sock"));
    emperor.add(&silent_vassal("v1", V1, V1_6).devices(&["uwsgi0 {dir}/fake.sock"]));
    let mut accepted = fake.accept(wait::LONG);
    let net = emperor.vassal_net("v1");
    let is_echo = |packet: &[u8]| packet::ends(packet) == Some((V1_6.into(), EMPEROR_6.into()));
    let to = EMPEROR_6.to_string();
    wait::until_true("the vassal has its route", wait::LONG, || {
        net.output(&["ip", "-6", "route", "get", &to]).status.success()
    });
    let comes = |router: &mut RawPeer| {
        net.output(&["ping", "-q", "-c", "1", "-W", "1", &to]);
        router.wait_for_packet(IN_VAIN, is_echo).is_some()
    };
    assert!(!comes(&mut accepted), "to a router that has said nothing");
    // Refused: packets go on in frames.
    accepted.send_bytes(&wire::frame(0x75, &[1, 0, 0, 0, 0, 0, 0, 0]));
    assert!(comes(&mut accepted), "to a router that has answered");
}
