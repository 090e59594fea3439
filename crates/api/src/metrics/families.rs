//! Metrics of the router as a whole.

use super::exposition::{Exposition, seconds};
use crate::{KernelPathStats, ShapeStats, Shaped, Snapshot};

/// Writes them.
pub fn write(out: &mut Exposition, snapshot: &Snapshot) {
    router(out, snapshot);
    traffic(out, snapshot);
    connections(out, snapshot);
    drops(out, snapshot);
    policy(out, snapshot);
    uplink(out, &snapshot.uplink);
    if let Some(stats) = &snapshot.kernel_path {
        kernel_path(out, stats);
    }
}

fn router(out: &mut Exposition, snapshot: &Snapshot) {
    out.info("router", "The versions of a router that runs.")
        .sample(&[("version", snapshot.plugin_version.as_str()), ("uwsgi_version", snapshot.version.as_str())], 1);
    out.gauge(
        "uptime_seconds",
        "Seconds since the router's process began; counters but those of rules began then, too.",
    )
    .value(snapshot.uptime);
    let confined = u8::from(snapshot.sandbox.seccomp && snapshot.sandbox.capabilities.is_empty());
    out.gauge("confined", "1 if the router has no capability left and its system calls are filtered.").value(confined);
}

fn traffic(out: &mut Exposition, snapshot: &Snapshot) {
    let totals = &snapshot.totals;
    out.counter("device_packets", "Packets read from the router's TUN device (in) or written to it (out).")
        .by_direction(totals.tun_rx_packets, totals.tun_tx_packets);
    out.counter("device_bytes", "Bytes read from the router's TUN device (in) or written to it (out).")
        .by_direction(totals.tun_rx_bytes, totals.tun_tx_bytes);
    out.counter("gateway_packets", "Datagrams from other routers (in) or to them (out).")
        .by_direction(totals.gateway_rx_packets, totals.gateway_tx_packets);
    out.counter("gateway_bytes", "Bytes of the datagrams from other routers (in) or to them (out).")
        .by_direction(totals.gateway_rx_bytes, totals.gateway_tx_bytes);
    out.counter("gateway_batches", "System calls that moved several datagrams at once.")
        .by_direction(totals.gateway_rx_batches, totals.gateway_tx_batches);
    out.counter("gateway_coalesced_packets", "Datagrams that went on as parts of super-packets.")
        .value(totals.gateway_rx_coalesced);
}

fn connections(out: &mut Exposition, snapshot: &Snapshot) {
    let totals = &snapshot.totals;
    for (name, help, value) in [
        ("connections_accepted", "Connections that became peers.", totals.accepted),
        ("connections_turned_away", "Connections that were turned away because of a limit.", totals.turned_away),
        ("connections_failed", "Times that no descriptor was left for a connection.", totals.accept_failures),
        ("peers_restored", "Peers that were taken over from a router that died.", totals.restored),
        ("peer_faults", "Peers that were closed for what they sent.", totals.faults),
        ("peers_detached", "Devices that were detached because their packets took too much time.", totals.detached),
        ("peers_attached_again", "Devices that were attached after they had waited for it.", totals.attached_again),
        (
            "clients_refused",
            "Clients of statistics and metrics that were refused as possible vassals.",
            totals.stats_refused,
        ),
        ("address_claims", "Addresses that were given to a peer.", totals.claims),
        ("rejection_replies", "Replies to packets that a rule rejected.", totals.rejections),
    ] {
        out.counter(name, help).value(value);
    }
    let limits = &snapshot.limits_reached;
    out.counter("limits_reached", "How often a limit left no room; the reason is the end of the option's name.")
        .samples(
            [
                ("max_peers", limits.max_peers),
                ("max_peers_per_uid", limits.max_peers_per_uid),
                ("max_addresses_per_uid", limits.max_addresses_per_uid),
                ("max_unclaimed", limits.max_unclaimed),
                ("unclaimed_timeout", limits.unclaimed_timeout),
                ("max_device_rules", limits.max_device_rules),
            ]
            .map(|(limit, times)| ([("reason", limit)], times)),
        );
}

fn drops(out: &mut Exposition, snapshot: &Snapshot) {
    out.counter("dropped_packets", "Packets that went nowhere, by reason.")
        .samples(snapshot.drops.iter().map(|(reason, packets)| ([("reason", reason)], packets)));
}

fn policy(out: &mut Exposition, snapshot: &Snapshot) {
    let (flows, policy) = (&snapshot.flows, &snapshot.policy);
    out.gauge("flows", "Flows that the router knows.").value(flows.count);
    out.gauge("flows_limit", "The most flows that it can know.").value(flows.max);
    out.counter("flows_evicted", "Flows that had to make room for others before their time.").value(flows.evicted);
    out.gauge("policy_generation", "The number of the policy, which grows with each change.").value(policy.generation);
    out.gauge("policy_rules", "Rules in all chains, and routes.").value(policy.rules);
    out.gauge("policy_pending", "1 if a change waits for its confirmation.").value(u8::from(policy.pending));
}

/// What passes in the kernel. A router without that path has none of it.
fn kernel_path(out: &mut Exposition, stats: &KernelPathStats) {
    out.gauge("kernel_pairs", "Vassals that have a pair of devices for the path in the kernel.").value(stats.pairs);
    out.gauge("kernel_verdicts", "Verdicts that the kernel has, one for each direction of a flow.")
        .value(stats.verdicts);
    out.gauge("kernel_verdicts_limit", "The most verdicts that it can have.").value(stats.max_verdicts);
    for (name, help, value) in [
        ("kernel_verdicts_given", "Verdicts that the kernel was given.", stats.given),
        ("kernel_verdicts_refused", "Verdicts that it had no room for.", stats.refused),
        ("kernel_verdicts_revoked", "Verdicts that were taken back because something has changed.", stats.revoked),
        (
            "kernel_watched",
            "Times that packets towards a vassal had to pass the router for a while, because some had taken long.",
            stats.watched,
        ),
        (
            "kernel_packets",
            "Packets that have passed in the kernel, which those of the device don't include. A super-packet is one.",
            stats.packets,
        ),
        ("kernel_bytes", "Bytes of the packets that have passed in the kernel.", stats.bytes),
    ] {
        out.counter(name, help).value(value);
    }
}

/// The limit of all peers together.
fn uplink(out: &mut Exposition, uplink: &Shaped) {
    let sides: Vec<_> = sides(uplink).collect();
    if sides.is_empty() {
        return;
    }
    let by_side = |value: fn(&ShapeStats) -> u64| {
        sides.iter().map(move |(direction, stats)| ([("direction", *direction)], value(stats))).collect::<Vec<_>>()
    };
    out.gauge("uplink_limit_bytes_per_second", "The most bytes per second of all vassals together.")
        .samples(by_side(|stats| stats.ceil / 8));
    out.gauge("uplink_waiting_packets", "Packets that wait for the limit of all vassals together.")
        .samples(by_side(|stats| stats.waiting_packets));
    out.gauge("uplink_waiting_bytes", "Their bytes.").samples(by_side(|stats| stats.waiting_bytes));
    out.gauge("uplink_delay_seconds", "How long the packet that went on last had waited.")
        .samples(sides.iter().map(|(direction, stats)| ([("direction", *direction)], seconds(stats.delay_us))));
    out.counter("uplink_sent_bytes", "Bytes that went on.").samples(by_side(|stats| stats.sent_bytes));
    out.counter("uplink_held_packets", "Packets that had to wait.").samples(by_side(|stats| stats.held));
    out.counter("uplink_marked_packets", "Packets that were marked instead of dropped (ECN).")
        .samples(by_side(|stats| stats.marked));
    out.counter("uplink_dropped_packets", "Packets that were dropped while they waited.")
        .samples(by_side(|stats| stats.dropped_full + stats.dropped_late));
}

/// What limits have done, with the direction.
pub fn sides(shaped: &Shaped) -> impl Iterator<Item = (&'static str, &ShapeStats)> {
    [("in", &shaped.inn), ("out", &shaped.out)]
        .into_iter()
        .filter_map(|(direction, stats)| Some((direction, stats.as_ref()?)))
}
