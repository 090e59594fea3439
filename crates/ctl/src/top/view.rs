//! The views: what there is to see of routers, as rows.

use std::collections::HashMap;
use std::net::SocketAddr;

use clap::ValueEnum;
use tuntap_api::control::{Chain, FlowEntry, RuleEntry, RuleList};
use tuntap_api::{DropCounts, PeerStats, ShapeStats, Shaped, TrunkStats};
use tuntap_config::Rate;

use super::grid::{Cell, Column, Grid, Row, Sorting};
use super::router::Router;
use super::sample::Span;
use crate::flows::fate;
use crate::status::{address_of, drops_of, transport};
use crate::table::Kind;
use crate::text::{Bytes, Count, Decimal, Printable, Uptime, counted, escaped, protocol};
use crate::trunks;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum View {
    /// The vassals that are connected
    Peers,
    /// Connections, and what else belongs together
    Flows,
    /// Dropped packets by reason and by rule
    Drops,
    /// The routers of this host
    Routers,
    /// Trunks to routers of other hosts
    Trunks,
    /// Limits on traffic
    Shaper,
}

impl View {
    /// All of them, in the order of their keys.
    pub const ALL: [Self; 6] = [Self::Peers, Self::Flows, Self::Drops, Self::Routers, Self::Trunks, Self::Shaper];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Peers => "peers",
            Self::Flows => "flows",
            Self::Drops => "drops",
            Self::Routers => "routers",
            Self::Trunks => "trunks",
            Self::Shaper => "shaper",
        }
    }

    /// Its place in [`Self::ALL`].
    pub const fn number(self) -> usize {
        self as usize
    }

    /// The columns. What identifies a row comes first; the last ones go first on a narrow screen.
    pub const fn columns(self) -> &'static [Column] {
        match self {
            Self::Peers => &[
                ("ADDRESS", Kind::Text),
                ("bit/s", Kind::Number),
                ("OUT bit/s", Kind::SpareNumber),
                ("IN bit/s", Kind::SpareNumber),
                ("DROPS/s", Kind::Number),
                ("PID", Kind::SpareNumber),
                ("UID", Kind::SpareNumber),
                ("OUT pkt/s", Kind::SpareNumber),
                ("IN pkt/s", Kind::SpareNumber),
                ("TRANSPORT", Kind::Spare),
                ("QUEUED", Kind::SpareNumber),
                ("TOTAL", Kind::SpareNumber),
                ("DROPS", Kind::SpareNumber),
            ],
            Self::Flows => &[
                ("PROTO", Kind::Word),
                ("LOCAL", Kind::Text),
                ("REMOTE", Kind::Text),
                ("bit/s", Kind::Number),
                ("OUT bit/s", Kind::SpareNumber),
                ("IN bit/s", Kind::SpareNumber),
                ("VERDICT", Kind::Spare),
                ("IDLE", Kind::SpareNumber),
                ("TOTAL", Kind::SpareNumber),
                ("STATE", Kind::Spare),
                ("PID", Kind::SpareNumber),
            ],
            Self::Drops => &[
                ("BY", Kind::Word),
                ("REASON OR RULE", Kind::Text),
                ("DROPS/s", Kind::Number),
                ("DROPS", Kind::Number),
                ("GROUP", Kind::Spare),
            ],
            Self::Routers => &[
                ("DEVICE", Kind::Text),
                ("STATE", Kind::Text),
                ("PEERS", Kind::Number),
                ("OUT bit/s", Kind::Number),
                ("IN bit/s", Kind::Number),
                ("DROPS/s", Kind::Number),
                ("FLOWS", Kind::SpareNumber),
                ("UP", Kind::SpareNumber),
                ("PID", Kind::SpareNumber),
                ("SOCKET", Kind::Spare),
            ],
            Self::Trunks => &[
                ("ROUTER", Kind::Text),
                ("NAME", Kind::Text),
                ("STATE", Kind::Word),
                ("OUT bit/s", Kind::Number),
                ("IN bit/s", Kind::Number),
                ("DROPS/s", Kind::Number),
                ("ROUND TRIP", Kind::SpareNumber),
                ("FOR", Kind::SpareNumber),
                ("ANNOUNCED", Kind::SpareNumber),
                ("TOLD", Kind::SpareNumber),
            ],
            Self::Shaper => &[
                ("OF", Kind::Text),
                ("WAY", Kind::Word),
                ("LIMIT bit/s", Kind::Number),
                ("NOW bit/s", Kind::Number),
                ("DELAY ms", Kind::Number),
                ("USED %", Kind::SpareNumber),
                ("DROPS/s", Kind::SpareNumber),
                ("WAITING", Kind::SpareNumber),
                ("MARKS/s", Kind::SpareNumber),
                ("HELD/s", Kind::SpareNumber),
            ],
        }
    }

    /// What its rows are sorted by at first: the greatest rates come first, in both directions together.
    pub const fn usual_sorting(self) -> Sorting {
        let column = match self {
            Self::Peers => 1,
            Self::Flows | Self::Shaper => 3,
            Self::Drops => 2,
            Self::Routers | Self::Trunks => 0,
        };
        Sorting { column, is_reversed: false }
    }

    /// Finds a column by the beginning of its title, in capitals or not: `out`, `drops`.
    pub fn column(self, name: &str) -> Option<usize> {
        let name = name.to_lowercase();
        self.columns().iter().position(|(title, _)| title.to_lowercase().starts_with(&name))
    }

    /// The rows about a router, and about one peer of it if that is chosen. `all` are for the list of routers.
    pub fn grid(self, span: Option<Span<'_>>, pid: Option<i32>, all: &[Router]) -> Grid {
        let (rows, nothing) = match (self, span) {
            (Self::Routers, _) => (all.iter().map(router_row).collect(), "no router was found"),
            (_, None) => (Vec::new(), "nothing is known yet"),
            (Self::Peers, Some(span)) => (peer_rows(&span), "no vassal is connected"),
            (Self::Flows, Some(span)) => (flow_rows(&span, pid), "no flows"),
            (Self::Drops, Some(span)) => (drop_rows(&span, pid), "nothing was dropped"),
            (Self::Trunks, Some(span)) => (trunk_rows(&span), "no trunks (tuntap-router-trunk-peer)"),
            (Self::Shaper, Some(span)) => (shaper_rows(&span, pid), "nothing is limited (tuntap-router-shape)"),
        };
        Grid { columns: self.columns(), rows, nothing }
    }

    /// What the router has left out of its answer.
    pub fn left_out(self, span: Option<Span<'_>>) -> Option<String> {
        let list = span.filter(|_| self == Self::Flows)?.now.flows.as_ref()?;
        let count = list.matching.saturating_sub(list.flows.len() as u64);
        (count > 0).then(|| format!("without {} that were not used lately", counted(count, "flow", "flows")))
    }
}

fn peer_rows(span: &Span<'_>) -> Vec<Row> {
    let row = |(key, peer, before): (String, &PeerStats, Option<&PeerStats>)| Row {
        key,
        cells: vec![
            Cell::text(address_of(peer)),
            Cell::known(span.bit_rate(both(peer), before.map(both)), Decimal),
            Cell::known(span.bit_rate(peer.rx, before.map(|it| it.rx)), Decimal),
            Cell::known(span.bit_rate(peer.tx, before.map(|it| it.tx)), Decimal),
            Cell::known(span.rate(drops_of(peer), before.map(drops_of)), Decimal),
            Cell::number(u64::try_from(peer.pid).unwrap_or(0), peer.pid),
            Cell::number(peer.uid.into(), peer.uid),
            Cell::known(span.rate(peer.rx_packets, before.map(|it| it.rx_packets)), Decimal),
            Cell::known(span.rate(peer.tx_packets, before.map(|it| it.tx_packets)), Decimal),
            Cell::text(transport(peer)),
            Cell::number(peer.queued, Bytes(peer.queued)),
            bytes(both(peer)),
            count(drops_of(peer)),
        ],
    };
    span.peers().into_iter().map(row).collect()
}

/// Bytes of a peer in both directions.
const fn both(peer: &PeerStats) -> u64 {
    peer.rx.saturating_add(peer.tx)
}

/// Bytes of a flow in both directions.
const fn sum(flow: &FlowEntry) -> u64 {
    flow.bytes_out.saturating_add(flow.bytes_in)
}

fn flow_rows(span: &Span<'_>, pid: Option<i32>) -> Vec<Row> {
    let key = |flow: &FlowEntry| {
        let FlowEntry { peer, local, local_port, remote, remote_port, protocol, .. } = flow;
        format!("{peer} {protocol} {local} {local_port} {remote} {remote_port}")
    };
    let old = span.before().and_then(|before| before.flows.as_ref());
    let old: HashMap<String, &FlowEntry> = old.iter().flat_map(|it| &it.flows).map(|flow| (key(flow), flow)).collect();
    let flows = span.now.flows.iter().flat_map(|list| &list.flows);
    // What came before another peer was chosen is still there.
    let flows = flows.filter(|flow| pid.is_none_or(|pid| flow.peer == pid));
    let row = |flow: &FlowEntry| {
        let key = key(flow);
        let before = old.get(&key);
        Row {
            cells: vec![
                Cell::text(protocol(flow.protocol)),
                Cell::text(SocketAddr::new(flow.local, flow.local_port).to_string()),
                Cell::text(SocketAddr::new(flow.remote, flow.remote_port).to_string()),
                Cell::known(span.bit_rate(sum(flow), before.map(|it| sum(it))), Decimal),
                Cell::known(span.bit_rate(flow.bytes_out, before.map(|it| it.bytes_out)), Decimal),
                Cell::known(span.bit_rate(flow.bytes_in, before.map(|it| it.bytes_in)), Decimal),
                Cell::text(fate(flow)),
                Cell::number(flow.idle, Uptime(flow.idle)),
                bytes(sum(flow)),
                Cell::text(escaped(&flow.state)),
                Cell::number(u64::try_from(flow.peer).unwrap_or(0), flow.peer),
            ],
            key,
        }
    };
    flows.map(row).collect()
}

/// Drops by reason, and those of the whole router also by rule.
fn drop_rows(span: &Span<'_>, pid: Option<i32>) -> Vec<Row> {
    let Some(pid) = pid else {
        let before = span.before().map(|before| &before.snapshot.drops);
        let mut rows = reason_rows(span, &span.now.snapshot.drops, before, "");
        rows.extend(rule_rows(span));
        return rows;
    };
    let peers = span.peers().into_iter().filter(|(_, peer, _)| peer.pid == pid);
    peers.flat_map(|(key, peer, before)| reason_rows(span, &peer.drops, before.map(|it| &it.drops), &key)).collect()
}

fn reason_rows(span: &Span<'_>, now: &DropCounts, before: Option<&DropCounts>, whose: &str) -> Vec<Row> {
    let old: HashMap<&str, u64> = before.iter().flat_map(|before| before.iter()).collect();
    let row = |(reason, packets): (&str, u64)| Row {
        key: format!("reason {reason} {whose}"),
        cells: vec![
            Cell::text("reason"),
            Cell::text(escaped(reason)),
            Cell::known(span.rate(packets, old.get(reason).copied()), Decimal),
            count(packets),
            Cell::text(""),
        ],
    };
    now.iter().filter(|(_, packets)| *packets > 0).map(row).collect()
}

/// Rules that deny or reject. The others drop nothing.
fn rule_rows(span: &Span<'_>) -> Vec<Row> {
    fn dropping(list: Option<&RuleList>) -> impl Iterator<Item = (&str, &RuleEntry)> {
        let groups = list.into_iter().flat_map(|list| &list.groups);
        let rules = groups.flat_map(|group| group.rules.iter().map(|rule| (group.name.as_str(), rule)));
        rules.filter(|(_, rule)| rule.rule.starts_with("deny") || rule.rule.starts_with("reject"))
    }
    let before = span.before().and_then(|before| before.rules.as_ref());
    let old: HashMap<u32, u64> = dropping(before).map(|(_, rule)| (rule.id, rule.packets)).collect();
    let row = |(group, rule): (&str, &RuleEntry)| Row {
        key: format!("rule {}", rule.id),
        cells: vec![
            Cell::text("rule"),
            Cell::text(format!("{} {}: {}", rule.id, chain(rule.chain), escaped(&rule.rule))),
            Cell::known(span.rate(rule.packets, old.get(&rule.id).copied()), Decimal),
            count(rule.packets),
            Cell::text(escaped(group)),
        ],
    };
    dropping(span.now.rules.as_ref()).filter(|(_, rule)| rule.packets > 0).map(row).collect()
}

const fn chain(chain: Chain) -> &'static str {
    match chain {
        Chain::In => "in",
        Chain::Out => "out",
        Chain::Route => "route",
        Chain::Shape => "shape",
    }
}

fn router_row(router: &Router) -> Row {
    let span = router.span();
    let snapshot = span.map(|span| &span.now.snapshot);
    let (out, into) = span.map_or((None, None), |span| span.peers_bit_rates());
    Row {
        key: router.socket.clone(),
        cells: vec![
            Cell::text(router.name()),
            Cell::text(router.trouble.as_deref().unwrap_or("answers")),
            Cell::known(snapshot.map(|it| it.peers.len() as u64), Count),
            Cell::known(out, Decimal),
            Cell::known(into, Decimal),
            Cell::known(span.and_then(|span| span.drop_rate()), Decimal),
            Cell::known(snapshot.map(|it| it.flows.count), Count),
            Cell::known(snapshot.map(|it| it.uptime), Uptime),
            Cell::known(snapshot.and_then(|it| u64::try_from(it.pid).ok()), |pid| pid),
            Cell::text(Printable(&router.socket).to_string()),
        ],
    }
}

fn trunk_rows(span: &Span<'_>) -> Vec<Row> {
    let old = span.before().map(|before| &before.snapshot.trunks);
    let old: HashMap<&str, &TrunkStats> =
        old.into_iter().flatten().map(|trunk| (trunk.router.as_str(), trunk)).collect();
    let row = |trunk: &TrunkStats| {
        let before = old.get(trunk.router.as_str());
        Row {
            key: trunk.router.clone(),
            cells: vec![
                Cell::text(Printable(&trunk.router).to_string()),
                Cell::text(Printable(&trunk.name).to_string()),
                Cell::text(Printable(&trunk.state).to_string()),
                Cell::known(span.bit_rate(trunk.tx_bytes, before.map(|it| it.tx_bytes)), Decimal),
                Cell::known(span.bit_rate(trunk.rx_bytes, before.map(|it| it.rx_bytes)), Decimal),
                Cell::known(span.rate(trunks::drops(trunk), before.map(|it| trunks::drops(it))), Decimal),
                Cell::known(trunk.round_trip_micros, |micros| format!("{micros} us")),
                Cell::number(trunk.state_seconds, Uptime(trunk.state_seconds)),
                count(trunk.announced),
                count(trunk.told),
            ],
        }
    };
    span.now.snapshot.trunks.iter().map(row).collect()
}

/// The limits of all peers together, and those of each. One peer's if it is chosen.
fn shaper_rows(span: &Span<'_>, pid: Option<i32>) -> Vec<Row> {
    let mut rows = Vec::new();
    if pid.is_none() {
        let before = span.before().map(|before| &before.snapshot.uplink);
        rows.extend(shaped_rows(span, "uplink", "uplink", &span.now.snapshot.uplink, before));
    }
    for (key, peer, before) in span.peers() {
        if pid.is_none_or(|pid| peer.pid == pid) {
            let of = format!("{} (pid {})", address_of(peer), peer.pid);
            rows.extend(shaped_rows(span, &key, &of, &peer.shape, before.map(|before| &before.shape)));
        }
    }
    rows
}

fn shaped_rows<'a>(
    span: &'a Span<'_>,
    key: &'a str,
    of: &'a str,
    now: &'a Shaped,
    before: Option<&'a Shaped>,
) -> impl Iterator<Item = Row> + 'a {
    let before = |way: fn(&Shaped) -> &Option<ShapeStats>| before.and_then(|shaped| way(shaped).as_ref());
    let directions = [
        ("out", now.out.as_ref(), before(|shaped| &shaped.out)),
        ("in", now.inn.as_ref(), before(|shaped| &shaped.inn)),
    ];
    directions.into_iter().filter_map(move |(way, now, before)| {
        let stats = now?;
        let sent = span.bit_rate(stats.sent_bytes, before.map(|it| it.sent_bytes));
        let used = sent.filter(|_| stats.ceil > 0).map(|sent| sent.saturating_mul(100) / stats.ceil);
        let drops = |stats: &ShapeStats| stats.dropped_full.saturating_add(stats.dropped_late);
        Some(Row {
            key: format!("{key} {way}"),
            cells: vec![
                Cell::text(of),
                Cell::text(way),
                Cell::number(stats.ceil, limit(stats)),
                Cell::known(sent, Decimal),
                Cell::number(stats.delay_us, format!("{}.{}", stats.delay_us / 1_000, stats.delay_us % 1_000 / 100)),
                Cell::known(used, |used| used),
                Cell::known(span.rate(drops(stats), before.map(drops)), Decimal),
                Cell::number(stats.waiting_bytes, Bytes(stats.waiting_bytes)),
                Cell::known(span.rate(stats.marked, before.map(|it| it.marked)), Decimal),
                Cell::known(span.rate(stats.held, before.map(|it| it.held)), Decimal),
            ],
        })
    })
}

/// The rate, and up to which others may lend to it. A limit that only others have a part of has no rate of its own.
fn limit(stats: &ShapeStats) -> String {
    match (stats.rate, stats.ceil) {
        (0, 0) => "shared".to_owned(),
        (rate, ceil) if rate == ceil => Rate(rate).to_string(),
        (rate, ceil) => format!("{}/{}", Rate(rate), Rate(ceil)),
    }
}

fn bytes(number: u64) -> Cell {
    Cell::number(number, Bytes(number))
}

fn count(number: u64) -> Cell {
    Cell::number(number, Count(number))
}
