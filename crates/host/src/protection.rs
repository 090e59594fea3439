//! Protection of the host: what its vassals can't reach. These are its own services, except those that options open;
//! link-local addresses, where clouds have their metadata services; and gateways, which would take a vassal's datagrams for
//! another router's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::table::{chain, loopback};
use tuntap_config::{HostRule, RouterSpec};
use tuntap_sys::netlink::nftables::{Chain, Family, NftRule, Rejection, Transport};
use tuntap_wire::ip::protocol;
use tuntap_wire::selector::Protocol;

/// The chain that refuses packets and tells their senders.
const REFUSE: &str = "refuse";
/// The chain that drops datagrams to gateways.
const GATEWAYS: &str = "gateways";
/// The chain that decides about connections to the host's own addresses.
const SERVICES: &str = "services";
/// The chain that decides about link-local addresses that the host itself has.
const LOCAL_LINK: &str = "local-link";
/// The chain that decides about new connections to addresses of others.
const NEIGHBOURS: &str = "neighbours";

/// The port of DNS (RFC 1035).
const DNS_PORT: u16 = 53;

/// Link-local addresses (RFC 3927, RFC 4291), and those by which two clouds offer with IPv6 what is at 169.254.169.254 with
/// IPv4: Amazon's EC2 and Google's.
const LINK_LOCAL: [(IpAddr, u8); 4] = [
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), 128),
    (IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), 128),
];

/// Comments of rules that count. The lines in the log have them, too.
pub const HOST: &str = "services of the host that tuntap-router-host doesn't open";
pub const LINK: &str = "link-local addresses and metadata services";
pub const DENIED: &str = "what tuntap-router-host denies";
pub const GATEWAY: &str = "datagrams to gateways";
pub const STRANGER: &str = "sources that are nobody's here, to the host";
pub const NOT_UNICAST: &str = "loopback, broadcast and multicast addresses of the host";

/// The chains that other chains jump to.
pub fn targets(router: &RouterSpec) -> Vec<Chain> {
    let refuse = vec![
        NftRule::new().of_protocol(protocol::TCP).reject(Rejection::TcpReset),
        NftRule::new().reject(Rejection::PortUnreachable),
        NftRule::new().discard(),
    ];
    let mut chains = vec![
        chain(REFUSE, None, refuse),
        chain(LOCAL_LINK, None, link(router, NftRule::accept)),
        chain(SERVICES, None, services(router)),
    ];
    if has_gateways(router) {
        chains.push(chain(GATEWAYS, None, gateways(router)));
    }
    chains.push(chain(NEIGHBOURS, None, link(router, NftRule::leave)));
    chains
}

fn has_gateways(router: &RouterSpec) -> bool {
    !(router.protection.gateways.is_empty() && router.protection.own_gateways.is_empty())
}

/// Rules for what comes in by the device and is for the host itself.
pub fn of_input(router: &RouterSpec) -> Vec<NftRule> {
    let came = || NftRule::new().iif(&router.device);
    let mut rules = Vec::new();
    rules.extend(has_gateways(router).then(|| came().jump(GATEWAYS)));
    rules.extend(loopback().map(|net| came().to(net).count().because(NOT_UNICAST).discard()));
    rules.push(came().to_others().count().because(NOT_UNICAST).discard());
    // These are answers to connections of the host.
    rules.push(came().of_known_connection().accept());
    if router.protection.any_source {
        rules.push(came().jump(SERVICES));
    } else {
        let granted = router.addresses.iter().chain(&router.protection.leased);
        rules.extend(granted.map(|net| came().from(net.trunc()).jump(SERVICES)));
        rules.push(came().count().because(STRANGER).discard());
    }
    rules
}

/// Rules for what comes in by the device and is for others.
pub fn of_forwarded(router: &RouterSpec) -> Vec<NftRule> {
    let came = || NftRule::new().iif(&router.device);
    let mut rules = Vec::new();
    rules.extend(has_gateways(router).then(|| came().jump(GATEWAYS)));
    rules.push(came().of_no_connection().jump(NEIGHBOURS));
    rules
}

/// The rules for the host's services. Every packet is accepted or refused.
fn services(router: &RouterSpec) -> Vec<NftRule> {
    // Rules that open services of the host don't apply to link-local addresses, even if the host has such an address.
    let mut rules: Vec<_> = link_local().map(|net| NftRule::new().to(net).jump(LOCAL_LINK)).into();
    rules.extend(router.protection.rules.iter().flat_map(|rule| decide(rule, NftRule::accept)));
    rules.extend(Family::ALL.map(|family| NftRule::new().is_echo_request(family).accept()));
    rules.extend(router.dns.iter().flat_map(|server| {
        [Transport::Udp, Transport::Tcp]
            .map(|transport| NftRule::new().to(IpNet::from(*server)).to_port(transport, DNS_PORT).accept())
    }));
    rules.push(NftRule::new().count().because(HOST).jump(REFUSE));
    rules
}

/// The rules for link-local addresses. The operator's rules only apply to them if they name an address.
fn link(router: &RouterSpec, allow: fn(NftRule) -> NftRule) -> Vec<NftRule> {
    let named = router.protection.rules.iter().filter(|rule| rule.to.is_some());
    let mut rules: Vec<_> = named.flat_map(|rule| decide(rule, allow)).collect();
    rules.extend(link_local().map(|net| NftRule::new().to(net).count().because(LINK).jump(REFUSE)));
    rules
}

/// The nftables rules of an operator's rule (tuntap-router-host). ICMP is two protocols, one for each version of IP.
fn decide(rule: &HostRule, allow: fn(NftRule) -> NftRule) -> Vec<NftRule> {
    let HostRule { allow: is_allowed, to, service } = *rule;
    let to = to.map_or_else(NftRule::new, |net| NftRule::new().to(net));
    let protocols = match service.map(|service| service.protocol) {
        None => Vec::new(),
        Some(Protocol::Icmp) => vec![protocol::ICMP, protocol::ICMPV6],
        Some(Protocol::Number(number)) => vec![number],
    };
    let ports = service.and_then(|service| service.ports);
    let of_protocol = |number| {
        let rule = to.clone().of_protocol(number);
        ports.map_or(rule.clone(), |ports| {
            let (first, last) = ports.bounds();
            rule.to_ports(first, last)
        })
    };
    let conditions = if protocols.is_empty() { vec![to] } else { protocols.into_iter().map(of_protocol).collect() };
    conditions
        .into_iter()
        .map(|rule| if is_allowed { allow(rule) } else { rule.count().because(DENIED).jump(REFUSE) })
        .collect()
}

/// The rules for gateways. A gateway trusts addresses, that of this host among them, and takes datagrams from them for
/// packets of another router's vassals.
fn gateways(router: &RouterSpec) -> Vec<NftRule> {
    let own = || {
        router.protection.own_gateways.iter().map(|gateway| match gateway {
            SocketAddr::V4(gateway) if gateway.ip().is_unspecified() => NftRule::new()
                .of_family(gateway.ip().to_owned().into())
                .to_this_host()
                .to_port(Transport::Udp, gateway.port()),
            SocketAddr::V6(gateway) if gateway.ip().is_unspecified() => {
                NftRule::new().to_this_host().to_port(Transport::Udp, gateway.port())
            }
            _ => NftRule::new().to(gateway.ip().into()).to_port(Transport::Udp, gateway.port()),
        })
    };
    let others = router
        .protection
        .gateways
        .iter()
        .filter_map(|gateway| Some(NftRule::new().to(gateway.prefix).to_port(Transport::Udp, gateway.port?)));
    let exempt = router.protection.gateway_vassals.iter().flat_map(|net| {
        // The own gateways have ports of the host, which no other rule opens.
        own().map(|rule| rule.from(*net).accept()).chain([NftRule::new().from(*net).leave()])
    });
    exempt.chain(own().chain(others).map(|rule| rule.count().because(GATEWAY).discard())).collect()
}

fn link_local() -> [IpNet; 4] {
    LINK_LOCAL.map(|(address, len)| IpNet::new_assert(address, len))
}
