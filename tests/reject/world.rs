//! What these tests have in common: an Emperor and a vassal with addresses of both versions.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Output;
use std::time::{Duration, Instant};

use nix::libc;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1};
use crate::common::netns::{Net, Netns};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;

pub const EMPEROR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1);
pub const V1_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 2);

/// A client that waits longer than this got no answer.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Starts both. The vassal's name is `v`.
pub fn start(uwsgi: Uwsgi, lines: &[&str]) -> (Emperor, Net) {
    start_with(uwsgi, lines, &[])
}

/// Starts both, with lines for the vassal, too.
pub fn start_with(uwsgi: Uwsgi, lines: &[&str], vassals_lines: &[&str]) -> (Emperor, Net) {
    let netns = Netns::new();
    netns.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=0");
    let emperor = EmperorIni::new(uwsgi, Subject::Ours)
        .line(format!("exec-as-root = ip -6 addr replace {EMPEROR6}/64 dev emperor0 nodad"))
        .lines(lines)
        .start_in(netns);
    let vassal = VassalIni::new(uwsgi, Subject::Ours, "v", V1, EMPEROR)
        .with_ipv6()
        .line(format!("exec-as-root = ip -6 addr replace {V1_6}/64 dev uwsgi0 nodad"))
        .line(format!("exec-as-root = ip -6 route replace default via {EMPEROR6}"))
        .line(format!("exec-as-root = ping -q -c 1 -W 5 {EMPEROR6}"));
    let vassal = vassals_lines.iter().fold(vassal, |vassal, line| vassal.line(*line));
    let net = emperor.start_vassal(&vassal);
    (emperor, net)
}

/// What curl says to a URL on this address and port, within some seconds.
pub fn curl(net: &Net, address: impl Into<IpAddr>, port: u16) -> (Output, Duration) {
    let url = match address.into() {
        IpAddr::V4(address) => format!("http://{address}:{port}/"),
        IpAddr::V6(address) => format!("http://[{address}]:{port}/"),
    };
    let started = Instant::now();
    let output = net.output(&["curl", "--silent", "--show-error", "--globoff", "--max-time", "5", &url]);
    (output, started.elapsed())
}

/// curl's exit code for a connection that nobody takes.
const CANNOT_CONNECT: i32 = 7;

#[track_caller]
pub fn assert_refused(net: &Net, address: impl Into<IpAddr>, port: u16) {
    let (output, took) = curl(net, address, port);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(CANNOT_CONNECT), "{text}");
    assert!(took < AT_ONCE, "it took {took:?}");
}

/// A port without a listener would be refused, too. Only a request that is not answered at all shows the difference.
#[track_caller]
pub fn assert_not_answered(net: &Net, address: impl Into<IpAddr>, port: u16) {
    const TIMED_OUT: i32 = 28;
    let (output, _) = curl(net, address, port);
    assert_eq!(output.status.code(), Some(TIMED_OUT), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What ping says to one request.
pub fn ping(net: &Net, address: impl Into<IpAddr>) -> String {
    let output = net.output(&["ping", "-n", "-c", "1", "-W", "2", &address.into().to_string()]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A datagram's sender gets an error instead of an answer.
#[track_caller]
pub fn assert_datagram_is_refused(client: &Net, target: SocketAddr) {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = client.run(|| UdpSocket::bind(any)).expect("a socket");
    socket.set_read_timeout(Some(wait::SHORT)).expect("a timeout");
    socket.connect(target).expect("there is a route");
    socket.send(b"datagram").expect("it can be sent");
    let error = socket.recv(&mut [0; 16]).expect_err("nobody answers");
    // Linux makes these errors of "prohibited" in ICMP and ICMPv6.
    assert!(matches!(error.raw_os_error(), Some(libc::EHOSTUNREACH | libc::EACCES)), "{target}: {error}");
}
