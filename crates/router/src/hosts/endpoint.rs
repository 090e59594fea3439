//! Where the host's routing daemon connects.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::super::control::Documents;
use super::super::store::Store;
use super::kept::LeftRoutes;
use tuntap_sys::socket::set_receive_buffer;
use tuntap_sys::socket::tcp::{set_md5_key, set_no_delay};

/// The receive buffer of connections, which have it from their listener, in bytes. A part of a message is left in it, and on the
/// loopback device it may be the rest of a segment of 64 KiB, which takes room until it is read to its end. In a buffer of the
/// usual size the kernel would not let the daemon send the other part then.
const RECEIVE_BUFFER: usize = 1 << 20;

/// A listener, and memory that outlives the router. The master makes both before the fork, and keeps them.
#[derive(Debug)]
pub struct RoutesEndpoint {
    /// Listening, non-blocking.
    listener: TcpListener,
    /// What a router had yet to send when it died.
    unsent: Documents,
}

/// Why there is no listener.
#[derive(Debug)]
pub enum EndpointError {
    /// The address can't be bound.
    Bind(io::Error),
    /// The kernel takes no password.
    Password(io::Error),
}

impl fmt::Display for EndpointError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(error) => error.fmt(formatter),
            Self::Password(error) => write!(formatter, "the kernel signs no TCP connections (TCP_MD5SIG): {error}"),
        }
    }
}

impl RoutesEndpoint {
    /// Listens. With a password, only signed connections come in from the daemon's address, and others are refused by their address.
    pub fn bind(address: SocketAddr, from: IpAddr, password: Option<&[u8]>) -> Result<Self, EndpointError> {
        let listener = TcpListener::bind(address).map_err(EndpointError::Bind)?;
        listener.set_nonblocking(true).map_err(EndpointError::Bind)?;
        set_receive_buffer(listener.as_fd(), RECEIVE_BUFFER);
        set_no_delay(listener.as_fd()).map_err(|errno| EndpointError::Bind(errno.into()))?;
        let unsent = Documents::new().map_err(|errno| EndpointError::Bind(errno.into()))?;
        let this = Self { listener, unsent };
        password.map_or(Ok(()), |password| this.sign(from, password))?;
        Ok(this)
    }

    /// Goes on with the listener of an image before this one. The session of its router is left in the store, where the next router
    /// finds it. `None` if it is another listener than it is meant to be.
    pub fn adopt(left: LeftRoutes, address: SocketAddr, store: &Store) -> Option<Self> {
        let LeftRoutes { listener, unsent, session } = left;
        let listener = TcpListener::from(listener);
        if listener.local_addr().ok()? != address {
            return None;
        }
        if let Some((session, connection)) = session {
            // Without room for it the connection is closed, and the daemon makes another one.
            let _ = store.leave_routes(&session, connection.as_fd());
        }
        Some(Self { listener, unsent })
    }

    /// Sets the password of connections that come from an address from now on.
    pub fn sign(&self, from: IpAddr, password: &[u8]) -> Result<(), EndpointError> {
        set_md5_key(self.listener.as_fd(), from, password).map_err(EndpointError::Password)
    }

    /// The listener.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The memory.
    pub const fn unsent(&self) -> &Documents {
        &self.unsent
    }

    /// Returns the descriptors that have to stay open.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.listener.as_fd()).chain(self.unsent.descriptors())
    }

    /// The listener and the memory.
    pub(super) fn into_parts(self) -> (OwnedFd, Documents) {
        (self.listener.into(), self.unsent)
    }
}
