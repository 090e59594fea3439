//! Tests of flows: who keeps them, who loses them, and what rules, counters and the script make of them.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::Policy;
use super::counters::{CounterSlot, RuleCount, SharedMemory};
use super::drops::DropReason;
use super::flows::{Fate, Phase};
use super::forward::Forwarder;
use super::grant::Identity;
use super::limits::Limits;
use super::pattern::{Action, PolicyRules, RuleId, RuleSpec};
use super::registry::PeerId;
use super::script::{NoScript, Script, ScriptQuery, ScriptVerdict};
use super::verdict::{Inbound, Outbound, PacketSource};
use tuntap_wire::ip::Packet;
use tuntap_wire::rule::Direction;
use tuntap_wire::selector::{ConnectionState, Selector};

const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

const LIMITS: Limits = Limits {
    flows: 1024,
    flows_per_peer: 256,
    peers: 0,
    peers_per_uid: 0,
    addresses_per_uid: None,
    unclaimed: 0,
    unclaimed_timeout: Duration::ZERO,
    queued_bytes: 0,
    device_rules: 0,
};

fn vassal(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0002 + number).into()
}

fn id(index: u32, generation: u32) -> PeerId {
    PeerId { index, generation }
}

fn packet(src: IpAddr, dst: IpAddr, ports: [u16; 2]) -> Vec<u8> {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) else { panic!("not of IPv4") };
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ipv4(src.octets(), dst.octets(), 64);
    builder.udp(ports[0], ports[1]).write(&mut bytes, &[]).expect("a valid packet");
    bytes
}

fn rule(id: u32, target: Action, state: Option<ConnectionState>) -> RuleSpec<Action> {
    RuleSpec::new(RuleId(id), Selector::ALL.with_state(state), target)
}

/// Only answers come in.
fn firewall() -> Policy {
    let established = rule(1, Action::Allow, Some(ConnectionState::Established));
    Policy { firewall_in: PolicyRules::of([established, rule(2, Action::Deny, None)]), ..Policy::default() }
}

fn with(policy: Policy, memory: SharedMemory, peers: u32) -> Forwarder {
    let mut forwarder = Forwarder::with_memory(policy, 7, &LIMITS, memory);
    (0..peers).for_each(|index| join(&mut forwarder, id(index, 0)));
    forwarder
}

/// A peer joins. Each slot has its user.
fn join(forwarder: &mut Forwarder, id: PeerId) {
    forwarder.add_peer(id, Identity { uid: id.index + 1, gid: 1, groups: Vec::new() });
}

fn out(forwarder: &mut Forwarder, id: PeerId, dst: IpAddr, ports: [u16; 2]) -> Outbound {
    let bytes = packet(vassal(id.index), dst, ports);
    forwarder.outbound(id, &Packet::parse(&bytes).expect("valid"), &mut NoScript).to
}

fn inn(forwarder: &mut Forwarder, src: IpAddr, dst: IpAddr, ports: [u16; 2]) -> Inbound {
    let bytes = packet(src, dst, ports);
    forwarder.inbound(PacketSource::Tun, &Packet::parse(&bytes).expect("valid"), &mut NoScript).to
}

/// Opens flows of a peer to the outside, from port 1 on, and has them answered and used.
fn open(forwarder: &mut Forwarder, id: PeerId, ports: u16) {
    for port in 1..=ports {
        assert_eq!(out(forwarder, id, OUTSIDE, [port, 53]), Outbound::Tun);
        assert!(answers(forwarder, id, port), "{port}");
        assert_eq!(out(forwarder, id, OUTSIDE, [port, 53]), Outbound::Tun);
    }
}

/// Returns true if an answer to an opened flow comes in.
fn answers(forwarder: &mut Forwarder, id: PeerId, port: u16) -> bool {
    inn(forwarder, OUTSIDE, vassal(id.index), [53, port]) == Inbound::Peer(id)
}

fn open_ones(forwarder: &mut Forwarder, id: PeerId, ports: u16) -> usize {
    (1..=ports).filter(|port| answers(forwarder, id, *port)).count()
}

/// The ports of a scan.
fn scan(count: u32) -> impl Iterator<Item = (u32, [u16; 2])> {
    (0..count).map(|probe| (probe >> 16, [4000, u16::try_from(probe & 0xffff).expect("16 bits")]))
}

#[test]
fn scanning_outside_evicts_nobody_elses_flow() {
    let mut forwarder = with(firewall(), SharedMemory::default(), 4);
    (1..4).for_each(|peer| open(&mut forwarder, id(peer, 0), 200));
    open(&mut forwarder, id(0, 0), 20);
    for (host, ports) in scan(1_000_000) {
        out(&mut forwarder, id(0, 0), vassal(0x10_0000 + host), ports);
    }
    for peer in 1..4 {
        assert_eq!(open_ones(&mut forwarder, id(peer, 0), 200), 200, "{peer}");
    }
    assert_eq!(open_ones(&mut forwarder, id(0, 0), 20), 20, "and none of its own that are in use");
    assert!(forwarder.flows.len() <= 3 * 200 + 256);
}

#[test]
fn scanning_another_vassal_evicts_nobody_elses_flow() {
    for switch in [true, false] {
        let allow = PolicyRules::of([rule(1, Action::Allow, None)]);
        let networks = vec!["10.255.0.1/8".parse().expect("a network")];
        let policy = Policy { switch, firewall_in: allow, networks, ..Policy::default() };
        let mut forwarder = with(policy, SharedMemory::default(), 3);
        (1..3).for_each(|peer| open(&mut forwarder, id(peer, 0), 250));
        for (host, ports) in scan(100_000) {
            let to = out(&mut forwarder, id(0, 0), vassal(1), [ports[0] + u16::try_from(host).expect("few"), ports[1]]);
            if switch {
                assert_eq!(to, Outbound::Peer(id(1, 0)));
            } else {
                inn(&mut forwarder, vassal(0), vassal(1), [ports[0] + u16::try_from(host).expect("few"), ports[1]]);
            }
        }
        let kept = |peer| {
            let flows = (0..forwarder.flows.entries()).filter_map(|at| forwarder.flows.known(at));
            flows.filter(|flow| flow.peer == peer && flow.phase() == Phase::Established).count()
        };
        assert_eq!([kept(id(1, 0)), kept(id(2, 0))], [250; 2], "{switch}");
        assert!(forwarder.flows.len() <= 2 * 250 + 256, "{switch}: {}", forwarder.flows.len());
    }
}

#[test]
fn scanning_a_vassal_from_outside_evicts_none_of_its_connections() {
    for allowed in [true, false] {
        let policy = if allowed { Policy::default() } else { firewall() };
        let mut forwarder = with(policy, SharedMemory::default(), 2);
        (0..2).for_each(|peer| open(&mut forwarder, id(peer, 0), 200));
        for (host, ports) in scan(100_000) {
            inn(&mut forwarder, vassal(0x10_0000 + host), vassal(0), ports);
        }
        let kept = |peer| {
            let flows = (0..forwarder.flows.entries()).filter_map(|at| forwarder.flows.known(at));
            flows.filter(|flow| flow.peer == peer && flow.phase() == Phase::Established).count()
        };
        assert_eq!([kept(id(0, 0)), kept(id(1, 0))], [200; 2], "{allowed}");
    }
}

/// Many who have few flows each fill the table. Those who have more than their part lose, not those who have less.
#[test]
fn full_table_costs_those_who_have_most() {
    let mut forwarder = with(firewall(), SharedMemory::default(), 40);
    open(&mut forwarder, id(0, 0), 10);
    (1..5).for_each(|peer| open(&mut forwarder, id(peer, 0), 250));
    for peer in 5..40 {
        open(&mut forwarder, id(peer, 0), 10);
    }
    assert_eq!(forwarder.flows.len(), 1024);
    for peer in (5..40).chain([0]) {
        assert_eq!(open_ones(&mut forwarder, id(peer, 0), 10), 10, "{peer}");
    }
    let left: Vec<_> = (1..5).map(|peer| open_ones(&mut forwarder, id(peer, 0), 250)).collect();
    assert!(left.iter().all(|left| (160..=167).contains(left)), "{left:?}");
}

#[test]
fn flows_of_those_who_left_go_first() {
    let mut forwarder = with(firewall(), SharedMemory::default(), 6);
    (0..4).for_each(|peer| open(&mut forwarder, id(peer, 0), 250));
    forwarder.remove_peer(id(0, 0));
    open(&mut forwarder, id(4, 0), 250);
    for peer in 1..5 {
        assert_eq!(open_ones(&mut forwarder, id(peer, 0), 250), 250, "{peer}");
    }
    assert_eq!(forwarder.flows.len(), 1024);
}

#[test]
fn vassal_that_reloads_goes_on_and_another_one_does_not() {
    let mut forwarder = with(firewall(), SharedMemory::default(), 2);
    open(&mut forwarder, id(0, 0), 3);
    forwarder.remove_peer(id(0, 0));
    // While nobody is there, the answer is not denied by the chain: a rejection would end the connection.
    let answer = |forwarder: &mut Forwarder, port| inn(forwarder, OUTSIDE, vassal(0), [53, port]);
    assert_eq!(answer(&mut forwarder, 1), Inbound::Drop(DropReason::NoPeer, None));
    join(&mut forwarder, id(0, 1));
    assert_eq!(forwarder.assign_chosen(id(0, 1), vassal(0)), Some(super::claims::AssignResult::Granted));
    assert!(answers(&mut forwarder, id(0, 1), 1), "the same user, before its first packet");
    assert_eq!(out(&mut forwarder, id(0, 1), OUTSIDE, [2, 53]), Outbound::Tun);
    assert!(answers(&mut forwarder, id(0, 1), 2));
    forwarder.remove_peer(id(0, 1));
    forwarder.add_peer(id(0, 2), Identity { uid: 77, gid: 1, groups: Vec::new() });
    assert_eq!(forwarder.assign_chosen(id(0, 2), vassal(0)), Some(super::claims::AssignResult::Granted));
    let denied = Inbound::Drop(DropReason::Firewall, Some(id(0, 2)));
    assert_eq!([1, 2, 3].map(|port| answer(&mut forwarder, port)), [denied; 3], "another user");
}

/// A packet with another peer's source neither uses its flow nor changes it.
#[test]
fn forged_source_leaves_the_flow_alone() {
    let mut forwarder = with(firewall(), SharedMemory::default(), 2);
    open(&mut forwarder, id(0, 0), 1);
    let before = format!("{:?}", forwarder.flows.known(0));
    let bytes = packet(vassal(0), OUTSIDE, [1, 53]);
    let verdict = forwarder.outbound(id(1, 0), &Packet::parse(&bytes).expect("valid"), &mut NoScript);
    assert_eq!(verdict.to, Outbound::Contested { address: vassal(0), holder: id(0, 0) });
    assert_eq!(format!("{:?}", forwarder.flows.known(0)), before);
    assert_eq!(forwarder.flows.len(), 1);
}

#[test]
fn flows_outlive_their_router() {
    let memory = SharedMemory::leaked(16, LIMITS.flows);
    let mut forwarder = with(firewall(), memory, 2);
    (0..2).for_each(|peer| open(&mut forwarder, id(peer, 0), 100));
    let packets = forwarder.flows.known(5).map(|flow| (flow.out.packets, flow.inn.packets));
    drop(forwarder);
    // A record that was written only in part is none.
    memory.flows[16 * 3 + 1].fetch_xor(1, Ordering::Relaxed);
    let mut later = with(firewall(), SharedMemory { start: 60, ..memory }, 0);
    assert_eq!(later.flows.len(), 199);
    assert_eq!(later.flows.known(5).map(|flow| (flow.out.packets, flow.inn.packets)), packets);
    for index in 0..2 {
        join(&mut later, id(index, 9));
        later.assign_chosen(id(index, 9), vassal(index));
    }
    assert_eq!(open_ones(&mut later, id(0, 9), 100) + open_ones(&mut later, id(1, 9), 100), 199);
    let much_later = with(firewall(), SharedMemory { start: 600, ..memory }, 0);
    assert_eq!(much_later.flows.len(), 0, "they are over");
}

#[test]
fn each_packet_counts_for_each_rule_on_its_way() {
    let memory = SharedMemory::leaked(16, 0);
    let named = |id, counter| RuleSpec { counter: Some(CounterSlot(counter)), ..rule(id, Action::Allow, None) };
    let policy = Policy {
        firewall_out: PolicyRules::of([named(1, 10)]),
        firewall_in: PolicyRules::of([named(2, 10)]),
        switch: true,
        ..Policy::default()
    };
    let mut forwarder = with(policy, memory, 2);
    assert_eq!(out(&mut forwarder, id(1, 0), OUTSIDE, [1, 2]), Outbound::Tun);
    for _ in 0..5 {
        assert_eq!(out(&mut forwarder, id(0, 0), vassal(1), [1, 2]), Outbound::Peer(id(1, 0)));
    }
    let count = |slot| forwarder.counters.get(CounterSlot(slot));
    assert_eq!(count(1), RuleCount { packets: 6, bytes: 6 * 28 });
    assert_eq!(count(2), RuleCount { packets: 5, bytes: 5 * 28 });
    assert_eq!(count(10), RuleCount { packets: 11, bytes: 11 * 28 });
    let flows = (0..3).filter_map(|at| forwarder.flows.known(at));
    let mut seen: Vec<_> = flows.map(|flow| (flow.out.packets, flow.inn.packets)).collect();
    seen.sort_unstable();
    assert_eq!(seen, [(0, 5), (1, 0), (5, 0)]);
}

#[test]
fn rule_over_its_rate_leaves_packets_to_the_next_one() {
    let limited = RuleSpec { rate: NonZeroU32::new(3), ..rule(1, Action::Allow, None) };
    let chain = PolicyRules::of([limited, rule(2, Action::Deny, None)]);
    let mut forwarder = with(Policy { firewall_in: chain, ..Policy::default() }, SharedMemory::default(), 1);
    out(&mut forwarder, id(0, 0), OUTSIDE, [1, 2]);
    let passed = |forwarder: &mut Forwarder| {
        (0..10).filter(|_| inn(forwarder, OUTSIDE, vassal(0), [2, 1]) == Inbound::Peer(id(0, 0))).count()
    };
    assert_eq!(passed(&mut forwarder), 3);
    forwarder.advance(Duration::from_secs(5));
    assert_eq!(passed(&mut forwarder), 3);
    // A swap of the policy gives no new packets.
    let policy = Policy { generation: 1, ..Policy::clone(&forwarder.policy) };
    forwarder.set_policy(policy);
    assert_eq!(passed(&mut forwarder), 0);
}

/// A script that counts how often it is asked.
struct Counting(u32, Action, Option<Duration>);

impl Script for Counting {
    fn decide(&mut self, query: &ScriptQuery<'_>) -> Option<ScriptVerdict> {
        assert_eq!((query.addresses, query.src_port), (&[vassal(0)][..], Some(1)));
        assert_eq!(query.direction, Direction::Out);
        self.0 += 1;
        Some(ScriptVerdict { action: self.1, ttl: self.2, class: None })
    }
}

#[test]
fn script_decides_once_for_a_flow_or_for_a_time() {
    for (ttl, expected) in [(None, 1), (Some(Duration::from_millis(1500)), 2), (Some(Duration::ZERO), 10)] {
        let mut forwarder = with(Policy { has_script: true, ..Policy::default() }, SharedMemory::default(), 1);
        let mut script = Counting(0, Action::Deny, ttl);
        let bytes = packet(vassal(0), OUTSIDE, [1, 53]);
        for second in [0, 0, 0, 0, 0, 1, 2, 2, 2, 2] {
            forwarder.advance(Duration::from_secs(second));
            let verdict = forwarder.outbound(id(0, 0), &Packet::parse(&bytes).expect("valid"), &mut script);
            assert_eq!(verdict.to, Outbound::Drop(DropReason::Script));
        }
        assert_eq!(script.0, expected, "{ttl:?}");
    }
}

/// An answer that comes changes the state, and the chain is asked again, but not the script. Another policy asks it again.
#[test]
fn what_the_script_has_said_outlives_a_change_of_state() {
    let policy = Policy { has_script: true, ..firewall() };
    let mut forwarder = with(policy, SharedMemory::default(), 1);
    let mut script = Counting(0, Action::Allow, None);
    let bytes = packet(vassal(0), OUTSIDE, [1, 53]);
    let mut send = |forwarder: &mut Forwarder| {
        let verdict = forwarder.outbound(id(0, 0), &Packet::parse(&bytes).expect("valid"), &mut script);
        assert_eq!(verdict.to, Outbound::Tun);
        script.0
    };
    assert_eq!(send(&mut forwarder), 1);
    assert!(answers(&mut forwarder, id(0, 0), 1));
    assert_eq!(send(&mut forwarder), 1);
    let policy = Policy { generation: 1, ..Policy::clone(&forwarder.policy) };
    forwarder.set_policy(policy);
    assert_eq!(send(&mut forwarder), 2);
}

/// With the router passing packets on between peers, a flow to an address that nobody has goes to the TUN device until somebody
/// has it.
#[test]
fn claims_change_the_way_of_known_flows() {
    let mut forwarder = with(Policy { switch: true, ..Policy::default() }, SharedMemory::default(), 2);
    let send = |forwarder: &mut Forwarder| out(forwarder, id(0, 0), vassal(1), [1, 2]);
    assert_eq!([send(&mut forwarder), send(&mut forwarder)], [Outbound::Tun; 2]);
    out(&mut forwarder, id(1, 0), OUTSIDE, [1, 2]);
    assert_eq!([send(&mut forwarder), send(&mut forwarder)], [Outbound::Peer(id(1, 0)); 2]);
    forwarder.remove_peer(id(1, 0));
    assert_eq!([send(&mut forwarder), send(&mut forwarder)], [Outbound::Tun; 2]);
}

#[test]
fn forgotten_flow_is_a_new_one() {
    let mut forwarder = with(firewall(), SharedMemory::leaked(0, 10), 1);
    open(&mut forwarder, id(0, 0), 2);
    assert_eq!(forwarder.flows.known(0).map(|flow| flow.out.fate), Some(Fate::Pass));
    forwarder.flows.remove(0);
    assert!(!answers(&mut forwarder, id(0, 0), 1) && answers(&mut forwarder, id(0, 0), 2));
    // UDP that is answered ends after five minutes.
    forwarder.advance(Duration::from_secs(299));
    assert!(answers(&mut forwarder, id(0, 0), 2));
    forwarder.advance(Duration::from_secs(299 + 300));
    assert!(!answers(&mut forwarder, id(0, 0), 2));
}

#[test]
fn flows_that_are_over_are_swept_while_the_router_is_awake() {
    let mut forwarder = with(firewall(), SharedMemory::default(), 1);
    open(&mut forwarder, id(0, 0), 200);
    forwarder.advance(Duration::from_secs(400));
    forwarder.flows.tidy();
    assert_eq!(forwarder.flows.len(), 0);
}

proptest! {
    /// Whatever an earlier router has left in the memory, the next one works with it, and forgets nothing that is whole.
    #[test]
    fn any_memory_is_survived(
        changes in prop::collection::vec((0usize..SharedMemory::flow_words(64), any::<u64>()), 0..40),
        packets in prop::collection::vec((0u32..3, 1u16..80), 0..100),
    ) {
        let words: Box<[_]> = (0..SharedMemory::flow_words(64)).map(|_| Default::default()).collect();
        let memory = SharedMemory { flows: Box::leak(words), start: 5, ..SharedMemory::default() };
        let mut forwarder = with(firewall(), memory, 3);
        packets.iter().for_each(|(peer, port)| open_one(&mut forwarder, id(*peer, 0), *port));
        let whole = forwarder.flows.len().min(64);
        drop(forwarder);
        for (at, value) in &changes {
            memory.flows[*at].store(*value, Ordering::Relaxed);
        }
        let mut later = with(firewall(), memory, 3);
        prop_assert!(changes.is_empty() && later.flows.len() == whole || !changes.is_empty());
        for (peer, port) in packets {
            open_one(&mut later, id(peer, 0), port);
        }
        prop_assert!(later.flows.len() <= 3 * 80 + 64);
    }
}

fn open_one(forwarder: &mut Forwarder, id: PeerId, port: u16) {
    out(forwarder, id, OUTSIDE, [port, 53]);
    inn(forwarder, OUTSIDE, vassal(id.index), [53, port]);
}

/// An ICMP message of this type with the identifier 7.
fn query(src: IpAddr, dst: IpAddr, kind: u8) -> Vec<u8> {
    let mut bytes = packet(src, dst, [0; 2]);
    bytes[9] = 1;
    bytes[20..28].copy_from_slice(&[kind, 0, 0, 0, 0, 7, 0, 0]);
    bytes
}

/// Who was pinged may answer, but gets in with no question of its own, whatever identifier that has.
#[test]
fn answer_to_a_query_is_established_and_another_query_is_not() {
    for (request, reply) in [(8, 0), (13, 14), (17, 18)] {
        let mut forwarder = with(firewall(), SharedMemory::default(), 1);
        let sent = query(vassal(0), OUTSIDE, request);
        let to = forwarder.outbound(id(0, 0), &Packet::parse(&sent).expect("valid"), &mut NoScript).to;
        assert_eq!(to, Outbound::Tun);
        let mut comes_in = |kind| {
            let bytes = query(OUTSIDE, vassal(0), kind);
            forwarder.inbound(PacketSource::Tun, &Packet::parse(&bytes).expect("valid"), &mut NoScript).to
        };
        let refused = Inbound::Drop(DropReason::Firewall, Some(id(0, 0)));
        assert_eq!((comes_in(request), comes_in(reply)), (refused, Inbound::Peer(id(0, 0))), "{request}");
        assert_eq!(comes_in(request), refused, "{request}");
    }
}
