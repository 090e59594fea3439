//! Peers that go.

use std::os::fd::AsFd;
use std::time::Instant;

use super::event_loop::EventLoop;
use super::peer::{Departure, Path};
use tuntap_core::policy::registry::PeerId;
use tuntap_sys::socket;

impl EventLoop<'_> {
    /// Removes a peer whose other end is closed already. Returns whether it was.
    pub(super) fn remove_if_dead(&mut self, id: PeerId) -> bool {
        let dead = self.peers.get(id).is_none_or(|peer| socket::is_hung_up(peer.as_fd()));
        if dead {
            self.disconnect(id, Departure::Closed);
        }
        dead
    }

    /// Ends a connection and frees its address.
    pub(super) fn disconnect(&mut self, id: PeerId, departure: Departure) {
        let (address, account) = (self.forwarder.address(id), self.forwarder.account(id));
        self.forwarder.remove_peer(id);
        let Some(peer) = self.peers.remove(id) else { return };
        self.admission.leave(id, account);
        if let Some(serial) = peer.store_serial {
            // The store has a copy of the descriptor.
            socket::shut_down(peer.as_fd());
            self.strike_out(serial);
        }
        // Closing is enough unless another process has the same socket, as after a fork in a credentials hook.
        let _ = self.epoll.delete(&peer);
        if let Path::Attached(tun) = peer.path {
            // Its vassal has a copy of the descriptor, which would go on waking us.
            let _ = self.epoll.delete(&tun);
            self.closer.close(tun.into());
        }
        if let Some(waiting) = peer.waiting {
            let (_, tun) = *waiting;
            self.closer.close(tun.into());
        }
        let now = Instant::now();
        let (name, pid, uid) = (self.name(), peer.credentials.pid, peer.credentials.uid);
        match (address, departure) {
            (Some(address), _) => self.peer_log.line(
                now,
                account,
                format_args!("[tuntap-router] {name}: peer {address} left (pid {pid}, uid {uid}): {departure}"),
            ),
            (None, Departure::Closed) => {}
            (None, _) => self.fault_log.line(
                now,
                account,
                format_args!("[tuntap-router] {name}: peer without address ended (pid {pid}, uid {uid}): {departure}"),
            ),
        }
        if departure.is_fault() {
            self.totals.faults += 1;
        }
    }
}
