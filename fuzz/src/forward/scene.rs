//! Applies events to the forwarder and to the oracle, and compares the results.

use tuntap_core::policy::assignment::{Applicant, AssignmentError, Candidate};
use tuntap_core::policy::claims::AssignResult;
use tuntap_core::policy::forward::Forwarder;
use tuntap_core::policy::grant::Identity;
use tuntap_core::policy::pool::{Key, PoolError};
use tuntap_core::policy::registry::PeerId;
use tuntap_core::policy::script::NoScript;
use tuntap_core::policy::verdict::{PacketSource, RestoredPeer};
use tuntap_wire::autoconf::{ClaimedAddress, Family};
use tuntap_wire::ip::{Packet, PacketError};

use super::super::input::Input;
use super::super::probe::Probe;
use super::oracle::{Oracle, Peer, verdict as verdict_of};
use super::policy::{address, read_identity, read_peer_rules};
use super::{MOST_V6, PEERS};

/// The forwarder under test and the oracle.
pub(super) struct Scene {
    pub(super) forwarder: Forwarder,
    pub(super) oracle: Oracle,
    /// Number of peers that were added so far.
    pub(super) added: u32,
}

impl Scene {
    pub(super) fn step(&mut self, input: &mut Input<'_>) {
        let kind = input.byte();
        let slot = input.below(PEERS);
        // Some events use the id of a peer that has left or has never existed.
        let id = match &self.oracle.peers[slot] {
            Some(peer) if kind < 0xf0 => peer.id,
            _ => PeerId { index: u32::try_from(slot).expect("below PEERS"), generation: u32::MAX },
        };
        match kind % 12 {
            0 => {
                self.add_peer(slot, id, input);
            }
            1 => self.remove_peer(id),
            2 => {
                let address = address(input);
                assert_eq!(self.forwarder.assign(id, address), self.oracle.assign(id, address));
            }
            3 => {
                let rules = read_peer_rules(input, self.oracle.rules.has_services);
                let verdict = self.forwarder.set_rules(id, rules.clone());
                assert_eq!(verdict, self.oracle.set_rules(id, rules));
            }
            6 => self.inward(input, PacketSource::Tun),
            7 => self.inward(input, PacketSource::Gateway),
            8 => self.restore_peer(slot, id, input),
            9 => self.identify(id, input),
            10 => {
                let source = address(input);
                assert_eq!(self.forwarder.accepts_datagrams_of(source), self.oracle.accepts_datagrams_of(source));
            }
            11 if !self.oracle.rules.networks.is_empty() && input.flag() => self.ask(id, input),
            11 if !self.oracle.rules.networks.is_empty() => self.claim(id, input),
            11 if self.oracle.rules.has_services => {
                let address = address(input);
                assert_eq!(self.forwarder.assign_chosen(id, address), self.oracle.lease(id, address));
            }
            _ => self.outward(id, input),
        }
        self.check_peers();
    }

    /// Compares what the statistics show, and what a restarted router restores.
    fn check_peers(&self) {
        for peer in self.oracle.peers.iter().flatten() {
            assert!(self.forwarder.addresses(peer.id).eq(peer.addresses()));
            assert_eq!(self.forwarder.address(peer.id), peer.addresses().next());
            assert_eq!(self.forwarder.is_bound(peer.id), peer.is_bound);
            assert_eq!(self.forwarder.is_waiting(peer.id), peer.assigned.is_some());
            assert!(peer.v6.len() <= MOST_V6);
            for address in peer.addresses() {
                assert_eq!(self.forwarder.holder(address), Some(peer.id), "{address}");
            }
            assert!(self.forwarder.rules(peer.id).eq(&peer.rules));
            let identity = self.forwarder.identity(peer.id).expect("a peer");
            let mut groups = peer.identity.groups.clone();
            groups.retain(|group| self.oracle.is_named(*group));
            assert_eq!(*identity, Identity { groups, ..peer.identity.clone() });
        }
    }

    fn remove_peer(&mut self, id: PeerId) {
        self.forwarder.remove_peer(id);
        self.oracle.remove(id);
    }

    /// Removes the peer of a slot, and returns an id for another one. `None` if the id was stale, so that nobody was
    /// removed.
    fn make_room(&mut self, slot: usize, id: PeerId) -> Option<PeerId> {
        self.remove_peer(id);
        let generation = self.added;
        self.oracle.peers[slot].is_none().then_some(PeerId { index: id.index, generation })
    }

    fn add_peer(&mut self, slot: usize, id: PeerId, input: &mut Input<'_>) {
        let identity = self.identity(input);
        if let Some(id) = self.make_room(slot, id) {
            self.added += 1;
            self.forwarder.add_peer(id, identity.clone());
            self.oracle.peers[slot] = Some(Peer::new(id, identity));
        }
    }

    fn restore_peer(&mut self, slot: usize, id: PeerId, input: &mut Input<'_>) {
        let identity = self.identity(input);
        let kind = input.byte();
        let is_bound = kind & 2 != 0;
        let count = if kind & 1 == 0 { 0 } else { 1 + usize::from(kind >> 2 & 15) };
        let addresses: Vec<_> = (0..count).map(|_| address(input)).collect();
        let rules = read_peer_rules(input, self.oracle.rules.has_services);
        if let Some(id) = self.make_room(slot, id) {
            self.added += 1;
            let legacy = RestoredPeer {
                identity: identity.clone(),
                namespace: None,
                rules: rules.clone(),
                addresses: &addresses,
                since: &[],
                lost: &[],
                is_bound,
            };
            self.forwarder.restore(id, legacy);
            self.oracle.peers[slot] = Some(Peer { rules, has_sent: true, ..Peer::new(id, identity) });
            for address in addresses {
                self.oracle.restore(id, address, is_bound);
            }
            self.oracle.peer_mut(id).expect("it was just added").is_bound = is_bound;
        }
    }

    /// A router learns a peer's identity before the peer gets an address.
    fn identify(&mut self, id: PeerId, input: &mut Input<'_>) {
        let identity = self.identity(input);
        if self.oracle.peer_mut(id).is_some_and(|peer| peer.assigned.is_some() || peer.addresses().next().is_some()) {
            return;
        }
        self.forwarder.identify(id, identity.clone());
        if let Some(peer) = self.oracle.peer_mut(id) {
            peer.identity = identity;
        }
    }

    /// Without grants, identities don't matter.
    fn identity(&self, input: &mut Input<'_>) -> Identity {
        if self.oracle.rules.grants.is_empty() {
            Identity { uid: 0, gid: 0, groups: Vec::new() }
        } else {
            read_identity(input)
        }
    }

    /// A peer requests an address of a family of which it has none. The router chooses one.
    fn ask(&mut self, id: PeerId, input: &mut Input<'_>) {
        let (family, name) = (Family::ALL[input.below(2)], input.byte().into());
        let are_dead = input.flag();
        if self.forwarder.address_of(id, family).is_some() {
            return;
        }
        let has_network = self.oracle.rules.networks.iter().any(|net| Family::of(net.addr()) == family);
        match self.forwarder.choose(applicant(id, name), family, |_| are_dead) {
            Ok(chosen) => {
                assert_eq!(Family::of(chosen.address), family);
                assert!(self.oracle.may_give(chosen.address, id), "{chosen:?}");
                assert!(!self.oracle.passes_nothing_from(chosen.address), "{chosen:?}");
                assert!(!self.oracle.is_taken(chosen.address), "{chosen:?}");
                assert!(are_dead || chosen.dead_holder.is_none());
                self.give(id, chosen, name);
            }
            Err(AssignmentError::NoPeer) => assert!(self.oracle.peer(id).is_none()),
            Err(AssignmentError::Pool(PoolError::NoNetwork(_))) => assert!(!has_network),
            Err(
                AssignmentError::Pool(PoolError::Full(_)) | AssignmentError::Firewall | AssignmentError::NotClaimable,
            ) => {
                assert!(has_network)
            }
            Err(refusal) => panic!("{refusal:?}"),
        }
    }

    /// A peer claims an address by a message.
    fn claim(&mut self, id: PeerId, input: &mut Input<'_>) {
        let (address, name) = (address(input), input.byte().into());
        let (assigned, are_dead) = (input.flag(), input.flag());
        let chosen = self.forwarder.consider(applicant(id, name), ClaimedAddress { address, assigned }, |_| are_dead);
        assert_eq!(chosen, self.oracle.consider(id, address, assigned, are_dead));
        if let Ok(chosen) = chosen {
            self.give(id, chosen, name);
        }
    }

    /// Gives a peer the address. A dead holder is removed before.
    fn give(&mut self, id: PeerId, chosen: Candidate, name: u64) {
        let Candidate { address, dead_holder } = chosen;
        assert_eq!(dead_holder, self.oracle.holder(address).map(|holder| holder.id).filter(|holder| *holder != id));
        if let Some(holder) = dead_holder {
            self.remove_peer(holder);
        }
        let is_new = self.oracle.holder(address).is_none();
        let expected = match self.oracle.lease(id, address).expect("it is there") {
            AssignResult::Granted => Ok(is_new),
            AssignResult::HeldBy(_) => Err(AssignmentError::Held),
            AssignResult::HeldElsewhere(told) => Err(AssignmentError::HeldElsewhere(told)),
            AssignResult::NotGranted => Err(AssignmentError::NotGranted),
            AssignResult::Taken => Err(AssignmentError::NotClaimable),
            AssignResult::TooMany => Err(AssignmentError::TooMany),
        };
        assert_eq!(self.forwarder.give(id, address, applicant(id, name).key), expected, "{address}");
    }

    fn outward(&mut self, id: PeerId, input: &mut Input<'_>) {
        let probe = self.probe(input);
        if let Some(packet) = parse(&probe) {
            let expected = self.oracle.outward(id, &probe);
            // The oracle's rules have no numbers.
            let seen = self.forwarder.outbound(id, &packet, &mut NoScript);
            let verdict = verdict_of(seen.to, seen.claimed, seen.is_first);
            assert_eq!(verdict, expected, "{id:?} {probe:?}");
        }
    }

    fn inward(&mut self, input: &mut Input<'_>, origin: PacketSource) {
        let probe = self.probe(input);
        if let Some(packet) = parse(&probe) {
            assert_eq!(
                self.forwarder.inbound(origin, &packet, &mut NoScript).to,
                self.oracle.inward(origin, &probe),
                "{probe:?}"
            );
        }
    }

    fn probe(&self, input: &mut Input<'_>) -> Probe {
        let (src, dst) = (address(input), address(input));
        Probe::read(src, dst, self.oracle.rules.has_services, input)
    }
}

/// A peer that shows no credentials.
fn applicant(id: PeerId, name: u64) -> Applicant {
    Applicant { id, key: Key { uid: 0, name }, is_assigned: false }
}

/// Parses the packet. `None` for a source route: such a packet is always dropped.
fn parse(probe: &Probe) -> Option<Packet<'_>> {
    let packet = Packet::parse(&probe.bytes);
    let expected = if probe.is_source_routed { Err(PacketError::SourceRoute) } else { Ok(()) };
    assert_eq!(packet.map(|_| ()), expected, "{probe:?}");
    packet.ok()
}
