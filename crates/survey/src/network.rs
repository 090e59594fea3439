//! The current network namespace: its interfaces, the networks that they lead to, and its forwarding.

use std::fs;
use std::path::Path;

use ipnet::IpNet;
use nix::unistd::geteuid;

use super::access::{Wish, own_barrier};
use tuntap_sys::netlink::nftables::Nftables;
use tuntap_sys::netlink::{Link, Netlink, NetlinkError};

/// A network that is reached by an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// The network.
    pub net: IpNet,
    /// The name of the interface; empty for a route with several interfaces.
    pub interface: String,
    /// True if the interface has an address in the network; false if there is only a route to it.
    pub is_own: bool,
}

/// The network namespace, as far as it matters for a router's packets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// True if IPv4 packets are forwarded (`net.ipv4.ip_forward`).
    pub ipv4: bool,
    /// True if IPv6 packets are forwarded (`net.ipv6.conf.all.forwarding`).
    pub ipv6: bool,
    /// True if new devices get IPv6 addresses (`net.ipv6.conf.default.disable_ipv6`).
    pub has_ipv6: bool,
    /// Two values, for IPv4 and IPv6: true if new devices forward without further settings. Existing interfaces may have
    /// other settings.
    pub settings_may_stay: [bool; 2],
    /// Why not even root can change the settings; `None` if root can.
    pub locked: Option<String>,
    /// True if packets are dropped whose sources are routed by another interface (`net.ipv4.conf.all.rp_filter`, or that of
    /// new devices, is 1).
    pub strict_sources: bool,
    /// True if each interface has its own setting for forwarding of IPv6 (`force_forwarding`, Linux 6.17).
    pub forwards_ipv6_by_interface: bool,
    /// Names of all interfaces.
    pub interfaces: Vec<String>,
    /// All interfaces, and how they are now.
    pub links: Vec<LinkState>,
    /// Own addresses with their prefix lengths, each with its interface.
    pub addresses: Vec<(String, IpNet)>,
    /// Networks that interfaces lead to, those with own addresses first.
    pub neighbours: Vec<Neighbour>,
}

/// The present state of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Its name.
    pub name: String,
    /// True if it is administratively up.
    pub is_up: bool,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// True if IPv4 packets that come in by it are forwarded (`net.ipv4.conf.*.forwarding`). `None` if it has no such
    /// setting.
    pub ipv4: Option<bool>,
    /// True if IPv6 packets that come in by it are forwarded: by its own setting (`force_forwarding`, Linux 6.17), or
    /// because those of all interfaces are.
    pub ipv6: Option<bool>,
    /// True if it has IPv6 turned off (`net.ipv6.conf.*.disable_ipv6`).
    pub lacks_ipv6: bool,
}

impl Surroundings {
    /// An interface by its name.
    pub fn link(&self, name: &str) -> Option<&LinkState> {
        self.links.iter().find(|link| link.name == name)
    }
}

/// Reads the state of the current network namespace.
pub fn surroundings() -> Result<Surroundings, NetlinkError> {
    // The higher one of the two is in effect (Documentation/networking/ip-sysctl.rst); 2 is loose mode.
    let rp_filter = ["all", "default"].map(|name| sysctl(&format!("ipv4/conf/{name}/rp_filter")));
    let mut netlink = Netlink::open()?;
    let links = netlink.links()?;
    let name =
        |index| links.iter().find(|link| Some(link.index) == index).map(|link| link.name.clone()).unwrap_or_default();
    let addresses = netlink.addresses()?;
    let own = addresses.iter().map(|own| (own.address.trunc(), Some(own.index), true));
    let routes = netlink.routes()?;
    let routes = routes.iter().map(|route| (route.destination, route.index, false));
    let neighbours =
        own.chain(routes).map(|(net, index, is_own)| Neighbour { net, interface: name(index), is_own }).collect();
    Ok(Surroundings {
        ipv4: sysctl("ipv4/ip_forward") == Some(1),
        ipv6: sysctl("ipv6/conf/all/forwarding") == Some(1),
        has_ipv6: sysctl("ipv6/conf/default/disable_ipv6") == Some(0),
        settings_may_stay: [
            sysctl("ipv4/conf/default/forwarding") == Some(1),
            // Since Linux 6.17 each interface has a setting of its own.
            sysctl("ipv6/conf/default/force_forwarding").or_else(|| sysctl("ipv6/conf/all/forwarding")) == Some(1),
        ],
        locked: own_barrier(Path::new("/proc/sys/net/ipv4/ip_forward"), Wish::Write)
            .filter(|_| geteuid().is_root())
            .map(|barrier| barrier.errno.to_string()),
        strict_sources: rp_filter.contains(&Some(1)) && !rp_filter.contains(&Some(2)),
        forwards_ipv6_by_interface: sysctl("ipv6/conf/all/force_forwarding").is_some(),
        interfaces: links.iter().map(|link| link.name.clone()).collect(),
        addresses: addresses.iter().map(|own| (name(Some(own.index)), own.address)).collect(),
        links: links.iter().map(link_state).collect(),
        neighbours,
    })
}

fn link_state(link: &Link) -> LinkState {
    let is_on = |setting: &str| sysctl(setting).map(|value| value != 0);
    let name = &link.name;
    let all = is_on("ipv6/conf/all/forwarding");
    let forced = is_on(&format!("ipv6/conf/{name}/force_forwarding"));
    LinkState {
        name: name.clone(),
        is_up: link.is_up,
        mtu: link.mtu,
        ipv4: is_on(&format!("ipv4/conf/{name}/forwarding")),
        ipv6: if all == Some(true) { all } else { forced.or(all) },
        lacks_ipv6: is_on(&format!("ipv6/conf/{name}/disable_ipv6")).unwrap_or(true),
    }
}

/// Returns true if there is an nftables table of the family `inet` with this name, and false if that can't be found out.
pub fn table_is_taken(name: &str) -> bool {
    Nftables::open().and_then(|mut nftables| nftables.is_taken(name)).unwrap_or(false)
}

/// The networks whose packets end in the kernel (blackhole, unreachable and prohibit of ip-route(8)), in the main table.
pub fn dead_ends() -> Result<Vec<IpNet>, NetlinkError> {
    Ok(Netlink::open()?.dead_ends()?.into_iter().map(|route| route.destination).collect())
}

fn sysctl(name: &str) -> Option<i32> {
    fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?.trim().parse().ok()
}
