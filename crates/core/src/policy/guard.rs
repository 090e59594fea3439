//! What no peer may have and where no packet of a peer may go, whatever rules and routes say: addresses that are somebody
//! else's, gateways of routers, and destinations that are no host's.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

use super::account::ROOT;
use super::drops::DropReason;
use super::grant::{Grants, Identity};
use super::pool::Pool;
use super::prefix_map::PrefixSet;
use super::targets::TargetRange;
use tuntap_wire::autoconf::{is_host, is_reserved};
use tuntap_wire::ip::{Packet, is_unicast, protocol};

/// Port of DNS servers, on hosts of which nobody has said where their gateway is.
const DNS_PORT: u16 = 53;

/// Protocols whose packets a kernel may unpack and take for packets of their own: IP in IP (RFC 2003), IPv6 in IP (RFC 4213)
/// and GRE (RFC 2784).
const ENCAPSULATION: [u8; 3] = [4, 41, 47];

/// Which addresses peers may claim.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClaimScope {
    /// Those of the router's networks, and what is leased to them.
    Own,
    /// Any that is nobody's, as far as anybody knows.
    #[default]
    Any,
}

/// What the operator says about it.
#[derive(Debug, Clone, Default)]
pub struct GuardPolicy {
    /// Which addresses peers may claim.
    pub claims: ClaimScope,
    /// Whether the operator has said which network is the vassals'. Then no peer gets an address of the host's, and packets to
    /// destinations that are no host's go nowhere: loopback, multicast, broadcast, link-local of IPv6.
    pub is_strict: bool,
    /// Addresses of all routers of the instance, with the lengths of their networks.
    pub own: Vec<IpNet>,
    /// Where gateways are.
    pub gateways: Gateways,
}

/// Where gateways of routers are, as far as the options tell.
#[derive(Debug, Clone, Default)]
pub struct Gateways {
    exact: HashSet<SocketAddr>,
    /// Bound to all addresses of the host; those of IPv4 only, or of both versions.
    everywhere: Vec<SocketAddr>,
    /// Ranges with a port.
    ranges: Vec<TargetRange>,
    /// Hosts that may have a gateway on any of [`Self::ports`].
    hosts: PrefixSet,
    /// Ports that are named anywhere.
    ports: HashSet<u16>,
    /// Single hosts that have a gateway on a port that is not named anywhere.
    unknown: HashSet<IpAddr>,
    /// Peers that may send to gateways all the same.
    vassals: PrefixSet,
}

impl Gateways {
    /// `own` are the gateways of the instance, `targets` those of its routes, `ranges` those that peers may name, `hosts` where
    /// other routers' datagrams come from, and `vassals` the sources that may send to them.
    pub fn new(
        own: impl IntoIterator<Item = SocketAddr>,
        targets: impl IntoIterator<Item = SocketAddr>,
        ranges: &[TargetRange],
        hosts: &[IpNet],
        vassals: impl IntoIterator<Item = IpNet>,
    ) -> Self {
        let (everywhere, bound): (Vec<_>, Vec<_>) = own.into_iter().partition(|address| address.ip().is_unspecified());
        let exact: HashSet<_> = bound.into_iter().chain(targets).collect();
        let with_port = ranges.iter().filter(|range| range.port.is_some());
        let hosts: Vec<_> = ranges
            .iter()
            .filter(|range| range.port.is_none())
            .map(|range| range.prefix)
            .chain(hosts.iter().copied())
            .collect();
        let ports = exact.iter().chain(&everywhere).map(SocketAddr::port);
        let ports = ports.chain(with_port.clone().filter_map(|range| range.port)).collect();
        let is_known = |host: IpAddr| {
            exact.iter().any(|target| target.ip() == host)
                || with_port.clone().any(|range| range.prefix.contains(&host))
        };
        let singles = hosts.iter().filter(|net| net.prefix_len() == net.max_prefix_len()).map(IpNet::addr);
        Self {
            unknown: singles.filter(|host| !is_known(*host)).collect(),
            ranges: with_port.copied().collect(),
            hosts: hosts.into_iter().collect(),
            vassals: vassals.into_iter().collect(),
            exact,
            everywhere,
            ports,
        }
    }

    /// Whether a datagram from a peer with this address may go to a gateway.
    pub fn may_send(&self, source: IpAddr) -> bool {
        self.vassals.covering(source).next().is_some()
    }

    /// Whether an address is that of a gateway, and not one of many that could be.
    fn are_at(&self, address: IpAddr) -> bool {
        self.exact.iter().any(|target| target.ip() == address) || self.unknown.contains(&address)
    }

    fn is_nowhere(&self) -> bool {
        self.exact.is_empty() && self.everywhere.is_empty() && self.ranges.is_empty() && self.unknown.is_empty()
    }
}

/// The policy together with what is known of the host.
#[derive(Debug)]
pub struct Guard {
    policy: GuardPolicy,
    /// Addresses of the host's interfaces.
    host: HashSet<IpAddr>,
    /// Broadcast addresses of the routers' networks and of the host's, in order.
    broadcasts: Vec<Ipv4Addr>,
}

impl Guard {
    /// Nothing known of the host yet.
    pub fn new(policy: GuardPolicy) -> Self {
        let mut guard = Self { policy, host: HashSet::new(), broadcasts: Vec::new() };
        guard.set_host_addresses([]);
        guard
    }

    /// What the host's interfaces have right now, with the lengths of their networks' prefixes.
    pub fn set_host_addresses(&mut self, addresses: impl IntoIterator<Item = IpNet>) {
        let addresses: Vec<_> = addresses.into_iter().collect();
        self.host = addresses.iter().map(IpNet::addr).collect();
        let networks = addresses.iter().chain(&self.policy.own).filter_map(|net| match net {
            // Networks of one or two addresses have none (RFC 3021).
            IpNet::V4(net) if net.prefix_len() < 31 => Some([net.network(), net.broadcast()]),
            _ => None,
        });
        self.broadcasts = networks.flatten().collect();
        self.broadcasts.sort_unstable();
        self.broadcasts.dedup();
    }

    /// Whether the operator has said which network is the vassals'.
    pub const fn is_strict(&self) -> bool {
        self.policy.is_strict
    }

    /// Whether an address is the host's or a router's own, and no peer gets it, whoever says so. Without a network of the
    /// router's, a device of IPv4 may be in the router's own namespace, as with the C plugin.
    pub fn is_taken(&self, address: IpAddr) -> bool {
        (self.policy.is_strict || address.is_ipv6()) && self.is_hosts(address)
    }

    /// Whether what comes from an address comes from the host itself, even if the kernel names a router's device as its way, as
    /// it does where the device has the address that it goes to. A peer's packets don't: with IPv4 the kernel drops those
    /// that come by a device from an own address of the host, and with IPv6 no peer holds one.
    pub fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.host.contains(&address)
    }

    fn is_hosts(&self, address: IpAddr) -> bool {
        let is_reserved = |net: &IpNet| net.addr() == address || net.contains(&address) && is_reserved(*net, address);
        self.host.contains(&address) || self.policy.own.iter().any(is_reserved)
    }

    /// Whether an address is in a network of a router of the instance, and not the host's.
    pub fn is_vassals(&self, address: IpAddr) -> bool {
        !self.is_hosts(address) && self.policy.own.iter().any(|net| net.contains(&address))
    }

    /// Whether an address is nobody's unless it is leased to him: that of a gateway.
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        self.policy.gateways.are_at(address)
    }

    /// Whether a peer may claim an address by its own choice, if nobody holds it and leases don't keep it for others. What a
    /// port of the host leads to only root claims without a lease, as vassals do that have not dropped their privileges yet.
    pub fn may_claim(&self, address: IpAddr, identity: &Identity, leases: &Grants, pool: &Pool) -> bool {
        if !is_host(address) || self.is_taken(address) {
            return false;
        }
        if leases.is_granted(address, identity) == Some(true) {
            return true;
        }
        if self.is_gateway(address) {
            return false;
        }
        match self.policy.claims {
            ClaimScope::Any => true,
            ClaimScope::Own => pool.is_for_peers(address) && (identity.uid == ROOT || !pool.is_port_target(address)),
        }
    }

    /// The gateways that are known.
    pub const fn gateways(&self) -> &Gateways {
        &self.policy.gateways
    }

    /// Why a packet of a peer goes nowhere, wherever rules and routes would send it.
    pub fn refusal(&self, packet: &Packet<'_>, pool: &Pool) -> Option<DropReason> {
        let dst = packet.dst();
        if self.policy.is_strict && !self.is_host(dst) {
            return Some(DropReason::Destination);
        }
        self.is_for_gateway(packet, dst, pool).then_some(DropReason::ToGateway)
    }

    fn is_host(&self, destination: IpAddr) -> bool {
        is_unicast(destination)
            && match destination {
                IpAddr::V4(address) => self.broadcasts.binary_search(&address).is_err(),
                IpAddr::V6(_) => true,
            }
    }

    /// The first fragment of a datagram has its port, and later ones are nothing without the first: a kernel takes the first
    /// eight bytes from a fragment with the offset 0, which is looked at here, whatever else overlaps it or in whatever order
    /// they come.
    fn is_for_gateway(&self, packet: &Packet<'_>, dst: IpAddr, pool: &Pool) -> bool {
        let gateways = &self.policy.gateways;
        let protocol = packet.protocol();
        let is_datagram = matches!(protocol, protocol::UDP | protocol::UDPLITE);
        if !is_datagram && !ENCAPSULATION.contains(&protocol) || gateways.is_nowhere() {
            return false;
        }
        let dst = dst.to_canonical();
        let is_for_gateway = if is_datagram {
            self.has_gateway(dst, packet.destination_port(), pool)
        } else {
            gateways.are_at(dst) || !gateways.everywhere.is_empty() && self.is_own(dst)
        };
        is_for_gateway && !gateways.may_send(packet.src())
    }

    fn has_gateway(&self, dst: IpAddr, port: Option<u16>, pool: &Pool) -> bool {
        let gateways = &self.policy.gateways;
        if gateways.unknown.contains(&dst) && port != Some(DNS_PORT) {
            return true;
        }
        let Some(port) = port.filter(|port| gateways.ports.contains(port)) else { return false };
        let is_bound = |own: &SocketAddr| own.port() == port && (own.is_ipv6() || dst.is_ipv4());
        gateways.exact.contains(&SocketAddr::new(dst, port))
            || gateways.everywhere.iter().any(is_bound) && self.is_own(dst)
            || gateways.ranges.iter().any(|range| range.port == Some(port) && range.prefix.contains(&dst))
            || gateways.hosts.covering(dst).next().is_some() && !pool.is_for_peers(dst)
    }

    /// Whether the host's kernel keeps what goes there: packets to loopback and to the unspecified address, too, where it lets
    /// them in.
    fn is_own(&self, dst: IpAddr) -> bool {
        self.is_hosts(dst) || dst.is_loopback() || dst.is_unspecified() || dst.is_multicast() || !self.is_host(dst)
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
