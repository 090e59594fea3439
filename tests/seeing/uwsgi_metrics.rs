//! Numbers of routers among uWSGI's own metrics: in the master's statistics, and with those who push them on.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};

use serde_json::Value;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1};
use crate::common::netns::Netns;
use crate::common::packet;
use crate::common::stats::Stats;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;

fn emperor(uwsgi: Uwsgi) -> EmperorIni {
    EmperorIni::new(uwsgi, Subject::Ours).lines(&["enable-metrics = true", "stats = {dir}/master.sock"])
}

/// A metric in the statistics of the master.
fn metric(emperor: &Emperor, name: &str) -> Option<Value> {
    let master = Stats::read(&emperor.path("master.sock")).ok()?;
    Some(master.0["metrics"].get(format!("tuntap.emperor0.{name}"))?.clone())
}

/// Waits until a metric has a value that the router itself has, too.
#[track_caller]
fn wait_for(emperor: &Emperor, name: &str, wanted: impl Fn(i64) -> bool) {
    let value = || metric(emperor, name)?["value"].as_i64();
    wait::until_true(name, wait::LONG, || value().is_some_and(&wanted));
}

fn masters_statistics_have_the_numbers_of_routers(uwsgi: Uwsgi) {
    let emperor = emperor(uwsgi).line("tuntap-router-firewall-out = deny any 192.0.2.0/24").start();
    wait_for(&emperor, "peers", |peers| peers == 0);
    let mut peer = emperor.peer(V1);
    for _ in 0..3 {
        peer.send_packet(&packet::udp(V1, [192, 0, 2, 1].into(), 9, b"denied"));
    }
    let stats = emperor.wait_for_stats("they are dropped", |stats| stats.drops("firewall") == 3);
    wait_for(&emperor, "drops.firewall", |drops| drops == 3);
    wait_for(&emperor, "peers", |peers| peers == 1);
    let bytes = stats.0["totals"]["tun_tx_bytes"].as_i64().expect("a number");
    wait_for(&emperor, "device.tx_bytes", |found| found == bytes);
    let kinds = ["peers", "claims"].map(|name| metric(&emperor, name).expect("it is there")["type"].clone());
    // UWSGI_METRIC_GAUGE and UWSGI_METRIC_COUNTER of uwsgi.h.
    assert_eq!(kinds, [1, 0]);
    drop(peer);
    wait_for(&emperor, "peers", |peers| peers == 0);
    // The next router goes on with the same memory.
    let mut peer = emperor.peer(V1);
    emperor.kill_router();
    wait_for(&emperor, "drops.firewall", |drops| drops == 0);
    peer = {
        drop(peer);
        emperor.peer(V1)
    };
    assert!(peer.echo(V1, EMPEROR, wait::SHORT));
    wait_for(&emperor, "peers", |peers| peers == 1);
}

#[test]
fn masters_statistics_have_them_on_the_distributions_uwsgi() {
    masters_statistics_have_the_numbers_of_routers(Uwsgi::Distribution);
}

#[test]
fn masters_statistics_have_them_on_the_other_uwsgi() {
    masters_statistics_have_the_numbers_of_routers(Uwsgi::Pypi);
}

#[test]
fn without_metrics_the_masters_statistics_are_as_ever() {
    let emperor = EmperorIni::new(Uwsgi::usual(), Subject::Ours).line("stats = {dir}/master.sock").start();
    let master = wait::until("the master's statistics", wait::LONG, || Stats::read(&emperor.path("master.sock")).ok());
    assert!(!master.0.to_string().contains("tuntap."), "{}", master.0);
    assert!(emperor.stats().0["metrics"].is_null());
}

/// Debian has these in plugins of their own.
#[test]
fn carbon_and_statsd_get_them() {
    let netns = Netns::new();
    let bound = netns.run(|| {
        let carbon = TcpListener::bind("127.0.0.1:2003")?;
        carbon.set_nonblocking(true)?;
        let statsd = UdpSocket::bind("127.0.0.1:8125")?;
        statsd.set_read_timeout(Some(wait::LONG))?;
        Ok::<_, std::io::Error>((carbon, statsd))
    });
    let (carbon, statsd) = bound.expect("a namespace of its own has free ports");
    let emperor = emperor(Uwsgi::Distribution)
        .lines(&["plugin = carbon", "plugin = stats_pusher_statsd"])
        .lines(&[
            "carbon = 127.0.0.1:2003",
            "carbon-freq = 1",
            "carbon-use-metrics = true",
            "stats-pusher-default-freq = 1",
        ])
        .line("stats-push = statsd:127.0.0.1:8125,host")
        // Carbon pushes nothing of an instance without a socket, of which it takes the name.
        .line("socket = {dir}/carbon.sock")
        .start_in(netns);
    let _peer = emperor.peer(V1);
    let mut buffer = [0; 2048];
    let pushed = wait::until("statsd gets a number of the router", wait::LONG, || {
        let len = statsd.recv(&mut buffer).expect("uWSGI pushes");
        let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
        text.contains("tuntap.emperor0.peers:1|").then_some(text)
    });
    assert!(pushed.starts_with("host."), "{pushed}");
    wait::until_true("carbon gets a number of the router", wait::LONG, || {
        let Ok((stream, _)) = carbon.accept() else { return false };
        stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(wait::LONG))).expect("a socket");
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        lines.any(|line| line.contains("tuntap.emperor0.peers 1 "))
    });
}
