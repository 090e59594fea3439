//! To other routers: packets as UDP datagrams.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use super::event_loop::EventLoop;
use super::parcel::Parcel;
use crate::policy::drops::DropReason;
use crate::policy::registry::PeerId;
use crate::sys::socket::path_mtu;
use crate::wire::answer::{self, too_big};
use crate::wire::ip::Packet;
use crate::wire::segment::for_each_packet;

/// Bytes of IPv4 and UDP header around a packet.
const TUNNEL_HEADERS_LEN: u16 = 28;

/// What is known of the ways to other routers.
#[derive(Debug, Default)]
pub struct PathMtus(HashMap<SocketAddrV4, (Option<u16>, Instant)>);

impl PathMtus {
    /// How long an answer of the kernel counts. It knows more once an ICMP message has come.
    const LIFETIME: Duration = Duration::from_secs(5);

    /// Most targets that are remembered. Peers can name targets in their rules.
    const MAX: usize = 256;

    /// Longest packet that travels to a target as one datagram, in bytes. `None` if the kernel doesn't know.
    fn longest_packet(&mut self, target: SocketAddrV4, now: Instant) -> Option<u16> {
        match self.0.get(&target) {
            Some((mtu, asked)) if now.saturating_duration_since(*asked) < Self::LIFETIME => *mtu,
            _ => {
                if self.0.len() >= Self::MAX {
                    self.0.clear();
                }
                let mtu = ask_kernel(target).ok().map(|mtu| mtu.saturating_sub(TUNNEL_HEADERS_LEN));
                self.0.insert(target, (mtu, now));
                mtu
            }
        }
    }
}

/// A socket has a path only once it is connected.
fn ask_kernel(target: SocketAddrV4) -> io::Result<u16> {
    let probe = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    probe.connect(target)?;
    path_mtu(&probe)
}

impl EventLoop<'_> {
    /// Sends a peer's packet to another router. If it is too long to travel in one datagram and must not be cut, its
    /// sender is told how long it may be; else the kernel cuts the datagram.
    pub(super) fn send_to_gateway(
        &mut self,
        id: PeerId,
        target: SocketAddrV4,
        parcel: &Parcel<'_>,
    ) -> Result<(), DropReason> {
        let gateway = self.setup.gateway.as_ref().ok_or(DropReason::NoGateway)?;
        let longest = self.path_mtus.longest_packet(target, Instant::now());
        let mut result = Ok(());
        let mut message = None;
        for_each_packet(&parcel.offload, &parcel.packet, &mut self.scratch, |bytes| {
            let too_long = longest.filter(|mtu| bytes.len() > usize::from(*mtu) && parcel.packet.must_not_fragment());
            if let Some(mtu) = too_long {
                result = Err(DropReason::TooBig);
                if message.is_none() {
                    let from = Some(*gateway.address.ip()).filter(|ip| !ip.is_unspecified());
                    let about = Packet::parse(bytes).ok();
                    message =
                        about.and_then(|packet| too_big(&packet, mtu, answer::source(from.map(Into::into), &packet)));
                }
                return;
            }
            match gateway.socket.send_to(bytes, target) {
                Ok(_) => {
                    self.totals.gateway_tx_packets += 1;
                    self.totals.gateway_tx_bytes += bytes.len() as u64;
                }
                Err(_) => result = Err(DropReason::GatewayRefused),
            }
        });
        if let Some(message) = message
            && let Ok(parcel) = Parcel::finished(&message)
        {
            self.deliver(id, &parcel);
        }
        result
    }
}
