//! Every feature works inside the sandbox; those that go together are in one router. The other test binaries run all of
//! their routers in the sandbox, too.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime};

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::packet;
use crate::common::probe::{pings_answered, send_udp, tcp_round_trip};
use crate::common::processes::{descriptors, limit_descriptors};
use crate::common::stats::Stats;
use crate::common::two_emperors::{self, FAR_EMPEROR, FAR_V1};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::{NOBODY, VassalIni};
use crate::common::wait;
use crate::common::wire::{ANY, Action, Direction, Rule};
use crate::world::{Hook, assert_confined, emperor, status};

const V3: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 4);
const LENGTH: usize = 5_000_000;

fn vassal(plugin: Subject, name: &str, address: Ipv4Addr) -> VassalIni {
    VassalIni::new(Uwsgi::usual(), plugin, name, address, EMPEROR)
}

#[test]
fn packets_pass_on_every_path() {
    let emperor = emperor()
        .line("tuntap-router-switch = true")
        .line("tuntap-router-firewall-in = deny 192.168.0.4 192.168.0.2")
        .line("tuntap-router-firewall-out = deny 192.168.0.0/24 10.0.0.0/8")
        .start();
    let router = assert_confined(&emperor);
    let attached = emperor.start_vassal(&vassal(Subject::Ours, "v1", V1));
    emperor
        .wait_for_stats("the vassal is attached", |stats| stats.peer(V1).is_some_and(|peer| peer["attached"] == true));
    let in_frames = emperor.start_vassal(&vassal(Subject::C, "v2", V2));
    let mut raw = emperor.connect();
    raw.send_rules(&[Rule { direction: Direction::Out, source: ANY, destination: (V2, 32), action: Action::Deny }]);
    assert!(raw.echo(V3, EMPEROR, wait::SHORT));

    assert!(tcp_round_trip(&emperor.netns, EMPEROR, &attached, LENGTH).expect("TCP with the Emperor"));
    assert!(tcp_round_trip(&in_frames, V2, &attached, LENGTH / 10).expect("TCP between vassals"));
    assert!(pings_answered(&emperor.netns, V2, 5, &["-s", "1472"]) > 0);

    let before = emperor.stats();
    raw.send_packet(&packet::udp(V3, V1, 9, b"denied on the way in"));
    send_udp(&attached, Ipv4Addr::new(10, 0, 0, 1), 9, b"denied on the way out").expect("the vassal has a route");
    emperor.wait_for_stats("the chains apply", |stats| stats.drops("firewall") == before.drops("firewall") + 2);
    raw.send_packet(&packet::udp(V3, V2, 9, b"denied by the peer's own rule"));
    emperor.wait_for_stats("the peer's rule applies", |stats| stats.drops_of(V3, "peer_rule") == 1);
    assert!(raw.echo(V3, EMPEROR, wait::SHORT));

    emperor.touch("v1");
    wait::until_true("the reloaded vassal is served", wait::LONG, || pings_answered(&attached, EMPEROR, 1, &[]) == 1);
    drop(raw);
    emperor.wait_for_stats("the peer has left", |stats| stats.peer(V3).is_none());
    assert_eq!(assert_confined(&emperor), router, "it is the same process");
}

/// The probe for a path's length makes, connects and asks a socket for each target.
#[test]
fn gateways_exchange_packets_and_tell_what_is_too_long() {
    let (here, there) = two_emperors::start(emperor);
    let routers = (assert_confined(&here), assert_confined(&there));
    let near = here.start_vassal(&vassal(Subject::Ours, "v1", V1));
    let far = there.start_vassal(&VassalIni::new(Uwsgi::usual(), Subject::Ours, "v1", FAR_V1, FAR_EMPEROR));
    wait::until_true("the far vassal is reached", wait::LONG, || pings_answered(&near, FAR_V1, 1, &[]) == 1);
    assert_eq!(pings_answered(&near, FAR_V1, 3, &["-M", "do", "-s", "1472", "-W", "1"]), 0, "must not be cut");
    assert!(near.sh("ip route get 192.168.1.2").contains("mtu 1472"), "the vassal was told how long packets may be");
    assert!(tcp_round_trip(&far, FAR_V1, &near, LENGTH).expect("TCP between the vassals"));
    assert_eq!((assert_confined(&here), assert_confined(&there)), routers);
}

#[test]
fn statistics_are_served_over_tcp() {
    let emperor = emperor().router("emperor0 {dir}/t.sock 127.0.0.1:5002").launch();
    let address = SocketAddr::from(([127, 0, 0, 1], 5002));
    let read = || Stats::read_tcp(&emperor.netns, address);
    let stats = wait::until("stats over TCP", wait::LONG, || read().ok());
    assert_eq!(status(stats.router_pid(), "Seccomp"), "2");
    let _peer = emperor.peer(V1);
    assert!(read().expect("stats over TCP").peer(V1).is_some());
}

#[test]
fn statistics_are_served_over_http() {
    let emperor = emperor().stats_over_http().start();
    assert_confined(&emperor);
    let (head, _) = Stats::read_http(&emperor.path("stats.sock")).expect("stats over HTTP");
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
}

#[test]
fn credentials_are_shown() {
    let option = "tuntap-use-credentials = true";
    let emperor = emperor().line(option).start();
    assert_confined(&emperor);
    emperor.start_vassal(&vassal(Subject::Ours, "v1", V1).line(option));
    assert_eq!(emperor.stats().of_peer(V1, "uid"), u64::from(NOBODY));
}

#[test]
fn function_that_only_counts_works_inside() {
    let hook = Hook::compile("#include <arpa/inet.h>", "return uid < 30000 ? 0 : htonl(0x0a000002 + uid - 30000);");
    let emperor = hook.emperor("strict").start();
    let router = assert_confined(&emperor);
    let mut refused = emperor.connect();
    refused.send_credentials(1000, 1000);
    assert!(refused.is_closed(wait::SHORT));
    let (gateway, address) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 5));
    let mut welcome = emperor.connect();
    welcome.send_credentials(30_003, 30_003);
    assert!(welcome.echo(address, gateway, wait::SHORT));
    assert_eq!(assert_confined(&emperor), router);
}

#[test]
fn running_out_of_descriptors_is_survived() {
    let emperor = emperor().start();
    let router = assert_confined(&emperor);
    let mut peer = emperor.peer(V1);
    limit_descriptors(router, descriptors(router).len() + 20);
    let connections: Vec<UnixStream> =
        (0..40).map(|_| UnixStream::connect(emperor.socket()).expect("the backlog has room")).collect();
    emperor.log.wait_for("can't accept", wait::LONG);
    assert!(peer.echo(V1, EMPEROR, wait::SHORT));
    drop(connections);
    wait::until_true("a new peer is accepted", wait::LONG, || emperor.connect().echo(V2, EMPEROR, wait::SHORT));
    assert_eq!(assert_confined(&emperor), router);
}

/// A time zone file (tzfile(5), version 1) with no transitions: always nine hours ahead.
fn japan() -> Vec<u8> {
    let mut file = b"TZif".to_vec();
    file.extend([0; 16]);
    let (types, letters): (u32, u32) = (1, 4);
    for count in [0, 0, 0, 0, types, letters] {
        file.extend(count.to_be_bytes());
    }
    file.extend(32_400_i32.to_be_bytes());
    let (daylight_saving, first_letter) = (0, 0);
    file.extend([daylight_saving, first_letter]);
    file.extend(b"JST\0");
    file
}

/// The C library looks at the time zone's file for each line, and reads it again after an update. In the sandbox it
/// would find none, and go on with UTC.
#[test]
fn log_lines_keep_the_local_time() {
    for master in ["log-master = false", "log-master = true"] {
        let zone = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(zone.path(), japan()).expect("own file");
        let emperor = emperor()
            .lines(&["log-date = %%H h %%Z", master])
            .line(format!("exec-as-root = mount --bind {} /etc/localtime", zone.path().display()))
            .start();
        let router = assert_confined(&emperor);
        let own = std::fs::File::options().append(true).open(zone.path()).expect("own file");
        own.set_modified(SystemTime::now() - Duration::from_secs(60)).expect("own file");
        let mut peer = emperor.peer(V1);
        emperor.log.wait_for(" h JST - [tuntap-router] emperor0: peer 192.168.0.2 joined", wait::SHORT);
        assert!(peer.echo(V1, EMPEROR, wait::SHORT));
        assert_eq!(assert_confined(&emperor), router);
    }
}
