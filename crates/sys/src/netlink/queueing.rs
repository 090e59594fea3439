//! What tc(8) has put on a TUN device, beside the path in the kernel.

use thiserror::Error;

use super::error::NetlinkError;
use super::route::{Link, Netlink};
use crate::bpf::Hook;

/// Queueing disciplines that hold no packet back while the device takes it. Packets in the kernel pass by those of TUN devices, so that
/// any other one, such as `tbf` or `htb`, would have no effect on them.
const PLAIN_QUEUEING: [&str; 11] =
    ["", "noop", "noqueue", "mq", "pfifo_fast", "pfifo", "bfifo", "fq", "fq_codel", "codel", "sfq"];

/// What somebody wants to become of packets that leave a TUN device, and would not if they passed in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Queueing {
    /// They may have to wait.
    #[error("{0} has the queueing discipline {1}, which packets in the kernel would pass by")]
    Discipline(String, String),
    /// They go through filters behind our program.
    #[error("{0} has packet filters at its egress, which packets in the kernel would pass by")]
    Filters(String),
}

impl Queueing {
    /// Returns what there is at a TUN device of the connection's namespace.
    pub fn of(netlink: &mut Netlink, link: &Link) -> Result<Option<Self>, NetlinkError> {
        let name = || link.name.clone();
        if !PLAIN_QUEUEING.contains(&link.queueing.as_str()) {
            return Ok(Some(Self::Discipline(name(), link.queueing.clone())));
        }
        Ok(netlink.has_other_filters(link.index, Hook::Egress)?.then(|| Self::Filters(name())))
    }
}
