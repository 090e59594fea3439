//! A router with a vassal that serves a WSGI application, and what must hold of both.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread::sleep;
use std::time::Duration;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1};
use crate::common::http;
use crate::common::log::{Log, Mark};
use crate::common::netns::Net;
use crate::common::probe::{is_reachable, pings_answered};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;

/// The vassal's name.
pub const NAME: &str = "v1";

const HTTP_PORT: u16 = 8080;
/// uWSGI looks after its processes once per second.
const SETTLE: Duration = Duration::from_millis(1500);
/// The log's line of an instance that could not make its devices.
pub const NO_DEVICE: &str = "[uwsgi-tuntap] no tuntap-device was made";
const MADE: &str = "[uwsgi-tuntap] made the device uwsgi0";

const APP: &str = r#"
import os

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"uid %d" % os.getuid()]
"#;

/// An Emperor with a router.
pub fn emperor_ini() -> EmperorIni {
    EmperorIni::new(Uwsgi::usual(), Subject::Ours)
}

#[track_caller]
pub fn emperor() -> Emperor {
    with_app(emperor_ini().start())
}

/// Puts the application where vassals look for it.
pub fn with_app(emperor: Emperor) -> Emperor {
    write_app(&emperor, APP);
    emperor
}

pub fn write_app(emperor: &Emperor, source: &str) {
    std::fs::write(emperor.path("app.py"), source).expect("own folder");
}

/// A vassal with the application; its HTTP socket can be bound before the device has its address.
pub fn vassal(emperor: &Emperor) -> VassalIni {
    let vassal = VassalIni::new(emperor.uwsgi, Subject::Ours, NAME, V1, EMPEROR);
    app_lines(emperor).into_iter().fold(vassal, VassalIni::line)
}

/// An instance without an Emperor, in a network namespace that it makes itself.
pub fn unshared(emperor: &Emperor) -> EmperorIni {
    let ini = EmperorIni::bare(emperor.uwsgi, Subject::Ours)
        .lines(&["unshare = net", "processes = 1"])
        .line(format!("tuntap-device = uwsgi0 {}", emperor.socket().display()))
        .lines(&[
            "exec-as-root = sysctl -qw net.ipv6.conf.all.disable_ipv6=1",
            "exec-as-root = ip link set lo up",
            "exec-as-root = ip addr replace 192.168.0.2/24 dev uwsgi0",
            "exec-as-root = ip link set uwsgi0 up",
            "exec-as-root = ping -q -c 1 -W 5 192.168.0.1",
        ]);
    app_lines(emperor).into_iter().fold(ini, EmperorIni::line)
}

fn app_lines(emperor: &Emperor) -> Vec<String> {
    let mut lines =
        vec![format!("http-socket = :{HTTP_PORT}"), format!("wsgi-file = {}", emperor.path("app.py").display())];
    lines.extend(emperor.uwsgi.python_line().lines().map(str::to_owned));
    lines
}

/// Packets pass in both directions, the vassal's application answers, the router has this peer and no other, and all
/// of it lasts.
#[track_caller]
pub fn assert_works(emperor: &Emperor, net: &Net) {
    assert_peers_work(emperor, net, 1);
}

/// Fails unless packets pass in both directions and the application answers. The router may have other peers beside the
/// vassal.
#[track_caller]
pub fn assert_peers_work(emperor: &Emperor, net: &Net, peers: usize) {
    assert_traffic_passes(emperor, net);
    let mark = emperor.log.mark();
    sleep(SETTLE);
    assert_traffic_passes(emperor, net);
    assert_nothing_died(&emperor.log, mark);
    let stats = emperor.stats();
    assert!(stats.peer(V1).is_some() && stats.peers().len() == peers, "{peers} peers, {V1} among them: {}", stats.0);
}

#[track_caller]
pub fn assert_traffic_passes(emperor: &Emperor, net: &Net) {
    assert_eq!(pings_answered(&emperor.netns, V1, 3, &[]), 3, "pings from the Emperor");
    assert_eq!(pings_answered(net, EMPEROR, 3, &[]), 3, "pings from the vassal");
    let response = request(&emperor.netns, V1).unwrap_or_else(|error| format!("no response: {error}"));
    assert!(response.starts_with("HTTP/1.0 200 OK") && response.contains("\r\n\r\nuid "), "{response}");
}

/// uWSGI's words for an instance or a worker that ended without being asked to.
#[track_caller]
pub fn assert_nothing_died(log: &Log, since: Mark) {
    let text = log.since(since);
    assert!(!text.contains("DAMN") && !text.contains("curse"), "nothing dies:\n{text}");
}

/// What the vassal's application answers.
pub fn request(client: &Net, address: Ipv4Addr) -> std::io::Result<String> {
    http::get(client, SocketAddrV4::new(address, HTTP_PORT))
}

/// The namespace of a vassal that was started anew, once it is the one that the Emperor reaches. What is left of the
/// old one may linger for a while.
#[track_caller]
pub fn new_vassal_net(emperor: &Emperor) -> Net {
    wait::until("the new vassal works", wait::LONG, || {
        let net = Net::of_process(emperor.vassal_pid(NAME)?).ok()?;
        (is_reachable(&net, EMPEROR) && request(&emperor.netns, V1).is_ok()).then_some(net)
    })
}

/// How often the vassal made its device.
pub fn devices_made(log: &Log) -> usize {
    log.text().lines().filter(|line| line.starts_with(MADE)).count()
}

/// Reloads the vassal as an operator does, and waits until the new image serves.
#[track_caller]
pub fn reload(emperor: &Emperor) {
    let mark = emperor.log.mark();
    emperor.touch(NAME);
    emperor.wait_until_ready(mark, NAME);
}

/// A process id from a line of the log such as `spawned uWSGI master process (pid: 4711)`; of the last such line.
#[track_caller]
pub fn logged_pid(log: &Log, process: &str) -> i32 {
    wait::until(&format!("a pid in the log: {process}"), wait::LONG, || {
        let text = log.text();
        let line = text.lines().rev().find(|line| line.contains(process) && line.contains("pid: "))?;
        let digits = line.split("pid: ").nth(1)?.split(|letter: char| !letter.is_ascii_digit()).next()?;
        digits.parse().ok()
    })
}
