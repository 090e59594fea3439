//! `tuntap-router-metrics`: what it serves, to whom, and what a real Prometheus makes of it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1, V2};
use crate::common::netns::Netns;
use crate::common::packet;
use crate::common::starter::Starter;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;
use crate::scrape::{ask_tcp, ask_unix, check, metrics};

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: router\r\n\r\n";

fn emperor() -> EmperorIni {
    EmperorIni::new(Uwsgi::usual(), Subject::Ours)
}

fn with_socket() -> EmperorIni {
    emperor().line("tuntap-router-metrics = {dir}/metrics.sock")
}

#[test]
fn text_is_that_of_the_statistics_and_passes_promtool() {
    let emperor = with_socket().line("tuntap-router-firewall-out = deny any 192.0.2.0/24").start();
    let mut peer = emperor.peer(V1);
    peer.send_packet(&packet::udp(V1, [192, 0, 2, 1].into(), 9, b"denied"));
    peer.send_packet(&packet::udp(V1, [192, 0, 2, 2].into(), 9, b"denied"));
    let stats = emperor.wait_for_stats("both are dropped", |stats| stats.drops("firewall") == 2);
    let found = metrics(&emperor);
    assert!(found.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", found.head);
    assert!(found.head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{}", found.head);
    assert!(found.head.contains(&format!("\r\nContent-Length: {}", found.body.len())), "{}", found.head);
    check(&found.body);
    for (sample, value) in [
        ("uwsgi_tuntap_dropped_packets_total{device=\"emperor0\",reason=\"firewall\"}", 2),
        ("uwsgi_tuntap_rule_packets_total{device=\"emperor0\",rule=\"1\"}", 2),
        ("uwsgi_tuntap_peers{device=\"emperor0\"}", 1),
        ("uwsgi_tuntap_peer_bytes_total{device=\"emperor0\",peer=\"0\",direction=\"out\"}", stats.of_peer(V1, "rx")),
        ("uwsgi_tuntap_peer_bytes_total{device=\"emperor0\",peer=\"0\",direction=\"in\"}", stats.of_peer(V1, "tx")),
        ("uwsgi_tuntap_peer_dropped_packets_total{device=\"emperor0\",peer=\"0\",reason=\"firewall\"}", 2),
    ] {
        assert!((found.value(sample) - value as f64).abs() < f64::EPSILON, "{sample} is {value}: {}", found.body);
    }
}

#[test]
fn requests_are_answered_as_http_wants_it() {
    let emperor = with_socket().start();
    let ask = |request: &str| ask_unix(&emperor.path("metrics.sock"), request).expect("an answer");
    let open = ask("GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n\r\n");
    assert!(open.head.contains("application/openmetrics-text; version=1.0.0; charset=utf-8"), "{}", open.head);
    assert!(open.body.ends_with("\n# EOF\n") && open.body.contains("# TYPE uwsgi_tuntap_router info"), "{}", open.body);
    let head = ask("HEAD /metrics HTTP/1.0\r\n\r\n");
    assert!(head.head.starts_with("HTTP/1.1 200 OK") && head.body.is_empty(), "{head:?}");
    let cookies = format!("GET /metrics HTTP/1.1\r\nCookie: {}\r\n\r\n", "x".repeat(20_000));
    for (request, status) in [
        (cookies.as_str(), "431 Request Header Fields Too Large"),
        ("POST /metrics HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", "405 Method Not Allowed"),
        ("GET / HTTP/1.0\n\n", "200 OK"),
        ("GET /metrics?name=x HTTP/1.0\r\n\r\n", "200 OK"),
        ("GET /other HTTP/1.0\r\n\r\n", "404 Not Found"),
        ("POST /metrics HTTP/1.0\r\n\r\n", "405 Method Not Allowed"),
        ("hello\r\n\r\n", "400 Bad Request"),
    ] {
        let found = ask(request);
        assert!(found.head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request}: {}", found.head);
    }
}

#[test]
fn silent_clients_and_endless_requests_hold_nobody_up() {
    let emperor = with_socket().line("socket-timeout = 2").start();
    let mut peer = emperor.peer(V1);
    let socket = emperor.path("metrics.sock");
    let silent: Vec<_> = (0..40).map(|_| UnixStream::connect(&socket).expect("a connection")).collect();
    assert!(peer.echo(V1, EMPEROR, wait::SHORT));
    check(&metrics(&emperor).body);
    drop(silent);
    let endless = "x".repeat(100_000);
    assert!(ask_unix(&socket, &endless).is_err(), "it is cut off");
    check(&metrics(&emperor).body);
}

/// Vassals reach the host's addresses, but must not see each other's traffic.
#[test]
fn vassals_get_no_metrics() {
    let emperor = emperor().line("tuntap-router-metrics = :9147").start();
    let address = SocketAddr::from((EMPEROR, 9147));
    let vassal = emperor.start_attached(&VassalIni::new(Uwsgi::usual(), Subject::Ours, "one", V1, EMPEROR));
    assert!(ask_tcp(&vassal, address, GET).is_err(), "a vassal is refused");
    let from_host = ask_tcp(&emperor.netns, SocketAddr::from(([127, 0, 0, 1], 9147)), GET).expect("metrics");
    assert!(from_host.value("uwsgi_tuntap_clients_refused_total{device=\"emperor0\"}") >= 1.0);
    check(&from_host.body);
}

/// uWSGI looks for the port of an IPv6 address where it is told to, and what it can't read becomes an address of nobody.
#[test]
fn addresses_of_ipv6_are_served() {
    let emperor = emperor()
        .line("tuntap-router = other0 {dir}/other.sock [::1]:9149")
        .line("tuntap-router-metrics = emperor0 [::]:9147")
        .line("tuntap-router-metrics = other0 *:9150")
        .start_in(Netns::new().with_ipv6());
    for host in [IpAddr::from(Ipv6Addr::LOCALHOST), Ipv4Addr::LOCALHOST.into()] {
        check(&ask_tcp(&emperor.netns, SocketAddr::new(host, 9147), GET).expect("metrics").body);
    }
    check(&ask_tcp(&emperor.netns, SocketAddr::from((Ipv4Addr::LOCALHOST, 9150)), GET).expect("metrics").body);
    let connect = || TcpStream::connect_timeout(&SocketAddr::from((Ipv6Addr::LOCALHOST, 9149)), wait::SHORT);
    let stream = emperor.netns.run(connect).expect("it listens there");
    let stats: Value = serde_json::from_reader(stream).expect("statistics");
    assert_eq!(stats["device"], "other0");
    // Its IPv4 address is one of IPv6 to such a socket.
    let vassal = emperor.start_attached(&VassalIni::new(Uwsgi::usual(), Subject::Ours, "one", V1, EMPEROR));
    assert!(ask_tcp(&vassal, SocketAddr::from((EMPEROR, 9147)), GET).is_err(), "a vassal is refused");
}

#[test]
fn users_have_names_and_their_counters_never_go_back() {
    const UID: u32 = 39_001;
    let emperor = with_socket()
        .line("chmod-socket = 666")
        .line("tuntap-router-lease = 192.168.0.2 daemon")
        .line("tuntap-router-lease-default = allow")
        .start();
    let bytes = |peer: &str| {
        let sample = format!("uwsgi_tuntap_peer_bytes_total{{device=\"emperor0\",peer=\"{peer}\",direction=\"out\"}}");
        metrics(&emperor).find(&sample)
    };
    let connect = |uid, address| {
        let mut peer = emperor.connect_as(uid);
        assert!(peer.echo(address, EMPEROR, wait::SHORT));
        peer
    };
    // Debian's user daemon has the uid 1.
    let named = connect(1, V1);
    let first = connect(UID, V2);
    let second = connect(UID, [192, 168, 0, 4].into());
    assert!(bytes("daemon").is_some_and(|bytes| bytes > 0.0), "the lease names it");
    let of_both = bytes("39001").expect("two vassals of a user have one series");
    drop(first);
    emperor.wait_for_stats("one has left", |stats| stats.peers().len() == 2);
    assert_eq!(bytes("39001"), Some(of_both));
    drop((second, named));
    emperor.wait_for_stats("all have left", |stats| stats.peers().is_empty());
    assert_eq!(bytes("39001"), Some(of_both));
    check(&metrics(&emperor).body);
}

#[test]
fn metrics_of_users_are_bounded_and_can_be_turned_off() {
    for (limit, shown, left_out) in [(0, 0, 3), (2, 2, 1)] {
        let emperor = with_socket()
            .line("chmod-socket = 666")
            .line(format!("tuntap-router-metrics-peers = emperor0 {limit}"))
            .start();
        let peers: Vec<_> = (39_001..39_004).map(|uid| emperor.connect_as(uid)).collect();
        emperor.wait_for_stats("all have come", |stats| stats.peers().len() == peers.len());
        let found = metrics(&emperor);
        assert_eq!(found.body.matches("uwsgi_tuntap_peer_connections{").count(), shown, "{}", found.body);
        let value = found.value("uwsgi_tuntap_users_left_out{device=\"emperor0\"}");
        assert!((value - f64::from(left_out)).abs() < f64::EPSILON, "{}", found.body);
        check(&found.body);
    }
}

/// What a restarted router says is a reset of its counters for Prometheus, except for the rules', which outlive it.
#[test]
fn next_router_serves_the_same_address() {
    let emperor = with_socket().line("tuntap-router-firewall-out = deny any 192.0.2.0/24").start();
    let mut peer = emperor.peer(V1);
    peer.send_packet(&packet::udp(V1, [192, 0, 2, 1].into(), 9, b"denied"));
    emperor.wait_for_stats("it is dropped", |stats| stats.drops("firewall") == 1);
    emperor.kill_router();
    let found = metrics(&emperor);
    let rule = found.value("uwsgi_tuntap_rule_packets_total{device=\"emperor0\",rule=\"1\"}");
    let dropped = found.value("uwsgi_tuntap_dropped_packets_total{device=\"emperor0\",reason=\"firewall\"}");
    assert!((rule - 1.0).abs() < f64::EPSILON && dropped.abs() < f64::EPSILON, "{}", found.body);
}

#[test]
fn address_in_use_is_named_at_the_start() {
    let netns = Netns::new();
    let address = SocketAddr::from(([127, 0, 0, 1], 9147));
    let _other = netns.run(|| TcpListener::bind(address)).expect("a namespace of its own has free ports");
    let mut emperor = emperor().line("tuntap-router-metrics = 127.0.0.1:9147").launch_in(netns);
    assert!(!emperor.wait_for_exit().success());
    assert!(emperor.log.text().contains("metrics on 127.0.0.1:9147: "), "{}", emperor.log.text());
}

/// A Prometheus with our alerts, in the namespace of the router that it scrapes.
#[test]
fn prometheus_scrapes_and_queries() {
    const PORT: u16 = 9148;
    let emperor = emperor().line("tuntap-router-metrics = 127.0.0.1:9147").start();
    let mut peer = emperor.peer(V1);
    assert!(peer.echo(V1, EMPEROR, wait::SHORT));
    let folder = emperor.path("prometheus");
    fs::create_dir(&folder).expect("own folder");
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/prometheus/uwsgi-tuntap.rules.yml");
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{rules}]\nscrape_configs:\n  - job_name: uwsgi-tuntap\n    \
         static_configs: [{{targets: ['127.0.0.1:9147']}}]\n"
    );
    fs::write(folder.join("prometheus.yml"), config).expect("own folder");
    let _prometheus = Starter::program("prometheus", &folder)
        .netns(&emperor.netns)
        .arguments(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
        .argument(format!("--web.listen-address=127.0.0.1:{PORT}"))
        .log("prometheus.log")
        .start();
    let query = |expression: &str| -> Option<Value> {
        let path = format!("/api/v1/query?query={expression}");
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        let found = ask_tcp(&emperor.netns, SocketAddr::from(([127, 0, 0, 1], PORT)), &request).ok()?;
        serde_json::from_str::<Value>(&found.body).ok()?["data"]["result"][0]["value"][1].as_str().map(Into::into)
    };
    wait::until_true("the scrape succeeds", wait::LONG, || query("up") == Some("1".into()));
    let total = "uwsgi_tuntap_device_packets_total%7Bdirection=%22out%22%7D";
    wait::until_true("the counter is there", wait::LONG, || query(total).is_some());
    // Prometheus prefers OpenMetrics; a text without an end, or with a wrong type, would not be scraped.
    assert_eq!(query("uwsgi_tuntap_router_info"), Some("1".into()));
    assert_eq!(query("count(uwsgi_tuntap_dropped_packets_total)"), Some(reasons(&emperor).to_string().into()));
}

/// The number of reasons for drops in the statistics.
fn reasons(emperor: &Emperor) -> usize {
    emperor.stats().0["drops"].as_object().expect("drops by reason").len()
}
