//! Peers that outlive a router's process. Attached peers are stored when they are attached, and the next router restores
//! them. Peers whose packets travel in frames are not stored, because a frame may have been sent or received only in part.

use std::net::IpAddr;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tuntap_wire::attach::HelloReply;
use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::frame::FrameKind;
use tuntap_wire::holding::ClaimTime;
use tuntap_wire::rule;

use super::Router;
use super::notice::Notice;
use super::quarantine::{Offender, Record};
use super::session::{Session, Stage, StreamReason, Transport};
use super::shell::Shell;
use crate::peers::Peer;
use crate::policy::forward::Forwarder;
use crate::policy::grant::Identity;
use crate::policy::registry::PeerId;
use crate::policy::verdict::RestoredPeer;

/// A stored peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPeer {
    /// The peer's number in the store.
    pub serial: u64,
    /// Who it is.
    pub credentials: PeerCredentials,
    /// The identity by which grants are checked.
    pub identity: Identity,
    /// The addresses that it holds.
    pub addresses: Vec<IpAddr>,
    /// Since when it holds each of them, in milliseconds since 1970 ([`ClaimTime`]). Other routers know the claims by these times.
    #[serde(default)]
    pub since: Vec<u64>,
    /// The addresses that newer claims on other hosts have taken from it, and that it may claim again.
    #[serde(default)]
    pub lost: Vec<IpAddr>,
    /// True if it may choose no address by itself.
    pub is_bound: bool,
    /// The name of its configuration request.
    pub autoconf_name: Option<u64>,
    /// True if a router has chosen an address for its device.
    #[serde(default)]
    pub has_chosen_address: bool,
    /// Its own rules in the wire format.
    pub rules: Vec<u8>,
    /// True if the rules have the extended format, which the C plugin doesn't have.
    pub rules_are_extended: bool,
}

impl Router {
    /// Restores the quarantine of an offender, which a router before this one has stored.
    pub fn restore_quarantine(&mut self, offender: Offender, record: Record) {
        self.quarantine.restore(offender, record);
    }

    /// Puts a peer's user or namespace into quarantine, because the router before this one hung while it wrote to the
    /// peer's device.
    pub fn quarantine_after_hang(&mut self, shell: &mut impl Shell, stored: &StoredPeer, namespace: Option<u64>) {
        let credentials = stored.credentials;
        let offender = Offender::of(credentials.uid, namespace);
        let record = self.quarantine.add_hang(offender, self.now);
        shell.store_quarantine(offender, record);
        self.counters.totals.detached += 1;
        let address = stored.addresses.first().copied();
        shell.log(&Notice::Hung { address, credentials, period: record.period });
    }

    /// Restores a peer of the router before this one, and asks it for its device. `namespace` is the network namespace in
    /// which its connection was made.
    pub fn restore(&mut self, shell: &mut impl Shell, stored: &StoredPeer, namespace: Option<u64>, now: Instant) {
        self.advance(now);
        let Some(id) = self.forwarder.vacant() else { return };
        // The peer may say hello once more, as in its first frame.
        let mut session = Session::new(stored.credentials, namespace, Stage::FirstFrame);
        session.transport = Transport::Stream(StreamReason::Restored);
        session.serial = Some(shell.new_serial());
        session.autoconf_name = stored.autoconf_name;
        session.has_chosen_address = stored.has_chosen_address;
        let decode = if stored.rules_are_extended { rule::decode_all_extended } else { rule::decode_all };
        let since: Vec<_> = stored.since.iter().copied().map(ClaimTime).collect();
        let restored = RestoredPeer {
            identity: stored.identity.clone(),
            namespace: self.foreign(namespace),
            rules: decode(&stored.rules).unwrap_or_default(),
            addresses: &stored.addresses,
            since: &since,
            lost: &stored.lost,
            is_bound: stored.is_bound,
        };
        self.forwarder.restore_session(id, restored, session);
        if let Some(key) = stored.autoconf_name.and_then(|name| self.autoconf_key(id, name)) {
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
        stored.addresses.iter().for_each(|address| self.give_way(shell, *address));
        self.follow_changes(shell);
    }

    /// Stores the present state of a peer for the next router, if it is attached or was asked for its device again.
    pub(super) fn store(&mut self, shell: &mut impl Shell, id: PeerId) {
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return };
        if peer.session.is_attached() {
            peer.session.serial.get_or_insert_with(|| shell.new_serial());
        }
        self.store_again(shell, id);
    }

    /// Removes a peer that is not attached any more from the store.
    pub(super) fn unstore(&mut self, shell: &mut impl Shell, id: PeerId) {
        if let Some(serial) = self.forwarder.peers.get_mut(id).and_then(|peer| peer.session.serial.take()) {
            shell.unstore(serial);
        }
    }

    fn store_again(&mut self, shell: &mut impl Shell, id: PeerId) {
        if let Some(stored) = self.forwarder.peers.get(id).and_then(|peer| describe(&self.forwarder, peer)) {
            shell.store(id, stored);
        }
    }

    /// Returns all peers that the store should hold, with their present state.
    pub fn stored_peers(&self) -> impl Iterator<Item = (PeerId, StoredPeer)> {
        self.forwarder.peers.iter().filter_map(|peer| Some((peer.id, describe(&self.forwarder, peer)?)))
    }
}

/// Returns what to store of a peer; `None` if the peer is not to be stored. A peer that still waits for an address that
/// another peer holds is not stored, because the record doesn't say which address that is.
fn describe(forwarder: &Forwarder, peer: &Peer) -> Option<StoredPeer> {
    let has_any = peer.address().is_some() || !peer.claims.lost().is_empty();
    if peer.claims.is_waiting() || peer.claims.is_bound() && !has_any {
        return None;
    }
    let since = peer.claims.held().map(|address| forwarder.registry.claim_of(address).map_or(0, |claim| claim.since.0));
    let (kind, rules) = rule::encode_all(peer.rules.iter().map(|checked| &checked.rule))?;
    Some(StoredPeer {
        serial: peer.session.serial?,
        credentials: peer.session.credentials,
        identity: peer.identity.clone(),
        addresses: peer.claims.held().collect(),
        since: since.collect(),
        lost: peer.claims.lost().to_vec(),
        is_bound: peer.claims.is_bound(),
        autoconf_name: peer.session.autoconf_name,
        has_chosen_address: peer.session.has_chosen_address,
        rules,
        rules_are_extended: kind == FrameKind::ExtendedRules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    /// The next router would restore only the address that the peer holds, and the peer could get no other one any more.
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
            describe(forwarder, forwarder.peers.get(id(2)).expect("it is there")).map(|kept| kept.addresses)
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
