//! Fairness among peers that need no option: whose turn it is, and which packets towards peers wait.

use std::time::Instant;

use tuntap_wire::gso::GsoPacket;
use tuntap_wire::rule::Direction;

use super::attach::DeviceTurn;
use super::inbound::Ingress;
use super::session::Transport;
use super::shell::Shell;
use super::turns::{Turn, Work};
use super::{PACKET_BUDGET, Router};
use crate::policy::drops::DropReason;
use crate::policy::registry::PeerId;

/// Packets that are read from the TUN device in one turn while its queue doesn't become empty: as many as it has room for.
pub const BACKLOG_BUDGET: usize = 512;

impl Router {
    /// Notes that there is something to do for a peer.
    pub fn queue_turn(&mut self, peer: PeerId, work: Work) {
        self.turns.queue(peer, work);
    }

    /// Returns true if there is something to do for a peer.
    pub fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Returns what is to be done next.
    pub fn next_turn(&mut self) -> Option<Turn> {
        self.turns.next()
    }

    /// Ends a turn, which took from `start` to `end`. If `has_more` is true, the peer gets another one.
    pub fn end_turn(&mut self, turn: Turn, start: Instant, end: Instant, has_more: bool) {
        self.turns.charge_turn(turn.peer, turn.work, nanos(start, end));
        if has_more {
            self.turns.queue(turn.peer, turn.work);
        }
    }

    /// Begins a turn of the TUN device. Returns the number of packets that the shell may read in it.
    pub fn begin_tun_turn(&mut self) -> usize {
        let usual = if self.tun_has_backlog { BACKLOG_BUDGET } else { PACKET_BUDGET };
        std::mem::take(&mut self.outbound_streak).max(usual)
    }

    /// Ends a turn of the TUN device. `is_empty` says if the device had nothing more to read.
    pub const fn end_tun_turn(&mut self, is_empty: bool) {
        self.tun_has_backlog = !is_empty;
    }

    /// Returns true if the TUN device is to be read before the next turn of a peer. All packets towards the peers come by this
    /// one device, including those of a flood among vassals. If it had one turn for many peers' turns, its queue would
    /// overflow, and honest peers would receive nothing any more.
    pub const fn is_tun_turn_due(&self) -> bool {
        self.outbound_streak >= PACKET_BUDGET || self.tun_has_backlog
    }

    /// Delivers a packet that came by the TUN device. It waits if the device has more of them, and its peer has had more than its
    /// share. If it can't be delivered, it has already been counted as dropped.
    pub(super) fn deliver_in_turn(
        &mut self,
        shell: &mut impl Shell,
        peer: PeerId,
        packet: &GsoPacket<'_>,
    ) -> Result<(), DropReason> {
        if !self.has_to_wait(peer) {
            let start = self.now;
            let result = self.deliver(shell, peer, packet);
            self.turns.charge_write(peer, nanos(start, self.now));
            return result;
        }
        let result = self.held.push(peer, packet);
        match result {
            Ok(()) => self.turns.queue(peer, Work::Held),
            Err(reason) => {
                self.count_drop(Some(peer), reason);
                if self.is_watched {
                    self.report_drop(shell, Direction::In, Some(peer), packet.packet(), reason, None);
                }
            }
        }
        result
    }

    /// Frames have a queue of their own, which costs little.
    fn has_to_wait(&mut self, peer: PeerId) -> bool {
        if self.held.has(peer) {
            return true;
        }
        let is_attached =
            || self.forwarder.peers.get(peer).is_some_and(|peer| peer.session.transport == Transport::Tun);
        self.tun_has_backlog && is_attached() && self.turns.is_ahead(peer)
    }

    /// Writes packets that wait for a peer to its device. Returns true if more of them wait.
    pub fn write_held(&mut self, shell: &mut impl Shell, peer: PeerId) -> bool {
        let Some(mut queue) = self.held.take(peer) else { return false };
        let mut turn = DeviceTurn::default();
        while let Some(bytes) = queue.first().filter(|_| turn.is_open()) {
            turn.count(bytes.len(), 0);
            match GsoPacket::parse(bytes) {
                Ok(packet) => {
                    // The peer may have gone back to frames since.
                    if self.deliver(shell, peer, &packet) == Err(DropReason::TooBig) {
                        self.too_big_for_frame_inbound(shell, Ingress::Tun, peer, packet.packet());
                    }
                }
                Err(error) => self.count_drop(Some(peer), error.into()),
            }
            queue.remove_first();
        }
        let has_more = !queue.is_empty();
        self.held.put_back(peer, queue);
        has_more
    }
}

fn nanos(start: Instant, end: Instant) -> u64 {
    u64::try_from(end.saturating_duration_since(start).as_nanos()).unwrap_or(u64::MAX)
}
