//! The oracle: which gateways peers may reach or name.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::super::probe::Probe;
use super::matching::{is_for_all, is_unicast, within};
use super::oracle::Oracle;

impl Oracle {
    /// All gateways with a single address and a port.
    pub(super) fn gateways(&self) -> impl Iterator<Item = SocketAddr> {
        let own = self.rules.own_gateway.filter(|own| !own.ip().is_unspecified());
        self.rules.routes.iter().map(|route| route.target).chain(own)
    }

    /// Hosts that have gateways at unknown ports.
    pub(super) fn gateway_hosts(&self) -> impl Iterator<Item = IpNet> {
        let ranges = self.rules.device_routes.iter().filter(|range| range.port.is_none());
        ranges.map(|range| range.prefix).chain(self.rules.gateway_sources.iter().copied())
    }

    /// True for a single host that has a gateway at a port that is nowhere named.
    pub(super) fn has_gateway_somewhere(&self, address: IpAddr) -> bool {
        let is_single = |net: &IpNet| net.addr() == address && net.prefix_len() == net.max_prefix_len();
        let is_known = self.gateways().any(|gateway| gateway.ip() == address)
            || self.rules.device_routes.iter().any(|range| range.port.is_some() && within(address, range.prefix));
        !is_known && self.gateway_hosts().any(|net| is_single(&net))
    }

    pub(super) fn is_gateways(&self, address: IpAddr) -> bool {
        self.gateways().any(|gateway| gateway.ip() == address) || self.has_gateway_somewhere(address)
    }

    /// True if the host may deliver packets to the address locally.
    pub(super) fn is_hosts(&self, address: IpAddr) -> bool {
        self.is_hosts_own(address) || !self.is_one_host(address)
    }

    pub(super) fn is_one_host(&self, address: IpAddr) -> bool {
        let networks = self.rules.networks.iter().chain(&self.rules.host);
        let mut networks = networks.filter(|net| net.addr().is_ipv4());
        is_unicast(address) && !networks.any(|net| within(address, *net) && is_for_all(address, *net))
    }

    /// True for a datagram, or a packet that a kernel may decapsulate, to the address of a gateway.
    pub(super) fn goes_to_a_gateway(&self, probe: &Probe) -> bool {
        let dst = probe.dst.to_canonical();
        let own = self.rules.own_gateway.filter(|own| own.ip().is_unspecified());
        let is_known = self.gateways().next().is_some()
            || own.is_some()
            || self.rules.device_routes.iter().any(|range| range.port.is_some())
            || self.gateway_hosts().any(|net| self.has_gateway_somewhere(net.addr()));
        if !is_known || self.rules.gateway_vassals.is_some_and(|net| within(probe.src, net)) {
            return false;
        }
        if [4, 41, 47].contains(&probe.protocol) {
            return self.is_gateways(dst) || own.is_some() && self.is_hosts(dst);
        }
        if ![17, 136].contains(&probe.protocol) {
            return false;
        }
        if self.has_gateway_somewhere(dst) && probe.port != Some(53) {
            return true;
        }
        let Some(port) = probe.port else { return false };
        let with_port = || self.rules.device_routes.iter().filter(|range| range.port == Some(port));
        let is_any_ones =
            self.gateways().chain(own).any(|gateway| gateway.port() == port) || with_port().next().is_some();
        let is_vassals = self.rules.networks.iter().any(|net| within(dst, *net)) && !self.is_own(dst) && {
            self.rules.networks.iter().filter(|net| within(dst, **net)).all(|net| !is_for_all(dst, *net))
        };
        self.gateways().any(|gateway| gateway == SocketAddr::new(dst, port))
            || own.is_some_and(|own| own.port() == port && (own.is_ipv6() || dst.is_ipv4()) && self.is_hosts(dst))
            || with_port().any(|range| within(dst, range.prefix))
            || is_any_ones && !is_vassals && self.gateway_hosts().any(|net| within(dst, net))
    }

    /// True if the gateway is the target of a route of the router, or in a range that the operator allows.
    pub(super) fn may_name(&self, target: SocketAddr) -> bool {
        self.rules.routes.iter().any(|route| route.target == target)
            || self.rules.device_routes.iter().any(|range| {
                within(target.ip(), range.prefix) && (range.port.is_none() || range.port == Some(target.port()))
            })
    }

    pub(super) fn accepts_datagrams_of(&self, source: IpAddr) -> bool {
        let sources = &self.rules.gateway_sources;
        sources.is_empty() || sources.iter().any(|net| within(source, *net))
    }
}
