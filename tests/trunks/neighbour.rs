//! A router of another host that is the test itself, with real TLS: it says and sends what a real one wouldn't.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tuntap_agent::{Config, Peer, PrivateKey, run};
use tuntap_sys::socket::{message_pair, recv, recv_with_descriptor, send, wait_readable};
use tuntap_wire::holding::{ClaimTime, Holding, RouterId};
use tuntap_wire::trunk::{
    Announcement, Frames, HANDED_LEN, Hello, MAX_MESSAGE_LEN, Message, Path as Passed, append_announce, append_end,
    append_pong, packet_header,
};
use tuntap_wire::vnet::VNET_HEADER_LEN;

use crate::common::netns::Net;
use crate::common::wait;
use crate::world::Keys;

/// How long a part of the stream is waited for.
const POLL: Duration = Duration::from_millis(20);

/// The neighbour, of which the router has one connection after the other.
#[derive(Debug)]
pub struct Neighbour {
    control: OwnedFd,
    pub router: RouterId,
}

/// One of these connections.
#[derive(Debug)]
pub struct Trunk(OwnedFd);

impl Neighbour {
    /// Dials a router from a host's namespace, with that host's key.
    pub fn dialling(net: &Net, keys: &Keys, own: u8, other: u8, address: SocketAddr) -> Self {
        keys.public(own);
        let key = PrivateKey::load(Path::new(&keys.file(own))).expect("a key");
        let router = key.router_id();
        let peers = vec![Peer { key: keys.public(other).parse().expect("a key"), address: Some(address) }];
        let (control, theirs) = message_pair().expect("sockets");
        let config = Config { key, peers, listeners: Vec::new(), has_bbr: false };
        // Its threads are in the namespace of the one that starts them. They end when `control` is closed.
        net.run(|| drop(std::thread::spawn(move || run(config, theirs, |_| {}))));
        Self { control, router }
    }

    /// The next connection.
    #[track_caller]
    pub fn next(&self) -> Trunk {
        assert!(wait_readable(self.control.as_fd(), wait::LONG), "a connection");
        let (_, descriptor) =
            recv_with_descriptor(self.control.as_fd(), &mut [0; HANDED_LEN + 1]).expect("a connection");
        Trunk(descriptor.expect("a descriptor"))
    }

    /// The next connection, on which this version of the protocol is spoken.
    #[track_caller]
    pub fn open(&self) -> Trunk {
        let trunk = self.next();
        trunk.say(&self.hello());
        trunk
    }

    pub fn hello(&self) -> Hello {
        Hello::new(self.router, "a test", true)
    }
}

impl Trunk {
    /// Sends a message once there is room. Returns false if there is nobody.
    #[track_caller]
    pub fn try_send(&self, message: &[u8]) -> bool {
        let deadline = Instant::now() + wait::LONG;
        loop {
            match send(self.0.as_fd(), message) {
                Err(Errno::EAGAIN) => {
                    assert!(Instant::now() < deadline, "it stays full");
                    std::thread::sleep(Duration::from_micros(100));
                }
                result => return result.is_ok(),
            }
        }
    }

    #[track_caller]
    pub fn send(&self, message: &[u8]) {
        assert!(self.try_send(message), "it is open");
    }

    /// Answers pings for a while. Returns false if the other side has closed it.
    #[track_caller]
    pub fn live(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut message = vec![0; MAX_MESSAGE_LEN];
        while Instant::now() < deadline {
            if !wait_readable(self.0.as_fd(), POLL) {
                continue;
            }
            let Ok(len @ 1..) = recv(self.0.as_fd(), &mut message) else { return false };
            for frame in Frames::new(&message[..len]) {
                if let Ok(Message::Ping(number)) = Message::decode(frame.expect("a good one")) {
                    let mut answer = Vec::new();
                    append_pong(&mut answer, number);
                    if !self.try_send(&answer) {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Says a hello, and that nothing is announced.
    #[track_caller]
    pub fn say(&self, hello: &Hello) {
        let mut message = Vec::new();
        hello.append(&mut message);
        append_end(&mut message);
        self.send(&message);
    }

    /// Announces an address that this neighbour holds.
    #[track_caller]
    pub fn announce(&self, address: impl Into<IpAddr>, holder: RouterId) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
        let since = ClaimTime(u64::try_from(now.as_millis()).expect("small"));
        let announcement = Announcement { holding: Holding { router: holder, since }, path: Passed::EMPTY };
        let mut message = Vec::new();
        append_announce(&mut message, address.into(), &announcement);
        self.send(&message);
    }

    /// Sends a packet that may cross so many trunks.
    #[track_caller]
    pub fn send_packet(&self, packet: &[u8], hops: u8) {
        let mut message = packet_header(VNET_HEADER_LEN + packet.len(), hops).expect("it fits").to_vec();
        message.extend_from_slice(&[0; VNET_HEADER_LEN]);
        message.extend_from_slice(packet);
        self.send(&message);
    }

    /// True if the other side closes it within that time, in which pings are answered.
    #[track_caller]
    pub fn is_closed(&self, within: Duration) -> bool {
        !self.live(within)
    }
}
