//! The statistics: a snapshot of the router, and who may read it.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::unistd;

use super::event_loop::EventLoop;
use super::stats::{drop_counts, words};
use super::stats_server::{ACCEPT_BUDGET, Respond, StatsServer};
use tuntap_api::control;
use tuntap_api::{
    ElsewhereStats, FlowStats, KernelPathStats, PeerStats, PolicyStats, PortStats, RoutesStats, ShapeStats, Shaped,
    Snapshot, SourceStats,
};
use tuntap_config::PortMapping;
use tuntap_core::elsewhere::Source;
use tuntap_core::kernel_path::MAX_VERDICTS;
use tuntap_core::policy::shape::Limit;
use tuntap_core::router::{PeerView, Router};
use tuntap_core::shaper::LeafStats;
use tuntap_sys::socket::arrival;
use tuntap_wire::rule::Direction;

const HTTP_HEAD: &[u8] = b"HTTP/1.0 200 OK\r\nConnection: close\r\nAccess-Control-Allow-Origin: *\r\n\
    Content-Type: application/json\r\n\r\n";

impl EventLoop<'_> {
    /// Serves clients of the statistics: one that can be read or written, or new ones.
    pub(super) fn serve_stats(&mut self, client: Option<u32>) {
        let Some(mut server) = self.stats.take() else { return };
        self.serve(&mut server, client, Self::stats_response);
        self.stats = Some(server);
    }

    /// The statistics as clients get them, with the head of an HTTP response if they have sent a request. What it says doesn't
    /// matter, as in the C plugin.
    fn stats_response(&self, request: Option<&[u8]>, now: Instant) -> Vec<u8> {
        let minified = self.io.setup.stats.as_ref().is_some_and(|stats| stats.minified);
        let mut response = request.map(|_| HTTP_HEAD.to_vec()).unwrap_or_default();
        response.append(&mut self.snapshot(now).to_json(minified));
        response
    }

    /// Serves clients of an endpoint: one that can be read or written, or new ones.
    pub(super) fn serve(
        &mut self,
        server: &mut StatsServer<'_>,
        client: Option<u32>,
        respond: impl Fn(&Self, Option<&[u8]>, Instant) -> Vec<u8>,
    ) {
        let now = Instant::now();
        // A response that was made already stays as it is.
        if client.is_none_or(|serial| server.awaits_response(serial)) {
            self.router.count_kernel_usage(&mut self.io);
        }
        if let Some(serial) = client {
            return server.progress(serial, &self.io.epoll, now, &|request| respond(self, request, now));
        }
        for _ in 0..ACCEPT_BUDGET {
            match server.accept() {
                Ok(None) => return,
                // Peers can reach the machine's addresses, but must not read the statistics of each other.
                Ok(Some(client)) if self.refuses_client(client.as_fd(), now) => {}
                Ok(Some(client)) => {
                    let respond: Respond<'_> = &|request| respond(self, request, now);
                    server.add(client, &self.io.epoll, now, respond);
                }
                Err(errno) => return self.accept_failed(errno),
            }
        }
    }

    fn refuses_client(&mut self, client: BorrowedFd<'_>, now: Instant) -> bool {
        let Some((source, interface)) = arrival(client) else { return false };
        self.router.refuses_client(&mut self.io, source.ip(), interface, now)
    }

    pub(super) fn snapshot(&self, now: Instant) -> Snapshot {
        self.snapshot_with(self.router.peers().map(|peer| peer_stats(&self.router, peer)).collect(), now)
    }

    /// The statistics, with peers that were asked for before.
    pub(super) fn snapshot_with(&self, peers: Vec<PeerStats>, now: Instant) -> Snapshot {
        let (setup, counters) = (self.io.setup, self.router.counters());
        Snapshot {
            version: setup.uwsgi_version.clone(),
            pid: unistd::getpid().as_raw(),
            uid: unistd::getuid().as_raw(),
            gid: unistd::getgid().as_raw(),
            cwd: std::env::current_dir().map_or_else(|_| String::new(), |path| path.to_string_lossy().into_owned()),
            peers,
            plugin_version: env!("CARGO_PKG_VERSION").to_owned(),
            device: self.io.name().to_owned(),
            offloads: words(self.io.tun().offloads().names()),
            socket: setup.socket_name.clone(),
            gateway: setup.gateway.as_ref().map(|gateway| gateway.address.to_string()),
            addresses: setup.spec.addresses.iter().map(ToString::to_string).collect(),
            nat: setup.spec.nat.clone(),
            ports: setup.spec.ports.iter().map(|mapping| self.port_stats(mapping)).collect(),
            uptime: now.saturating_duration_since(self.started).as_secs(),
            priority: self.priority.clone(),
            sandbox: self.confinement.clone(),
            policy: PolicyStats { generation: self.router.forwarder().policy().generation, ..self.policy.clone() },
            flows: self.flow_stats(),
            uplink: uplink(&self.router),
            elsewhere: elsewhere(&self.router),
            routes: self.routes_stats(now),
            trunks: self.trunk_stats(now),
            kernel_path: kernel_path(&self.router),
            totals: counters.totals.clone(),
            limits_reached: counters.limits_reached.clone(),
            drops: drop_counts(&counters.drops),
        }
    }

    fn routes_stats(&self, now: Instant) -> Option<RoutesStats> {
        self.hosts.as_ref().and_then(|hosts| hosts.routes.as_ref()).map(|routes| routes.stats(now))
    }

    /// How the exchange of claims with other hosts stands, and who holds some addresses.
    pub(super) fn routes(&self, addresses: &[IpAddr]) -> control::Routes {
        let holders = addresses.iter().map(|address| {
            let elsewhere = self.router.elsewhere().holder(*address).map(|told| control::HolderElsewhere {
                router: told.holding.router.to_string(),
                since: told.holding.since.0,
                source: told.source.to_string(),
            });
            let here = self.router.forwarder().holding(*address).map(|holding| holding.since.0);
            control::Holders { address: *address, here, elsewhere }
        });
        control::Routes {
            routes: self.routes_stats(Instant::now()),
            elsewhere: elsewhere(&self.router),
            holders: holders.collect(),
        }
    }

    fn flow_stats(&self) -> FlowStats {
        let (count, max) = self.router.flow_counts();
        FlowStats { count: count as u64, max: max as u64, evicted: self.router.evicted_flows() }
    }

    fn port_stats(&self, mapping: &PortMapping) -> PortStats {
        let address = mapping.target.ip();
        let holder = self.router.forwarder().holder(address).and_then(|id| self.router.peer(id));
        PortStats {
            protocol: mapping.protocol.as_str().into(),
            port: mapping.port,
            address,
            target_port: mapping.target.port(),
            peer: holder.map(|peer| peer.credentials().pid),
        }
    }
}

/// What passes in the kernel; `None` if nothing can.
fn kernel_path(router: &Router) -> Option<KernelPathStats> {
    let (counts, verdicts) = router.path_counts();
    router.has_kernel_path().then(|| KernelPathStats {
        pairs: router.peers().filter(|peer| peer.verdicts().is_some()).count() as u64,
        verdicts: verdicts as u64,
        max_verdicts: MAX_VERDICTS as u64,
        given: counts.given,
        refused: counts.refused,
        revoked: counts.revoked,
        watched: counts.watched,
        packets: counts.packets,
        bytes: counts.bytes,
    })
}

/// What is known of the claims on other hosts; `None` if the router has no id among theirs.
fn elsewhere(router: &Router) -> Option<ElsewhereStats> {
    let (elsewhere, counters) = (router.elsewhere(), router.counters());
    let source =
        |(source, holdings): (Source, usize)| SourceStats { source: source.to_string(), holdings: holdings as u64 };
    let refused = elsewhere.refused();
    elsewhere.own().map(|own| ElsewhereStats {
        router: own.to_string(),
        sources: elsewhere.sources().map(source).collect(),
        refused: counters.refused_elsewhere,
        lost: counters.lost_elsewhere,
        clock_ahead: refused.ahead,
        no_room: refused.no_room,
        own_id: refused.own,
    })
}

/// What the limit of all peers together has done.
fn uplink(router: &Router) -> Shaped {
    let side = |direction| shaped(router.uplink(direction).map(|(limit, stats)| (Some(limit), stats)).into_iter());
    Shaped { out: side(Direction::Out), inn: side(Direction::In) }
}

/// Adds up what several queues have done. The limit is that of the first one that has one.
fn shaped(queues: impl Iterator<Item = (Option<Limit>, LeafStats)>) -> Option<ShapeStats> {
    let mut sum = None;
    for (limit, stats) in queues {
        let sum: &mut ShapeStats = sum.get_or_insert_default();
        if let Some(limit) = limit.filter(|_| sum.rate == 0) {
            (sum.rate, sum.ceil) = (limit.rate, limit.most());
        }
        sum.waiting_packets += stats.packets;
        sum.waiting_bytes += stats.bytes;
        sum.delay_us = sum.delay_us.max(stats.delay / 1000);
        sum.sent_bytes += stats.sent;
        sum.borrowed_bytes += stats.borrowed;
        sum.dropped_full += stats.full;
        sum.dropped_late += stats.late;
        sum.marked += stats.marked;
        sum.held += stats.held;
    }
    sum
}

/// What the statistics say about a peer.
pub fn peer_stats(router: &Router, peer: PeerView<'_>) -> PeerStats {
    let addresses: Vec<IpAddr> = peer.addresses().collect();
    let (addr, addr_32) = PeerStats::address_forms(addresses.first().copied());
    let (credentials, traffic) = (peer.credentials(), peer.traffic());
    let (attached, offloads, stream_reason) = match peer.offloads() {
        Ok(names) => (true, words(names), None),
        Err(reason) => (false, Vec::new(), Some(reason.to_string())),
    };
    PeerStats {
        addr,
        addr_32,
        addresses,
        uid: credentials.uid,
        gid: credentials.gid,
        pid: credentials.pid,
        tx: traffic.tx_bytes,
        rx: traffic.rx_bytes,
        dropped: traffic.dropped(),
        tx_packets: traffic.tx_packets,
        rx_packets: traffic.rx_packets,
        queued: peer.queued(),
        attached,
        offloads,
        stream_reason,
        rules: peer.rules() as u64,
        drops: drop_counts(&traffic.drops),
        verdicts: peer.verdicts().map(|count| count as u64),
        shape: Shaped {
            out: shaped(router.queues(peer.id(), Direction::Out)),
            inn: shaped(router.queues(peer.id(), Direction::In)),
        },
    }
}
