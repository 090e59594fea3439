//! A router's statistics as text for people.

use std::cmp::Reverse;
use std::fmt::{self, Display, Formatter};

use tuntap_api::{
    Confinement, FlowStats, KernelPathStats, LimitsReached, PeerStats, PolicyStats, PortStats, Snapshot, Totals,
};

use crate::shaped;
use crate::text::{Bytes, Count, Printable, Uptime, counted};

/// What is shown of a router.
#[derive(Debug)]
pub struct Overview<'a> {
    /// The router.
    pub snapshot: &'a Snapshot,
    /// Most peers that are listed.
    pub peers: usize,
}

impl Display for Overview<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let snapshot = self.snapshot;
        write_router(out, snapshot)?;
        write_totals(out, &snapshot.totals)?;
        write_counts(out, "events", events(&snapshot.totals))?;
        write_peers(out, &snapshot.peers, self.peers)?;
        let drops = snapshot.drops.iter().map(|(reason, packets)| (Printable(reason).to_string(), packets));
        write_counts(out, "drops, in packets, by reason", drops.collect())?;
        write_counts(out, "limits reached, times", limits(&snapshot.limits_reached))
    }
}

fn write_router(out: &mut Formatter<'_>, snapshot: &Snapshot) -> fmt::Result {
    // The C plugin's statistics have neither its device nor its version.
    let device = if snapshot.device.is_empty() { "router" } else { &snapshot.device };
    write!(out, "{}: pid {}, uid {}, gid {}", Printable(device), snapshot.pid, snapshot.uid, snapshot.gid)?;
    if !snapshot.plugin_version.is_empty() {
        write!(out, ", up {}, plugin {}", Uptime(snapshot.uptime), Printable(&snapshot.plugin_version))?;
    }
    writeln!(out, ", uWSGI {}", Printable(&snapshot.version))?;
    let mut ports = snapshot.ports.iter().map(port);
    for (label, text) in [
        ("socket", Printable(snapshot.socket.as_deref().unwrap_or_default()).to_string()),
        ("addresses", list(&snapshot.addresses)),
        ("nat", list(&snapshot.nat)),
        ("gateway", Printable(snapshot.gateway.as_deref().unwrap_or_default()).to_string()),
        ("offloads", list(&snapshot.offloads)),
        ("sandbox", sandbox(&snapshot.sandbox)),
        ("policy", policy(&snapshot.policy)),
        ("flows", flows(&snapshot.flows)),
        ("kernel", kernel_path(snapshot.kernel_path.as_ref())),
        ("uplink", shaped::lines(&snapshot.uplink).join("; ")),
        ("ports", ports.next().unwrap_or_default()),
    ] {
        if !text.is_empty() {
            writeln!(out, "  {label:<9}  {text}")?;
        }
    }
    ports.try_for_each(|text| writeln!(out, "  {:<9}  {text}", ""))
}

fn list(words: &[impl AsRef<str>]) -> String {
    words.iter().map(|word| Printable(word.as_ref()).to_string()).collect::<Vec<_>>().join(", ")
}

fn sandbox(found: &Confinement) -> String {
    let landlock = found.landlock.map(|version| format!("landlock {version}"));
    let words =
        [found.no_new_privs.then(|| "no_new_privs".to_owned()), found.seccomp.then(|| "seccomp".to_owned()), landlock];
    let words: Vec<String> = words.into_iter().flatten().chain(found.capabilities.iter().cloned()).collect();
    list(&words)
}

/// Empty for a router of an earlier version, which tells nothing of it.
fn policy(found: &PolicyStats) -> String {
    if *found == PolicyStats::default() {
        return String::new();
    }
    let PolicyStats { generation, rules, pending } = *found;
    let pending = if pending { ", a change waits for its confirmation" } else { "" };
    format!("generation {generation}, {}{pending}", counted(rules, "rule", "rules"))
}

/// Empty for a router of an earlier version.
fn flows(found: &FlowStats) -> String {
    let FlowStats { count, max, evicted } = *found;
    if max == 0 {
        return String::new();
    }
    let evicted = if evicted > 0 { format!(", {} had to make room", Count(evicted)) } else { String::new() };
    format!("{} of at most {}{evicted}", Count(count), Count(max))
}

/// Empty if there is no path in the kernel.
fn kernel_path(found: Option<&KernelPathStats>) -> String {
    let Some(KernelPathStats { pairs, verdicts, packets, bytes, watched, .. }) = found else { return String::new() };
    let watched = match watched {
        0 => String::new(),
        times => format!(", peers were watched for their cost {}", counted(*times, "time", "times")),
    };
    format!(
        "{} of {}, {} ({}) have passed there{watched}",
        counted(*verdicts, "verdict", "verdicts"),
        counted(*pairs, "pair", "pairs"),
        counted(*packets, "packet", "packets"),
        Bytes(*bytes)
    )
}

fn port(mapping: &PortStats) -> String {
    let PortStats { protocol, port, address, target_port, peer } = mapping;
    let target = std::net::SocketAddr::new(*address, *target_port);
    let holder = peer.map_or_else(|| "no peer holds the address".to_owned(), |pid| format!("pid {pid}"));
    format!("{} {port} -> {target} ({holder})", Printable(protocol))
}

fn write_totals(out: &mut Formatter<'_>, totals: &Totals) -> fmt::Result {
    writeln!(out, "\n{:<22} {:>14} {:>12}", "totals", "packets", "bytes")?;
    for (label, packets, bytes) in [
        ("from the device", totals.tun_rx_packets, totals.tun_rx_bytes),
        ("to the device", totals.tun_tx_packets, totals.tun_tx_bytes),
        ("from other routers", totals.gateway_rx_packets, totals.gateway_rx_bytes),
        ("to other routers", totals.gateway_tx_packets, totals.gateway_tx_bytes),
    ] {
        writeln!(out, "  {label:<20} {packets:>14} {:>12}", Bytes(bytes).to_string())?;
    }
    Ok(())
}

/// What happened to connections and peers, with how often it did.
fn events(totals: &Totals) -> Vec<(String, u64)> {
    [
        ("peers accepted", totals.accepted),
        ("peers taken over from a router before", totals.restored),
        ("connections turned away", totals.turned_away),
        ("peers closed for what they sent", totals.faults),
        ("devices detached", totals.detached),
        ("devices attached again", totals.attached_again),
        ("addresses claimed", totals.claims),
        ("packets rejected with a reply", totals.rejections),
        ("statistics clients refused", totals.stats_refused),
        ("connections without a descriptor left", totals.accept_failures),
    ]
    .map(|(what, times)| (what.to_owned(), times))
    .into()
}

fn write_peers(out: &mut Formatter<'_>, peers: &[PeerStats], most: usize) -> fmt::Result {
    let attached = peers.iter().filter(|peer| peer.attached).count();
    writeln!(out, "\npeers: {}, {attached} of them attached", peers.len())?;
    let mut peers: Vec<&PeerStats> = peers.iter().collect();
    peers.sort_by_key(|peer| Reverse(peer.tx.saturating_add(peer.rx)));
    let shown = &peers[..most.min(peers.len())];
    let rows: Vec<(String, &PeerStats)> = shown.iter().map(|peer| (address_of(peer), *peer)).collect();
    let width = rows.iter().map(|(address, _)| address.chars().count()).chain(["address".len()]).max().unwrap_or(0);
    if !rows.is_empty() {
        writeln!(
            out,
            "  {:<width$} {:>10} {:>10} {:>12} {:>12} {:>10} {:>12}  transport",
            "address", "pid", "uid", "from it", "to it", "drops", "queued"
        )?;
    }
    for (address, peer) in rows {
        let drops = drops_of(peer);
        let (rx, tx, queued) = (Bytes(peer.rx), Bytes(peer.tx), Bytes(peer.queued));
        write!(out, "  {address:<width$} {:>10} {:>10} ", peer.pid, peer.uid)?;
        write!(out, "{:>12} {:>12} ", rx.to_string(), tx.to_string())?;
        writeln!(out, "{drops:>10} {:>12}  {}", queued.to_string(), transport(peer))?;
        shaped::lines(&peer.shape).iter().try_for_each(|line| writeln!(out, "    {line}"))?;
    }
    match peers.len() - shown.len() {
        0 => Ok(()),
        rest => writeln!(out, "  and {rest} more (--peers)"),
    }
}

/// A peer's first address, and how many others it has.
pub fn address_of(peer: &PeerStats) -> String {
    match peer.addresses.as_slice() {
        [] if peer.addr.is_empty() => "no address".to_owned(),
        [] => Printable(&peer.addr).to_string(),
        [address] => address.to_string(),
        [address, others @ ..] => format!("{address} +{}", others.len()),
    }
}

/// Packets from or to a peer that went nowhere.
pub fn drops_of(peer: &PeerStats) -> u64 {
    let drops = peer.drops.iter().fold(0, |sum: u64, (_, packets)| sum.saturating_add(packets));
    // The C plugin counts one kind of drop only.
    drops.max(peer.dropped)
}

/// How a peer's packets travel, and why.
pub fn transport(peer: &PeerStats) -> String {
    match &peer.stream_reason {
        _ if peer.attached => "attached".to_owned(),
        Some(reason) => format!("frames: {}", Printable(reason)),
        None => "frames".to_owned(),
    }
}

fn limits(reached: &LimitsReached) -> Vec<(String, u64)> {
    let LimitsReached {
        max_peers,
        max_peers_per_uid,
        max_addresses_per_uid,
        max_unclaimed,
        unclaimed_timeout,
        max_device_rules,
    } = *reached;
    [
        ("max-peers", max_peers),
        ("max-peers-per-uid", max_peers_per_uid),
        ("max-addresses-per-uid", max_addresses_per_uid),
        ("max-unclaimed", max_unclaimed),
        ("unclaimed-timeout", unclaimed_timeout),
        ("max-device-rules", max_device_rules),
    ]
    .map(|(name, times)| (format!("tuntap-router-{name}"), times))
    .into()
}

/// Lists counts that are not 0, the greatest first.
fn write_counts(out: &mut Formatter<'_>, title: &str, mut counts: Vec<(String, u64)>) -> fmt::Result {
    counts.retain(|(_, count)| *count > 0);
    counts.sort_by_key(|(_, count)| Reverse(*count));
    let width = counts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    writeln!(out, "\n{title}{}", if counts.is_empty() { ": none" } else { "" })?;
    counts.iter().try_for_each(|(name, count)| writeln!(out, "  {name:<width$} {count:>14}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(snapshot: &Snapshot, peers: usize) -> String {
        Overview { snapshot, peers }.to_string()
    }

    #[test]
    fn peers_are_listed_by_their_traffic() {
        let peer = |pid, tx, rx| PeerStats { pid, tx, rx, ..PeerStats::default() };
        let peers = vec![peer(1, 5, 0), peer(2, u64::MAX, u64::MAX), peer(3, 3, 3)];
        let snapshot = Snapshot { peers, ..Snapshot::default() };
        let pids = |text: String| {
            let line = |line: &str| line.strip_prefix("  no address")?.split_whitespace().next().map(str::to_owned);
            text.lines().filter_map(line).collect::<Vec<_>>()
        };
        assert_eq!(pids(text(&snapshot, 20)), ["2", "3", "1"]);
        assert_eq!(pids(text(&snapshot, 2)), ["2", "3"]);
        assert!(text(&snapshot, 2).contains("and 1 more (--peers)"));
        assert!(!text(&snapshot, 3).contains("more"));
    }

    #[test]
    fn router_of_the_c_plugin_is_shown_too() {
        let peer = PeerStats { addr: "10.0.0.2".to_owned(), dropped: 3, ..PeerStats::default() };
        let snapshot = Snapshot { version: "2.0.21".to_owned(), pid: 7, peers: vec![peer], ..Snapshot::default() };
        let text = text(&snapshot, 20);
        assert!(text.starts_with("router: pid 7, uid 0, gid 0, uWSGI 2.0.21\n\ntotals"), "{text}");
        assert!(text.contains("  10.0.0.2 "), "{text}");
    }

    #[test]
    fn text_from_outside_moves_no_cursor() {
        let hostile = "a\u{1b}[2J\r\n\t\u{9b}\u{7f}\u{202e}b\u{fc}";
        let hostile = || hostile.to_owned();
        let snapshot = Snapshot {
            version: hostile(),
            plugin_version: hostile(),
            device: hostile(),
            socket: Some(hostile()),
            gateway: Some(hostile()),
            addresses: vec![hostile()],
            nat: vec![hostile()],
            offloads: vec![hostile().into()],
            ports: vec![PortStats { protocol: hostile().into(), ..PortStats::default() }],
            sandbox: Confinement { capabilities: vec![hostile()], ..Confinement::default() },
            peers: vec![PeerStats { addr: hostile(), stream_reason: Some(hostile()), ..PeerStats::default() }],
            drops: [(hostile().into(), 1)].into_iter().collect(),
            ..Snapshot::default()
        };
        let text = text(&snapshot, 20);
        assert_eq!(text.matches("\\u{1b}").count(), 13, "{text}");
        assert!(text.chars().all(|char| char == '\n' || !(char.is_control() || char == '\u{202e}')), "{text:?}");
    }
}
