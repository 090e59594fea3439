//! From the peers: frames, and where their packets go.

use std::io::ErrorKind;
use std::net::SocketAddrV4;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;

use super::event_loop::EventLoop;
use super::peer::{Departure, Stage};
use crate::policy::drops::DropReason;
use crate::policy::forward::Outward;
use crate::policy::registry::PeerId;
use crate::sys::socket;
use crate::wire::frame::{Frame, FrameKind, Frames};
use crate::wire::greeting::frames_start;
use crate::wire::rule;

impl EventLoop<'_> {
    pub(super) fn read_peer(&mut self, id: PeerId) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = match self.peers.get(id).map(|peer| peer.stage) {
            Some(Stage::Credentials) => self.read_credentials(id),
            Some(Stage::Start | Stage::Frames) => self.read_frames(id, &mut buffer),
            None => Ok(()),
        };
        self.buffer = buffer;
        if let Err(departure) = result {
            self.disconnect(id, departure);
        }
    }

    fn read_frames(&mut self, id: PeerId, buffer: &mut [u8]) -> Result<(), Departure> {
        let Some(peer) = self.peers.get_mut(id) else { return Ok(()) };
        let partial_len = peer.partial.len();
        buffer[..partial_len].copy_from_slice(&peer.partial);
        let count = match socket::recv(peer.as_fd(), &mut buffer[partial_len..]) {
            Ok(0) => return Err(Departure::Closed),
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(Departure::Socket(errno)),
        };
        peer.traffic.rx_bytes += count as u64;
        let bytes = &buffer[..partial_len + count];
        let start = match peer.stage {
            Stage::Start => frames_start(bytes)?,
            Stage::Credentials | Stage::Frames => Some(0),
        };
        let mut frames = Frames::new(match start {
            Some(start) => {
                peer.stage = Stage::Frames;
                &bytes[start..]
            }
            None => &[],
        });
        for frame in frames.by_ref() {
            self.handle_frame(id, frame?)?;
        }
        if let Some(peer) = self.peers.get_mut(id) {
            peer.partial = if start.is_some() { frames.rest() } else { bytes }.to_vec();
        }
        Ok(())
    }

    fn handle_frame(&mut self, id: PeerId, frame: Frame<'_>) -> Result<(), Departure> {
        match frame.kind {
            FrameKind::Packet => self.forward_outward(id, frame.payload),
            FrameKind::Rules => {
                let rules = rule::decode_all(frame.payload).ok_or(Departure::Rules(frame.payload.len()))?;
                self.forwarder.set_rules(id, rules);
            }
            FrameKind::Other(_) => self.count_drop(Some(id), DropReason::UnknownFrame),
        }
        Ok(())
    }

    fn forward_outward(&mut self, id: PeerId, packet: &[u8]) {
        let mut verdict = self.forwarder.outward(id, packet);
        if let Outward::Contested { holder, .. } = verdict.to
            && self.remove_if_dead(holder)
        {
            verdict = self.forwarder.outward(id, packet);
        }
        if let Some(address) = verdict.claimed {
            self.log_claim(id, address);
        }
        let sent = match verdict.to {
            Outward::Tun => self.send_to_tun(packet),
            Outward::Gateway(target) => self.send_to_gateway(target, packet),
            Outward::Drop(reason) => Err(reason),
            Outward::Contested { address, .. } => {
                self.log_refused_claim(id, address, Instant::now());
                Err(DropReason::AddressHeld)
            }
        };
        match sent {
            Ok(()) => {
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.traffic.rx_packets += 1;
                }
            }
            Err(reason) => self.count_drop(Some(id), reason),
        }
    }

    /// The kernel's refusals are the packet's end, not the router's: EIO while the device is down, EINVAL for what
    /// it can't parse, ENOBUFS without memory. That the device is gone shows when it is read.
    pub(super) fn send_to_tun(&mut self, packet: &[u8]) -> Result<(), DropReason> {
        loop {
            match self.tun().send(packet) {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(DropReason::TunRefused),
            }
        }
        self.totals.tun_tx_packets += 1;
        self.totals.tun_tx_bytes += packet.len() as u64;
        Ok(())
    }

    fn send_to_gateway(&mut self, target: SocketAddrV4, packet: &[u8]) -> Result<(), DropReason> {
        let gateway = self.setup.gateway.as_ref().ok_or(DropReason::NoGateway)?;
        gateway.socket.send_to(packet, target).map_err(|_| DropReason::GatewayRefused)?;
        self.totals.gateway_tx_packets += 1;
        self.totals.gateway_tx_bytes += packet.len() as u64;
        Ok(())
    }
}
