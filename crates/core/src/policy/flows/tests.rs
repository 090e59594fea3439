//! Tests of the table of flows itself: whatever is added, used and forgotten, its lists and its index agree.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use tuntap_wire::ip::{FlowPorts, Roles};

const LIMITS: Limits = Limits {
    flows: 0,
    flows_per_peer: 20,
    peers: 0,
    peers_per_uid: 0,
    addresses_per_uid: None,
    unclaimed: 0,
    unclaimed_timeout: std::time::Duration::ZERO,
    queued_bytes: 0,
    device_rules: 0,
};

fn packet(port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = etherparse::PacketBuilder::ipv4([10, 0, 0, 2], [192, 0, 2, 1], 64);
    builder.udp(port, 53).write(&mut bytes, &[]).expect("a valid packet");
    bytes
}

fn key(port: u16) -> FlowKey {
    let bytes = packet(port);
    let ports = FlowPorts { first: port, second: 53, roles: Roles::Ports };
    FlowKey::of(&Packet::parse(&bytes).expect("valid"), ports, Direction::Out)
}

impl FlowTable {
    /// Panics if lists, counts or index disagree.
    fn check(&self) {
        let taken: Vec<_> = (0..self.entries()).filter(|at| self.get(*at).quota != NONE).collect();
        assert_eq!(taken.len(), self.len);
        assert!(self.len <= self.most);
        let mut counts = HashMap::new();
        for at in taken {
            let entry = self.get(at);
            *counts.entry(entry.quota).or_insert(0_usize) += 1;
            assert_eq!(self.index.find(&entry.key, |found| found == at), Some(at));
            let twin = entry.twin;
            assert!(twin == NONE || self.get(twin).twin == at && self.get(twin).quota != NONE, "twins know each other");
        }
        self.quotas.check(&self.entries, &counts);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Insert { peer: u32, port: u16, keep: bool },
    Use { port: u16, direction: bool, passes: bool },
    Adopt { port: u16, peer: u32 },
    Pair(u16, u16),
    Remove(u16),
    Leave(u32),
    Wait(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let (peer, port) = (|| 0..4_u32, || 1..60_u16);
    prop_oneof![
        8 => (peer(), port(), any::<bool>()).prop_map(|(peer, port, keep)| Step::Insert { peer, port, keep }),
        8 => (port(), any::<bool>(), any::<bool>())
            .prop_map(|(port, direction, passes)| Step::Use { port, direction, passes }),
        2 => (port(), peer()).prop_map(|(port, peer)| Step::Adopt { port, peer }),
        2 => (port(), port()).prop_map(|(one, other)| Step::Pair(one, other)),
        1 => port().prop_map(Step::Remove),
        1 => peer().prop_map(Step::Leave),
        1 => prop_oneof![Just(1_u32), Just(40), Just(400)].prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn lists_and_index_agree(steps in prop::collection::vec(step(), 1..400)) {
        let mut table = FlowTable::new(&LIMITS, &[], 7, 0);
        // As few as no real table has.
        table.most = 50;
        let mut generations = [0; 4];
        let mut latest = None;
        for step in steps {
            let id = |peer: u32| PeerId { index: peer, generation: generations[peer as usize] };
            match step {
                Step::Insert { peer, port, keep } => {
                    let (peer, owner) = (id(peer), Owner::User(peer));
                    let keep = latest.filter(|at| keep && table.known(*at).is_some_and(|it| it.key != key(port)));
                    let at = table.insert(NewFlow { key: key(port), peer, owner, cause: peer }, keep);
                    prop_assert_eq!(table.find(&key(port)), Some(at));
                    prop_assert!(keep.is_none_or(|keep| table.get(keep).quota != NONE), "what is kept stays");
                    prop_assert!(table.quotas.count(table.get(at).quota) <= 20);
                    latest = Some(at);
                }
                Step::Use { port, direction, passes } => if let Some(at) = table.find(&key(port)) {
                    let bytes = packet(port);
                    let direction = if direction { Direction::Out } else { Direction::In };
                    table.record(at, direction, &Packet::parse(&bytes).expect("valid"), None, passes);
                },
                Step::Adopt { port, peer } => if let Some(at) = table.find(&key(port)) {
                    let (peer, owner) = (id(peer), Owner::User(peer));
                    table.adopt(at, NewFlow { key: key(port), peer, owner, cause: peer }, None);
                    prop_assert_eq!(table.find(&key(port)), Some(at));
                },
                Step::Pair(one, other) => if let (Some(one), Some(other)) = (table.find(&key(one)), table.find(&key(other)))
                    && one != other
                {
                    table.pair(one, other);
                },
                Step::Remove(port) => if let Some(at) = table.find(&key(port)) {
                    table.remove(at);
                    prop_assert_eq!(table.find(&key(port)), None);
                },
                Step::Leave(peer) => {
                    table.leave(id(peer));
                    generations[peer as usize] += 1;
                }
                Step::Wait(seconds) => {
                    table.advance(table.now + seconds);
                    table.tidy();
                }
            }
            table.check();
        }
    }
}

/// All flows are those of peers who have left, and the only one of who has left first has to stay.
#[test]
fn table_does_not_grow_beyond_its_room_for_a_flow_that_stays() {
    let mut table = FlowTable::new(&LIMITS, &[], 7, 0);
    table.most = 50;
    let id = |index| PeerId { index, generation: 0 };
    let insert = |table: &mut FlowTable, index: u32, port: u16, keep| {
        let (peer, owner) = (id(index), Owner::User(index));
        table.insert(NewFlow { key: key(port), peer, owner, cause: peer }, keep)
    };
    let kept = insert(&mut table, 0, 1, None);
    for port in 2..=50 {
        insert(&mut table, u32::from(port / 20) + 1, port, None);
    }
    (0..4).for_each(|index| table.leave(id(index)));
    insert(&mut table, 5, 60, Some(kept));
    assert_eq!(table.get(kept).key, key(1), "it stays");
    table.check();
}

#[test]
fn where_memory_is_refused_fewer_flows_are_known() {
    assert_eq!(affordable(Limits::MIN_FLOWS), Limits::MIN_FLOWS);
    let fewer = affordable(usize::MAX);
    assert!((Limits::MIN_FLOWS..usize::MAX / BYTES_PER_FLOW).contains(&fewer), "{fewer}");
}
