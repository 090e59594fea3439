//! A device's network in its kernel: addresses, MTU, routes, and loopback. Everything goes by netlink, so that no program is
//! needed in the jail.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use tuntap_sys::log::{Event, Logger};
use tuntap_sys::netlink::{LinkChange, Netlink, NetlinkError, Route};
use tuntap_wire::autoconf::Family;

/// What the loopback interface is called in every namespace.
const LOOPBACK: &str = "lo";

/// The network configuration that a device should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Its addresses, with the lengths of their networks' prefixes.
    pub addresses: Vec<IpNet>,
    /// The next hops of its default routes, one for each family.
    pub default_routers: Vec<DefaultRouter>,
    /// Its MTU, in bytes.
    pub mtu: Option<u16>,
    /// True if the instance has other devices with addresses.
    pub has_siblings: bool,
}

/// The next hop of a default route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultRouter {
    /// Its address.
    pub address: IpAddr,
    /// True if the instance's options name it, for this device before any other. Else an existing default route stays.
    pub is_own_choice: bool,
}

/// Number of the first routing table for packets from a device's addresses. The device's index is added to it.
const FIRST_TABLE: u32 = 0x7475_0000;

/// Priority of the rules that select these tables, before the main table's 32766 (ip-rule(8)).
const RULE_PRIORITY: u32 = 20_000;

impl Network {
    /// Configures the device and returns the addresses that it has then. IPv6 addresses are left out, with a line in the log, if
    /// the kernel has IPv6 turned off.
    pub fn apply(&self, device: &str, logger: Logger) -> Result<Vec<IpNet>, NetlinkError> {
        if self.addresses.is_empty() && self.mtu.is_none() {
            return Ok(Vec::new());
        }
        let mut netlink = Netlink::open()?;
        let link = netlink.link(device)?;
        netlink.set_link(link.index, LinkChange { mtu: self.mtu.map(u32::from), ..LinkChange::default() })?;
        if self.addresses.is_empty() {
            return Ok(Vec::new());
        }
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        let loopback = netlink.link(LOOPBACK)?.index;
        netlink.set_link(loopback, up)?;
        netlink.set_link(link.index, up)?;
        let mut set = Vec::new();
        let mut is_v6_off = false;
        for address in &self.addresses {
            match netlink.replace_address(link.index, *address) {
                Err(error) if address.addr().is_ipv6() && error.means_ipv6_is_off() => {
                    if !is_v6_off {
                        logger.line(Event::DeviceIncomplete, format_args!(
                            "[uwsgi-tuntap] {device}: IPv6 is turned off in this namespace ({error}); it has no IPv6 address"
                        ));
                    }
                    is_v6_off = true;
                }
                result => result.map(|()| set.push(*address))?,
            }
        }
        for family in Family::ALL {
            let of_family = |address: IpAddr| Family::of(address) == family;
            if !set.iter().any(|net| of_family(net.addr())) {
                continue;
            }
            let router = self.default_routers.iter().find(|router| of_family(router.address));
            if let Some(router) = router.filter(|router| self.next_hop(**router).is_none()) {
                logger.line(Event::DeviceConfigured, format_args!(
                    "[uwsgi-tuntap] {device}: its default router {} is its own address; the default route has no next hop",
                    router.address
                ));
            }
            let is_default = router.map(|router| self.route(&mut netlink, link.index, *router)).transpose()?;
            if self.has_siblings || is_default == Some(false) {
                let sources = set.iter().map(IpNet::addr).filter(|address| of_family(*address));
                route_sources(&mut netlink, link.index, family, sources)?;
            }
        }
        Ok(set)
    }

    /// Makes the default route. Returns false if the default route is another interface's and stays.
    fn route(&self, netlink: &mut Netlink, device: u32, router: DefaultRouter) -> Result<bool, NetlinkError> {
        let everything = everything(Family::of(router.address));
        if !router.is_own_choice {
            // A route with several next hops has no interface of its own.
            let is_other = |route: &Route| route.destination == everything && route.index != Some(device);
            if netlink.routes()?.iter().any(is_other) {
                return Ok(false);
            }
        }
        let is_on_link = self.addresses.iter().any(|net| net.contains(&router.address));
        if !is_on_link {
            // The next hop is at the other end of the device, whatever its address is.
            netlink.replace_route(router.address.into(), None, device)?;
        }
        netlink.replace_route(everything, self.next_hop(router), device)?;
        Ok(true)
    }

    /// The address that the default route names. None if it is the device's own, which the kernel takes for no next hop: a router
    /// may choose the very address that the instance's options call its default router. The route by the device leads to the
    /// router all the same.
    fn next_hop(&self, router: DefaultRouter) -> Option<IpAddr> {
        let is_own = self.addresses.iter().any(|net| net.addr() == router.address);
        (!is_own).then_some(router.address)
    }
}

/// Routes packets from a device's addresses through that device, wherever the default route leads: another router would drop
/// them, because their source is not claimed there. A TUN device has no link layer, so the route needs no next hop.
fn route_sources(
    netlink: &mut Netlink,
    device: u32,
    family: Family,
    sources: impl Iterator<Item = IpAddr>,
) -> Result<(), NetlinkError> {
    let table = FIRST_TABLE + device;
    netlink.replace_route_in(table, everything(family), None, device)?;
    for source in sources {
        netlink.add_source_rule(source, table, RULE_PRIORITY)?;
    }
    Ok(())
}

fn everything(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(Ipv4Net::default()),
        Family::V6 => IpNet::V6(Ipv6Net::default()),
    }
}
