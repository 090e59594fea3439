//! A router socket that the test answers itself, to see what a vassal writes.

use std::io::ErrorKind;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use super::raw_peer::RawPeer;
use super::wait;

#[derive(Debug)]
pub struct FakeRouter {
    listener: UnixListener,
}

impl FakeRouter {
    pub fn bind(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).expect("the fake router's socket can be bound");
        listener.set_nonblocking(true).expect("a listener can be made non-blocking");
        // Accepted sockets inherit it: a message that comes at once must not lose its credentials.
        setsockopt(&listener, sockopt::PassCred, &true).expect("SO_PASSCRED can be set");
        Self { listener }
    }

    /// The next vassal that connects.
    #[track_caller]
    pub fn accept(&self, within: Duration) -> RawPeer {
        let stream = wait::until("a vassal connects", within, || match self.listener.accept() {
            Ok((stream, _)) => Some(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("accept: {error}"),
        });
        stream.set_nonblocking(false).expect("a stream can be made blocking");
        RawPeer::over(stream)
    }
}
