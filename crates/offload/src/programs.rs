//! The programs of a router.

use std::os::fd::{AsFd, BorrowedFd};

use tuntap_sys::bpf::{LoadError, Program};

use super::generated::{HOST_IN, HOST_OUT, PEER_IN, PEER_OUT};
use super::maps::Maps;

/// The programs. All pairs of a router share them: what differs is in the maps.
#[derive(Debug)]
pub struct Programs {
    /// On the egress of a peer's device.
    pub peer_out: Program,
    /// On the ingress of a pair, at the host.
    pub host_in: Program,
    /// On the egress of the router's device.
    pub host_out: Program,
    /// On the ingress of a pair, at the peer.
    pub peer_in: Program,
}

impl Programs {
    /// Loads them. Needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON.
    pub fn load(maps: &Maps) -> Result<Self, LoadError> {
        Ok(Self {
            peer_out: PEER_OUT.load(maps)?,
            host_in: HOST_IN.load(maps)?,
            host_out: HOST_OUT.load(maps)?,
            peer_in: PEER_IN.load(maps)?,
        })
    }

    /// The descriptors that keep the programs.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.peer_out, &self.host_in, &self.host_out, &self.peer_in].into_iter().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_takes_the_programs() {
        let maps = Maps::new(1024).expect("needs root");
        let programs = Programs::load(&maps).expect("the verifier agrees");
        assert_eq!(programs.descriptors().count(), 4);
    }
}
