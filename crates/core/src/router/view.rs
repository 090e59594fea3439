//! A read-only view of the peers, for the statistics and for tests.

use std::net::IpAddr;

use tuntap_wire::credentials::PeerCredentials;

use super::Router;
use super::backlog::Backlog;
use super::session::{StreamReason, Traffic, Transport};
use crate::peers::Peer;
use crate::policy::registry::PeerId;

/// A read-only view of a peer.
#[derive(Debug, Clone, Copy)]
pub struct PeerView<'a> {
    peer: &'a Peer,
    backlog: &'a Backlog,
}

impl<'a> PeerView<'a> {
    /// Returns its id.
    pub const fn id(self) -> PeerId {
        self.peer.id
    }

    /// Returns its credentials.
    pub const fn credentials(self) -> PeerCredentials {
        self.peer.session.credentials
    }

    /// Returns the addresses that it holds, the IPv4 address first.
    pub fn addresses(self) -> impl Iterator<Item = IpAddr> + 'a {
        self.peer.claims.held()
    }

    /// Returns the names of its device's offloads, if the device is attached; else the reason why its packets travel in
    /// frames.
    pub fn offloads(self) -> Result<Vec<&'static str>, &'a StreamReason> {
        match &self.peer.session.transport {
            Transport::Tun => Ok(self.peer.session.offloads.names()),
            Transport::Stream(reason) => Err(reason),
        }
    }

    /// Returns its counters.
    pub const fn traffic(self) -> &'a Traffic {
        &self.peer.session.traffic
    }

    /// Returns the number of bytes that wait for it: in frames, and in packets that wait to be sent.
    pub fn queued(self) -> u64 {
        self.peer.session.queue.len() as u64 + self.backlog.bytes(self.peer.id)
    }

    /// Returns the number of packets that wait for it, other than in frames.
    pub fn kept_back(self) -> u64 {
        self.backlog.packets(self.peer.id)
    }

    /// The frames that wait to be sent to it. Of the first one a part may have been sent already.
    pub fn waiting(self) -> &'a [u8] {
        self.peer.session.queue.waiting()
    }

    /// Returns the number of bytes of a frame that has come only in part.
    pub const fn partial(self) -> usize {
        self.peer.session.partial.len()
    }

    /// Returns the number of rules that it sent.
    pub const fn rules(self) -> usize {
        self.peer.rules.len()
    }

    /// Returns the number of verdicts in the kernel that name it; `None` if it has no pair.
    pub fn verdicts(self) -> Option<usize> {
        let path = self.peer.session.path.as_deref().filter(|path| path.has_pair())?;
        Some(path.verdicts())
    }

    /// Returns its number in the store, if it is stored.
    pub const fn serial(self) -> Option<u64> {
        self.peer.session.serial
    }
}

impl Router {
    /// Returns all peers.
    pub fn peers(&self) -> impl Iterator<Item = PeerView<'_>> {
        self.forwarder.peers.iter().map(|peer| PeerView { peer, backlog: &self.backlog })
    }

    /// Returns a peer, unless it is closed.
    pub fn peer(&self, id: PeerId) -> Option<PeerView<'_>> {
        self.forwarder.peers.get(id).map(|peer| PeerView { peer, backlog: &self.backlog })
    }
}
