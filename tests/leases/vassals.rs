//! Leases of real vassals, which connect as root and show the user that they become.

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::probe::{is_cut_off, is_reachable, send_udp};
use crate::common::uwsgi::Subject;
use crate::common::wait;
use crate::world::{ALICE, BOB, emperor, lease, not_leased, refusals, vassal, with_credentials};

const SHOW: &str = "tuntap-use-credentials = true";

#[track_caller]
fn assert_bound_to_its_lease(plugin: Subject) {
    let emperor = with_credentials(emperor()).line(lease(V1, ALICE.uid)).line(lease(V2, BOB.uid)).start();
    let alice = emperor.start_vassal(&vassal(plugin, "alice", V1, ALICE).line(SHOW));
    wait::until_true("the leaseholder is reachable", wait::LONG, || is_reachable(&alice, EMPEROR));
    assert_eq!(emperor.stats().of_peer(V1, "uid"), u64::from(ALICE.uid));

    // The vassal is configured with an address that is leased to another user.
    let mark = emperor.log.mark();
    let thief = emperor.start_vassal(&vassal(plugin, "thief", V2, ALICE).line(SHOW));
    wait::until_true("the thief's packets are dropped", wait::LONG, || {
        send_udp(&thief, EMPEROR, 9, b"mine").expect("the vassal has a route");
        not_leased(&emperor.stats()) > 0
    });
    assert_eq!(refusals(&emperor, mark).len(), 1);
    assert!(emperor.stats().peer(V2).is_none());

    let bob = emperor.start_vassal(&vassal(plugin, "bob", V2, BOB).line(SHOW));
    wait::until_true("the other leaseholder is reachable", wait::LONG, || is_reachable(&bob, EMPEROR));
    assert!(is_reachable(&alice, EMPEROR));
}

#[test]
fn vassal_gets_the_address_of_the_user_that_it_becomes() {
    assert_bound_to_its_lease(Subject::Ours);
}

#[test]
fn c_vassal_gets_the_address_of_the_user_that_it_becomes() {
    assert_bound_to_its_lease(Subject::C);
}

#[test]
fn lease_outlives_a_reload() {
    let emperor = with_credentials(emperor()).line(lease(V1, ALICE.uid)).start();
    let net = emperor.start_vassal(&vassal(Subject::Ours, "alice", V1, ALICE).line(SHOW));
    assert!(is_reachable(&net, EMPEROR));
    let mark = emperor.log.mark();
    emperor.touch("alice");
    emperor.wait_until_ready(mark, "alice");
    assert!(is_reachable(&net, EMPEROR));
    assert_eq!(emperor.stats().of_peer(V1, "uid"), u64::from(ALICE.uid));
}

/// Vassals connect before they drop their privileges, so that without the option they all are root to the router.
#[test]
fn vassal_that_shows_nothing_is_root_and_the_log_says_what_is_missing() {
    let emperor = emperor().line(lease(V1, ALICE.uid)).start();
    let mark = emperor.log.mark();
    let net = emperor.start_vassal(&vassal(Subject::Ours, "alice", V1, ALICE));
    wait::until_true("its packets are dropped", wait::LONG, || {
        send_udp(&net, EMPEROR, 9, b"mine").expect("the vassal has a route");
        not_leased(&emperor.stats()) > 0
    });
    let refused = refusals(&emperor, mark);
    assert!(refused[0].contains("uid 0") && refused[0].contains("tuntap-use-credentials"), "{refused:?}");
    assert!(is_cut_off(&net, EMPEROR));
}
