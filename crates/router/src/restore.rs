//! Attached peers and the store: they are written down as they come, and taken back by a router that follows one that
//! died. Peers in frames are not: a frame may have been cut in two, on either side.

use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use super::Setup;
use super::event_loop::EventLoop;
use super::peer::{Path, Peer, Stage, StreamReason};
use super::quarantine::{Origin, Record};
use super::store::{KeptPeer, Legacy};
use tuntap_core::policy::forward::{Forwarder, RestoredPeer};
use tuntap_core::policy::registry::PeerId;
use tuntap_sys::socket;
use tuntap_wire::attach::HelloReply;
use tuntap_wire::frame::FrameKind;
use tuntap_wire::rule;

/// How long nothing is rewritten after that failed: it costs as much as there are peers.
const REWRITE_PAUSE: Duration = Duration::from_secs(10);

/// Waits as long as the last router's end suggests.
pub fn pause(legacy: &Legacy, setup: &Setup) {
    if !legacy.pause.is_zero() {
        setup.logger.line(format_args!(
            "[tuntap-router] {}: {} routers in a row ended soon after their start, waiting {} s",
            setup.tun.name(),
            legacy.brief_runs,
            legacy.pause.as_secs()
        ));
        match &setup.master {
            // Its end is the end of the pause.
            Some(master) => _ = socket::wait_readable(master.as_fd(), legacy.pause),
            None => thread::sleep(legacy.pause),
        }
    }
}

impl EventLoop<'_> {
    /// Takes note of those whose devices the routers before this one didn't attach any more, and of the one whose device the last
    /// of them was writing to when it hung.
    pub(super) fn restore_spoilers(&mut self, legacy: &Legacy) {
        for (origin, record) in &legacy.spoilers {
            self.quarantine.restore(*origin, *record);
        }
        let Some(accused) = self.setup.heartbeat.take_accused() else { return };
        let found = legacy.peers.iter().find(|(kept, _)| kept.serial == accused);
        let Some((KeptPeer { credentials, addresses, .. }, connection)) = found else { return };
        let origin = Origin::of(*credentials, connection.as_fd());
        let record = self.quarantine.add_hang(origin, Instant::now());
        self.remember_spoiler(origin, record);
        self.totals.detached += 1;
        let name = self.name();
        let address = addresses.first().map_or_else(|| "without address".to_owned(), ToString::to_string);
        self.setup.logger.line(format_args!(
            "[tuntap-router] {name}: peer {address} (pid {}, uid {}) goes back to frames for {} s: the router before this one hung \
             while it wrote a packet to its device",
            credentials.pid,
            credentials.uid,
            record.period.as_secs()
        ));
    }

    /// Has the next router know, too.
    pub(super) fn remember_spoiler(&mut self, origin: Origin, record: Record) {
        let result = self.keeper.spoil(origin, record);
        self.after_note(result);
    }

    /// Takes back the peers of the router before this one, and asks them for their devices.
    pub(super) fn restore(&mut self, peers: Vec<(KeptPeer, OwnedFd)>) {
        let found = peers.len();
        for (kept, connection) in peers {
            // There may be tens of thousands.
            self.pulse.beat();
            if !socket::is_hung_up(connection.as_fd()) {
                self.restore_peer(kept, connection);
            }
        }
        // The first event may be long in coming.
        self.flush_peers();
        if found > 0 {
            let (name, taken) = (self.name(), self.totals.restored);
            self.setup.logger.line(format_args!(
                "[tuntap-router] {name}: {taken} of {found} vassals of the router before this one are still there"
            ));
        }
    }

    fn restore_peer(&mut self, kept: KeptPeer, connection: OwnedFd) {
        // It may say hello once more, as in its first frame.
        socket::receive_descriptors(connection.as_fd(), true);
        let mut peer = Peer::new(connection, kept.credentials, Stage::FirstFrame);
        peer.path = Path::Stream(StreamReason::Restored);
        peer.store_serial = Some(self.keeper.new_serial());
        peer.lease_name = kept.lease_name;
        let namespace = self.namespace_of(peer.as_fd());
        let Some(id) = self.peers.insert(peer) else { return };
        let decode = if kept.rules_are_extended { rule::decode_all_extended } else { rule::decode_all };
        let rules = decode(&kept.rules).unwrap_or_default();
        let KeptPeer { identity, addresses, is_bound, .. } = &kept;
        let identity = identity.clone();
        self.forwarder.restore(id, RestoredPeer { identity, namespace, rules, addresses, is_bound: *is_bound });
        if let Some(key) = kept.lease_name.and_then(|name| self.lease_key(id, name)) {
            kept.addresses.iter().for_each(|address| self.forwarder.remember(id, *address, key));
        }
        self.admission.enter(id, self.forwarder.account(id), Instant::now());
        if self.forwarder.address(id).is_some() {
            self.admission.claimed(id);
        }
        self.totals.restored += 1;
        self.write_down(id);
        self.watch_peer(id);
        self.answer(id, HelloReply::Renew);
    }

    /// Keeps an attached peer, or what is new about it, for a router that may follow this one.
    pub(super) fn keep(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        if matches!(peer.path, Path::Attached(_)) {
            peer.store_serial.get_or_insert_with(|| self.keeper.new_serial());
            self.write_down(id);
        }
    }

    /// Keeps a peer no more that is not attached any more.
    pub(super) fn keep_no_more(&mut self, id: PeerId) {
        if let Some(serial) = self.peers.get_mut(id).and_then(|peer| peer.store_serial.take()) {
            self.strike_out(serial);
        }
    }

    /// Strikes out a peer by its number.
    pub(super) fn strike_out(&mut self, serial: u64) {
        let result = self.keeper.strike_out(serial);
        self.after_note(result);
    }

    fn write_down(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(id) else { return };
        let Some(kept) = describe(id, peer, &self.forwarder) else { return };
        let result = self.keeper.keep(kept, peer.as_fd());
        self.after_note(result);
    }

    /// A note that found no room is in the rewritten state, with all the others.
    fn after_note(&mut self, result: nix::Result<()>) {
        let now = Instant::now();
        let is_wanted = result.is_err() || self.keeper.is_due();
        if !is_wanted || self.rewrite_again_at.is_some_and(|time| now < time) {
            return;
        }
        let (peers, forwarder) = (&self.peers, &self.forwarder);
        let kept = peers.iter().filter_map(|(id, peer)| Some((describe(id, peer, forwarder)?, peer.as_fd())));
        let result = self.keeper.rewrite(kept);
        self.rewrite_again_at = result.err().map(|errno| {
            let name = self.name();
            self.fault_log.line(
                now,
                None,
                format_args!("[tuntap-router] {name}: not all vassals would survive this router's death: {errno}"),
            );
            now + REWRITE_PAUSE
        });
    }
}

/// Nothing for peers that are not kept. One that still waits for the address of another peer isn't: the next router would
/// not know for which.
fn describe(id: PeerId, peer: &Peer, forwarder: &Forwarder) -> Option<KeptPeer> {
    if forwarder.is_waiting(id) || forwarder.is_bound(id) && forwarder.address(id).is_none() {
        return None;
    }
    let (kind, rules) = rule::encode_all(forwarder.rules(id))?;
    Some(KeptPeer {
        serial: peer.store_serial?,
        credentials: peer.credentials,
        identity: forwarder.identity(id)?.clone(),
        addresses: forwarder.addresses(id).collect(),
        is_bound: forwarder.is_bound(id),
        lease_name: peer.lease_name,
        rules,
        rules_are_extended: kind == FrameKind::ExtendedRules,
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::os::unix::net::UnixStream;

    use super::*;
    use tuntap_core::policy::forward::Policy;
    use tuntap_core::policy::grant::Identity;
    use tuntap_wire::credentials::PeerCredentials;

    /// The next router would give it the one address that it holds, and no other any more.
    #[test]
    fn peer_that_waits_for_an_address_is_not_kept() {
        let id = |index| PeerId { index, generation: 0 };
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let mut forwarder = Forwarder::new(Policy::default(), 1);
        for index in [1, 2] {
            forwarder.add_peer(id(index), Identity { uid: 0, gid: 0, groups: Vec::new() });
        }
        let (connection, _other) = UnixStream::pair().expect("a pair");
        let mut peer = Peer::new(connection.into(), PeerCredentials { uid: 0, gid: 0, pid: 1 }, Stage::Frames);
        peer.store_serial = Some(1);
        let kept = |forwarder: &Forwarder| describe(id(2), &peer, forwarder).map(|kept| kept.addresses);
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
