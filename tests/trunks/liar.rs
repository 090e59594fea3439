//! A neighbour with a good key that says what the test likes.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tuntap_agent::{Config, Peer, PrivateKey, run};
use tuntap_sys::socket::{message_pair, recv, recv_with_descriptor, send, wait_readable};
use tuntap_wire::holding::RouterId;
use tuntap_wire::trunk::{Frames, HANDED_LEN, Hello, MAX_MESSAGE_LEN, Message, append_end, append_pong};

use crate::common::netns::Netns;
use crate::common::wait;
use crate::world::{Keys, PORT, host};

/// A trunk process without a router.
#[derive(Debug)]
pub struct Neighbour {
    pub router: RouterId,
    control: OwnedFd,
}

impl Neighbour {
    /// Dials the first host with the key of another one.
    pub fn start(keys: &Keys, number: u8, netns: &Netns) -> Self {
        keys.public(1);
        let load = |number| PrivateKey::load(Path::new(&keys.file(number))).expect("a key");
        let (key, peer) = (load(number), load(1).public());
        let (control, theirs) = message_pair().expect("sockets");
        let router = key.router_id();
        let peers = vec![Peer { key: peer, address: Some(SocketAddr::from((host(1), PORT))) }];
        let config = Config { key, peers, listeners: Vec::new(), has_bbr: false };
        netns.run(move || std::thread::spawn(move || run(config, theirs, |_| ())));
        Self { router, control }
    }

    /// The next connection.
    pub fn connected(&self) -> Trunk {
        assert!(wait_readable(self.control.as_fd(), wait::LONG), "no connection");
        let mut bytes = [0; HANDED_LEN + 1];
        let (_, descriptor) = recv_with_descriptor(self.control.as_fd(), &mut bytes).expect("a message");
        Trunk(descriptor.expect("a descriptor"))
    }

    /// The next connection, on which hellos have been said.
    pub fn open(&self) -> Trunk {
        let trunk = self.connected();
        let mut message = Vec::new();
        Hello::new(self.router, "hostile", true).append(&mut message);
        append_end(&mut message);
        assert!(trunk.send(&message));
        trunk
    }
}

/// A connection, as frames.
#[derive(Debug)]
pub struct Trunk(OwnedFd);

impl Trunk {
    /// Sends a message once there is room. Returns false if there is nobody.
    pub fn send(&self, message: &[u8]) -> bool {
        let deadline = Instant::now() + wait::LONG;
        loop {
            match send(self.0.as_fd(), message) {
                Ok(_) => return true,
                Err(Errno::EAGAIN) => {
                    assert!(Instant::now() < deadline, "it stays full");
                    std::thread::sleep(Duration::from_micros(100));
                }
                Err(_) => return false,
            }
        }
    }

    /// Answers pings for a while. Returns false if the connection has ended.
    pub fn live(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut message = vec![0; MAX_MESSAGE_LEN];
        while Instant::now() < deadline {
            if !wait_readable(self.0.as_fd(), Duration::from_millis(20)) {
                continue;
            }
            let Ok(len @ 1..) = recv(self.0.as_fd(), &mut message) else { return false };
            for frame in Frames::new(&message[..len]) {
                if let Ok(Message::Ping(number)) = Message::decode(frame.expect("a good one")) {
                    let mut answer = Vec::new();
                    append_pong(&mut answer, number);
                    if !self.send(&answer) {
                        return false;
                    }
                }
            }
        }
        true
    }
}
