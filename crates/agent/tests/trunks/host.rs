//! A host: its trunk process, and the router's ends of what it is given.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tuntap_agent::{Config, Peer, PrivateKey, RunError, run};
use tuntap_sys::socket::{BBR, has_congestion_control, message_pair, recv, recv_with_descriptor, send, wait_readable};
use tuntap_wire::trunk::{Frames, HANDED_LEN, Handed, MAX_MESSAGE_LEN, Message, PublicKey, append_ping};

/// How long something may take that happens at once, on a machine with much else to do.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a host is made of.
pub struct Host {
    pub address: SocketAddr,
    control: Option<OwnedFd>,
    notices: Arc<Mutex<Vec<String>>>,
    process: Option<JoinHandle<Result<(), RunError>>>,
}

pub fn key() -> PrivateKey {
    PrivateKey::generate().expect("random bytes")
}

pub fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

impl Host {
    pub fn start(key: &PrivateKey, peers: &[(PublicKey, Option<SocketAddr>)]) -> Self {
        Self::start_at(listener(), key, peers)
    }

    pub fn start_at(listener: TcpListener, key: &PrivateKey, peers: &[(PublicKey, Option<SocketAddr>)]) -> Self {
        let (control, theirs) = message_pair().expect("sockets");
        let address = listener.local_addr().expect("bound");
        let peers = peers.iter().map(|(key, address)| Peer { key: *key, address: *address }).collect();
        let config =
            Config { key: key.clone(), peers, listeners: vec![listener], has_bbr: has_congestion_control(BBR) };
        let notices = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&notices);
        let process = std::thread::spawn(move || {
            run(config, theirs, move |notice| log.lock().expect("no panic").push(notice.to_string()))
        });
        Self { address, control: Some(control), notices, process: Some(process) }
    }

    /// The next connection that the router is given.
    pub fn next(&self) -> (Handed, Trunk) {
        self.next_within(PATIENCE).expect("a connection")
    }

    pub fn next_within(&self, time: Duration) -> Option<(Handed, Trunk)> {
        let control = self.control.as_ref()?.as_fd();
        if !wait_readable(control, time) {
            return None;
        }
        let mut bytes = [0; HANDED_LEN + 1];
        let (len, descriptor) = recv_with_descriptor(control, &mut bytes).expect("a message");
        let handed = Handed::decode(&bytes[..len]).expect("it says what it is");
        Some((handed, Trunk(descriptor.expect("a descriptor"))))
    }

    pub fn notices(&self) -> Vec<String> {
        self.notices.lock().expect("no panic").clone()
    }

    /// Waits for a line with these words.
    pub fn wait_for(&self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.notices().iter().any(|line| line.contains(words)) {
            assert!(Instant::now() < deadline, "no {words:?} in {:#?}", self.notices());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the process, and waits for it.
    pub fn stop(&mut self) {
        self.control = None;
        let process = self.process.take().expect("it is stopped once");
        process.join().expect("no panic").expect("it ends well");
    }
}

/// The router's end of a connection.
pub struct Trunk(pub OwnedFd);

impl Trunk {
    /// Sends a message once there is room. Returns false if there is nobody.
    pub fn send(&self, message: &[u8]) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match send(self.0.as_fd(), message) {
                Ok(len) => return len == message.len(),
                Err(Errno::EAGAIN) => {
                    assert!(Instant::now() < deadline, "it stays full");
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => return false,
            }
        }
    }

    /// The next message. `None` at the end.
    pub fn receive(&self) -> Option<Vec<u8>> {
        assert!(wait_readable(self.0.as_fd(), PATIENCE), "nothing comes");
        let mut message = vec![0; MAX_MESSAGE_LEN];
        match recv(self.0.as_fd(), &mut message) {
            Ok(len) if len > 0 => Some(message[..len].to_vec()),
            _ => None,
        }
    }

    /// The next frames, as the numbers of pings.
    pub fn pings(&self) -> Option<Vec<u64>> {
        let message = self.receive()?;
        let mut frames = Frames::new(&message);
        let pings = frames.by_ref().map(|frame| match Message::decode(frame.expect("a good one")) {
            Ok(Message::Ping(number)) => number,
            other => panic!("{other:?}"),
        });
        let pings = pings.collect();
        assert!(frames.rest().is_empty(), "only whole frames");
        Some(pings)
    }

    pub fn send_ping(&self, number: u64) -> bool {
        let mut message = Vec::new();
        append_ping(&mut message, number);
        self.send(&message)
    }
}

/// Two hosts, of which the second one dials the first one, and their trunk.
pub fn pair() -> (Host, Trunk, Host, Trunk) {
    let (one, other) = (key(), key());
    let first = Host::start(&one, &[(other.public(), None)]);
    let second = Host::start(&other, &[(one.public(), Some(first.address))]);
    let (handed, first_end) = first.next();
    assert_eq!((handed.router, handed.has_dialled), (other.router_id(), false));
    let (handed, second_end) = second.next();
    assert_eq!((handed.router, handed.has_dialled, handed.address), (one.router_id(), true, first.address));
    (first, first_end, second, second_end)
}
