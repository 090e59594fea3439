//! Limits for what vassals exchange with hosts beyond the host's interface towards the internet.

use std::net::{IpAddr, Ipv4Addr};

use tuntap_api::control::{FlowEntry, FlowFilter, FlowList, FlowOrder, Request};

use crate::common::control::Control;
use crate::common::emperor::{EMPEROR, EmperorIni, V1};
use crate::common::netns::Netns;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::flood::rates;
use crate::world::{assert_rate, host, start};

const HOST_OUTSIDE: &str = "203.0.113.1/24";
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// The router asks the kernel for the route to each new host, from inside its sandbox.
#[test]
fn internet_is_limited_and_the_host_is_not() {
    let (near, outside) = (Netns::new(), Netns::new());
    near.join(HOST_OUTSIDE, &outside, &format!("{OUTSIDE}/24"));
    let emperor = EmperorIni::new(Uwsgi::usual(), Subject::Ours)
        .router("")
        .lines(&["tuntap-router = emperor0 {dir}/t.sock {dir}/stats.sock", "tuntap-router-address = 192.168.0.1/24"])
        .lines(&["tuntap-router-nat = veth0", "tuntap-router-host = allow udp"])
        .line("tuntap-router-shape = out internet 2M")
        .lines(&["chmod-socket = 666", "tuntap-use-credentials = true"])
        .start_in(near);
    let net = start(&emperor, "one", V1, 20001);
    let router = emperor.router_pid();
    let vassal = (&net, IpAddr::from(V1));
    let [beyond, own] = rates([(vassal, (&outside, OUTSIDE.into())), (vassal, host(&emperor))]);
    assert_rate("to the internet", beyond, 2e6, own);
    assert!(own > 2.0 * beyond, "to the host {own:.0}, to the internet {beyond:.0}");
    let limit_to = |remote: IpAddr| {
        let filter = FlowFilter { protocol: Some("udp".to_owned()), ..FlowFilter::default() };
        let asked = Request::FlowsList { filter, order: FlowOrder::Top, limit: None };
        let flows: FlowList = Control::open(&emperor).ask(&asked);
        let found = flows.flows.into_iter().find(|flow: &FlowEntry| flow.remote == remote);
        found.unwrap_or_else(|| panic!("no flow with {remote}")).limit_out
    };
    assert_eq!(limit_to(OUTSIDE.into()).as_deref(), Some("internet"));
    assert_eq!(limit_to(EMPEROR.into()), None);
    let stats = emperor.stats();
    assert_eq!((stats.router_pid(), &stats.0["sandbox"]["seccomp"]), (router, &true.into()), "no syscall was denied");
}
