//! What the router tells: lines in the log, counters, statistics.

use std::net::Ipv4Addr;
use std::time::Instant;

use nix::unistd;

use super::event_loop::EventLoop;
use super::peer::Path;
use super::stats::{PeerStats, Snapshot};
use crate::policy::drops::DropReason;
use crate::policy::registry::PeerId;

impl EventLoop<'_> {
    /// Takes note of a peer that got its address.
    pub(super) fn log_claim(&mut self, id: PeerId, address: Ipv4Addr) {
        self.totals.claims += 1;
        self.admission.claimed(id);
        let Some(peer) = self.peers.get(id) else { return };
        let (name, pid, uid) = (self.name(), peer.credentials.pid, peer.credentials.uid);
        self.peer_log
            .line(Instant::now(), format_args!("[tuntap-router] {name}: peer {address} joined (pid {pid}, uid {uid})"));
    }

    /// Once for each address that a peer tries to take.
    pub(super) fn log_refused_claim(&mut self, id: PeerId, address: Ipv4Addr, now: Instant) {
        let name = self.name();
        let Some(peer) = self.peers.get_mut(id) else { return };
        if peer.refused_claim.replace(address) != Some(address) {
            let (pid, uid) = (peer.credentials.pid, peer.credentials.uid);
            self.fault_log.line(
                now,
                format_args!(
                    "[tuntap-router] {name}: address {address} is held by another peer, \
                     dropping packets with it from pid {pid}, uid {uid}"
                ),
            );
        }
    }

    pub(super) fn count_drop(&mut self, id: Option<PeerId>, reason: DropReason) {
        self.drops.count(reason);
        if let Some(peer) = id.and_then(|id| self.peers.get_mut(id)) {
            peer.traffic.drops.count(reason);
        }
    }

    pub(super) fn serve_stats(&mut self, client: Option<u32>) {
        let Some(mut server) = self.stats.take() else { return };
        let now = Instant::now();
        let json = |minified| self.snapshot(now).to_json(minified);
        let result = match client {
            Some(serial) => {
                server.progress(serial, &self.epoll, now, &json);
                Ok(())
            }
            None => server.accept(&self.epoll, now, &json),
        };
        self.stats = Some(server);
        if let Err(errno) = result {
            self.pause_accepting(now, errno);
        }
    }

    fn snapshot(&self, now: Instant) -> Snapshot<'_> {
        let peers = self.peers.iter().map(|(id, peer)| {
            let (addr, addr_32) = PeerStats::address_forms(self.forwarder.address(id));
            let traffic = &peer.traffic;
            let (attached, offloads, stream_reason) = match &peer.path {
                Path::Attached(_) => (true, peer.offloads.names(), None),
                Path::Stream(reason) => (false, Vec::new(), Some(reason.to_string())),
            };
            PeerStats {
                addr,
                addr_32,
                uid: peer.credentials.uid,
                gid: peer.credentials.gid,
                pid: peer.credentials.pid,
                tx: traffic.tx_bytes,
                rx: traffic.rx_bytes,
                dropped: traffic.dropped(),
                tx_packets: traffic.tx_packets,
                rx_packets: traffic.rx_packets,
                queued: peer.queue.len(),
                attached,
                offloads,
                stream_reason,
                rules: self.forwarder.rules_count(id),
                drops: &traffic.drops,
            }
        });
        Snapshot {
            version: &self.setup.host_version,
            pid: unistd::getpid().as_raw(),
            uid: unistd::getuid().as_raw(),
            gid: unistd::getgid().as_raw(),
            cwd: std::env::current_dir().map_or_else(|_| String::new(), |path| path.to_string_lossy().into_owned()),
            peers: peers.collect(),
            plugin_version: env!("CARGO_PKG_VERSION"),
            device: self.name(),
            offloads: self.tun().offloads().names(),
            socket: &self.setup.socket_name,
            gateway: self.setup.gateway.as_ref().map(|gateway| gateway.address.to_string()),
            uptime: now.saturating_duration_since(self.started).as_secs(),
            totals: &self.totals,
            limits_reached: &self.limits_reached,
            drops: &self.drops,
        }
    }
}
