//! UDP senders that are older than the present target of a port.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::common::emperor::{Emperor, V1, V2};
use crate::common::log::Mark;
use crate::common::netns::{Net, Netns};
use crate::common::wait;
use crate::reload::reload;
use crate::world::{HOST_IPV4, HOST_IPV6, SET_UP, Site, V1_IPV6, V2_IPV6, World, ini, ip, vassal_at};

/// Sends from the same port again and again, as syslog and VPNs do, until it is dropped.
struct Sender<'a> {
    ended: &'a AtomicBool,
}

impl<'a> Sender<'a> {
    fn start<'s>(
        scope: &'s thread::Scope<'s, '_>,
        from: &'s Net,
        to: SocketAddr,
        port: u16,
        ended: &'a AtomicBool,
    ) -> Self
    where
        'a: 's,
    {
        let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], port).into() } else { ([0_u16; 8], port).into() };
        let socket = from.run(|| UdpSocket::bind(any)).expect("the port is free");
        scope.spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                // Refusals that come back are errors of the next call.
                let _ = socket.send_to(b"again", to);
                thread::sleep(Duration::from_millis(50));
            }
        });
        Self { ended }
    }
}

impl Drop for Sender<'_> {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// Waits until a datagram arrives from a sender that has been sending all the time.
#[track_caller]
fn assert_heard(net: &Net, at: SocketAddr) {
    let server = net.run(|| UdpSocket::bind(at)).expect("the address is there");
    server.set_read_timeout(Some(wait::LONG)).expect("a timeout can be set");
    let mut buffer = [0; 16];
    let count = server.recv(&mut buffer).unwrap_or_else(|error| panic!("{at}: {error}"));
    assert_eq!(&buffer[..count], b"again");
}

/// The flows of the host that have this port as their first destination.
fn flows(host: &Net, port: u16) -> Vec<String> {
    let text = host.sh("cat /proc/net/nf_conntrack");
    text.lines().filter(|line| line.contains(&format!("dport={port} "))).map(str::to_owned).collect()
}

/// Changes the Emperor's ini file, and has it reload; the place in the log before that.
#[track_caller]
fn reload_with(emperor: &Emperor, change: impl Fn(&str) -> String) -> Mark {
    let path = emperor.path("emperor.ini");
    let text = fs::read_to_string(&path).expect("own file");
    fs::write(&path, change(&text)).expect("own file");
    let mark = emperor.log.mark();
    emperor.signal(Signal::SIGHUP);
    emperor.log.wait_for_since(mark, "spawned uWSGI tuntap router 1", wait::LONG);
    mark
}

#[test]
fn senders_that_never_stop_are_led_where_the_port_leads_now() {
    let host = Netns::new();
    let site = Site::around(&host);
    // Connections are tracked already, as on any host with a firewall.
    host.sh("nft add table inet filter");
    host.sh("nft add chain inet filter input { type filter hook input priority 0 ; }");
    host.sh("nft add rule inet filter input ct state new accept");
    let (to4, to6) = (SocketAddr::from((ip(HOST_IPV4), 9000)), SocketAddr::from((ip(HOST_IPV6), 9000)));
    let other = SocketAddr::from((ip(HOST_IPV4), 9001));
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let (outside4, outside6) = (&site.outside4, &site.outside6);
        let _senders = [
            Sender::start(scope, outside4, to4, 5555, &ended),
            Sender::start(scope, outside6, to6, 5555, &ended),
            Sender::start(scope, outside4, other, 5556, &ended),
        ];
        wait::until_true("the flows are tracked", wait::LONG, || {
            flows(&host, 9000).len() == 2 && flows(&host, 9001).len() == 1
        });
        let emperor = ini()
            .lines(&SET_UP)
            .line("tuntap-router-port = udp 9000 192.168.0.2:53")
            .line("tuntap-router-port = udp 9000 [fd00:77::2]:53")
            .start_in(host);
        let v1 = emperor.start_vassal(&vassal_at("v1", V1, V1_IPV6));
        assert_heard(&v1, SocketAddr::from((V1, 53)));
        assert_heard(&v1, SocketAddr::from((ip(V1_IPV6), 53)));

        // The port gets another target.
        emperor.add(&vassal_at("v2", V2, V2_IPV6));
        let mark = reload_with(&emperor, |text| {
            text.replace("9000 192.168.0.2:53", "9000 192.168.0.3:54").replace("[fd00:77::2]", "[fd00:77::3]")
        });
        emperor.wait_until_ready(mark, "v2");
        let v2 = emperor.vassal_net("v2");
        assert_heard(&v2, SocketAddr::from((V2, 54)));
        assert_heard(&v2, SocketAddr::from((ip(V2_IPV6), 53)));

        // The mapping is removed: the host gets the datagrams itself, as it would without this Emperor.
        reload_with(&emperor, |text| {
            let rest: Vec<_> = text.lines().filter(|line| !line.starts_with("tuntap-router-port")).collect();
            rest.join("\n")
        });
        assert_heard(&emperor.netns, to4);
        assert_heard(&emperor.netns, to6);
        assert_heard(&emperor.netns, other);
    });
}

/// Flows of others stay as they are.
#[test]
fn other_flows_go_on() {
    let host = Netns::new();
    let site = Site::around(&host);
    let emperor = ini().lines(&SET_UP).line("tuntap-router-port = udp 9000 192.168.0.2:53").start_in(host);
    let mut world = World { emperor, site };
    let net = world.start_vassal(&vassal_at("v1", V1, V1_IPV6));
    let mark = |host: &Net, port| {
        let found = flows(host, port);
        assert_eq!(found.len(), 1, "{found:?}");
    };
    // These flows go from a vassal to that port of another host, and from the host to another port.
    let asking = net.run(|| UdpSocket::bind("0.0.0.0:6000")).expect("free");
    asking.send_to(b"x", (ip(crate::world::OUTSIDE_IPV4), 9000)).expect("there is a way");
    let own = world.netns.run(|| UdpSocket::bind("0.0.0.0:6001")).expect("free");
    own.send_to(b"x", (ip(crate::world::OUTSIDE_IPV4), 9001)).expect("there is a way");
    wait::until_true("both are tracked", wait::LONG, || {
        flows(&world.netns, 9000).len() == 1 && flows(&world.netns, 9001).len() == 1
    });
    reload(&world);
    mark(&world.netns, 9000);
    mark(&world.netns, 9001);
    assert!(world.emperor.exit_status().is_none());
}
