//! Limits for what vassals exchange with hosts beyond the host's interface towards the internet.

use std::net::{IpAddr, Ipv4Addr};

use tuntap_api::control::{Direction, FlowEntry, FlowFilter, FlowList, FlowOrder, Request, TestPacket, Tested};

use crate::common::control::Control;
use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1};
use crate::common::netns::Netns;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::flood::{rates, rates_of_answers};
use crate::world::{assert_rate, host, start};

const HOST_OUTSIDE: &str = "203.0.113.1/24";
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// An Emperor with this limit, and a namespace that its vassals reach by NAT.
fn emperor(shape: &str) -> (Emperor, Netns) {
    let (near, outside) = (Netns::new(), Netns::new());
    near.join(HOST_OUTSIDE, &outside, &format!("{OUTSIDE}/24"));
    let emperor = EmperorIni::new(Uwsgi::usual(), Subject::Ours)
        .router("")
        .lines(&["tuntap-router = emperor0 {dir}/t.sock {dir}/stats.sock", "tuntap-router-address = 192.168.0.1/24"])
        .lines(&["tuntap-router-nat = veth0", "tuntap-router-host = allow udp"])
        .line(format!("tuntap-router-shape = {shape}"))
        .lines(&["chmod-socket = 666", "tuntap-use-credentials = true"])
        .start_in(near);
    (emperor, outside)
}

/// The vassal's flow of UDP with this address.
fn flow_with(emperor: &Emperor, remote: Ipv4Addr) -> FlowEntry {
    let filter = FlowFilter { protocol: Some("udp".to_owned()), ..FlowFilter::default() };
    let asked = Request::FlowsList { filter, order: FlowOrder::Top, limit: None };
    let flows: FlowList = Control::open(emperor).ask(&asked);
    let found = flows.flows.into_iter().find(|flow: &FlowEntry| flow.remote == IpAddr::from(remote));
    found.unwrap_or_else(|| panic!("no flow with {remote}"))
}

/// Whose limits `uwsgi-tuntap test` names for a packet from or towards the vassal.
fn limits_of(emperor: &Emperor, direction: Direction, remote: Ipv4Addr) -> Vec<(String, String)> {
    let (src, dst) = if direction == Direction::Out { (V1, remote) } else { (remote, V1) };
    let packet = TestPacket {
        direction,
        src: src.into(),
        dst: dst.into(),
        protocol: Some("udp".to_owned()),
        src_port: Some(40_000),
        dst_port: Some(9),
        peer: None,
        state: None,
    };
    let tested: Tested = Control::open(emperor).ask(&Request::Test { packet });
    let limits = tested.steps.into_iter().filter(|step| step.stage.starts_with("limit"));
    limits.map(|step| (step.stage, step.result)).collect()
}

/// The router asks the kernel for the route to each new host, from inside its sandbox.
#[test]
fn internet_is_limited_and_the_host_is_not() {
    let (emperor, outside) = emperor("out internet 2M");
    let net = start(&emperor, "one", V1, 20001);
    let router = emperor.router_pid();
    let vassal = (&net, IpAddr::from(V1));
    let [beyond, own] = rates([(vassal, (&outside, OUTSIDE.into())), (vassal, host(&emperor))]);
    assert_rate("to the internet", beyond, 2e6, own);
    assert!(own > 2.0 * beyond, "to the host {own:.0}, to the internet {beyond:.0}");
    assert_eq!(flow_with(&emperor, OUTSIDE).limit_out.as_deref(), Some("internet"));
    assert_eq!(flow_with(&emperor, EMPEROR).limit_out, None);
    let limits = [("limit-out".to_owned(), "internet".to_owned())];
    assert_eq!(limits_of(&emperor, Direction::Out, OUTSIDE), limits);
    assert_eq!(limits_of(&emperor, Direction::Out, EMPEROR), []);
    assert_eq!(limits_of(&emperor, Direction::In, OUTSIDE), []);
    let stats = emperor.stats();
    assert_eq!((stats.router_pid(), &stats.0["sandbox"]["seccomp"]), (router, &true.into()), "no syscall was denied");
}

/// What comes are answers to what the vassal has asked: nobody outside knows its address.
#[test]
fn answers_from_the_internet_are_limited_and_those_of_the_host_are_not() {
    let (emperor, outside) = emperor("in internet 2M");
    let net = start(&emperor, "one", V1, 20001);
    let vassal = (&net, IpAddr::from(V1));
    let [beyond, own] = rates_of_answers([((&outside, OUTSIDE.into()), vassal), (host(&emperor), vassal)]);
    assert_rate("from the internet", beyond, 2e6, own);
    assert!(own > 2.0 * beyond, "from the host {own:.0}, from the internet {beyond:.0}");
    let (far, near) = (flow_with(&emperor, OUTSIDE), flow_with(&emperor, EMPEROR));
    assert_eq!((far.limit_in.as_deref(), far.limit_out), (Some("internet"), None));
    assert_eq!((near.limit_in, near.limit_out), (None, None));
}
