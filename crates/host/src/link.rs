//! The device of a router: its addresses, its MTU, its state.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::HostNetworkError;
use tuntap_config::RouterSpec;
use tuntap_sys::log::{Event, Logger};
use tuntap_sys::netlink::{InterfaceAddress, Link, LinkChange, Netlink, NetlinkError, Route};

/// What was set on devices, so that it can be undone: a persistent device, which an operator has made, outlives its router.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Given {
    addresses: Vec<GivenAddress>,
    /// Names of devices that were brought up.
    up: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct GivenAddress {
    device: String,
    address: IpAddr,
    prefix_len: u8,
}

impl Given {
    /// Notes what [`configure`] is about to change.
    fn note(&mut self, netlink: &mut Netlink, router: &RouterSpec) -> Result<(), NetlinkError> {
        let link = netlink.link(&router.device)?;
        if !(link.is_up || self.up.contains(&router.device)) {
            self.up.push(router.device.clone());
        }
        let present = netlink.addresses()?;
        for address in &router.addresses {
            let given = GivenAddress::new(&router.device, *address);
            let is_there = present.contains(&InterfaceAddress { index: link.index, address: *address });
            if !(is_there || self.addresses.contains(&given)) {
                self.addresses.push(given);
            }
        }
        Ok(())
    }

    /// Undoes what an earlier image has set on devices, and these routers don't have any more.
    pub fn prune(&mut self, routers: &[RouterSpec]) {
        let wanted = |given: &GivenAddress| {
            let of_device = routers.iter().find(|router| router.device == given.device);
            of_device.is_some_and(|router| {
                router.addresses.iter().any(|net| *given == GivenAddress::new(&given.device, *net))
            })
        };
        let has_addresses =
            |device: &String| routers.iter().any(|router| router.device == *device && !router.addresses.is_empty());
        let (kept, ended) = std::mem::take(&mut self.addresses).into_iter().partition(wanted);
        let (kept_up, ended_up) = std::mem::take(&mut self.up).into_iter().partition(has_addresses);
        Self { addresses: ended, up: ended_up }.take_back();
        *self = Self { addresses: kept, up: kept_up };
    }

    /// Undoes everything. Errors don't matter: the device is gone, or will be, or the instance has dropped its privileges.
    pub fn take_back(&mut self) {
        let Self { addresses, up } = std::mem::take(self);
        let Ok(mut netlink) = Netlink::open() else { return };
        for GivenAddress { device, address, prefix_len } in addresses {
            let Ok(net) = IpNet::new(address, prefix_len) else { continue };
            let _ = netlink.link(&device).and_then(|link| netlink.remove_address(link.index, net));
        }
        for device in up {
            let down = LinkChange { up: Some(false), ..LinkChange::default() };
            let _ = netlink.link(&device).and_then(|link| netlink.set_link(link.index, down));
        }
    }
}

impl GivenAddress {
    fn new(device: &str, net: IpNet) -> Self {
        Self { device: device.to_owned(), address: net.addr(), prefix_len: net.prefix_len() }
    }
}

/// Gives a router's device the addresses and the MTU of the options and brings it up, and notes what was changed. Without
/// such options the device is left alone. Can be repeated. Where IPv6 is turned off, the router loses what it has of IPv6.
pub fn configure(router: &mut RouterSpec, given: &mut Given, logger: Logger) -> Result<(), HostNetworkError> {
    if router.addresses.is_empty() && router.mtu.is_none() {
        return Ok(());
    }
    let mut netlink = Netlink::open()?;
    let index = netlink.link(&router.device)?.index;
    netlink.set_link(index, LinkChange { mtu: router.mtu.map(u32::from), ..LinkChange::default() })?;
    if router.addresses.is_empty() {
        return Ok(());
    }
    given.note(&mut netlink, router)?;
    let mut is_ipv6_off = false;
    for address in router.addresses.clone() {
        if is_ipv6_off && address.addr().is_ipv6() {
            continue;
        }
        match netlink.replace_address(index, address) {
            Err(error) if address.addr().is_ipv6() && error.means_ipv6_is_off() => {
                leave_ipv6_out(router);
                if router.addresses.is_empty() {
                    return Err(HostNetworkError::NoAddress { device: router.device.clone(), reason: error });
                }
                logger.line(Event::HostFault, format_args!(
                    "[tuntap-router] {}: IPv6 is turned off on this host ({error}); the router and its vassals have IPv4 \
                     only, and its IPv6 addresses, ports and DNS servers are left out until this instance reloads",
                    router.device
                ));
                is_ipv6_off = true;
            }
            result => result?,
        }
    }
    netlink.set_link(index, LinkChange { up: Some(true), ..LinkChange::default() })?;
    let addresses: Vec<_> = router.addresses.iter().map(ToString::to_string).collect();
    logger.line(
        Event::DeviceConfigured,
        format_args!("[tuntap-router] {} is up with {}", router.device, addresses.join(", ")),
    );
    Ok(())
}

/// Something that [`configure`] has set on a device, and that somebody has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// The device was renamed to this.
    Name(String),
    /// The device has this MTU.
    Mtu(u32),
    /// The device is down.
    Up,
    /// An address was removed.
    Address(IpNet),
    /// The route to a network was removed.
    Route(IpNet),
}

impl Loss {
    /// A key that is the same each time that this happens.
    pub fn key(&self) -> String {
        match self {
            Self::Name(_) => "name".to_owned(),
            Self::Mtu(_) => "mtu".to_owned(),
            Self::Up => "up".to_owned(),
            Self::Address(net) | Self::Route(net) => net.to_string(),
        }
    }
}

impl Display for Loss {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(formatter, "was renamed to {name}"),
            Self::Mtu(mtu) => write!(formatter, "was given an MTU of {mtu}"),
            Self::Up => write!(formatter, "was taken down"),
            Self::Address(net) => write!(formatter, "has lost its address {net}"),
            Self::Route(net) => write!(formatter, "has lost its route to {}", net.trunc()),
        }
    }
}

/// The present interfaces of the host, with their addresses.
#[derive(Debug)]
pub struct Inventory {
    links: Vec<Link>,
    addresses: Vec<InterfaceAddress>,
}

impl Inventory {
    /// Reads all interfaces.
    pub fn take(netlink: &mut Netlink) -> Result<Self, NetlinkError> {
        Ok(Self { links: netlink.links()?, addresses: netlink.addresses()? })
    }

    /// The interface of that name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The present name of a router's device, if it was renamed. It had the index `known` when it was last seen.
    pub fn other_name(&self, device: &str, known: Option<u32>) -> Option<&str> {
        let own = self.links.iter().find(|link| known == Some(link.index))?;
        (own.name != device).then_some(own.name.as_str())
    }

    /// Interfaces and their addresses.
    pub fn into_parts(self) -> (Vec<Link>, Vec<InterfaceAddress>) {
        (self.links, self.addresses)
    }

    /// What was changed on a router's device, and its index. The device had the index `known` when it was last seen. Nothing
    /// is reported for a device that was deleted: its router makes a new one.
    pub fn losses(&self, netlink: &mut Netlink, router: &RouterSpec, known: Option<u32>) -> (Option<u32>, Vec<Loss>) {
        // Another interface that has the name then is not touched.
        if let Some(name) = self.other_name(&router.device, known) {
            return (known, vec![Loss::Name(name.to_owned())]);
        }
        let Some(link) = self.link(&router.device) else { return (known, Vec::new()) };
        let mut losses = Vec::new();
        losses.extend(router.mtu.filter(|mtu| u32::from(*mtu) != link.mtu).map(|_| Loss::Mtu(link.mtu)));
        if router.addresses.is_empty() {
            return (Some(link.index), losses);
        }
        losses.extend((!link.is_up).then_some(Loss::Up));
        for net in &router.addresses {
            if !self.addresses.contains(&InterfaceAddress { index: link.index, address: *net }) {
                losses.push(Loss::Address(*net));
            } else if link.is_up && lacks_route(netlink, *net, link.index) {
                losses.push(Loss::Route(*net));
            }
        }
        (Some(link.index), losses)
    }
}

/// Returns true if the route to the network of an address is missing, which the kernel makes with the address.
fn lacks_route(netlink: &mut Netlink, net: IpNet, index: u32) -> bool {
    let Some(neighbour) = net.hosts().take(2).find(|address| *address != net.addr()) else { return false };
    if net.prefix_len() >= net.max_prefix_len() - 1
        || netlink.interface_to(neighbour).is_ok_and(|way| way == Some(index))
    {
        return false;
    }
    // A more specific route may lead to this one neighbour, so that the list decides.
    let is_own = |route: &Route| route.destination == net.trunc() && route.index == Some(index);
    netlink.routes().is_ok_and(|routes| !routes.iter().any(is_own))
}

/// Mends a device.
pub fn mend(netlink: &mut Netlink, router: &RouterSpec, index: u32, loss: &Loss) -> Result<(), NetlinkError> {
    let set = |netlink: &mut Netlink, up| netlink.set_link(index, LinkChange { up: Some(up), ..LinkChange::default() });
    match loss {
        Loss::Name(_) => match netlink.rename(index, &router.device) {
            // It loses its IPv6 addresses by that. They are mended in the next pass.
            Err(error) if error.errno() == Some(Errno::EBUSY) => {
                set(netlink, false)?;
                let renamed = netlink.rename(index, &router.device);
                set(netlink, true)?;
                renamed
            }
            result => result,
        },
        Loss::Mtu(_) => netlink.set_link(index, LinkChange { mtu: router.mtu.map(u32::from), ..LinkChange::default() }),
        Loss::Up => set(netlink, true),
        Loss::Address(net) => netlink.replace_address(index, *net),
        Loss::Route(net) => netlink.replace_route(net.trunc(), None, index),
    }
}

/// Removes everything of IPv6 from a router.
fn leave_ipv6_out(router: &mut RouterSpec) {
    router.addresses.retain(|net| net.addr().is_ipv4());
    router.ports.retain(|port| port.target.is_ipv4());
    router.dns.retain(IpAddr::is_ipv4);
}
