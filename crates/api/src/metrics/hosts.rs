//! Metrics of what a router has to do with other hosts.

use super::exposition::{Exposition, seconds};
use crate::{ElsewhereStats, RoutesStats, Snapshot, TrunkStats};

/// Writes them. There are none of what a router doesn't have.
pub fn write(out: &mut Exposition, snapshot: &Snapshot) {
    if let Some(stats) = &snapshot.elsewhere {
        elsewhere(out, stats);
    }
    if let Some(stats) = &snapshot.routes {
        routes(out, stats);
    }
    if !snapshot.trunks.is_empty() {
        trunks(out, snapshot);
    }
}

fn elsewhere(out: &mut Exposition, stats: &ElsewhereStats) {
    out.gauge("elsewhere_addresses", "Addresses that vassals of other hosts hold, by all who tell of them.")
        .value(stats.sources.iter().map(|source| source.holdings).sum::<u64>());
    out.counter(
        "elsewhere_claims_refused",
        "Claims that were refused because vassals of other hosts hold the addresses.",
    )
    .value(stats.refused);
    out.counter("elsewhere_claims_lost", "Claims that vassals have lost to newer ones elsewhere.").value(stats.lost);
    out.counter("elsewhere_addresses_refused", "Addresses that others told and that were not taken.").samples([
        ([("reason", "clock_ahead")], stats.clock_ahead),
        ([("reason", "no_room")], stats.no_room),
        ([("reason", "own_id")], stats.own_id),
    ]);
}

fn routes(out: &mut Exposition, stats: &RoutesStats) {
    out.gauge("routes_up", "1 if the session with the routing daemon is established.")
        .value(u8::from(stats.state == "established"));
    out.gauge("routes_complete", "1 if the routing daemon has told all that it knows.").value(u8::from(stats.complete));
    out.gauge("routes_known", "Routes of other hosts, all paths counted.").value(stats.routes);
    out.gauge("routes_waiting", "Changes of claims that the routing daemon wasn't told of yet.").value(stats.waiting);
    out.counter("routes_sessions", "Sessions that were established or taken over.").value(stats.sessions);
    out.counter("routes_connections_refused", "Connections to the router's BGP port that were refused.")
        .samples([([("reason", "busy")], stats.refused_connections), ([("reason", "stranger")], stats.strangers)]);
    out.counter("routes_received", "Routes that the routing daemon has announced.").value(stats.received);
    out.counter("routes_withdrawn", "Routes that the routing daemon has withdrawn.").value(stats.received_withdrawn);
    let refused = &stats.refused;
    out.counter("routes_refused", "Routes that were refused.").samples(
        [
            ("not_one_address", refused.not_one_address),
            ("outside", refused.outside),
            ("no_holder", refused.no_holder),
            ("too_many_routes", refused.too_many_routes),
            ("too_many_paths", refused.too_many_paths),
            ("malformed", refused.malformed),
        ]
        .map(|(reason, routes)| ([("reason", reason)], routes)),
    );
}

fn trunks(out: &mut Exposition, snapshot: &Snapshot) {
    let totals = &snapshot.totals;
    out.counter("trunks_packets", "Packets from routers of other hosts (in) or to them (out), by all trunks.")
        .by_direction(totals.trunk_rx_packets, totals.trunk_tx_packets);
    out.counter("trunks_bytes", "Bytes from routers of other hosts (in) or to them (out), by all trunks.")
        .by_direction(totals.trunk_rx_bytes, totals.trunk_tx_bytes);
    let trunks = &snapshot.trunks;
    let each = |value: fn(&TrunkStats) -> u64| {
        trunks.iter().map(move |trunk| ([("trunk", trunk.router.as_str())], value(trunk))).collect::<Vec<_>>()
    };
    let both = |out: &mut Exposition,
                name: &str,
                help: &str,
                towards: fn(&TrunkStats) -> u64,
                from: fn(&TrunkStats) -> u64| {
        out.counter(name, help).samples(trunks.iter().flat_map(|trunk| {
            let of = |direction, value| ([("trunk", trunk.router.as_str()), ("direction", direction)], value);
            [of("in", towards(trunk)), of("out", from(trunk))]
        }));
    };
    out.gauge("trunk_up", "1 if the trunk is open.").samples(each(|trunk| u64::from(trunk.state == "open")));
    out.counter("trunk_opened", "How often the trunk was opened.").samples(each(|trunk| trunk.opened));
    out.gauge("trunk_round_trip_seconds", "How long the last answer took, with all that waited on the way.").samples(
        trunks.iter().filter_map(|trunk| Some(([("trunk", trunk.router.as_str())], seconds(trunk.round_trip_micros?)))),
    );
    both(
        out,
        "trunk_packets",
        "Packets from the neighbour (in) or to it (out).",
        |it| it.rx_packets,
        |it| it.tx_packets,
    );
    both(out, "trunk_bytes", "Bytes from the neighbour (in) or to it (out).", |it| it.rx_bytes, |it| it.tx_bytes);
    out.gauge("trunk_queued_bytes", "Bytes of packets that wait for the trunk.")
        .samples(each(|trunk| trunk.queued_bytes));
    out.gauge("trunk_addresses", "Addresses that the neighbour announces (in), or was told of (out).").samples(
        trunks.iter().flat_map(|trunk| {
            let of = |direction, value| ([("trunk", trunk.router.as_str()), ("direction", direction)], value);
            [of("in", trunk.announced), of("out", trunk.told)]
        }),
    );
    out.counter("trunk_dropped_packets", "Packets to the neighbour that were dropped.").samples(
        trunks.iter().flat_map(|trunk| {
            let of = |reason, value| ([("trunk", trunk.router.as_str()), ("reason", reason)], value);
            let dropped = &trunk.dropped;
            [
                of("queue_full", dropped.queue_full),
                of("queue_late", dropped.queue_late),
                of("not_open", dropped.not_open),
                of("hops", dropped.hops),
            ]
        }),
    );
    out.counter("trunk_refused", "What the neighbour sent and was refused.").samples(trunks.iter().flat_map(|trunk| {
        let of = |reason, value| ([("trunk", trunk.router.as_str()), ("reason", reason)], value);
        let refused = &trunk.refused;
        [
            of("foreign_announcement", refused.foreign_announcement),
            of("unusable_address", refused.unusable_address),
            of("loop", refused.looped),
            of("long_path", refused.long_path),
            of("other_teller", refused.other_teller),
            of("too_many", refused.too_many),
            of("spoofed_source", refused.spoofed_source),
            of("malformed_packet", refused.malformed_packet),
        ]
    }));
}
