//! The table of flows: who fills it, and who pays for that.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use tuntap_api::control::{FlowFilter, FlowList, FlowOrder, Killed, Request, Status};

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::link::Connection;
use crate::common::netns::Net;
use crate::common::wait;
use crate::world::{Control, Datagrams, V1_6, V2_6, closed_emperor, connects, emperor, vassal};

/// Sends datagrams to ports and addresses that nobody listens on, until so many were taken.
fn scan(net: &Net, targets: impl Fn(u32) -> Ipv4Addr, count: u32) {
    let socket = net.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a socket");
    for number in 0..count {
        let port = u16::try_from(1024 + number % 60_000).expect("a port");
        // Errors are ICMP messages about earlier ones.
        let _ = socket.send_to(b"x", SocketAddr::new(targets(number / 60_000).into(), port));
    }
}

fn flows_of(control: &mut Control, address: impl Into<IpAddr>) -> FlowList {
    let filter = FlowFilter { address: Some(address.into().to_string()), ..FlowFilter::default() };
    control.ask(&Request::FlowsList { filter, order: FlowOrder::Top, limit: Some(10) })
}

/// A million ports of the outside, and all of a neighbour's: connections of others live on, where only a flow lets their
/// packets pass.
#[test]
fn scanning_vassal_evicts_nobody_elses_flow() {
    let emperor = closed_emperor()
        .lines(&["tuntap-router-max-flows = 2048", "tuntap-router-max-flows-per-peer = 512"])
        .line("exec-as-root = ip route replace unreachable 203.0.113.0/24")
        .start();
    let honest = emperor.start_attached(&vassal("v1", V1, V1_6));
    let scanner = emperor.start_attached(&vassal("v2", V2, V2_6));
    let mut stream = Connection::open(&honest, &emperor.netns, EMPEROR);
    let datagrams = Datagrams::new(&honest, V1, &emperor.netns, EMPEROR);
    assert!(datagrams.pass_out() && datagrams.pass_in());
    scan(&scanner, |block| Ipv4Addr::new(203, 0, 113, u8::try_from(block).expect("few")), 1_000_000);
    scan(&scanner, |_| V1, 60_000);
    stream.assert_passes();
    assert!(datagrams.pass_in(), "the answer to a datagram of before the scan");
    let mut control = Control::open(&emperor);
    let status: Status = control.ask(&Request::Status {});
    assert!(status.flows <= 2048 && status.max_flows == 2048, "{status:?}");
    let list = flows_of(&mut control, V2);
    assert!(list.matching > 400 && list.matching <= 512, "it has its share and no more: {}", list.matching);
}

#[test]
fn killed_flow_begins_anew() {
    let emperor = closed_emperor().start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let datagrams = Datagrams::new(&net, V1, &emperor.netns, EMPEROR);
    assert!(datagrams.pass_out() && datagrams.pass_in());
    let mut control = Control::open(&emperor);
    let port = datagrams.near.local_addr().expect("bound").port();
    let filter = FlowFilter { port: Some(port), ..FlowFilter::default() };
    let killed: Killed = control.ask(&Request::FlowsKill { filter: filter.clone() });
    assert_eq!(killed.flows, 1);
    assert!(!datagrams.pass_in(), "it comes as a new connection now");
    assert!(datagrams.pass_out() && datagrams.pass_in());
    assert!(control.try_ask::<Killed>(&Request::FlowsKill { filter: FlowFilter::default() }).is_err());
}

/// The list tells whose a flow is, what became of it, and by which rule.
#[test]
fn flows_are_told_with_their_verdicts() {
    let emperor = closed_emperor().start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut stream = Connection::open(&net, &emperor.netns, EMPEROR);
    stream.assert_passes();
    assert!(!connects(&emperor.netns, &net, V1, 7031));
    let mut control = Control::open(&emperor);
    let check = |control: &mut Control, what: &str| {
        let list = flows_of(control, V1);
        let tcp: Vec<_> = list.flows.iter().filter(|flow| flow.protocol == 6).collect();
        let open = tcp.iter().find(|flow| flow.local_port != 7031).unwrap_or_else(|| panic!("{what}: {list:?}"));
        assert_eq!(
            (open.state.as_str(), open.verdict_in.as_deref()),
            ("established", Some("allow")),
            "{what}: {open:?}"
        );
        assert!(open.packets_out > 2 && open.packets_in > 2 && open.bytes_in > 5000, "{what}: {open:?}");
        assert_eq!(u64::try_from(open.peer), Ok(emperor.stats().of_peer(V1, "pid")), "{what}");
    };
    check(&mut control, "at first");
    let list = flows_of(&mut control, V1);
    let refused = list.flows.iter().find(|flow| flow.local_port == 7031).expect("the attempt from outside");
    assert_eq!((refused.verdict_in.as_deref(), refused.state.as_str()), (Some("deny"), "new"));
    emperor.kill_router();
    stream.assert_passes();
    wait::until_true("the vassal is back", wait::LONG, || emperor.stats().peer(V1).is_some());
    let mut control = Control::open(&emperor);
    check(&mut control, "after a death");
    drop(emperor);
}

/// Without limits in the options the table is large enough for a busy host.
#[test]
fn limits_have_defaults() {
    let emperor = emperor().start();
    let status: Status = Control::open(&emperor).ask(&Request::Status {});
    assert!(status.max_flows >= 65_536, "{status:?}");
}

/// The operator wants more flows than the machine, or a limit of the instance, has memory for.
#[test]
fn router_without_memory_for_all_flows_knows_fewer() {
    const WANTED: u64 = 4 << 20;
    let emperor = emperor().line(format!("tuntap-router-max-flows = {WANTED}")).line("limit-as = 1280").start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    Connection::open(&net, &emperor.netns, EMPEROR).assert_passes();
    let status: Status = Control::open(&emperor).ask(&Request::Status {});
    assert!(status.max_flows < WANTED && status.max_flows >= 1024, "{status:?}");
    emperor.log.wait_for(&format!("there is no memory for {WANTED} flows"), wait::LONG);
}
