//! What a router takes over from the router before it.

use std::os::fd::AsFd;
use std::thread;
use std::time::Instant;

use super::Setup;
use super::event_loop::{EventLoop, namespace_number};
use super::store::StoredState;
use tuntap_sys::log::Event;
use tuntap_sys::socket;

/// Waits before the start if the routers before this one ended soon after theirs.
pub fn pause(stored: &StoredState, setup: &Setup) {
    if !stored.pause.is_zero() {
        setup.logger.line(
            Event::RouterDelayed,
            format_args!(
                "[tuntap-router] {}: {} routers in a row ended soon after their start, waiting {} s",
                setup.tun.name(),
                stored.short_runs,
                stored.pause.as_secs()
            ),
        );
        match &setup.master {
            // The end of the master ends the pause.
            Some(master) => _ = socket::wait_readable(master.as_fd(), stored.pause),
            None => thread::sleep(stored.pause),
        }
    }
}

impl EventLoop<'_> {
    /// Restores the peers and the quarantines of the router before this one.
    pub(super) fn restore(&mut self, stored: StoredState) {
        for (offender, record) in stored.quarantine {
            self.router.restore_quarantine(offender, record);
        }
        if let Some(hung) = self.io.setup.heartbeat.take_hung_write()
            && let Some((peer, connection)) = stored.peers.iter().find(|(peer, _)| peer.serial == hung)
        {
            self.router.quarantine_after_hang(&mut self.io, peer, namespace_number(connection.as_fd()));
        }
        let found = stored.peers.len();
        for (peer, connection) in stored.peers {
            // There may be tens of thousands of peers, so the master has to see beats meanwhile.
            self.io.pulse.beat();
            if socket::is_hung_up(connection.as_fd()) {
                continue;
            }
            socket::receive_descriptors(connection.as_fd(), true);
            let namespace = namespace_number(connection.as_fd());
            let router = &mut self.router;
            self.io.with_connection(connection, |io| router.restore(io, &peer, namespace, Instant::now()));
        }
        self.take_over_hosts(stored.routes, stored.trunks);
        // The router before may have had other limits.
        self.router.want_groups_again();
        self.read_groups();
        // The first event may come late, so a turn is ended here.
        self.finish_turn();
        if found > 0 {
            let taken = self.router.counters().totals.restored;
            self.io.line(
                Event::PeersRestored,
                format_args!("{taken} of {found} vassals of the router before this one are still there"),
            );
        }
    }
}
