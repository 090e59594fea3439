//! Towards the peers: packets from the TUN device and from other routers.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::RouterError;
use super::event_loop::EventLoop;
use super::peer::Departure;
use super::queue::Flushed;
use super::token::Token;
use crate::policy::drops::DropReason;
use crate::policy::forward::{Inward, Origin};
use crate::policy::registry::PeerId;
use crate::sys::tun::Tun;

/// Packets read from the TUN device, or datagrams from the gateway, in one wake-up, before the peers get their turn.
const PACKET_BUDGET: usize = 64;

impl EventLoop<'_> {
    pub(super) fn read_tun(&mut self) -> Result<(), RouterError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.forward_from_tun(&mut buffer);
        self.buffer = buffer;
        result.map_err(|error| {
            let name = self.name().to_owned();
            if Tun::is_gone(&error) { RouterError::DeviceGone(name) } else { RouterError::Device(name, error) }
        })
    }

    fn forward_from_tun(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..PACKET_BUDGET {
            let len = match self.tun().recv(buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.totals.tun_rx_packets += 1;
            self.totals.tun_rx_bytes += len as u64;
            self.forward_inward(Origin::Tun, &buffer[..len]);
        }
        Ok(())
    }

    pub(super) fn read_gateway(&mut self) {
        let Some(gateway) = &self.setup.gateway else { return };
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..PACKET_BUDGET {
            match gateway.socket.recv(&mut buffer) {
                Ok(len) => {
                    self.totals.gateway_rx_packets += 1;
                    self.totals.gateway_rx_bytes += len as u64;
                    self.forward_inward(Origin::Gateway, &buffer[..len]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // An earlier datagram's ICMP error, say. It is gone with this read.
                Err(_) => {}
            }
        }
        self.buffer = buffer;
    }

    pub(super) fn forward_inward(&mut self, origin: Origin, packet: &[u8]) {
        let id = match self.forwarder.inward(origin, packet) {
            Inward::Peer(id) => id,
            Inward::Drop(reason, holder) => return self.count_drop(holder, reason),
        };
        let Some(peer) = self.peers.get_mut(id) else { return self.count_drop(None, DropReason::NoPeer) };
        if !peer.queue.push(packet, &mut self.spares) {
            return self.count_drop(Some(id), DropReason::QueueFull);
        }
        peer.traffic.tx_packets += 1;
        if !peer.to_flush && !peer.watches_writable {
            peer.to_flush = true;
            self.to_flush.push(id);
        }
    }

    pub(super) fn flush_peers(&mut self) {
        let mut ids = std::mem::take(&mut self.to_flush);
        for id in ids.drain(..) {
            self.flush_peer(id);
        }
        self.to_flush = ids;
    }

    pub(super) fn flush_peer(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.to_flush = false;
        let mut queue = std::mem::take(&mut peer.queue);
        let result = queue.flush(peer.as_fd(), &mut self.spares);
        peer.queue = queue;
        let (count, flushed) = match result {
            Ok(done) => done,
            Err(Errno::EPIPE | Errno::ECONNRESET) => return self.disconnect(id, Departure::Closed),
            Err(errno) => return self.disconnect(id, Departure::Socket(errno)),
        };
        peer.traffic.tx_bytes += count as u64;
        let watch = flushed == Flushed::Partly;
        if watch != peer.watches_writable {
            peer.watches_writable = watch;
            let flags = if watch { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
            let mut event = EpollEvent::new(flags, Token::Peer(id).encode());
            if let Err(errno) = self.epoll.modify(&*peer, &mut event) {
                self.disconnect(id, Departure::Socket(errno));
            }
        }
    }
}
