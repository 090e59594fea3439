//! A router's device: its addresses, its MTU, its state.

use super::HostNetworkError;
use crate::config::RouterSpec;
use crate::log::Logger;
use crate::sys::netlink::{LinkChange, Netlink};

/// Gives a router's device what the options say. Without options it is left alone. Can be done again.
pub fn configure(router: &RouterSpec, logger: Logger) -> Result<(), HostNetworkError> {
    if router.addresses.is_empty() && router.mtu.is_none() {
        return Ok(());
    }
    let mut netlink = Netlink::open()?;
    let index = netlink.link(&router.device)?.index;
    netlink.set_link(index, LinkChange { mtu: router.mtu.map(u32::from), ..LinkChange::default() })?;
    for address in &router.addresses {
        netlink.replace_address(index, *address)?;
    }
    if !router.addresses.is_empty() {
        netlink.set_link(index, LinkChange { up: Some(true), ..LinkChange::default() })?;
        let addresses: Vec<_> = router.addresses.iter().map(ToString::to_string).collect();
        logger.line(format_args!("[tuntap-router] {} is up with {}", router.device, addresses.join(", ")));
    }
    Ok(())
}
