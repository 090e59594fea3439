use std::time::Instant;

use etherparse::PacketBuilder;
use tuntap_wire::autoconf::{ClaimRequest, ClaimedAddress, Configuration, ConfigurationRequest, name_hash};
use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::holding::RouterId;

use super::super::Settings;
use super::super::frames::BUFFER_LEN;
use super::super::testing::{self, TestShell};
use super::*;
use crate::policy::Policy;
use crate::policy::counters::SharedMemory;
use crate::policy::drops::DropReason;
use crate::policy::forward::Forwarder;
use crate::policy::guard::GuardPolicy;
use crate::policy::limits::Limits;

pub const NOW: u64 = 1_000_000_000;

pub fn address(host: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, host])
}

fn holding(number: u64, since: u64) -> Holding {
    Holding { router: RouterId::new(number).expect("not 0"), since: ClaimTime(since) }
}

/// A packet as a device gives it: behind its header.
fn packet(src: u8, dst: u8) -> Vec<u8> {
    let mut bytes = vec![0; 10];
    PacketBuilder::ipv4([10, 0, 0, src], [10, 0, 0, dst], 64)
        .udp(5, 53)
        .write(&mut bytes, b"")
        .expect("a valid packet");
    bytes
}

/// A router, whose network is 10.0.0.1/29, and its surroundings.
pub struct Host {
    pub router: Router,
    pub shell: TestShell,
    pub now: Instant,
}

impl Host {
    pub fn new(number: u64) -> Self {
        let networks = vec!["10.0.0.1/29".parse().expect("a network")];
        let guard = GuardPolicy { own: networks.clone(), is_strict: true, ..GuardPolicy::default() };
        let policy = Policy { networks, guard, switch: true, ..Policy::default() };
        let limits = Limits { flows: Limits::MIN_FLOWS, ..Limits::default() };
        let (mut shell, now) = (TestShell::default(), Instant::now());
        let settings = Settings { router: RouterId::new(number), ..Settings::default() };
        let mut router =
            Router::new(Forwarder::with_memory(policy, 1, &limits, SharedMemory::default()), settings, now);
        router.set_clock(&mut shell, ClaimTime(NOW));
        Self { router, shell, now }
    }

    pub fn join(&mut self) -> PeerId {
        let credentials = PeerCredentials { pid: 1, uid: 0, gid: 0 };
        testing::connect_in_frames(&mut self.router, &mut self.shell, credentials, self.now)
    }

    pub fn leave(&mut self, id: PeerId) {
        self.router.connection_ended(&mut self.shell, id, None, self.now);
    }

    pub fn send(&mut self, id: PeerId, src: u8, dst: u8) {
        self.router.device_packet(&mut self.shell, id, &packet(src, dst), None);
    }

    fn held(&mut self, host: u8, holding: Holding) {
        self.router.held_elsewhere(&mut self.shell, Source::Routes, address(host), holding);
    }

    pub fn holder(&self, host: u8) -> Option<PeerId> {
        self.router.forwarder().holder(address(host))
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.router.counters().drops.get(reason)
    }

    fn lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.shell.lines).iter().map(ToString::to_string).collect()
    }

    fn changes(&mut self) -> Vec<(IpAddr, Option<Holding>)> {
        let ClaimChanges::Of(mut changes) = self.router.take_claim_changes() else { panic!("too many") };
        changes.sort_unstable_by_key(|(address, _)| *address);
        changes
    }

    /// Sends a request before any packet, and returns the answer.
    fn ask(&mut self, id: PeerId, kind: u8, payload: &[u8]) -> Configuration {
        let len = u16::try_from(payload.len()).expect("short").to_le_bytes();
        let frame = [&[0, len[0], len[1], kind][..], payload].concat();
        let mut buffer = vec![0; BUFFER_LEN];
        let before = self.router.peer(id).expect("it is there").waiting().len();
        buffer[..frame.len()].copy_from_slice(&frame);
        self.router.received(&mut self.shell, id, &buffer[..frame.len()], frame.len(), self.now);
        let answer = self.router.peer(id).expect("it is there").waiting()[before..].to_vec();
        Configuration::decode(&answer[4..]).expect("an answer")
    }

    fn request(&mut self, id: PeerId, device: &str) -> Configuration {
        let request = ConfigurationRequest { v4: true, v6: false, name: name_hash("vassal", device) };
        self.ask(id, tuntap_wire::frame::FrameKind::ConfigurationRequest.modifier2(), &request.encode())
    }

    /// Asks for nothing, as devices do before they name their addresses.
    fn introduce(&mut self, id: PeerId) {
        let request = ConfigurationRequest { v4: false, v6: false, name: name_hash("vassal", "uwsgi0") };
        self.ask(id, tuntap_wire::frame::FrameKind::ConfigurationRequest.modifier2(), &request.encode());
    }

    fn claim(&mut self, id: PeerId, host: u8, assigned: bool) -> Configuration {
        let claim = ClaimRequest { addresses: vec![ClaimedAddress { address: address(host), assigned }] };
        self.ask(id, tuntap_wire::frame::FrameKind::ClaimRequest.modifier2(), &claim.encode())
    }
}

#[test]
fn address_that_is_held_elsewhere_is_refused_until_it_is_free() {
    let mut host = Host::new(5);
    let id = host.join();
    host.held(2, holding(9, NOW + 5));
    for _ in 0..3 {
        host.send(id, 2, 3);
    }
    let refused = "peer (pid 1, uid 0) can't have the address 10.0.0.2: a vassal of another host holds it \
                   (router 0000000000000009, told by routes)";
    assert_eq!(
        (host.holder(2), host.drops(DropReason::HeldElsewhere), host.lines()),
        (None, 3, vec![refused.to_owned()])
    );
    assert_eq!((host.router.counters().refused_elsewhere, host.changes()), (3, vec![]));
    let other = host.join();
    host.send(other, 2, 3);
    assert_eq!(host.lines(), Vec::<String>::new(), "it was logged for this address and this router");
    host.router.released_elsewhere(Source::Routes, address(2));
    host.send(id, 2, 3);
    assert_eq!((host.holder(2), host.shell.to_tun.len()), (Some(id), 1));
    assert_eq!(host.changes(), [(address(2), Some(holding(5, NOW + 6)))], "later than the one before, by any clock");
    host.leave(id);
    assert_eq!(host.changes(), [(address(2), None)]);
}

#[test]
fn source_that_is_gone_holds_nothing() {
    let mut host = Host::new(5);
    let id = host.join();
    host.router.held_elsewhere(&mut host.shell, Source::Trunk(3), address(2), holding(9, NOW));
    host.router.held_elsewhere(&mut host.shell, Source::Trunk(3), address(3), holding(9, NOW));
    assert_eq!(host.router.elsewhere().sources().collect::<Vec<_>>(), [(Source::Trunk(3), 2)]);
    host.send(id, 2, 9);
    assert_eq!(host.holder(2), None);
    assert_eq!(host.router.forget_source(Source::Trunk(3)), 2);
    host.send(id, 2, 9);
    assert_eq!(host.holder(2), Some(id));
}

#[test]
fn newer_claim_elsewhere_takes_the_address_and_an_older_one_does_not() {
    let mut host = Host::new(5);
    let (id, other) = (host.join(), host.join());
    host.send(id, 2, 3);
    host.send(other, 3, 2);
    assert_eq!(
        host.shell.to_devices.len() + usize::from(host.router.peer(id).is_some_and(|peer| peer.queued() > 0)),
        1
    );
    host.lines();
    host.held(2, holding(9, NOW - 1));
    assert_eq!((host.holder(2), host.lines().len()), (Some(id), 0));
    host.held(2, holding(9, NOW + 1));
    let lost = "peer (pid 1, uid 0) has lost the address 10.0.0.2: a vassal of another host has claimed it later \
                (router 0000000000000009, told by routes)";
    assert_eq!((host.holder(2), host.lines()), (None, vec![lost.to_owned()]));
    assert_eq!(host.router.counters().lost_elsewhere, 1);
    assert_eq!(host.changes(), [(address(2), None), (address(3), Some(holding(5, NOW)))]);
    // Flows that were known go elsewhere now, or nowhere.
    let (to_tun, queued) = (host.shell.to_tun.len(), host.router.peer(id).expect("there").queued());
    host.send(id, 2, 3);
    assert_eq!(host.drops(DropReason::HeldElsewhere), 1);
    host.send(other, 3, 2);
    assert_eq!((host.shell.to_tun.len(), host.router.peer(id).expect("there").queued()), (to_tun + 1, queued));
    let now = host.now;
    host.router.tun_packet(&mut host.shell, &packet(3, 2), now, now);
    assert_eq!(host.drops(DropReason::NoPeer), 1);
    // It gets the address again, and its flows go on.
    host.router.forget_source(Source::Routes);
    host.send(id, 2, 3);
    assert_eq!(host.changes(), [(address(2), Some(holding(5, NOW + 2)))]);
    assert_eq!(host.holder(2), Some(id));
}

#[test]
fn equal_times_are_decided_by_the_routers() {
    for (there, is_lost) in [(4, false), (6, true)] {
        let mut host = Host::new(5);
        let id = host.join();
        host.send(id, 2, 9);
        host.held(2, holding(there, NOW));
        assert_eq!(host.holder(2).is_none(), is_lost);
    }
}

#[test]
fn clock_that_is_set_back_or_forward_keeps_the_claims() {
    let mut host = Host::new(5);
    let (id, other) = (host.join(), host.join());
    host.send(id, 2, 9);
    host.router.set_clock(&mut host.shell, ClaimTime(NOW - 1000));
    host.send(other, 3, 9);
    host.router.set_clock(&mut host.shell, ClaimTime(NOW + 1_000_000_000));
    host.send(id, 2, 8);
    let expected = [(address(2), Some(holding(5, NOW))), (address(3), Some(holding(5, NOW - 1000)))];
    assert_eq!(host.changes(), expected);
    let mut all: Vec<_> = host.router.local_claims().map(|(address, holding)| (address, Some(holding))).collect();
    all.sort_unstable_by_key(|(address, _)| *address);
    assert_eq!(all, expected);
    // The same address has later and later times, whatever the clock says.
    host.leave(id);
    host.router.set_clock(&mut host.shell, ClaimTime(NOW - 2000));
    host.send(other, 3, 9);
    let third = host.join();
    host.send(third, 2, 9);
    assert_eq!(host.router.forwarder().holding(address(2)), Some(holding(5, NOW + 1)));
}

#[test]
fn absurd_time_takes_nothing_until_it_is_right() {
    let mut host = Host::new(5);
    let id = host.join();
    host.send(id, 2, 9);
    host.lines();
    let absurd = NOW + 400 * 24 * 3_600_000;
    host.held(2, holding(9, absurd));
    host.held(3, holding(9, absurd));
    let lines = host.lines();
    assert!(matches!(&lines[..], [line] if line.contains("the clock of another host")), "{lines:?}");
    assert_eq!((host.holder(2), host.router.elsewhere().refused().ahead), (Some(id), 2));
    host.router.set_clock(&mut host.shell, ClaimTime(absurd));
    assert_eq!((host.holder(2), host.lines().len()), (None, 1), "this host's clock was wrong");
}

#[test]
fn chosen_addresses_are_free_on_all_hosts() {
    let mut host = Host::new(5);
    (2..6).for_each(|last| host.held(last, holding(9, NOW)));
    let id = host.join();
    assert_eq!(host.request(id, "uwsgi0").addresses, ["10.0.0.6/29".parse().expect("a network")]);
    let late = host.join();
    let refused = host.request(late, "uwsgi1").refused;
    assert!(refused[0].reason.contains("all ipv4 addresses of the router's networks are taken"), "{refused:?}");
    host.lines();
    for _ in 0..2 {
        let refused = host.claim(late, 2, true).refused;
        assert_eq!(refused[0].reason, "a vassal of another host holds it (router 0000000000000009)");
        assert!(refused[0].for_good);
    }
    assert_eq!((host.lines().len(), host.router.counters().refused_elsewhere), (1, 2));
    host.router.released_elsewhere(Source::Routes, address(2));
    assert_eq!(host.claim(late, 2, true).addresses, ["10.0.0.2/29".parse().expect("a network")]);
}

#[test]
fn device_that_has_lost_a_chosen_address_gets_another_one_on_a_new_start() {
    let mut host = Host::new(5);
    let id = host.join();
    let first = host.request(id, "uwsgi0").addresses[0].addr();
    let IpAddr::V4(last) = first else { panic!("{first}") };
    let last = last.octets()[3];
    host.lines();
    host.held(last, holding(9, NOW + 5));
    assert!(host.router.peer(id).is_none(), "its connection is closed");
    assert_eq!((host.lines().len(), host.router.counters().lost_elsewhere), (1, 1));
    assert_eq!((host.router.counters().totals.faults, host.changes()), (0, vec![(first, None)]));
    // It connects again, as devices do, and hears that there is no use in waiting.
    let again = host.join();
    host.introduce(again);
    let refused = host.claim(again, last, true).refused;
    assert!(refused[0].for_good);
    host.leave(again);
    let new = host.join();
    assert_ne!(host.request(new, "uwsgi0").addresses[0].addr(), first);
}

#[test]
fn device_that_has_named_its_address_waits_until_it_is_free() {
    let mut host = Host::new(5);
    let id = host.join();
    host.introduce(id);
    assert_eq!(host.claim(id, 2, false).addresses.len(), 1);
    host.held(2, holding(9, NOW + 5));
    host.send(id, 2, 9);
    assert_eq!((host.holder(2), host.drops(DropReason::HeldElsewhere)), (None, 1));
    host.send(id, 3, 9);
    assert_eq!(host.drops(DropReason::SpoofedSource), 1, "it is bound to the address that it has named");
    let refused = host.claim(id, 2, false).refused;
    assert!(!refused[0].for_good);
    host.router.forget_source(Source::Routes);
    host.send(id, 2, 9);
    assert_eq!(host.holder(2), Some(id));
}

#[test]
fn next_router_tells_the_same_times_and_knows_what_was_lost() {
    let mut host = Host::new(5);
    let (id, other) = (host.join(), host.join());
    for (id, last) in [(id, 2), (other, 3)] {
        host.introduce(id);
        host.claim(id, last, false);
    }
    for id in [id, other] {
        host.router.forwarder.peers.get_mut(id).expect("there").session.serial = Some(u64::from(id.index));
    }
    let claims: Vec<_> = host.router.local_claims().collect();
    let (lost, _) =
        claims.iter().find(|(address, _)| host.router.forwarder().holder(*address) == Some(id)).expect("held");
    host.router.held_elsewhere(&mut host.shell, Source::Routes, *lost, holding(9, NOW + 5));
    let stored: Vec<_> = host.router.stored_peers().map(|(_, stored)| stored).collect();
    let mut next = Host::new(5);
    next.router.set_clock(&mut next.shell, ClaimTime(NOW + 77));
    for stored in &stored {
        next.router.restore(&mut next.shell, stored, None, next.now);
    }
    let left: Vec<_> = claims.iter().copied().filter(|(address, _)| address != lost).collect();
    assert_eq!(next.router.local_claims().collect::<Vec<_>>(), left);
    let IpAddr::V4(last) = *lost else { panic!("{lost}") };
    let restored = next.router.peers().find(|peer| peer.addresses().count() == 0).expect("the loser").id();
    next.send(restored, last.octets()[3], 9);
    assert_eq!(next.router.forwarder().holder(*lost), Some(restored));
    // If the next router hears of the newer claim before the peer is there, the peer loses it as well.
    let mut third = Host::new(5);
    let (kept, since) = left[0];
    third.router.held_elsewhere(&mut third.shell, Source::Routes, kept, holding(9, since.since.0 + 1));
    for stored in &stored {
        third.router.restore(&mut third.shell, stored, None, third.now);
    }
    assert_eq!((third.router.forwarder().holder(kept), third.router.counters().lost_elsewhere), (None, 1));
}

#[test]
fn router_without_an_id_tells_nothing() {
    let mut host = Host::new(0);
    let id = host.join();
    host.send(id, 2, 9);
    assert_eq!((host.holder(2), host.changes(), host.router.local_claims().count()), (Some(id), vec![], 0));
}
