//! Peers that outlive a router: attached ones are stored as they come, and taken back by a router that follows one that
//! died. Peers in frames are not: a frame may have been cut in two, on either side.

use std::net::IpAddr;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tuntap_wire::attach::HelloReply;
use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::frame::FrameKind;
use tuntap_wire::rule;

use super::Router;
use super::notice::Notice;
use super::quarantine::{Origin, Record};
use super::session::{Session, Stage, StreamReason, Transport};
use super::shell::Shell;
use crate::peers::Peer;
use crate::policy::grant::Identity;
use crate::policy::registry::PeerId;
use crate::policy::verdict::RestoredPeer;

/// A stored peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPeer {
    /// Number of the peer in the store.
    pub serial: u64,
    /// Who it is.
    pub credentials: PeerCredentials,
    /// What grants go by.
    pub identity: Identity,
    /// The addresses that it holds.
    pub addresses: Vec<IpAddr>,
    /// True if it may choose none by itself.
    pub is_bound: bool,
    /// The name under which it asked for them.
    pub lease_name: Option<u64>,
    /// Its own rules, as they travel.
    pub rules: Vec<u8>,
    /// True if these are not in the C plugin's form.
    pub rules_are_extended: bool,
}

impl Router {
    /// Takes note of an origin whose devices a router before this one did not attach any more.
    pub fn restore_quarantine(&mut self, origin: Origin, record: Record) {
        self.quarantine.restore(origin, record);
    }

    /// The router before this one hung while it wrote to this peer's device: the device is not attached for some time.
    pub fn accuse(&mut self, shell: &mut impl Shell, stored: &StoredPeer, namespace: Option<u64>) {
        let credentials = stored.credentials;
        let origin = Origin::of(credentials.uid, namespace);
        let record = self.quarantine.add_hang(origin, self.now);
        shell.store_quarantine(origin, record);
        self.counters.totals.detached += 1;
        let address = stored.addresses.first().copied();
        shell.log(&Notice::Hung { address, credentials, period: record.period });
    }

    /// Takes back a peer of the router before this one, whose connection was made in this network namespace, and asks it for
    /// its device.
    pub fn restore(&mut self, shell: &mut impl Shell, stored: &StoredPeer, namespace: Option<u64>, now: Instant) {
        self.advance(now);
        let Some(id) = self.forwarder.vacant() else { return };
        // It may say hello once more, as in its first frame.
        let mut session = Session::new(stored.credentials, namespace, Stage::FirstFrame);
        session.transport = Transport::Stream(StreamReason::Restored);
        session.serial = Some(shell.new_serial());
        session.autoconf_name = stored.lease_name;
        let decode = if stored.rules_are_extended { rule::decode_all_extended } else { rule::decode_all };
        let restored = RestoredPeer {
            identity: stored.identity.clone(),
            namespace: self.foreign(namespace),
            rules: decode(&stored.rules).unwrap_or_default(),
            addresses: &stored.addresses,
            is_bound: stored.is_bound,
        };
        self.forwarder.restore_session(id, restored, session);
        if let Some(key) = stored.lease_name.and_then(|name| self.lease_key(id, name)) {
            stored.addresses.iter().for_each(|address| self.forwarder.remember(id, *address, key));
        }
        self.admission.enter(id, self.forwarder.account(id), self.now);
        if self.forwarder.address(id).is_some() {
            self.admission.claimed(id);
        }
        self.counters.totals.restored += 1;
        self.open(shell, id);
        self.store_again(shell, id);
        self.reply_to_hello(id, HelloReply::Renew);
    }

    /// Stores an attached peer, or one that is asked for its device again, or what is new about it, for a router that may
    /// follow this one.
    pub(super) fn store(&mut self, shell: &mut impl Shell, id: PeerId) {
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return };
        if peer.session.is_attached() {
            peer.session.serial.get_or_insert_with(|| shell.new_serial());
        }
        self.store_again(shell, id);
    }

    /// Takes a peer out of the store that is not attached any more.
    pub(super) fn unstore(&mut self, shell: &mut impl Shell, id: PeerId) {
        if let Some(serial) = self.forwarder.peers.get_mut(id).and_then(|peer| peer.session.serial.take()) {
            shell.unstore(serial);
        }
    }

    fn store_again(&mut self, shell: &mut impl Shell, id: PeerId) {
        if let Some(stored) = self.forwarder.peers.get(id).and_then(describe) {
            shell.store(id, stored);
        }
    }

    /// All peers that the store should have.
    pub fn stored_peers(&self) -> impl Iterator<Item = (PeerId, StoredPeer)> {
        self.forwarder.peers.iter().filter_map(|peer| Some((peer.id, describe(peer)?)))
    }
}

/// Nothing for peers that are not stored. One that still waits for the address of another peer isn't: the next router would
/// not know for which.
fn describe(peer: &Peer) -> Option<StoredPeer> {
    if peer.claims.is_waiting() || peer.claims.is_bound() && peer.address().is_none() {
        return None;
    }
    let (kind, rules) = rule::encode_all(peer.rules.iter().map(|checked| &checked.rule))?;
    Some(StoredPeer {
        serial: peer.session.serial?,
        credentials: peer.session.credentials,
        identity: peer.identity.clone(),
        addresses: peer.claims.held().collect(),
        is_bound: peer.claims.is_bound(),
        lease_name: peer.session.autoconf_name,
        rules,
        rules_are_extended: kind == FrameKind::ExtendedRules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::policy::forward::Forwarder;

    /// The next router would give it the one address that it holds, and no other any more.
    #[test]
    fn peer_that_waits_for_an_address_is_not_kept() {
        let id = |index| PeerId { index, generation: 0 };
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let mut forwarder = Forwarder::new(Policy::default(), 1);
        for index in [1, 2] {
            let identity = Identity { uid: 0, gid: 0, groups: Vec::new() };
            forwarder.add_session(id(index), identity, Session { serial: Some(1), ..Session::default() });
        }
        let kept = |forwarder: &Forwarder| {
            describe(forwarder.peers.get(id(2)).expect("it is there")).map(|kept| kept.addresses)
        };
        assert_eq!(kept(&forwarder), Some(Vec::new()));
        forwarder.assign(id(1), address("192.168.0.2"));
        forwarder.assign(id(2), address("fd00:77::2"));
        assert_eq!(kept(&forwarder), Some(vec![address("fd00:77::2")]));
        forwarder.assign(id(2), address("192.168.0.2"));
        assert_eq!(kept(&forwarder), None);
        forwarder.remove_peer(id(1));
        forwarder.assign(id(2), address("192.168.0.2"));
        assert_eq!(kept(&forwarder), Some(vec![address("192.168.0.2"), address("fd00:77::2")]));
    }
}
