//! What a kernel sends by itself on a link with IPv6 disturbs nothing. tests/ipv6 has what passes.

use crate::common::emperor::{EMPEROR, V1};
use crate::common::packet;
use crate::common::probe::is_reachable;
use crate::common::uwsgi::Subject;
use crate::common::wait;
use crate::pairs::{Pair, Router, cases};

cases!(router_solicitation_claims_nothing, Router: c ours);
cases!(vassal_with_ipv6_keeps_its_network, Pair: c_c c_ours ours_c ours_ours);

fn router_solicitation_claims_nothing(router: Router) {
    let emperor = router.emperor().start();
    let mut peer = emperor.connect();
    peer.send_packet(&packet::ipv6_router_solicitation());
    if router.is_ours() {
        assert!(peer.echo(V1, EMPEROR, wait::SHORT), "the peer claims its address with IPv4");
        peer.send_packet(&packet::ipv6_router_solicitation());
        assert!(peer.echo(V1, EMPEROR, wait::SHORT));
        let stats = emperor.stats();
        assert_eq!(stats.drops("invalid_source"), 2);
        assert_eq!(stats.drops_of(V1, "invalid_source"), 2);
    } else {
        // The packet has zeros where IPv4 has its source, for which the C router ends the peer.
        assert!(peer.is_closed(wait::SHORT));
    }
}

fn vassal_with_ipv6_keeps_its_network(pair: Pair) {
    let emperor = pair.emperor().start();
    let vassal = pair.vassal("v1", V1).with_ipv6().without_ping();
    if (pair.router, pair.vassal) == (Subject::C, Subject::C) {
        emperor.add(&vassal);
        emperor.log.wait_for("tuntap server disconnected...", wait::LONG);
        return;
    }
    let net = emperor.start_vassal(&vassal);
    wait::until_true("the kernel has sent IPv6", wait::LONG, || {
        let sent = net.sh("cat /proc/net/snmp6");
        sent.lines().any(|line| line.starts_with("Icmp6OutMsgs") && !line.ends_with("\t0"))
    });
    assert!(is_reachable(&net, EMPEROR));
    assert!(is_reachable(&emperor.netns, V1));
    assert_eq!(emperor.vassal_pid("v1").map(|_| ()), Some(()), "the vassal was not started anew");
}
