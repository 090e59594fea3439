//! What can be seen of the peers from outside: for statistics, and for tests.

use std::net::IpAddr;

use tuntap_wire::credentials::PeerCredentials;

use super::Router;
use super::session::{StreamReason, Traffic, Transport};
use crate::peers::Peer;
use crate::policy::registry::PeerId;

/// A peer, as it is at one moment.
#[derive(Debug, Clone, Copy)]
pub struct PeerView<'a>(&'a Peer);

impl<'a> PeerView<'a> {
    /// Its id.
    pub const fn id(self) -> PeerId {
        self.0.id
    }

    /// Who it is.
    pub const fn credentials(self) -> PeerCredentials {
        self.0.session.credentials
    }

    /// The addresses that it holds, that of IPv4 first.
    pub fn addresses(self) -> impl Iterator<Item = IpAddr> + 'a {
        self.0.claims.held()
    }

    /// The names of the offloads that its device has, if the router reads and writes the device; else why it doesn't.
    pub fn offloads(self) -> Result<Vec<&'static str>, &'a StreamReason> {
        match &self.0.session.transport {
            Transport::Tun => Ok(self.0.session.offloads.names()),
            Transport::Stream(reason) => Err(reason),
        }
    }

    /// What passed.
    pub const fn traffic(self) -> &'a Traffic {
        &self.0.session.traffic
    }

    /// Bytes that wait to be sent to it.
    pub const fn queued(self) -> usize {
        self.0.session.queue.len()
    }

    /// The frames that wait to be sent to it. Of the first one a part may have been sent already.
    pub fn waiting(self) -> &'a [u8] {
        self.0.session.queue.waiting()
    }

    /// Bytes of a frame that has come in part.
    pub const fn partial(self) -> usize {
        self.0.session.partial.len()
    }

    /// The number of rules that it sent.
    pub const fn rules(self) -> usize {
        self.0.rules.len()
    }

    /// Its number in the store, if it is kept there.
    pub const fn serial(self) -> Option<u64> {
        self.0.session.serial
    }
}

impl Router {
    /// All peers.
    pub fn peers(&self) -> impl Iterator<Item = PeerView<'_>> {
        self.forwarder.peers.iter().map(PeerView)
    }

    /// A peer that still lives.
    pub fn peer(&self, id: PeerId) -> Option<PeerView<'_>> {
        self.forwarder.peers.get(id).map(PeerView)
    }
}
