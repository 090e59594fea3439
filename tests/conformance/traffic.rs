//! Packets pass: between vassal and Emperor, and from vassal to vassal.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::probe::{is_reachable, pings_answered, tcp_round_trip};
use crate::common::processes::{freeze, thaw};
use crate::common::stats::Stats;
use crate::common::vassal::VassalIni;
use crate::common::wait;
use crate::pairs::{Pair, cases};

cases!(vassal_and_emperor_reach_each_other also vassal_and_emperor_reach_each_other_on_the_other_uwsgi, Pair: c_c c_ours ours_c ours_ours);
cases!(vassals_reach_each_other_through_the_emperor, Pair: c_c c_ours ours_c ours_ours);
cases!(ten_vassals_start_together, Pair: c_c c_ours ours_c ours_ours);
// A C router, or vassal, ends a connection under a full TCP stream now and then.
cases!(tcp_at_full_speed_arrives_intact, Pair: ours_ours);
cases!(router_that_stands_still_for_a_while_loses_nothing, Pair: c_c c_ours ours_c ours_ours);
cases!(two_devices_reach_two_routers, Pair: c_c c_ours ours_c ours_ours);
// The cases above try each pair; this one has an application behind either plugin as a whole.
cases!(wsgi_app_answers_through_the_tunnel also wsgi_app_answers_through_the_tunnel_on_the_other_uwsgi, Pair: c_c ours_ours);

fn vassal_and_emperor_reach_each_other(pair: Pair) {
    let emperor = pair.emperor().start();
    let vassal = emperor.start_vassal(&pair.vassal("v1", V1));
    assert_eq!(pings_answered(&emperor.netns, V1, 10, &[]), 10);
    assert_eq!(pings_answered(&vassal, EMPEROR, 10, &["-s", "1472"]), 10, "packets as large as the device's MTU");
    // Little, because the C router ends a peer now and then under a full TCP stream.
    let intact = tcp_round_trip(&emperor.netns, EMPEROR, &vassal, 100_000).expect("TCP through the tunnel");
    assert!(intact, "TCP brings back what was sent");
}

fn vassals_reach_each_other_through_the_emperor(pair: Pair) {
    let emperor = pair.emperor().start();
    let first = emperor.start_vassal(&pair.vassal("v1", V1));
    let second = emperor.start_vassal(&pair.vassal("v2", V2));
    assert_eq!(pings_answered(&first, V2, 5, &[]), 5);
    assert_eq!(pings_answered(&second, V1, 5, &[]), 5);
}

fn ten_vassals_start_together(pair: Pair) {
    let emperor = pair.emperor().start();
    let vassals = (2..12).map(|host| pair.vassal(&format!("v{host}"), Ipv4Addr::new(192, 168, 0, host)));
    let vassals: Vec<VassalIni> = vassals.collect();
    let mark = emperor.log.mark();
    for vassal in &vassals {
        emperor.add(vassal);
    }
    for vassal in &vassals {
        emperor.wait_until_ready(mark, &vassal.name);
        assert!(is_reachable(&emperor.netns, vassal.address), "{}", vassal.name);
    }
    assert_eq!(emperor.stats().peers().len(), vassals.len());
}

fn tcp_at_full_speed_arrives_intact(pair: Pair) {
    const LENGTH: usize = 50_000_000;
    let emperor = pair.emperor().start();
    let first = emperor.start_vassal(&pair.vassal("v1", V1));
    let second = emperor.start_vassal(&pair.vassal("v2", V2));
    assert!(tcp_round_trip(&emperor.netns, EMPEROR, &first, LENGTH).expect("TCP to the Emperor"));
    assert!(tcp_round_trip(&first, V1, &emperor.netns, LENGTH).expect("TCP to the vassal"));
    assert!(tcp_round_trip(&first, V1, &second, LENGTH).expect("TCP between vassals"));
}

fn router_that_stands_still_for_a_while_loses_nothing(pair: Pair) {
    let emperor = pair.emperor().start();
    let vassal = emperor.start_vassal(&pair.vassal("v1", V1));
    let router = emperor.router_pid();
    std::thread::scope(|scope| {
        // Pings go on until the router is back: ping waits for late answers no longer than for earlier ones.
        let pings = scope.spawn(|| pings_answered(&vassal, EMPEROR, 20, &["-W", "10", "-i", "0.2"]));
        std::thread::sleep(Duration::from_millis(300));
        freeze(router);
        std::thread::sleep(Duration::from_secs(2));
        thaw(router);
        assert_eq!(pings.join().expect("no panic"), 20);
    });
}

fn two_devices_reach_two_routers(pair: Pair) {
    let emperor = pair
        .emperor()
        .line("tuntap-router = emperor1 {dir}/t1.sock {dir}/stats1.sock")
        .line("exec-as-root = ip addr replace 192.168.1.1/24 dev emperor1")
        .line("exec-as-root = ip link set emperor1 up")
        .start();
    let vassal = pair
        .vassal("v1", V1)
        .devices(&["uwsgi0 {dir}/t.sock", "uwsgi1 {dir}/t1.sock"])
        .line("exec-as-root = ip addr replace 192.168.1.2/24 dev uwsgi1")
        .line("exec-as-root = ip link set uwsgi1 up");
    let vassal = emperor.start_vassal(&vassal);
    let second = Ipv4Addr::new(192, 168, 1, 1);
    assert!(is_reachable(&vassal, EMPEROR));
    assert!(is_reachable(&vassal, second));
    let stats = Stats::read(&emperor.path("stats1.sock")).expect("the second router has its own stats");
    assert!(stats.peer(Ipv4Addr::new(192, 168, 1, 2)).is_some(), "the second router knows its peer: {}", stats.0);
    assert!(emperor.stats().peer(Ipv4Addr::new(192, 168, 1, 2)).is_none(), "the first router does not");
}

fn wsgi_app_answers_through_the_tunnel(pair: Pair) {
    let emperor = pair.emperor().start();
    let app = "def application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'through']\n";
    std::fs::write(emperor.path("app.py"), app).expect("own folder");
    let vassal = pair
        .vassal("v1", V1)
        .line(pair.uwsgi.python_line())
        .line("http-socket = :8080")
        .line("chdir = {dir}")
        .line("module = app");
    emperor.start_vassal(&vassal);
    let page = wait::until("the app answers", wait::SHORT, || {
        let output = emperor.netns.output(&["curl", "-s", "-m", "2", &format!("http://{V1}:8080/")]);
        output.status.success().then_some(output.stdout)
    });
    assert_eq!(page, b"through");
}
