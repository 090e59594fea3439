//! Metrics of the vassals of single users.

use std::collections::BTreeMap;

use super::Metrics;
use super::exposition::{Exposition, seconds};
use super::families::sides;
use crate::{DropCounts, PeerStats};

/// What the vassals of a user sum up to, those that have left included.
#[derive(Debug, Default)]
struct User<'a> {
    connections: u64,
    attached: u64,
    addresses: u64,
    queued: u64,
    bytes: Both,
    packets: Both,
    drops: BTreeMap<&'a str, u64>,
    /// What limits hold back, by direction: packets, bytes, and the longest delay in microseconds.
    shaped: BTreeMap<&'static str, [u64; 3]>,
}

/// A number for each direction.
#[derive(Debug, Clone, Copy, Default)]
struct Both {
    towards: u64,
    from: u64,
}

impl<'a> User<'a> {
    fn add(&mut self, peer: &'a PeerStats) {
        self.connections += 1;
        self.attached += u64::from(peer.attached);
        self.addresses += peer.addresses.len() as u64;
        self.queued += peer.queued;
        self.count([peer.tx, peer.rx], [peer.tx_packets, peer.rx_packets], &peer.drops);
        for (direction, stats) in sides(&peer.shape) {
            let [packets, bytes, delay] = self.shaped.entry(direction).or_default();
            *packets += stats.waiting_packets;
            *bytes += stats.waiting_bytes;
            *delay = stats.delay_us.max(*delay);
        }
    }

    fn count(&mut self, [tx, rx]: [u64; 2], [tx_packets, rx_packets]: [u64; 2], drops: &'a DropCounts) {
        self.bytes.towards += tx;
        self.bytes.from += rx;
        self.packets.towards += tx_packets;
        self.packets.from += rx_packets;
        for (reason, packets) in drops.iter().filter(|(_, packets)| *packets > 0) {
            *self.drops.entry(reason).or_default() += packets;
        }
    }
}

/// Writes them.
pub fn write(out: &mut Exposition, metrics: &Metrics<'_>) {
    let peers = &metrics.snapshot.peers;
    out.gauge("peers", "Connections of vassals.").value(peers.len());
    out.gauge("peers_attached", "Vassals whose TUN devices the router itself reads and writes.")
        .value(peers.iter().filter(|peer| peer.attached).count());
    let (users, left_out) = by_user(metrics);
    out.gauge(
        "users_left_out",
        "Users without metrics of their own, because there are more than tuntap-router-metrics-peers.",
    )
    .value(left_out);
    if !users.is_empty() {
        write_users(out, &users);
    }
}

/// The users with metrics of their own, by their labels, and the number of others. These are always those with the highest
/// numbers, so that no series comes and goes with the traffic.
fn by_user<'a>(metrics: &'a Metrics<'_>) -> (Vec<(String, User<'a>)>, usize) {
    let mut users: BTreeMap<u32, User<'a>> = BTreeMap::new();
    for peer in &metrics.snapshot.peers {
        users.entry(peer.uid).or_default().add(peer);
    }
    for gone in &metrics.departed {
        let (bytes, packets) = ([gone.tx, gone.rx], [gone.tx_packets, gone.rx_packets]);
        users.entry(gone.uid).or_default().count(bytes, packets, &gone.drops);
    }
    let left_out = users.len().saturating_sub(metrics.max_users);
    let label = |uid: u32| metrics.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string());
    (users.into_iter().take(metrics.max_users).map(|(uid, user)| (label(uid), user)).collect(), left_out)
}

fn write_users(out: &mut Exposition, users: &[(String, User<'_>)]) {
    let each = |value: fn(&User<'_>) -> u64| {
        users.iter().map(move |(label, user)| ([("peer", label.as_str())], value(user))).collect::<Vec<_>>()
    };
    let both = |value: fn(&User<'_>) -> Both| {
        let of = |label, direction, value| ([("peer", label), ("direction", direction)], value);
        users
            .iter()
            .flat_map(move |(label, user)| {
                let Both { towards, from } = value(user);
                [of(label.as_str(), "in", towards), of(label.as_str(), "out", from)]
            })
            .collect::<Vec<_>>()
    };
    out.gauge("peer_connections", "Connections of the user's vassals.").samples(each(|user| user.connections));
    out.gauge("peer_attached", "Those whose TUN devices the router itself reads and writes.")
        .samples(each(|user| user.attached));
    out.gauge("peer_addresses", "Addresses that the user's vassals hold.").samples(each(|user| user.addresses));
    out.counter("peer_bytes", "Bytes towards the user's vassals (in) or from them (out), frame headers included.")
        .samples(both(|user| user.bytes));
    out.counter("peer_packets", "Packets towards the user's vassals (in) or from them (out).")
        .samples(both(|user| user.packets));
    out.counter("peer_dropped_packets", "Packets from or to the user's vassals that went nowhere, by reason.").samples(
        users.iter().flat_map(|(label, user)| {
            user.drops.iter().map(|(reason, packets)| ([("peer", label.as_str()), ("reason", *reason)], *packets))
        }),
    );
    out.gauge("peer_queued_bytes", "Bytes that wait to be written to the user's vassals.")
        .samples(each(|user| user.queued));
    let shaped = |index: usize| {
        users.iter().flat_map(move |(label, user)| {
            let of = move |(direction, values): (&&'static str, &[u64; 3])| {
                ([("peer", label.as_str()), ("direction", *direction)], values[index])
            };
            user.shaped.iter().map(of)
        })
    };
    if users.iter().any(|(_, user)| !user.shaped.is_empty()) {
        out.gauge("peer_waiting_packets", "Packets that limits on the user's vassals hold back.").samples(shaped(0));
        out.gauge("peer_waiting_bytes", "Their bytes.").samples(shaped(1));
        out.gauge(
            "peer_delay_seconds",
            "How long the packet that went on last had waited; the longest of the user's vassals.",
        )
        .samples(shaped(2).map(|(labels, micros)| (labels, seconds(micros))));
    }
}
