//! Trunks to routers of other hosts, with their sockets: [`tuntap_core::trunk`] has none.
//!
//! The trunk process ([`tuntap_wire::trunk`]) has the connections themselves. It hands a socket for each neighbour to the router,
//! by which whole frames go. These sockets lie in the store, so that the next router goes on with open trunks.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::super::event_loop::EventLoop;
use super::super::shell::{Io, fault};
use super::super::token::Token;
use tuntap_core::router::{Fault, TrunkSettings};
use tuntap_core::trunk::{Sent, TrunkId};
use tuntap_sys::socket::{self, message_pair};
use tuntap_wire::holding::RouterId;
use tuntap_wire::trunk::{HANDED_LEN, Handed};

/// Connections that are taken from the trunk process in one turn.
const HANDED_BUDGET: usize = 16;

/// Messages that are read from a trunk in one turn. One has up to 128 KiB and few frames ([`tuntap_wire::trunk::MAX_MESSAGE_FRAMES`]),
/// so that a turn costs about as much as one of a device.
const MESSAGE_BUDGET: usize = 4;

/// What a router needs for trunks. The master makes it before the fork, and keeps it.
#[derive(Debug)]
pub struct TrunkEndpoint {
    /// The router's end of the socket by which it gets connections.
    control: OwnedFd,
    /// The neighbours, and what they are told of the router itself.
    pub settings: TrunkSettings,
}

impl TrunkEndpoint {
    /// Makes the socket. Returns the end of the trunk process, too.
    pub fn new(settings: TrunkSettings) -> nix::Result<(Self, OwnedFd)> {
        let (control, other) = message_pair()?;
        Ok((Self { control, settings }, other))
    }

    /// The router's end.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

/// The socket of a trunk.
#[derive(Debug)]
struct Connection {
    fd: OwnedFd,
    /// True if it is reported once it has room.
    waits_for_room: bool,
}

/// The sockets of all trunks.
#[derive(Debug, Default)]
pub struct TrunkSockets {
    /// By [`TrunkId::index`].
    connections: Vec<Option<Connection>>,
}

impl TrunkSockets {
    fn get(&self, trunk: TrunkId) -> Option<&Connection> {
        self.connections.get(trunk.index())?.as_ref()
    }

    fn get_mut(&mut self, trunk: TrunkId) -> Option<&mut Connection> {
        self.connections.get_mut(trunk.index())?.as_mut()
    }

    /// The socket of a trunk.
    pub fn socket(&self, trunk: TrunkId) -> Option<BorrowedFd<'_>> {
        Some(self.get(trunk)?.fd.as_fd())
    }
}

impl Io<'_> {
    /// Sends a message on a trunk.
    pub(in super::super) fn send_on_trunk(&mut self, trunk: TrunkId, parts: &[&[u8]]) -> Sent {
        let Some(connection) = self.trunks.get(trunk) else { return Sent::Closed };
        loop {
            return match socket::send_parts(connection.fd.as_fd(), parts) {
                Ok(_) => Sent::All,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => match self.watch_room(trunk, true) {
                    Ok(()) => Sent::Full,
                    Err(_) => Sent::Closed,
                },
                Err(_) => Sent::Closed,
            };
        }
    }

    /// Takes the socket that is being reported to the router as that of a trunk.
    pub(in super::super) fn open_on_trunk(&mut self, trunk: TrunkId) -> Result<(), Fault> {
        let fd = self.take_pending().ok_or_else(|| fault(Errno::EBADF))?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Trunk(trunk).encode());
        self.epoll.add(&fd, event).map_err(fault)?;
        let connections = &mut self.trunks.connections;
        if connections.len() <= trunk.index() {
            connections.resize_with(trunk.index() + 1, || None);
        }
        connections[trunk.index()] = Some(Connection { fd, waits_for_room: false });
        Ok(())
    }

    /// Closes the socket of a trunk.
    pub(in super::super) fn close_on_trunk(&mut self, trunk: TrunkId) {
        if let Some(connection) = self.trunks.connections.get_mut(trunk.index()).and_then(Option::take) {
            // The store has a copy, so that closing would not end the events.
            let _ = self.epoll.delete(&connection.fd);
            socket::shut_down(connection.fd.as_fd());
        }
    }

    /// Starts or stops reporting that a trunk's socket has room.
    fn watch_room(&mut self, trunk: TrunkId, wanted: bool) -> nix::Result<()> {
        let Some(connection) = self.trunks.get_mut(trunk) else { return Err(Errno::EBADF) };
        if connection.waits_for_room == wanted {
            return Ok(());
        }
        let flags = if wanted { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        self.epoll.modify(&connection.fd, &mut EpollEvent::new(flags, Token::Trunk(trunk).encode()))?;
        connection.waits_for_room = wanted;
        Ok(())
    }
}

impl EventLoop<'_> {
    /// Takes connections with neighbours from the trunk process.
    pub(in super::super) fn take_trunks(&mut self) {
        let Some(endpoint) = &self.io.setup.hosts.trunks else { return };
        let mut message = [0; HANDED_LEN + 1];
        for _ in 0..HANDED_BUDGET {
            match socket::recv_with_descriptor(endpoint.control(), &mut message) {
                Ok((len @ 1.., Some(descriptor))) => {
                    let Some(handed) = Handed::decode(&message[..len]) else { continue };
                    let router = &mut self.router;
                    self.io.with_connection(descriptor, |io| router.trunk_connected(io, handed.router, Instant::now()));
                }
                Ok((1.., None)) | Err(Errno::EINTR) => {}
                // The master has the other end, too, so that it is never closed.
                Ok((0, _)) | Err(_) => return,
            }
        }
    }

    /// An event of a trunk's socket.
    pub(in super::super) fn trunk_event(&mut self, trunk: TrunkId, flags: EpollFlags) {
        if flags.contains(EpollFlags::EPOLLOUT) && self.io.watch_room(trunk, false).is_ok() {
            self.router.trunk_writable(trunk, Instant::now());
        }
        if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            self.router.queue_trunk_turn(trunk);
        }
    }

    /// Reads a trunk's socket. Returns true if it may have more.
    pub(in super::super) fn read_trunk(&mut self, trunk: TrunkId) -> bool {
        for _ in 0..MESSAGE_BUDGET {
            let Some(connection) = self.io.trunks.socket(trunk) else { return false };
            let now = Instant::now();
            match socket::recv(connection, &mut self.buffer) {
                Ok(len @ 1..) => {
                    #[cfg(feature = "faults")]
                    tuntap_sys::faults::point("router");
                    self.router.trunk_message(&mut self.io, trunk, &self.buffer[..len], now);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return false,
                Ok(0) | Err(_) => {
                    self.router.trunk_closed(&mut self.io, trunk, now);
                    return false;
                }
            }
        }
        self.io.trunks.socket(trunk).is_some()
    }

    /// Goes on with trunks that the router before this one had open.
    pub(super) fn take_over_trunks(&mut self, trunks: Vec<(RouterId, u16, OwnedFd)>) {
        for (neighbour, version, descriptor) in trunks {
            if socket::is_hung_up(descriptor.as_fd()) {
                continue;
            }
            let router = &mut self.router;
            self.io.with_connection(descriptor, |io| router.trunk_resumed(io, neighbour, version, Instant::now()));
        }
    }
}
