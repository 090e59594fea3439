//! Towards the peers: packets from the TUN device and from other routers.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::RouterError;
use super::event_loop::EventLoop;
use super::meter::Verdict;
use super::parcel::Parcel;
use super::peer::{Departure, Path};
use super::queue::Flushed;
use super::reject::Sender;
use super::token::Token;
use tuntap_core::policy::drops::DropReason;
use tuntap_core::policy::forward::{Inward, Origin};
use tuntap_core::policy::registry::PeerId;
use tuntap_sys::socket::{Datagram, recv_datagram};
use tuntap_sys::tun::Tun;
use tuntap_wire::frame::{FrameKind, HEADER_LEN};
use tuntap_wire::segment::for_each_packet;
use tuntap_wire::vnet::VNET_HEADER_LEN;

/// Packets read from the TUN device, or datagrams from the gateway, before the peers get their turn. The TUN device may
/// be read for as many as the peers have sent since its last turn.
pub(super) const PACKET_BUDGET: usize = 64;

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
        for _ in 0..std::mem::take(&mut self.outward_streak).max(PACKET_BUDGET) {
            let start = Instant::now();
            let len = match self.tun().recv(buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.work.record_read(len, start, Instant::now());
            self.totals.tun_rx_packets += 1;
            self.totals.tun_rx_bytes += len.saturating_sub(VNET_HEADER_LEN) as u64;
            self.forward_inward(Sender::Tun, Parcel::parse(&buffer[..len]));
        }
        Ok(())
    }

    pub(super) fn read_gateway(&mut self) {
        let Some(gateway) = &self.setup.gateway else { return };
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..PACKET_BUDGET {
            match recv_datagram(gateway.socket.as_fd(), &mut buffer, &mut self.control) {
                Ok(Datagram { len, source, interface }) => match self.datagram_refusal(source, interface) {
                    Some(reason) => self.count_drop(None, reason),
                    None => {
                        self.totals.gateway_rx_packets += 1;
                        self.totals.gateway_rx_bytes += len as u64;
                        self.forward_inward(Sender::Gateway(source), Parcel::finished(&buffer[..len]));
                    }
                },
                Err(Errno::EAGAIN) => break,
                // An earlier datagram's ICMP error, say. It is gone with this read.
                Err(_) => {}
            }
        }
        self.buffer = buffer;
    }

    /// Why a datagram is not another router's. What came by a router's device is a peer's, whatever its source says: the host's
    /// kernel may have let it in by a way that the check of peers' packets doesn't know.
    fn datagram_refusal(&mut self, source: SocketAddr, interface: Option<u32>) -> Option<DropReason> {
        let address = source.ip().to_canonical();
        if interface.is_some_and(|index| self.is_router_device(index))
            && !self.forwarder.is_local(address)
            && !self.forwarder.may_send_to_gateways(address)
        {
            return Some(DropReason::GatewayDevice);
        }
        (!self.is_router(source)).then_some(DropReason::GatewaySource)
    }

    /// Whether a datagram's sender is another router, as far as an address can tell. A socket for both versions shows
    /// IPv4 addresses inside of IPv6 ones (ipv6(7)).
    fn is_router(&self, source: SocketAddr) -> bool {
        self.forwarder.accepts_datagrams_of(source.ip().to_canonical())
    }

    fn forward_inward(&mut self, sender: Sender, parcel: Result<Parcel<'_>, DropReason>) {
        let parcel = match parcel {
            Ok(parcel) => parcel,
            Err(reason) => return self.count_drop(None, reason),
        };
        let origin = match sender {
            Sender::Tun => Origin::Tun,
            Sender::Gateway(_) => Origin::Gateway,
        };
        match self.forwarder.inward(origin, &parcel.packet) {
            Inward::Peer(id) => {
                if self.deliver(id, &parcel) == Err(DropReason::TooBig) {
                    self.too_big_for_frame_inward(sender, id, &parcel.packet);
                }
            }
            Inward::Drop(reason, holder) => self.count_drop(holder, reason),
            Inward::Reject(reason, holder) => {
                self.reject_inward(sender, holder, &parcel.packet);
                self.count_drop(holder, reason);
            }
        }
    }

    /// Gives a packet to the peer that the forwarder chose for it. If that fails, it is counted already.
    pub(super) fn deliver(&mut self, id: PeerId, parcel: &Parcel<'_>) -> Result<(), DropReason> {
        let limit = self.setup.limits.queued_bytes;
        let Some(peer) = self.peers.get_mut(id) else {
            self.count_drop(None, DropReason::NoPeer);
            return Err(DropReason::NoPeer);
        };
        let mut verdict = Verdict::Usual;
        let delivered = match &peer.path {
            Path::Attached(tun) => {
                let start = Instant::now();
                if peer.write_meter.is_limited(&mut self.work, start) {
                    verdict = peer.write_meter.record_dropped(&mut self.work, start);
                    Err(DropReason::QueueFull)
                } else {
                    let len = parcel.packet.bytes().len();
                    let result = self.pulse.while_writing(peer.store_serial, || parcel.send(tun));
                    verdict = peer.write_meter.record(&mut self.work, len, start, Instant::now());
                    match result {
                        Ok(()) => {
                            peer.traffic.tx_packets += 1;
                            peer.traffic.tx_bytes += (HEADER_LEN + len) as u64;
                            Ok(())
                        }
                        // That the device is gone shows when it is read.
                        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(DropReason::QueueFull),
                        Err(_) => Err(DropReason::TunRefused),
                    }
                }
            }
            Path::Stream(_) => {
                let mut result = Ok(());
                let mut scratch = std::mem::take(&mut self.scratch);
                for_each_packet(&parcel.offload, &parcel.packet, &mut scratch, |packet| {
                    match peer.queue.push(FrameKind::Packet, packet, limit, &mut self.spares) {
                        Ok(()) => peer.traffic.tx_packets += 1,
                        Err(reason) => result = Err(reason),
                    }
                });
                self.scratch = scratch;
                result
            }
        };
        self.judge(id, verdict);
        if let Err(reason) = delivered {
            self.count_drop(Some(id), reason);
        }
        self.flush_later(id);
        delivered
    }

    /// Has a peer's queue written at the end of this wake-up.
    pub(super) fn flush_later(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(id)
            && peer.queue.len() > 0
            && !peer.to_flush
            && !peer.watches_writable
        {
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
