//! A device's network in its kernel: addresses, MTU, routes, and loopback. Everything goes by netlink, so that no program is
//! needed in the jail.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use tuntap_sys::log::Logger;
use tuntap_sys::netlink::{LinkChange, Netlink, NetlinkError, Route};
use tuntap_wire::autoconf::Family;

/// What the loopback interface is called in every namespace.
const LOOPBACK: &str = "lo";

/// How a device is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Its addresses, with the lengths of their networks' prefixes.
    pub addresses: Vec<IpNet>,
    /// Where its default routes lead.
    pub gateways: Vec<Gateway>,
    /// Its MTU, in bytes.
    pub mtu: Option<u16>,
    /// Whether the instance has other devices with addresses.
    pub has_siblings: bool,
}

/// Where a default route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    /// The next hop.
    pub address: IpAddr,
    /// Whether the instance has chosen it, for this device first. Others give way to a default route that there is.
    pub is_own_choice: bool,
}

/// Tables with the routes of packets from a device's addresses: this and the device's number.
const FIRST_TABLE: u32 = 0x7475_0000;

/// Where the rules stand that lead there: before the main table's, which has 32766.
const RULE_PRIORITY: u32 = 20_000;

impl Network {
    /// Makes the device so, and returns the addresses that it has then. A family that the kernel has turned off is left out,
    /// with a line in the log.
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
                        logger.line(format_args!(
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
            let gateway = self.gateways.iter().find(|gateway| of_family(gateway.address));
            let is_default = gateway.map(|gateway| self.route(&mut netlink, link.index, *gateway)).transpose()?;
            if self.has_siblings || is_default == Some(false) {
                let sources = set.iter().map(IpNet::addr).filter(|address| of_family(*address));
                route_sources(&mut netlink, link.index, family, sources)?;
            }
        }
        Ok(set)
    }

    /// Makes the default route, and returns whether it is this device's.
    fn route(&self, netlink: &mut Netlink, device: u32, gateway: Gateway) -> Result<bool, NetlinkError> {
        let everything = everything(Family::of(gateway.address));
        if !gateway.is_own_choice {
            // One with several next hops has no interface of its own.
            let is_other = |route: &Route| route.destination == everything && route.index != Some(device);
            if netlink.routes()?.iter().any(is_other) {
                return Ok(false);
            }
        }
        let is_on_link = self.addresses.iter().any(|net| net.contains(&gateway.address));
        if !is_on_link {
            // It is at the other end of the device, whatever its address is.
            netlink.replace_route(gateway.address.into(), None, device)?;
        }
        netlink.replace_route(everything, Some(gateway.address), device)?;
        Ok(true)
    }
}

/// Has packets from a device's addresses leave by it, wherever the default route leads: another router would take them for
/// somebody else's. There is no link layer, so that the route needs no next hop.
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
