//! What has changed that verdicts in the kernel depend on. The router looks verdicts up for each packet; the kernel has to be told.

use std::net::IpAddr;

use super::registry::PeerId;

/// What has changed since the kernel was told.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// True if somebody wants to know.
    is_kept: bool,
    /// True if all verdicts have to be made anew.
    pub(crate) all: bool,
    /// Claims that peers got, or have lost.
    pub(crate) claims: Vec<(PeerId, IpAddr)>,
    /// Addresses that a peer of another router may have got or lost.
    pub(crate) elsewhere: Vec<IpAddr>,
    /// True if any other address may be such a one.
    pub(crate) is_any_elsewhere: bool,
    /// Peers whose limits may be others.
    pub(crate) peers: Vec<PeerId>,
}

impl Changes {
    /// Begins or ends keeping changes.
    pub(crate) fn keep(&mut self, is_kept: bool) {
        *self = Self { is_kept, ..Self::default() };
    }

    /// Returns true if nothing has changed.
    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        !(self.all || self.is_any_elsewhere)
            && self.claims.is_empty()
            && self.elsewhere.is_empty()
            && self.peers.is_empty()
    }

    /// Returns what has changed, once.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::replace(self, Self { is_kept: self.is_kept, ..Self::default() })
    }

    /// All verdicts have to be made anew.
    pub(super) const fn note_all(&mut self) {
        self.all |= self.is_kept;
    }

    /// A peer got an address, or has lost one.
    pub(super) fn note_claim(&mut self, peer: PeerId, address: IpAddr) {
        if self.is_kept {
            self.claims.push((peer, address));
        }
    }

    /// A peer of another router may have got or lost an address; `None` if it isn't known which one.
    pub(super) fn note_elsewhere(&mut self, address: Option<IpAddr>) {
        match address.filter(|_| self.is_kept) {
            Some(address) => self.elsewhere.push(address),
            None => self.is_any_elsewhere |= self.is_kept,
        }
    }

    /// A peer's limits may be others.
    pub(super) fn note_limits(&mut self, peer: PeerId) {
        if self.is_kept {
            self.peers.push(peer);
        }
    }
}
