//! Addresses that no peer may hold and destinations that no packet of a peer may reach, whatever rules and routes say:
//! addresses of others, gateways of routers, and destinations that are not unicast.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

use super::account::ROOT;
use super::drops::DropReason;
use super::grant::{Grants, Identity};
use super::pool::Pool;
use super::prefix_map::PrefixSet;
use super::targets::TargetRange;
use tuntap_wire::autoconf::{is_claimable, is_reserved};
use tuntap_wire::ip::{Packet, is_unicast, protocol};

/// Port of DNS servers. It stays reachable on hosts whose gateway has an unknown port.
const DNS_PORT: u16 = 53;

/// Protocols that carry IP packets, which the receiving kernel may decapsulate: IP in IP (RFC 2003), IPv6 in IP (RFC
/// 4213) and GRE (RFC 2784).
const ENCAPSULATION: [u8; 3] = [4, 41, 47];

/// Which addresses peers may claim.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClaimScope {
    /// Addresses of the router's networks, and addresses that are granted to them.
    Own,
    /// Every address that is not known to be in use.
    #[default]
    Any,
}

/// The operator's settings.
#[derive(Debug, Clone, Default)]
pub struct GuardPolicy {
    /// Which addresses peers may claim.
    pub claims: ClaimScope,
    /// True if the operator has named the vassals' network. Then no peer gets an address of the host, and packets to
    /// loopback, multicast, broadcast and link-local addresses of IPv6 are dropped.
    pub is_strict: bool,
    /// Addresses of all routers of the instance, with the prefix lengths of their networks.
    pub own: Vec<IpNet>,
    /// Where gateways are.
    pub gateways: Gateways,
}

/// Where gateways of routers are, as far as the options say.
#[derive(Debug, Clone, Default)]
pub struct Gateways {
    /// Gateways with address and port.
    exact: HashSet<SocketAddr>,
    /// The instance's gateways that are bound to all addresses of the host, of IPv4 or of both versions.
    everywhere: Vec<SocketAddr>,
    /// Ranges of gateways with a port.
    ranges: Vec<TargetRange>,
    /// Hosts that may have a gateway at any of [`Self::ports`].
    hosts: PrefixSet,
    /// All ports of gateways that the options name.
    ports: HashSet<u16>,
    /// Single hosts that have a gateway at a port that no option names.
    unknown: HashSet<IpAddr>,
    /// Peers that may send to gateways nevertheless.
    vassals: PrefixSet,
}

impl Gateways {
    /// `own` are the gateways of the instance, `targets` those of its routes, `ranges` those that peers may name.
    /// `hosts` are the sources of other routers' datagrams, `vassals` the sources that may send to gateways.
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

    /// Returns true if a peer with this address may send datagrams to gateways.
    pub fn may_send(&self, source: IpAddr) -> bool {
        self.vassals.covering(source).next().is_some()
    }

    /// Returns true if an address is known to have a gateway. Addresses in ranges are not.
    fn are_at(&self, address: IpAddr) -> bool {
        self.exact.iter().any(|target| target.ip() == address) || self.unknown.contains(&address)
    }

    /// Returns true if there are no gateways.
    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.everywhere.is_empty() && self.ranges.is_empty() && self.unknown.is_empty()
    }
}

/// The operator's settings together with the current addresses of the host.
#[derive(Debug)]
pub struct Guard {
    policy: GuardPolicy,
    /// Addresses of the host's interfaces.
    host: HashSet<IpAddr>,
    /// Broadcast addresses of the networks of routers and host, sorted.
    broadcasts: Vec<Ipv4Addr>,
}

impl Guard {
    /// The host's addresses are not known yet.
    pub fn new(policy: GuardPolicy) -> Self {
        let mut guard = Self { policy, host: HashSet::new(), broadcasts: Vec::new() };
        guard.set_host_addresses([]);
        guard
    }

    /// Replaces the host's addresses, which come with the prefix lengths of their networks.
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

    /// See [`GuardPolicy::is_strict`].
    pub const fn is_strict(&self) -> bool {
        self.policy.is_strict
    }

    /// Returns true if an address is that of the host or of a router, which no peer gets, not even by a grant. If the
    /// router has no network, a device may be in the router's own namespace and have an IPv4 address of the host, as
    /// with the C plugin.
    pub fn is_taken(&self, address: IpAddr) -> bool {
        (self.policy.is_strict || address.is_ipv6()) && self.is_hosts(address)
    }

    /// Returns true if a datagram from this address was sent by the host itself. The kernel reports a router's device
    /// as its input interface if the device has the destination address. No peer can have sent it: for IPv4 the kernel
    /// drops packets from a device with a source address of the host, and no peer holds an IPv6 address of the host.
    pub fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.host.contains(&address)
    }

    /// Returns true if an address is one of a router of the instance.
    pub fn is_routers(&self, address: IpAddr) -> bool {
        self.policy.own.iter().any(|net| net.addr() == address)
    }

    /// Returns true if an address is one of the host or of a router of the instance.
    pub fn is_here(&self, address: IpAddr) -> bool {
        self.is_local(address) || self.is_routers(address)
    }

    /// Returns true if an address is that of the host or of a router, or a reserved one of a router's network.
    fn is_hosts(&self, address: IpAddr) -> bool {
        let is_reserved = |net: &IpNet| net.addr() == address || net.contains(&address) && is_reserved(*net, address);
        self.host.contains(&address) || self.policy.own.iter().any(is_reserved)
    }

    /// Returns true if an address is in a network of one of the instance's routers and is not the host's.
    pub fn is_vassals(&self, address: IpAddr) -> bool {
        !self.is_hosts(address) && self.policy.own.iter().any(|net| net.contains(&address))
    }

    /// Returns true if an address is that of a gateway. Peers only get it by a grant.
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        self.policy.gateways.are_at(address)
    }

    /// Returns true if a peer may claim an address that it has chosen itself, provided that nobody holds it and no
    /// grant keeps it for others. Without a grant, the target of a forwarded port can only be claimed by root, because
    /// vassals claim their addresses before they drop their privileges.
    pub fn may_claim(&self, address: IpAddr, identity: &Identity, grants: &Grants, pool: &Pool) -> bool {
        if !is_claimable(address) || self.is_taken(address) {
            return false;
        }
        if grants.is_granted(address, identity) == Some(true) {
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

    /// Where gateways are.
    pub const fn gateways(&self) -> &Gateways {
        &self.policy.gateways
    }

    /// Returns why a packet of a peer is dropped regardless of rules and routes. `None` if it may pass.
    pub fn refusal(&self, packet: &Packet<'_>, pool: &Pool) -> Option<DropReason> {
        let dst = packet.dst();
        if self.policy.is_strict && !self.is_unicast(dst) {
            return Some(DropReason::Destination);
        }
        self.is_for_gateway(packet, dst, pool).then_some(DropReason::ToGateway)
    }

    /// Returns true if a destination is unicast: not loopback, multicast, IPv6 link-local, or a known broadcast address.
    fn is_unicast(&self, destination: IpAddr) -> bool {
        is_unicast(destination)
            && match destination {
                IpAddr::V4(address) => self.broadcasts.binary_search(&address).is_err(),
                IpAddr::V6(_) => true,
            }
    }

    /// Returns true if a peer's packet would reach a gateway that the peer may not send to. Only first fragments are
    /// checked, because they have the port: a kernel takes the first eight bytes of a datagram from the fragment with
    /// offset 0, whatever overlaps it and in whatever order the fragments come.
    fn is_for_gateway(&self, packet: &Packet<'_>, dst: IpAddr, pool: &Pool) -> bool {
        let gateways = &self.policy.gateways;
        let protocol = packet.protocol();
        let is_datagram = matches!(protocol, protocol::UDP | protocol::UDPLITE);
        if !is_datagram && !ENCAPSULATION.contains(&protocol) || gateways.is_empty() {
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

    /// Returns true if a gateway is, or may be, at this address and port.
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

    /// Returns true if the host's kernel may deliver packets to this destination locally. Loopback and the unspecified
    /// address are included, because a kernel can be configured to accept them.
    fn is_own(&self, dst: IpAddr) -> bool {
        self.is_hosts(dst) || dst.is_loopback() || dst.is_unspecified() || dst.is_multicast() || !self.is_unicast(dst)
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
