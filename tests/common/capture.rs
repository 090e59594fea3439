//! Captures packets of an interface, without tcpdump.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
};

use super::netns::Net;

const RECEIVE_BUFFER: usize = 4 << 20;

/// A packet socket in a namespace that yields what one interface receives.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
    interface: usize,
}

impl Capture {
    /// Sees what the router writes into its device, which is what the kernel receives from it.
    pub fn received_on(net: &Net, device: &str) -> Self {
        let (socket, interface) = net.run(|| {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)
                .expect("root may open packet sockets");
            (socket, if_nametoindex(device).expect("the captured device exists"))
        });
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).expect("root may enlarge the buffer");
        Self { socket, interface: usize::try_from(interface).expect("an index fits") }
    }

    /// The next packet, if one comes in time.
    pub fn next(&self, within: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).expect("deadlines are short");
            let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, timeout) == Ok(0) {
                return None;
            }
            if let Some(packet) = self.take() {
                return Some(packet);
            }
        }
    }

    /// Everything that comes before the first packet that `last` accepts. Packets keep their order, so what was
    /// sent before that one and is not among these was dropped.
    #[track_caller]
    pub fn until(&self, within: Duration, last: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + within;
        let mut packets = Vec::new();
        loop {
            match self.next(deadline.saturating_duration_since(Instant::now())) {
                Some(packet) if last(&packet) => return packets,
                Some(packet) => packets.push(packet),
                None => panic!("the awaited packet did not come in {within:?}; {} others did", packets.len()),
            }
        }
    }

    fn take(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
            Ok((length, Some(from))) => {
                let sent = from.pkttype() == libc::PACKET_OUTGOING;
                buffer.truncate(length);
                (from.ifindex() == self.interface && !sent).then_some(buffer)
            }
            Ok((_, None)) | Err(Errno::EAGAIN | Errno::EINTR) => None,
            Err(error) => panic!("reading the packet socket: {error}"),
        }
    }
}
