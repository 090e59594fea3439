//! What the router tells: lines in the log, counters, statistics.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::unistd;

use super::CredentialsCheck;
use super::event_loop::EventLoop;
use super::meter::Cost;
use super::peer::{Path, StreamReason};
use super::stats::{drop_counts, words};
use super::stats_server::{ACCEPT_BUDGET, StatsServer};
use tuntap_api::{PeerStats, PortStats, Snapshot};
use tuntap_config::PortMapping;
use tuntap_core::policy::drops::DropReason;
use tuntap_core::policy::registry::PeerId;
use tuntap_sys::socket::{PeerCredentials, arrival};
use tuntap_wire::autoconf::RefusedWish;

impl EventLoop<'_> {
    /// Takes note of a peer that got its address.
    pub(super) fn log_claim(&mut self, id: PeerId, address: IpAddr) {
        self.totals.claims += 1;
        self.admission.claimed(id);
        let Some(peer) = self.peers.get(id) else { return };
        let (name, pid, uid) = (self.name(), peer.credentials.pid, peer.credentials.uid);
        self.peer_log.line(
            Instant::now(),
            self.forwarder.account(id),
            format_args!("[tuntap-router] {name}: peer {address} joined (pid {pid}, uid {uid})"),
        );
    }

    /// Once for each address that a peer tries to take.
    pub(super) fn log_refused_claim(&mut self, id: PeerId, address: IpAddr, now: Instant) {
        let (name, account) = (self.name(), self.forwarder.account(id));
        let Some(peer) = self.peers.get_mut(id) else { return };
        if peer.refused_claim.replace(address) != Some(address) {
            let (pid, uid) = (peer.credentials.pid, peer.credentials.uid);
            self.fault_log.line(
                now,
                account,
                format_args!(
                    "[tuntap-router] {name}: address {address} is held by another peer, \
                     dropping packets with it from pid {pid}, uid {uid}"
                ),
            );
        }
    }

    /// Once for each address that a peer tries to take.
    pub(super) fn log_not_leased(&mut self, id: PeerId, address: IpAddr, now: Instant) {
        let (name, account) = (self.name(), self.forwarder.account(id));
        let shows_nothing = matches!(self.setup.credentials, CredentialsCheck::Off);
        let Some(peer) = self.peers.get_mut(id) else { return };
        if peer.refused_claim.replace(address) != Some(address) {
            let PeerCredentials { pid, uid, gid } = peer.credentials;
            let hint = if shows_nothing && uid == 0 {
                " (it connected as root: with tuntap-use-credentials, in the router and in the vassal, it shows whom it \
                 will become)"
            } else {
                ""
            };
            self.fault_log.line(
                now,
                account,
                format_args!(
                    "[tuntap-router] {name}: address {address} is not leased to uid {uid}, gid {gid}, \
                     dropping packets with it from pid {pid}{hint}"
                ),
            );
        }
    }

    /// Once for each address that a peer tries to take.
    pub(super) fn log_unclaimable(&mut self, id: PeerId, address: IpAddr, reason: DropReason, now: Instant) {
        let who = self.describe(id);
        let (name, account) = (self.name(), self.forwarder.account(id));
        let Some(peer) = self.peers.get_mut(id) else { return };
        if peer.refused_claim.replace(address) == Some(address) {
            return;
        }
        let why = if reason == DropReason::AddressShare {
            "its user holds as many as one may (tuntap-router-max-addresses-per-uid)"
        } else {
            "it is in none of the router's networks, or the host's own, a gateway's, or a mapped port's (tuntap-router-claims = any \
             allows addresses elsewhere, tuntap-router-lease a certain one)"
        };
        self.fault_log.line(
            now,
            account,
            format_args!(
                "[tuntap-router] {name}: {who} can't have the address {address}, dropping packets with it: {why}"
            ),
        );
    }

    /// Once for each peer.
    pub(super) fn log_to_gateway(&mut self, id: PeerId, destination: IpAddr, now: Instant) {
        let who = self.describe(id);
        let (name, account) = (self.name(), self.forwarder.account(id));
        let Some(peer) = self.peers.get_mut(id) else { return };
        if !std::mem::replace(&mut peer.to_gateway_logged, true) {
            self.fault_log.line(
                now,
                account,
                format_args!(
                    "[tuntap-router] {name}: {who} sends to the gateway of a router at {destination}: dropping such packets, \
                     unless tuntap-router-gateway-vassal names its address"
                ),
            );
        }
    }

    /// What a peer asked for and didn't get. It asks some times at most.
    pub(super) fn log_refusals(&mut self, id: PeerId, refused: &[RefusedWish]) {
        let who = self.describe(id);
        let (name, account) = (self.name(), self.forwarder.account(id));
        for RefusedWish { wish, reason, .. } in refused {
            self.fault_log.line(
                Instant::now(),
                account,
                format_args!("[tuntap-router] {name}: {who} asked for {wish} and doesn't get it: {reason}"),
            );
        }
    }

    /// Once for each peer.
    pub(super) fn log_late_rules(&mut self, id: PeerId) {
        let who = self.describe(id);
        let (name, account) = (self.name(), self.forwarder.account(id));
        let Some(peer) = self.peers.get_mut(id) else { return };
        if !std::mem::replace(&mut peer.late_rules_logged, true) {
            self.fault_log.line(
                Instant::now(),
                account,
                format_args!(
                    "[tuntap-router] {name}: {who} sent other rules after its first packet: they have no effect, those \
                     from before do. New rules take effect on a new connection, as a vassal makes when it reloads with others"
                ),
            );
        }
    }

    /// Rules can come as often as a peer likes before its first packet; the log's limit is enough.
    pub(super) fn log_refused_target(&mut self, id: PeerId, target: SocketAddr) {
        let who = self.describe(id);
        let (name, account) = (self.name(), self.forwarder.account(id));
        self.fault_log.line(
            Instant::now(),
            account,
            format_args!(
                "[tuntap-router] {name}: {who} has a rule that routes to {target}, which is no target of a \
                 tuntap-router-route here: dropping packets that match it. To allow it: tuntap-router-device-route = {target}"
            ),
        );
    }

    /// Once for each peer, as long as it is attached.
    pub(super) fn log_limited(&mut self, id: PeerId, cost: Cost) {
        let who = self.describe(id);
        let (name, account) = (self.name(), self.forwarder.account(id));
        self.fault_log.line(
            Instant::now(),
            account,
            format_args!(
                "[tuntap-router] {name}: {who} is limited, some packets to it are dropped: packets take too much time in its \
                 network namespace ({cost})"
            ),
        );
    }

    /// A peer's device is not read and written here for some time.
    pub(super) fn log_detached(&mut self, id: PeerId, cost: Cost, period: Duration) {
        let who = self.describe(id);
        let (name, account) = (self.name(), self.forwarder.account(id));
        self.fault_log.line(
            Instant::now(),
            account,
            format_args!(
                "[tuntap-router] {name}: {who} goes back to frames for {} s: {} ({cost})",
                period.as_secs(),
                StreamReason::SlowWrites
            ),
        );
    }

    /// Its time in frames is over.
    pub(super) fn log_attached_again(&mut self, id: PeerId) {
        let who = self.describe(id);
        let (name, account) = (self.name(), self.forwarder.account(id));
        self.fault_log.line(Instant::now(), account, format_args!("[tuntap-router] {name}: {who} is attached again"));
    }

    /// A peer, for the log.
    fn describe(&self, id: PeerId) -> String {
        let address = self.forwarder.address(id).map(|address| format!(" {address}")).unwrap_or_default();
        let Some(peer) = self.peers.get(id) else { return format!("peer{address}") };
        format!("peer{address} (pid {}, uid {})", peer.credentials.pid, peer.credentials.uid)
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
        let result = match client {
            Some(serial) => {
                server.progress(serial, &self.epoll, now, &|minified| self.snapshot(now).to_json(minified));
                Ok(())
            }
            None => self.accept_stats_clients(&mut server, now),
        };
        self.stats = Some(server);
        if let Err(errno) = result {
            self.pause_accepting(now, errno);
        }
    }

    /// An address lets everybody in who can reach it, and peers reach the host's: they are not to read of each other.
    fn accept_stats_clients(&mut self, server: &mut StatsServer<'_>, now: Instant) -> nix::Result<()> {
        for _ in 0..ACCEPT_BUDGET {
            let Some(client) = server.accept()? else { break };
            if self.may_be_peer(client.as_fd()) {
                self.totals.stats_refused += 1;
                continue;
            }
            server.add(client, &self.epoll, now, &|minified| self.snapshot(now).to_json(minified));
        }
        Ok(())
    }

    /// Whether a TCP client comes by a router's device, or from an address that is a peer's or could be.
    fn may_be_peer(&mut self, client: BorrowedFd<'_>) -> bool {
        let Some((source, interface)) = arrival(client) else { return false };
        let address = source.ip().to_canonical();
        !self.forwarder.is_local(address)
            && (self.forwarder.may_be_peers(address) || interface.is_some_and(|index| self.is_router_device(index)))
    }

    fn port_stats(&self, mapping: &PortMapping) -> PortStats {
        let address = mapping.target.ip();
        let holder = self.forwarder.holder(address).and_then(|id| self.peers.get(id));
        PortStats {
            protocol: mapping.protocol.as_str().into(),
            port: mapping.port,
            address,
            target_port: mapping.target.port(),
            peer: holder.map(|peer| peer.credentials.pid),
        }
    }

    fn snapshot(&self, now: Instant) -> Snapshot {
        let peers = self.peers.iter().map(|(id, peer)| {
            let addresses: Vec<IpAddr> = self.forwarder.addresses(id).collect();
            let (addr, addr_32) = PeerStats::address_forms(addresses.first().copied());
            let traffic = &peer.traffic;
            let (attached, offloads, stream_reason) = match &peer.path {
                Path::Attached(_) => (true, words(peer.offloads.names()), None),
                Path::Stream(reason) => (false, Vec::new(), Some(reason.to_string())),
            };
            PeerStats {
                addr,
                addr_32,
                addresses,
                uid: peer.credentials.uid,
                gid: peer.credentials.gid,
                pid: peer.credentials.pid,
                tx: traffic.tx_bytes,
                rx: traffic.rx_bytes,
                dropped: traffic.dropped(),
                tx_packets: traffic.tx_packets,
                rx_packets: traffic.rx_packets,
                queued: peer.queue.len() as u64,
                attached,
                offloads,
                stream_reason,
                rules: self.forwarder.rules(id).len() as u64,
                drops: drop_counts(&traffic.drops),
            }
        });
        Snapshot {
            version: self.setup.host_version.clone(),
            pid: unistd::getpid().as_raw(),
            uid: unistd::getuid().as_raw(),
            gid: unistd::getgid().as_raw(),
            cwd: std::env::current_dir().map_or_else(|_| String::new(), |path| path.to_string_lossy().into_owned()),
            peers: peers.collect(),
            plugin_version: env!("CARGO_PKG_VERSION").to_owned(),
            device: self.name().to_owned(),
            offloads: words(self.tun().offloads().names()),
            socket: self.setup.socket_name.clone(),
            gateway: self.setup.gateway.as_ref().map(|gateway| gateway.address.to_string()),
            addresses: self.setup.spec.addresses.iter().map(ToString::to_string).collect(),
            nat: self.setup.spec.nat.clone(),
            ports: self.setup.spec.ports.iter().map(|mapping| self.port_stats(mapping)).collect(),
            uptime: now.saturating_duration_since(self.started).as_secs(),
            priority: self.priority.clone(),
            sandbox: self.confinement.clone(),
            totals: self.totals.clone(),
            limits_reached: self.limits_reached.clone(),
            drops: drop_counts(&self.drops),
        }
    }
}
