//! `tuntap-use-credentials`: the user who connects, and the address that belongs to the user.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use crate::common::capture::Capture;
use crate::common::emperor::{EMPEROR, EmperorIni, V1};
use crate::common::fake_router::FakeRouter;
use crate::common::netns::Netns;
use crate::common::packet;
use crate::common::probe::{is_reachable, send_udp};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::{NOBODY, VassalIni};
use crate::common::wait;
use crate::common::wire;
use crate::pairs::{Pair, Router, cases};

cases!(stats_tell_who_a_vassal_is, Pair: c_c c_ours ours_c ours_ours);
cases!(vassal_can_ping_before_it_drops_its_privileges, Pair: c_c c_ours ours_c ours_ours);
// The C vassal waits for a drop of privileges that never comes.
cases!(vassal_that_stays_root_shows_its_credentials, Pair: c_ours ours_ours);
// The C vassal loses its network in a reload.
cases!(credentials_and_rules_outlive_a_reload, Pair: c_ours ours_ours);
cases!(every_way_to_say_true_asks_for_credentials, Router: c ours);
cases!(peer_without_credentials_is_ended, Router: c ours);
cases!(symbol_gives_the_address, Router: c ours);
cases!(symbol_gives_a_vassal_its_address, Pair: c_c c_ours ours_c ours_ours);
cases!(symbol_refuses, Router: c ours);
cases!(address_of_the_symbol_is_the_only_one, Router: c ours);
// The C router knows no leases.
cases!(address_of_the_symbol_must_be_leased, Router: ours);
// The C plugin has no configuration requests and no claim requests.
cases!(peer_of_the_symbol_gets_no_other_by_name, Router: ours);
cases!(unknown_symbol_stops_the_start, Router: c ours);
// The C router takes unexpected credentials for the header of a frame of 29,559 bytes, which overruns its heap when it
// comes.
cases!(credentials_that_nobody_asked_for_are_passed_over, Router: ours);

fn stats_tell_who_a_vassal_is(pair: Pair) {
    let emperor = pair.emperor().line("tuntap-use-credentials = true").start();
    // The C vassal waits for its privileges to be dropped, so it cannot ping before.
    let vassal = pair.vassal("v1", V1).without_ping().line("tuntap-use-credentials = true");
    let net = emperor.start_vassal(&vassal);
    wait::until_true("the Emperor is reachable", wait::LONG, || is_reachable(&net, EMPEROR));
    let stats = emperor.stats();
    // Hooks derive addresses from the uid that a vassal drops to, so that is what counts, whenever it is sent.
    for key in ["uid", "gid"] {
        assert_eq!(stats.of_peer(V1, key), u64::from(NOBODY), "`{key}`");
    }
    let pid = emperor.vassal_pid("v1").expect("the vassal runs");
    assert_eq!(stats.of_peer(V1, "pid"), u64::from(pid.unsigned_abs()));
}

fn vassal_can_ping_before_it_drops_its_privileges(pair: Pair) {
    let emperor = pair.emperor().line("tuntap-use-credentials = true").start();
    let vassal = pair.vassal("v1", V1).line("tuntap-use-credentials = true");
    if pair.vassal == Subject::Ours {
        let net = emperor.start_vassal(&vassal);
        assert!(is_reachable(&net, EMPEROR));
    } else {
        // The ping waits for the credentials, which wait for the drop, which waits for the ping.
        emperor.add(&vassal);
        emperor.log.wait_for("waiting for privileges drop...", wait::LONG);
        emperor.log.wait_for("100% packet loss", wait::LONG);
    }
}

fn vassal_that_stays_root_shows_its_credentials(pair: Pair) {
    let emperor = pair.emperor().line("tuntap-use-credentials = true").start();
    let vassal = pair.vassal("v1", V1).stays_root().line("tuntap-use-credentials = true");
    let net = emperor.start_vassal(&vassal);
    assert!(is_reachable(&net, EMPEROR));
    assert_eq!(emperor.stats().of_peer(V1, "uid"), 0);
}

fn credentials_and_rules_outlive_a_reload(pair: Pair) {
    let emperor = pair.emperor().line("tuntap-use-credentials = true").start();
    let vassal = pair
        .vassal("v1", V1)
        .line("tuntap-use-credentials = true")
        .line("tuntap-device-rule = out 0.0.0.0 10.0.0.0/8 deny");
    let net = emperor.start_vassal(&vassal);
    let mark = emperor.log.mark();
    emperor.touch("v1");
    emperor.wait_until_ready(mark, "v1");
    assert!(is_reachable(&net, EMPEROR));
    assert_eq!(emperor.stats().of_peer(V1, "uid"), u64::from(NOBODY));
    let capture = Capture::received_on(&emperor.netns, "emperor0");
    send_udp(&net, Ipv4Addr::new(10, 0, 0, 1), 9, b"denied").expect("the vassal has a default route");
    send_udp(&net, EMPEROR, 9, b"last").expect("the vassal has a route");
    assert!(capture.until(wait::SHORT, |packet| packet.ends_with(b"last")).is_empty());
}

fn every_way_to_say_true_asks_for_credentials(router: Router) {
    for line in ["tuntap-use-credentials", "tuntap-use-credentials =", "tuntap-use-credentials = true"] {
        let emperor = router.emperor().line(line).start();
        let mut peer = emperor.connect();
        peer.send_credentials(4242, 4343);
        // The C router takes all that is there with the message.
        emperor.wait_for_stats("the credentials arrive", |stats| stats.peers().iter().any(|peer| peer["uid"] == 4242));
        assert!(peer.echo(V1, EMPEROR, wait::SHORT), "`{line}`");
        let stats = emperor.stats();
        assert_eq!((stats.of_peer(V1, "uid"), stats.of_peer(V1, "gid")), (4242, 4343), "`{line}`");
        assert_eq!(stats.of_peer(V1, "pid"), u64::from(std::process::id()), "`{line}`");
    }
}

fn peer_without_credentials_is_ended(router: Router) {
    let emperor = router.emperor().line("tuntap-use-credentials = true").start();
    let mut peer = emperor.connect();
    let mark = emperor.log.mark();
    peer.send_packet(&packet::echo_request(V1, EMPEROR, 1, 84));
    assert!(peer.is_closed(wait::SHORT));
    if router.is_ours() {
        emperor.log.wait_for_since(mark, "credentials", wait::SHORT);
    }
    let mut honest = emperor.connect();
    honest.send_credentials(0, 0);
    emperor.wait_for_stats("the credentials arrive", |stats| stats.peers().iter().any(|peer| peer["pid"] != 0));
    assert!(honest.echo(V1, EMPEROR, wait::SHORT));
}

/// The hook as unbit writes it: the address follows from the uid; uids below 30000 are refused.
const HOOK: &str = r#"
#include <stdint.h>
#include <sys/types.h>
#include <arpa/inet.h>

/* What uWSGI looks for in a file that it loads as a plugin: a name, and no callbacks. */
struct { const char *name; char rest[1016]; } calc_ip_plugin = { "calc_ip", { 0 } };

uint32_t calc_ip(pid_t pid, uid_t uid, gid_t gid) {
    (void) pid;
    (void) gid;
    if (uid < 30000) return 0;
    return htonl(0x0a000000 | ((uid - 30000) + 2));
}
"#;

/// A router whose peers get the address that their uid gives them.
fn with_hook(router: Router) -> (EmperorIni, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a folder for the hook");
    let (source, library) = (dir.path().join("calc_ip.c"), dir.path().join("calc_ip_plugin.so"));
    std::fs::write(&source, HOOK).expect("own folder");
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"]).args([&library, &source]).status();
    assert!(compiled.expect("a C compiler is installed").success());
    let ini = router
        .emperor()
        .line(format!("plugin = {}", Path::new(&library).display()))
        .line("exec-as-root = ip addr replace 10.0.0.1/8 dev emperor0")
        .line("tuntap-use-credentials = calc_ip");
    (ini, dir)
}

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const UID: u32 = 30003;
const ADDRESS_OF_UID: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

fn symbol_gives_the_address(router: Router) {
    let (ini, _dir) = with_hook(router);
    let emperor = ini.start();
    let mut peer = emperor.connect();
    peer.send_credentials(UID, UID);
    let stats = emperor.wait_for_stats("the peer has its address", |stats| stats.peer(ADDRESS_OF_UID).is_some());
    assert_eq!(stats.of_peer(ADDRESS_OF_UID, "uid"), u64::from(UID));
    // The address is known before the peer's first packet.
    send_udp(&emperor.netns, ADDRESS_OF_UID, 9, b"welcome").expect("the Emperor can send");
    assert!(peer.wait_for_packet(wait::SHORT, |packet| packet.ends_with(b"welcome")).is_some());
}

fn symbol_gives_a_vassal_its_address(pair: Pair) {
    let (ini, _dir) = with_hook(Router { uwsgi: pair.uwsgi, subject: pair.router });
    let emperor = ini.start();
    let vassal = VassalIni::new(pair.uwsgi, pair.vassal, "v1", ADDRESS_OF_UID, GATEWAY)
        .uid(UID)
        .without_ping()
        .line("tuntap-use-credentials = true");
    let net = emperor.start_vassal(&vassal);
    wait::until_true("the Emperor is reachable", wait::LONG, || is_reachable(&net, GATEWAY));
    assert_eq!(emperor.stats().of_peer(ADDRESS_OF_UID, "uid"), u64::from(UID));
}

fn symbol_refuses(router: Router) {
    let (ini, _dir) = with_hook(router);
    let emperor = ini.start();
    let mut refused = emperor.connect();
    refused.send_credentials(1000, 1000);
    assert!(refused.is_closed(wait::SHORT), "an address of 0 refuses the peer");
    let mut welcome = emperor.connect();
    welcome.send_credentials(UID, UID);
    emperor.wait_for_stats("the other peer has its address", |stats| stats.peer(ADDRESS_OF_UID).is_some());
    assert!(welcome.echo(ADDRESS_OF_UID, GATEWAY, wait::SHORT));
}

fn address_of_the_symbol_is_the_only_one(router: Router) {
    let (ini, _dir) = with_hook(router);
    let emperor = ini.start();
    let mut peer = emperor.connect();
    peer.send_credentials(UID, UID);
    emperor.wait_for_stats("the peer has its address", |stats| stats.peer(ADDRESS_OF_UID).is_some());
    let capture = Capture::received_on(&emperor.netns, "emperor0");
    peer.send_packet(&packet::udp(Ipv4Addr::new(10, 0, 0, 6), GATEWAY, 9, b"spoofed"));
    peer.send_packet(&packet::udp(ADDRESS_OF_UID, GATEWAY, 9, b"honest"));
    let before = capture.until(wait::SHORT, |packet| packet.ends_with(b"honest"));
    // C does not look at the source of any packet of such a peer.
    assert_eq!(before.is_empty(), router.is_ours());
    if router.is_ours() {
        assert_eq!(emperor.stats().drops_of(ADDRESS_OF_UID, "spoofed_source"), 1);
    }
}

fn peer_of_the_symbol_gets_no_other_by_name(router: Router) {
    const CLAIM: u8 = 0x78;
    let (ini, _dir) = with_hook(router);
    let emperor = ini.line("tuntap-router-address = fd00:77::1/64").start_in(Netns::new().with_ipv6());
    let mut peer = emperor.connect();
    peer.send_credentials(UID, UID);
    emperor.wait_for_stats("the peer has its address", |stats| stats.peer(ADDRESS_OF_UID).is_some());
    let mut told = |kind, payload: &[u8]| {
        peer.send_bytes(&wire::frame(kind, payload));
        let frame = peer.next_frame(wait::SHORT).expect("an answer");
        assert_eq!(frame.modifier2, wire::CONFIGURATION);
        serde_json::from_slice::<serde_json::Value>(&frame.payload).expect("JSON")
    };
    let both_families = told(wire::ASK, &[1, 3, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(both_families["addresses"], serde_json::json!([format!("{ADDRESS_OF_UID}/32")]));
    for leased in [false, true] {
        let wishes = serde_json::json!([
            {"address": "fd00:77::7", "leased": leased}, {"address": ADDRESS_OF_UID, "leased": leased}
        ]);
        let claim = serde_json::json!({"version": 1, "addresses": wishes});
        let answer = told(CLAIM, claim.to_string().as_bytes());
        assert_eq!(answer["addresses"], serde_json::json!([format!("{ADDRESS_OF_UID}/32")]));
        assert_eq!(answer["refused"][0]["wish"], "fd00:77::7");
        assert!(answer["refused"][0]["reason"].as_str().is_some_and(|it| it.contains("its credentials stand for")));
    }
}

fn address_of_the_symbol_must_be_leased(router: Router) {
    let (ini, _dir) = with_hook(router);
    // The address of the next uid is leased to the wrong one.
    let emperor = ini
        .line(format!("tuntap-router-lease = {ADDRESS_OF_UID} {UID}"))
        .line(format!("tuntap-router-lease = 10.0.0.6 {UID}"))
        .start();
    let mark = emperor.log.mark();
    let mut refused = emperor.connect();
    refused.send_credentials(UID + 1, UID + 1);
    assert!(refused.is_closed(wait::SHORT), "the symbol gives it 10.0.0.6, the lease doesn't");
    emperor.log.wait_for_since(mark, "gave it 10.0.0.6, which is not leased to it", wait::SHORT);
    let mut peer = emperor.connect();
    peer.send_credentials(UID, UID);
    emperor.wait_for_stats("the peer has its address", |stats| stats.peer(ADDRESS_OF_UID).is_some());
    assert!(peer.echo(ADDRESS_OF_UID, GATEWAY, wait::SHORT));
    peer.send_packet(&packet::udp(Ipv4Addr::new(10, 0, 0, 6), GATEWAY, 9, b"leased, not assigned"));
    emperor.wait_for_stats("it is dropped", |stats| stats.drops_of(ADDRESS_OF_UID, "spoofed_source") == 1);
}

fn unknown_symbol_stops_the_start(router: Router) {
    let mut emperor = router.emperor().line("tuntap-use-credentials = nosuch").launch();
    assert!(!emperor.wait_for_exit().success());
    assert!(emperor.log.text().lines().any(|line| line.contains("symbol") && line.contains("nosuch")));
}

fn credentials_that_nobody_asked_for_are_passed_over(router: Router) {
    let emperor = router.emperor().start();
    let mut peer = emperor.connect();
    peer.send_credentials(0, 0);
    assert!(peer.echo(V1, EMPEROR, wait::SHORT));
    let mut resembling = emperor.connect();
    resembling.send_bytes(b"uwsgi-tuntux");
    assert!(resembling.is_closed(wait::SHORT), "no frame begins like this");
    assert!(peer.echo(V1, EMPEROR, wait::SHORT));
}

/// The C vassal waits until its privileges are dropped, and so would everything that needs the network before.
#[test]
fn our_vassal_sends_its_credentials_first_and_at_once() {
    let pair = Pair::ours_ours(Uwsgi::usual());
    let emperor = pair.emperor().start();
    let fake = FakeRouter::bind(&emperor.path("fake.sock"));
    let vassal = pair
        .vassal("v1", V1)
        .devices(&["uwsgi0 {dir}/fake.sock"])
        .without_ping()
        .line("tuntap-use-credentials = true")
        .line("tuntap-device-rule = out 0.0.0.0 10.0.0.0/8 deny")
        .line("exec-as-root = sleep 60");
    emperor.add(&vassal);
    let mut accepted = fake.accept(wait::LONG);
    let first = accepted.next_bytes(wire::CREDENTIALS.len(), wait::LONG);
    assert_eq!(
        first.as_deref(),
        Some(&wire::CREDENTIALS[..]),
        "the message comes before any frame, while the vassal is root"
    );
}
