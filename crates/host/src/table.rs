//! The nftables table of a router: masquerading, port mappings, MSS clamping, and the protection of the host against
//! vassals.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::limits::Limits;
use super::protection;
use tuntap_config::{PortMapping, PortProtocol, RouterSpec};
use tuntap_sys::netlink::nftables::{Chain, Hook, NftRule, Table, Transport};
use tuntap_wire::ip::protocol;

/// The comment of rules for packets that would leave with an address of a vassal.
const UNTRANSLATED: &str = "addresses that are not translated";

/// The chain with the port mappings.
const PORTS: &str = "ports";

/// Prefix lengths of the loopback addresses, 127.0.0.0/8 and ::1.
const IPV4_LOOPBACK_LEN: u8 = 8;
const IPV6_LOOPBACK_LEN: u8 = 128;

/// The chains that check new connections from outside, and the sources of what goes out.
const INWARD: &str = "inward";
const OUTWARD: &str = "outward";

/// How much of a table is made. Kernels that are older, or have fewer modules, can't make all of it. Protection was added in
/// later versions, so that a set-up that worked before goes on working there without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Everything.
    Whole,
    /// Without limits on connections.
    WithoutLimits,
    /// Without limits and protection of the host: only masquerading and ports.
    WithoutProtection,
}

impl Extent {
    /// All extents, the largest first.
    pub const ALL: [Self; 3] = [Self::Whole, Self::WithoutLimits, Self::WithoutProtection];
}

/// The table of a router; `None` if it needs none.
pub fn of(router: &RouterSpec, extent: Extent) -> Option<Table> {
    let is_protected = !router.addresses.is_empty() && extent != Extent::WithoutProtection;
    if router.nat.is_empty() && router.ports.is_empty() && !is_protected {
        return None;
    }
    let is_limited = is_protected && extent == Extent::Whole;
    let limits = if is_limited { Limits::of(router) } else { Limits::default() };
    let mut chains = Vec::new();
    if !router.nat.is_empty() {
        let stranger = NftRule::new().of_no_connection().is_not_dnat().discard();
        // A vassal of another host comes from where the kernel has a route to it.
        let inward = among_hosts(router).map(|rule| rule.came_by_way_back().leave()).chain([stranger]);
        chains.push(chain(INWARD, None, inward.collect()));
        chains.push(chain(OUTWARD, None, among_hosts(router).map(NftRule::leave).chain(own_sources(router)).collect()));
    }
    if is_protected {
        chains.extend(protection::targets(router));
    }
    chains.extend(limits.targets());
    let mut forward = clamped_mss(&router.device);
    if is_protected {
        forward.extend(protection::of_forwarded(router));
    }
    forward.extend(ways(router));
    forward.extend(limits.of_forwarded(router));
    chains.push(chain("forward", Some(Hook::ForwardMangle), forward));
    if is_protected {
        chains.push(chain("input", Some(Hook::InputMangle), protection::of_input(router)));
    }
    let arriving = limits.of_arriving(router);
    if !arriving.is_empty() {
        chains.push(chain("arrival", Some(Hook::PreroutingMangle), arriving));
    }
    let fragments = limits.of_fragments(router);
    if !fragments.is_empty() {
        chains.push(chain("fragments", Some(Hook::PreroutingBeforeDefrag), fragments));
    }
    let masquerading = masquerading(router);
    if !masquerading.is_empty() {
        chains.push(chain("postrouting", Some(Hook::PostroutingNat), masquerading));
    }
    if !router.nat.is_empty() {
        chains.push(chain("departure", Some(Hook::PostroutingLast), leaks(router)));
    }
    if !router.ports.is_empty() {
        chains.push(chain(PORTS, None, mappings(&router.ports)));
        chains.push(chain("prerouting", Some(Hook::PreroutingNat), vec![NftRule::new().jump(PORTS)]));
        chains.push(chain("output", Some(Hook::OutputNat), vec![NftRule::new().jump(PORTS)]));
    }
    Some(Table { name: router.table_name(), sets: limits.into_sets(), chains })
}

/// A chain.
pub(super) fn chain(name: &'static str, hook: Option<Hook>, rules: Vec<NftRule>) -> Chain {
    Chain { name, hook, rules }
}

/// Checks what passes between the device and the interfaces that masquerade it. Otherwise, an interface that forwards would
/// let everybody beyond it open connections to the vassals without a mapping.
fn ways(router: &RouterSpec) -> impl Iterator<Item = NftRule> {
    router.nat.iter().flat_map(|interface| {
        [
            NftRule::new().iif(interface).oif(&router.device).jump(INWARD),
            NftRule::new().iif(&router.device).oif(interface).jump(OUTWARD),
        ]
    })
}

/// Rules for packets between vassals of this host and those of others. All of them are in one network, and their addresses stay as they
/// are: where an interface that masquerades leads to another host's vassal, the kernel has a route to it alone.
fn among_hosts(router: &RouterSpec) -> impl Iterator<Item = NftRule> {
    let nets = router.addresses.iter().filter(|_| router.hosts.routes.is_some());
    nets.map(|net| NftRule::new().from(*net).to(*net))
}

/// Drops what would go out with a source that is not masqueraded: sources of other networks, sources of a family that the
/// router has no address of, and packets whose addresses the kernel doesn't translate.
fn own_sources(router: &RouterSpec) -> Vec<NftRule> {
    let untranslated = NftRule::new().is_never_translated().count().because(UNTRANSLATED).discard();
    let own = router.addresses.iter().map(|net| NftRule::new().from(*net).leave());
    let strange = NftRule::new().count().because("sources outside of the router's networks").discard();
    [untranslated].into_iter().chain(own).chain([strange]).collect()
}

/// Drops what still has a vassal's source after masquerading: packets of connections that began before the table was made,
/// and packets that this host itself sends.
fn leaks(router: &RouterSpec) -> Vec<NftRule> {
    let by_all = router.nat.iter().flat_map(|interface| {
        router.addresses.iter().map(|net| NftRule::new().oif(interface).from(*net).count().because(UNTRANSLATED))
    });
    among_hosts(router).map(NftRule::leave).chain(by_all.map(NftRule::discard)).collect()
}

/// Clamps the MSS of TCP connections across the device to what the routes of both directions carry.
fn clamped_mss(device: &str) -> Vec<NftRule> {
    [NftRule::new().iif(device), NftRule::new().oif(device)].map(|rule| rule.opens_tcp().clamp_mss()).into()
}

/// Gives packets of vassals the address of the interface by which they leave. That also applies to the router's own device,
/// for vassals that reach a vassal of the same router by a port of the host. Otherwise the answer would bypass the host, or
/// not even leave a vassal that has reached itself, and would come from another address than the one that was asked.
fn masquerading(router: &RouterSpec) -> Vec<NftRule> {
    let to_others = || router.nat.iter().map(|interface| NftRule::new().oif(interface));
    let (first, last) = ports_beside_gateways(router);
    let datagrams = to_others().filter(|_| !router.protection.own_gateways.is_empty()).flat_map(|rule| {
        let rule = rule.of_protocol(protocol::UDP);
        router.addresses.iter().map(move |net| rule.clone().from(*net).masquerade_with_port(first, last))
    });
    let back = (!router.ports.is_empty()).then(|| NftRule::new().oif(&router.device).is_dnat());
    let rules = to_others()
        .chain(back)
        .flat_map(|rule| router.addresses.iter().map(move |net| rule.clone().from(*net).masquerade()));
    let to_hosts = router.nat.iter().flat_map(|name| among_hosts(router).map(move |rule| rule.oif(name).leave()));
    to_hosts.chain(datagrams).chain(rules).collect()
}

/// The longest range of unprivileged ports without the port of one of the instance's gateways. A vassal's datagram to
/// another router, with the port of a gateway as its source, would make connection tracking lead that router's datagrams to
/// the vassal.
fn ports_beside_gateways(router: &RouterSpec) -> (u16, u16) {
    const FIRST: u16 = 1024;
    let mut taken: Vec<u16> = router.protection.own_gateways.iter().map(SocketAddr::port).collect();
    taken.retain(|port| *port >= FIRST);
    taken.sort_unstable();
    let starts = std::iter::once(FIRST).chain(taken.iter().map(|port| port.saturating_add(1)));
    let ends = taken.iter().map(|port| port - 1).chain([u16::MAX]);
    starts.zip(ends).max_by_key(|(start, end)| end.saturating_sub(*start)).unwrap_or((FIRST, u16::MAX))
}

/// The loopback addresses of both families.
pub(super) fn loopback() -> [IpNet; 2] {
    [
        IpNet::new_assert(Ipv4Addr::LOCALHOST.into(), IPV4_LOOPBACK_LEN),
        IpNet::new_assert(Ipv6Addr::LOCALHOST.into(), IPV6_LOOPBACK_LEN),
    ]
}

/// The rules of the port mappings. Packets for other hosts and for loopback addresses are left alone.
fn mappings(ports: &[PortMapping]) -> Vec<NftRule> {
    let exceptions =
        [NftRule::new().to_others().leave()].into_iter().chain(loopback().map(|net| NftRule::new().to(net).leave()));
    let mappings = ports.iter().map(|PortMapping { protocol, port, target }| {
        let transport = match protocol {
            PortProtocol::Tcp => Transport::Tcp,
            PortProtocol::Udp => Transport::Udp,
        };
        let address: IpAddr = target.ip();
        NftRule::new().of_family(address).to_port(transport, *port).dnat(*target)
    });
    exceptions.chain(mappings).collect()
}
